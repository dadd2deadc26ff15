"""RoPE tables for any model: YaRN as DeepSeek's own code states it, term by term."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ms_dsv32 import golden, rope
from ms_dsv32.config import ModelConfig

MODELS = {
    "DeepSeek-V3.2": {},
    "no YaRN": {"rope_factor": 1.0},
    "other constants": {
        "rope_theta": 50000.0,
        "rope_factor": 8.0,
        "original_seq_len": 2000,
        "beta_fast": 20.0,
        "beta_slow": 2.0,
        "mscale": 0.7,
    },
    "a ramp that begins before the first pair": {"original_seq_len": 16, "beta_fast": 30.0, "beta_slow": 0.5},
    "a ramp that ends before the first pair": {"original_seq_len": 4},
    "an empty ramp": {"original_seq_len": 16, "beta_slow": 3.0},
    "a ramp that ends after the last pair": {"original_seq_len": 2**30},
}


def published_frequencies(model: ModelConfig) -> list[float]:
    """`precompute_freqs_cis` of DeepSeek-V3.2-Exp's inference/model.py, one pair at a time."""

    def correction_dim(rotations: float) -> float:
        return 64 * math.log(model.original_seq_len / (rotations * 2 * math.pi)) / (2 * math.log(model.rope_theta))

    frequencies = [1.0 / model.rope_theta ** (2 * i / 64) for i in range(32)]
    if not model.yarn:
        return frequencies
    low = max(math.floor(correction_dim(model.beta_fast)), 0)
    high = min(math.ceil(correction_dim(model.beta_slow)), 63)
    if low == high:
        high += 0.001  # type: ignore[assignment]
    smooth = [1 - min(max((i - low) / (high - low), 0.0), 1.0) for i in range(32)]
    return [f / model.rope_factor * (1 - s) + f * s for f, s in zip(frequencies, smooth, strict=True)]


@pytest.mark.parametrize("fields", MODELS.values(), ids=MODELS.keys())
def test_tables_of_a_model(fields: dict[str, Any]) -> None:
    model = ModelConfig(**fields)
    np.testing.assert_allclose(rope.rope_frequencies(model), published_frequencies(model), rtol=1e-12)
    positions = np.array([[0, 1, 77], [4095, 100000, 163839]])
    cos, sin = rope.rope_tables(positions, model)
    assert cos.dtype == sin.dtype == np.uint16
    assert cos.shape == sin.shape == (2, 3, 64)
    angles = positions[..., None] * np.array(published_frequencies(model) * 2)
    np.testing.assert_array_equal(cos, golden.float32_to_bf16(np.cos(angles)))
    np.testing.assert_array_equal(sin, golden.float32_to_bf16(np.sin(angles)))


def test_ties_are_rounded_to_even() -> None:
    """Among so many values some lie half-way between two of bfloat16."""
    positions = np.arange(20000)
    angles = positions[:, None] * rope.rope_frequencies()
    cos, sin = rope.rope_tables(positions)
    for got, values in ((cos, np.cos(angles)), (sin, np.sin(angles))):
        halves = values.astype(np.float32).view(np.uint32)
        assert ((halves & 0x1FFFF) == 0x8000).any()
        np.testing.assert_array_equal(got[:, :32], golden.float32_to_bf16(values))


def test_deepseeks_model_is_the_default() -> None:
    positions = np.arange(5000, 5010)
    for got, want in zip(rope.rope_tables(positions), rope.rope_tables(positions, ModelConfig()), strict=True):
        np.testing.assert_array_equal(got, want)
    assert rope.softmax_scale() == ModelConfig().softmax_scale
    assert rope.softmax_scale(rope.PLAIN) == pytest.approx(192**-0.5, rel=1e-15)
    assert rope.softmax_scale(ModelConfig(**MODELS["other constants"])) == pytest.approx(
        192**-0.5 * (0.07 * math.log(8.0) + 1) ** 2, rel=1e-15
    )


@pytest.mark.parametrize("factor", [0.5, 0.0, -1.0, math.nan])
def test_a_factor_that_would_quicken_is_refused(factor: float) -> None:
    parameters = rope.RopeParameters(rope_factor=factor)
    for function in (rope.rope_frequencies, rope.softmax_scale, lambda p: rope.rope_tables(np.zeros(1), p)):
        with pytest.raises(ValueError, match=r"rope_factor is .*, expected 1"):
            function(parameters)
