"""Pages agree with the code: every environment variable is in the table, and links between pages have a target."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("ms_dsv32", "tests", "benchmarks", "examples")
SOURCES = [ROOT / "setup.py", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*"))]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(p for p in SOURCES if p.suffix == ".md")])
# In Python a name is a string or the keyword of a call that makes an environment; in C++ it is an argument of getenv.
READS = {
    ".py": re.compile(r"""["'](MS_DSV32_[A-Z0-9_]+)["']"""),
    ".cc": re.compile(r'getenv\("(MS_DSV32_[A-Z0-9_]+)"\)'),
    ".h": re.compile(r'getenv\("(MS_DSV32_[A-Z0-9_]+)"\)'),
}


def _variables_of_the_sources() -> set[str]:
    found: set[str] = set()
    for path in SOURCES:
        pattern = READS.get(path.suffix)
        if pattern and path != Path(__file__).resolve():
            found |= set(pattern.findall(path.read_text(encoding="utf-8")))
    return found


def _variables_of_the_page() -> list[str]:
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `(\w+)`", page.partition("## Variables of others")[0], re.MULTILINE)


def test_every_variable_is_in_the_table_once() -> None:
    named = _variables_of_the_page()
    assert len(named) == len(set(named))
    assert {name for name in named if name.startswith("MS_DSV32_")} == _variables_of_the_sources()


def test_the_table_has_the_options_of_the_virtual_ascend() -> None:
    source = (ROOT / "tests" / "ascend_virtual" / "virtual.py").read_text(encoding="utf-8")
    options = re.findall(r'"([A-Z_]+)"', re.findall(r"^OPTIONS = \((.*)\)$", source, re.MULTILINE)[0])
    named = {name for name in _variables_of_the_page() if name.startswith("ASCEND_VIRTUAL_")}
    assert named == {f"ASCEND_VIRTUAL_{option}" for option in options}


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.replace("`", ""))
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def _text(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _text(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", _text(path), re.MULTILINE)
            assert anchor in map(_anchor, headings), target
