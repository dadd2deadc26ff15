"""Tables of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

TORCH = ("torch", "torch.compile")


def best(contenders: Mapping[str, Mapping[str, Any]], names: Sequence[str], key: str = "min_ms") -> float | None:
    """The least time of some contenders, or None if none of them ran."""
    return min((contenders[n][key] for n in names if key in contenders.get(n, {})), default=None)


def ratio(a: float | None, b: float | None) -> str:
    return "-" if a is None or b is None else f"{a / b:.2f}" if a / b < 10 else f"{a / b:.0f}"


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def table(op: str, results: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Minima in ms of one operator, and the ratios that matter; what did not run is listed below."""
    out = Table(title=f"{op} (minima in ms; ratios of minima, in brackets of medians)")
    names = _names(results)
    for column in ("shape", "GB/s", "roofline", *names, "kernel / roofline", "torch / kernel", "mindspore / kernel"):
        out.add_column(column, justify="left" if column == "shape" else "right")
    for result in results:
        of = result["contenders"]
        bound = "memory" if result["memory_ms"] > result["compute_ms"] else "compute"
        kernel, kernel_median = best(of, ["kernel"]), best(of, ["kernel"], "median_ms")
        own = ratio(kernel, result["roofline_ms"])
        rivals = [
            f"{ratio(best(of, rival), kernel)} ({ratio(best(of, rival, 'median_ms'), kernel_median)})"
            for rival in (TORCH, ("mindspore",))
        ]
        out.add_row(
            result["label"],
            f"{result['read_gbps']['huge']['max']:.1f}",
            f"{milliseconds(result['roofline_ms'])} {bound}",
            *(milliseconds(best(of, [n])) for n in names),
            f"{own} ({ratio(kernel_median, result['roofline_median_ms'])})",
            *rivals,
        )
    console.print(out)
    for result in results:
        for name, contender in result["contenders"].items():
            if reason := contender.get("error"):
                console.print(f"[red]{op} {result['label']}: {name} failed: {reason}[/red]")
            elif reason := contender.get("skipped"):
                console.print(f"{op} {result['label']}: {name} left out: {reason}")


def _names(results: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result["contenders"]))
