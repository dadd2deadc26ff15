"""Golden reference of `mla_epilog_quant`."""

from __future__ import annotations

import numpy as np

from ms_dsv32.golden.checks import Checker
from ms_dsv32.golden.numerics import (
    Bf16,
    Float32,
    Int8,
    bf16_to_float32,
    float32_to_bf16,
    matmul_bf16,
    matmul_int8,
    quantise,
    round_bf16,
)

OPERATOR = "mla_epilog_quant"


def mla_epilog_quant(attention_out: Bf16, w_uv: Bf16, w_o: Int8, w_o_scale: Float32) -> Bf16:
    """MLA post-attention: value up-projection of each head, quantisation by token, int8 output projection.

    bf16 means bit patterns in uint16. n_q and h come from the weights.

    Args:
        attention_out: bf16 [t, n_q, 512] or [b, s1, n_q, 512]. w_uv: bf16 [n_q, 512, 128]. w_o: int8 [n_q * 128, h].
        w_o_scale: fp32 [h, 1].

    Returns:
        hidden_out bf16 [t, h]. A tensor-parallel rank quantises over its own heads. The caller adds the ranks' results.

    Raises:
        TypeError, ValueError: wrong dtype or shape.
    """
    checker = Checker(OPERATOR)
    checker.array("w_uv", w_uv, np.uint16, [("n_q", None), ("kv_lora_rank", 512), ("v_head_dim", 128)])
    n_q = w_uv.shape[0]
    attention = checker.tokens("attention_out", attention_out, np.uint16, [("n_q", n_q), ("kv_lora_rank", 512)])
    checker.array("w_o", w_o, np.int8, [("n_q * v_head_dim", n_q * 128), ("h", None)])
    checker.array("w_o_scale", w_o_scale, np.float32, [("h", w_o.shape[1]), ("1", 1)])
    t = attention.shape[0]

    # (1) value up-projection of each head
    v = np.empty((t, n_q, 128), np.float32)
    for n in range(n_q):
        v[:, n] = round_bf16(matmul_bf16(bf16_to_float32(attention[:, n]), w_uv[n]))

    # (2) quantisation by token, over all heads
    v8, s = quantise(v.reshape(t, n_q * 128))

    # (3) output projection, int8 x int8 in int32, dequantised by the token scale first, then by the channel scale
    with np.errstate(invalid="ignore", over="ignore"):
        out = matmul_int8(v8, w_o).astype(np.float32)
        out *= s
        out *= w_o_scale.reshape(1, -1)
    return float32_to_bf16(out)
