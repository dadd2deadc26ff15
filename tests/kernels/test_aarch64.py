"""The kernels of aarch64, cross-compiled and executed by QEMU: every instruction set against the golden reference, and
bit for bit against the statement of its own order of additions.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arguments
import cases
import driver
import exact
import pytest
import tolerance
from bare_kernels import pack, prolog
from cases import FUSED, READERS, WITH_WEIGHTS
from exact_cases import distinct, exponentials, heads_that_cancel, scores_that_cancel, values_that_cancel
from numpy.typing import NDArray

from ms_dsv32 import op_info

COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"
LIBRARIES = Path("/usr/aarch64-linux-gnu")

CPUS = {"max": "neon_bf16", "cortex-a76": "neon_dotprod", "cortex-a57": "portable"}
"""QEMU's models, and the instruction set that each should choose."""

CASES: dict[str, Callable[[], cases.Case]] = {
    "mla_prolog_1": lambda: prolog("mla_prolog_quant", 1, 1, n_q=16),
    "mla_prolog_3": lambda: prolog("mla_prolog_quant", 1, 3, n_q=1),
    "indexer_prolog_1": lambda: prolog("lightning_indexer_prolog_quant", 1, 1),
    "indexer_prolog_5": lambda: prolog("lightning_indexer_prolog_quant", 1, 5),
    "fused_prolog_2": lambda: prolog("mla_indexer_prolog_quant", 2, 1, n_q=1),
    "attention_1": lambda: cases.with_lse(cases.attention_case(1, 1, 1, 1)),
    "attention_129": lambda: cases.with_lse(cases.attention_case(1, 3, 16, 129, holes=0.1)),
    "attention_2100": lambda: cases.with_lse(cases.attention_case(1, 2, 16, 2100)),
    "indexer_1": lambda: cases.indexer_case(1, 1, 1),
    "indexer_129": lambda: cases.indexer_case(2, 1, 129),
    "indexer_2100": lambda: cases.indexer_case(1, 2, 2100),
    "epilog_1": lambda: cases.mla_epilog_case(1, 1, 3),
    "epilog_7": lambda: cases.mla_epilog_case(1, 7, 1),
}

pytestmark = [pytest.mark.isa, pytest.mark.slow]
Results = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The driver and the library, both for aarch64."""
    for tool, package in ((COMPILER, "g++-aarch64-linux-gnu"), (EMULATOR, "qemu-user")):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian: {package})")
    folder = tmp_path_factory.mktemp("aarch64")
    library = driver.build_library(folder, CXX=COMPILER, MS_DSV32_CPU_ARCH="aarch64", CXXFLAGS="-O1 -Werror")
    return driver.build_driver(folder, COMPILER), library


def emulate(cpu: str, programs: tuple[Path, Path], *calls: Path, **environment: str) -> Any:
    program, library = programs
    command = (EMULATOR, "-cpu", cpu, "-L", LIBRARIES, program, library, "in-turn", *calls)
    return driver.run(*command, **environment)


@functools.cache
def made(name: str) -> tuple[cases.Case, ...]:
    """A case, and where there are weights the same one with packed ones."""
    case = CASES[name]()
    return (case, pack(case)) if op_info.load(case.operator).packable else (case,)


def assert_exact(case: cases.Case, got: Results, cpu: str) -> None:
    for name, want in exact.outputs(case, exact.ORDERS[CPUS[cpu]]).items():
        tolerance.assert_same_bits(name, got[name], want)


@pytest.mark.parametrize("cpu", CPUS)
def test_operators(cpu: str, programs: tuple[Path, Path], tmp_path: Path) -> None:
    calls = driver.Calls(tmp_path)
    for threads, part in (("1", 0), ("3", 1)):  # row-major weights on one thread, packed ones on several
        pairs = {name: (case, calls.write(case)) for name in CASES for case in made(name)[part : part + 1]}
        result = emulate(cpu, programs, *(path for _, path in pairs.values()), MS_DSV32_NUM_THREADS=threads)
        assert result.returncode == 0, result.stderr
        assert result.stdout.split() == [CPUS[cpu]]
        got = {name: calls.results(case, path) for name, (case, path) in pairs.items()}
        if part == 0:
            row_major = got
            for name, (case, _) in pairs.items():
                case.check(got[name])
                assert_exact(case, got[name], cpu)
        else:
            for name, results in got.items():
                tolerance.assert_same_outputs(results, row_major[name])


@pytest.mark.parametrize("cpu", CPUS)
def test_every_sum_is_added_in_its_order(cpu: str, programs: tuple[Path, Path], tmp_path: Path) -> None:
    """Calls of which another order gives other bits. Fused operators have the sums of their parts."""
    several = [distinct(operator, "cancelling") for operator in WITH_WEIGHTS if operator not in FUSED]
    several += [arguments.base(operator) for operator in READERS]
    several += [scores_that_cancel(5), values_that_cancel(6), exponentials(), heads_that_cancel()]
    calls = driver.Calls(tmp_path)
    pairs = [(case, calls.write(case)) for case in several]
    result = emulate(cpu, programs, *(path for _, path in pairs), MS_DSV32_NUM_THREADS="2")
    assert result.returncode == 0, result.stderr
    for case, path in pairs:
        assert_exact(case, calls.results(case, path), cpu)


def test_instructions_that_the_cpu_lacks_are_refused(programs: tuple[Path, Path]) -> None:
    result = emulate("cortex-a76", programs, Path("unread"), MS_DSV32_CPU_ISA="neon_bf16")
    assert result.returncode == 1
    assert "MS_DSV32_CPU_ISA=neon_bf16: this CPU lacks its instructions; it has neon_dotprod,portable" in result.stderr
