"""Emulator and kernels under AddressSanitizer and UndefinedBehaviorSanitizer, and under another compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from emulator import compiler, syntax_check
from kernel_library import OP_KERNEL

from ms_dsv32 import op_info

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("file", "selection"),
    [
        ("test_emulator_faults.py", "fault_is_found"),
        ("test_core_counts.py", "test_as_golden"),
        ("test_prologs.py", "test_as_golden and 2-1-3-1-1 and mla_indexer"),
        ("test_sparse_flash_attention_quant.py", "one_token or small_blocks or ragged_against"),
        ("test_lightning_indexer_quant.py", "one_token or small_blocks or ragged_against or anywhere"),
        ("test_mla_epilog_quant.py", "test_as_golden and 5-16-24-3"),
    ],
)
def test_sanitizers_find_nothing(file: str, selection: str) -> None:
    """No memory errors and no undefined behaviour, also while faults are reported."""
    # Python has no C++ runtime of its own: without libstdc++ AddressSanitizer finds no __cxa_throw to wrap.
    preload = [
        subprocess.run(
            [*compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    environment = {
        **os.environ,
        "MS_DSV32_EMULATOR_SANITIZE": "1",
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps what it allocates
    }
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", HERE / file, "-k", selection],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert " passed" in result.stdout


@pytest.mark.parametrize("op", op_info.names())
def test_clang_has_no_warning(op: str) -> None:
    """CANN's compiler of kernels is built on clang."""
    clang = shutil.which("clang++")
    if clang is None:
        pytest.skip("clang++ is not installed")
    source = f'#include "{op}.cpp"\n#include "launch.h"\nASCENDC_EMULATOR_ENTRY({op})\n'
    flags = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    result = syntax_check(source, [OP_KERNEL], flags, clang)
    assert result.returncode == 0, result.stderr[-3000:]
