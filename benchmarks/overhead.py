"""Measures what a call through MindSpore costs over the bare kernel, and what each further node of a graph costs."""

from __future__ import annotations

import ctypes
import shlex
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import nn
from mindspore.ops import signature
from rich.console import Console
from rich.table import Table

from benchmarks import ours
from benchmarks.limits import machine
from benchmarks.shapes import ATTENTION, EPILOG, FUSED, INDEXER, INDEXER_PROLOG, MLA, Shape, make_case
from ms_dsv32 import kernel_impl, op_info, ops, weights

NODES = (1, 2, 4, 8, 16)
CHAIN = Shape(INDEXER, 1, 1, 128)
"""The operator of the chain of nodes: with 128 keys its kernel takes a few microseconds."""
UNTIMED, TIMED = 2, 3
"""Calls of one kind in a row: MindSpore's threads look for work for a millisecond, on a core of the next call's."""


def overhead(console: Console, repeats: int = 200) -> dict[str, Any]:
    """Times of all operators at one token, hot, and of graphs of several nodes; in microseconds."""
    found: dict[str, Any] = {"machine": machine(), "operators": {}, "nodes": {}}
    table = Table(title="One token, hot, microseconds: median (minimum)")
    for column in ("operator", "bare kernel", "PyNative over it", "empty", "graph over it", "jit over it", "empty"):
        table.add_column(column, justify="left" if column == "operator" else "right")
    for shape in (CHAIN, *(Shape(op, 1, 1, 4096) for op in (INDEXER, ATTENTION, INDEXER_PROLOG, MLA, FUSED, EPILOG))):
        times = _interleaved(_calls(shape), repeats)
        found["operators"][f"{shape.op} kv={shape.kv}"] = times
        table.add_row(f"{shape.op} kv={shape.kv}", _text(times["kernel"]), *(_text(c) for c in _over(times)))
    console.print(table)
    found["nodes"] = _nodes(console, repeats)
    return found


@dataclass(frozen=True)
class _Call:
    """The call that is timed, and the untimed calls before it: one for all calls in a row, and one for each."""

    call: Callable[[], Any]
    once: Callable[[], None] = lambda: None
    before: Callable[[], Any] = lambda: None


def _calls(shape: Shape) -> dict[str, _Call]:
    """The operator bare and in both modes, and an empty operator with its arguments, called right after its kernel.

    In a graph an empty operator tells MindSpore's share. In PyNative mode it tells what MindSpore's own way of calling
    a `Custom` operator takes, which our operators do not use.
    """
    case = make_case(shape)
    found = {c.name: _Call(c.call, c.before) for c in ours.contenders(shape, case, lambda: None)}
    empty = _empty(shape.op, ours._packed(case), ours._format(case))
    names = {"pynative": ms.PYNATIVE_MODE, "graph": ms.GRAPH_MODE}
    kernel = found["kernel"].call
    for name, mode in names.items():
        found[f"empty {name}"] = _Call(empty[name], lambda mode=mode: ms.set_context(mode=mode), kernel)
    return found


def _over(times: dict[str, dict[str, float]]) -> list[dict[str, float]]:
    """In both modes the time over the kernel's, and the empty operator's time. `jit` is beside graph mode."""
    over = {n: {k: times[n][k] - times["kernel"][k] for k in times[n]} for n in ("pynative", "graph", "jit")}
    return [over["pynative"], times["empty pynative"], over["graph"], over["jit"], times["empty graph"]]


def _text(time_of: dict[str, float]) -> str:
    return f"{time_of['median']:.0f} ({time_of['min']:.0f})"


class _Empty(nn.Cell):
    def __init__(self, custom: Any) -> None:
        super().__init__()
        self.custom = custom

    def construct(self, *tensors):
        return self.custom(*tensors)


def _empty(op: str, inputs: dict[str, Any], attributes: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The call, by mode, of an operator that has the inputs, outputs and attributes of `op` and does nothing."""
    info = op_info.load(op)
    bound = op_info.bind_attrs(info, attributes)
    dtypes = [kernel_impl._MS_DTYPES.get(a.dtype, a.dtype.name) for a in inputs.values()]
    shapes = kernel_impl.validate(op, [a.shape for a in inputs.values()], dtypes, bound)
    path, library = _empty_library()
    dims = [d for shape in shapes for d in shape]
    ranks = (ctypes.c_int * len(shapes))(*map(len, shapes))
    library.EmptySetOutputs(len(shapes), ranks, (ctypes.c_int64 * len(dims))(*dims))
    several = len(shapes) > 1
    name = "Empty" if several else "EmptyOne"
    out_dtypes = tuple(getattr(ms, o.ms_dtype) for o in info.kernel_outputs)
    custom = ms.ops.Custom(f"{path}:{name}", None, out_dtypes if several else out_dtypes[0], "aot")
    for key, value in {"multi_output": several, "reg_op_name": name, "side_effect_mem": True, **bound}.items():
        custom.add_prim_attr(key, value)
    write, read = signature.sig_rw.RW_WRITE, signature.sig_rw.RW_READ
    custom.set_signatures(
        tuple(signature.make_sig(a.name, write if a.in_place else read) for a in info.required_inputs)
    )
    tensors = [weights.to_tensor(value) for value in inputs.values()]
    cell = _Empty(custom)

    def result(outputs: Any) -> None:
        (outputs[-1] if several else outputs).asnumpy()

    return {"pynative": lambda: result(custom(*tensors)), "graph": lambda: result(cell(*tensors))}


_LIBRARIES: list[Any] = []


def _empty_library() -> tuple[Path, ctypes.CDLL]:
    """empty.cc, compiled into a folder that lasts as long as the process: MindSpore opens the library at each call."""
    if not _LIBRARIES:
        source = Path(__file__).with_name("empty.cc")
        folder = tempfile.TemporaryDirectory()
        path = Path(folder.name) / "empty.so"
        compiler = shlex.split(environ.get("CXX", "g++"))
        subprocess.run([*compiler, "-std=c++17", "-O2", "-fPIC", "-shared", str(source), "-o", str(path)], check=True)
        _LIBRARIES.extend((folder, path, ctypes.CDLL(str(path))))
    return _LIBRARIES[1], _LIBRARIES[2]


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
    calls = {"kernel": _Call(ours.bare(CHAIN.op, case.inputs, case.attributes))}
    for nodes in NODES:
        cell = _Chain(nodes)
        calls[str(nodes)] = _Call(
            lambda cell=cell: cell(*tensors).asnumpy(), lambda: ms.set_context(mode=ms.GRAPH_MODE)
        )
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
        table.add_row(str(nodes), _text(of), text)
    console.print(table)
    console.print(
        f"A further node holds its kernel's time; the bare call, with its checks, takes {times['kernel']['min']:.1f}"
    )
    return times


def _interleaved(calls: dict[str, _Call], repeats: int) -> dict[str, dict[str, float]]:
    """Median and minimum of each call in microseconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(-1, -(-repeats // TIMED)):  # the first round compiles
        for name, timed in calls.items():
            timed.once()
            for k in range(UNTIMED + TIMED):
                timed.before()
                start = time.perf_counter()
                timed.call()
                if i >= 0 and k >= UNTIMED:
                    times[name].append(1e6 * (time.perf_counter() - start))
    return {name: {"median": statistics.median(values), "min": min(values)} for name, values in times.items()}
