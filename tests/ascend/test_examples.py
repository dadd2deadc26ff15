"""The README's first program and the decode example run on Ascend as they are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from device import environment

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def run(*command: str) -> str:
    result = subprocess.run([sys.executable, *command], env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def test_the_readmes_program() -> None:
    """With the line that its comment names."""
    text = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    program, count = re.subn(r'^# .*(ms\.set_device\("Ascend"\)).*$', r"\1", text, flags=re.MULTILINE)
    assert count == 1
    program += "\nprint(hidden_out.shape, hidden_out.device, *[c.device for c in caches])"
    program += "\nprint([bool(to_array(c).any()) for c in (hidden_out, *caches)])\n"
    # MindSpore compiles from files only.
    Path("program.py").write_text("from ms_dsv32.weights import to_array\n" + program, encoding="utf-8")
    devices = " ".join(["Ascend:0"] * 6)
    assert run("program.py").splitlines()[-2:] == [f"(2, 7168) {devices}", str([True] * 6)]


@pytest.mark.parametrize("mode", ["jit", "graph", "pynative"])
def test_decodes_and_checks(mode: str) -> None:
    small = ("--heads", "1", "--batch", "2", "--kv-len", "9", "--steps", "2", "--chunk", "4", "--s1", "2")
    output = run(str(ROOT / "examples" / "decode.py"), "--device", "Ascend", "--mode", mode, "--layers", "2", *small)
    assert f"device: Ascend; kernels: AscendC; {'mindspore.jit' if mode == 'jit' else f'{mode} mode'}" in output
    assert "device memory: peak" in output
    assert "check passed" in output
