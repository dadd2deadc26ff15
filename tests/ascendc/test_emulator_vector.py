"""Each vector API against a direct computation. Lanes outside a mask keep what was there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from vector_cases import CASES, I32, F, H, N, S, U, integers, normal, run


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
def test_elementwise(case: str) -> None:
    a, b, function = ELEMENTWISE[case]
    before = np.full(N + 40, 77, a.dtype)
    got = run(case, a, b, before)
    np.testing.assert_array_equal(got[:N], function(a) if b is None else function(a, b))
    np.testing.assert_array_equal(got[N:], before[N:])


@pytest.mark.parametrize(("case", "function"), [("exp_float", np.exp), ("ln_float", np.log), ("exp_half", np.exp)])
def test_transcendental(case: str, function: Callable[..., np.ndarray]) -> None:
    a = np.abs(normal(N)).astype(H if case.endswith("half") else F)
    got = run(case, a, None, np.zeros(N, a.dtype))
    np.testing.assert_allclose(got, function(a.astype(np.float64)), rtol=1e-3 if a.dtype == H else 1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("case", "function"), [("rsqrt_float", lambda a: 1 / np.sqrt(a)), ("reciprocal_float", lambda a: 1 / a)]
)
def test_approximations_are_poor(case: str, function: Callable[..., np.ndarray]) -> None:
    a = np.abs(normal(N)) + F(0.1)
    error = np.abs(run(case, a, None, np.zeros(N, F)) / function(a.astype(np.float64)) - 1)
    assert 5e-4 < error.max() < 1.1e-3
    assert (error > 1e-5).mean() > 0.9


@pytest.mark.parametrize("seed", [0, 3])
def test_masks_and_strides(seed: int) -> None:
    a, b = normal(512), normal(512, F, 1)
    np.testing.assert_array_equal(run("add_in_place", a, b, np.zeros(512, F), seed=seed)[:N], (a + b)[:N])
    scalars = np.repeat(b[:4], 8)
    got = run("mul_rows", a, scalars, np.zeros(512, F), seed=seed)
    np.testing.assert_array_equal(got.reshape(4, 128), a.reshape(4, 128) * b[:4, None])
    ah, bh, before = normal(384, H), normal(384, H, 1), np.full(384, 9, H)
    lanes = np.zeros(128, bool)
    lanes[:64:2] = lanes[64:80] = True
    expected = np.where(np.tile(lanes, 3), (ah.astype(F) + bh.astype(F)).astype(H), before)
    np.testing.assert_array_equal(run("add_bits", ah, bh, before, seed=seed), expected)
    total = np.arange(64, dtype=F)
    got = run("add_repeats", a, None, total.copy(), seed=seed)
    for row in a.reshape(8, 64):
        total = total + row
    np.testing.assert_array_equal(got, total)
    before = np.full(3 * 128, 9, F)
    expected = before.copy().reshape(3, 8, 2, 8)
    expected[:, :5, 0] = a.reshape(8, 8, 8)[:3, :5] * 2  # 40 lanes are 5 blocks, written to every second block
    np.testing.assert_array_equal(run("muls_stride", a, None, before, seed=seed), expected.reshape(-1))
    expected = a.reshape(32, 2, 8)[:24, 0].reshape(-1)
    np.testing.assert_array_equal(run("copy_stride", a, None, np.zeros(192, F), seed=seed), expected)
    before = np.zeros(4 * 5 * 8, F)
    expected = before.reshape(4, 5, 8).copy()
    expected[:, :2] = a[: 4 * 3 * 8].reshape(4, 3, 8)[:, :2]  # 2 blocks, gaps of 1 and 3
    np.testing.assert_array_equal(run("copy_ub", a, None, before, seed=seed), expected.reshape(-1))


def test_fill() -> None:
    a = normal(512)
    before = np.full(N + 20, 7, F)
    expected = before.copy()
    expected[:N] = 2.5
    np.testing.assert_array_equal(run("duplicate_float", a, None, before), expected)
    got = run("duplicate_bfloat16", a, None, np.zeros(N, np.uint16))
    np.testing.assert_array_equal(got, np.full(N, 0x4020))
    expected = np.full(80, 7, F)
    expected[5:64] = -1
    np.testing.assert_array_equal(run("duplicate_tail", a, None, np.full(80, 7, F)), expected)
    np.testing.assert_array_equal(run("create_index", a, None, np.zeros(N, I32)), np.arange(3, N + 3))
    np.testing.assert_array_equal(run("create_index_float", a, None, np.zeros(N, F)), np.arange(3, N + 3))
    np.testing.assert_array_equal(run("brcb_float", a, None, np.zeros(128, F)), a[:16].repeat(8))
    got = run("brcb_half", a.astype(H), None, np.zeros(512, H)).reshape(16, 2, 16)
    np.testing.assert_array_equal(got[:, 0], a[:16].astype(H)[:, None].repeat(16, 1))
    np.testing.assert_array_equal(got[:, 1], 0)
    index = np.random.default_rng(3).permutation(256).astype(U)
    got = run("gather", a, index * 4, np.zeros(256, F), count=256)
    np.testing.assert_array_equal(got, a[index + 2])
    square = normal(256, H)
    np.testing.assert_array_equal(
        run("transpose", square, None, np.zeros(256, H)).reshape(16, 16), square.reshape(16, 16).T
    )


def test_reductions() -> None:
    a, ah = normal(192), normal(384, H)
    rows, rows_half = a.reshape(3, 64), ah.reshape(3, 128)
    rows[1, 7] = rows[1, 40] = 9  # a tie: the lower index
    got = run("whole_sum_float", a, None, np.zeros(8, F))
    np.testing.assert_array_equal(got[:3], [tree_sum(row) for row in rows])
    padded = np.concatenate([rows_half[:, :100], np.zeros((3, 28), H)], 1)
    got = run("whole_sum_half", ah, None, np.full(8, 5, H))
    np.testing.assert_array_equal(got[[0, 2, 4]], [tree_sum(row) for row in padded])
    np.testing.assert_array_equal(got[[1, 3, 5, 6, 7]], 5)
    got = run("whole_max_pair", a, None, np.zeros(8, F))
    np.testing.assert_array_equal(got[:6:2], rows.max(1))
    np.testing.assert_array_equal(got.view(I32)[1:6:2], rows.argmax(1))
    got = run("whole_max_index_value", a, None, np.zeros(8, F))
    np.testing.assert_array_equal(got.view(I32)[:6:2], rows.argmax(1))
    np.testing.assert_array_equal(got[1:6:2], rows.max(1))
    np.testing.assert_array_equal(run("whole_max_value", a, None, np.zeros(8, F))[:3], rows[:, :50].max(1))
    np.testing.assert_array_equal(run("whole_max_index", a, None, np.zeros(8, I32))[:3], rows.argmax(1))
    got = run("whole_min_half", ah, None, np.zeros(16, H))
    np.testing.assert_array_equal(got[:6:2], rows_half.min(1))
    np.testing.assert_array_equal(got.view(np.uint16)[1:6:2], rows_half.argmin(1))
    np.testing.assert_array_equal(run("block_max", a, None, np.zeros(24, F)), a.reshape(24, 8).max(1))
    expected = [tree_sum(block) for block in ah.reshape(24, 16)]
    np.testing.assert_array_equal(run("block_sum", ah, None, np.zeros(24, H)), expected)
    expected = np.full((3, 8), 6, F)
    expected[:, :2] = rows.reshape(3, 8, 8)[:, :2].min(2)
    expected[:, 2] = rows[:, 16:20].min(1)
    np.testing.assert_array_equal(run("block_min_tail", a, None, np.full(24, 6, F)), expected.reshape(-1))
    np.testing.assert_array_equal(run("pair_sum", a, None, np.zeros(96, F)), a[::2] + a[1::2])
    for case, values in (("reduce_sum", normal(1000)), ("reduce_sum_half", normal(1000, H))):
        lanes = 64 if values.dtype == F else 128
        padded = np.concatenate([values, np.zeros(-len(values) % lanes, values.dtype)]).reshape(-1, lanes)
        total = tree_sum(padded[0])
        for row in padded[1:]:  # one repeat after another
            total = (np.float32(total) + np.float32(tree_sum(row))).astype(values.dtype)
        assert run(case, values, None, np.zeros(16, values.dtype), count=1000)[0] == total
    values = normal(1000)
    got = run("reduce_max", values, None, np.zeros(8, F), count=1000)
    assert got[0] == values.max()
    assert got.view(I32)[1] == values.argmax()


def test_gather_mask() -> None:
    a, ah, ai = normal(192), normal(384, H), integers(192, I32)
    np.testing.assert_array_equal(run("gather_mask_1", a, None, np.zeros(96, F)), a[::2])
    np.testing.assert_array_equal(run("gather_mask_2", ah, None, np.zeros(192, H)), ah[1::2])
    np.testing.assert_array_equal(run("gather_mask_5", ai, None, np.zeros(48, I32)), ai[2::4])
    expected = np.concatenate([a[r * 32 : r * 32 + 20] for r in range(3)])
    np.testing.assert_array_equal(run("gather_mask_7", a, None, np.zeros(60, F)), expected)
    # 70 elements in each of two repeats that begin 12 blocks apart; the mask tensor is read from its start each time.
    bits = np.full(8, 0x99999999, U)
    expected = np.concatenate([[x for e, x in enumerate(a[r * 96 : r * 96 + 70]) if e % 4 in (0, 3)] for r in range(2)])
    got = run("gather_mask_bits", a, bits, np.zeros(80, F))
    np.testing.assert_array_equal(got[: len(expected)], expected)
    np.testing.assert_array_equal(got[len(expected) :], 0)
    got = run("gather_mask_count", a, bits, np.zeros(97, F))
    assert got[96:].view(I32)[0] == len(expected)


@pytest.mark.parametrize(
    ("case", "dtype", "compare"),
    [
        ("compare_scalar_gt", F, np.greater),
        ("compare_scalar_ge", F, np.greater_equal),
        ("compare_scalar_lt_half", H, np.less),
    ],
)
def test_compare_scalar(case: str, dtype: type, compare: Callable[..., np.ndarray]) -> None:
    """One bit for each element, from the low end. No comparison with NaN is true."""
    values = normal(256, dtype)
    values[[3, 70, 71]] = [0.5, np.nan, np.inf]
    expected = np.packbits(compare(values, dtype(0.5)), bitorder="little")
    got = run(case, values, None, np.zeros(32, np.uint8), count=256)
    np.testing.assert_array_equal(got, expected)


def records(scores: np.ndarray, index: np.ndarray) -> np.ndarray:
    out = np.full(len(scores) * 2, 0xFFFFFFFF, U)
    out.view(scores.dtype)[:: 8 // scores.itemsize] = scores
    out[1::2] = index
    return out


def test_sort() -> None:
    rng = np.random.default_rng(7)
    index = rng.permutation(1000)[:96].astype(U)
    for case, dtype in (("sort32_float", F), ("sort32_half", H)):
        scores = rng.integers(-20, 20, 96).astype(dtype)  # ties: the earlier place first
        order = np.concatenate([r * 32 + np.argsort(-scores[r * 32 : r * 32 + 32], kind="stable") for r in range(3)])
        got = run(case, scores, index, np.zeros(192, U))
        np.testing.assert_array_equal(got, records(scores[order], index[order]))

    lists = -np.sort(-rng.integers(-50, 50, (8, 32)).astype(F), axis=1)
    index = np.arange(256, dtype=U).reshape(8, 32)
    source = np.concatenate([records(*pair) for pair in zip(lists, index, strict=True)])
    expected = []
    for r in range(2):
        scores, ids = lists[4 * r : 4 * r + 4].reshape(-1), index[4 * r : 4 * r + 4].reshape(-1)
        order = np.argsort(-scores, kind="stable")
        expected.append(records(scores[order], ids[order]))
    np.testing.assert_array_equal(run("mrg_sort_repeat", source, None, np.zeros(512, U)), np.concatenate(expected))
    scores = np.concatenate([lists[0], lists[1, :5], lists[2, :17]])
    ids = np.concatenate([index[0], index[1, :5], index[2, :17]])
    order = np.argsort(-scores, kind="stable")
    got = run("mrg_sort_three", source, None, np.zeros(108, U))
    np.testing.assert_array_equal(got, records(scores[order], ids[order]))
    got = run("mrg_sort_exhausted", source, None, np.zeros(132, U))
    scores, ids = lists[:2].reshape(-1), index[:2].reshape(-1)
    order = np.argsort(-scores, kind="stable")
    stop = min(int(np.flatnonzero(order == 31)[0]), int(np.flatnonzero(order == 63)[0])) + 1
    np.testing.assert_array_equal(got[: 2 * stop], records(scores[order], ids[order])[: 2 * stop])
    np.testing.assert_array_equal(got[2 * stop : 128], 0)
    taken = order[:stop]
    np.testing.assert_array_equal(got[128:], [(taken < 32).sum(), (taken >= 32).sum(), 0, 0])


def test_every_case_is_used() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    unused = [case for case in CASES if f'"{case}"' not in text and not case.startswith("cast_")]
    assert not unused
    assert len(set(CASES)) == len(CASES)
