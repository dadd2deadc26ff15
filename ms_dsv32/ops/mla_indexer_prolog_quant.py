"""Both prologs in one operator."""

from __future__ import annotations

from mindspore import Tensor, ops

from ms_dsv32.config import IndexerPrologQuantAttr, IndexerPrologQuantConfigs, MlaTileConfig, RopeTileShapeConfig
from ms_dsv32.ops._custom import Operator


def _no_gradient(  # type: ignore[no-untyped-def]
    token_x,
    mla_w_dq,
    mla_w_uq_qr,
    mla_dequant_scale,
    mla_w_uk,
    mla_w_dkv_kr,
    mla_gamma_cq,
    mla_gamma_ckv,
    cos,
    sin,
    cache_index,
    mla_kv_cache,
    mla_kr_cache,
    mla_k_scale_cache,
    ip_w_qb_in,
    ip_w_qb_scale_in,
    ip_wk_in,
    ip_w_proj_in,
    ip_ln_gamma_k_in,
    ip_ln_beta_k_in,
    ip_hadamard_q_in,
    ip_hadamard_k_in,
    ip_k_cache,
    ip_k_cache_scale,
    out,
    dout,
):
    raise NotImplementedError("mla_indexer_prolog_quant: inference only, there is no gradient")


_operator = Operator("mla_indexer_prolog_quant", _no_gradient)


def mla_indexer_prolog_quant(
    token_x: Tensor,
    mla_w_dq: Tensor,
    mla_w_uq_qr: Tensor,
    mla_dequant_scale: Tensor,
    mla_w_uk: Tensor,
    mla_w_dkv_kr: Tensor,
    mla_gamma_cq: Tensor,
    mla_gamma_ckv: Tensor,
    cos: Tensor,
    sin: Tensor,
    cache_index: Tensor,
    mla_kv_cache: Tensor,
    mla_kr_cache: Tensor,
    mla_k_scale_cache: Tensor,
    ip_w_qb_in: Tensor,
    ip_w_qb_scale_in: Tensor,
    ip_wk_in: Tensor,
    ip_w_proj_in: Tensor,
    ip_ln_gamma_k_in: Tensor,
    ip_ln_beta_k_in: Tensor,
    ip_hadamard_q_in: Tensor,
    ip_hadamard_k_in: Tensor,
    ip_k_cache: Tensor,
    ip_k_cache_scale: Tensor,
    *,
    mla_epsilon_cq: float = 1e-5,
    mla_epsilon_ckv: float = 1e-5,
    mla_cache_mode: str = "PA_BSND",
    mla_tile_config: MlaTileConfig | None = None,
    ip_attrs: IndexerPrologQuantAttr | None = None,
    ip_configs: IndexerPrologQuantConfigs | None = None,
    rope_cfg: RopeTileShapeConfig | None = None,
    weight_format: str = "ND",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`mla_prolog_quant` and `lightning_indexer_prolog_quant` in one call, with the same bits.

    Source: PyPTO, ``models/deepseek_v32_exp``, ``mla_indexer_prolog_quant_d``, with its parameter list.
    ``cos``, ``sin`` and ``cache_index`` serve both halves. Inference only.

    Args:
        token_x, mla_w_dq .. mla_gamma_ckv, cos, sin, cache_index, mla_kv_cache, mla_kr_cache, mla_k_scale_cache: the
            arguments of `mla_prolog_quant`, there without ``mla_``. The caches are updated in place.
        ip_w_qb_in .. ip_hadamard_k_in, ip_k_cache, ip_k_cache_scale: the arguments of
            `lightning_indexer_prolog_quant`, there without ``ip_`` and ``_in``. The caches are updated in place.
        mla_epsilon_cq, mla_epsilon_ckv, mla_cache_mode, mla_tile_config, rope_cfg: see `mla_prolog_quant`.
        ip_attrs: the attributes of `lightning_indexer_prolog_quant`, or None for its defaults.
        ip_configs: ``configs`` of `lightning_indexer_prolog_quant`.
        weight_format: "ND" or "PACKED", for all packable weights of both.

    Returns:
        q_nope bf16 [t, n_q, 512]; q_rope bf16 [t, n_q, 64]; mla_kv_cache, mla_kr_cache and mla_k_scale_cache: the
        tensors that were passed; q_int8 int8 [t, 64, 128]; q_scale fp16 [t, 64, 1]; ip_k_cache and ip_k_cache_scale:
        the tensors that were passed; weights fp16 [t, 64]. See `mla_prolog_quant` about returning caches from a
        compiled graph.

    Raises:
        TypeError, ValueError: as `mla_prolog_quant`.
    """
    tensors = (
        token_x,
        mla_w_dq,
        mla_w_uq_qr,
        mla_dequant_scale,
        mla_w_uk,
        mla_w_dkv_kr,
        mla_gamma_cq,
        mla_gamma_ckv,
        cos,
        sin,
        cache_index,
        mla_kv_cache,
        mla_kr_cache,
        mla_k_scale_cache,
        ip_w_qb_in,
        ip_w_qb_scale_in,
        ip_wk_in,
        ip_w_proj_in,
        ip_ln_gamma_k_in,
        ip_ln_beta_k_in,
        ip_hadamard_q_in,
        ip_hadamard_k_in,
        ip_k_cache,
        ip_k_cache_scale,
    )
    tiles = (mla_tile_config, ip_attrs, ip_configs, rope_cfg)
    kernel, constants = _operator(mla_epsilon_cq, mla_epsilon_ckv, mla_cache_mode, *tiles, weight_format, *tensors)
    q_nope, q_rope, q_int8, q_scale, weights = kernel(*tensors, *constants)
    mla_kv_cache = ops.depend(mla_kv_cache, q_nope)
    mla_kr_cache = ops.depend(mla_kr_cache, q_nope)
    mla_k_scale_cache = ops.depend(mla_k_scale_cache, q_nope)
    ip_k_cache = ops.depend(ip_k_cache, q_nope)
    ip_k_cache_scale = ops.depend(ip_k_cache_scale, q_nope)
    return (
        q_nope,
        q_rope,
        mla_kv_cache,
        mla_kr_cache,
        mla_k_scale_cache,
        q_int8,
        q_scale,
        ip_k_cache,
        ip_k_cache_scale,
        weights,
    )
