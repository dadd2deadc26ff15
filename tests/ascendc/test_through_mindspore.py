"""Operators and cells of MindSpore run the AscendC kernels: tests of tests/ops and tests/cells on another library.

They compare with the golden reference, in PyNative, graph and jit, with row-major and packed weights.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_library import OP_KERNEL, build_library

TESTS = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.mindspore, pytest.mark.slow]


def run(library: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own: MindSpore keeps the library that it has loaded."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"MS_DSV32_LIBRARY": str(library), "PYTHONPATH": f"{TESTS}:{TESTS / 'ops'}"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize(
    ("file", "selection"),
    [
        ("ops/test_ops_results.py", "test_golden and not jit or test_lse"),
        ("cells/test_cells.py", "step_against_the_golden or several_sequences and True or mla_indexer_prolog"),
    ],
)
def test_tests_pass(file: str, selection: str) -> None:
    library = build_library()
    result = run(library, "-c", "from ms_dsv32 import kernel_impl; print(kernel_impl.isa())")
    assert result.stdout.strip() == "ascendc_emulator", result.stderr
    result = run(library, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", selection, TESTS / file)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
    assert " skipped" not in result.stdout


SCRIPT = """
import cases, sys
from calls import run
try:
    run(cases.indexer_case(kv_lens=300, selected_count=64), sys.argv[1])
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("mode", ["pynative", "graph"])
def test_a_fault_of_a_kernel_is_an_exception(mode: str) -> None:
    entry = (OP_KERNEL / "lightning_indexer_quant.cpp").read_text(encoding="utf-8")
    vector = (OP_KERNEL / "indexer_vector.h").read_text(encoding="utf-8")
    flag = "    BeginOut();\n    CopyOut(topk_indices_"
    include = '#include "indexer_vector.h"\n'
    assert flag in vector
    assert include in entry
    faulty = entry.replace(include, vector.replace(flag, flag.partition("\n")[2]))
    result = run(build_library({"lightning_indexer_quant": faulty}), "-c", SCRIPT, mode)
    assert result.stdout.startswith("RuntimeError "), result.stdout + result.stderr
    assert "lightning_indexer_quant: " in result.stdout
    assert "hazard" in result.stdout
    assert "no flag V_MTE3" in result.stdout
