"""Weights and tables."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

from ms_dsv32 import golden


def test_quantise_weight() -> None:
    w = np.random.default_rng(0).standard_normal((256, 40)).astype(np.float32) * np.float32(0.03)
    w[:, 7] = 0
    q, scale = golden.quantise_weight(w)
    assert q.dtype == np.int8
    assert scale.shape == (40, 1)
    wide = q.astype(np.int32)
    assert (np.abs(wide).max(axis=0)[np.arange(40) != 7] == 127).all()
    assert not q[:, 7].any()
    assert np.isfinite(scale).all()
    assert (np.abs(w - wide * scale[:, 0]) <= scale[:, 0] * 0.50001).all()


@pytest.mark.parametrize("n", [1, 2, 64, 128])
def test_hadamard_matrix(n: int) -> None:
    h = golden.bf16_to_float32(golden.hadamard_matrix(n)).astype(np.float64)
    for i in range(n):
        for j in range(n):
            assert np.sign(h[i, j]) == (-1) ** bin(i & j).count("1")
    assert np.unique(np.abs(h)).size == 1
    assert abs(h[0, 0]) == pytest.approx(n**-0.5, rel=2**-8)
    product = h @ h.T
    np.testing.assert_allclose(product, np.eye(n) * product[0, 0], atol=1e-12)
    assert product[0, 0] == pytest.approx(1.0, abs=2**-7)


def test_hadamard_matrix_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match="power of two"):
        golden.hadamard_matrix(96)


def test_rope_tables() -> None:
    positions = np.array([[0, 1, 5], [4096, 131071, 7]])
    cos, sin = golden.rope_tables(positions)
    assert cos.shape == sin.shape == (2, 3, 64)
    np.testing.assert_array_equal(cos[..., :32], cos[..., 32:])
    np.testing.assert_array_equal(sin[..., :32], sin[..., 32:])
    for i, p in np.ndenumerate(positions):
        for pair in range(32):
            angle = p / 10000 ** (pair / 32)
            assert golden.bf16_to_float32(cos)[i][pair] == pytest.approx(math.cos(angle), abs=2**-9 + 1e-6)
            assert golden.bf16_to_float32(sin)[i][pair] == pytest.approx(math.sin(angle), abs=2**-9 + 1e-6)


def test_yarn_slows_the_slow_pairs() -> None:
    plain = golden.rope_frequencies()
    yarn = golden.rope_frequencies(yarn=True)
    turns = plain * 4096 / (2 * math.pi)  # within the original context
    slowed = yarn / plain
    np.testing.assert_allclose(slowed[turns > 32], 1.0, rtol=1e-12)
    np.testing.assert_allclose(
        slowed[turns < 0.75], 1 / 40, rtol=1e-12
    )  # less than one turn, by more than the step to the next pair
    between = slowed[(turns < 32) & (turns > 1)]
    assert between.size > 5
    assert (np.diff(between) < 0).all()
    np.testing.assert_allclose(np.diff(between, 2), 0, atol=1e-12)  # linear in the pair number
    assert (np.diff(yarn) < 0).all()
    # first = floor(64 ln(4096 / (32 * 2 pi)) / (2 ln 10000)) = 10, last = ceil(64 ln(4096 / 2 pi) / (2 ln 10000)) = 23
    assert np.flatnonzero(slowed < 1 - 1e-9)[0] == 11
    assert np.flatnonzero(slowed < 1 / 40 + 1e-9)[0] == 23
    cos, _ = golden.rope_tables(np.array([100000]), yarn=True)
    assert golden.bf16_to_float32(cos)[0, 40] == pytest.approx(math.cos(100000 * yarn[8]), abs=2**-8)


def test_softmax_scale() -> None:
    assert golden.softmax_scale() == pytest.approx(1 / math.sqrt(192))
    assert golden.softmax_scale(yarn=True) == pytest.approx((0.1 * math.log(40) + 1) ** 2 / math.sqrt(192))


def test_weights_carry_the_argument_names() -> None:
    mla, indexer = golden.make_weights(0, 2, h=64, q_lora_rank=32)
    fused = golden.fused_weights(mla, indexer)
    for weights, function in (
        (mla, golden.mla_prolog_quant),
        (indexer, golden.lightning_indexer_prolog_quant),
        (fused, golden.mla_indexer_prolog_quant),
    ):
        names = list(inspect.signature(function).parameters)
        missing = set(weights) - set(names)
        assert not missing, missing
        others = [
            n for n in names if n not in weights and inspect.signature(function).parameters[n].default is inspect._empty
        ]
        assert not [n for n in others if n.startswith(("w_", "mla_w", "ip_w", "gamma", "ln_", "hadamard"))]
    assert fused["mla_w_dq"] is mla["w_dq"]


def test_weights_are_reproducible_and_fewer_heads_are_the_first() -> None:
    one = golden.make_mla_weights(3, n_q=5, h=64, q_lora_rank=32)
    two = golden.make_mla_weights(3, n_q=2, h=64, q_lora_rank=32)
    for name in ("w_dq", "w_dkv_kr", "gamma_cq", "gamma_ckv"):
        np.testing.assert_array_equal(one[name], two[name])
    np.testing.assert_array_equal(one["w_uq_qr"][:, : 2 * 192], two["w_uq_qr"])
    np.testing.assert_array_equal(one["dequant_scale"][: 2 * 192], two["dequant_scale"])
    np.testing.assert_array_equal(one["w_uk"][:2], two["w_uk"])
    other = golden.make_mla_weights(4, n_q=2, h=64, q_lora_rank=32)
    assert (other["w_dq"] != two["w_dq"]).any()


def test_no_two_weights_are_drawn_from_the_same_numbers() -> None:
    weights = golden.make_mla_weights(0, n_q=1, h=128, q_lora_rank=128) | golden.make_indexer_weights(
        0, h=128, q_lora_rank=128
    )
    weights |= golden.make_epilog_weights(0, n_q=1, h=128)
    drawn = [w for name, w in weights.items() if not name.endswith("scale") and not name.startswith("hadamard")]
    assert len(drawn) == 13  # as many as there are streams
    values = [w if w.dtype == np.int8 else golden.bf16_to_float32(w) for w in drawn]
    alike = np.corrcoef([v.ravel()[:128] for v in values]) - np.eye(len(drawn))
    assert np.abs(alike).max() < 0.5  # 128 numbers of the same stream, rounded in two ways, have above 0.9
