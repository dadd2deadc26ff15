"""The README's first program runs as it is printed; the Chinese README has the same commands and programs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.mindspore
@pytest.mark.slow
def test_the_program_runs() -> None:
    program = _blocks("README.md", "python")[0] + "\nprint(attention_out.shape, attention_out.dtype)\n"
    Path("program.py").write_text(program, encoding="utf-8")  # MindSpore compiles from files only
    result = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split("\n")[0] == "(2, 1, 128, 512) BFloat16"


@pytest.mark.parametrize("language", ["bash", "python"])
def test_the_chinese_readme_is_in_step(language: str) -> None:
    def code(block: str) -> str:
        return re.sub(r" *#.*", "", block)  # comments are translated

    english, chinese = (list(map(code, _blocks(name, language))) for name in ("README.md", "README.zh.md"))
    assert english == chinese


def test_exactly_two_commands() -> None:
    assert len(_blocks("README.md", "bash")) == 2


def test_ci_runs_the_test_command() -> None:
    steps = _blocks("README.md", "bash")[1].strip().split(" && ")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line.replace(" --quiet", "").removeprefix("CXXFLAGS=-Werror ") for line in script[-3:]] == steps
