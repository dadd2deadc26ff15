"""``python -m tests.mutation``: makes faults, one by one, in copies of the checkout, and checks that a test fails."""

from __future__ import annotations

import argparse
import datetime
import math
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mutation import catalogue, copies, report
from mutation.catalogue import Fault
from mutation.copies import Copy
from mutation.trial import Baseline, Outcome, attempt, confirmed

_EPILOG = """examples:
  python -m tests.mutation --jobs 2                        all of them
  python -m tests.mutation --layer cpu --write             one layer, and what its faults took into the list
  python -m tests.mutation --only cpu-pack-panels          one fault
  python -m tests.mutation --day 2026-12-02 --count 12     those of a day
  python -m tests.mutation --only --write                  the figures alone, after the list has changed

The exit status is 1 if a fault survives, an entry of the list is wrong, or the run was interrupted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Tries the faults that were asked for and prints what became of them; the exit status."""
    args = _parse(argv)
    console = Console(highlight=False)
    faults = _chosen(args)
    outcomes = run(faults, args.jobs, tuple(args.isas.split(",")), console)
    report.show(console, outcomes)
    report.save(args.json, outcomes)
    if args.write:
        catalogue.write_seconds({o.fault.id: math.ceil(o.seconds) for o in outcomes if o.status == "caught"})
        report.write_page(catalogue.load())
    if len(outcomes) < len(faults):
        console.print(f"{len(outcomes)} of {len(faults)} were tried")
        return 1
    return 1 if any(outcome.status in ("survived", "error") for outcome in outcomes) else 0


def run(faults: Sequence[Fault], jobs: int, isas: tuple[str, ...], console: Console) -> list[Outcome]:
    """Tries faults in `jobs` copies at a time. Returns their outcomes in the order of the faults.

    After an interruption from the keyboard, only the faults that were tried have an outcome.
    """
    if not faults:
        return []
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    # Faults of the same instruction sets follow one another, because a change of them builds the library again.
    for index in sorted(range(len(faults)), key=lambda index: faults[index].isas):
        waiting.put(index)
    outcomes: dict[int, Outcome] = {}
    errors: list[BaseException] = []
    baseline, stop = Baseline(), threading.Event()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())

    def work(copy: Copy) -> None:
        mine: list[int] = []
        try:
            while not stop.is_set():
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    break
                outcomes[index] = attempt(copy, faults[index], baseline, isas)
                mine.append(index)
                tell(outcomes[index])
                progress.advance(task)
            if not errors:
                tried = [outcomes[index] for index in mine]
                for index, outcome in zip(mine, confirmed(copy, tried, baseline, isas), strict=True):
                    if outcome != outcomes[index]:
                        tell(outcome)
                    outcomes[index] = outcome
        except BaseException as error:
            errors.append(error)
            stop.set()

    def tell(outcome: Outcome) -> None:
        text = f"{outcome.status:9} {outcome.seconds:6.1f} s  {outcome.fault.id}"
        console.print(f"{text}  {outcome.catcher}", markup=False, soft_wrap=True)

    with copies.copies(min(jobs, len(faults))) as all_copies, Progress(*columns, console=console) as progress:
        task = progress.add_task("faults", total=len(faults))
        threads = [threading.Thread(target=work, args=(copy,)) for copy in all_copies]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            console.print("interrupted: the faults that are being tried come to their end, so that copies are restored")
            stop.set()
            for thread in threads:
                thread.join()
    if errors:
        raise errors[0]
    return [outcomes[index] for index in sorted(outcomes)]


def _chosen(args: argparse.Namespace) -> list[Fault]:
    faults = catalogue.load()
    if args.only is not None:
        if unknown := set(args.only) - {fault.id for fault in faults}:
            raise SystemExit(f"there is no fault {', '.join(sorted(unknown))}")
        faults = [fault for fault in faults if fault.id in args.only]
    if args.layer:
        if unknown := set(args.layer) - {fault.layer for fault in faults}:
            raise SystemExit(f"there is no layer {', '.join(sorted(unknown))}")
        faults = [fault for fault in faults if fault.layer in args.layer]
    if args.day:
        faults = catalogue.of_the_day(faults, args.day, args.count)
    return faults


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--layer", action="append", help="try the faults of a layer (default: all)")
    parser.add_argument("--only", nargs="*", metavar="ID", help="try these faults; without an ID none")
    parser.add_argument("--jobs", type=int, default=1, help="how many copies work at a time (default: %(default)s)")
    isas = ",".join(copies.USUAL_ISAS)
    parser.add_argument(
        "--isas", default=isas, help="what kernels are built for, unless a fault says (default: %(default)s)"
    )
    parser.add_argument("--day", type=datetime.date.fromisoformat, help="try cheap ones that are chosen by a day")
    parser.add_argument("--count", type=int, default=12, help="how many of them (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=copies.FOLDER / "report.json", help="where the report is written")
    parser.add_argument("--write", action="store_true", help="write what faults took into the list, and its figures")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: expected at least 1")
    return args
