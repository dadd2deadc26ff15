"""The prolog of multi-head latent attention with an int8 paged cache."""

from __future__ import annotations

from mindspore import Tensor, ops

from ms_dsv32.config import MlaTileConfig, RopeTileShapeConfig
from ms_dsv32.ops._custom import Operator


def _no_gradient(  # type: ignore[no-untyped-def]
    token_x,
    w_dq,
    w_uq_qr,
    dequant_scale,
    w_uk,
    w_dkv_kr,
    gamma_cq,
    gamma_ckv,
    cos,
    sin,
    cache_index,
    kv_cache,
    kr_cache,
    k_scale_cache,
    out,
    dout,
):
    raise NotImplementedError("mla_prolog_quant: inference only, there is no gradient")


_operator = Operator("mla_prolog_quant", _no_gradient)


def mla_prolog_quant(
    token_x: Tensor,
    w_dq: Tensor,
    w_uq_qr: Tensor,
    dequant_scale: Tensor,
    w_uk: Tensor,
    w_dkv_kr: Tensor,
    gamma_cq: Tensor,
    gamma_ckv: Tensor,
    cos: Tensor,
    sin: Tensor,
    cache_index: Tensor,
    kv_cache: Tensor,
    kr_cache: Tensor,
    k_scale_cache: Tensor,
    *,
    epsilon_cq: float = 1e-5,
    epsilon_ckv: float = 1e-5,
    cache_mode: str = "PA_BSND",
    tile_config: MlaTileConfig | None = None,
    rope_cfg: RopeTileShapeConfig | None = None,
    weight_format: str = "ND",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Low-rank projections, RmsNorm, RoPE, absorbed W8A8 query up-projection, and the write of the latent key.

    Source: PyPTO, ``models/deepseek_v32_exp``, ``mla_prolog_quant_compute``. The steps are in
    ``ms_dsv32.golden.mla_prolog_quant``. Inference only.

    Args:
        token_x: bf16 [t, 7168] or [b, s1, 7168], the layer's normed hidden states.
        w_dq: bf16 [7168, 1536]. w_uq_qr: int8 [1536, n_q * 192]; a head's columns are 128 nope, then 64 rope.
        dequant_scale: fp32 [n_q * 192, 1], the scale of each column of w_uq_qr.
        w_uk: bf16 [n_q, 128, 512]. w_dkv_kr: bf16 [7168, 576], 512 latent columns, then 64 rope.
        gamma_cq: bf16 [1536]. gamma_ckv: bf16 [512].
        cos, sin: bf16 [t, 64] or [b, s1, 64], one row a token, both halves alike.
        cache_index: int64 [t] or [b, s1], the cache row of each token, or -1 for padding, whose rows are not written.
            If two tokens have one row, the later one wins.
        kv_cache: int8 [block_num, 128, 1, 512]. kr_cache: bf16 [block_num, 128, 1, 64].
            k_scale_cache: fp32 [block_num, 128, 1, 4]. All three are updated in place.
        epsilon_cq, epsilon_ckv: epsilons of the two RmsNorms.
        cache_mode: "PA_BSND".
        tile_config, rope_cfg: the source's tile sizes. They have no effect: every target chooses its own.
        weight_format: "ND", row-major weights (CPU only), or "PACKED", w_dq, w_uq_qr, w_uk and w_dkv_kr as
            `ms_dsv32.weights.prepare` lays them out for the device target. The results are the same, bit for bit.

    Returns:
        q_norm int8 [t, 1536]; q_norm_scale fp32 [t, 1]; q_nope bf16 [t, n_q, 512]; q_rope bf16 [t, n_q, 64]; kv_cache,
        kr_cache and k_scale_cache: the tensors that were passed. MindSpore copies what the outermost function of a
        compiled graph returns, so return the first four there, and go on with the caches that were passed.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or attribute, a cache that is not contiguous, or a cache_index
            outside the cache. Nothing is written then. In a compiled graph a wrong value raises RuntimeError with the
            same text, and so does a cache that is not a Parameter inside a branch or loop whose condition is not a
            constant.
    """
    tensors = (
        token_x,
        w_dq,
        w_uq_qr,
        dequant_scale,
        w_uk,
        w_dkv_kr,
        gamma_cq,
        gamma_ckv,
        cos,
        sin,
        cache_index,
        kv_cache,
        kr_cache,
        k_scale_cache,
    )
    kernel, constants = _operator(epsilon_cq, epsilon_ckv, cache_mode, tile_config, rope_cfg, weight_format, *tensors)
    q_norm, q_norm_scale, q_nope, q_rope = kernel(*tensors, *constants)
    kv_cache = ops.depend(kv_cache, q_norm)
    kr_cache = ops.depend(kr_cache, q_norm)
    k_scale_cache = ops.depend(k_scale_cache, q_norm)
    return q_norm, q_norm_scale, q_nope, q_rope, kv_cache, kr_cache, k_scale_cache
