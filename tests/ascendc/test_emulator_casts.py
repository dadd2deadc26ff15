"""Each conversion of the emulator's vector unit against a direct computation."""

from __future__ import annotations

import numpy as np
import pytest
from vector_cases import I32, F, H, S, U, integers, run

NONE, RINT, FLOOR, CEIL, ROUND, TRUNC, ODD = range(7)
FIVE = {RINT, FLOOR, CEIL, ROUND, TRUNC}
# Cast.md, table of Atlas A2 and A3.
MODES = {
    ("int8_t", "half"): {NONE},
    ("uint8_t", "half"): {NONE},
    ("int16_t", "half"): FIVE | {NONE},
    ("int16_t", "float"): {NONE},
    ("half", "int8_t"): FIVE | {NONE},
    ("half", "uint8_t"): FIVE | {NONE},
    ("half", "int16_t"): FIVE,
    ("half", "int32_t"): FIVE,
    ("half", "float"): {NONE},
    ("bfloat16_t", "int32_t"): FIVE,
    ("bfloat16_t", "float"): {NONE},
    ("int32_t", "int16_t"): {NONE},
    ("int32_t", "int64_t"): {NONE},
    ("int32_t", "float"): FIVE | {NONE},
    ("float", "int16_t"): FIVE,
    ("float", "int32_t"): FIVE,
    ("float", "int64_t"): FIVE,
    ("float", "half"): FIVE | {NONE, ODD},
    ("float", "bfloat16_t"): FIVE,
    ("float", "float"): FIVE,
    ("int64_t", "int32_t"): {NONE},
    ("int64_t", "float"): FIVE,
}
TYPES = {
    "half": H,
    "bfloat16_t": np.uint16,
    "float": F,
    "int8_t": np.int8,
    "uint8_t": np.uint8,
    "int16_t": S,
    "int32_t": I32,
    "int64_t": np.int64,
}


def to_integer(x: np.ndarray, mode: int) -> np.ndarray:
    if mode == FLOOR:
        return np.floor(x)
    if mode == CEIL:
        return np.ceil(x)
    if mode == TRUNC:
        return np.trunc(x)
    if mode == ROUND:
        return np.trunc(x + np.copysign(0.5, x))
    return np.rint(x)


def to_floating(x: np.ndarray, mode: int, mantissa: int, least: float, largest: float) -> np.ndarray:
    """Rounds doubles to a format of `mantissa` bits below the leading one and subnormal unit `least`."""
    finite = np.isfinite(x)
    safe = np.where(finite, x, 0)
    _, exponent = np.frexp(safe)
    unit = np.maximum(np.ldexp(1.0, exponent - 1 - mantissa), least)
    scaled = safe / unit
    rounded = to_integer(scaled, mode)
    if mode == ODD:
        rounded = np.trunc(scaled)
        rounded = np.where((rounded != scaled) & (rounded % 2 == 0), rounded + np.copysign(1, scaled), rounded)
    value = rounded * unit
    over = np.abs(value) > largest
    up = (mode in (NONE, RINT, ROUND)) | ((mode == CEIL) & (x > 0)) | ((mode == FLOOR) & (x < 0))
    value = np.where(over, np.copysign(np.where(up, np.inf, largest), value), value)
    return np.where(finite, value, x)


def cast(x: np.ndarray, source: str, to: str, mode: int) -> np.ndarray:
    wide = (x.astype(U) << 16).view(F).astype(np.float64) if source == "bfloat16_t" else x.astype(np.float64)
    if to in ("half", "float", "bfloat16_t"):
        if source == to == "float":
            return to_integer(wide, mode).astype(F) + F(0)
        if to == "half":
            return to_floating(wide, mode, 10, 2.0**-24, 65504).astype(H)
        if to == "bfloat16_t":
            return (to_floating(wide, mode, 7, 2.0**-133, 3.3895313892515355e38).astype(F).view(U) >> 16).astype(
                np.uint16
            )
        return to_floating(wide, mode, 23, 2.0**-149, 3.4028234663852886e38).astype(F)
    limits = np.iinfo(TYPES[to])
    if np.issubdtype(x.dtype, np.integer) and source != "bfloat16_t":
        return np.clip(x.astype(object), limits.min, limits.max).astype(TYPES[to])
    whole = np.nan_to_num(to_integer(wide, mode), nan=0, posinf=2.0**64, neginf=-(2.0**64))
    return np.array([min(max(int(v), limits.min), limits.max) for v in whole], TYPES[to])


def cast_values(source: str) -> np.ndarray:
    rng = np.random.default_rng(11)
    dtype = TYPES[source]
    if source in ("half", "float"):
        special = [
            0.5,
            1.5,
            2.5,
            -0.5,
            -1.5,
            -2.5,
            126.5,
            127.5,
            128,
            255.5,
            -128.5,
            -129,
            300,
            65504,
            -65504,
            32767.5,
            40000,
            np.inf,
            -np.inf,
            np.nan,
            0,
            -0.0,
            1e-7,
            6e-8,
        ]
        if source == "float":
            special += [
                65519.9,
                65520,
                -70000,
                2.0**31,
                -(2.0**31),
                3e9,
                1 + 2.0**-11,
                1 + 2.0**-8,
                1 + 3 * 2.0**-8,
                3.4e38,
                2.0**63,
                1e-40,
                2.0**-25,
                2.0**-24 * 1.5,
                6.1e-5,
            ]
        with np.errstate(over="ignore"):
            values = np.concatenate([special, rng.standard_normal(100) * 100, rng.standard_normal(100) * 3e4]).astype(
                dtype
            )
    elif source == "bfloat16_t":
        values = (
            np.concatenate([rng.standard_normal(200) * 1000, [0.5, 1.5, np.inf, -np.inf, 3e9]]).astype(F).view(U) >> 16
        ).astype(dtype)
    else:
        limits = np.iinfo(dtype)
        if limits.bits == 64:  # what the reference holds in a double without rounding
            limits = np.iinfo(np.int32)
            return np.concatenate(
                [rng.integers(-(2**53), 2**53, 200), [2**24 + 1, -(2**24) - 1, limits.max, limits.min, 2**31]]
            )
        values = np.concatenate(
            [rng.integers(limits.min, limits.max, 200, dtype, endpoint=True), [limits.min, limits.max, 0]]
        ).astype(dtype)
        if limits.bits == 32:
            values = np.concatenate([values, [2**24 + 1, 2**24 + 3, -(2**24) - 1, 2**30 + 64, 32768, -32769]]).astype(
                dtype
            )
        if limits.bits == 16:
            values = np.concatenate([values, [2049, 2051, -2049, -2051]]).astype(dtype)
    return values


@pytest.mark.parametrize(("source", "to"), MODES)
def test_cast(source: str, to: str) -> None:
    values = cast_values(source)
    for mode in sorted(MODES[source, to]):
        before = np.zeros(len(values), TYPES[to])
        got = run(f"cast_{source}_{to}", values, None, before, count=len(values), mode=mode)
        with np.errstate(all="ignore"):
            expected = cast(values, source, to, mode)
        if to == "bfloat16_t":  # any NaN is a NaN
            nan = np.isnan(values)
            assert (((got[nan] & 0x7F80) == 0x7F80) & ((got[nan] & 0x7F) != 0)).all()
            got, expected = got[~nan], expected[~nan]
        np.testing.assert_array_equal(got, expected, err_msg=f"mode {mode}")
    for mode in set(range(7)) - MODES[source, to]:
        with pytest.raises(
            AssertionError, match=r"vector_cases.cpp:\d+: argument: Cast: .* does not exist with RoundMode"
        ):
            run(
                f"cast_{source}_{to}",
                values,
                None,
                np.zeros(len(values), TYPES[to]),
                count=len(values),
                mode=mode,
            )


def test_cast_forms() -> None:
    values = np.array([0, 1, -1, 7, 100000, -200000, 4097, 2**31 - 1], I32)
    with np.errstate(over="ignore"):
        expected = (values.astype(F) * F(0.5)).astype(H)
    np.testing.assert_array_equal(run("cast_int32_t_half", values, None, np.zeros(8, H), count=8), expected)
    rows = integers(640, np.int8, -128, 128)
    got = run("cast_rows", rows, None, np.zeros(512, H))
    np.testing.assert_array_equal(got.reshape(4, 128), np.stack([rows[r * 160 : r * 160 + 128] for r in range(4)]))
