"""The training example: the loss falls in both modes, and the exit status says when it does not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.mindspore, pytest.mark.slow]
TRAIN = Path(__file__).resolve().parents[2] / "examples" / "train_adapter.py"
SMALL = ("--heads", "1", "--tokens", "16")


def train(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TRAIN), *SMALL, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_the_loss_falls(mode: str) -> None:
    result = train("--steps", "80", "--mode", mode)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert f"{mode} mode; trained: down.weight, up.weight" in result.stdout
    losses = [float(loss) for loss in re.findall(r"│ *\d+ *│ *([\d.]+) *│", result.stdout)]
    assert losses[0] == 1.0  # the adapter begins at zero
    assert losses[-1] < 0.3


def test_a_loss_that_does_not_fall_fails() -> None:
    result = train("--steps", "10")
    assert result.returncode == 1, result.stderr[-3000:]
    assert "FAILED" in result.stdout


def test_refuses_bad_options() -> None:
    result = train("--steps", "1")
    assert result.returncode == 2
    assert "--steps must be in [10, 100000], got 1" in result.stderr
