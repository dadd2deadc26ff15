"""The serving example: its check passes in each mode, and fails when it should; padding writes nothing."""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

import mindspore as ms
import numpy as np
import pytest
import serve
from batching import BLOCK, Request

from ms_dsv32 import weights

pytestmark = [pytest.mark.mindspore, pytest.mark.slow]
SMALL = (
    "--heads", "2", "--requests", "5", "--rate", "1000000", "--prefix", "128", "--prompt", "60", "--new-tokens", "24",
    "--tokens-per-step", "48", "--sequences", "3", "--blocks", "5",
)  # fmt: skip
"""All requests arrive at once, so that the steps are the same on every machine. Three of them need more blocks."""


@pytest.mark.parametrize(("options", "graphs"), [((), 1), (("--mode", "jit", "--dynamic"), 1)])
def test_serves_and_checks(options: tuple[str, ...], graphs: int) -> None:
    command = [sys.executable, serve.__file__, *SMALL, *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "check passed" in result.stdout
    assert f"compiled graphs: {graphs}" in result.stdout
    assert "time to first token" in result.stdout
    preemptions = result.stdout.partition("preemptions")[2].split()[1]
    assert int(preemptions.rstrip(",")) > 0


def test_the_check_sees_one_bit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    step, calls = serve.Model.step, 0

    def spoilt(self: Any, plan: list[tuple[Request, int]]) -> np.ndarray:
        nonlocal calls
        calls += 1
        hidden_out = step(self, plan)
        if calls == 3:  # the first one is the padding alone
            hidden_out[1, 7] ^= 1
        return hidden_out

    monkeypatch.setattr(serve.Model, "step", spoilt)
    monkeypatch.setattr(sys, "argv", ["serve.py", *SMALL, "--requests", "2", "--mode", "pynative"])
    assert serve.main() == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "check FAILED" in printed
    assert "request 0: hidden_out differs in 1 tokens, the first at position 49 of the step from 48 to 95" in printed


def test_padding_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tokens of one request in a step of 48 tokens and three sequences."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    monkeypatch.setattr(sys, "argv", ["serve.py", *SMALL, "--mode", "pynative"])
    args: argparse.Namespace = serve.parse()
    model = serve.Model(args, columns=2)

    def rows() -> dict[str, np.ndarray]:
        return {name: weights.to_array(c).reshape(5 * BLOCK, -1).copy() for name, c in model.caches._asdict().items()}

    assert not model.step([]).any()
    assert not any(cache.view(np.uint8).any() for cache in rows().values())
    request = Request(0, 0.0, BLOCK + 2, 1, list(range(BLOCK + 2)), computed=BLOCK - 1, blocks=[3, 1])
    hidden_out = model.step([(request, 3)])
    assert hidden_out[:3].any(axis=1).all()
    assert not hidden_out[3:].any()
    for name, cache in rows().items():
        assert np.flatnonzero(cache.any(axis=1)).tolist() == [BLOCK, BLOCK + 1, 4 * BLOCK - 1], name


def test_refuses_bad_options(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["serve.py", "--tokens-per-step", "4"])
    with pytest.raises(SystemExit):
        serve.parse()
    assert "--sequences must be in [1, 4], got 8" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["serve.py", "--blocks", "1"])
    assert serve.main() == 2
    assert "--blocks must be at least" in capsys.readouterr().out
