"""Decodes with DeepSeek-V3.2's sparse attention at full size, on the CPU.

One layer's weights are made from a seed. Sequences of different lengths share a paged int8 cache; each is prefilled in
chunks, then all are decoded together, `--s1` tokens of each a step (s1 > 1 is multi-token prediction). The hidden
states are random: this is one layer, not a model. At the end the last step is computed again by the golden reference in
NumPy, and the exit status says whether the two agree.

    python examples/decode.py                                   4 sequences of up to 4096 keys, graph mode
    python examples/decode.py --mode pynative --kv-len 131072 --batch 1
    python examples/decode.py --steps 0                         prefill alone
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

from ms_dsv32 import cells, golden, kernel_impl, op_info, weights

Array = NDArray[Any]
CACHES = ("mla_kv_cache", "mla_kr_cache", "mla_k_scale_cache", "ip_k_cache", "ip_k_cache_scale")
NUMPY = {"int8": np.int8, "bf16": np.uint16, "fp32": np.float32, "fp16": np.float16}
# How far a step may be from the golden reference, as the relative RMS error: some roundings of bfloat16 (2^-8) or int8
# (1/127) fall the other way, each a small part of the values.
LIMIT = 0.01


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
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    limits = {"batch": (1, 128), "s1": (1, 4), "steps": (0, args.kv_len // max(args.s1, 1)), "chunk": (1, 1024)}
    limits |= {"kv_len": (1, 131072), "heads": (1, 128)}
    for name, (low, high) in limits.items():
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name.replace('_', '-')} must be in [{low}, {high}], got {getattr(args, name)}")
    return args


@dataclass
class Batch:
    """The sequences and their cache: `lengths` is what each holds at the end; `caches` are updated in place."""

    lengths: Array
    block_table: Array
    caches: dict[str, Array]

    @classmethod
    def make(cls, args: argparse.Namespace) -> Batch:
        decoded = args.steps * args.s1
        # Every sequence is 7 % shorter than the one before it, so that their ends fall on different places of a block.
        lengths = np.maximum(args.kv_len * 0.93 ** np.arange(args.batch), decoded).astype(np.int32)
        block_num = golden.block_num_of(lengths)
        caches = {}
        for arg in op_info.load("mla_indexer_prolog_quant").inputs:
            if arg.name in CACHES:
                widths = {"kv_lora_rank": 512, "rope_dim": 64, "k_scale_groups": 4, "idx_head_dim": 128, "1": 1}
                caches[arg.name] = np.zeros(
                    (block_num, golden.BLOCK_SIZE, 1, widths[arg.shapes[0][-1]]), NUMPY[arg.dtype]
                )
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


def run(step: cells.SparseAttentionStep, call: dict[str, Array], caches: dict[str, ms.Tensor]) -> tuple[Array, float]:
    """One step: its attention output, and the seconds that it took."""
    tensors = [weights.to_tensor(a) for a in call.values()]
    start = time.perf_counter()
    out = weights.to_array(step(*tensors, *caches.values()))
    return out, time.perf_counter() - start


def golden_step(
    args: argparse.Namespace, call: dict[str, Array], caches: dict[str, Array], layer: dict[str, Array]
) -> Array:
    """The same step by the golden reference; updates `caches`."""
    inputs = {**call, **caches, **layer}
    outputs = golden.mla_indexer_prolog_quant(
        *(inputs[a.name] for a in op_info.load("mla_indexer_prolog_quant").inputs)
    )
    q_nope, q_rope, kv_cache, kr_cache, k_scale_cache, *indexer = outputs
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


def relative_error(got: Array, want: Array) -> float:
    """RMS of the difference over the RMS of the reference."""
    a, b = (golden.bf16_to_float32(x) if x.dtype == np.uint16 else x.astype(np.float32) for x in (got, want))
    return float(np.sqrt(np.mean((a - b) ** 2) / max(np.mean(b**2), 1e-30)))


def operator_times(
    step: cells.SparseAttentionStep, call: dict[str, Array], caches: dict[str, ms.Tensor]
) -> dict[str, list[float]]:
    """Seconds of each operator, called on its own with the inputs of the last step; it writes the same rows again."""
    x, cos, sin, index, table, lengths = (weights.to_tensor(a) for a in call.values())
    kv, kr, scale, k, k_scale = caches.values()
    times: dict[str, list[float]] = {}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        for _ in range(6):
            start = time.perf_counter()
            result = function()
            (result[0] if isinstance(result, tuple) else result).asnumpy()  # waits
            times.setdefault(name, []).append(time.perf_counter() - start)
        del times[name][0]  # compiles
        return result

    q_nope, q_rope, q_int8, q_scale, head_weights = timed(
        "mla_indexer_prolog_quant", lambda: step.prolog(x, cos, sin, index, kv, kr, scale, k, k_scale)
    )
    topk_indices = timed(
        "lightning_indexer_quant", lambda: step.indexer(q_int8, q_scale, head_weights, k, k_scale, table, lengths)
    )
    timed(
        "sparse_flash_attention_quant",
        lambda: step.attention(q_nope, q_rope, kv, kr, scale, topk_indices, table, lengths),
    )
    return times


def main() -> int:
    args = parse()
    console = Console()
    ms.set_context(mode=ms.GRAPH_MODE if args.mode == "graph" else ms.PYNATIVE_MODE)
    rng = np.random.default_rng(args.seed)
    console.print(f"kernels: {kernel_impl.isa()}, {kernel_impl.thread_count()} threads; {args.mode} mode")

    start = time.perf_counter()
    mla, indexer = golden.make_weights(args.seed, n_q=args.heads)
    layer = golden.fused_weights(mla, indexer)
    batch = Batch.make(args)
    step = cells.SparseAttentionStep(batch.block_table.shape[1], args.heads)
    step.prolog.set_weights({**mla, **indexer})
    caches = {name: weights.to_tensor(a) for name, a in batch.caches.items()}  # the same memory
    if args.mode == "graph":
        step.set_dynamic_tokens(batch.caches[CACHES[0]].shape[0])
    console.print(
        f"weights made and packed in {time.perf_counter() - start:.1f} s; sequences hold {batch.lengths.tolist()} keys"
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    prompts = batch.lengths - args.steps * args.s1
    prefill_seconds, decode_seconds = 0.0, list[float]()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("prefill (tokens)", total=int(prompts.sum()))
        for n, prompt in enumerate(prompts):
            for begin in range(0, int(prompt), args.chunk):
                end = min(begin + args.chunk, int(prompt))
                call = batch.call(rng, slice(n, n + 1), np.array([end]), end - begin)
                out, seconds = run(step, call, caches)
                prefill_seconds += seconds
                progress.advance(task, end - begin)
        task = progress.add_task("decode (steps)", total=args.steps)
        for i in range(args.steps):
            call = batch.call(rng, slice(None), prompts + (i + 1) * args.s1, args.s1)
            if i == args.steps - 1:
                before = {name: a.copy() for name, a in batch.caches.items()}
            out, seconds = run(step, call, caches)
            decode_seconds.append(seconds)
            progress.advance(task)

    table = Table(title="time", title_justify="left")
    for heading, justify in (("", "left"), ("median ms", "right"), ("min ms", "right"), ("tokens/s", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    if prompts.sum():
        table.add_row("prefill", "", "", f"{prompts.sum() / prefill_seconds:.0f}")
    if args.steps == 0:
        console.print(table)
        return 0
    tokens = args.batch * args.s1
    rows = {f"decode step, {tokens} tokens": decode_seconds[1:] or decode_seconds}
    rows |= {f"  {name}": times for name, times in operator_times(step, call, caches).items()}
    for name, times in rows.items():
        median = float(np.median(times))
        rate = "" if name.startswith(" ") else f"{tokens / median:.0f}"
        table.add_row(name, f"{1e3 * median:.2f}", f"{1e3 * min(times):.2f}", rate)
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    cache_mib, weight_mib = (sum(a.nbytes for a in d.values()) / 2**20 for d in (batch.caches, layer))
    console.print(f"memory: peak {peak:.0f} MiB, of it caches {cache_mib:.0f} MiB and weights {weight_mib:.0f} MiB")

    want = golden_step(args, call, before, layer)
    errors = {"attention_out": relative_error(out, want)}
    errors |= {name: relative_error(batch.caches[name], a) for name, a in before.items()}
    table = Table(title=f"relative error against the golden reference (limit {LIMIT})", title_justify="left")
    table.add_column("")
    table.add_column("last step", justify="right")
    for name, error in errors.items():
        table.add_row(name.removeprefix("mla_"), f"{error:.1e}")
    console.print(table)
    passed = all(error <= LIMIT for error in errors.values())
    console.print("check passed" if passed else "[bold]check FAILED[/]")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
