"""The figures in docs/coverage.md: a row for each target."""

from __future__ import annotations

from cover.counters import ROOT, Counts

PAGE = ROOT / "docs" / "coverage.md"


def row(name: str, total: Counts) -> str:
    """A row of the table: lines and branches, each as how many there are, how many ran, and the share."""

    def share(ran: int, count: int) -> str:
        return f"{ran:,} of {count:,} | {100 * ran / max(count, 1):.1f} %"

    return f"| `{name}` | {share(total.lines_run, total.lines)} | {share(total.branches_run, total.branches)} |"


def write(name: str, total: Counts) -> None:
    """Replaces a target's row of the page.

    Raises:
        ValueError: the page has no row of this target.
    """
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    places = [i for i, line in enumerate(lines) if line.startswith(f"| `{name}` |")]
    if len(places) != 1:
        raise ValueError(f"{PAGE} has {len(places)} rows of {name}, expected one")
    lines[places[0]] = row(name, total)
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
