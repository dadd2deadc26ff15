"""`sparse_flash_attention_quant` against attention row by row in float64, and the rules of the contract."""

from __future__ import annotations

import math
from typing import Any

import cases
import numpy as np
import pytest
import tolerance
from hypothesis import given, settings
from hypothesis import strategies as st
from measures import wide

from ms_dsv32 import golden
from ms_dsv32.paging import read_sequence


def bound(mean_magnitude: np.ndarray, want: np.ndarray) -> np.ndarray:
    """How far attention_out may be from unrounded attention, for keys of the given mean magnitude.

    bfloat16 rounds p by up to 2^-8 relative, hence the sum by 2^-8 of the mean magnitude, and then the output by 2^-8.
    """
    return 2**-8 * (mean_magnitude + np.abs(want) * (1 + 2**-8)) + 1e-5


def row_by_row(case: cases.Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every token and head on its own in float64, rounding nothing but keys: output, keys' mean magnitude, lse."""
    i, a, paging = case.inputs, case.attributes, case.paging
    q_nope = wide(i["query_nope"]).reshape(paging.t, case.n_q, 512)
    q_rope = wide(i["query_rope"]).reshape(paging.t, case.n_q, 64)
    k8, kr, scales = (
        i[name].reshape(-1, i[name].shape[-1]) for name in ("key_nope_2d", "key_rope_2d", "k_nope_scales")
    )
    topk = i["topk_indices"].reshape(paging.t, -1)
    out = np.zeros((paging.t, case.n_q, 512))
    magnitude = np.zeros_like(out)
    lse = np.full((paging.t, case.n_q), -np.inf)
    for token in range(paging.t):
        b, j = token // paging.s1, token % paging.s1
        visible = max(int(i["kv_act_seqs"][b]) - paging.s1 + 1 + j, 0)
        keys, ropes = [], []
        for p in topk[token, : min(visible, a["topk"])]:
            if p == -1:
                continue
            row = i["block_table"][b, p // a["block_size"]] * a["block_size"] + p % a["block_size"]
            key = np.concatenate([k8[row, g * 128 : (g + 1) * 128] * scales[row, g] for g in range(4)])
            keys.append(wide(golden.float32_to_bf16(key)))
            ropes.append(wide(kr[row]))
        if not keys:
            continue
        k, r = np.array(keys), np.array(ropes)
        for n in range(case.n_q):
            score = (k @ q_nope[token, n] + r @ q_rope[token, n]) * a["softmax_scale"]
            weight = np.exp(score - score.max())
            out[token, n] = weight @ k / weight.sum()
            magnitude[token, n] = weight @ np.abs(k) / weight.sum()
            lse[token, n] = score.max() + math.log(weight.sum())
    shape = (paging.b, paging.s1, case.n_q)
    return out.reshape(*shape, 512), magnitude.reshape(*shape, 512), lse.reshape(shape)


def assert_agrees(case: cases.Case) -> dict[str, np.ndarray]:
    outputs = cases.with_lse(case).golden()
    want, magnitude, want_lse = row_by_row(case)
    assert (np.abs(wide(outputs["attention_out"]) - want) <= bound(magnitude, want)).all()
    tolerance.assert_lse("lse", outputs["lse"], want_lse.astype(np.float32))
    return outputs


@pytest.mark.parametrize(
    ("b", "s1", "n_q", "kv_lens", "topk", "holes"),
    [
        (1, 1, 2, 300, 64, 0.0),  # fewer entries than keys
        (2, 2, 3, [40, 7], 64, 0.0),  # fewer keys than entries
        (3, 1, 1, [1, 128, 129], 16, 0.0),
        (2, 3, 2, [200, 150], 100, 0.3),  # skipped entries
        (2, 4, 1, [2, 0], 8, 0.0),  # tokens that see nothing
        (1, 2, 1, 50, 64, 1.0),  # every entry skipped
    ],
)
def test_row_by_row(b: int, s1: int, n_q: int, kv_lens: Any, topk: int, holes: float) -> None:
    assert_agrees(cases.attention_case(b, s1, n_q, kv_lens, topk=topk, holes=holes, seed=b + s1))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 40), st.data())
def test_any_shape(b: int, s1: int, n_q: int, topk: int, data: st.DataObject) -> None:
    kv_lens = data.draw(st.lists(st.integers(0, 150), min_size=b, max_size=b))
    holes = data.draw(st.sampled_from([0.0, 0.2]))
    assert_agrees(cases.attention_case(b, s1, n_q, kv_lens, topk=topk, holes=holes, seed=1))


def test_all_keys_selected_is_dense_attention() -> None:
    """With kv <= topk the operator is ordinary causal attention over the dequantised sequence."""
    case = cases.attention_case(b=2, s1=3, n_q=4, kv_lens=[150, 90], topk=256, seed=4)
    i = case.inputs
    outputs = case.golden()
    caches = [
        i[name].reshape(-1, 128, 1, i[name].shape[-1]) for name in ("key_nope_2d", "key_rope_2d", "k_nope_scales")
    ]
    for b, length in enumerate(i["kv_act_seqs"]):
        k8, kr, ks = (read_sequence(cache, i["block_table"], b, int(length)) for cache in caches)
        k = wide(golden.float32_to_bf16(k8 * np.repeat(ks, 128, axis=1)))
        q_nope = wide(i["query_nope"]).reshape(2, 3, 4, 512)[b]
        q_rope = wide(i["query_rope"]).reshape(2, 3, 4, 64)[b]
        score = np.einsum("snd,kd->snk", q_nope, k) + np.einsum("snd,kd->snk", q_rope, wide(kr))
        causal = np.arange(length)[None, :] <= length - 3 + np.arange(3)[:, None]
        score = np.where(causal[:, None, :], score * case.attributes["softmax_scale"], -np.inf)
        p = np.exp(score - score.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        error = np.abs(wide(outputs["attention_out"][b]) - p @ k)
        assert (error <= bound(p @ np.abs(k), p @ k)).all()


def test_p_is_normalised_before_it_is_rounded() -> None:
    """13 equal keys of threes: bf16(1 / 13) * 13 = 1.0029, so the output is bf16(3.0088) = 3.015625, and not 3."""
    case = cases.attention_case(b=1, s1=1, n_q=2, kv_lens=13, topk=16)
    i = case.inputs
    k8 = np.full_like(i["key_nope_2d"], 3)
    case = case.copy(
        key_nope_2d=k8, k_nope_scales=np.ones_like(i["k_nope_scales"]), key_rope_2d=np.zeros_like(i["key_rope_2d"])
    )
    out = golden.bf16_to_float32(case.golden()["attention_out"])
    np.testing.assert_array_equal(out, np.full((1, 1, 2, 512), 3.015625, np.float32))


def test_one_key_is_returned_as_it_is() -> None:
    case = cases.attention_case(b=1, s1=1, n_q=3, kv_lens=200, topk=1)
    i = case.inputs
    p = int(i["topk_indices"][0, 0])
    row = i["block_table"][0, p // 128] * 128 + p % 128
    key = i["key_nope_2d"][row].reshape(4, 128) * i["k_nope_scales"][row][:, None]
    want = np.broadcast_to(golden.float32_to_bf16(key.reshape(512)), (1, 1, 3, 512))
    tolerance.assert_same_bits("attention_out", case.golden()["attention_out"], want)


def test_both_parts_of_the_score_count() -> None:
    case = cases.attention_case(b=1, s1=1, n_q=2, kv_lens=100, topk=64)
    plain = case.golden()["attention_out"]
    for name in ("query_nope", "query_rope"):
        silent = case.copy(**{name: np.zeros_like(case.inputs[name])})
        assert (assert_agrees(silent)["attention_out"] != plain).mean() > 0.5


def test_the_order_of_the_entries_changes_summation_order_only() -> None:
    case = cases.attention_case(b=1, s1=2, n_q=4, kv_lens=300, topk=256, tail=-1)
    shuffled = case.inputs["topk_indices"].copy()
    for row in shuffled:
        np.random.default_rng(0).shuffle(row)
    np.testing.assert_array_equal(np.sort(shuffled), np.sort(case.inputs["topk_indices"]))
    case = cases.with_lse(case)
    case.check(case.copy(topk_indices=shuffled).golden())


def test_skipped_entries_are_as_if_absent() -> None:
    case = cases.attention_case(b=1, s1=1, n_q=2, kv_lens=300, topk=40)
    entries = case.inputs["topk_indices"]
    holey = np.full((1, 80), -1, np.int32)
    holey[0, 1::2] = entries[0]
    other = case.copy(topk_indices=holey).with_attributes(topk=80)
    for name, value in cases.with_lse(other).golden().items():
        tolerance.assert_same_bits(name, value, cases.with_lse(case).golden()[name])


def test_the_rest_of_a_row_is_not_read() -> None:
    for tail in (-1, 0, -7, 2**31 - 1, -(2**31)):
        case = cases.attention_case(b=2, s1=2, n_q=1, kv_lens=[5, 1], topk=9, tail=tail)
        assert (case.inputs["topk_indices"] == tail).any()
        want = cases.attention_case(b=2, s1=2, n_q=1, kv_lens=[5, 1], topk=9, tail=-1).golden()
        tolerance.assert_same_bits("attention_out", case.golden()["attention_out"], want["attention_out"])


def test_rows_without_an_entry() -> None:
    case = cases.with_lse(cases.attention_case(b=2, s1=3, n_q=2, kv_lens=[1, 0], topk=4))
    outputs = case.golden()
    np.testing.assert_array_equal(outputs["attention_out"][0, :2], 0)  # visible is max(1 - 3 + 1 + j, 0) = 0, 0, 1
    np.testing.assert_array_equal(outputs["attention_out"][1], 0)
    assert np.isneginf(outputs["lse"][0, :2]).all()
    assert np.isneginf(outputs["lse"][1]).all()
    assert np.isfinite(outputs["lse"][0, 2]).all()
    assert outputs["attention_out"][0, 2].any()


def test_lse_is_the_second_output_and_changes_nothing() -> None:
    case = cases.attention_case(b=1, s1=1, n_q=2, kv_lens=20, topk=8)
    alone = golden.sparse_flash_attention_quant(*case.inputs.values(), **case.attributes)
    assert isinstance(alone, np.ndarray)
    tolerance.assert_same_bits("attention_out", cases.with_lse(case).golden()["attention_out"], alone)


def test_split_axes_give_the_same_bits() -> None:
    args = {"b": 2, "s1": 2, "n_q": 3, "kv_lens": [100, 30], "topk": 32, "seed": 9}
    merged = cases.attention_case(**args)
    split = cases.attention_case(**args, split=True)
    assert split.inputs["query_nope"].shape == (2, 2, 3, 512)
    assert split.inputs["key_nope_2d"].ndim == 4
    assert split.inputs["topk_indices"].shape == (2, 2, 32)
    by_token = merged.copy(
        query_nope=merged.inputs["query_nope"].reshape(4, 3, 512),
        query_rope=merged.inputs["query_rope"].reshape(4, 3, 64),
    )
    want = merged.golden()["attention_out"]
    assert want.shape == (2, 2, 3, 512)
    for case in (split, by_token):
        tolerance.assert_same_bits("attention_out", case.golden()["attention_out"], want)


def test_a_token_does_not_depend_on_its_batch() -> None:
    case = cases.attention_case(b=3, s1=1, n_q=2, kv_lens=[100, 60, 40], topk=32)
    i = case.inputs
    want = case.golden()["attention_out"]
    alone = case.copy(
        query_nope=i["query_nope"][2:4],
        query_rope=i["query_rope"][2:4],
        topk_indices=i["topk_indices"][1:2],
        block_table=i["block_table"][1:2],
        kv_act_seqs=i["kv_act_seqs"][1:2],
    )
    tolerance.assert_same_bits("attention_out", alone.golden()["attention_out"], want[1:2])


@pytest.mark.parametrize(("b", "s1"), [(0, 1), (0, 3), (2, 0)])
@pytest.mark.parametrize("split", [False, True])
def test_no_tokens(b: int, s1: int, split: bool) -> None:
    case = cases.with_lse(cases.attention_case(b=b, s1=s1, n_q=2, kv_lens=10, topk=4, split=split))
    outputs = case.golden()
    known = s1 if split or b else 0  # merged axes of no sequence do not tell s1
    assert outputs["attention_out"].shape == (b, known, 2, 512)
    assert outputs["lse"].shape == (b, known, 2)


def test_nan_stays_in_its_token() -> None:
    case = cases.attention_case(b=3, s1=1, n_q=2, kv_lens=40, topk=16)
    want = case.golden()["attention_out"]
    query = case.inputs["query_rope"].copy()
    query[3, 5] = 0x7FC0  # token 1, head 1
    outputs = case.copy(query_rope=query).golden()["attention_out"]
    np.testing.assert_array_equal(outputs[[0, 2]], want[[0, 2]])
    np.testing.assert_array_equal(outputs[1, :, 0], want[1, :, 0])
    assert np.isnan(wide(outputs[1, 0, 1])).all()


def test_inputs_are_left_alone() -> None:
    case = cases.attention_case(b=1, s1=1, n_q=2, kv_lens=40, topk=16)
    before = {name: value.copy() for name, value in case.inputs.items()}
    golden.sparse_flash_attention_quant(*case.inputs.values(), **case.attributes)
    for name, value in before.items():
        tolerance.assert_same_bits(name, case.inputs[name], value)


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        (
            "topk_indices",
            cases.value_at((1, 3), 30),
            ValueError,
            r"topk_indices\[1, 3\] = 30 is outside \[0, kv_act_seqs\[1\]\) = \[0, 30\) and is not -1",
        ),
        (
            "topk_indices",
            cases.value_at((0, 0), -2),
            ValueError,
            r"topk_indices\[0, 0\] = -2 is outside \[0, kv_act_seqs\[0\]\) = \[0, 200\)",
        ),
        (
            "block_table",
            cases.value_at((0, 0), 99),
            ValueError,
            r"block_table\[0, 0\] = 99 is outside \[0, block_num\) = \[0, 4\)",
        ),
        ("block_table", cases.value_at((1, 0), -1), ValueError, r"block_table\[1, 0\] = -1 is outside"),
        (
            "kv_act_seqs",
            cases.value_at((1,), 400),
            ValueError,
            r"kv_act_seqs\[1\] = 400 is outside \[0, max_blocknum_perbatch \* block_size\] = \[0, 384\]",
        ),
        ("kv_act_seqs", cases.value_at((0,), -1), ValueError, r"kv_act_seqs\[0\] = -1 is outside"),
        (
            "kv_act_seqs",
            lambda a: np.append(a, a[:1]),
            ValueError,
            r"kv_act_seqs has b = 3 sequences, expected a divisor of t = 2 tokens",
        ),
        ("kv_act_seqs", lambda a: a.astype(np.int64), TypeError, "kv_act_seqs must be int32, got int64"),
        ("query_nope", lambda a: a[:3], ValueError, "query_nope has 3 rows, expected t"),
        ("query_rope", lambda a: a[:2], ValueError, "query_rope has 1 tokens, expected t = 2"),
        ("query_rope", lambda a: np.append(a, a[:2], 0), ValueError, "query_rope has 3 tokens, expected t = 2"),
        (
            "key_rope_2d",
            lambda a: a[:-128],
            ValueError,
            r"key_rope_2d has shape \(384, 64\), expected \(block_num \* block_size, rope_dim\)",
        ),
        (
            "key_nope_2d",
            lambda a: a[:-1],
            ValueError,
            "key_nope_2d has 511 rows, expected a multiple of block_size = 128",
        ),
        (
            "topk_indices",
            lambda a: a[:, :-1],
            ValueError,
            r"topk_indices has shape \(2, 15\), expected \(t, n_kv \* topk\) = \(2, 16\)",
        ),
    ],
)
def test_wrong_inputs_are_refused(name: str, change: Any, error: type[Exception], message: str) -> None:
    case = cases.attention_case(b=2, s1=1, n_q=2, kv_lens=[200, 30], topk=16, tail=-1)
    case = case.copy(topk_indices=np.tile(np.arange(16, dtype=np.int32), (2, 1)))
    case.golden()
    with pytest.raises(error, match=rf"^sparse_flash_attention_quant: {message}"):
        case.copy(**{name: change(case.inputs[name])}).golden()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"nq": 0}, r"nq must be n_q in \[1, 128\], got 0"),
        ({"nq": 129}, r"nq must be n_q in \[1, 128\], got 129"),
        ({"n_kv": 2}, "n_kv must be 1, got 2"),
        ({"topk": 0}, "topk must be at least 1, got 0"),
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        (
            {"max_blocknum_perbatch": 7},
            r"block_table has shape \(1, 2\), expected \(b, max_blocknum_perbatch\) = \(1, 7\)",
        ),
    ],
)
def test_wrong_attributes_are_refused(attributes: dict[str, int], message: str) -> None:
    case = cases.attention_case(b=1, s1=1, n_q=2, kv_lens=20, topk=16)
    with pytest.raises(ValueError, match=rf"^sparse_flash_attention_quant: {message}"):
        case.with_attributes(**attributes).golden()


def test_a_bad_entry_behind_no_position_is_fine() -> None:
    """Only blocks that hold a selected position are looked up."""
    case = cases.attention_case(b=1, s1=1, n_q=1, kv_lens=300, topk=8, tail=-1)
    want = case.copy(topk_indices=np.arange(8, dtype=np.int32)[None]).golden()["attention_out"]
    table = case.inputs["block_table"].copy()
    table[0, 1:] = 10**6
    got = case.copy(topk_indices=np.arange(8, dtype=np.int32)[None], block_table=table).golden()["attention_out"]
    tolerance.assert_same_bits("attention_out", got, want)
