"""The README's first program runs as it is printed; its status names every operator; Chinese pages are in step."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ms_dsv32 import op_info

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README", "docs/ascend", "docs/checkpoints", "docs/serving"]
"""What there is in Chinese too, as <page>.zh.md."""


def _blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.mindspore
@pytest.mark.slow
def test_the_program_runs() -> None:
    program = _blocks("README.md", "python")[0] + "\nprint(hidden_out.shape, hidden_out.dtype)\n"
    Path("program.py").write_text(program, encoding="utf-8")  # MindSpore compiles from files only
    result = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split("\n")[0] == "(2, 7168) BFloat16"


def _skeleton(name: str) -> list[tuple[object, ...]]:
    """What a translation keeps: levels of headings, code, shapes of tables, numbers and code in their rows, links."""
    found: list[tuple[object, ...]] = []
    block: list[str] | None = None
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            if block is None:
                block = [line]
            else:
                found.append(("code", *block))
                block = None
        elif block is not None:
            drawing = block[0] == "```"  # its words are translated
            block.append("" if drawing else re.sub(r" *#.*", "", line))  # so are comments
        elif line.startswith("#"):
            found.append(("heading", line.count("#")))
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            numbers = [cell for cell in cells if re.fullmatch(r"[\d.]+", cell)]
            found.append(("row", len(cells), *numbers, *sorted(re.findall(r"`[^`]+`", line))))
        for target in re.findall(r"\]\(([^)#]*)", line) if block is None else ():
            found.append(("link", target.replace(".zh.md", ".md")))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_the_chinese_page_is_in_step(page: str) -> None:
    own = f"{Path(page).name}.md"  # both begin with a link to the other language
    english, chinese = ([s for s in _skeleton(f"{page}{end}") if s != ("link", own)] for end in (".md", ".zh.md"))
    assert english == chinese


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_status_has_every_operator(name: str) -> None:
    tables = (ROOT / name).read_text(encoding="utf-8").split("\n\n")
    status = next(t for t in tables if t.startswith("|") and "Atlas A2/A3" in t).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in status[2:]]
    assert sorted(row[0].strip("`") for row in rows) == list(op_info.names())
    for row in rows:
        assert len(row) == 5
        assert row[-1] in ("not run", "未运行")  # a run on a device changes this line, and says where


def test_exactly_two_commands() -> None:
    assert len(_blocks("README.md", "bash")) == 2


def test_ci_runs_the_test_command() -> None:
    steps = _blocks("README.md", "bash")[1].strip().split(" && ")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line.replace(" --quiet", "").removeprefix("CXXFLAGS=-Werror ") for line in script[-3:]] == steps
