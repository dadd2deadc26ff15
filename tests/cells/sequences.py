"""Sequences that grow, the steps that cells make with them, and what the bare kernels make of the same."""

from __future__ import annotations

from typing import Any

import cases
import mindspore as ms
import numpy as np
import tolerance
from calls import mode
from mindspore import Tensor, nn

from ms_dsv32 import cells, golden, kernel_impl, weights
from ms_dsv32.config import RMS_NORM_EPS
from ms_dsv32.paging import cache_index_of, ragged_tokens, token_positions

CACHES = ("kv_cache", "kr_cache", "k_scale_cache", "k_cache", "k_cache_scale")
WIDTHS = ((512, np.int8), (64, np.uint16), (4, np.float32), (128, np.int8), (1, np.float16))
SCALE = 0.07
EPSILONS = {"epsilon_cq": RMS_NORM_EPS, "epsilon_ckv": RMS_NORM_EPS}
"""The cells' epsilons, which are the model's; the operators' and the golden reference's defaults are the source's."""
FUSED_EPSILONS = {f"mla_{name}": epsilon for name, epsilon in EPSILONS.items()}


def tensors(*arrays: Any) -> list[Tensor]:
    """Arrays as tensors of their own."""
    return [weights.to_tensor(np.array(a)) for a in arrays]


def same(name: str, got: Any, want: Any) -> None:
    """A tensor has the bits of an array."""
    tolerance.assert_same_bits(name, weights.to_array(got), want)


def step_weights(n_q: int) -> dict[str, Any]:
    """The weights of a layer without its epilog."""
    return {**cases.mla_weights(n_q), **cases.indexer_weights()}


def run(cell: nn.Cell, how: str, *inputs: Any) -> Any:
    """What a cell returns in one of `calls.MODES`."""
    with mode(how):
        return (ms.jit(cell) if how == "jit" else cell)(*inputs)


def make_step(n_q: int = 4) -> cells.SparseAttentionStep:
    """A step over so many heads; block tables of 3 columns."""
    cell = cells.SparseAttentionStep(3, n_q, softmax_scale=SCALE)
    cell.prolog.set_weights(step_weights(n_q))
    return cell


class Sequences:
    """Sequences that grow, and the bare kernels' caches of them; what a step takes and what it should give."""

    def __init__(self, b: int, n_q: int, blocks: int, columns: int = 3, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.n_q, self.blocks, self.columns = n_q, blocks, columns
        self.lengths = np.zeros(b, np.int32)
        self.block_table = np.full((b, columns), -1, np.int32)
        self.free = list(self.rng.permutation(blocks))
        self.caches = [np.zeros((blocks, 128, 1, width), dtype) for width, dtype in WIDTHS]
        self.token_x: list[Any] = []

    def advance(self, s1: int) -> list[Any]:
        """The inputs of a step of s1 tokens of every sequence, without the caches."""
        b = self.lengths.size
        self.lengths = self.lengths + np.int32(s1)
        self._take_blocks()
        positions = token_positions(self.lengths, s1)
        cos, sin = golden.rope_tables(positions.reshape(-1))
        token_x = cases.random_bf16(self.rng, (b * s1, 7168))
        index = cache_index_of(self.block_table, positions).reshape(-1)
        return [token_x, cos, sin, index, self.block_table.copy(), self.lengths.copy()]

    def advance_each(self, counts: list[int], t: int) -> list[Any]:
        """The inputs of a step of so many tokens of each sequence, padded to t tokens, without the caches."""
        self.lengths = self.lengths + np.array(counts, np.int32)
        self._take_blocks()
        sequence, position = ragged_tokens(self.lengths, counts, t)
        cos, sin = golden.rope_tables(position)
        token_x = cases.random_bf16(self.rng, (t, 7168))
        index = cache_index_of(self.block_table[sequence], position[:, None]).reshape(-1)
        return [token_x, cos, sin, index, self.block_table.copy(), self.lengths.copy(), np.array(counts, np.int32)]

    def _take_blocks(self) -> None:
        for row, length in zip(self.block_table, self.lengths, strict=True):
            for column in range(-(-int(length) // 128)):
                if row[column] < 0:
                    row[column] = self.free.pop()

    def bare(self, inputs: list[Any]) -> Any:
        """attention_out by the bare kernels on row-major weights; updates the caches."""
        token_x, cos, sin, index, block_table, lengths, *counts = inputs
        fused = golden.fused_weights(cases.mla_weights(self.n_q), cases.indexer_weights())
        mla = {k: v for k, v in fused.items() if k.startswith("mla_")}
        indexer = {k: v for k, v in fused.items() if k.startswith("ip_")}
        tokens = {"token_x": token_x, "cos": cos, "sin": sin, "cache_index": index}
        caches = dict(zip(cases.IN_PLACE["mla_indexer_prolog_quant"], self.caches, strict=True))
        out = kernel_impl.call("mla_indexer_prolog_quant", {**tokens, **mla, **caches, **indexer}, FUSED_EPSILONS)
        q_nope, q_rope, _, _, _, q_int8, q_scale, _, _, head_weights = out
        pages = {
            "block_table": block_table,
            "kv_act_seqs": lengths,
            **dict(zip(["query_act_seqs"], counts, strict=False)),
        }
        query = {"q_int8": q_int8, "q_scale": q_scale, "weights": head_weights}
        keys = {"k_cache": self.caches[3], "k_cache_scale": self.caches[4]}
        (topk,) = kernel_impl.call("lightning_indexer_quant", {**query, **keys, **pages}, {"selected_count": 2048})
        latent = dict(zip(("key_nope_2d", "key_rope_2d", "k_nope_scales"), self.caches[:3], strict=True))
        attention = {"query_nope": q_nope, "query_rope": q_rope, **latent, "topk_indices": topk, **pages}
        attributes = {
            "nq": self.n_q,
            "n_kv": 1,
            "softmax_scale": SCALE,
            "topk": 2048,
            "block_size": 128,
            "max_blocknum_perbatch": self.columns,
        }
        return kernel_impl.call("sparse_flash_attention_quant", attention, attributes)[0]
