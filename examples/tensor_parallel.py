"""Splits one attention layer of DeepSeek-V3.2 over ranks, by its heads or by its keys, on the CPU.

Each rank is a process that MindSpore's `msrun` starts. Sequences are prefilled in chunks and then decoded together.
Then each rank computes all steps again alone, with all heads and all keys. The exit status says whether the two agree.
Weights are made from a seed, and the hidden states are random.

    msrun --worker_num=2 --local_worker_num=2 --join=True --log_dir=msrun_log --tail_worker_log=0 \\
        examples/tensor_parallel.py --split heads

`--split heads` (tensor parallel): a rank has a part of the query heads, and all of the caches. It projects its heads'
values with its rows of `w_o`. The sum over the ranks is the layer's output (`cells.SparseAttentionLayer(group=...)`).
It differs from one rank's result by roundings, because each rank quantises the values of its own heads.

`--split keys` (context parallel): a rank has all heads, and every n-th block of each sequence in its caches of latent
keys, 656 bytes a key. The indexer's keys, 130 bytes each, are on every rank, so that all select the same 2048 keys.
Each rank attends to the selected keys that it has, and `ops.merge_attention` joins the ranks' results.

Both run in graph mode, or in PyNative mode with `--mode pynative`. `--heads 8 --kv-len 300` is quick. `msrun` runs the
`python` that is first in PATH.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("GLOG_v", "3")  # MindSpore: errors only
# The ranks share this machine's cores.
os.environ.setdefault(
    "MS_DSV32_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(os.getenv("MS_WORKER_NUM", "1"))))
)

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.communication import GlobalComm, get_group_size, get_rank, init
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ms_dsv32 import cells, golden, ops, paging, rope, weights

Array = NDArray[Any]
# The largest relative RMS error between all ranks and one rank. The values that the output projection takes are
# quantised to int8, in steps of 1/127 of a token's largest, which is four or five times their RMS. That is an error of
# 0.01 on either side, or a little more. A lost head is an error of 1 over the root of the heads, 0.09 with 128.
LIMIT = 0.03


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--split", choices=("heads", "keys"), default="heads", help="what the ranks share")
    parser.add_argument("--heads", type=int, default=128, help="query heads of all ranks, 1 to 128")
    parser.add_argument("--batch", type=int, default=2, help="sequences")
    parser.add_argument("--kv-len", type=int, default=600, help="keys of the longest sequence at the end")
    parser.add_argument("--chunk", type=int, default=256, help="tokens of a prefill chunk, 1 to 1024")
    parser.add_argument("--steps", type=int, default=4, help="decode steps")
    parser.add_argument("--mode", choices=("graph", "pynative"), default="graph")
    parser.add_argument("--limit", type=float, default=LIMIT, help="relative error that is allowed")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    limits = {
        "heads": (1, 128),
        "batch": (1, 128),
        "kv_len": (1, 131072),
        "chunk": (1, 1024),
        "steps": (1, args.kv_len),
    }
    for name, (low, high) in limits.items():
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name.replace('_', '-')} must be in [{low}, {high}], got {getattr(args, name)}")
    if "MS_ROLE" not in os.environ:  # msrun sets it
        command = "msrun --worker_num=2 --local_worker_num=2 --join=True --log_dir=msrun_log --tail_worker_log=0"
        parser.error(f"this is for several ranks: {command} {sys.argv[0]}")
    return args


@dataclass(frozen=True)
class Step:
    """The tokens of one call of the layer: the last s1 tokens of some of the sequences.

    `positions` int64 [b, s1] are the tokens' places in their sequences. `kv_act_seqs` are the keys of the sequences
    after the call.
    """

    kind: str
    sequences: slice
    positions: Array
    kv_act_seqs: Array
    token_x: Array

    def inputs(self, *tables: Array) -> tuple[Tensor, ...]:
        """token_x, cos, sin, and for each block table the cache rows of the tokens and the rows of the sequences."""
        arrays = [self.token_x, *rope.rope_tables(self.positions.reshape(-1))]
        for table in tables:
            own = table[self.sequences]
            arrays += [paging.cache_index_of(own, self.positions).reshape(-1), own]
        return tuple(weights.to_tensor(array) for array in (*arrays, self.kv_act_seqs))


def steps_of(args: argparse.Namespace, lengths: Array) -> Iterator[Step]:
    """Each sequence's prompt in chunks, then one token of every sequence a step. All ranks have the same steps."""
    rng = np.random.default_rng(args.seed)

    def step(kind: str, sequences: slice, kv_act_seqs: Array, s1: int) -> Step:
        positions = paging.token_positions(kv_act_seqs, s1)
        token_x = golden.float32_to_bf16(rng.standard_normal((positions.size, 7168), dtype=np.float32))
        return Step(kind, sequences, positions, kv_act_seqs.astype(np.int32), token_x)

    prompts = lengths - args.steps
    for n, prompt in enumerate(prompts):
        for begin in range(0, int(prompt), args.chunk):
            end = min(begin + args.chunk, int(prompt))
            yield step("prefill", slice(n, n + 1), np.array([end]), end - begin)
    for i in range(args.steps):
        yield step("decode", slice(None), prompts + i + 1, 1)


class Rank:
    """One of the ranks, or one that computes all alone."""

    def __init__(self, layer: nn.Cell, caches: cells.Caches, *tables: Array) -> None:
        self.layer = layer
        self.caches = caches
        self.tables = tables

    def __call__(self, step: Step) -> Array:
        """hidden_out of a step, which is the same on every rank."""
        return weights.to_array(self.layer(*step.inputs(*self.tables), *self.caches)).copy()


def with_heads(heads: range, layer: dict[str, Array], block_table: Array, group: str | None) -> Rank:
    """A rank that has these heads and all keys. With all heads it needs no group."""
    block_num, columns = int(block_table.max()) + 1, block_table.shape[1]
    cell = cells.SparseAttentionLayer(columns, len(heads), group=group)
    cell.set_weights(weights.of_heads(layer, heads))
    cell.set_dynamic_tokens(block_num)  # one graph for the chunks and the decode steps
    return Rank(cell, cells.make_caches(block_num), block_table)


def with_keys(rank: int, ranks: int, layer: dict[str, Array], block_table: Array, group: str) -> Rank:
    """A rank that has all heads, and every block of each sequence whose number modulo `ranks` is `rank`."""
    own = (block_table >= 0) & (np.arange(block_table.shape[1]) % ranks == rank)
    own_table = np.full_like(block_table, -1)
    own_table[own] = np.arange(own.sum())  # a token in another rank's block has no row, so it is not written here
    cell = LayerOfKeys(block_table.shape[1], len(layer["w_uk"]), rank, ranks, group)
    cell.set_weights(layer)
    whole = cells.make_caches(int(block_table.max()) + 1)
    caches = cells.make_caches(max(int(own.sum()), 1))
    caches = caches._replace(k_cache=whole.k_cache, k_cache_scale=whole.k_cache_scale)
    return Rank(cell, caches, own_table, block_table)


class LayerOfKeys(nn.Cell):  # type: ignore[misc]
    """`cells.SparseAttentionLayer` on a rank that has a part of the keys.

    The prolog comes in two cells, because the latent keys and the indexer's keys go to different cache rows.

    Inputs:
        token_x, cos, sin, kv_act_seqs and the five caches: the layer's. cache_index and block_table: first for the
        latent keys, without those of other ranks, then for the indexer's keys.
    """

    def __init__(self, max_blocknum_perbatch: int, n_q: int, rank: int, ranks: int, group: str) -> None:
        super().__init__()
        self.rank = rank
        self.ranks = ranks
        self.prolog = cells.MLAProlog(n_q)
        self.indexer_prolog = cells.LightningIndexerProlog()
        self.indexer = cells.LightningIndexer()
        self.attention = cells.SparseFlashAttention(max_blocknum_perbatch, n_q, return_lse=True)
        self.epilog = cells.MLAEpilog(n_q)
        self.all_gather = ms.ops.AllGather(group=group)  # along the first axis
        self.split = ms.ops.Split(0, ranks)

    def set_weights(self, layer: dict[str, Array]) -> None:
        for cell, names in (
            (self.prolog, weights.MLA_WEIGHTS),
            (self.indexer_prolog, weights.INDEXER_WEIGHTS),
            (self.epilog, weights.EPILOG_WEIGHTS),
        ):
            cell.set_weights({name: layer[name] for name in names})

    def construct(
        self,
        token_x: Tensor,
        cos: Tensor,
        sin: Tensor,
        own_cache_index: Tensor,
        own_block_table: Tensor,
        cache_index: Tensor,
        block_table: Tensor,
        kv_act_seqs: Tensor,
        kv_cache: Tensor,
        kr_cache: Tensor,
        k_scale_cache: Tensor,
        k_cache: Tensor,
        k_cache_scale: Tensor,
    ) -> Tensor:
        latent = (kv_cache, kr_cache, k_scale_cache)
        q_norm, q_norm_scale, q_nope, q_rope = self.prolog(token_x, cos, sin, own_cache_index, *latent)
        q_int8, q_scale, head_weights = self.indexer_prolog(
            token_x, q_norm, q_norm_scale, cos, sin, k_cache, k_cache_scale, cache_index
        )
        topk_indices = self.indexer(q_int8, q_scale, head_weights, k_cache, k_cache_scale, block_table, kv_act_seqs)
        # The attention skips -1, which stands for the keys of other ranks.
        is_own = topk_indices // paging.BLOCK_SIZE % self.ranks == self.rank
        own_indices = ms.ops.where(is_own, topk_indices, -1)
        attention_out, lse = self.attention(q_nope, q_rope, *latent, own_indices, own_block_table, kv_act_seqs)
        return self.epilog(self.merged(attention_out, lse))

    def merged(self, attention_out: Tensor, lse: Tensor) -> Tensor:
        """attention_out over the keys of all ranks. MindSpore's CPU backend gathers no bfloat16."""
        outs = self.split(self.all_gather(ms.ops.cast(attention_out, ms.float32)))
        lses = self.split(self.all_gather(lse))
        attention_out, _ = ops.merge_attention([ms.ops.cast(out, ms.bfloat16) for out in outs], lses)
        return attention_out


def differences(kinds: list[str], got: list[Array], want: list[Array]) -> dict[str, tuple[float, float, float]]:
    """Relative RMS error, largest difference and largest value of the steps of each kind."""
    found = {}
    for kind in dict.fromkeys(kinds):
        a, b = (
            np.concatenate([golden.bf16_to_float32(out) for out, own in zip(outs, kinds, strict=True) if own == kind])
            for outs in (got, want)
        )
        error = float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))
        found[kind] = (error, float(np.abs(a - b).max()), float(np.abs(b).max()))
    return found


def main() -> int:
    args = parse()
    ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE if args.mode == "graph" else ms.PYNATIVE_MODE)
    init()  # msrun's scheduler runs this program too, and stays in this call until the ranks end
    rank, ranks, group = get_rank(), get_group_size(), GlobalComm.WORLD_COMM_GROUP
    if args.split == "heads" and args.heads < ranks:
        sys.exit(f"--heads must be at least the number of ranks, {ranks}, got {args.heads}")
    mla, indexer = golden.make_weights(args.seed, n_q=args.heads)
    layer = {**mla, **indexer, **golden.make_epilog_weights(args.seed, n_q=args.heads)}
    # Every sequence is 7 % shorter than the one before it.
    lengths = np.maximum(args.kv_len * 0.93 ** np.arange(args.batch), args.steps).astype(np.int32)
    block_table = paging.make_block_table(lengths, rng=np.random.default_rng(args.seed))

    if args.split == "heads":
        heads = range(args.heads * rank // ranks, args.heads * (rank + 1) // ranks)
        own = with_heads(heads, layer, block_table, group)
    else:
        own = with_keys(rank, ranks, layer, block_table, group)
    alone = with_heads(range(args.heads), layer, block_table, None)
    kinds = [step.kind for step in steps_of(args, lengths)]
    # All ranks do the same work, because MindSpore's collectives wait only 30 s for a rank that is late
    # (MS_CPU_COMM_OP_TIMEOUT).
    got = [own(step) for step in steps_of(args, lengths)]
    found = differences(kinds, got, [alone(step) for step in steps_of(args, lengths)])
    passed = all(error <= args.limit for error, _, _ in found.values())

    console = Console()
    console.print(f"rank {rank} of {ranks} that share the {args.split}; {args.heads} heads, {args.mode} mode")
    console.print(held_by("a rank", own))
    console.print(held_by("one alone", alone))
    table = Table(title="hidden_out: the ranks against one rank", title_justify="left")
    for heading in ("", "relative error", "largest difference", "largest value"):
        table.add_column(heading, justify="right" if heading else "left")
    for kind, (error, difference, value) in found.items():
        table.add_row(kind, f"{error:.1e}", f"{difference:.3f}", f"{value:.3f}")
    console.print(table)
    verdict = "check passed" if passed else "[bold]check FAILED[/]"
    console.print(f"{verdict}: the limit of the relative error is {args.limit:g}")
    return 0 if passed else 1


def held_by(name: str, rank: Rank) -> str:
    """A description of what a rank holds."""
    parameters = sum(parameter.nbytes for parameter in rank.layer.get_parameters())
    latent, others = (sum(cache.nbytes for cache in part) for part in (rank.caches[:3], rank.caches[3:]))
    sizes = [f"{size / 2**20:.2f}" for size in (parameters, latent, others)]
    return f"{name} holds, in MiB: weights {sizes[0]}, latent keys {sizes[1]}, indexer's keys {sizes[2]}"


if __name__ == "__main__":
    sys.exit(main())
