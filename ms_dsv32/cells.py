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
Their defaults are DeepSeek-V3.2-Exp's. Tile configurations are copied when a cell is made.

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

from ms_dsv32 import ops, weights
from ms_dsv32._cell import Configured, Loaded, Weighted, as_int32, as_rope_table, as_slots, frozen
from ms_dsv32.config import (
    BLOCK_SIZE,
    IDX_HEAD_DIM,
    K_SCALE_GROUPS,
    KV_LORA_RANK,
    LAYERNORM_EPSILON_K,
    N_Q,
    RMS_NORM_EPS,
    ROPE_DIM,
    SELECTED_COUNT,
    SOFTMAX_SCALE,
    H,
    IndexerPrologQuantAttr,
    IndexerPrologQuantConfigs,
    MlaTileConfig,
    RopeTileShapeConfig,
    SaTileShapeConfig,
)
from ms_dsv32.ops._step import check_step


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


class MLAProlog(Weighted, Loaded):
    """`ops.mla_prolog_quant` with its weights.

    Args:
        n_q: query heads, 1..128.
        epsilon_cq, epsilon_ckv: the operator's attributes; the default is the model's.
        tile_config, rope_cfg: the operator's attributes, copied.
        stop_gradient: whether a gradient ends at the outputs instead of raising an error.

    Inputs:
        token_x, cos, sin, cache_index, kv_cache, kr_cache, k_scale_cache: the operator's. The caches are updated in
        place.

    Outputs:
        q_norm int8 [t, 1536], q_norm_scale fp32 [t, 1], q_nope bf16 [t, n_q, 512], q_rope bf16 [t, n_q, 64].
    """

    _model_arguments = ("n_q", "epsilon_cq", "epsilon_ckv")
    _load = staticmethod(weights.load_mla)

    def __init__(
        self,
        n_q: int = N_Q,
        *,
        epsilon_cq: float = RMS_NORM_EPS,
        epsilon_ckv: float = RMS_NORM_EPS,
        tile_config: MlaTileConfig | None = None,
        rope_cfg: RopeTileShapeConfig | None = None,
        stop_gradient: bool = False,
    ) -> None:
        super().__init__("mla_prolog_quant", weights.MLA_WEIGHTS, n_q, stop_gradient)
        self.epsilon_cq = epsilon_cq
        self.epsilon_ckv = epsilon_ckv
        self.tile_config = frozen(tile_config)
        self.rope_cfg = frozen(rope_cfg)

    def construct(
        self,
        token_x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache_index: Tensor,
        kv_cache: Tensor,
        kr_cache: Tensor,
        k_scale_cache: Tensor,
    ) -> tuple[Tensor, ...]:
        q_norm, q_norm_scale, q_nope, q_rope, _, _, _ = ops.mla_prolog_quant(
            token_x,
            self.w_dq,
            self.w_uq_qr,
            self.dequant_scale,
            self.w_uk,
            self.w_dkv_kr,
            self.gamma_cq,
            self.gamma_ckv,
            as_rope_table(cos),
            as_rope_table(sin),
            as_slots(cache_index),
            kv_cache,
            kr_cache,
            k_scale_cache,
            epsilon_cq=self.epsilon_cq,
            epsilon_ckv=self.epsilon_ckv,
            tile_config=self.tile_config,
            rope_cfg=self.rope_cfg,
            weight_format="PACKED",
        )
        return self.outputs((q_norm, q_norm_scale, q_nope, q_rope))


class LightningIndexerProlog(Weighted):
    """`ops.lightning_indexer_prolog_quant` with its weights.

    Args:
        layernorm_epsilon_k: the operator's attribute.
        configs: the operator's attribute, copied.
        stop_gradient: whether a gradient ends at the outputs instead of raising an error.

    Inputs:
        x, q_norm, q_norm_scale, cos_idx_rope, sin_idx_rope, k_cache, k_cache_scale, k_cache_index: the operator's. The
        caches are updated in place.

    Outputs:
        q_int8 int8 [t, 64, 128], q_scale fp16 [t, 64, 1], weights fp16 [t, 64].
    """

    _model_arguments = ("layernorm_epsilon_k",)

    def __init__(
        self,
        *,
        layernorm_epsilon_k: float = LAYERNORM_EPSILON_K,
        configs: IndexerPrologQuantConfigs | None = None,
        stop_gradient: bool = False,
    ) -> None:
        super().__init__("lightning_indexer_prolog_quant", weights.INDEXER_WEIGHTS, stop_gradient=stop_gradient)
        self.layernorm_epsilon_k = layernorm_epsilon_k
        self.configs = frozen(configs)

    def load(
        self,
        paths: weights.Paths | weights.Checkpoint,
        *,
        prefix: str = "",
        layer: int | None = None,
        allow_unknown: bool = False,
    ) -> None:
        """Reads the weights from a checkpoint. Arguments and errors are those of `weights.load_indexer`."""
        self.set_weights(weights.load_indexer(paths, prefix=prefix, layer=layer, allow_unknown=allow_unknown))

    def construct(
        self,
        x: Tensor,
        q_norm: Tensor,
        q_norm_scale: Tensor,
        cos_idx_rope: Tensor,
        sin_idx_rope: Tensor,
        k_cache: Tensor,
        k_cache_scale: Tensor,
        k_cache_index: Tensor,
    ) -> tuple[Tensor, ...]:
        q_int8, q_scale, _, _, head_weights = ops.lightning_indexer_prolog_quant(
            x,
            q_norm,
            q_norm_scale,
            self.w_qb,
            self.w_qb_scale,
            self.wk,
            self.w_proj,
            self.ln_gamma_k,
            self.ln_beta_k,
            as_rope_table(cos_idx_rope),
            as_rope_table(sin_idx_rope),
            self.hadamard_q,
            self.hadamard_k,
            k_cache,
            k_cache_scale,
            as_slots(k_cache_index),
            layernorm_epsilon_k=self.layernorm_epsilon_k,
            configs=self.configs,
            weight_format="PACKED",
        )
        return self.outputs((q_int8, q_scale, head_weights))


class MLAIndexerProlog(Loaded):
    """`ops.mla_indexer_prolog_quant` with its weights, which its cells ``mla`` and ``indexer`` hold.

    Args:
        n_q: query heads, 1..128.
        epsilon_cq, epsilon_ckv, tile_config, rope_cfg: attributes of the MLA half, see `MLAProlog`.
        layernorm_epsilon_k, configs: attributes of the indexer's half, see `LightningIndexerProlog`.
        stop_gradient: whether a gradient ends at the outputs instead of raising an error.

    Inputs:
        token_x, cos, sin, cache_index, kv_cache, kr_cache, k_scale_cache, k_cache, k_cache_scale: the operator's. The
        caches are updated in place.

    Outputs:
        q_nope bf16 [t, n_q, 512], q_rope bf16 [t, n_q, 64], q_int8 int8 [t, 64, 128], q_scale fp16 [t, 64, 1],
        weights fp16 [t, 64].
    """

    _model_arguments = ("n_q", "epsilon_cq", "epsilon_ckv", "layernorm_epsilon_k")
    _load = staticmethod(weights.load_prologs)

    def __init__(
        self,
        n_q: int = N_Q,
        *,
        epsilon_cq: float = RMS_NORM_EPS,
        epsilon_ckv: float = RMS_NORM_EPS,
        tile_config: MlaTileConfig | None = None,
        rope_cfg: RopeTileShapeConfig | None = None,
        layernorm_epsilon_k: float = LAYERNORM_EPSILON_K,
        configs: IndexerPrologQuantConfigs | None = None,
        stop_gradient: bool = False,
    ) -> None:
        super().__init__("mla_indexer_prolog_quant", stop_gradient)
        self.mla = MLAProlog(
            n_q, epsilon_cq=epsilon_cq, epsilon_ckv=epsilon_ckv, tile_config=tile_config, rope_cfg=rope_cfg
        )
        self.indexer = LightningIndexerProlog(layernorm_epsilon_k=layernorm_epsilon_k, configs=configs)
        self.ip_attrs = IndexerPrologQuantAttr(layernorm_epsilon_k=layernorm_epsilon_k).frozen()

    def construct(
        self,
        token_x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache_index: Tensor,
        kv_cache: Tensor,
        kr_cache: Tensor,
        k_scale_cache: Tensor,
        k_cache: Tensor,
        k_cache_scale: Tensor,
    ) -> tuple[Tensor, ...]:
        q_nope, q_rope, _, _, _, q_int8, q_scale, _, _, head_weights = ops.mla_indexer_prolog_quant(
            token_x,
            self.mla.w_dq,
            self.mla.w_uq_qr,
            self.mla.dequant_scale,
            self.mla.w_uk,
            self.mla.w_dkv_kr,
            self.mla.gamma_cq,
            self.mla.gamma_ckv,
            as_rope_table(cos),
            as_rope_table(sin),
            as_slots(cache_index),
            kv_cache,
            kr_cache,
            k_scale_cache,
            self.indexer.w_qb,
            self.indexer.w_qb_scale,
            self.indexer.wk,
            self.indexer.w_proj,
            self.indexer.ln_gamma_k,
            self.indexer.ln_beta_k,
            self.indexer.hadamard_q,
            self.indexer.hadamard_k,
            k_cache,
            k_cache_scale,
            mla_epsilon_cq=self.mla.epsilon_cq,
            mla_epsilon_ckv=self.mla.epsilon_ckv,
            mla_tile_config=self.mla.tile_config,
            ip_attrs=self.ip_attrs,
            ip_configs=self.indexer.configs,
            rope_cfg=self.mla.rope_cfg,
            weight_format="PACKED",
        )
        return self.outputs((q_nope, q_rope, q_int8, q_scale, head_weights))


class LightningIndexer(Configured):
    """`ops.lightning_indexer_quant`.

    Args:
        selected_count: keys to select for each token, 1..2048.
        stop_gradient: whether a gradient ends at the outputs instead of raising an error.

    Inputs:
        q_int8, q_scale, weights, k_cache, k_cache_scale, block_table, kv_act_seqs, query_act_seqs: the operator's.

    Outputs:
        topk_indices int32 [t, selected_count].
    """

    _model_arguments = ("selected_count",)

    def __init__(self, selected_count: int = SELECTED_COUNT, *, stop_gradient: bool = False) -> None:
        super().__init__(stop_gradient)
        self.selected_count = selected_count

    def construct(
        self,
        q_int8: Tensor,
        q_scale: Tensor,
        weights: Tensor,
        k_cache: Tensor,
        k_cache_scale: Tensor,
        block_table: Tensor,
        kv_act_seqs: Tensor,
        query_act_seqs: Tensor | None = None,
    ) -> Tensor:
        topk_indices = ops.lightning_indexer_quant(
            q_int8,
            q_scale,
            weights,
            k_cache,
            k_cache_scale,
            as_int32(block_table),
            as_int32(kv_act_seqs),
            as_int32(query_act_seqs),
            selected_count=self.selected_count,
        )
        return self.outputs(topk_indices)


class SparseFlashAttention(Configured):
    """`ops.sparse_flash_attention_quant`.

    Args:
        max_blocknum_perbatch: columns of block_table, or None for any number.
        n_q: query heads, 1..128.
        softmax_scale: factor on the scores. The default is the model's, with YaRN.
        topk: columns of topk_indices, 1..2048.
        return_lse: the operator's attribute.
        tile_config: the operator's attribute, copied.
        stop_gradient: whether a gradient ends at the outputs instead of raising an error.

    Inputs:
        query_nope, query_rope, key_nope_2d, key_rope_2d, k_nope_scales, topk_indices, block_table, kv_act_seqs,
        query_act_seqs: the operator's. The three keys are the caches of `MLAProlog`.

    Outputs:
        attention_out bf16 [b, s1, n_q, 512]; with return_lse also lse fp32 [b, s1, n_q]. With query_act_seqs: [t, n_q,
        512] and [t, n_q].
    """

    _model_arguments = ("n_q", "softmax_scale", "topk")

    def __init__(
        self,
        max_blocknum_perbatch: int | None = None,
        n_q: int = N_Q,
        *,
        softmax_scale: float = SOFTMAX_SCALE,
        topk: int = SELECTED_COUNT,
        return_lse: bool = False,
        tile_config: SaTileShapeConfig | None = None,
        stop_gradient: bool = False,
    ) -> None:
        super().__init__(stop_gradient)
        self.max_blocknum_perbatch = max_blocknum_perbatch
        self.n_q = n_q
        self.softmax_scale = softmax_scale
        self.topk = topk
        self.return_lse = return_lse
        self.tile_config = frozen(tile_config)

    def construct(
        self,
        query_nope: Tensor,
        query_rope: Tensor,
        key_nope_2d: Tensor,
        key_rope_2d: Tensor,
        k_nope_scales: Tensor,
        topk_indices: Tensor,
        block_table: Tensor,
        kv_act_seqs: Tensor,
        query_act_seqs: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        results = ops.sparse_flash_attention_quant(
            query_nope,
            query_rope,
            key_nope_2d,
            key_rope_2d,
            k_nope_scales,
            topk_indices,
            as_int32(block_table),
            as_int32(kv_act_seqs),
            as_int32(query_act_seqs),
            nq=self.n_q,
            n_kv=1,
            softmax_scale=self.softmax_scale,
            topk=self.topk,
            block_size=BLOCK_SIZE,
            max_blocknum_perbatch=self.max_blocknum_perbatch,
            tile_config=self.tile_config,
            return_lse=self.return_lse,
        )
        return self.outputs(results)


class MLAEpilog(Weighted, Loaded):
    """`ops.mla_epilog_quant` with its weights.

    Args:
        n_q: query heads, 1..128. A tensor-parallel rank has its own heads, and the caller adds the ranks' results.
        stop_gradient: whether a gradient ends at the outputs instead of raising an error.

    Inputs:
        attention_out: bf16 [t, n_q, 512] or [b, s1, n_q, 512], as `SparseFlashAttention` returns it.

    Outputs:
        hidden_out bf16 [t, 7168].
    """

    _model_arguments = ("n_q",)
    _load = staticmethod(weights.load_epilog)

    def __init__(self, n_q: int = N_Q, *, stop_gradient: bool = False) -> None:
        super().__init__("mla_epilog_quant", weights.EPILOG_WEIGHTS, n_q, stop_gradient)

    def construct(self, attention_out: Tensor) -> Tensor:
        hidden_out = ops.mla_epilog_quant(attention_out, self.w_uv, self.w_o, self.w_o_scale, weight_format="PACKED")
        return self.outputs(hidden_out)


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
