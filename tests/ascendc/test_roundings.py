"""Every rounding of the AscendC kernels, bit for bit: on data whose sums and roots are exact in float32.

The other tests of the emulator compare with tolerances, because the order of a sum is not golden's. A rounding that is
left out, goes towards zero, or comes after the wrong product would hide there.
"""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
from emulated import run
from exact_cases import ONE, scales_that_tell
from tolerance import assert_same_bits

from ms_dsv32 import golden

Array = cases.Array
EXACT_LATENTS = np.float32([1, -1, 1, 3, -1, 1, -3, 3])
"""Their mean square is 4, in any order of summation, so a norm halves them."""


def check(case: cases.Case, *names: str) -> None:
    """These outputs of the emulator have golden's bits."""
    got, _ = run(case)
    want = case.golden()
    for name in names:
        assert_same_bits(name, got[name], want[name])


def random_bf16(shape: tuple[int, ...], seed: int) -> Array:
    return golden.float32_to_bf16(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def mla_case() -> cases.Case:
    """The only product of x that is not zero is that of its first value, which is one."""
    case = cases.make("mla_prolog_quant", 1, 1, 5, 4).with_attributes(epsilon_cq=0.0, epsilon_ckv=0.0)
    x, w_dq, w_dkv_kr = (np.zeros_like(case.inputs[name]) for name in ("token_x", "w_dq", "w_dkv_kr"))
    x[0, 0] = ONE
    w_dq[0] = golden.float32_to_bf16(np.resize(EXACT_LATENTS, 1536))
    w_dkv_kr[0, :512] = golden.float32_to_bf16(np.resize(EXACT_LATENTS, 512))
    w_dkv_kr[0, 512:] = random_bf16((64,), 1)
    same = np.zeros_like(case.inputs["w_uk"])
    same[:, range(128), range(128)] = ONE  # q_nope is the query itself
    return case.copy(
        token_x=x,
        w_dq=w_dq,
        w_dkv_kr=w_dkv_kr,
        w_uk=same,
        gamma_cq=random_bf16((1536,), 2),
        gamma_ckv=random_bf16((512,), 3),
        cos=np.full_like(case.inputs["cos"], ONE),
        sin=np.full_like(case.inputs["sin"], ONE),
    )


def test_latents_are_rounded_before_they_are_quantised() -> None:
    """A latent of 1.5 times gamma has more than eight bits. Half of the sums of rotary pairs do too."""
    check(mla_case(), "q_norm_out", "q_norm_scale_out", "kv_cache_out", "k_scale_cache_out", "kr_cache_out")


def test_queries_of_mla() -> None:
    """Token scale first, then channel scale, then bfloat16, then RoPE."""
    case = mla_case()
    latents = case.golden()
    sums = golden.matmul_int8(latents["q_norm_out"], case.inputs["w_uq_qr"])[0]
    scales = scales_that_tell(sums, latents["q_norm_scale_out"][0, 0])
    check(case.copy(dequant_scale=scales[:, None]), "query_nope_out", "query_rope_out")


def test_queries_of_the_indexer() -> None:
    """Also the float16 scale of each head. The Hadamard product hands the values on as they are."""
    case = cases.make("lightning_indexer_prolog_quant", 1, 1, 5)
    sums = golden.matmul_int8(case.inputs["q_norm"], case.inputs["w_qb"])[0]
    case = case.copy(
        w_qb_scale=scales_that_tell(sums, case.inputs["q_norm_scale"][0, 0])[:, None],
        hadamard_q=golden.float32_to_bf16(np.eye(128, dtype=np.float32)),
        **{f"{name}_idx_rope": np.full_like(case.inputs[f"{name}_idx_rope"], ONE) for name in ("cos", "sin")},
    )
    check(case, "q_int8_out", "q_scale_out")


@pytest.mark.parametrize("scales", ["that tell the order", "of one"])
def test_the_epilog(scales: str) -> None:
    """W_UV hands the values on as they are. Sums times one have ties between two bfloat16 values."""
    case = cases.mla_epilog_case(1, 1, 1)
    attention_out = random_bf16((1, 1, 512), 4)
    if scales == "of one":
        attention_out[0, 0, 0] = golden.float32_to_bf16(np.float32(127))  # the largest value, so that a step is 1
    case = case.copy(
        attention_out=attention_out,
        w_uv=golden.float32_to_bf16(np.eye(512, 128, dtype=np.float32)).reshape(1, 512, 128),
    )
    quantised, scale = golden.quantise(golden.bf16_to_float32(attention_out[:, 0, :128]))
    sums = golden.matmul_int8(quantised, case.inputs["w_o"])[0]
    w_o_scale = scales_that_tell(sums, scale[0, 0]) if scales != "of one" else np.ones(7168, np.float32)
    check(case.copy(w_o_scale=w_o_scale[:, None]), "hidden_out")


def test_keys_of_the_attention() -> None:
    """A token with one key gives that key. A scale of 3 makes ties of odd values from 86 on."""
    case = cases.attention_case(1, 1, 2, 1, topk=8)
    keys = np.random.default_rng(5).integers(-127, 128, case.inputs["key_nope_2d"].shape, dtype=np.int8)
    changed: dict[str, Any] = {"key_nope_2d": keys, "k_nope_scales": np.full_like(case.inputs["k_nope_scales"], 3.0)}
    check(case.copy(**changed), "attention_out")
