"""Compares measured with modelled times on an Atlas A2 or A3: MindSpore's profiler and the emulator's cycle model.

python -m benchmarks.ascend                 every row of the table "Modelled time" in docs/ascend.md
python -m benchmarks.ascend --hot           weights and caches may stay in the L2 cache
python -m benchmarks.ascend --parse FOLDER  the table again, from what the profiler wrote there
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ms_dsv32 import op_info

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "ascend.md"
L2_BYTES = 192 << 20  # L2 of an Ascend 910B1, the largest of the family


@dataclass(frozen=True)
class Modelled:
    """A row of the table: an operator, its tokens and the row's label. The µs of the cycle model and of the roofline
    are at the optimistic end of the assumptions about memory, and the model's also at the pessimistic end."""

    op: str
    t: int
    label: str
    modelled: float
    pessimistic: float
    roofline: float


def modelled() -> list[Modelled]:
    """The rows of docs/ascend.md, which tests/ascendc/modelled_time.py prints.

    Raises:
        ValueError: there is no such table.
    """
    table = DOCS.read_text(encoding="utf-8").partition("| operator, shape |")[2].partition("\n\n")[0]
    titles, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() or [""])
    if not {"modelled µs", "roofline µs"} <= set(titles):
        raise ValueError(f"{DOCS} has no table of modelled times")
    found = []
    for shape, *figures in rows:
        op, t = re.fullmatch(r"`(\w+)`, t = (\d+).*", shape).groups()  # type: ignore[union-attr]
        of = dict(zip(titles, figures, strict=True))
        ends = [float(end) for end in of["modelled µs"].split(" to ")]
        roofline = float(of["roofline µs"].partition(" to ")[0])
        found.append(Modelled(op, int(t), shape.partition(", ")[2], ends[0], ends[-1], roofline))
    return found


def durations(folder: Path, op: str) -> list[float]:
    """Times of an operator's kernel on the device in µs, from the ``kernel_details.csv`` below a folder.

    Raises:
        FileNotFoundError: the profiler wrote no such file.
    """
    files = sorted(folder.rglob("kernel_details.csv"))
    if not files:
        raise FileNotFoundError(f"no kernel_details.csv below {folder}: the profiler's analysis failed, see its output")
    op_type = op_info.load(op).cann_type
    found = []
    for file in files:
        with file.open(newline="", encoding="utf-8") as lines:
            found += [float(r["Duration(us)"]) for r in csv.DictReader(lines) if r["Type"].strip() == op_type]
    return found


def profile(row: Modelled, folder: Path, repeats: int, cold: bool) -> None:
    """Runs the operator `repeats` times under the profiler, which writes below `folder`."""
    import mindspore as ms
    from mindspore import profiler

    call = operator(row)
    flush = ms.ops.zeros((2 * L2_BYTES,), ms.int8)
    for _ in range(3):
        call()
    ms.runtime.synchronize()
    with profiler.profile(
        activities=[profiler.ProfilerActivity.NPU],
        on_trace_ready=profiler.tensorboard_trace_handler(str(folder)),
        experimental_config=profiler._ExperimentalConfig(profiler_level=profiler.ProfilerLevel.Level0),
    ):
        for _ in range(repeats):
            if cold:
                flush = flush + 1
            call()
        ms.runtime.synchronize()


def operator(row: Modelled) -> Callable[[], Any]:
    """The operator as a graph of its own, on the inputs that were modelled, in the memory of the device."""
    import mindspore as ms
    from cases import weight_name

    from ms_dsv32 import ops, weights

    sys.path += [str(ROOT / "tests" / folder) for folder in ("ascendc", "ascendc_emulator")]
    from modelled_time import case_of

    case = case_of(row.op, row.t)
    known = (*weights.MLA_WEIGHTS, *weights.INDEXER_WEIGHTS, *weights.EPILOG_WEIGHTS)
    inputs = []
    for name, array in case.inputs.items():
        if weight_name(name) in known:
            array = weights.prepare(weight_name(name), array, "Ascend")
        inputs.append(weights.to_tensor(array).to("Ascend"))
    attributes = {**case.attributes, **({"weight_format": "PACKED"} if op_info.load(row.op).packable else {})}
    function = getattr(ops, row.op)

    def graph(*tensors: Any) -> Any:
        results = function(*tensors, **attributes)
        return results[0] if isinstance(results, tuple) else results  # not the caches: MindSpore would copy them

    compiled = ms.jit(graph, jit_level="O0")
    return lambda: compiled(*inputs)


def table(rows: Sequence[tuple[Modelled, list[float]]], console: Console) -> None:
    """Prints median and best time of each row beside the modelled ones. Ratios are to the optimistic end."""
    printed = Table(title="µs on the device; modelled and roofline are no measurements")
    for column in ("operator", "shape"):
        printed.add_column(column)
    for column in ("calls", "median", "best", "modelled", "median / modelled", "median / roofline"):
        printed.add_column(column, justify="right")
    for row, times in rows:
        cells = ["-"] * 4
        if times:
            median = statistics.median(times)
            ratios = (median / row.modelled, median / row.roofline)
            cells = [f"{median:.1f}", f"{min(times):.1f}", *(f"{ratio:.2f}" for ratio in ratios)]
        ends = f"{row.modelled:g} to {row.pessimistic:g}"
        printed.add_row(row.op, row.label, str(len(times)), *cells[:2], ends, *cells[2:])
    console.print(printed)


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ascend", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20, help="calls of each row")
    parser.add_argument("--hot", action="store_true", help="do not flush the L2 cache between calls")
    parser.add_argument("--output", type=Path, help="where the profiler writes; by default a folder that is removed")
    parser.add_argument("--parse", type=Path, metavar="FOLDER", help="an --output of before")
    args = parser.parse_args(argv)
    console = Console()
    rows = modelled()
    if args.parse is None:
        import mindspore as ms

        from ms_dsv32 import opp

        try:
            for row in rows:
                opp.find(row.op)
            if ms.get_context("device_target") != "Ascend":
                ms.set_device("Ascend")
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            print(reason if "doctor" in reason else f"{reason}; run python -m ms_dsv32.doctor", file=sys.stderr)
            return 1
    with tempfile.TemporaryDirectory() as scratch:
        root = args.parse or args.output or Path(scratch)

        def measured() -> Iterator[tuple[Modelled, list[float]]]:
            for index, row in enumerate(rows):
                folder = root / f"{index}_{row.op}"
                if args.parse is None:
                    profile(row, folder, args.repeats, cold=not args.hot)
                yield row, durations(folder, row.op)[-args.repeats :]

        try:
            table(list(measured()), console)
        except FileNotFoundError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
