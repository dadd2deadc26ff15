"""Every instruction set that this machine has, forced in a process of its own; and the choice itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ms_dsv32 import kernel_impl

HERE = Path(__file__).resolve().parent


def _python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        cwd=HERE.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.isa
@pytest.mark.slow
@pytest.mark.parametrize("isa", [n for n in kernel_impl.isas(supported=False) if n != kernel_impl.isas()[0]])
def test_operators_on_the_other_instruction_sets(isa: str) -> None:
    if isa not in kernel_impl.isas():
        pytest.skip(f"this CPU lacks {isa}; it has {', '.join(kernel_impl.isas())}")
    arguments = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", str(HERE / "test_operators.py"))
    result = _python(*arguments, MS_DSV32_CPU_ISA=isa)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]


@pytest.mark.isa
@pytest.mark.parametrize("isa", ["sse9", *(n for n in kernel_impl.isas(supported=False) if n not in kernel_impl.isas())])
def test_a_path_that_cannot_be_had_is_refused(isa: str) -> None:
    result = _python("-c", "from ms_dsv32 import kernel_impl; kernel_impl.load()", MS_DSV32_CPU_ISA=isa)
    assert result.returncode == 1
    assert f"MS_DSV32_CPU_ISA={isa}" in result.stderr
    assert kernel_impl.isas()[0] in result.stderr


@pytest.mark.isa
def test_the_best_path_is_chosen() -> None:
    code = "from ms_dsv32 import kernel_impl as k; print(k.isa(), k.isas()[0])"
    chosen, best = _python("-c", code, MS_DSV32_CPU_ISA="").stdout.split()
    assert chosen == best


@pytest.mark.parametrize("threads", ["0", "two", "1025"])
def test_a_bad_thread_count_is_refused(threads: str) -> None:
    result = _python("-c", "from ms_dsv32 import kernel_impl; kernel_impl.load()", MS_DSV32_NUM_THREADS=threads)
    assert result.returncode == 1
    assert "MS_DSV32_NUM_THREADS" in result.stderr
