"""``python -m ms_dsv32.weights``: tells what is in a checkpoint, and converts it to files of our own."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from ms_dsv32.weights.conversion import (
    FORMATS,
    REPORT,
    Found,
    Lost,
    Written,
    convert,
    inspect,
    numbers,
    ranges,
    text_of,
)

_PIPED_WIDTH = 1000  # columns, more than any line has


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    args = _parse(argv)
    piped = not sys.stdout.isatty()  # lines are not cut then: rich would cut names to fit 80 columns
    console = Console(soft_wrap=piped, width=_PIPED_WIDTH if piped else None)
    try:
        return _inspect(args, console) if args.command == "inspect" else _convert(args, console)
    except (KeyError, TypeError, ValueError, OSError) as error:
        text = text_of(error)
        own = f"{args.command}: "
        print(text if text.startswith(own) else own + text, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{args.command}: interrupted; the same command goes on where this one was", file=sys.stderr)
        return 130


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ms_dsv32.weights", description="Tells what is in a checkpoint, and converts it."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    tell = commands.add_parser("inspect", help="tell format, layers, and what would be loaded")
    make = commands.add_parser("convert", help="write the attention's weights, one file for each layer and rank")
    for command in (tell, make):
        command.add_argument("source", type=Path, nargs="+", help="a directory, an index, or safetensors files")
        if command is make:
            command.add_argument("out", type=Path, help="directory to write to")
        command.add_argument("--layers", type=_layers, metavar="0-2,5", help="numbers of layers (default: all)")
        command.add_argument(
            "--allow-unknown", action="store_true", help="pass over tensors of a layer that are not known"
        )
    make.add_argument(
        "--tensor-parallel", type=int, default=1, metavar="N", help="ranks that share the query heads (default: 1)"
    )
    make.add_argument("--format", choices=FORMATS, help="refuse a source in another format")
    make.add_argument("--overwrite", action="store_true", help="replace files of another source")
    return parser.parse_args(argv)


def _layers(text: str) -> list[int]:
    try:
        return numbers(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _inspect(args: argparse.Namespace, console: Console) -> int:
    found = inspect(args.source, args.layers, allow_unknown=args.allow_unknown)
    alike: dict[tuple[object, ...], list[Found]] = {}
    for layer in found:
        parts = tuple((p.weight, p.name.removeprefix(layer.prefix), p.kind, p.shape) for p in layer.parts)
        alike.setdefault((layer.whose, layer.format, layer.n_q, bool(layer.refused), parts), []).append(layer)
    for group in alike.values():
        first = group[0]
        if first.refused:
            for layer in group:
                console.print(Text(f"layer {layer.layer}: refused: {layer.refused}", style="bold red"))
            continue
        title = f"layers {ranges([layer.layer for layer in group])}: {first.format}, {first.n_q} query heads"
        prefix = re.sub(rf"(?<=\.){first.layer}(?=\.)", "N", first.prefix)
        console.print(Text(f"{title}, names of {first.whose}, {prefix or 'without a prefix'}", style="bold"))
        table = Table("weight", Column("from", overflow="fold"), "format", "shape", box=box.SIMPLE)
        for part in first.parts:
            table.add_row(part.weight, part.name.removeprefix(first.prefix), part.kind, str(part.shape))
        console.print(table)
    return 1 if any(layer.refused for layer in found) else 0


def _convert(args: argparse.Namespace, console: Console) -> int:
    total = kept = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("checking", total=None)

        def tell(written: Written) -> None:
            nonlocal total, kept
            total, kept = written.total, kept + written.kept
            description = f"layer {written.layer}, rank {written.rank}{' (kept)' if written.kept else ''}"
            progress.update(task, description=description, advance=1, total=written.total)

        lost = convert(
            args.source,
            args.out,
            layers=args.layers,
            tensor_parallel=args.tensor_parallel,
            format=args.format,
            allow_unknown=args.allow_unknown,
            overwrite=args.overwrite,
            tell=tell,
        )
    console.print(_table(lost))
    text = f"{total} files in {args.out}, {kept} of them kept; {args.out / REPORT} has the errors of each layer"
    console.print(Text(text))
    return 0


def _table(lost: list[Lost]) -> Table:
    """The largest error of each weight, over all layers."""
    table = Table("weight", "format", "largest relative error", "in layer", box=box.SIMPLE)
    for weight in dict.fromkeys(matrix.weight for matrix in lost):
        worst = max((m for m in lost if m.weight == weight), key=lambda m: m.relative_error)
        formats = sorted({m.format for m in lost if m.weight == weight})
        table.add_row(weight, ", ".join(formats), f"{worst.relative_error:.2e}", str(worst.layer))
    return table


if __name__ == "__main__":
    sys.exit(main())
