"""The indexer's selection, score for score: the order of summation is fixed, so the scores are known to the bit.

`test_operators.py` compares with the golden reference within the contract's tolerance; here near ties, exact ties, NaN,
infinities and narrow ranges must come out exactly.
"""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
from exact import BLOCK, index_scores
from numpy.typing import NDArray

from ms_dsv32 import golden, kernel_impl

Array = NDArray[Any]


def check(case: cases.Case) -> None:
    (got,) = kernel_impl.call(case.operator, case.copy().inputs, case.attributes)
    for i, row in enumerate(got):
        scores = index_scores(case, i)
        want = np.full(row.size, -1, np.int32)
        # A stable sort keeps equal scores in the order of their positions. NaN ranks with -inf.
        order = np.argsort(-np.where(np.isnan(scores), np.float32(-np.inf), scores), kind="stable")
        chosen = np.sort(order[: row.size])
        want[: chosen.size] = chosen
        np.testing.assert_array_equal(row, want)


def only_scales(case: cases.Case, bits: Array) -> cases.Case:
    """The same call with scores that are `bits` (fp16), repeated: one head, one dimension, all ones."""
    q, k = np.zeros_like(case.inputs["q_int8"]), np.zeros_like(case.inputs["k_cache"])
    q[..., 0, 0] = 1
    k[..., 0] = 1
    one = {n: np.ones_like(case.inputs[n]) for n in ("q_scale", "weights")}
    scale = np.resize(bits.astype(np.uint16).view(np.float16), case.inputs["k_cache_scale"].shape)
    return case.copy(q_int8=q, k_cache=k, k_cache_scale=scale, **one)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("selected_count", [1, 100, 2048])
def test_random_scores(seed: int, selected_count: int) -> None:
    check(cases.indexer_case(2, 3, [2600, 700], selected_count=selected_count, seed=seed))


def test_every_int8_value() -> None:
    """-128 included, which int8 cannot negate, and whose products overflow the int16 pairs of vpmaddubsw."""
    case = cases.indexer_case(1, 2, 900, selected_count=64)
    rng = np.random.default_rng(0)
    low = {n: np.full_like(case.inputs[n], -128) for n in ("q_int8", "k_cache")}
    check(case.copy(**low))
    low["k_cache"].reshape(-1, BLOCK)[::3, ::2] = 127
    check(case.copy(**low))
    check(case.copy(**{n: rng.choice(np.array([-128, 127], np.int8), v.shape) for n, v in low.items()}))
    check(case.copy(**{n: rng.integers(-128, 128, v.shape, dtype=np.int8) for n, v in low.items()}))


@pytest.mark.parametrize("numbers", [0, 3, 99])
def test_fewer_numbers_than_are_selected(numbers: int) -> None:
    """The rest is NaN, and the first of them are taken. The selection reaches the lowest bins of each thread."""
    case = only_scales(cases.indexer_case(1, 1, 3000, selected_count=100), np.array([0x7E00]))
    scale = case.inputs["k_cache_scale"].copy()
    scale.reshape(-1)[np.random.default_rng(numbers).choice(scale.size, numbers, replace=False)] = 1
    on_three_threads(case.copy(k_cache_scale=scale))


@pytest.mark.parametrize("numbers", [900, 1000])
def test_the_first_thread_has_all_numbers(numbers: int) -> None:
    """There are fewer of them than are selected: the lowest bins of the other threads count."""
    case = only_scales(cases.indexer_case(1, 1, 3000, selected_count=2048, shuffle=False), np.array([0x3C00]))
    scale = case.inputs["k_cache_scale"].copy()
    scale.reshape(-1)[numbers:] = np.nan
    on_three_threads(case.copy(k_cache_scale=scale))


def on_three_threads(case: cases.Case) -> None:
    try:
        kernel_impl.set_thread_count(3)
        check(case)
    finally:
        kernel_impl.set_thread_count(0)


@pytest.mark.parametrize("value", [-128, -127, -1, 0, 127])
@pytest.mark.parametrize("other", [-128, -127, 0, 127])
def test_every_pair_of_signs(value: int, other: int) -> None:
    """The elements of a pair, and the pairs of a group of four, of every sign, against extreme queries."""
    case = cases.indexer_case(1, 1, 700, selected_count=150)
    k = np.full_like(case.inputs["k_cache"], other)
    for i in range(4):
        k.reshape(-1, BLOCK)[i::5, i::4] = value
    for extreme in (-128, 127):
        q = np.where(np.random.default_rng(1).random(case.inputs["q_int8"].shape) < 0.5, case.inputs["q_int8"], extreme)
        check(case.copy(q_int8=q.astype(np.int8), k_cache=k))


@pytest.mark.parametrize("position", [1, 47, 48, 62, 63, 64, 127, 128, 300, 637])
def test_one_lowest_value(position: int) -> None:
    """A single -128 decides: at the edges of a run of keys, of a block and of the sequence, in either key of a pair."""
    for element in (0, 1, 6, 127):
        for sign, count in ((-1, 1), (1, position + 1)):  # its key has the largest score, or the smallest
            case = only_scales(cases.indexer_case(1, 2, 638, selected_count=count), np.array([0x3C00]))
            row = case.inputs["block_table"][0, position // BLOCK] * BLOCK + position % BLOCK
            q, k = np.zeros_like(case.inputs["q_int8"]), np.full_like(case.inputs["k_cache"], -127)
            q[..., element] = sign
            q[..., 64] = -2  # 254, for a positive sum
            k.reshape(-1, BLOCK)[row, element] = -128
            check(case.copy(q_int8=q, k_cache=k))


@pytest.mark.parametrize("visible", [1, 47, 48, 49, 63, 64, 65, 127, 128, 129, 191, 193, 1023, 1024, 1025, 2049])
def test_edges_of_runs_and_chunks(visible: int) -> None:
    check(cases.indexer_case(2, 2, [visible, visible + 1], selected_count=max(visible // 3, 1)))


@pytest.mark.parametrize("selected_count", [1, 5, 1000, 2048])
@pytest.mark.parametrize(
    "bits",
    [
        pytest.param(np.random.default_rng(1).integers(0, 2**16, 1 << 14), id="any fp16"),
        pytest.param(np.array([0x3C00]), id="all equal"),
        pytest.param(np.array([0x0000, 0x8000, 0x8000]), id="zeros of both signs"),
        pytest.param(np.array([0x7E00, 0x7C00, 0xFC00, 0xFE00, 0x3C00]), id="nan and infinities"),
        pytest.param(np.array([0x7E00, 0xFC00]), id="nothing finite"),
        pytest.param(np.random.default_rng(2).integers(0x3C00, 0x3C04, 1 << 14), id="four values"),
        pytest.param(np.random.default_rng(3).integers(0x8001, 0x8400, 1 << 14), id="negative subnormals"),
        pytest.param(np.arange(0x7BFF, 0x3C00, -1), id="descending"),
    ],
)
def test_any_scores(bits: Array, selected_count: int) -> None:
    check(only_scales(cases.indexer_case(1, 2, 3001, selected_count=selected_count), bits))


def test_scores_that_differ_in_the_last_bits() -> None:
    """One bin of the first two histograms: keys that differ below bit 10 only."""
    case = cases.indexer_case(1, 1, 5000, selected_count=700)
    q, k = np.zeros_like(case.inputs["q_int8"]), np.zeros_like(case.inputs["k_cache"])
    q[..., 0, :127] = 127  # dot = 127 * (126 * 127) + 127 * 120 + 0..99 = 128 * 15996 + 6..105, one step = 2^3 ulp
    k[..., :126] = 127
    k[..., 126] = 120
    q[..., 0, 127] = 1
    k[..., 127] = np.random.default_rng(0).integers(0, 100, k.shape[:-1])
    one = {n: np.ones_like(case.inputs[n]) for n in ("q_scale", "weights", "k_cache_scale")}
    case = case.copy(q_int8=q, k_cache=k, **one)
    spread = index_scores(case, 0).view(np.uint32)
    assert np.unique(spread >> 10).size == 1 < np.unique(spread).size
    check(case)


@pytest.mark.parametrize("selected_count", [1, 15, 16, 17, 1500, 2048])
@pytest.mark.parametrize("first", [0, 1030, 2990])
def test_ties_at_the_cut(first: int, selected_count: int) -> None:
    """The largest score is alone, at `first`; of the others, which are equal, those before and after it are taken."""
    case = only_scales(cases.indexer_case(1, 1, 3000, selected_count=selected_count), np.array([0x3C00]))
    scale = case.inputs["k_cache_scale"].copy()
    scale.reshape(-1)[case.inputs["block_table"][0, first // BLOCK] * BLOCK + first % BLOCK] = 2
    check(case.copy(k_cache_scale=scale))


def test_nan_in_one_query_stays_there() -> None:
    case = cases.indexer_case(1, 3, 3000, selected_count=500)
    weights = case.inputs["weights"].copy()
    weights[1, 7] = np.nan
    dirty = case.copy(weights=weights)
    check(dirty)
    (want,), (got,) = (kernel_impl.call(c.operator, c.inputs, c.attributes) for c in (case, dirty))
    np.testing.assert_array_equal(got[[0, 2]], want[[0, 2]])


def test_more_tokens_than_a_wave_holds() -> None:
    case = cases.indexer_case(1, 150, 400, selected_count=300)  # the first 50 tokens see no more than they select
    check(case)
    golden_rows = golden.lightning_indexer_quant(*case.inputs.values(), selected_count=300)
    (got,) = kernel_impl.call(case.operator, case.inputs, case.attributes)
    np.testing.assert_array_equal(golden_rows[:50], got[:50])
