"""A cell for each operator, with its weights if it has any."""

from __future__ import annotations

from mindspore import Tensor

from ms_dsv32 import ops, weights
from ms_dsv32._cell import Configured, Loaded, Weighted, as_int32, as_rope_table, as_slots, frozen
from ms_dsv32.config import (
    BLOCK_SIZE,
    LAYERNORM_EPSILON_K,
    N_Q,
    RMS_NORM_EPS,
    SELECTED_COUNT,
    SOFTMAX_SCALE,
    IndexerPrologQuantAttr,
    IndexerPrologQuantConfigs,
    MlaTileConfig,
    RopeTileShapeConfig,
    SaTileShapeConfig,
)
from ms_dsv32.ops._custom import require_attributes


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
        require_attributes(
            "mla_prolog_quant",
            epsilon_cq=epsilon_cq,
            epsilon_ckv=epsilon_ckv,
            tile_config=tile_config,
            rope_cfg=rope_cfg,
        )
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
        require_attributes("lightning_indexer_prolog_quant", layernorm_epsilon_k=layernorm_epsilon_k, configs=configs)
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
        require_attributes("lightning_indexer_quant", selected_count=selected_count)
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
        require_attributes(
            "sparse_flash_attention_quant",
            nq=n_q,
            n_kv=1,
            softmax_scale=softmax_scale,
            topk=topk,
            block_size=BLOCK_SIZE,
            max_blocknum_perbatch=max_blocknum_perbatch,
            tile_config=tile_config,
            return_lse=return_lse,
        )
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
