"""Every instruction set that this machine has, forced in a process of its own; and the choice itself."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import driver
import pytest

from ms_dsv32 import kernel_impl

HERE = Path(__file__).resolve().parent
TESTS = [str(HERE / f"test_{name}.py") for name in ("operators", "attention_rows", "ragged", "topk")]
SIMDE = ("avx512", "avx512_bf16")
"""What SIMDe can stand in for."""


def _python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return driver.run(sys.executable, *arguments, cwd=driver.ROOT, **environment)


@pytest.mark.isa
@pytest.mark.slow
@pytest.mark.parametrize("isa", [n for n in kernel_impl.isas(supported=False) if n != kernel_impl.isas()[0]])
def test_operators_on_the_other_instruction_sets(isa: str) -> None:
    if isa not in kernel_impl.isas():
        pytest.skip(f"this CPU lacks {isa}; it has {', '.join(kernel_impl.isas())}")
    # The wide sets share the source of the indexer and of the division of tokens, which the last two files test.
    wide = ("avx512", "avx512_bf16", "amx")
    _test(TESTS[:2] if isa in wide and kernel_impl.isas()[0] in wide else TESTS, MS_DSV32_CPU_ISA=isa)


def _test(files: list[str], **environment: str) -> None:
    result = _python("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *files, **environment)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]


@pytest.fixture(scope="module")
def simde_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library with the AVX-512 sources that this CPU cannot run compiled to AVX2 through SIMDe, which computes what
    AVX-512 would."""
    lacking = [isa for isa in SIMDE if isa not in kernel_impl.isas()]
    if not lacking:
        pytest.skip("this CPU has AVX-512: it is tested as it is")
    if "avx2" not in kernel_impl.isas():
        pytest.skip("the AVX-512 sources through SIMDe need AVX2")
    if not Path("/usr/include/simde/x86/avx512.h").is_file():
        pytest.skip("SIMDe is not installed (Debian: libsimde-dev)")
    folder = tmp_path_factory.mktemp("simde")
    return driver.build_library(folder, MS_DSV32_SIMDE="1", MS_DSV32_ISAS=",".join(lacking), CXXFLAGS="-O1 -w")


@pytest.mark.isa
@pytest.mark.slow
@pytest.mark.parametrize("isa", SIMDE)
def test_operators_of_avx512_through_simde(isa: str, simde_library: Path) -> None:
    if isa in kernel_impl.isas():
        pytest.skip(f"this CPU has {isa}: it is tested as it is")
    # The two differ in products of bfloat16 alone.
    files = TESTS if isa == "avx512" else TESTS[:1]
    _test(files, MS_DSV32_CPU_ISA=isa, MS_DSV32_LIBRARY=str(simde_library))


@pytest.mark.isa
@pytest.mark.parametrize(
    "isa", ["sse9", *(n for n in kernel_impl.isas(supported=False) if n not in kernel_impl.isas())]
)
def test_a_path_that_cannot_be_had_is_refused(isa: str) -> None:
    result = _python("-c", "from ms_dsv32 import kernel_impl; kernel_impl.load()", MS_DSV32_CPU_ISA=isa)
    assert result.returncode == 1
    assert f"MS_DSV32_CPU_ISA={isa}" in result.stderr
    assert kernel_impl.isas()[0] in result.stderr


@pytest.mark.parametrize("isas", ["sse9", "portable,sse9"])
def test_a_path_that_cannot_be_compiled_is_refused(isas: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="MS_DSV32_ISAS has sse9"):
        driver.build_library(tmp_path, MS_DSV32_ISAS=isas)


@pytest.mark.isa
@pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is x86's")
def test_a_compiler_without_amx_leaves_it_out(tmp_path: Path) -> None:
    compiler = tmp_path / "old-g++"
    compiler.write_text('#!/bin/sh\ncase "$*" in *-mamx*) exit 1;; esac\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    with pytest.raises(AssertionError, match="compiles for none of MS_DSV32_ISAS=amx"):
        driver.build_library(tmp_path, MS_DSV32_ISAS="amx", CXX=str(compiler))


@pytest.mark.isa
def test_the_best_comes_first() -> None:
    """Intel's CPUs are better off without their dot products of bfloat16."""
    is_intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    wide = ("avx512", "avx512_bf16") if is_intel else ("avx512_bf16", "avx512")
    has = kernel_impl.isas(supported=False)
    assert has == [isa for isa in ("amx", *wide, "avx2", "neon_bf16", "neon_dotprod", "portable") if isa in has]
    assert kernel_impl.isas() == [isa for isa in has if isa in kernel_impl.isas()]


@pytest.mark.isa
def test_the_best_path_is_chosen() -> None:
    code = "from ms_dsv32 import kernel_impl as k; print(k.isa(), k.isas()[0])"
    chosen, best = _python("-c", code, MS_DSV32_CPU_ISA="").stdout.split()
    assert chosen == best


@pytest.mark.parametrize("threads", ["0", "two", "2x", "1025", "1" + "0" * 30])
def test_a_bad_thread_count_is_refused(threads: str) -> None:
    result = _python("-c", "from ms_dsv32 import kernel_impl; kernel_impl.load()", MS_DSV32_NUM_THREADS=threads)
    assert result.returncode == 1
    assert "MS_DSV32_NUM_THREADS" in result.stderr
