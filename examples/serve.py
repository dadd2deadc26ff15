"""Serves requests with one layer of DeepSeek-V3.2's sparse attention: continuous batching in one compiled graph.

Requests arrive at random (Poisson). Each step is one call of `cells.SparseAttentionLayer` with a fixed number of tokens
and of sequences. Every sequence that decodes has one token in it, chunks of prompts fill it up, and the rest is
padding. Requests whose tokens begin alike share full blocks of the cache. When no block is free, the youngest request
gives its blocks back and is computed again later.

Weights are random. A hash of a token and its position chooses its hidden state, and a hash of hidden_out chooses the
next token. So equal tokens have equal keys, and one wrong bit gives another text. The clock counts the time of the
steps only, without waiting for arrivals. At the end each request is run again alone, with other blocks, other chunks
and no padding. The exit status says whether all hidden states have the same bits.

    python examples/serve.py                         24 requests, graph mode
    python examples/serve.py --blocks 200            enough blocks for all: no request is computed twice
    python examples/serve.py --tokens-per-step 256 --sequences 32 --requests 100 --rate 20
    python examples/serve.py --dynamic               no padding: t and b of the graph are unknown
    python examples/serve.py --plot serve.png        needs matplotlib: pip install -e '.[bench]'
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
import zlib
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")  # MindSpore: errors only

import mindspore as ms
import numpy as np
from batching import BlockAllocator, Request, Scheduler
from mindspore.graph.api import ms_compile_cache
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ms_dsv32 import cells, golden, kernel_impl, paging, rope, weights
from ms_dsv32.config import ModelConfig

Array = NDArray[Any]
VOCABULARY = 129280
HIDDEN_STATES = 1024  # random hidden states, 14 MiB, among which a hash of token and position chooses
PREFIXES = 2  # each request begins with one of so many prefixes


class Model:
    """One layer, its caches, and hidden states for tokens.

    Args:
        args: the options. The caller has set the mode.
        columns: columns of block tables.
    """

    def __init__(self, args: argparse.Namespace, columns: int) -> None:
        heads, seed = args.heads, args.seed
        self.layer = cells.SparseAttentionLayer.from_config(ModelConfig(), max_blocknum_perbatch=columns, n_q=heads)
        mla, indexer = golden.make_weights(seed, n_q=heads)
        self.layer.set_weights({**mla, **indexer, **golden.make_epilog_weights(seed, n_q=heads)})
        self.caches = cells.make_caches(args.blocks)
        self._columns, self._t, self._b, self._mode = columns, args.tokens_per_step, args.sequences, args.mode
        self._dynamic = args.dynamic
        if self._dynamic and self._mode != "pynative":
            self.layer.set_dynamic_tokens(args.blocks, ragged=True)
        self._call: Any = ms.jit(self.layer) if self._mode == "jit" else self.layer
        random = np.random.default_rng(seed).standard_normal((HIDDEN_STATES, 7168), np.float32)
        self._hidden_states = golden.float32_to_bf16(random)

    def step(self, plan: list[tuple[Request, int]]) -> Array:
        """hidden_out [t, 7168] of a step. Rows after the plan's tokens are padding, and so are further sequences."""
        t, b = self._t, self._b
        if self._dynamic:
            t, b = sum(count for _, count in plan), len(plan)
        counts, lengths = np.zeros(b, np.int32), np.zeros(b, np.int32)
        table = np.full((b, self._columns), -1, np.int32)
        tokens: list[int] = []
        for i, (request, count) in enumerate(plan):
            counts[i], lengths[i] = count, request.computed + count
            table[i, : len(request.blocks)] = request.blocks
            tokens += request.tokens[request.computed : lengths[i]]
        sequence, position = paging.ragged_tokens(lengths, counts, t)
        index = paging.cache_index_of(table[sequence], position[:, None])[:, 0]  # -1 for padding
        tokens += [0] * (t - len(tokens))
        return self._run(self._call, tokens, np.maximum(position, 0), index, table, lengths, self.caches, counts)

    def alone(self, request: Request) -> Array:
        """hidden_out of all tokens of a request, in PyNative calls of its own of up to 1024 tokens each."""
        length = request.longest
        table = paging.make_block_table([length], max_blocknum_perbatch=self._columns)
        caches = cells.make_caches(paging.block_num_of([length]))
        rows = []
        for first in range(0, length, 1024):
            position = np.arange(first, min(first + 1024, length))
            index = paging.cache_index_of(table, position[None])[0]
            end = position[-1:].astype(np.int32) + 1
            rows.append(self._run(self.layer, request.tokens[first : end[0]], position, index, table, end, caches))
        return np.concatenate(rows)

    def graphs(self) -> int:
        """How many graphs MindSpore has compiled for the steps. PyNative mode has none."""
        return len({"graph": self.layer.compile_cache, "jit": ms_compile_cache}.get(self._mode, ()))

    def _run(
        self,
        call: Any,
        tokens: list[int],
        position: Array,
        index: Array,
        table: Array,
        lengths: Array,
        caches: Any,
        *last: Array,
    ) -> Array:
        cos, sin = rope.rope_tables(position, ModelConfig())
        rows = (np.array(tokens, np.int64) * 2654435761 + position * 40503) % HIDDEN_STATES
        arrays = (self._hidden_states[rows], cos, sin, index, table, lengths)
        hidden_out = call(*map(weights.to_tensor, arrays), *caches, *map(weights.to_tensor, last))
        return weights.to_array(hidden_out).copy()


@dataclass
class Step:
    """What a step computed. `end` is the time after it."""

    end: float
    seconds: float
    decoded: int
    prefilled: int
    running: int
    used_blocks: int


def make_requests(args: argparse.Namespace) -> list[Request]:
    """Requests at random times. Each has one of a few prefixes, few or many tokens of its own, and a length."""
    rng = np.random.default_rng(args.seed)
    prefixes = rng.integers(VOCABULARY, size=(PREFIXES, args.prefix))
    arrivals = np.cumsum(rng.exponential(1 / args.rate, args.requests))
    requests = []
    for index, arrival in enumerate(arrivals):
        own = rng.integers(VOCABULARY, size=1 + min(int(rng.exponential(args.prompt)), 4 * args.prompt))
        tokens = [*prefixes[rng.integers(PREFIXES)].tolist(), *own.tolist()]
        new_tokens = int(rng.integers(args.new_tokens // 2 + 1, args.new_tokens + 1))
        requests.append(Request(index, float(arrival), len(tokens), new_tokens, tokens))
    return requests


def serve(model: Model, scheduler: Scheduler, requests: list[Request], progress: Progress, *, keep: bool) -> list[Step]:
    """Runs steps until every request has its tokens. With `keep` requests keep the hidden_out of each step."""
    arrivals, clock, steps = deque(requests), 0.0, list[Step]()
    task = progress.add_task("new tokens", total=sum(request.new_tokens for request in requests))
    while arrivals or scheduler.waiting or scheduler.running:
        if not scheduler.waiting and not scheduler.running:
            clock = max(clock, arrivals[0].arrival)
        while arrivals and arrivals[0].arrival <= clock:
            scheduler.add(arrivals.popleft())
        start = time.perf_counter()
        plan = scheduler.plan()
        used = scheduler.allocator.used
        hidden_out = model.step(plan)
        seconds = time.perf_counter() - start
        clock += seconds
        decoded = sum(count == 1 and request.computed >= request.prompt for request, count in plan)
        prefilled = sum(count for _, count in plan) - decoded
        steps.append(Step(clock, seconds, decoded, prefilled, len(plan), used))
        first = 0
        for request, count in plan:
            rows = hidden_out[first : first + count]
            first += count
            if keep:
                request.hidden.append((request.computed, rows))
            ready = len(request.times)
            scheduler.advance(request, count, zlib.crc32(rows[-1].tobytes()) % VOCABULARY, clock)
            progress.advance(task, len(request.times) - ready)
    return steps


def differences(model: Model, request: Request) -> list[str]:
    """The places where the hidden states of a request differ from those of a run of its own."""
    want = model.alone(request)
    found = []
    for first, rows in request.hidden:
        differs = np.flatnonzero((rows != want[first : first + len(rows)]).any(axis=1))
        if differs.size:
            where = f"position {first + differs[0]} of the step from {first} to {first + len(rows) - 1}"
            found.append(f"request {request.index}: hidden_out differs in {differs.size} tokens, the first at {where}")
    return found


def latencies(requests: list[Request]) -> dict[str, Array]:
    """Seconds until each request's first new token, and between the new tokens of each."""
    between = [after - before for request in requests for before, after in pairwise(request.times)]
    first = [request.times[0] - request.arrival for request in requests]
    return {"time to first token": np.array(first), "between tokens": np.array(between)}


def print_report(console: Console, requests: list[Request], steps: list[Step], scheduler: Scheduler) -> None:
    new, seconds = sum(len(request.times) for request in requests), sum(step.seconds for step in steps)
    computed = sum(step.decoded + step.prefilled for step in steps)
    table = Table(title="served", title_justify="left", show_header=False)
    for name, value in {
        "steps": f"{len(steps)}, median {1e3 * float(np.median([step.seconds for step in steps])):.1f} ms",
        "new tokens": f"{new}, {new / seconds:.0f} a second",
        "computed tokens": f"{computed}, {computed / seconds:.0f} a second",
        "tokens found in blocks": f"{sum(request.found for request in requests)}, not computed",
        "preemptions": f"{scheduler.preemptions}, of {scheduler.given_up} tokens",
        "most blocks in use": f"{max(step.used_blocks for step in steps)} of {scheduler.allocator.count}",
    }.items():
        table.add_row(name, value)
    console.print(table)
    table = Table("latency, ms", title_justify="left")
    for heading in ("p50", "p95", "max"):
        table.add_column(heading, justify="right")
    for name, values in latencies(requests).items():
        if values.size:
            table.add_row(name, *(f"{1e3 * value:.1f}" for value in np.percentile(values, (50, 95, 100))))
    console.print(table)


def plot(path: Path, requests: list[Request], steps: list[Step], t: int) -> None:
    """Draws what the steps computed, and how the latencies are distributed."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(2, figsize=(8, 7))
    ends = [step.end for step in steps]
    decoded, prefilled = [step.decoded for step in steps], [step.prefilled for step in steps]
    top.stackplot(ends, decoded, prefilled, labels=("decoding", "prompts"), colors=("#1b6ca8", "#b5d4e9"), step="pre")
    top.axhline(t, color="black", lw=1, ls="--")
    top.plot(ends, [step.used_blocks for step in steps], color="#d1495b", lw=1, label="blocks in use")
    top.set(xlabel="seconds", ylabel="tokens of a step, blocks", ylim=(0, None))
    for name, values in latencies(requests).items():
        bottom.step(np.sort(1e3 * values), np.linspace(0, 1, values.size), label=name)
    bottom.set(xscale="log", xlabel="milliseconds", ylabel="share of requests or tokens")
    for axes in (top, bottom):
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--rate", type=float, default=2.0, help="requests that arrive in a second")
    parser.add_argument("--prefix", type=int, default=256, help="tokens that requests may have in common")
    parser.add_argument("--prompt", type=int, default=200, help="mean of the other tokens of a prompt; at most 4 times")
    parser.add_argument("--new-tokens", type=int, default=64, help="that follow at most; at least half as many do")
    parser.add_argument("--tokens-per-step", type=int, default=64, help="t of the graph, up to 1024")
    parser.add_argument("--sequences", type=int, default=8, help="b of the graph, up to 128")
    parser.add_argument("--blocks", type=int, default=24, help="of 128 tokens, in the caches")
    parser.add_argument("--heads", type=int, default=128, help="query heads, 1 to 128")
    parser.add_argument("--dynamic", action="store_true", help="no padding: one graph for any number of tokens")
    parser.add_argument("--mode", choices=("graph", "jit", "pynative"), default="graph")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--plot", type=Path, help="a file for a plot of steps and latencies")
    args = parser.parse_args()
    limits = {"requests": (1, 10**6), "rate": (1e-3, 1e6), "prefix": (0, 65536), "prompt": (1, 16384)}
    limits |= {"new_tokens": (1, 65536), "tokens_per_step": (1, 1024), "heads": (1, 128)}
    limits |= {"sequences": (1, min(128, args.tokens_per_step)), "blocks": (1, 10**6)}
    for name, (low, high) in limits.items():
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name.replace('_', '-')} must be in [{low}, {high}], got {getattr(args, name)}")
    if args.plot is not None and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install -e '.[bench]'")
    return args


def main() -> int:
    args = parse()
    console = Console()
    ms.set_context(mode=ms.GRAPH_MODE if args.mode == "graph" else ms.PYNATIVE_MODE)
    requests = make_requests(args)
    columns = int(paging.blocks_of([request.longest for request in requests]).max())
    if columns > args.blocks:
        console.print(f"--blocks must be at least {columns}, which the longest request needs, got {args.blocks}")
        return 2
    t, b = args.tokens_per_step, args.sequences
    console.print(f"kernels: {kernel_impl.isa()}, {kernel_impl.thread_count()} threads; {args.mode}; t = {t}, b = {b}")
    model = Model(args, columns)
    start = time.perf_counter()
    model.step([])  # compiles the graph with padding only, which writes no key
    console.print(f"first step, of padding alone: {time.perf_counter() - start:.1f} s")

    scheduler = Scheduler(BlockAllocator(args.blocks), t, b)
    bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bars, console=console) as progress:
        steps = serve(model, scheduler, requests, progress, keep=args.check)
        graphs = model.graphs()
        found = []
        if args.check:
            ms.set_context(mode=ms.PYNATIVE_MODE)
            for request in progress.track(requests, description="each on its own"):
                found += differences(model, request)
    print_report(console, requests, steps, scheduler)
    if args.plot is not None:
        plot(args.plot, requests, steps, t)
    console.print(f"compiled graphs: {graphs}")
    failures = found + [f"{scheduler.allocator.used} blocks are still in use"] * bool(scheduler.allocator.used)
    if graphs != (args.mode != "pynative"):
        failures.append("expected one graph")
    for failure in failures:
        console.print(failure)
    if args.check:
        same = "every hidden state has the bits of a run of its own"
        console.print("[bold]check FAILED[/]" if failures else f"check passed: {same}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
