"""What a call through MindSpore costs over the bare kernel, and what each further node of a graph costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import mindspore as ms
from mindspore import nn
from rich.console import Console
from rich.table import Table

from benchmarks import ours
from benchmarks.limits import machine
from benchmarks.shapes import ATTENTION, FUSED, INDEXER, INDEXER_PROLOG, MLA, Shape, make_case
from ms_dsv32 import ops, weights

NODES = (1, 2, 4, 8, 16)
CHAIN = Shape(INDEXER, 1, 1, 128)
"""The operator of the chain of nodes: with 128 keys its kernel takes a few microseconds."""


def overhead(console: Console, repeats: int = 200) -> dict[str, Any]:
    """Times of all operators at one token, hot, and of graphs of several nodes; in microseconds."""
    found: dict[str, Any] = {"machine": machine(), "operators": {}, "nodes": {}}
    table = Table(title="One token, hot, microseconds: median (minimum)")
    for column in ("operator", "bare kernel", "PyNative over it", "graph over it"):
        table.add_column(column, justify="left" if column == "operator" else "right")
    for shape in (CHAIN, *(Shape(op, 1, 1, 4096) for op in (INDEXER, ATTENTION, INDEXER_PROLOG, MLA, FUSED))):
        calls = {c.name: (c.before, c.call) for c in ours.contenders(shape, make_case(shape), lambda: None)}
        times = _interleaved(calls, repeats)
        found["operators"][f"{shape.op} kv={shape.kv}"] = times
        kernel = times["kernel"]
        over = [
            f"{times[n]['median'] - kernel['median']:.0f} ({times[n]['min'] - kernel['min']:.0f})"
            for n in ("pynative", "graph")
        ]
        table.add_row(f"{shape.op} kv={shape.kv}", f"{kernel['median']:.0f} ({kernel['min']:.0f})", *over)
    console.print(table)
    found["nodes"] = _nodes(console, repeats)
    return found


class _Chain(nn.Cell):
    """The same operator several times; side effects keep all calls."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.nodes = nodes

    def construct(self, q_int8, q_scale, head_weights, k_cache, k_cache_scale, block_table, kv_act_seqs):
        out = None
        for _ in range(self.nodes):
            out = ops.lightning_indexer_quant(
                q_int8, q_scale, head_weights, k_cache, k_cache_scale, block_table, kv_act_seqs
            )
        return out


def _nodes(console: Console, repeats: int) -> dict[str, Any]:
    case = make_case(CHAIN)
    tensors = [weights.to_tensor(v) for v in case.inputs.values()]
    calls: dict[str, tuple[Callable[[], None], Callable[[], Any]]] = {
        "kernel": (lambda: None, ours.bare(CHAIN.op, case.inputs, case.attributes))
    }
    for nodes in NODES:
        cell = _Chain(nodes)
        calls[str(nodes)] = (lambda: ms.set_context(mode=ms.GRAPH_MODE), lambda cell=cell: cell(*tensors).asnumpy())
    times = _interleaved(calls, repeats)
    table = Table(title=f"Graphs of {CHAIN.op} kv={CHAIN.kv}, microseconds: median (minimum)")
    for column in ("nodes", "graph", "for each further node"):
        table.add_column(column, justify="right")
    first = times[str(NODES[0])]
    for nodes in NODES:
        of = times[str(nodes)]
        further = {k: (of[k] - first[k]) / (nodes - NODES[0]) for k in of} if nodes > NODES[0] else {}
        of |= {f"further_{k}": v for k, v in further.items()}
        text = f"{further['median']:.1f} ({further['min']:.1f})" if further else ""
        table.add_row(str(nodes), f"{of['median']:.0f} ({of['min']:.0f})", text)
    console.print(table)
    console.print(
        f"A further node holds its kernel's time; the bare call, with its checks, takes {times['kernel']['min']:.1f}"
    )
    return times


def _interleaved(
    calls: dict[str, tuple[Callable[[], None], Callable[[], Any]]], repeats: int
) -> dict[str, dict[str, float]]:
    """Median and minimum of each call in microseconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(-3, repeats):  # the first rounds compile and warm up
        for name, (before, call) in calls.items():
            before()
            start = time.perf_counter()
            call()
            if i >= 0:
                times[name].append(1e6 * (time.perf_counter() - start))
    return {name: {"median": statistics.median(values), "min": min(values)} for name, values in times.items()}
