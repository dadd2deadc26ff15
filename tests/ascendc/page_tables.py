"""Tables of docs/ascend.md and its Chinese twin whose figures scripts of this directory compute.

A row is found by its first cell and its number of cells; the figures are its last cells, which both pages share but for
a few words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
WORDS: dict[str, dict[str, str]] = {"ascend.md": {}, "ascend.zh.md": {" keys": " 个 key", " to ": " 至 "}}


def _translated(page: str, text: str) -> str:
    for word, other in WORDS[page].items():
        text = text.replace(word, other)
    return text


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []


def rows(page: str, columns: int) -> list[list[str]]:
    """The cells of each row of the page's tables with so many columns."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    return [cells for line in lines if len(cells := _cells(line)) == columns]


def _the_row(page: str, first: str, lines: Sequence[str], columns: int) -> int:
    begin = _translated(page, first)
    places = [i for i, line in enumerate(lines) if len(cells := _cells(line)) == columns and cells[0] == begin]
    if len(places) != 1:
        raise KeyError(f"{page} has {len(places)} rows of {columns} cells that begin with {begin}")
    return places[0]


def figures(page: str, first: str, columns: int, count: int) -> list[str]:
    """The last `count` cells, in English, of the row whose first cell is `first` in English.

    Raises:
        KeyError: there is no such row, or more than one.
    """
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    cells = _cells(lines[_the_row(page, first, lines, columns)])[-count:]
    for word, other in WORDS[page].items():
        cells = [cell.replace(other, word) for cell in cells]
    return cells


def write(first: str, columns: int, given: Sequence[str]) -> None:
    """Writes the last cells of a row into both pages.

    Raises:
        KeyError: a page has no such row, or more than one.
    """
    for page in WORDS:
        lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
        place = _the_row(page, first, lines, columns)
        cells = _cells(lines[place])
        cells[columns - len(given) :] = [_translated(page, cell) for cell in given]
        lines[place] = f"| {' | '.join(cells)} |"
        (DOCS / page).write_text("\n".join(lines) + "\n", encoding="utf-8")
