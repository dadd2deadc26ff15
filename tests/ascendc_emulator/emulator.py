"""Compiles AscendC kernels against the host emulator and launches them with NumPy arrays. See README.md."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
FLAGS = (
    "-std=c++17",
    "-O1",  # compiles faster than -O2 and runs as fast
    "-ftree-vectorize",
    "-fvect-cost-model=dynamic",
    "-march=native",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-fPIC",
    "-pthread",
)
# Find overflows of pointer arithmetic, misalignment and the like. One test runs the kernels with these.
SANITIZE = ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")  # compiling takes longest
KERNEL_TYPES = {"AIV_ONLY": 0, "AIC_ONLY": 1, "MIX_AIV_1_0": 2, "MIX_AIC_1_0": 3, "MIX_AIC_1_1": 4, "MIX_AIC_1_2": 5}
FLAG_MODES = {"bits": 0, "counts": 1}
_ROLES = {"in": 0, "absent": 0, "out": 1, "inout": 2, "workspace": 3, "tiling": 4}


class EmulatorError(AssertionError):
    """A launch that the emulator found at fault."""


@dataclass
class Arg:
    """One GM_ADDR argument. `array` is updated in place for the roles out, inout and workspace.

    `misalign` puts the tensor so many bytes after a multiple of 512. With `own` the array's memory itself is the
    tensor, without a copy, a redzone or poison: for arrays that are larger than the machine's memory.
    """

    name: str
    array: np.ndarray
    role: str
    misalign: int = 0
    own: bool = False


def In(name: str, array: np.ndarray, misalign: int = 0, own: bool = False) -> Arg:  # noqa: N802 - reads like a type
    """An input: a write to it is an error."""
    return Arg(name, np.ascontiguousarray(array), "in", misalign, own)


def Absent(name: str) -> Arg:  # noqa: N802
    """An optional input that is left out: the kernel gets a null pointer."""
    return Arg(name, np.empty(0, np.uint8), "absent")


def Out(name: str, shape: int | Sequence[int], dtype: Any, misalign: int = 0) -> Arg:  # noqa: N802
    """An output: poisoned with 0xCD before the launch, and no undefined value may be written to it."""
    return Arg(name, np.empty(shape, dtype), "out", misalign)


def InOut(name: str, array: np.ndarray, misalign: int = 0, own: bool = False) -> Arg:  # noqa: N802
    """A tensor that is updated in place, like a cache. `array` must be contiguous, and receives the result."""
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} is not contiguous")
    return Arg(name, array, "inout", misalign, own)


def Workspace(size: int) -> Arg:  # noqa: N802
    """The user's part of the workspace, in bytes. The kernel reaches it through GetUserWorkspace."""
    return Arg("workspace", np.empty(max(size, 1), np.uint8), "workspace")


def Tiling(data: bytes | np.ndarray) -> Arg:  # noqa: N802
    """The tiling data as the kernel's struct has it in memory."""
    raw = (
        np.frombuffer(bytes(data), np.uint8)
        if isinstance(data, bytes | bytearray)
        else np.ascontiguousarray(data).view(np.uint8)
    )
    return Arg("tiling", raw, "tiling")


@dataclass
class Finding:
    """One fault: its kind, message and core, the line of the kernel's source, and how often it occurred (`count`)."""

    kind: str
    message: str
    core: str
    file: str
    line: int
    count: int

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file else ""
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"{place}{self.kind}: {self.message} [{self.core}]{times}"


@dataclass
class Report:
    """What a launch did. `modelled` holds the cycle model's figures, which are modelled and not measured."""

    errors: list[Finding]
    instructions: dict[str, int]
    modelled: dict[str, Any] = field(default_factory=dict)

    def check(self) -> Report:
        """Raises EmulatorError with all findings, if there are any."""
        if self.errors:
            raise EmulatorError("\n".join(str(error) for error in self.errors))
        return self


@dataclass(frozen=True)
class GmCosts:
    """Costs on which public sources do not agree: the latency of a copy to or from GM in cycles, the cycles until the
    next copy may be issued, and what HBM gives in GB/s. See cycles.h."""

    latency: float
    issue: float
    hbm_gb_per_s: float


OPTIMISTIC = GmCosts(500, 24, 1600)
PESSIMISTIC = GmCosts(1400, 80, 970)


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_uint64),
        ("role", ctypes.c_int),
        ("misalign", ctypes.c_uint64),
        ("own", ctypes.c_int),
    )


class _Options(ctypes.Structure):
    _fields_ = (
        ("blocks", ctypes.c_int),
        ("kernel_type", ctypes.c_int),
        ("workers", ctypes.c_int),
        ("hazards", ctypes.c_int),
        ("cycles", ctypes.c_int),
        ("seed", ctypes.c_uint64),
        ("timeout", ctypes.c_double),
        ("tiling_key", ctypes.c_int64),
        ("soc", ctypes.c_char_p),
        ("trace", ctypes.c_char_p),
        ("gm_latency", ctypes.c_double),
        ("gm_issue", ctypes.c_double),
        ("hbm_gb_per_s", ctypes.c_double),
        ("flags", ctypes.c_int),
        ("first_block", ctypes.c_int),
    )


def cache_directory() -> Path:
    """The directory of compiled kernels: MS_DSV32_EMULATOR_CACHE, else a directory of this user in scratch space."""
    given = os.environ.get("MS_DSV32_EMULATOR_CACHE")
    path = Path(given) if given else Path(tempfile.gettempdir()) / f"ascendc_emulator-{os.getuid()}"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def building(target: Path) -> Iterator[None]:
    """Lets one process at a time make a target of `cache_directory`. The others wait and find it there."""
    with open(target.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def compiler() -> list[str]:
    """The words of CXX, as for setup.py."""
    return shlex.split(os.environ.get("CXX", "g++"))


def last_flags() -> list[str]:
    """The words of CXXFLAGS, which come after all other flags, as for setup.py."""
    return shlex.split(os.environ.get("CXXFLAGS", ""))


def syntax_check(
    source: str, include_dirs: Iterable[Path] = (), flags: Iterable[str] = (), cxx: str = ""
) -> subprocess.CompletedProcess[str]:
    """Compiles kernel text without making code, to test what must and what must not compile."""
    includes = [f"-I{path}" for path in (HERE, *include_dirs)]
    return subprocess.run(
        [*([cxx] if cxx else compiler()), "-std=c++17", "-fsyntax-only", *flags, "-x", "c++", *includes, "-"],
        input=source,
        text=True,
        capture_output=True,
        check=False,
        cwd=cache_directory(),  # with --coverage GCC writes a file there
    )


def build(
    source: Path | str,
    kernels: Sequence[str],
    include_dirs: Iterable[Path] = (),
    defines: Mapping[str, str] | None = None,
    sanitize: bool | None = None,
) -> Library:
    """Compiles `source` (a file, or text if it has a line break) with launchers for `kernels`, or finds it compiled.

    The key is the content of the source, of the headers beside it and in `include_dirs`, the emulator, and the flags.
    `sanitize` adds ASan and UBSan; None asks the environment (MS_DSV32_EMULATOR_SANITIZE=1).
    """
    if sanitize is None:
        sanitize = os.environ.get("MS_DSV32_EMULATOR_SANITIZE") == "1"
    text = str(source) if "\n" in str(source) else Path(source).read_text(encoding="utf-8")
    directories = [Path(path) for path in include_dirs]
    if "\n" not in str(source):
        directories.append(Path(source).resolve().parent)
    directories = list(dict.fromkeys(directories))
    flags = [*FLAGS, *(SANITIZE if sanitize else ()), *(f"-D{k}={v}" for k, v in (defines or {}).items())]
    flags += last_flags()
    digest = hashlib.sha256("\0".join([text, *compiler(), *flags, *kernels]).encode())
    for directory in (HERE, *directories):
        for path in sorted([*directory.glob("*.h"), *directory.glob("*.cpp")]):
            digest.update(str(path).encode() + b"\0" + path.read_bytes())  # reports name the path
    target = cache_directory() / f"{'_'.join(kernels)[:60]}-{digest.hexdigest()[:20]}.so"
    with building(target):
        if not target.exists():
            body = (
                f'#line 1 "{kernels[0]}.cpp"\n{text}'
                if "\n" in str(source)
                else f'#include "{Path(source).resolve()}"\n'
            )
            body += '\n#include "launch.h"\n' + "".join(f"ASCENDC_EMULATOR_ENTRY({kernel})\n" for kernel in kernels)
            made = target.with_suffix(f".{os.getpid()}.tmp")
            command = [
                *compiler(),
                *flags,
                *(f"-I{path}" for path in (HERE, *directories)),
                "-x",
                "c++",
                "-",
                "-shared",
                "-o",
                str(made),
            ]
            result = subprocess.run(command, input=body, text=True, capture_output=True, check=False)
            if result.returncode:
                raise RuntimeError(f"{' '.join(kernels)} does not compile:\n{result.stderr}")
            made.replace(target)
    return Library(target, kernels)


class Library:
    """A compiled source with one or more kernels."""

    def __init__(self, path: Path, kernels: Sequence[str]) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self.kernels = tuple(kernels)

    def launch(
        self,
        kernel: str,
        args: Sequence[Arg],
        blocks: int = 1,
        kernel_type: str = "MIX_AIC_1_2",
        seed: int = 0,
        workers: int = 0,
        hazards: bool = True,
        cycles: bool = True,
        tiling_key: int = 0,
        soc: str = "910B1",
        trace: Path | str | None = None,
        timeout: float = 120.0,
        gm: GmCosts = OPTIMISTIC,
        flags: str = "bits",
        first_block: int = 0,
    ) -> Report:
        """Runs `kernel` on `blocks` AI cores and returns the report. Outputs are in the arrays of `args`.

        Seed 0 executes every instruction when it is issued. Another seed executes the pipes in a random legal order,
        the same for the same seed. Then `flags` says what happens to an event that is set again before its wait has
        run: with "bits" the second set is lost, with "counts" the flag counts. `workers` cores run at the same time
        (0: as many as this process may use, at most 4). `first_block` is the number of the first AI core that runs. A
        launch may have more cores than are run, as long as those that run wait for none of the others.
        """
        if kernel not in self.kernels:
            raise ValueError(f"{kernel} is not in {self.kernels}")
        buffers = (_Buffer * len(args))()
        for buffer, arg in zip(buffers, args, strict=True):
            buffer.name = arg.name.encode()
            buffer.data = arg.array.ctypes.data if arg.role != "absent" else None
            buffer.size = arg.array.nbytes
            buffer.role = _ROLES[arg.role]
            buffer.misalign = arg.misalign
            buffer.own = arg.own
        if workers == 0:
            workers = min(4, len(os.sched_getaffinity(0)))
        options = _Options(
            blocks,
            KERNEL_TYPES[kernel_type],
            workers,
            hazards,
            cycles,
            seed,
            timeout,
            tiling_key,
            soc.encode(),
            str(trace).encode() if trace is not None else None,
            gm.latency,
            gm.issue,
            gm.hbm_gb_per_s,
            FLAG_MODES[flags],
            first_block,
        )
        run = getattr(self._library, f"ascendc_emulator_launch_{kernel}")
        run.restype = ctypes.c_void_p
        run.argtypes = (ctypes.POINTER(_Buffer), ctypes.c_int, ctypes.POINTER(_Options))
        free = getattr(self._library, f"ascendc_emulator_free_{kernel}")
        free.argtypes = (ctypes.c_void_p,)
        text = run(buffers, len(args), ctypes.byref(options))
        try:
            report = json.loads(ctypes.string_at(text).decode())
        finally:
            free(text)
        return Report(
            [Finding(**error) for error in report["errors"]],
            {k: int(v) for k, v in report["instructions"].items()},
            report.get("modelled", {}),
        )
