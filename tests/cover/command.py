"""``python -m tests.cover``: measures which lines the tests run, and lists those that they do not."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

from cover import page, targets
from cover.counters import ROOT, Coverage, Missed

_REASONS = Path(__file__).resolve().parent / "reasons.yaml"
_EPILOG = """examples:
  python -m tests.cover                   everything that this machine can measure
  python -m tests.cover avx2 --write      the CPU kernels of one instruction set, and the figures into docs/coverage.md
  python -m tests.cover op_kernel python

The exit status is 1 if a line or a branch is missed without a reason in tests/cover/reasons.yaml. A reason that is "not
needed" is stale, unless another target or machine needs it. What was compiled and counted is in build/coverage/."""


@dataclass(frozen=True)
class Reason:
    """Why no test runs a line: its file, and the text it begins with, which may go on in the lines after it."""

    file: str
    text: str
    why: str
    count: int = 1
    """How many lines of the file begin so."""

    def lines(self) -> list[int]:
        """The numbers of these lines."""
        every = [line.strip() for line in (ROOT / self.file).read_text(encoding="utf-8").splitlines()]
        size = self.text.count("\n") + 1
        return [i + 1 for i in range(len(every)) if "\n".join(every[i : i + size]).startswith(self.text)]

    def explains(self, missed: Missed) -> bool:
        return missed.file == self.file and missed.line in self.lines()


def reasons() -> list[Reason]:
    """The reasons in the list."""
    return [Reason(**entry) for entry in yaml.safe_load(_REASONS.read_text(encoding="utf-8"))]


def unexplained(coverage: Coverage) -> list[Missed]:
    """What is missed without a reason."""
    known = reasons()
    return [missed for missed in coverage.missed if not any(reason.explains(missed) for reason in known)]


def unneeded(coverage: Coverage) -> list[tuple[Reason, int]]:
    """The reasons for lines of the measured files that are not missed, each with the number of the line."""
    missed = {(missed.file, missed.line) for missed in coverage.missed}
    measured = [reason for reason in reasons() if reason.file in coverage.counts]
    return [(reason, line) for reason in measured for line in reason.lines() if (reason.file, line) not in missed]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures the targets that were asked for; the exit status."""
    every = {target.name: target for target in targets.every()}
    parser = argparse.ArgumentParser(
        "python -m tests.cover", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(every)}; default: all")
    parser.add_argument("--write", action="store_true", help="write the figures into docs/coverage.md")
    parser.add_argument("--workers", type=int, default=2, help="processes that run tests (default: %(default)s)")
    args = parser.parse_args(argv)
    if unknown := set(args.targets) - set(every):
        parser.error(f"no target {', '.join(sorted(unknown))}; this machine has {', '.join(every)}")
    console = Console(highlight=False)
    left = 0
    for name in args.targets or every:
        coverage = every[name].measure(workers=args.workers)
        total = coverage.total
        lines, branches = f"{total.lines_run} of {total.lines}", f"{total.branches_run} of {total.branches}"
        console.print(f"{name}: {lines} lines, {branches} branches", markup=False)
        for missed in unexplained(coverage):
            left += 1
            console.print(f"  {missed}", markup=False, soft_wrap=True)
        for reason, line in unneeded(coverage):
            text = reason.text.partition("\n")[0]
            console.print(f"  {reason.file}:{line}: reason not needed: {text}", markup=False, soft_wrap=True)
        if args.write:
            page.write(name, total)
    return 1 if left else 0
