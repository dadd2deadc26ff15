"""Layers: the operators as ``nn.Cell`` with their weights, and DeepSeek's sparse attention made of them.

`SparseAttentionLayer` is the whole layer, from hidden states to hidden states. `SparseAttentionStep` is the layer
without its last operator, `MLAEpilog`. Each other cell is one operator.

Weights are Parameters under the contract's names, laid out for the device target when they are set. ``save`` writes
them row-major, for any target. ``mindspore.save_checkpoint`` writes them as they are laid out, with a mark (the
Parameter ``layout``). Another target refuses such a file, and a cell refuses weights that come without a mark.

Caches belong to the caller and are inputs: Tensors in the device's memory (`make_caches`) or Parameters. They are
updated in place and never returned, because MindSpore would copy what the outermost cell of a graph returns. All
operators of a graph run in program order, so a later layer sees what an earlier one wrote. Inside a branch or loop
whose condition is known only at run time, caches must be Parameters.

The cells take what engines pass: cache_index int64 or int32; block_table and kv_act_seqs int32 or int64; cos and sin
bfloat16, float32 or float16, with 64 columns or with one of their two equal halves, 32 columns.

``from_config`` makes a cell with the epsilons, softmax scale, heads and selected keys of a model's ``config.json``.
Their defaults are DeepSeek-V3.2-Exp's. Tile configurations are copied when a cell is made. A cell cannot be made with
a value that one of its operators would refuse: the error is the operator's TypeError or ValueError.

The operators have no gradient: a gradient through them raises NotImplementedError. With ``stop_gradient=True`` it ends
at a cell's outputs instead, so that a model can train what stands beside and after its attention.

Every call of a cell from Python checks that its weights are laid out for the device target and that a graph can write
its caches. If not, it raises a ValueError before anything runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import mindspore as ms
from mindspore import Tensor
from mindspore.communication import GlobalComm, get_group_size

from ms_dsv32 import weights
from ms_dsv32._cell import Loaded, as_int32, as_slots
from ms_dsv32._operator_cells import (
    LightningIndexer,
    LightningIndexerProlog,
    MLAEpilog,
    MLAIndexerProlog,
    MLAProlog,
    SparseFlashAttention,
)
from ms_dsv32.config import (
    BLOCK_SIZE,
    IDX_HEAD_DIM,
    K_SCALE_GROUPS,
    KV_LORA_RANK,
    N_Q,
    ROPE_DIM,
    SELECTED_COUNT,
    SOFTMAX_SCALE,
    H,
    SaTileShapeConfig,
)
from ms_dsv32.ops._step import check_step

__all__ = [
    "Caches",
    "LightningIndexer",
    "LightningIndexerProlog",
    "MLAEpilog",
    "MLAIndexerProlog",
    "MLAProlog",
    "SparseAttentionLayer",
    "SparseAttentionStep",
    "SparseFlashAttention",
    "make_caches",
]


class Caches(NamedTuple):
    """The five paged caches of a layer, in the order of its inputs: Tensors [block_num, 128, 1, width].

    Attributes:
        kv_cache: int8, width 512. kr_cache: bf16, width 64. k_scale_cache: fp32, width 4. They hold the attention's
            keys.
        k_cache: int8, width 128. k_cache_scale: fp16, width 1. They hold the indexer's keys.
    """

    kv_cache: Tensor
    kr_cache: Tensor
    k_scale_cache: Tensor
    k_cache: Tensor
    k_cache_scale: Tensor


_CACHES = (
    (KV_LORA_RANK, ms.int8),
    (ROPE_DIM, ms.bfloat16),
    (K_SCALE_GROUPS, ms.float32),
    (IDX_HEAD_DIM, ms.int8),
    (1, ms.float16),
)


def _block_num(who: str, block_num: Any) -> int:
    if not isinstance(block_num, Integral) or isinstance(block_num, bool):
        raise TypeError(f"{who}: block_num must be an int, got {block_num!r}")
    if block_num < 1:
        raise ValueError(f"{who}: block_num must be at least 1, got {block_num}")
    return int(block_num)


def make_caches(block_num: int) -> Caches:
    """Makes the caches of one layer, zeros in the memory of the device target: 786 bytes a token.

    Args:
        block_num: blocks of 128 tokens (`ms_dsv32.paging.block_num_of`).

    Raises:
        TypeError, ValueError: block_num is not a positive int.
    """
    count = _block_num("make_caches", block_num)
    return Caches(*(ms.ops.zeros((count, BLOCK_SIZE, 1, width), dtype) for width, dtype in _CACHES))


# token_x, cos, sin, cache_index, block_table, kv_act_seqs
_STEP_DTYPES = (ms.bfloat16, ms.bfloat16, ms.bfloat16, ms.int64, ms.int32, ms.int32)


class _Step(Loaded):
    """What `SparseAttentionStep` and `SparseAttentionLayer` share: their inputs, and which axes may vary."""

    max_blocknum_perbatch: int | None

    def dynamic_inputs(
        self, block_num: int, like: Sequence[Tensor] = (), *, ragged: bool = False
    ) -> tuple[Tensor, ...]:
        """The inputs for `nn.Cell.set_inputs` with which one compiled graph serves every b and s1: token axes merged.

        A larger cell passes them to its own `set_inputs`: ``model.set_inputs(ids, *layer.dynamic_inputs(block_num))``.

        Args:
            block_num: blocks of the caches, the same in every call.
            like: the first six inputs of a call, if their dtypes or the width of cos and sin differ from the
                operators'. Other axes are ignored.
            ragged: whether the calls pass query_act_seqs, with the dtype of kv_act_seqs.

        Returns:
            Eleven Tensors without values, in the order of the inputs, or twelve with ragged.

        Raises:
            TypeError, ValueError: block_num is not a positive int, or like does not have six tensors.
        """
        block_num = _block_num(type(self).__name__, block_num)
        if like and len(like) != len(_STEP_DTYPES):
            raise ValueError(f"{type(self).__name__}: like has {len(like)} tensors, expected {len(_STEP_DTYPES)}")
        dtypes = [tensor.dtype for tensor in like] or _STEP_DTYPES
        cos, sin = (like[1].shape[-1], like[2].shape[-1]) if like else (ROPE_DIM, ROPE_DIM)
        shapes = ((None, H), (None, cos), (None, sin), (None,), (None, self.max_blocknum_perbatch), (None,))
        caches = [((block_num, BLOCK_SIZE, 1, width), dtype) for width, dtype in _CACHES]
        last = [((None,), dtypes[-1])] if ragged else []
        inputs = (*zip(shapes, dtypes, strict=True), *caches, *last)
        return tuple(Tensor(shape=list(shape), dtype=dtype) for shape, dtype in inputs)

    def set_dynamic_tokens(self, block_num: int, like: Sequence[Tensor] = (), *, ragged: bool = False) -> None:
        """Lets one compiled graph serve every b and s1 (graph mode): merged token axes, b and t unknown.

        Args:
            block_num, like, ragged: see `dynamic_inputs`.
        """
        self.set_inputs(*self.dynamic_inputs(block_num, like, ragged=ragged))


class SparseAttentionStep(_Step):
    """DeepSeek sparse attention over a paged cache up to the latent attention: prolog, indexer, attention.

    It serves decoding (b sequences of s1 = 1..4 tokens) and a prompt in chunks (one sequence, s1 up to 1024), which
    differ in the inputs' shapes only. With query_act_seqs one call, and one graph of fixed t and b, serves both.
    `MLAEpilog` takes attention_out from the latent space to the layer's result.

    On CPU all slots, lengths and tables are checked before the first cache is written, in a graph too.

    Args:
        max_blocknum_perbatch: columns of block_table, or None for any number.
        n_q: query heads, 1..128.
        softmax_scale, selected_count, return_lse, attention_tile_config: see `SparseFlashAttention`, which calls two of
            them topk and tile_config.
        stop_gradient: whether a gradient ends at the outputs instead of raising an error.
        prolog: further arguments of `MLAIndexerProlog`.

    Inputs:
        token_x: bf16 [t, 7168] or [b, s1, 7168], the layer's normed hidden states.
        cos, sin: bf16, fp32 or fp16 [t, 64] or [b, s1, 64], or with 32 columns (`ms_dsv32.rope.rope_tables`).
        cache_index: int64 or int32 [t] or [b, s1], the cache row of each token (`ms_dsv32.paging.cache_index_of`).
        block_table: int32 or int64 [b, max_blocknum_perbatch].
        kv_act_seqs: int32 or int64 [b], this call's tokens included.
        kv_cache, kr_cache, k_scale_cache, k_cache, k_cache_scale: the five paged caches (`make_caches`), updated in
            place.
        query_act_seqs: int32 or int64 [b], or None. The tokens of each sequence in this call, 0 included, if sequences
            differ. The tokens of a sequence follow those of the sequence before it. Tokens beyond the sum are padding
            and have cache_index -1. Token axes are merged then.

    Outputs:
        attention_out bf16 [b, s1, n_q, 512]; with return_lse also lse fp32 [b, s1, n_q]. With query_act_seqs: [t, n_q,
        512] and [t, n_q].
    """

    _model_arguments = (*MLAIndexerProlog._model_arguments, "softmax_scale", "selected_count")
    _load = staticmethod(weights.load_prologs)

    def __init__(
        self,
        max_blocknum_perbatch: int | None = None,
        n_q: int = N_Q,
        *,
        softmax_scale: float = SOFTMAX_SCALE,
        selected_count: int = SELECTED_COUNT,
        return_lse: bool = False,
        attention_tile_config: SaTileShapeConfig | None = None,
        stop_gradient: bool = False,
        **prolog: Any,
    ) -> None:
        super().__init__("mla_indexer_prolog_quant", stop_gradient)
        self.max_blocknum_perbatch = max_blocknum_perbatch
        self.prolog = MLAIndexerProlog(n_q, **prolog)
        self.indexer = LightningIndexer(selected_count)
        self.attention = SparseFlashAttention(
            max_blocknum_perbatch,
            n_q,
            softmax_scale=softmax_scale,
            topk=selected_count,
            return_lse=return_lse,
            tile_config=attention_tile_config,
        )

    def construct(
        self,
        token_x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache_index: Tensor,
        block_table: Tensor,
        kv_act_seqs: Tensor,
        kv_cache: Tensor,
        kr_cache: Tensor,
        k_scale_cache: Tensor,
        k_cache: Tensor,
        k_cache_scale: Tensor,
        query_act_seqs: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        cache_index = as_slots(cache_index)
        block_table, kv_act_seqs = as_int32(block_table), as_int32(kv_act_seqs)
        query_act_seqs = as_int32(query_act_seqs)
        check_step(cache_index, k_cache, block_table, kv_act_seqs, query_act_seqs, self.max_blocknum_perbatch)
        q_nope, q_rope, q_int8, q_scale, head_weights = self.prolog(
            token_x, cos, sin, cache_index, kv_cache, kr_cache, k_scale_cache, k_cache, k_cache_scale
        )
        topk_indices = self.indexer(
            q_int8, q_scale, head_weights, k_cache, k_cache_scale, block_table, kv_act_seqs, query_act_seqs
        )
        results = self.attention(
            q_nope, q_rope, kv_cache, kr_cache, k_scale_cache, topk_indices, block_table, kv_act_seqs, query_act_seqs
        )
        return self.outputs(results)


def _require_group(group: str) -> None:
    """Raises TypeError or ValueError if a group has no ranks, for which MindSpore would end the process later."""
    if not isinstance(group, str):
        raise TypeError(f"SparseAttentionLayer: group must be a str or None, got {group!r}")
    if not GlobalComm.INITED:
        raise ValueError(f"SparseAttentionLayer: group is {group!r}, call mindspore.communication.init() before")
    try:
        get_group_size(group)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"SparseAttentionLayer: group is {group!r}, and there is no such group") from error


class SparseAttentionLayer(_Step):
    """The attention layer of DeepSeek-V3.2, hidden states in and hidden states out: a step and its epilog.

    The model adds its input layernorm and residual. A tensor-parallel rank holds a part of the heads (``n_q``, and
    ``heads`` of `load`). With ``group`` the cell adds the ranks' results.

    Args:
        max_blocknum_perbatch, n_q, softmax_scale, selected_count, return_lse, attention_tile_config, prolog: see
            `SparseAttentionStep`.
        group: the name of a communication group whose ranks share the heads, e.g.
            ``mindspore.communication.GlobalComm.WORLD_COMM_GROUP`` after ``init()``. None if this rank has all heads,
            or the caller adds the results.
        stop_gradient: whether a gradient ends at the outputs instead of raising an error.

    Inputs:
        Those of `SparseAttentionStep`.

    Outputs:
        hidden_out bf16 [t, 7168]; with return_lse also lse fp32 [b, s1, n_q], with query_act_seqs [t, n_q], of this
        rank's heads. hidden_out of padding is 0.

    Raises:
        TypeError: group is not a str. ValueError: there is no such group, or ``mindspore.communication.init()`` was not
            called.
    """

    _model_arguments = SparseAttentionStep._model_arguments
    _load = staticmethod(weights.load_layer)

    def __init__(
        self,
        max_blocknum_perbatch: int | None = None,
        n_q: int = N_Q,
        *,
        softmax_scale: float = SOFTMAX_SCALE,
        selected_count: int = SELECTED_COUNT,
        return_lse: bool = False,
        group: str | None = None,
        attention_tile_config: SaTileShapeConfig | None = None,
        stop_gradient: bool = False,
        **prolog: Any,
    ) -> None:
        super().__init__("mla_indexer_prolog_quant", stop_gradient)
        if group is not None:
            _require_group(group)
        self.max_blocknum_perbatch = max_blocknum_perbatch
        self.return_lse = return_lse
        self.step = SparseAttentionStep(
            max_blocknum_perbatch,
            n_q,
            softmax_scale=softmax_scale,
            selected_count=selected_count,
            return_lse=return_lse,
            attention_tile_config=attention_tile_config,
            **prolog,
        )
        self.epilog = MLAEpilog(n_q)
        self.all_reduce = None if group is None else ms.ops.AllReduce(group=group)

    def construct(
        self,
        token_x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache_index: Tensor,
        block_table: Tensor,
        kv_act_seqs: Tensor,
        kv_cache: Tensor,
        kr_cache: Tensor,
        k_scale_cache: Tensor,
        k_cache: Tensor,
        k_cache_scale: Tensor,
        query_act_seqs: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        results = self.step(
            token_x,
            cos,
            sin,
            cache_index,
            block_table,
            kv_act_seqs,
            kv_cache,
            kr_cache,
            k_scale_cache,
            k_cache,
            k_cache_scale,
            query_act_seqs,
        )
        attention_out = results[0] if self.return_lse else results
        hidden_out = self.epilog(attention_out)
        if self.all_reduce is not None:
            # Reduces in float32: MindSpore's CPU backend reduces no bfloat16, and the sum of all ranks is rounded once.
            hidden_out = ms.ops.cast(self.all_reduce(ms.ops.cast(hidden_out, ms.float32)), ms.bfloat16)
        return self.outputs((hidden_out, results[1]) if self.return_lse else hidden_out)
