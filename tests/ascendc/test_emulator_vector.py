"""Each vector API against a direct computation. Lanes outside a mask keep what was there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from emulator import In, Library, Out, Tiling, build

SOURCE = Path(__file__).resolve().parent.parent / "ascendc_emulator" / "tests" / "vector_cases.cpp"
CASES = [
    case or f"cast_{source}_{to}"
    for case, to, source in re.findall(
        r"^ +(?:CASE\((\w+)\)|CAST\((\w+), (\w+)\))", SOURCE.read_text(encoding="utf-8"), re.MULTILINE
    )
]
F, H, I32, S, U = np.float32, np.float16, np.int32, np.int16, np.uint32
N = 300


@pytest.fixture(scope="module")
def library() -> Library:
    return build(SOURCE, ["vector_case"])


def run(
    library: Library,
    case: str,
    a: np.ndarray,
    b: np.ndarray | None,
    before: np.ndarray,
    count: int = N,
    mode: int = 0,
    seed: int = 0,
) -> np.ndarray:
    b = np.zeros(8, np.float32) if b is None else b
    out = Out("out", before.shape, before.dtype)
    fields = [CASES.index(case), mode, count, a.nbytes, b.nbytes, before.nbytes]
    tiling = Tiling(np.array(fields, np.int32))
    args = [In("a", a), In("b", b), In("before", before), out, tiling]
    library.launch("vector_case", args, kernel_type="AIV_ONLY", seed=seed).check()
    return out.array


def normal(size: int, dtype: type = F, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


def integers(size: int, dtype: type, low: int = -1000, high: int = 1000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, size).astype(dtype)


def in_half(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """half operations round a float result once."""
    return lambda *args: function(*(arg.astype(F) if isinstance(arg, np.ndarray) else F(arg) for arg in args)).astype(H)


def tree_sum(values: np.ndarray) -> np.generic:
    while len(values) > 1:
        values = (values[::2].astype(F) + values[1::2].astype(F)).astype(values.dtype)
    return values[0]


ELEMENTWISE: dict[str, tuple[np.ndarray, np.ndarray | None, Callable[..., np.ndarray]]] = {
    "add_float": (normal(N), normal(N, F, 1), np.add),
    "add_half": (normal(N, H), normal(N, H, 1), in_half(np.add)),
    "add_int32": (integers(N, I32), integers(N, I32, seed=1), np.add),
    "add_int16": (integers(N, S), integers(N, S, seed=1), np.add),
    "sub_float": (normal(N), normal(N, F, 1), np.subtract),
    "sub_half": (normal(N, H), normal(N, H, 1), in_half(np.subtract)),
    "mul_float": (normal(N), normal(N, F, 1), np.multiply),
    "mul_half": (normal(N, H), normal(N, H, 1), in_half(np.multiply)),
    "mul_int32": (integers(N, I32), integers(N, I32, seed=1), np.multiply),
    "div_float": (normal(N), normal(N, F, 1), np.divide),
    "div_half": (normal(N, H), normal(N, H, 1), in_half(np.divide)),
    "max_float": (normal(N), normal(N, F, 1), np.maximum),
    "max_int32": (integers(N, I32), integers(N, I32, seed=1), np.maximum),
    "min_half": (normal(N, H), normal(N, H, 1), np.minimum),
    "min_float": (normal(N), normal(N, F, 1), np.minimum),
    "and_int16": (integers(N, S), integers(N, S, seed=1), np.bitwise_and),
    "or_int16": (integers(N, S), integers(N, S, seed=1), np.bitwise_or),
    "adds_float": (normal(N), None, lambda a: a + F(1.5)),
    "adds_int32": (integers(N, I32), None, lambda a: a - I32(7)),
    "muls_float": (normal(N), None, lambda a: a * F(1.5)),
    "muls_half": (normal(N, H), None, in_half(lambda a: a * F(H(0.1)))),
    "maxs_float": (normal(N), None, lambda a: np.maximum(a, F(0.25))),
    "mins_half": (normal(N, H), None, lambda a: np.minimum(a, H(0.25))),
    "sqrt_float": (np.abs(normal(N)), None, np.sqrt),
    "sqrt_half": (np.abs(normal(N, H)), None, in_half(np.sqrt)),
    "abs_float": (normal(N), None, np.abs),
    "abs_half": (normal(N, H), None, np.abs),
    "relu_float": (normal(N), None, lambda a: np.maximum(a, F(0))),
}


@pytest.mark.parametrize("case", ELEMENTWISE)
def test_elementwise(library: Library, case: str) -> None:
    a, b, function = ELEMENTWISE[case]
    before = np.full(N + 40, 77, a.dtype)
    got = run(library, case, a, b, before)
    np.testing.assert_array_equal(got[:N], function(a) if b is None else function(a, b))
    np.testing.assert_array_equal(got[N:], before[N:])


@pytest.mark.parametrize(("case", "function"), [("exp_float", np.exp), ("ln_float", np.log), ("exp_half", np.exp)])
def test_transcendental(library: Library, case: str, function: Callable[..., np.ndarray]) -> None:
    a = np.abs(normal(N)).astype(H if case.endswith("half") else F)
    got = run(library, case, a, None, np.zeros(N, a.dtype))
    np.testing.assert_allclose(got, function(a.astype(np.float64)), rtol=1e-3 if a.dtype == H else 1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("case", "function"), [("rsqrt_float", lambda a: 1 / np.sqrt(a)), ("reciprocal_float", lambda a: 1 / a)]
)
def test_approximations_are_poor(library: Library, case: str, function: Callable[..., np.ndarray]) -> None:
    a = np.abs(normal(N)) + F(0.1)
    error = np.abs(run(library, case, a, None, np.zeros(N, F)) / function(a.astype(np.float64)) - 1)
    assert 5e-4 < error.max() < 1.1e-3
    assert (error > 1e-5).mean() > 0.9


@pytest.mark.parametrize("seed", [0, 3])
def test_masks_and_strides(library: Library, seed: int) -> None:
    a, b = normal(512), normal(512, F, 1)
    np.testing.assert_array_equal(run(library, "add_in_place", a, b, np.zeros(512, F), seed=seed)[:N], (a + b)[:N])
    scalars = np.repeat(b[:4], 8)
    got = run(library, "mul_rows", a, scalars, np.zeros(512, F), seed=seed)
    np.testing.assert_array_equal(got.reshape(4, 128), a.reshape(4, 128) * b[:4, None])
    ah, bh, before = normal(384, H), normal(384, H, 1), np.full(384, 9, H)
    lanes = np.zeros(128, bool)
    lanes[:64:2] = lanes[64:80] = True
    expected = np.where(np.tile(lanes, 3), (ah.astype(F) + bh.astype(F)).astype(H), before)
    np.testing.assert_array_equal(run(library, "add_bits", ah, bh, before, seed=seed), expected)
    total = np.arange(64, dtype=F)
    got = run(library, "add_repeats", a, None, total.copy(), seed=seed)
    for row in a.reshape(8, 64):
        total = total + row
    np.testing.assert_array_equal(got, total)
    before = np.full(3 * 128, 9, F)
    expected = before.copy().reshape(3, 8, 2, 8)
    expected[:, :5, 0] = a.reshape(8, 8, 8)[:3, :5] * 2  # 40 lanes are 5 blocks, written to every second block
    np.testing.assert_array_equal(run(library, "muls_stride", a, None, before, seed=seed), expected.reshape(-1))
    expected = a.reshape(32, 2, 8)[:24, 0].reshape(-1)
    np.testing.assert_array_equal(run(library, "copy_stride", a, None, np.zeros(192, F), seed=seed), expected)
    before = np.zeros(4 * 5 * 8, F)
    expected = before.reshape(4, 5, 8).copy()
    expected[:, :2] = a[: 4 * 3 * 8].reshape(4, 3, 8)[:, :2]  # 2 blocks, gaps of 1 and 3
    np.testing.assert_array_equal(run(library, "copy_ub", a, None, before, seed=seed), expected.reshape(-1))


def test_fill(library: Library) -> None:
    a = normal(512)
    before = np.full(N + 20, 7, F)
    expected = before.copy()
    expected[:N] = 2.5
    np.testing.assert_array_equal(run(library, "duplicate_float", a, None, before), expected)
    got = run(library, "duplicate_bfloat16", a, None, np.zeros(N, np.uint16))
    np.testing.assert_array_equal(got, np.full(N, 0x4020))
    expected = np.full(80, 7, F)
    expected[5:64] = -1
    np.testing.assert_array_equal(run(library, "duplicate_tail", a, None, np.full(80, 7, F)), expected)
    np.testing.assert_array_equal(run(library, "create_index", a, None, np.zeros(N, I32)), np.arange(3, N + 3))
    np.testing.assert_array_equal(run(library, "create_index_float", a, None, np.zeros(N, F)), np.arange(3, N + 3))
    np.testing.assert_array_equal(run(library, "brcb_float", a, None, np.zeros(128, F)), a[:16].repeat(8))
    got = run(library, "brcb_half", a.astype(H), None, np.zeros(512, H)).reshape(16, 2, 16)
    np.testing.assert_array_equal(got[:, 0], a[:16].astype(H)[:, None].repeat(16, 1))
    np.testing.assert_array_equal(got[:, 1], 0)
    index = np.random.default_rng(3).permutation(256).astype(U)
    got = run(library, "gather", a, index * 4, np.zeros(256, F), count=256)
    np.testing.assert_array_equal(got, a[index + 2])
    square = normal(256, H)
    np.testing.assert_array_equal(
        run(library, "transpose", square, None, np.zeros(256, H)).reshape(16, 16), square.reshape(16, 16).T
    )


def test_reductions(library: Library) -> None:
    a, ah = normal(192), normal(384, H)
    rows, rows_half = a.reshape(3, 64), ah.reshape(3, 128)
    rows[1, 7] = rows[1, 40] = 9  # a tie: the lower index
    got = run(library, "whole_sum_float", a, None, np.zeros(8, F))
    np.testing.assert_array_equal(got[:3], [tree_sum(row) for row in rows])
    padded = np.concatenate([rows_half[:, :100], np.zeros((3, 28), H)], 1)
    got = run(library, "whole_sum_half", ah, None, np.full(8, 5, H))
    np.testing.assert_array_equal(got[[0, 2, 4]], [tree_sum(row) for row in padded])
    np.testing.assert_array_equal(got[[1, 3, 5, 6, 7]], 5)
    got = run(library, "whole_max_pair", a, None, np.zeros(8, F))
    np.testing.assert_array_equal(got[:6:2], rows.max(1))
    np.testing.assert_array_equal(got.view(I32)[1:6:2], rows.argmax(1))
    got = run(library, "whole_max_index_value", a, None, np.zeros(8, F))
    np.testing.assert_array_equal(got.view(I32)[:6:2], rows.argmax(1))
    np.testing.assert_array_equal(got[1:6:2], rows.max(1))
    np.testing.assert_array_equal(run(library, "whole_max_value", a, None, np.zeros(8, F))[:3], rows[:, :50].max(1))
    np.testing.assert_array_equal(run(library, "whole_max_index", a, None, np.zeros(8, I32))[:3], rows.argmax(1))
    got = run(library, "whole_min_half", ah, None, np.zeros(16, H))
    np.testing.assert_array_equal(got[:6:2], rows_half.min(1))
    np.testing.assert_array_equal(got.view(np.uint16)[1:6:2], rows_half.argmin(1))
    np.testing.assert_array_equal(run(library, "block_max", a, None, np.zeros(24, F)), a.reshape(24, 8).max(1))
    expected = [tree_sum(block) for block in ah.reshape(24, 16)]
    np.testing.assert_array_equal(run(library, "block_sum", ah, None, np.zeros(24, H)), expected)
    expected = np.full((3, 8), 6, F)
    expected[:, :2] = rows.reshape(3, 8, 8)[:, :2].min(2)
    expected[:, 2] = rows[:, 16:20].min(1)
    np.testing.assert_array_equal(run(library, "block_min_tail", a, None, np.full(24, 6, F)), expected.reshape(-1))
    np.testing.assert_array_equal(run(library, "pair_sum", a, None, np.zeros(96, F)), a[::2] + a[1::2])
    for case, values in (("reduce_sum", normal(1000)), ("reduce_sum_half", normal(1000, H))):
        lanes = 64 if values.dtype == F else 128
        padded = np.concatenate([values, np.zeros(-len(values) % lanes, values.dtype)]).reshape(-1, lanes)
        total = tree_sum(padded[0])
        for row in padded[1:]:  # one repeat after another
            total = (np.float32(total) + np.float32(tree_sum(row))).astype(values.dtype)
        assert run(library, case, values, None, np.zeros(16, values.dtype), count=1000)[0] == total
    values = normal(1000)
    got = run(library, "reduce_max", values, None, np.zeros(8, F), count=1000)
    assert got[0] == values.max()
    assert got.view(I32)[1] == values.argmax()


def test_gather_mask(library: Library) -> None:
    a, ah, ai = normal(192), normal(384, H), integers(192, I32)
    np.testing.assert_array_equal(run(library, "gather_mask_1", a, None, np.zeros(96, F)), a[::2])
    np.testing.assert_array_equal(run(library, "gather_mask_2", ah, None, np.zeros(192, H)), ah[1::2])
    np.testing.assert_array_equal(run(library, "gather_mask_5", ai, None, np.zeros(48, I32)), ai[2::4])
    expected = np.concatenate([a[r * 32 : r * 32 + 20] for r in range(3)])
    np.testing.assert_array_equal(run(library, "gather_mask_7", a, None, np.zeros(60, F)), expected)
    # 70 elements in each of two repeats that begin 12 blocks apart; the mask tensor is read from its start each time.
    bits = np.full(8, 0x99999999, U)
    expected = np.concatenate([[x for e, x in enumerate(a[r * 96 : r * 96 + 70]) if e % 4 in (0, 3)] for r in range(2)])
    got = run(library, "gather_mask_bits", a, bits, np.zeros(80, F))
    np.testing.assert_array_equal(got[: len(expected)], expected)
    np.testing.assert_array_equal(got[len(expected) :], 0)
    got = run(library, "gather_mask_count", a, bits, np.zeros(97, F))
    assert got[96:].view(I32)[0] == len(expected)


@pytest.mark.parametrize(
    ("case", "dtype", "compare"),
    [
        ("compare_scalar_gt", F, np.greater),
        ("compare_scalar_ge", F, np.greater_equal),
        ("compare_scalar_lt_half", H, np.less),
    ],
)
def test_compare_scalar(library: Library, case: str, dtype: type, compare: Callable[..., np.ndarray]) -> None:
    """A bit an element, from the low end; no comparison with NaN is true."""
    values = normal(256, dtype)
    values[[3, 70, 71]] = [0.5, np.nan, np.inf]
    expected = np.packbits(compare(values, dtype(0.5)), bitorder="little")
    got = run(library, case, values, None, np.zeros(32, np.uint8), count=256)
    np.testing.assert_array_equal(got, expected)


def records(scores: np.ndarray, index: np.ndarray) -> np.ndarray:
    out = np.full(len(scores) * 2, 0xFFFFFFFF, U)
    out.view(scores.dtype)[:: 8 // scores.itemsize] = scores
    out[1::2] = index
    return out


def test_sort(library: Library) -> None:
    rng = np.random.default_rng(7)
    index = rng.permutation(1000)[:96].astype(U)
    for case, dtype in (("sort32_float", F), ("sort32_half", H)):
        scores = rng.integers(-20, 20, 96).astype(dtype)  # ties: the earlier place first
        order = np.concatenate([r * 32 + np.argsort(-scores[r * 32 : r * 32 + 32], kind="stable") for r in range(3)])
        got = run(library, case, scores, index, np.zeros(192, U))
        np.testing.assert_array_equal(got, records(scores[order], index[order]))

    lists = -np.sort(-rng.integers(-50, 50, (8, 32)).astype(F), axis=1)
    index = np.arange(256, dtype=U).reshape(8, 32)
    source = np.concatenate([records(*pair) for pair in zip(lists, index, strict=True)])
    expected = []
    for r in range(2):
        scores, ids = lists[4 * r : 4 * r + 4].reshape(-1), index[4 * r : 4 * r + 4].reshape(-1)
        order = np.argsort(-scores, kind="stable")
        expected.append(records(scores[order], ids[order]))
    np.testing.assert_array_equal(
        run(library, "mrg_sort_repeat", source, None, np.zeros(512, U)), np.concatenate(expected)
    )
    scores = np.concatenate([lists[0], lists[1, :5], lists[2, :17]])
    ids = np.concatenate([index[0], index[1, :5], index[2, :17]])
    order = np.argsort(-scores, kind="stable")
    got = run(library, "mrg_sort_three", source, None, np.zeros(108, U))
    np.testing.assert_array_equal(got, records(scores[order], ids[order]))
    got = run(library, "mrg_sort_exhausted", source, None, np.zeros(132, U))
    scores, ids = lists[:2].reshape(-1), index[:2].reshape(-1)
    order = np.argsort(-scores, kind="stable")
    stop = min(int(np.flatnonzero(order == 31)[0]), int(np.flatnonzero(order == 63)[0])) + 1
    np.testing.assert_array_equal(got[: 2 * stop], records(scores[order], ids[order])[: 2 * stop])
    np.testing.assert_array_equal(got[2 * stop : 128], 0)
    taken = order[:stop]
    np.testing.assert_array_equal(got[128:], [(taken < 32).sum(), (taken >= 32).sum(), 0, 0])


# Casts.
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
def test_cast(library: Library, source: str, to: str) -> None:
    values = cast_values(source)
    for mode in sorted(MODES[source, to]):
        before = np.zeros(len(values), TYPES[to])
        got = run(library, f"cast_{source}_{to}", values, None, before, count=len(values), mode=mode)
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
                library,
                f"cast_{source}_{to}",
                values,
                None,
                np.zeros(len(values), TYPES[to]),
                count=len(values),
                mode=mode,
            )


def test_cast_forms(library: Library) -> None:
    values = np.array([0, 1, -1, 7, 100000, -200000, 4097, 2**31 - 1], I32)
    with np.errstate(over="ignore"):
        expected = (values.astype(F) * F(0.5)).astype(H)
    np.testing.assert_array_equal(run(library, "cast_int32_t_half", values, None, np.zeros(8, H), count=8), expected)
    rows = integers(640, np.int8, -128, 128)
    got = run(library, "cast_rows", rows, None, np.zeros(512, H))
    np.testing.assert_array_equal(got.reshape(4, 128), np.stack([rows[r * 160 : r * 160 + 128] for r in range(4)]))


def test_every_case_is_used() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    unused = [case for case in CASES if f'"{case}"' not in text and not case.startswith("cast_")]
    assert not unused
    assert len(set(CASES)) == len(CASES)
