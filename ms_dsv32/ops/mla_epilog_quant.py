"""The epilog of multi-head latent attention: from the latent space to the hidden states."""

from __future__ import annotations

from mindspore import Tensor

from ms_dsv32.ops._custom import Operator


def _no_gradient(attention_out, w_uv, w_o, w_o_scale, out, dout):  # type: ignore[no-untyped-def]
    raise NotImplementedError("mla_epilog_quant: inference only, there is no gradient")


_operator = Operator("mla_epilog_quant", _no_gradient)


def mla_epilog_quant(
    attention_out: Tensor,
    w_uv: Tensor,
    w_o: Tensor,
    w_o_scale: Tensor,
    *,
    weight_format: str = "ND",
) -> Tensor:
    """Value up-projection of each head, quantisation by token, and the W8A8 output projection.

    Source: CANN recipes, ``deepseek_v3_2_exp``: mla_epilog with dynamic quantisation by token. The steps are in
    ``ms_dsv32.golden.mla_epilog_quant``. Inference only.

    Args:
        attention_out: bf16 [t, n_q, 512] or [b, s1, n_q, 512], as `sparse_flash_attention_quant` returns it.
        w_uv: bf16 [n_q, 512, 128], the value half of ``kv_b_proj``.
        w_o: int8 [n_q * 128, 7168]. A tensor-parallel rank has the rows of its heads.
        w_o_scale: fp32 [7168, 1], the scale of each column of w_o.
        weight_format: "ND", row-major weights (CPU only), or "PACKED", w_uv and w_o as `ms_dsv32.weights.prepare` lays
            them out for the device target. The results are the same, bit for bit.

    Returns:
        hidden_out bf16 [t, 7168]. A tensor-parallel rank quantises over its own heads, and the caller adds the ranks'
        results.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or attribute.
    """
    tensors = (attention_out, w_uv, w_o, w_o_scale)
    kernel, constants = _operator(weight_format, *tensors)
    return kernel(*tensors, *constants)
