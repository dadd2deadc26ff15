"""The decode example: its check passes in each mode, and fails when it should."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import checkpoints
import numpy as np
import pytest
from model_configs import HF

pytestmark = [pytest.mark.mindspore, pytest.mark.slow]
DECODE = Path(__file__).resolve().parents[2] / "examples" / "decode.py"
LAST_CALL = 4  # 296 tokens of a prompt are 2 chunks, and there are 2 steps
FREE_ROW = -1  # of the last block
SMALL = ("--heads", "4", "--kv-len", "300", "--steps", "2", "--chunk", "200")


@pytest.mark.parametrize(
    "options",
    [
        ("--s1", "2", "--layers", "3"),
        ("--mode", "pynative", "--batch", "2", "--s1", "4", "--layers", "2"),
        ("--mode", "graph", "--s1", "1"),
    ],
)
def test_decodes_and_checks(options: tuple[str, ...]) -> None:
    result = subprocess.run(
        [sys.executable, str(DECODE), *SMALL, *options], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "check passed" in result.stdout
    assert "sparse_flash_attention_quant" in result.stdout
    assert "mla_epilog_quant" in result.stdout


@pytest.mark.parametrize("config", [True, False])
def test_decodes_with_a_checkpoint(tmp_path: Path, config: bool) -> None:
    """Layers 3 and 4 of a directory of FP8 shards, two of their four heads; epsilons are those of config.json."""
    layers = {f"model.layers.{n}.self_attn.": checkpoints.fp8(4, seed=n) for n in (3, 4)}
    tensors = {prefix + name: array for prefix, made in layers.items() for name, array in made.tensors.items()}
    checkpoints.write_shards(tmp_path, tensors, 2)
    if config:
        (tmp_path / "config.json").write_text(json.dumps({**HF, "rms_norm_eps": 1e-5, "index_topk": 100}))
    options = ("--checkpoint", str(tmp_path), "--layer", "3", "--layers", "2", "--heads", "2", "--batch", "1")
    command = [sys.executable, str(DECODE), *SMALL, *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "check passed" in result.stdout


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
    reference = decode.Reference.layer

    def wrong_head(self: Any, *args: object) -> np.ndarray:
        self.weights["w_uv"][0] = 0
        return reference(self, *args)

    monkeypatch.setattr(decode.Reference, "layer", wrong_head)
    assert decode.main() == 1


def test_the_check_sees_a_layer_that_is_not_given_the_residual(
    decode: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--layers", "2"])
    monkeypatch.setattr(decode, "after_layer", lambda call, hidden_out: call)
    assert decode.main() == 1


@pytest.mark.parametrize("name", ["kv_cache", "kr_cache", "k_scale_cache", "k_cache", "k_cache_scale"])
@pytest.mark.parametrize("fault", ["lost", "stray", "prompt"])
def test_the_check_sees_one_row(
    decode: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, fault: str
) -> None:
    run, calls = decode.run, 0

    def spoilt(decoder: object, call: dict[str, np.ndarray], caches: list[Any]) -> Any:
        nonlocal calls
        result = run(decoder, call, caches)
        calls += 1
        tensor = getattr(caches[0], name)
        cache = decode.weights.to_array(tensor).reshape(-1, tensor.shape[-1])
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
