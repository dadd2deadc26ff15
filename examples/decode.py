"""Decodes with DeepSeek-V3.2's sparse attention at full size, on the CPU or on an Atlas A2/A3.

One layer's weights are made from a seed. Sequences of different lengths share a paged int8 cache; each is prefilled in
chunks, then all are decoded together, `--s1` tokens of each a step (s1 > 1 is multi-token prediction). The hidden
states are random: this is one layer, not a model. At the end the last step and some tokens of the prompts are computed
again by the golden reference in NumPy, and the exit status says whether the two agree and no other row of a cache has
changed.

    python examples/decode.py                                   4 sequences of up to 4096 keys, graph mode
    python examples/decode.py --mode pynative --kv-len 131072 --batch 1
    python examples/decode.py --steps 0                         prefill alone
    python examples/decode.py --device Ascend                   needs CANN and the built operators, see docs/ascend.md
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("GLOG_v", "3")  # MindSpore: errors only

import mindspore as ms
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ms_dsv32 import cells, config, golden, kernel_impl, op_info, weights

Array = NDArray[Any]
CACHES = ("mla_kv_cache", "mla_kr_cache", "mla_k_scale_cache", "ip_k_cache", "ip_k_cache_scale")
# How far a step may be from the golden reference, as the relative RMS error: some roundings of bfloat16 (2^-8) or int8
# (1/127) fall the other way, each a small part of the values. A lost row alone is 1 over the root of the rows compared.
LIMIT = 0.01
CHECKED_TOKENS = 4  # of each sequence, the last ones of the last step
CHECKED_PROMPT_TOKENS = 16  # of all prompts: a lost row would be 0.25


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4, help="sequences")
    parser.add_argument(
        "--kv-len", type=int, default=4096, help="keys of the longest sequence at the end, up to 131072"
    )
    parser.add_argument("--s1", type=int, default=2, help="tokens of each sequence in a step, 1 to 4")
    parser.add_argument("--steps", type=int, default=16, help="decode steps")
    parser.add_argument("--chunk", type=int, default=512, help="tokens of a prefill chunk, 1 to 1024")
    parser.add_argument("--heads", type=int, default=128, help="query heads of this rank, 1 to 128")
    parser.add_argument("--mode", choices=("graph", "pynative"), default="graph")
    parser.add_argument("--device", choices=("CPU", "Ascend"), default="CPU")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    limits = {"batch": (1, 128), "kv_len": (1, 131072), "s1": (1, 4), "chunk": (1, 1024), "heads": (1, 128)}
    limits["steps"] = (0, args.kv_len // max(args.s1, 1))
    for name, (low, high) in limits.items():
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name.replace('_', '-')} must be in [{low}, {high}], got {getattr(args, name)}")
    return args


@dataclass
class Batch:
    """The sequences and their cache: `lengths` is what each holds at the end.

    `caches` are in the device's memory and are updated in place.
    """

    lengths: Array
    block_table: Array
    caches: dict[str, ms.Tensor]

    @classmethod
    def make(cls, args: argparse.Namespace) -> Batch:
        decoded = args.steps * args.s1
        # Every sequence is 7 % shorter than the one before it, so that their ends fall on different places of a block.
        lengths = np.maximum(args.kv_len * 0.93 ** np.arange(args.batch), decoded).astype(np.int32)
        block_num = golden.block_num_of(lengths)
        widths = {"1": 1} | {name: dim.min for name, dim in op_info.dims().items()}
        caches = {}
        for arg in op_info.load("mla_indexer_prolog_quant").inputs:
            if arg.name in CACHES:
                width = arg.shapes[0][-1]
                shape = (block_num, golden.BLOCK_SIZE, 1, widths[width])
                caches[arg.name] = ms.ops.zeros(shape, getattr(ms, arg.ms_dtype))
        table = golden.make_block_table(lengths, rng=np.random.default_rng(args.seed))
        return cls(lengths, table, caches)

    def call(self, rng: np.random.Generator, rows: slice, lengths: Array, s1: int) -> dict[str, Array]:
        """One call's inputs: the last `s1` tokens of the sequences `rows`, which then hold `lengths` keys."""
        table = self.block_table[rows]
        positions = golden.token_positions(lengths, s1)
        cos, sin = golden.rope_tables(positions.reshape(-1), yarn=True)
        return {
            "token_x": golden.float32_to_bf16(rng.standard_normal((positions.size, 7168), dtype=np.float32)),
            "cos": cos,
            "sin": sin,
            "cache_index": golden.cache_index_of(table, positions).reshape(-1),
            "block_table": table,
            "kv_act_seqs": lengths.astype(np.int32),
        }


def on_device(call: dict[str, Array]) -> list[ms.Tensor]:
    """A call's inputs in the device's memory; on CPU they share that of the arrays."""
    return [weights.to_tensor(a).to(ms.get_context("device_target")) for a in call.values()]


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function of the operators returns, when it is there, and the seconds until then."""
    start = time.perf_counter()
    result = function()
    if ms.get_context("device_target") == "CPU":
        (result[0] if isinstance(result, tuple) else result).asnumpy()  # waits, and copies nothing
    else:
        ms.runtime.synchronize()  # does not wait on CPU
    return result, time.perf_counter() - start


def run(step: cells.SparseAttentionStep, call: dict[str, Array], caches: dict[str, ms.Tensor]) -> tuple[Array, float]:
    """One step: its attention output, and the seconds that it took."""
    inputs = on_device(call)
    out, seconds = timed(lambda: step(*inputs, *caches.values()))
    return weights.to_array(out), seconds


def copies(caches: dict[str, ms.Tensor]) -> dict[str, Array]:
    """What the caches hold now."""
    return {name: weights.to_array(cache).copy() for name, cache in caches.items()}


def golden_prolog(call: dict[str, Array], caches: dict[str, Array], layer: dict[str, Array]) -> tuple[Array, ...]:
    """The fused prolog by the golden reference; updates `caches`."""
    inputs = {**call, **caches, **layer}
    names = [arg.name for arg in op_info.load("mla_indexer_prolog_quant").inputs]
    epsilons = {"mla_epsilon_cq": config.RMS_NORM_EPS, "mla_epsilon_ckv": config.RMS_NORM_EPS}  # as of the cells
    return golden.mla_indexer_prolog_quant(*(inputs[name] for name in names), **epsilons)


def golden_step(
    args: argparse.Namespace, call: dict[str, Array], caches: dict[str, Array], layer: dict[str, Array]
) -> Array:
    """A step by the golden reference; updates `caches`."""
    q_nope, q_rope, kv_cache, kr_cache, k_scale_cache, *indexer = golden_prolog(call, caches, layer)
    q_int8, q_scale, k_cache, k_cache_scale, head_weights = indexer
    paging = (call["block_table"], call["kv_act_seqs"])
    topk_indices = golden.lightning_indexer_quant(q_int8, q_scale, head_weights, k_cache, k_cache_scale, *paging)
    attributes = {
        "nq": args.heads,
        "n_kv": 1,
        "softmax_scale": golden.softmax_scale(yarn=True),
        "topk": topk_indices.shape[1],
        "block_size": golden.BLOCK_SIZE,
        "max_blocknum_perbatch": paging[0].shape[1],
    }
    return golden.sparse_flash_attention_quant(
        q_nope, q_rope, kv_cache, kr_cache, k_scale_cache, topk_indices, *paging, **attributes
    )


def tokens_of(call: dict[str, Array], chosen: Array) -> dict[str, Array]:
    """The inputs of some tokens of a call."""
    return {n: a[chosen] if n in ("token_x", "cos", "sin", "cache_index") else a for n, a in call.items()}


def cache_errors(got: dict[str, Array], want: dict[str, Array], index: Array) -> dict[str, float]:
    """The relative error of each cache in the rows `index`."""

    def rows(cache: Array) -> Array:
        return cache.reshape(-1, cache.shape[-1])[index]

    return {
        name.removeprefix("mla_").removeprefix("ip_"): relative_error(rows(got[name]), rows(want[name]))
        for name in want
    }


def changed_rows(before: dict[str, Array], after: dict[str, Array], index: Array) -> int:
    """Rows that differ, those in `index` left out, of all caches."""
    count = 0
    for name, old in before.items():
        differs = (
            (old.view(np.uint8) != after[name].view(np.uint8)).reshape(-1, old.shape[-1] * old.itemsize).any(axis=1)
        )
        differs[index] = False
        count += int(differs.sum())
    return count


def check_step(
    args: argparse.Namespace,
    call: dict[str, Array],
    out: Array,
    before: dict[str, Array],
    after: dict[str, Array],
    layer: dict[str, Array],
) -> tuple[dict[str, float], int]:
    """The errors of a step's last tokens, and how many rows of the caches have changed that should not.

    The rows of those tokens are taken out of the caches before the golden reference writes them, so that a row that the
    step did not write is seen.
    """
    batch, s1 = len(call["kv_act_seqs"]), len(call["token_x"]) // len(call["kv_act_seqs"])
    tail = np.arange(batch * s1).reshape(batch, s1)[:, -CHECKED_TOKENS:].reshape(-1)
    checked = tokens_of(call, tail)
    want_caches = {name: cache.copy() for name, cache in after.items()}
    for cache in want_caches.values():
        cache.reshape(-1, cache.shape[-1])[checked["cache_index"]] = 0
    want = golden_step(args, checked, want_caches, layer)
    errors = {"attention_out": relative_error(out.reshape(batch * s1, -1)[tail], want.reshape(len(tail), -1))}
    errors |= cache_errors(after, want_caches, checked["cache_index"])
    return errors, changed_rows(before, after, call["cache_index"])


def check_prompt(samples: list[dict[str, Array]], after: dict[str, Array], layer: dict[str, Array]) -> dict[str, float]:
    """The errors of the cache rows of some tokens of the prompts. A row depends on its own token alone."""
    chosen = [samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, CHECKED_PROMPT_TOKENS).astype(int))]
    call = {name: np.concatenate([sample[name] for sample in chosen]) for name in chosen[0]}
    want = {name: np.zeros_like(cache) for name, cache in after.items()}
    golden_prolog(call, want, layer)
    return cache_errors(after, want, call["cache_index"])


def relative_error(got: Array, want: Array) -> float:
    """RMS of the difference over the RMS of the reference."""
    a, b = (golden.bf16_to_float32(x) if x.dtype == np.uint16 else x.astype(np.float32) for x in (got, want))
    return float(np.sqrt(np.mean((a - b) ** 2) / max(np.mean(b**2), 1e-30)))


def operator_times(
    step: cells.SparseAttentionStep, call: dict[str, Array], caches: dict[str, ms.Tensor]
) -> dict[str, list[float]]:
    """Seconds of each operator, called on its own with the inputs of the last step; it writes the same rows again."""
    x, cos, sin, index, table, lengths = on_device(call)
    kv, kr, scale, k, k_scale = caches.values()
    times: dict[str, list[float]] = {}

    def repeated(name: str, function: Callable[[], Any]) -> Any:
        runs = [timed(function) for _ in range(6)]
        times[name] = [seconds for _, seconds in runs[1:]]  # the first one compiles
        return runs[-1][0]

    q_nope, q_rope, q_int8, q_scale, head_weights = repeated(
        "mla_indexer_prolog_quant", lambda: step.prolog(x, cos, sin, index, kv, kr, scale, k, k_scale)
    )
    topk_indices = repeated(
        "lightning_indexer_quant", lambda: step.indexer(q_int8, q_scale, head_weights, k, k_scale, table, lengths)
    )
    repeated(
        "sparse_flash_attention_quant",
        lambda: step.attention(q_nope, q_rope, kv, kr, scale, topk_indices, table, lengths),
    )
    return times


def main() -> int:
    args = parse()
    console = Console()
    if ms.get_context("device_target") != args.device:
        ms.set_device(args.device)  # before the weights are laid out for it, and the caches are made in its memory
    ms.set_context(mode=ms.GRAPH_MODE if args.mode == "graph" else ms.PYNATIVE_MODE)
    rng = np.random.default_rng(args.seed)
    kernels = f"{kernel_impl.isa()}, {kernel_impl.thread_count()} threads" if args.device == "CPU" else "AscendC"
    console.print(f"device: {args.device}; kernels: {kernels}; {args.mode} mode")

    start = time.perf_counter()
    mla, indexer = golden.make_weights(args.seed, n_q=args.heads)
    layer = golden.fused_weights(mla, indexer)
    batch = Batch.make(args)
    step = cells.SparseAttentionStep(batch.block_table.shape[1], args.heads)
    step.prolog.set_weights({**mla, **indexer})
    if args.mode == "graph":
        step.set_dynamic_tokens(batch.caches[CACHES[0]].shape[0])
    console.print(
        f"weights made and packed in {time.perf_counter() - start:.1f} s; sequences hold {batch.lengths.tolist()} keys"
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    prompts = batch.lengths - args.steps * args.s1
    prefill_seconds, decode_seconds = 0.0, list[float]()
    samples = []  # one token of each chunk
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("prefill (tokens)", total=int(prompts.sum()))
        for n, prompt in enumerate(prompts):
            for begin in range(0, int(prompt), args.chunk):
                end = min(begin + args.chunk, int(prompt))
                call = batch.call(rng, slice(n, n + 1), np.array([end]), end - begin)
                if args.steps == 0 and n == args.batch - 1 and end == prompt:
                    before = copies(batch.caches)
                out, seconds = run(step, call, batch.caches)
                prefill_seconds += seconds
                sample = tokens_of(call, rng.integers(end - begin, size=1))
                samples.append({name: sample[name] for name in ("token_x", "cos", "sin", "cache_index")})
                progress.advance(task, end - begin)
        task = progress.add_task("decode (steps)", total=args.steps)
        for i in range(args.steps):
            call = batch.call(rng, slice(None), prompts + (i + 1) * args.s1, args.s1)
            if i == args.steps - 1:
                before = copies(batch.caches)
            out, seconds = run(step, call, batch.caches)
            decode_seconds.append(seconds)
            progress.advance(task)
    after = copies(batch.caches)

    table = Table(title="time", title_justify="left")
    for heading, justify in (("", "left"), ("median ms", "right"), ("min ms", "right"), ("tokens/s", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    if prompts.sum():
        table.add_row("prefill", "", "", f"{prompts.sum() / prefill_seconds:.0f}")
    if args.steps:
        tokens = args.batch * args.s1
        rows = {f"decode step, {tokens} tokens": decode_seconds[1:] or decode_seconds}
        rows |= {f"  {name}": times for name, times in operator_times(step, call, batch.caches).items()}
        for name, times in rows.items():
            median = float(np.median(times))
            rate = "" if name.startswith(" ") else f"{tokens / median:.0f}"
            table.add_row(name, f"{1e3 * median:.2f}", f"{1e3 * min(times):.2f}", rate)
    console.print(table)
    if args.device == "CPU":
        memory, peak = "memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    else:
        memory, peak = "device memory", ms.runtime.max_memory_allocated() / 2**20
    cache_mib, weight_mib = (sum(a.nbytes for a in d.values()) / 2**20 for d in (after, layer))
    console.print(f"{memory}: peak {peak:.0f} MiB, of it caches {cache_mib:.0f} MiB and weights {weight_mib:.0f} MiB")

    errors, changed = check_step(args, call, out, before, after, layer)
    prompt_errors = check_prompt(samples, after, layer) if samples else {}
    table = Table(title=f"relative error against the golden reference (limit {LIMIT})", title_justify="left")
    for heading in ("", "last step", "prompts"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, error in errors.items():
        table.add_row(name, f"{error:.1e}", f"{prompt_errors[name]:.1e}" if name in prompt_errors else "")
    console.print(table)
    console.print(f"cache rows that the last step changed and should not have: {changed}")
    passed = changed == 0 and all(error <= LIMIT for error in (*errors.values(), *prompt_errors.values()))
    console.print("check passed" if passed else "[bold]check FAILED[/]")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
