"""The decode example: its check passes in both modes, and fails when it should."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = [pytest.mark.mindspore, pytest.mark.slow]
DECODE = Path(__file__).resolve().parents[2] / "examples" / "decode.py"
LAST_CALL = 4  # 296 tokens of a prompt are 2 chunks, and there are 2 steps
FREE_ROW = -1  # of the last block
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
    assert "check passed" in result.stdout


def test_refuses_bad_options() -> None:
    result = subprocess.run([sys.executable, str(DECODE), "--s1", "5"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "--s1 must be in [1, 4], got 5" in result.stderr


@pytest.fixture
def decode(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("decode_example", DECODE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [str(DECODE), *SMALL, "--batch", "1", "--mode", "pynative"])
    return module


def test_the_check_sees_a_wrong_head(decode: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = decode.golden_step

    def wrong_head(*args: object) -> np.ndarray:
        want = reference(*args).copy()
        want[..., 0, :] = 0
        return want

    monkeypatch.setattr(decode, "golden_step", wrong_head)
    assert decode.main() == 1


@pytest.mark.parametrize(
    "name", ["mla_kv_cache", "mla_kr_cache", "mla_k_scale_cache", "ip_k_cache", "ip_k_cache_scale"]
)
@pytest.mark.parametrize("fault", ["lost", "stray", "prompt"])
def test_the_check_sees_one_row(
    decode: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, fault: str
) -> None:
    run, calls = decode.run, 0

    def spoilt(step: object, call: dict[str, np.ndarray], caches: dict[str, object]) -> tuple[np.ndarray, float]:
        nonlocal calls
        result = run(step, call, caches)
        calls += 1
        cache = decode.weights.to_array(caches[name]).reshape(-1, caches[name].shape[-1])
        if fault == "prompt":
            if calls == 1:  # all rows of the first chunk, of which the check takes one
                cache[call["cache_index"]] = 0
        elif calls == LAST_CALL:
            cache[call["cache_index"][0] if fault == "lost" else FREE_ROW] = 1 if fault == "stray" else 0
        return result

    monkeypatch.setattr(decode, "run", spoilt)
    assert decode.main() == 1
    assert "check FAILED" in capsys.readouterr().out
    assert calls == LAST_CALL
