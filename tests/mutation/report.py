"""What became of the faults: a table on the terminal, JSON, and the page of figures."""

from __future__ import annotations

import collections
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mutation.catalogue import HERE, Fault
from mutation.trial import Outcome

_PAGE = HERE / "README.md"
_BEGIN, _END = "<!-- figures: written by --write -->\n", "<!-- end of the figures -->\n"
_STYLES = {"survived": "bold red", "error": "bold red", "skipped": "yellow"}


def show(console: Console, outcomes: Sequence[Outcome]) -> None:
    """The table of all outcomes; what went wrong comes after it."""
    table = Table("layer", "fault", "became", "catcher", "seconds")
    for outcome in outcomes:
        style = _STYLES.get(outcome.status, "")
        seconds = f"{outcome.seconds:.1f}" if outcome.seconds else ""
        table.add_row(outcome.fault.layer, outcome.fault.id, outcome.status, outcome.catcher, seconds, style=style)
    console.print(table)
    for outcome in outcomes:
        if outcome.status in ("error", "skipped"):
            console.print(f"{outcome.fault.id}: {outcome.status}: {outcome.why}", markup=False, soft_wrap=True)
        elif outcome.status == "survived":
            text = f"{outcome.fault.id} in {outcome.fault.file} survives {', '.join(outcome.fault.tests)}"
            console.print(text, markup=False, soft_wrap=True)
    counts = collections.Counter(outcome.status for outcome in outcomes)
    console.print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))


def as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The outcomes as JSON has them."""
    return [
        {
            "id": outcome.fault.id,
            "layer": outcome.fault.layer,
            "file": outcome.fault.file,
            "status": outcome.status,
            "catcher": outcome.catcher,
            "seconds": round(outcome.seconds, 1),
            "why": outcome.why,
        }
        for outcome in outcomes
    ]


def save(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes the outcomes as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(outcomes), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def figures(faults: Sequence[Fault]) -> str:
    """The list in figures, by layer, and why some faults have no catcher; Markdown."""
    lines = ["| layer | faults | were caught | equivalent | seconds together |", "|---|---|---|---|---|"]
    layers = [*dict.fromkeys(fault.layer for fault in faults), "all"]
    for layer in layers:
        those = [fault for fault in faults if layer in (fault.layer, "all")]
        equivalent = sum(bool(fault.equivalent) for fault in those)
        caught = [fault.seconds for fault in those if fault.seconds is not None and not fault.equivalent]
        lines.append(f"| {layer} | {len(those)} | {len(caught)} | {equivalent} | {sum(caught):,} |")
    reasons = [f"- `{fault.id}` ({fault.file}): {fault.equivalent}" for fault in faults if fault.equivalent]
    if reasons:
        lines += ["", "Equivalent:", "", *reasons]
    return "\n".join(lines) + "\n"


def write_page(faults: Sequence[Fault], page: Path = _PAGE) -> None:
    """Writes the figures into the page, between its two marks."""
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not end:
        raise ValueError(f"{page} has no place for the figures")
    page.write_text(f"{head}{_BEGIN}\n{figures(faults)}\n{_END}{tail}", encoding="utf-8")
