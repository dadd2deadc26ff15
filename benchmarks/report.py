"""Tables of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.limits import describe

TORCH = ("torch", "torch.compile")


def best(contenders: Mapping[str, Mapping[str, Any]], names: Sequence[str], key: str = "min_ms") -> float | None:
    """The least time of some contenders, or None if none of them ran."""
    return min((contenders[n][key] for n in names if key in contenders.get(n, {})), default=None)


def ratio(a: float | None, b: float | None) -> str:
    return "-" if a is None or b is None else f"{a / b:.2f}" if a / b < 10 else f"{a / b:.0f}"


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


HEADINGS = ("kernel / roofline", "torch / graph", "mindspore / graph")
"""The ratios that matter: what the kernels leave of the machine, and what MindSpore's user gets beside the rivals."""


def rows(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The table of one operator, its heading first: minima in ms; ratios of minima, in brackets of medians."""
    names = list(dict.fromkeys(name for result in results for name in result["contenders"]))
    found = [["shape", "GB/s", "roofline", *names, *HEADINGS]]
    for result in results:
        of = result["contenders"]
        bound = "memory" if result["memory_ms"] > result["compute_ms"] else "compute"
        graph, graph_median = best(of, ["graph"]), best(of, ["graph"], "median_ms")
        rivals = [
            f"{ratio(best(of, rival), graph)} ({ratio(best(of, rival, 'median_ms'), graph_median)})"
            for rival in (TORCH, ("mindspore",))
        ]
        times = [milliseconds(best(of, [n])) for n in names]
        limits = [f"{result['read_gbps']['huge']['max']:.1f}", f"{milliseconds(result['roofline_ms'])} {bound}"]
        found.append([result["label"], *limits, *times, _over_roofline(result), *rivals])
    return found


def over_roofline(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The bare kernels' times over the roofline, by operator and tokens; its heading first."""
    tokens = sorted({r["t"] for r in results})
    found = [["kernel / roofline, t =", *map(str, tokens)]]
    lines: dict[str, dict[int, str]] = {}
    for result in results:
        _, kv, keys = result["label"].partition(" kv=")
        name = f"{result['op']}, {keys} keys" if kv else result["op"]
        lines.setdefault(name, {})[result["t"]] = _over_roofline(result)
    found += [[name, *(line.get(t, "-") for t in tokens)] for name, line in lines.items()]
    return found


def _over_roofline(result: Mapping[str, Any]) -> str:
    of = result["contenders"]
    own = ratio(best(of, ["kernel"]), result["roofline_ms"])
    return f"{own} ({ratio(best(of, ['kernel'], 'median_ms'), result['roofline_median_ms'])})"


TARGET = 5.0
"""How many times as fast as MindSpore's own operators ours are meant to be."""


def beside_rivals(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The least and the greatest ratio of the rivals' times to ours in graph mode, by operator; its heading first."""
    found = [["operator", "torch / graph", "mindspore / graph", f"of these {TARGET:g} or more"]]
    ops = list(dict.fromkeys(r["op"] for r in results))
    for name, some in [*((op, [op]) for op in ops), *([("all", ops)] if len(ops) > 1 else [])]:
        line = [name]
        for rival in (TORCH, ("mindspore",)):
            times = [
                (best(r["contenders"], rival), best(r["contenders"], ["graph"])) for r in results if r["op"] in some
            ]
            ratios = [a / b for a, b in times if a is not None and b is not None]
            line.append(f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "-")
        found.append([*line, f"{sum(r >= TARGET for r in ratios)} of {len(ratios)}"])
    return found


def left_out(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was not timed, and why."""
    found = []
    for result in results:
        for name, contender in result["contenders"].items():
            if reason := contender.get("error"):
                found.append(f"{result['op']} {result['label']}: {name} failed: {reason}")
            elif reason := contender.get("skipped"):
                found.append(f"{result['op']} {result['label']}: {name} left out: {reason}")
    return found


def table(op: str, results: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Prints the table of one operator."""
    heading, *lines = rows(results)
    out = Table(title=f"{op} (minima in ms; ratios of minima, in brackets of medians)")
    for column in heading:
        out.add_column(column, justify="left" if column == "shape" else "right")
    for line in lines:
        out.add_row(*line)
    console.print(out, *left_out(results), sep="\n")


def markdown(found: Mapping[str, Any]) -> str:
    """All tables of a run as a Markdown page."""
    cache = "cold" if found["settings"]["cold"] else "hot"
    out = [
        "<!-- Generated by `python -m benchmarks`. Do not edit. -->",
        f"# Benchmarks, {cache}",
        "",
        describe(found["machine"]),
        "",
    ]
    out += ["Minima in ms; ratios of minima, in brackets of medians. What each column is: [README](../README.md).", ""]
    results = found["results"]
    out += [*_lines(beside_rivals(results)), *_lines(over_roofline(results))]
    for op in dict.fromkeys(r["op"] for r in results):
        out += [f"## {op}", "", *_lines(rows([r for r in results if r["op"] == op]))]
    if missing := left_out(results):
        out += ["Not timed:", "", *(f"- {line}" for line in missing), ""]
    return "\n".join(out)


def _lines(table: Sequence[Sequence[str]]) -> list[str]:
    """A table as Markdown."""
    heading, *lines = table
    return [*(f"| {' | '.join(line)} |" for line in (heading, ["---"] * len(heading), *lines)), ""]
