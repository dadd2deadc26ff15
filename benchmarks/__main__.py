"""Command line of the benchmarks.

python -m benchmarks                  all contenders at all shapes: table, JSON, roofline and bar plot
python -m benchmarks overhead         MindSpore's calls over the bare kernels
python -m benchmarks scaling          cost against tokens, keys, sequences and threads
python -m benchmarks accuracy         the layer beside the model in float32; also the table of docs/accuracy.md
python -m benchmarks plot             plots and tables of all instruction sets again, from the JSON files
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.worker import FAMILIES, set_environment
from ms_dsv32 import kernel_impl

RESULTS = Path(__file__).resolve().parent / "results"
"""A folder for each instruction set whose kernels were measured."""


def main() -> None:
    args = _arguments()
    set_environment(args.threads)  # before anything starts threads
    console = Console(width=args.width) if args.width else Console()
    output = (args.output or RESULTS / kernel_impl.isa()).resolve()
    if args.command != "plot":
        output.mkdir(parents=True, exist_ok=True)
    suffix = "" if args.cold else "_hot"
    if args.command == "run":
        from benchmarks.run import Settings, run

        settings = Settings(
            tuple(args.ops), tuple(args.contenders), args.quick, args.cold, args.repeats, args.seconds, args.limit
        )
        path = output / f"benchmarks{suffix}.json"
        interrupted = json.loads(path.read_text()) if args.resume else None
        run(settings, console, lambda found: _save(found, path), interrupted)
    elif args.command == "overhead":
        from benchmarks.overhead import overhead

        _save(overhead(console), output / "overhead.json")
    elif args.command == "scaling":
        from benchmarks.scaling import scaling

        _save(scaling(console, args.quick, args.repeats), output / "scaling.json")
    elif args.command == "accuracy":
        from benchmarks.accuracy import KEYS, accuracy

        found = accuracy(console, args.heads, KEYS[:2] if args.quick else KEYS)
        _save(found, output / "accuracy.json")
    everywhere = args.command == "plot" and not args.output
    for folder in sorted(p for p in RESULTS.iterdir() if p.is_dir()) if everywhere else [output]:
        _plot(folder, console)
    if output.parent == RESULTS:
        _write_accuracy_page(console)


def _arguments() -> argparse.Namespace:
    from benchmarks.shapes import OPS

    names = [name for family in FAMILIES.values() for name in family]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", default="run", choices=("run", "overhead", "scaling", "accuracy", "plot"))
    parser.add_argument("--ops", nargs="+", choices=OPS, default=OPS, metavar="OP", help=f"of {', '.join(OPS)}")
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=names,
        default=[n for n in names if n != "golden"],
        metavar="NAME",
        help=f"of {', '.join(names)}; all but golden by default",
    )
    parser.add_argument("--quick", action="store_true", help="few, small shapes")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    parser.add_argument("--hot", dest="cold", action="store_false", help="do not flush the caches before each call")
    parser.add_argument("--heads", type=int, default=128, help="query heads of the layer whose accuracy is told (128)")
    parser.add_argument("--repeats", type=int, default=15, help="timed calls of each contender at most (15)")
    parser.add_argument("--seconds", type=float, default=4.0, help="budget of a shape beyond preparation (4)")
    parser.add_argument("--limit", type=float, default=3.0, help="leave out rivals that take longer for a call (3 s)")
    parser.add_argument("--threads", type=int, default=0, help="of all contenders (all CPUs of the process)")
    parser.add_argument("--width", type=int, default=0, help="columns of the tables")
    parser.add_argument(
        "--output", type=Path, help="folder of the JSON and PNG files; by default results/ and the instruction set"
    )
    return parser.parse_args()


def _save(found: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n")


def _plot(folder: Path, console: Console) -> None:
    """Draws plots and writes tables of the results that are there."""
    from benchmarks import plots, report

    drawn = {
        "roofline.png": (plots.roofline, "benchmarks.json"),
        "bars.png": (plots.bars, "benchmarks.json"),
        "bars_hot.png": (plots.bars, "benchmarks_hot.json"),
        "scaling.png": (plots.scaling, "scaling.json"),
        "accuracy.png": (plots.accuracy, "accuracy.json"),
    }
    for name, (draw, source) in drawn.items():
        if (folder / source).is_file():
            draw(json.loads((folder / source).read_text()), folder / name)
            console.print(folder / name)
    for source in ("benchmarks.json", "benchmarks_hot.json"):
        if (folder / source).is_file():
            page = (folder / source).with_suffix(".md")
            page.write_text(report.markdown(json.loads((folder / source).read_text())))
            console.print(page)


def _write_accuracy_page(console: Console) -> None:
    """Writes the runs of all instruction sets into the page."""
    from benchmarks import report

    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*/accuracy.json"))]
    report.ACCURACY_PAGE.write_text(report.accuracy_page(report.ACCURACY_PAGE.read_text(), runs))
    console.print(report.ACCURACY_PAGE)


if __name__ == "__main__":
    main()
