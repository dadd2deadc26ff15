"""What is measured: how it is compiled with counters, and which tests run on it."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import core_check

from cover import counters
from cover.counters import ROOT, Coverage

BUILD = ROOT / "build" / "coverage"
CPU = ROOT / "ms_dsv32" / "kernel_impl" / "cpu"
CXX = [*shlex.split(os.environ.get("CXX", "g++")), "--coverage", "-fprofile-update=atomic"]
"""Compiles with counters; threads share them."""
AS_WRITTEN = ["-fno-early-inlining", "-fdisable-tree-early_optimizations"]
"""Turns off passes that come before GCC's counters and would move branches to other lines."""
QUICKLY = ["-O1"]
"""Compiles kernels with counters within minutes."""
NOT_INLINE = ["-Dalways_inline=unused", "-Wno-psabi"]
"""What is inlined is counted at its own lines. Intrinsics are spelt __always_inline__, and stay as they are."""


class Target(ABC):
    """A set of sources with the tests that are to run all of it."""

    sources: ClassVar[tuple[str, ...]]
    """Regular expressions for their paths in the checkout."""
    tests: tuple[str, ...]
    """Arguments of pytest."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = BUILD / name

    def measure(self, tests: Sequence[str] = (), workers: int = 2) -> Coverage:
        """Compiles, runs the tests, or those that are given instead, and reads what they ran.

        Raises:
            RuntimeError: something does not compile, or a test fails.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        environment = self.prepare()
        words = [*self.python(), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={self.folder / 'tests'}"]
        words += ["-n", str(workers), "--dist", "loadfile"] if workers > 1 else []
        self.run(*words, *(tests or self.tests), **environment)
        return self.read()

    @abstractmethod
    def prepare(self) -> dict[str, str]:
        """Compiles what is compiled before the tests, and returns the environment variables that they need."""

    def python(self) -> list[str]:
        return [sys.executable]

    def read(self) -> Coverage:
        return counters.of_compiled(self.folder, self.sources)

    def run(self, *words: str | Path, **environment: str) -> None:
        """Runs a command in the checkout; what it prints goes to a log beside the counters."""
        log = self.folder / "log.txt"
        with open(log, "a", encoding="utf-8") as file:
            command = [str(word) for word in words]
            status = subprocess.run(
                command, cwd=ROOT, env=os.environ | environment, stdout=file, stderr=file, check=False
            )
        if status.returncode:
            text = log.read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"{self.name}: {shlex.join(command)} failed:\n{text[-4000:]}")

    def build_library(self, *isas: str, flags: Sequence[str]) -> dict[str, str]:
        """Builds the CPU library for these instruction sets, or all; the variable that makes tests use it."""
        words = ("setup.py", "-q", "build_ext", "--build-lib", self.folder, "--build-temp", self.folder / "objects")
        variables = {"CXX": shlex.join(CXX), "CXXFLAGS": shlex.join(flags), "MS_DSV32_ISAS": ",".join(isas)}
        self.run(sys.executable, *words, **variables)
        return {"MS_DSV32_LIBRARY": str(self.folder / "ms_dsv32" / "kernel_impl" / "libms_dsv32_cpu.so")}

    def check_core(self, isa: str, flags: Sequence[str]) -> None:
        """Runs the kernels' parts, threads and scratch by themselves, as tests/kernels/test_core.py does."""
        isas = json.loads((CPU / "isas.json").read_text(encoding="utf-8"))
        program = self.folder / "core_check"
        words = ["-std=c++17", "-pthread", *flags, *isas[platform.machine()][isa], f"-DMS_DSV32_ISA={isa}"]
        self.run(*CXX, *words, f"-I{ROOT}", *core_check.SOURCES, "-o", program)
        self.run(program)


class Isa(Target):
    """The CPU kernels of one instruction set, which this machine must have."""

    sources = ("ms_dsv32/kernel_impl/cpu/isa/",)
    common = (
        "tests/kernels/test_chunks.py::test_a_thread_goes_on_with_the_same_head",
        "tests/kernels/test_threads.py::test_more_threads_than_histograms",
        *(f"tests/kernels/test_{name}.py" for name in ("ragged", "topk", "values", "verbose")),
        *("-m", "not slow"),
    )
    all_sizes = ("tests/kernels/test_operators.py", "tests/kernels/test_attention_rows.py")
    small_sizes = (
        "tests/kernels/test_exact.py",
        *(
            f"--deselect=tests/kernels/test_exact.py::test_{name}"
            for name in ("sums_of_squares", "head_weights_of_every_mantissa")
        ),
        *(
            f"tests/kernels/test_operators.py::test_{name}"
            for name in (
                "packed_weights_give_the_same_bits",
                "padding_tokens_write_no_row_and_still_compute",
                "the_later_of_two_tokens_wins",
                "nan_and_inf_stay_with_their_token",
                "nan_and_inf_stay_with_their_hidden_state",
                "prolog_heads",
            )
        ),
        "tests/kernels/test_attention_rows.py::test_a_bad_key_reaches_only_the_tokens_that_select_it",
    )

    def __init__(self, name: str) -> None:
        super().__init__(name)
        # With counters the other instruction sets take an hour for all sizes.
        self.fast = name == "amx" or name.startswith("avx512")
        self.tests = (*self.common, *(self.all_sizes if self.fast else self.small_sizes))

    def prepare(self) -> dict[str, str]:
        flags = (*QUICKLY, *AS_WRITTEN, *NOT_INLINE)
        library = self.build_library(self.name, flags=flags)
        self.check_core(self.name, flags)
        # Threads that count the same lines take turns at the counters. Tests that need several threads ask for them.
        return library | {"MS_DSV32_CPU_ISA": self.name, "MS_DSV32_NUM_THREADS": "1"}


class Library(Target):
    """What the CPU library compiles once: its entries, checks, threads and memory."""

    sources = (r"ms_dsv32/kernel_impl/cpu/[^/]*$", "ms_dsv32/kernel_impl/contract/[^/]*$")
    tests = (
        *(f"tests/kernels/test_{name}.py" for name in ("process", "isa", "bare_call", "values", "verbose", "threads")),
        "tests/kernels/test_ragged.py",
        *(f"tests/ops/test_ops_{name}.py" for name in ("errors", "graph", "ragged", "recovery", "results")),
        *(f"tests/cells/test_{name}.py" for name in ("step_checks", "ragged")),
        *("tests/fuzz", "-m", "not slow"),
    )

    def prepare(self) -> dict[str, str]:
        # Kernels are not counted, so that they are nearly as fast as without counters.
        flags = (*AS_WRITTEN, "-fprofile-exclude-files=.*/cpu/isa/.*")
        self.check_core("portable", flags)
        return self.build_library(flags=flags)


class OpHost(Target):
    """CANN's side of the Ascend operators: definitions, tiling and inference."""

    sources = ("ms_dsv32/kernel_impl/ascendc/op_host/",)
    tests = (
        *("tests/ascend_host/test_op_host.py", "tests/ascendc/test_refused_tilings.py"),
        *(f"tests/ascendc/test_core_counts.py::test_{name}" for name in ("tiling", "cores_of_the_epilog")),
        "tests/ascendc/test_mla_epilog_quant.py::test_columns_are_dealt_once",
    )

    def prepare(self) -> dict[str, str]:
        flags = shlex.join([*QUICKLY, *AS_WRITTEN])
        return {"CXX": shlex.join(CXX), "CXXFLAGS": flags, "MS_DSV32_EMULATOR_CACHE": str(self.folder)}


class OpKernel(OpHost):
    """The AscendC kernels, in the emulator."""

    sources = ("ms_dsv32/kernel_impl/ascendc/op_kernel/",)
    tests = ("tests/ascendc", "-k", "not sanitizers and not pages and not emulator_ and not refused and not full_size")


class Python(Target):
    """The package in Python."""

    sources = ("ms_dsv32/",)
    tests = (
        *(f"tests/{name}" for name in ("golden", "ops", "cells", "weights", "examples", "ascend")),
        *(f"tests/kernels/test_{name}.py" for name in ("process", "isa", "bare_call", "values", "arguments")),
        *(f"tests/test_{name}.py" for name in ("cann", "doctor", "op_info", "opp", "paging", "rope")),
    )

    def prepare(self) -> dict[str, str]:
        # coverage.py finds the configuration of processes that tests start through its own variable.
        settings = self.folder / "coveragerc"
        settings.write_text(
            f"[run]\nbranch = true\nparallel = true\nsource = ms_dsv32\npatch = subprocess, _exit\n"
            f"data_file = {self.folder / 'traced'}\n[report]\nexclude_also = if TYPE_CHECKING\n",
            encoding="utf-8",
        )
        self._settings = settings
        return {"COVERAGE_RCFILE": str(settings)}

    def python(self) -> list[str]:
        return [sys.executable, "-m", "coverage", "run", f"--rcfile={self._settings}"]

    def read(self) -> Coverage:
        return counters.of_python(self._settings)


def every() -> list[Target]:
    """All that this machine can measure."""
    sys.path.insert(0, str(ROOT))
    from ms_dsv32 import kernel_impl

    others = (Library("library"), OpHost("op_host"), OpKernel("op_kernel"), Python("python"))
    return [*map(Isa, kernel_impl.isas()), *others]
