"""Rows of topk_indices as they come: holes, repetitions, any width; and what may not cross heads, keys and tokens."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
import tolerance
from bare_kernels import check, run

from ms_dsv32 import kernel_impl


def attention(*arguments: Any, **options: Any) -> cases.Case:
    return cases.with_lse(cases.attention_case(*arguments, **options))


@pytest.mark.parametrize("topk", [1, 2, 63, 64, 65, 1000, 2048])
@pytest.mark.parametrize("n_q", [1, 6, 37, 128])
def test_any_width_and_heads(topk: int, n_q: int) -> None:
    check(attention(2, 2, n_q, [1500, 70], topk=topk))


@pytest.mark.parametrize("counts", [(0, 1, 15), (16, 17, 31), (32, 33, 65), (511, 513, 1025)])
def test_counts_and_heads_around_a_tile(counts: tuple[int, ...]) -> None:
    """Tokens of one call with different counts, beside tiles of 16 rows, links of 32 keys and 512 or 1024 keys of V."""
    pool = tolerance.Pool()  # of few keys, one whose rounded probability flips moves a large part of a small call
    with tolerance.pooled(pool):
        for n_q in (1, 15, 16, 17, 31, 33, 64, 65):
            check(attention(len(counts), 1, n_q, list(counts)))
    pool.check(0)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("t", [1, 2, 4, 7])
def test_threads_and_batch_mates_change_no_bit(t: int, threads: int) -> None:
    """Whether a thread takes a token alone, or all threads share it, as they do with the last `t % threads`."""
    case = attention(1, 7, 40, 1100, topk=700)
    everything = run(case)
    part = {n: case.inputs[n].reshape(7, -1)[7 - t :] for n in ("query_nope", "query_rope", "topk_indices")}
    part = {n: np.ascontiguousarray(v).reshape(-1, case.inputs[n].shape[-1]) for n, v in part.items()}
    # The last t of 7 tokens see the same keys when they are all tokens of the sequence.
    kernel_impl.set_thread_count(threads)
    try:
        outputs = run(cases.with_lse(case.copy(**part)))
    finally:
        kernel_impl.set_thread_count(0)
    for name, value in outputs.items():
        tolerance.assert_same_bits(name, value[0], np.ascontiguousarray(everything[name][0, 7 - t :]))


@pytest.mark.parametrize("topk", [7, 64, 200])
def test_a_hole_is_as_if_it_were_not_there(topk: int) -> None:
    """Bit for bit, wherever the hole stands."""
    case = attention(1, 2, 16, 1000, topk=topk)
    dense = case.inputs["topk_indices"][:, :topk]
    wide = np.full((2, 3 * topk), -1, np.int32)
    for i, row in enumerate(dense):
        at = np.sort(np.random.default_rng(i).choice(3 * topk, topk, replace=False))
        wide[i, at] = row
    for name, value in run(case.copy(topk_indices=wide).with_attributes(topk=3 * topk)).items():
        tolerance.assert_same_bits(name, value, run(case)[name])


def test_a_repeated_entry_counts_twice() -> None:
    case = attention(1, 2, 16, 500, topk=300)
    repeated = case.inputs["topk_indices"].copy()
    repeated[:, 1:300:2] = repeated[:, 0:300:2]
    check(case.copy(topk_indices=repeated))
    once = case.copy(topk_indices=np.full_like(repeated, 5)).with_attributes(topk=300)
    single = np.full_like(repeated, -1)
    single[:, 150] = 5
    np.testing.assert_allclose(
        run(once)["lse"], run(case.copy(topk_indices=single))["lse"] + np.log(300), rtol=1e-5, atol=1e-5
    )


def test_heads_do_not_depend_on_how_many_there_are() -> None:
    """A tensor-parallel rank that holds a part of the heads gets the bits of the whole."""
    whole = attention(1, 2, 128, 700)
    outputs = run(whole)
    query = {n: whole.inputs[n].reshape(2, 128, -1) for n in ("query_nope", "query_rope")}
    for heads in (slice(0, 16), slice(100, 105), slice(127, 128)):
        n_q = heads.stop - heads.start
        part = {n: np.ascontiguousarray(v[:, heads]).reshape(2 * n_q, -1) for n, v in query.items()}
        got = run(whole.copy(**part).with_attributes(nq=n_q))
        for name, value in got.items():
            tolerance.assert_same_bits(name, value, np.ascontiguousarray(outputs[name][:, :, heads]))


# What is added to the bits of the last two to round them carries beyond those of a NaN.
@pytest.mark.parametrize("bad", [0x7FC00000, 0x7F800000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_bad_key_reaches_only_the_tokens_that_select_it(bad: int) -> None:
    case = attention(1, 3, 16, 900, topk=100)
    clean = run(case)
    selected = case.inputs["topk_indices"]
    position = next(p for p in selected[1, :100] if p not in selected[0, :100] and p not in selected[2, :100])
    row = case.inputs["block_table"][0, position // 128] * 128 + position % 128
    scales = case.inputs["k_nope_scales"].copy()
    scales.view(np.uint32)[row, 2] = bad
    dirty = run(case.copy(k_nope_scales=scales))
    assert np.isnan(dirty["lse"][0, 1]).all()
    for name, value in dirty.items():
        tolerance.assert_same_bits(name, value[:, [0, 2]], clean[name][:, [0, 2]])


@pytest.mark.parametrize("factor", [0.0, 1e-30, -1.0, 40.0, 1e4])
def test_any_softmax_scale(factor: float) -> None:
    """From a plain mean to a softmax that is one key, without overflow."""
    case = attention(1, 2, 8, 600)
    check(case.with_attributes(softmax_scale=factor * case.attributes["softmax_scale"]))


@pytest.mark.parametrize("query", [0xBF80, 0xC120])  # -1, -10
def test_padding_of_the_last_tile_has_no_weight(query: int) -> None:
    """All scores below 0, moderately or far: a zero key that took part would win."""
    case = attention(1, 1, 4, 65)
    key = case.inputs["key_rope_2d"].copy()
    key[:] = 0x4120  # 10.0
    case = case.copy(key_rope_2d=key, query_rope=np.full_like(case.inputs["query_rope"], query))
    assert (run(case)["lse"] < -30).all()
    check(case)


@pytest.mark.parametrize("n_q", [5, 128])
def test_a_row_without_a_key_is_zeros(n_q: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was in the memory of the outputs."""
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, 77, dtype))
    got = run(attention(2, 1, n_q, [0, 130]))
    assert not got["attention_out"][0].any()
    assert np.isneginf(got["lse"][0]).all()


def test_more_tokens_than_a_wave_holds() -> None:
    check(attention(1, 70, 3, 200))
