"""The limits of the machine, measured in the same run, and the roofline of a call."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import platform
import shlex
import subprocess
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.shapes import Work
from ms_dsv32 import kernel_impl

_ISAS = Path(__file__).parents[1] / "ms_dsv32" / "kernel_impl" / "cpu" / "isas.json"
"""The flags that the kernels are compiled with."""


@dataclass(frozen=True)
class Limits:
    """Best measured rates of all threads together: DRAM reads, and products by type."""

    read_gbps: float
    bf16_gmacs: float
    int8_gmacs: float


def memory_seconds(work: Work, limits: Limits) -> float:
    return work.bytes / (limits.read_gbps * 1e9)


def compute_seconds(work: Work, limits: Limits) -> float:
    """The time of all products. Both types of product use the same units of a core, so their times add up."""
    return work.bf16_macs / (limits.bf16_gmacs * 1e9) + work.int8_macs / (limits.int8_gmacs * 1e9)


def roofline(work: Work, limits: Limits, *, cached: bool = False) -> float:
    """The fewest seconds that a call can take: ``max(memory, compute)``, because the two can overlap.

    ``memory = bytes / read_gbps``, where writes are counted as reads. It is left out for data that is in the caches.
    ``compute = bf16_macs / bf16_gmacs + int8_macs / int8_gmacs``. Norms, RoPE, exp, quantisation, dequantisation and
    top-k are not counted.
    """
    return max(0.0 if cached else memory_seconds(work, limits), compute_seconds(work, limits))


def l3_bytes() -> int:
    """Size of all last-level caches of the process's CPUs together, or 32 MiB if the system does not tell."""
    sizes: dict[str, int] = {}  # by the CPUs that share a cache
    for cpu in os.sched_getaffinity(0):
        caches = Path(f"/sys/devices/system/cpu/cpu{cpu}/cache").glob("index*")
        last = max(
            (p for p in caches if (p / "size").is_file()), key=lambda p: int((p / "level").read_text()), default=None
        )
        if last is not None:
            text = (last / "size").read_text().strip()
            size = int(text.rstrip("KM")) * {"K": 2**10, "M": 2**20}.get(text[-1], 1)
            sizes[(last / "shared_cpu_list").read_text().strip()] = size
    return sum(sizes.values()) or 2**25


class Probe:
    """The compiled probe.cc with its buffers, which live as long as the probe.

    Args:
        threads: how many threads read and multiply, by default the kernels' own count.
        isa: the instruction set that is measured, by default the one whose kernels run.

    Raises:
        RuntimeError: no C++ compiler (environment variable ``CXX``, default g++).
    """

    def __init__(self, threads: int = 0, isa: str = "") -> None:
        self.threads = threads or kernel_impl.thread_count()
        self.isa = isa or kernel_impl.isa()
        self._library = _library(self.isa)
        self.bytes = -(-max(4 * l3_bytes(), 2**27) // 2**21) * 2**21
        self._buffers: dict[str, int] = {}

    def throughput(self, repeats: int = 5, seconds: float = 0.0) -> dict[str, float]:
        """GMAC/s by type of product, bf16 and int8: the best of several bursts of a millisecond, or of `seconds`."""
        rate = self._library.ProbeThroughput
        kinds = enumerate(("bf16", "int8"))
        return {kind: rate(i, self.threads, repeats, ctypes.c_double(seconds)) for i, kind in kinds}

    def round_trip(self) -> float | None:
        """Nanoseconds of a round trip of a cache line between the first core and the one farthest from it.

        None with one thread, or with one CPU for all threads, because there is no other core then.
        """
        cores = min(self.threads, len(os.sched_getaffinity(0)))
        return max((self._library.ProbeRoundTrip(core) for core in range(1, cores)), default=None)

    def flush(self, pages: str = "huge") -> float:
        """Reads a buffer of four times the last-level cache, at least 128 MiB, and returns GB/s.

        This removes everything else from the caches. `pages` is "4K" or "huge".
        """
        if pages not in self._buffers:
            buffer = self._library.ProbeBuffer(ctypes.c_size_t(self.bytes), int(pages == "huge"))
            if not buffer:
                raise MemoryError(f"probe: no memory for a buffer of {self.bytes} bytes")
            self._buffers[pages] = buffer
            weakref.finalize(self, self._library.ProbeFree, ctypes.c_void_p(buffer))
        buffer = ctypes.c_void_p(self._buffers[pages])
        return 1e-9 * self.bytes / float(self._library.ProbeRead(buffer, ctypes.c_size_t(self.bytes), self.threads))


@functools.cache
def _library(isa: str) -> ctypes.CDLL:
    source = Path(__file__).with_name("probe.cc")
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "probe.so"
        isa_flags = json.loads(_ISAS.read_text())[platform.machine()][isa]
        flags = ["-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-Wno-psabi", *isa_flags]
        try:
            subprocess.run(
                [*compiler, *flags, str(source), "-o", str(target)], check=True, capture_output=True, text=True
            )
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise RuntimeError(f"probe: cannot compile {source.name}: {getattr(error, 'stderr', error)}") from error
        library = ctypes.CDLL(str(target))
    for name in ("ProbeThroughput", "ProbeRead", "ProbeRoundTrip"):
        getattr(library, name).restype = ctypes.c_double
    library.ProbeBuffer.restype = ctypes.c_void_p
    return library


def machine() -> dict[str, Any]:
    """What the numbers were measured on: CPU, its instruction sets, threads, memory, versions."""
    return {
        "cpu": _cpu_name(),
        "architecture": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "l3_bytes": l3_bytes(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "flags": _cpu_flags(),
        "isa": kernel_impl.isa(),
        "isas": kernel_impl.isas(),
        "threads": kernel_impl.thread_count(),
        "load": os.getloadavg(),  # at the start: beside other work, static thread pools look far worse
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": _versions(("numpy", "mindspore", "torch", "ms_dsv32")),
    }


def describe(machine: Mapping[str, Any]) -> str:
    """One line for tables and plots."""
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    return f"{machine['cpu']}, {machine['threads']} threads, {machine['isa']}; {versions}"


def _cpuinfo() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    pairs = [line.split(":", 1) for line in lines if ":" in line]
    return {key.strip(): value.strip() for key, value in reversed(pairs)}


def _cpu_name() -> str:
    info = _cpuinfo()
    if "model name" in info:
        return f"{info['model name']} (family {info.get('cpu family', '?')}, model {info.get('model', '?')})"
    return f"implementer {info.get('CPU implementer', '?')}, part {info.get('CPU part', '?')}"


def _cpu_flags() -> list[str]:
    info = _cpuinfo()
    wanted = ("avx", "fma", "f16c", "amx", "asimd", "bf16", "i8mm", "sve", "fphp")
    return [f for f in (info.get("flags") or info.get("Features", "")).split() if any(w in f for w in wanted)]


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
