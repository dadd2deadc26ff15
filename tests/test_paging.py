"""Block tables, cache rows and round trips through a paged cache."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_dsv32 import paging

LENGTHS = st.lists(st.integers(0, 700), min_size=0, max_size=6)


@settings(deadline=None)
@given(LENGTHS, st.sampled_from([1, 16, 128]), st.integers(0, 3), st.booleans())
def test_block_table(lengths: list[int], block_size: int, spare: int, shuffle: bool) -> None:
    need = sum((n + block_size - 1) // block_size for n in lengths)
    assert paging.block_num_of(lengths, block_size) == need
    table = paging.make_block_table(
        lengths, block_size, block_num=need + spare, rng=np.random.default_rng(1) if shuffle else None
    )
    assert table.dtype == np.int32
    assert table.shape[0] == len(lengths)
    used = table[table >= 0]
    assert np.unique(used).size == used.size == need
    assert (used < need + spare).all()
    for row, n in zip(table, lengths, strict=True):
        count = (n + block_size - 1) // block_size
        assert (row[:count] >= 0).all()
        assert (row[count:] == -1).all()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 5)), min_size=1, max_size=6), st.integers(0, 4))
def test_ragged_tokens_are_those_of_each_sequence(sequences: list[tuple[int, int]], padding: int) -> None:
    lengths, counts = zip(*sequences, strict=True)
    sequence, position = paging.ragged_tokens(lengths, counts, sum(counts) + padding)
    assert sequence.dtype == position.dtype == np.int64
    want = [(b, p) for b, n in enumerate(counts) for p in paging.token_positions([lengths[b]], n).reshape(-1).tolist()]
    assert list(zip(sequence.tolist(), position.tolist(), strict=True)) == want + [(0, -1)] * padding


def test_ragged_tokens_that_do_not_fit_are_refused() -> None:
    for counts, text in (([1, 3], "at most t = 3"), ([-1, 2], "0 or more"), ([1], r"expected \(b,\) = \(2,\)")):
        with pytest.raises(ValueError, match=f"paging: query_act_seqs .*{text}"):
            paging.ragged_tokens([5, 5], counts, 3)
    for of_no_sequence in (5, [[5, 5]]):
        with pytest.raises(ValueError, match="paging: query_act_seqs has shape"):
            paging.ragged_tokens(of_no_sequence, of_no_sequence, 10)  # type: ignore[arg-type]


@settings(deadline=None)
@given(LENGTHS, st.integers(0, 5))
def test_cache_index(lengths: list[int], s1: int) -> None:
    table = paging.make_block_table(lengths, 128, rng=np.random.default_rng(2), block_num=40)
    index = paging.cache_index_of(table, paging.token_positions(lengths, s1))
    assert index.dtype == np.int64
    assert index.shape == (len(lengths), s1)
    for b, n in enumerate(lengths):
        for j in range(s1):
            p = n - s1 + j
            want = table[b, p // 128] * 128 + p % 128 if p >= 0 else -1
            assert index[b, j] == want
    written = index[index >= 0]
    assert np.unique(written).size == written.size


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 3), st.sampled_from([16, 128]))
def test_round_trip(lengths: list[int], width: int, block_size: int) -> None:
    blocks = 5120 // block_size
    table = paging.make_block_table(lengths, block_size, rng=np.random.default_rng(3), block_num=blocks)
    cache = np.zeros((blocks, block_size, 1, width), np.float32)
    rows = [np.random.default_rng(n).random((length, width), dtype=np.float32) for n, length in enumerate(lengths)]
    for n, values in enumerate(rows):
        paging.write_sequence(cache, table, n, values)
    for n, values in enumerate(rows):
        np.testing.assert_array_equal(paging.read_sequence(cache, table, n, lengths[n]), values)
    assert np.count_nonzero(cache) == sum(np.count_nonzero(values) for values in rows)


def test_positions_without_a_block_are_padding() -> None:
    table = np.array([[3, -1]], np.int32)
    index = paging.cache_index_of(table, np.array([[-5, 0, 127, 128, 255, 256, 10**6]]))
    np.testing.assert_array_equal(index, [[-1, 384, 511, -1, -1, -1, -1]])
    full = np.array([[3, 5]], np.int32)  # a negative position must not become a row of the last block
    np.testing.assert_array_equal(paging.cache_index_of(full, np.array([[-1, -128, -129]])), [[-1, -1, -1]])
    np.testing.assert_array_equal(
        paging.cache_index_of(np.zeros((2, 0), np.int32), np.zeros((2, 3), int)), np.full((2, 3), -1)
    )
    np.testing.assert_array_equal(paging.rows_of(table, 0, 129)[-2:], [511, -1])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="need 3 blocks, block_num is 2"):
        paging.make_block_table([129, 1], block_num=2)
    with pytest.raises(ValueError, match="needs 2 blocks, max_blocknum_perbatch is 1"):
        paging.make_block_table([129, 1], max_blocknum_perbatch=1)
    cache = np.zeros((2, 128, 1, 4), np.float32)
    table = paging.make_block_table([128], block_num=2, max_blocknum_perbatch=2)
    with pytest.raises(ValueError, match="no block for position 128"):
        paging.read_sequence(cache, table, 0, 129)
    with pytest.raises(ValueError, match="no block for position 128"):
        paging.write_sequence(cache, table, 0, np.ones((130, 4), np.float32))
    with pytest.raises(ValueError, match="contiguous"):
        paging.write_sequence(np.zeros((2, 128, 1, 8), np.float32)[..., ::2], table, 0, np.ones((1, 4), np.float32))
    assert not cache.any()


def test_misuse_is_refused() -> None:
    for function in (paging.blocks_of, paging.block_num_of, paging.make_block_table):
        with pytest.raises(ValueError, match="kv_act_seqs has -200, expected 0 or more keys"):
            function([300, -200])
    table = paging.make_block_table([300, 5])
    for positions in (np.arange(2), np.zeros((3, 1)), np.zeros((2, 1, 1))):
        with pytest.raises(ValueError, match=r"positions has shape \(.*\), expected \(b, s1\) with b = 2"):
            paging.cache_index_of(table, positions)
