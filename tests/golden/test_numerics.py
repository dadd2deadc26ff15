"""Rounding, quantisation, norms, RoPE and exact products, each against an independent statement."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ms_dsv32 import golden

RNG = np.random.default_rng(7)
ALL_BF16 = np.arange(2**16, dtype=np.uint32).astype(np.uint16)


def ml_bf16(values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(values, np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)


def test_bf16_patterns_survive_the_round_trip() -> None:
    values = golden.bf16_to_float32(ALL_BF16)
    back = golden.float32_to_bf16(values)
    nan = np.isnan(values)
    assert nan.sum() == 2 * 127
    np.testing.assert_array_equal(back[~nan], ALL_BF16[~nan])
    assert (back[nan] == 0x7FC0).all()
    np.testing.assert_array_equal(values[~nan], ALL_BF16[~nan].view(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (1.0, 0x3F80),
        (1.0 + 2**-8, 0x3F80),  # tie, down to even
        (1.0 + 3 * 2**-8, 0x3F82),  # tie, up to even
        (np.nextafter(np.float32(1.0 + 2**-8), np.float32(2)), 0x3F81),
        (-1.0 - 3 * 2**-8, 0xBF82),
        (-0.0, 0x8000),
        (np.inf, 0x7F80),
        (-np.inf, 0xFF80),
        (3.4e38, 0x7F80),  # beyond the largest bfloat16 by more than half an ulp
        (2.0**-133, 0x0001),  # the smallest subnormal
        (2.0**-134, 0x0000),  # tie, down to even
        (3 * 2.0**-134, 0x0002),  # tie, up to even
    ],
)
def test_bf16_rounds_to_nearest_even(value: float, bits: int) -> None:
    assert golden.float32_to_bf16(np.float32(value)).item() == bits
    assert golden.round_bf16(np.float32([value])).view(np.uint32).item() == bits << 16


def test_every_nan_becomes_the_same_one() -> None:
    nans = np.array([0x7F80_0001, 0x7FFF_FFFF, 0xFFFF_FFFF, 0xFF80_8000], np.uint32).view(np.float32)
    assert (golden.float32_to_bf16(nans) == 0x7FC0).all()
    assert (golden.round_bf16(nans).view(np.uint32) == 0x7FC0_0000).all()
    assert (golden.round_fp16(nans).view(np.uint16) == 0x7E00).all()
    for nan in nans:
        _, scale = golden.quantise(np.array([1, nan, 2], np.float32))
        assert scale.view(np.uint32).item() == 0x7FC0_0000


@settings(deadline=None)
@given(hnp.arrays(np.uint32, 64))
def test_bf16_agrees_with_ml_dtypes(bits: np.ndarray) -> None:
    values = bits.view(np.float32)
    values = values[~np.isnan(values)]
    np.testing.assert_array_equal(golden.float32_to_bf16(values), ml_bf16(values))
    np.testing.assert_array_equal(
        golden.round_bf16(values), ml_bf16(values).view(ml_dtypes.bfloat16).astype(np.float32)
    )


def test_bf16_keeps_shapes_and_inputs() -> None:
    values = RNG.standard_normal((3, 4, 6)).astype(np.float32)
    before = values.copy()
    view = values[:, ::2, 1:4]
    for shaped in (values, view, np.float32(2.5), np.zeros((0, 5), np.float32)):
        assert golden.float32_to_bf16(shaped).shape == np.shape(shaped)
        assert golden.round_bf16(shaped).shape == np.shape(shaped)
    np.testing.assert_array_equal(golden.float32_to_bf16(view), ml_bf16(view))
    np.testing.assert_array_equal(values, before)


def test_fp16_rounds_to_nearest_even_and_overflows() -> None:
    values = np.float32([1 + 2**-11, 1 + 3 * 2**-11, 65519.0, 65520.0, -1e30, 2**-25, np.nan])
    want = np.float16([1.0, 1 + 2**-9, 65504.0, np.inf, -np.inf, 0.0, np.nan])
    np.testing.assert_array_equal(golden.round_fp16(values), want)


@pytest.mark.parametrize("k", [1, 255, 256, 257, 1000])
def test_matmul_bf16_is_the_float64_product_rounded_once(k: int) -> None:
    a = golden.round_bf16(RNG.standard_normal((5, k)).astype(np.float32))
    w = golden.float32_to_bf16(RNG.standard_normal((k, 33)).astype(np.float32))
    want = np.einsum("mk,kn->mn", a.astype(np.float64), golden.bf16_to_float32(w).astype(np.float64))
    got = golden.matmul_bf16(a, w)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=2**-24, atol=1e-12)


def test_matmul_bf16_of_a_token_does_not_depend_on_its_batch() -> None:
    a = golden.round_bf16(RNG.standard_normal((64, 2000)).astype(np.float32))
    w = golden.float32_to_bf16(RNG.standard_normal((2000, 96)).astype(np.float32))
    whole = golden.matmul_bf16(a, w)
    for i in (0, 31, 63):
        np.testing.assert_array_equal(golden.matmul_bf16(a[i : i + 1], w)[0], whole[i])


@pytest.mark.parametrize("k", [1, 128, 1023, 1024, 1025, 1536, 4097])
def test_matmul_int8_is_exact(k: int) -> None:
    a = RNG.integers(-128, 128, (3, k), np.int8)
    w = RNG.integers(-128, 128, (k, 2051), np.int8)
    a[0] = -128
    w[:, :7] = -128  # the largest possible sum, k * 2^14
    a[1] = RNG.integers(100, 128, k)
    w[:, 7] = RNG.integers(100, 128, k)  # large sums that are not a multiple of a power of two
    want = a.astype(np.int64) @ w.astype(np.int64)
    got = golden.matmul_int8(a, w)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, want)


def test_matmul_int8_refuses_what_int32_cannot_hold() -> None:
    with pytest.raises(ValueError, match="could overflow int32"):
        golden.matmul_int8(np.zeros((1, 2**17), np.int8), np.zeros((2**17, 1), np.int8))


def test_quantise_breaks_ties_to_even() -> None:
    # amax = 127, so the factor 127 / amax is exactly 1
    x = np.float32([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]])
    q, scale = golden.quantise(x)
    np.testing.assert_array_equal(q, np.int8([[127, 0, 2, 2, 0, -2, -2, 126]]))
    np.testing.assert_array_equal(scale, np.float32([[1.0]]))


def test_quantise_of_a_zero_row() -> None:
    q, scale = golden.quantise(np.zeros((2, 8), np.float32))
    assert not q.any()
    inverse = np.float32(127) / np.float32(1e-30)
    np.testing.assert_array_equal(scale, np.full((2, 1), np.float32(1) / inverse))
    assert np.isfinite(scale).all()
    assert (scale > 0).all()


def test_quantise_contains_nan_and_inf() -> None:
    x = RNG.standard_normal((4, 16)).astype(np.float32)
    clean_q, clean_scale = golden.quantise(x)
    x[1, 3] = np.nan
    x[2, 5] = -np.inf
    q, scale = golden.quantise(x)
    np.testing.assert_array_equal(q[[0, 3]], clean_q[[0, 3]])
    np.testing.assert_array_equal(scale[[0, 3]], clean_scale[[0, 3]])
    assert not q[1:3].any()
    assert np.isnan(scale[1, 0])
    assert np.isposinf(scale[2, 0])


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=40),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_quantise_invariants(x: np.ndarray) -> None:
    q, scale = golden.quantise(x)
    assert q.shape == x.shape
    assert scale.shape == (*x.shape[:-1], 1)
    wide = q.astype(np.int32)
    assert wide.min() >= -127
    assert wide.max() <= 127
    assert ((wide == 0) | (np.sign(wide) == np.sign(x))).all()
    amax = np.abs(x).max(axis=-1, keepdims=True)
    top = np.abs(wide).max(axis=-1, keepdims=True)
    assert (top[amax >= 1e-30] == 127).all()
    # half a step, and a few float32 roundings of values up to 127 steps
    assert (np.abs(x.astype(np.float64) - wide * scale.astype(np.float64)) <= scale * (0.5 + 127 * 2**-21)).all()


def test_the_scale_is_the_reciprocal_of_the_rounded_factor() -> None:
    x = RNG.uniform(1, 4, (4096, 1)).astype(np.float32)
    _, scale = golden.quantise(x)
    np.testing.assert_array_equal(scale, np.float32(1) / (np.float32(127) / x))
    assert (scale != x / np.float32(127)).any()  # the shortcut amax / 127 has other bits


@pytest.mark.parametrize("size", [1e-25, 3, 1e18, 1e37])
@pytest.mark.parametrize("epsilon", [0.0, 1e-5, 1.0])
def test_rms_norm(epsilon: float, size: float) -> None:
    x = RNG.standard_normal((7, 1536)).astype(np.float32) * np.float32(size)
    gamma = RNG.standard_normal(1536).astype(np.float32)
    wide = x.astype(np.float64)
    want = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + epsilon) * gamma
    got = golden.rms_norm(x, gamma, epsilon)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=4 * 2**-23)


@pytest.mark.parametrize(
    ("size", "epsilon", "gamma", "want"),
    [
        # The float32 of sqrt(6) is too large, and its inverse is nearest to this float32. That of 1 / sqrt(6) itself is
        # the next one, 0x1.a20bd8p-2.
        pytest.param(1, 5, 1, float.fromhex("0x1.a20bd6p-2"), id="root"),
        # 1 / 3 is rounded to (1 + 2^-25) / 3, and the product of that is 1 - 2^-23 - 2^-25 / 3. The product of 1 / 3
        # itself is 1 - 2^-23 - 2^-23 / 3, which is nearest to the float32 below, 1 - 2^-23 - 2^-24.
        pytest.param(1, 8, 3 - 2**-21, 1 - 2**-23, id="quotient"),
        # The float32 of epsilon is 1 + 2^-23, whose root is rounded to 1. The root of epsilon itself is above
        # 1 + 2^-24, and is rounded to 1 + 2^-23.
        pytest.param(2**-40, 1 + 2**-23 + 2**-25, 1, 2**-40, id="epsilon"),
    ],
)
def test_rms_norm_rounds_each_step(size: float, epsilon: float, gamma: float, want: float) -> None:
    got = golden.rms_norm(np.float32([[size, -size]]), np.full(2, gamma, np.float32), epsilon)
    np.testing.assert_array_equal(got, np.float32([[want, -want]]))


def test_rms_norm_of_a_zero_row_is_zero() -> None:
    assert not golden.rms_norm(np.zeros((1, 512), np.float32), np.ones(512, np.float32), 1e-5).any()


@pytest.mark.parametrize("size", [1, 1e18, 1e37])
def test_layer_norm(size: float) -> None:
    x = (RNG.standard_normal((7, 128)).astype(np.float32) * np.float32(2) + np.float32(1)) * np.float32(size)
    gamma = RNG.standard_normal(128).astype(np.float32)
    beta = RNG.standard_normal(128).astype(np.float32)
    wide = x.astype(np.float64)
    want = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6) * gamma + beta
    got = golden.layer_norm(x, gamma, beta, 1e-6)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(golden.layer_norm(np.full((1, 128), 5, np.float32), gamma, beta, 1e-6)[0], beta)


@pytest.mark.parametrize(
    ("gamma", "beta", "want"),
    [
        pytest.param(3 - 2**-21, 0, 1 - 2**-23, id="quotient"),  # as in test_rms_norm_rounds_each_step
        # Three times the float32 of 1 / 3 is 1 + 2^-25, which the product rounds to 1.
        pytest.param(3, -1, 0, id="product"),
    ],
)
def test_layer_norm_rounds_each_step(gamma: float, beta: float, want: float) -> None:
    got = golden.layer_norm(np.float32([[1, -1]]), np.float32([gamma, 1]), np.float32([beta, 0]), 8)
    assert got[0, 0] == want


def complex_rope(x: np.ndarray, positions: np.ndarray, interleaved: bool) -> np.ndarray:
    """RoPE as multiplication by e^(i p w): pairs by definition, output in half-split order."""
    x = x.astype(np.float64)
    half = x.shape[-1] // 2
    z = x[..., 0::2] + 1j * x[..., 1::2] if interleaved else x[..., :half] + 1j * x[..., half:]
    z = z * np.exp(1j * positions[..., None] * 10000.0 ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag], axis=-1)


@pytest.mark.parametrize("interleaved", [True, False])
def test_rope_is_a_complex_rotation(interleaved: bool) -> None:
    positions = np.array([0, 1, 77, 4095])
    x = RNG.standard_normal((4, 3, 64)).astype(np.float32)
    cos, sin = (golden.bf16_to_float32(table)[:, None, :] for table in golden.rope_tables(positions))
    right, wrong = golden.rope_interleaved, golden.rope_half_split
    if not interleaved:
        right, wrong = wrong, right
    want = complex_rope(x, positions[:, None], interleaved)
    # the tables are bfloat16: an error of 2^-9 in cos and sin, times both values of a pair of up to 4
    np.testing.assert_allclose(right(x, cos, sin), want, atol=2 * 2**-9 * 4)
    assert np.abs(wrong(x, cos, sin) - want)[1:].max() > 1  # the two modes must never be exchanged


@pytest.mark.parametrize("rope", [golden.rope_interleaved, golden.rope_half_split])
def test_rope_scores_depend_on_the_distance_alone(rope) -> None:
    q, k = RNG.standard_normal((2, 64)).astype(np.float32)

    def score(p: int, distance: int) -> float:
        angle = np.outer([p + distance, p], golden.rope_frequencies())
        angle = np.concatenate([angle, angle], axis=-1)
        turned = rope(np.stack([q, k]), np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32))
        return float(turned[0] @ turned[1])

    assert score(0, 5) == pytest.approx(score(1000, 5), abs=1e-3)
    assert score(0, 5) != pytest.approx(score(0, 6), abs=1e-3)


def test_rope_at_position_zero_only_reorders() -> None:
    x = RNG.standard_normal((1, 64)).astype(np.float32)
    cos, sin = (golden.bf16_to_float32(table) for table in golden.rope_tables(np.array([0])))
    np.testing.assert_array_equal(golden.rope_half_split(x, cos, sin), x)
    np.testing.assert_array_equal(golden.rope_interleaved(x, cos, sin), np.concatenate([x[:, ::2], x[:, 1::2]], -1))


@pytest.mark.parametrize("rope", [golden.rope_interleaved, golden.rope_half_split])
def test_rope_does_not_fuse_its_products(rope) -> None:
    # 1 + 2^-23 squared is 1 + 2^-22 + 2^-46, which a product rounds to 1 + 2^-22: a fused multiply-add would keep the
    # 2^-46 and leave it as the difference from the other product, rounded (first row), as float64 would from the same
    # number made of other factors (second row).
    a = 1 + 2**-23
    x = np.array([[a, a], [a, 1 + 2**-22]], np.float32)
    cos, sin = np.array([[a, a], [a, a]], np.float32), np.array([[a, a], [1, 1]], np.float32)
    np.testing.assert_array_equal(rope(x, cos, sin)[:, 0], 0)


def test_nan_stays_in_its_row() -> None:
    x = RNG.standard_normal((3, 300)).astype(np.float32)
    dirty = x.copy()
    dirty[1, 7] = np.nan
    w = golden.float32_to_bf16(RNG.standard_normal((300, 8)).astype(np.float32))
    gamma = np.ones(300, np.float32)
    for function in (
        lambda v: golden.matmul_bf16(v, w),
        lambda v: golden.rms_norm(v, gamma, 1e-5),
        lambda v: golden.layer_norm(v, gamma, gamma, 1e-6),
    ):
        got, want = function(dirty), function(x)
        np.testing.assert_array_equal(got[[0, 2]], want[[0, 2]])
        assert np.isnan(got[1]).any()
