"""The decode example: its check passes in both modes, and fails when it should."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.mindspore, pytest.mark.slow]
DECODE = Path(__file__).resolve().parents[2] / "examples" / "decode.py"
SMALL = ("--heads", "16", "--kv-len", "300", "--steps", "2", "--chunk", "200")


@pytest.mark.parametrize("options", [("--s1", "2"), ("--mode", "pynative", "--batch", "2", "--s1", "4"), ("--s1", "1")])
def test_decodes_and_checks(options: tuple[str, ...]) -> None:
    result = subprocess.run(
        [sys.executable, str(DECODE), *SMALL, *options], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "check passed" in result.stdout
    assert "sparse_flash_attention_quant" in result.stdout


def test_prefills_alone() -> None:
    command = [sys.executable, str(DECODE), *SMALL, "--steps", "0", "--batch", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "decode step" not in result.stdout


def test_refuses_bad_options() -> None:
    result = subprocess.run([sys.executable, str(DECODE), "--s1", "5"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "--s1 must be in [1, 4], got 5" in result.stderr


def test_the_check_can_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("decode_example", DECODE)
    assert spec is not None
    assert spec.loader is not None
    decode = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, decode)  # dataclasses look their module up
    spec.loader.exec_module(decode)
    monkeypatch.setattr(sys, "argv", [str(DECODE), *SMALL, "--batch", "1", "--mode", "pynative"])
    assert decode.main() == 0
    reference = decode.golden_step

    def wrong_head(*args: object) -> np.ndarray:
        want = reference(*args).copy()
        want[..., 0, :] = 0
        return want

    monkeypatch.setattr(decode, "golden_step", wrong_head)
    assert decode.main() == 1
    assert "check FAILED" in capsys.readouterr().out
