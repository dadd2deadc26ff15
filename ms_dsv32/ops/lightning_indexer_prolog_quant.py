"""The prolog of the lightning indexer with an int8 paged key cache."""

from __future__ import annotations

from mindspore import Tensor, ops

from ms_dsv32.config import IndexerPrologQuantConfigs
from ms_dsv32.ops._custom import Operator


def _no_gradient(  # type: ignore[no-untyped-def]
    x,
    q_norm,
    q_norm_scale,
    w_qb,
    w_qb_scale,
    wk,
    w_proj,
    ln_gamma_k,
    ln_beta_k,
    cos_idx_rope,
    sin_idx_rope,
    hadamard_q,
    hadamard_k,
    k_cache,
    k_cache_scale,
    k_cache_index,
    out,
    dout,
):
    raise NotImplementedError("lightning_indexer_prolog_quant: inference only, there is no gradient")


_operator = Operator("lightning_indexer_prolog_quant", _no_gradient)


def lightning_indexer_prolog_quant(
    x: Tensor,
    q_norm: Tensor,
    q_norm_scale: Tensor,
    w_qb: Tensor,
    w_qb_scale: Tensor,
    wk: Tensor,
    w_proj: Tensor,
    ln_gamma_k: Tensor,
    ln_beta_k: Tensor,
    cos_idx_rope: Tensor,
    sin_idx_rope: Tensor,
    hadamard_q: Tensor,
    hadamard_k: Tensor,
    k_cache: Tensor,
    k_cache_scale: Tensor,
    k_cache_index: Tensor,
    *,
    layernorm_epsilon_k: float = 1e-6,
    layout_query: str = "TND",
    layout_key: str = "PA_BSND",
    configs: IndexerPrologQuantConfigs | None = None,
    weight_format: str = "ND",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys and head weights of the indexer: projections, LayerNorm, RoPE, Hadamard transform, quantisation.

    Source: PyPTO, ``models/deepseek_v32_exp``, ``lightning_indexer_prolog_quant_compute``. The steps are in
    ``ms_dsv32.golden.lightning_indexer_prolog_quant``. Inference only.

    Args:
        x: bf16 [t, 7168] or [b, s1, 7168], the layer's normed hidden states.
        q_norm: int8 [t, 1536]. q_norm_scale: fp32 [t, 1]. Both as `mla_prolog_quant` returns them.
        w_qb: int8 [1536, 8192]. w_qb_scale: fp32 [8192, 1]. wk: bf16 [7168, 128]. w_proj: bf16 [7168, 64].
        ln_gamma_k, ln_beta_k: bf16 [128].
        cos_idx_rope, sin_idx_rope: bf16 [t, 64] or [b, s1, 64], one row a token, both halves alike.
        hadamard_q, hadamard_k: bf16 [128, 128].
        k_cache: int8 [block_num, 128, 1, 128]. k_cache_scale: fp16 [block_num, 128, 1, 1]. Updated in place.
        k_cache_index: int64 [t] or [b, s1], as `mla_prolog_quant`'s cache_index.
        layernorm_epsilon_k: epsilon of the LayerNorm.
        layout_query: "TND". layout_key: "PA_BSND".
        configs: the source's tile sizes. They have no effect: every target chooses its own.
        weight_format: "ND" or "PACKED", for w_qb, wk and w_proj; see `mla_prolog_quant`.

    Returns:
        q_int8 int8 [t, 64, 128]; q_scale fp16 [t, 64, 1]; k_cache and k_cache_scale: the tensors that were passed;
        weights fp16 [t, 64]. See `mla_prolog_quant` about returning caches from a compiled graph.

    Raises:
        TypeError, ValueError: as `mla_prolog_quant`.
    """
    tensors = (
        x,
        q_norm,
        q_norm_scale,
        w_qb,
        w_qb_scale,
        wk,
        w_proj,
        ln_gamma_k,
        ln_beta_k,
        cos_idx_rope,
        sin_idx_rope,
        hadamard_q,
        hadamard_k,
        k_cache,
        k_cache_scale,
        k_cache_index,
    )
    kernel, constants = _operator(layernorm_epsilon_k, layout_query, layout_key, configs, weight_format, *tensors)
    q_int8, q_scale, weights = kernel(*tensors, *constants)
    return q_int8, q_scale, ops.depend(k_cache, q_int8), ops.depend(k_cache_scale, q_int8), weights
