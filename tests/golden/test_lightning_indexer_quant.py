"""`lightning_indexer_quant` against plain loops, and the rules of the contract."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ms_dsv32 import golden
from ms_dsv32.paging import read_sequence


def brute_scores(case: cases.Case) -> list[np.ndarray]:
    """The formula with integers and Python floats: token by token, key by key, head by head.

    The sum is rounded to float32, and then its product with the key's scale.
    """
    i, paging = case.inputs, case.paging
    q8 = i["q_int8"].reshape(paging.t, 64, 128).astype(np.int64)
    factor = i["q_scale"].reshape(paging.t, 64).astype(np.float64) * i["weights"].reshape(paging.t, 64).astype(
        np.float64
    )
    k8 = i["k_cache"].reshape(-1, 128).astype(np.int64)
    k_scale = i["k_cache_scale"].reshape(-1).astype(np.float32)
    scores = []
    for token in range(paging.t):
        b, j = token // paging.s1, token % paging.s1
        visible = max(int(i["kv_act_seqs"][b]) - paging.s1 + 1 + j, 0)
        row_scores = np.zeros(visible, np.float32)
        for p in range(visible):
            row = i["block_table"][b, p // paging.block_size] * paging.block_size + p % paging.block_size
            total = 0.0
            for n in range(64):
                dot = int(q8[token, n] @ k8[row])
                if dot > 0:
                    total += factor[token, n] * dot
            row_scores[p] = np.float32(total) * k_scale[row]
        scores.append(row_scores)
    return scores


def plain_sort(scores: np.ndarray, count: int) -> list[int]:
    """The tie rule as a sort: by falling score, then by rising position."""
    chosen = sorted(range(scores.size), key=lambda p: (-float(scores[p]), p))[:count]
    return sorted(chosen) + [-1] * (count - len(chosen))


@pytest.mark.parametrize(("b", "s1", "kv_lens"), [(1, 1, 150), (2, 2, [40, 130]), (2, 3, [2, 0])])
def test_scores_are_the_formula(b: int, s1: int, kv_lens: Any) -> None:
    case = cases.indexer_case(b, s1, kv_lens, selected_count=16, seed=b)
    got = golden.lightning_indexer_scores(*case.inputs.values())
    want = brute_scores(case)
    assert len(got) == b * s1
    for mine, brute in zip(got, want, strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_array_equal(mine, brute)


def test_selection_is_the_top_of_the_scores() -> None:
    case = cases.indexer_case(b=2, s1=2, kv_lens=[300, 45], selected_count=64, seed=3)
    got = case.golden()["topk_indices"]
    assert got.dtype == np.int32
    assert got.shape == (4, 64)
    for row, scores in zip(got, brute_scores(case), strict=True):
        assert row.tolist() == plain_sort(scores, 64)


def test_tied_scores_prefer_the_smaller_position() -> None:
    case = cases.indexer_case(b=2, s1=2, kv_lens=[300, 200], selected_count=50, distinct_keys=9)
    scores = golden.lightning_indexer_scores(*case.inputs.values())
    for row, score in zip(case.golden()["topk_indices"], scores, strict=True):
        assert np.unique(score).size <= 9  # equal keys score equal bits, wherever they lie
        assert row.tolist() == plain_sort(score, 50)


def test_all_scores_equal() -> None:
    case = cases.indexer_case(b=1, s1=1, kv_lens=200, selected_count=20)
    silent = case.copy(weights=np.zeros_like(case.inputs["weights"]))
    assert silent.golden()["topk_indices"][0].tolist() == list(range(20))


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.integers(0, 60),
        elements=st.sampled_from([-1.5, -0.0, 0.0, 2.0**-120, 2.0, 2.0 + 2.0**-22, np.inf, -np.inf]),
    ),
    st.integers(0, 70),
)
@example(np.float32([2.0, -1.5]), 0)
def test_select_topk_is_a_plain_sort(scores: np.ndarray, count: int) -> None:
    assert golden.select_topk(scores, count).tolist() == plain_sort(scores, count)


def test_negative_zero_equals_zero() -> None:
    assert golden.select_topk(np.float32([-0.0, 0.0, -0.0, 0.0, -1.0]), 3).tolist() == [0, 1, 2]


def test_nan_ranks_last() -> None:
    scores = np.float32([np.nan, 1.0, np.nan, -2.0, -np.inf])
    assert golden.select_topk(scores, 2).tolist() == [1, 3]
    assert golden.select_topk(scores, 3).tolist() == [0, 1, 3]  # NaN and -inf are tied, position 0 is the smallest
    assert golden.select_topk(scores, 9).tolist() == [0, 1, 2, 3, 4, -1, -1, -1, -1]


def test_fewer_keys_than_selected() -> None:
    case = cases.indexer_case(b=3, s1=2, kv_lens=[5, 1, 0], selected_count=8)
    want = [[0, 1, 2, 3, -1, -1, -1, -1], [0, 1, 2, 3, 4, -1, -1, -1], [-1] * 8, [0, *[-1] * 7], [-1] * 8, [-1] * 8]
    np.testing.assert_array_equal(case.golden()["topk_indices"], want)


def test_keys_beyond_the_visible_are_not_read() -> None:
    """The caches are poisoned where there is no key, and the last keys do not touch the scores of earlier tokens."""
    case = cases.indexer_case(b=1, s1=3, kv_lens=140, selected_count=200)
    scores = golden.lightning_indexer_scores(*case.inputs.values())
    assert [s.size for s in scores] == [138, 139, 140]
    assert all(np.isfinite(s).all() for s in scores)
    scale = case.inputs["k_cache_scale"].copy()
    scale.reshape(-1)[case.paging.cache_index[0, 1:]] = np.nan
    dirty = golden.lightning_indexer_scores(*case.copy(k_cache_scale=scale).inputs.values())
    np.testing.assert_array_equal(dirty[0], scores[0])
    np.testing.assert_array_equal(dirty[1][:-1], scores[1][:-1])
    assert np.isnan(dirty[1][-1])


def test_nan_stays_in_its_token() -> None:
    case = cases.indexer_case(b=3, s1=1, kv_lens=300, selected_count=32)
    want = case.golden()["topk_indices"]
    q_scale = case.inputs["q_scale"].copy()
    q_scale[1, 7] = np.nan
    got = case.copy(q_scale=q_scale).golden()["topk_indices"]
    np.testing.assert_array_equal(got[[0, 2]], want[[0, 2]])
    np.testing.assert_array_equal(got[1], np.arange(32))  # every score NaN: all tied


def test_long_sequences_are_scored_in_pieces() -> None:
    """9000 keys are more than two pieces; equal keys in different pieces still tie."""
    case = cases.indexer_case(b=1, s1=2, kv_lens=9000, selected_count=2048, distinct_keys=300)
    scores = golden.lightning_indexer_scores(*case.inputs.values())
    k = read_sequence(case.inputs["k_cache"], case.inputs["block_table"], 0, 9000).astype(np.int64)
    ks = read_sequence(case.inputs["k_cache_scale"], case.inputs["block_table"], 0, 9000)[:, 0].astype(np.float64)
    for token in (0, 1):
        dot = np.maximum(case.inputs["q_int8"][token].astype(np.int64) @ k.T, 0)
        factor = case.inputs["q_scale"][token, :, 0].astype(np.float64) * case.inputs["weights"][token]
        want = (factor @ dot * ks)[: scores[token].size]
        np.testing.assert_allclose(scores[token], want, rtol=1e-6, atol=1e-7)
        assert case.golden()["topk_indices"][token].tolist() == plain_sort(scores[token], 2048)


def test_a_key_alone_in_its_piece_scores_as_its_equals() -> None:
    """Every head comes twice, with both signs of a weight of any size, so that the order of the heads shows."""
    case = cases.indexer_case(kv_lens=4097, distinct_keys=1)
    rng = np.random.default_rng(4)
    first, second = rng.permutation(64).reshape(2, 32)
    pairs = {name: case.inputs[name].copy() for name in ("q_int8", "q_scale", "weights")}
    pairs["weights"] *= np.exp2(rng.integers(-7, 16, 64)).astype(np.float16)
    for value in pairs.values():
        value[:, second] = value[:, first]
    pairs["weights"][:, second] *= -1
    (scores,) = golden.lightning_indexer_scores(*case.copy(**pairs).inputs.values())
    assert scores[0] != 0
    np.testing.assert_array_equal(scores, scores[0])


def test_split_axes_and_lone_tokens_give_the_same_bits() -> None:
    case = cases.indexer_case(b=2, s1=2, kv_lens=[200, 70], selected_count=32, seed=2)
    split = cases.indexer_case(b=2, s1=2, kv_lens=[200, 70], selected_count=32, seed=2, split=True)
    assert split.inputs["q_scale"].shape == (2, 2, 64, 1)
    want = golden.lightning_indexer_scores(*case.inputs.values())
    for mine, theirs in zip(golden.lightning_indexer_scores(*split.inputs.values()), want, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    i = case.inputs
    alone = case.copy(
        **{name: i[name][3:4] for name in ("q_int8", "q_scale", "weights")},
        **{name: i[name][1:] for name in ("block_table", "kv_act_seqs")},
    )
    np.testing.assert_array_equal(golden.lightning_indexer_scores(*alone.inputs.values())[0], want[3])


@pytest.mark.parametrize(("b", "s1"), [(0, 1), (2, 0)])
def test_no_tokens(b: int, s1: int) -> None:
    case = cases.indexer_case(b, s1, 10, selected_count=8)
    assert case.golden()["topk_indices"].shape == (0, 8)


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        (
            "block_table",
            cases.value_at((0, 1), -1),
            ValueError,
            r"block_table\[0, 1\] = -1 is outside \[0, block_num\) = \[0, 4\), and holds position 128",
        ),
        ("block_table", cases.value_at((1, 0), 4), ValueError, r"block_table\[1, 0\] = 4 is outside"),
        (
            "kv_act_seqs",
            cases.value_at((1,), 385),
            ValueError,
            r"kv_act_seqs\[1\] = 385 is outside \[0, max_blocknum_perbatch \* block_size\]",
        ),
        ("q_scale", lambda a: a[:, :, 0], ValueError, None),
        ("weights", lambda a: a.astype(np.float32), TypeError, "weights must be float16, got float32"),
        (
            "weights",
            lambda a: a[:, None].repeat(2, 1),
            ValueError,
            r"weights has b \* s1 = 2 \* 2 tokens, expected t = 2",
        ),
        ("weights", lambda a: a[:1, None], ValueError, r"weights has b \* s1 = 1 \* 1 tokens, expected t = 2"),
        (
            "k_cache_scale",
            lambda a: a[:-1],
            ValueError,
            r"k_cache_scale has shape \(3, 128, 1, 1\), expected \(block_num, block_size, n_kv, 1\)",
        ),
    ],
)
def test_wrong_inputs_are_refused(name: str, change: Any, error: type[Exception], message: str | None) -> None:
    case = cases.indexer_case(b=2, s1=1, kv_lens=[200, 30], selected_count=16)
    case.golden()
    message = message or r"q_scale has shape \(2, 64\), expected \(t, idx_n_heads, 1\) = \(2, 64, 1\)"
    with pytest.raises(error, match=rf"^lightning_indexer_quant: {message}"):
        case.copy(**{name: change(case.inputs[name])}).golden()


def test_selected_count_is_positive() -> None:
    case = cases.indexer_case(b=1, s1=1, kv_lens=20, selected_count=0)
    with pytest.raises(ValueError, match=r"^lightning_indexer_quant: selected_count must be at least 1, got 0"):
        case.golden()
