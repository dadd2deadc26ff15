"""``python -m tests.fuzz``: tries the operators at random for as long as one likes."""

from __future__ import annotations

import argparse
import collections
import datetime
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fuzz import campaign
from fuzz.worker import Job

_EPILOG = """examples:
  python -m tests.fuzz --minutes 30                        all paths, on the best instruction set
  python -m tests.fuzz --path library --isa all --calls 100000
  python -m tests.fuzz --path graph --on lightning_indexer_quant --seed 3 --index 17     one trial again
"""
_SHARES = {"library": 6, "pynative": 3, "graph": 2, "jit": 1, "ascend": 2, "files": 2, "faults": 2}
"""How the time is shared among the paths."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the fuzz and prints what it tried, and of each failure a command that runs it again; the exit status."""
    args = _parse(argv)
    seed = args.seed if args.seed is not None else datetime.date.today().toordinal()
    console = Console(highlight=False)
    console.print(f"seed {seed}")
    jobs = _jobs(args, seed)
    totals: dict[tuple[str, str], collections.Counter[str]] = {}
    failures: list[campaign.Failure] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for job, environment in jobs:
            isa = environment.get("MS_DSV32_CPU_ISA", "")
            task = progress.add_task(f"{job.path} {isa}", total=job.calls or None)
            result = campaign.run(
                job, environment, lambda r, task=task: progress.update(task, completed=sum(r.counts.values()))
            )
            for (subject, kind), count in result.counts.items():
                row = totals.setdefault((f"{job.path} {isa}", subject), collections.Counter())
                row["good" if kind == "good" else "bad"] += count
            for failure in result.failures:
                totals.setdefault((f"{job.path} {isa}", failure.subject), collections.Counter())["failed"] += 1
                console.print(str(failure), markup=False, soft_wrap=True)
            failures += result.failures
    _print(console, totals)
    return 1 if failures else 0


def _print(console: Console, totals: dict[tuple[str, str], collections.Counter[str]]) -> None:
    table = Table("path", "of", *(name for name in ("good", "bad", "failed")))
    for (path, subject), row in sorted(totals.items()):
        table.add_row(path, subject, *(f"{row[name]:,}" for name in ("good", "bad", "failed")))
    table.add_section()
    sums = (sum(row[name] for row in totals.values()) for name in ("good", "bad", "failed"))
    table.add_row("all", "", *(f"{number:,}" for number in sums))
    console.print(table)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, for all paths together (default: 1)")
    parser.add_argument(
        "--calls", type=int, default=0, help="trials of each path and instruction set, instead of minutes"
    )
    parser.add_argument("--seed", type=int, help="of the trials (default: the day's number)")
    parser.add_argument("--index", type=int, help="run this one trial")
    parser.add_argument("--path", action="append", choices=[*campaign.SUBJECTS], help="a way in (default: all)")
    parser.add_argument("--on", action="append", help="an operator, or another subject of the path (default: all)")
    parser.add_argument("--isa", default="", help="instruction set of the CPU kernels, or 'all' (default: the best)")
    parser.add_argument("--threads", type=int, default=0, help="of the kernels (default: a number that changes)")
    parser.add_argument(
        "--good", type=int, default=Job.good, help="one of so many calls is good (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if args.index is not None and not (args.path and args.on):
        parser.error("--index needs --path and --on")
    args.path = args.path or [*campaign.SUBJECTS]
    for subject in args.on or ():
        if not any(subject in campaign.SUBJECTS[path] for path in args.path):
            parser.error(f"--on {subject}: there are {', '.join(s for p in args.path for s in campaign.SUBJECTS[p])}")
    return args


def _jobs(args: argparse.Namespace, seed: int) -> list[tuple[Job, dict[str, str]]]:
    """The jobs, each with the variables of its process."""
    wanted = []
    for path in args.path:
        subjects = tuple(s for s in campaign.SUBJECTS[path] if not args.on or s in args.on)
        isas = [args.isa] if args.isa != "all" else campaign.isas() if path == "library" else [""]
        wanted += [(path, subjects, isa) for isa in isas if subjects]
    shares = sum(_SHARES[path] for path, _, _ in wanted)
    return [
        (
            Job(
                path,
                subjects,
                seed,
                first=args.index or 0,
                calls=1 if args.index is not None else args.calls,
                seconds=60 * args.minutes * _SHARES[path] / shares,
                good=args.good,
                threads=args.threads,
            ),
            {"MS_DSV32_CPU_ISA": isa} if isa else {},
        )
        for path, subjects, isa in wanted
    ]
