"""The paged cache (PA_BSND) in NumPy: block tables, cache rows, and moving sequences in and out of a cache.

The functions make what a call of the operators needs beside its hidden states: ``block_table``, ``cache_index`` and the
positions that `ms_dsv32.rope.rope_tables` takes. `ms_dsv32.cells.make_caches` makes the caches.

The cache row of key position ``p`` of sequence ``b`` is ``block_table[b, p // block_size] * block_size + p %
block_size``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Int32 = NDArray[np.int32]

BLOCK_SIZE = 128
"""Tokens of one block."""


def blocks_of(kv_act_seqs: Sequence[int] | Array, block_size: int = BLOCK_SIZE) -> NDArray[np.int64]:
    """Blocks that each sequence of kv_act_seqs keys occupies: ``ceil(kv_act_seqs / block_size)``, int64 [b].

    Raises:
        ValueError: a number of keys is negative.
    """
    lengths = np.asarray(kv_act_seqs, np.int64)
    if (lengths < 0).any():
        raise ValueError(f"paging: kv_act_seqs has {lengths.min()}, expected 0 or more keys")
    return -(-lengths // block_size)


def block_num_of(kv_act_seqs: Sequence[int] | Array, block_size: int = BLOCK_SIZE) -> int:
    """block_num of the smallest cache that holds sequences of kv_act_seqs keys, with no block shared.

    Raises:
        ValueError: as `blocks_of`.
    """
    return int(blocks_of(kv_act_seqs, block_size).sum())


def make_block_table(
    kv_act_seqs: Sequence[int] | Array,
    block_size: int = BLOCK_SIZE,
    *,
    block_num: int | None = None,
    max_blocknum_perbatch: int | None = None,
    rng: np.random.Generator | None = None,
) -> Int32:
    """A block table for sequences of kv_act_seqs keys.

    Args:
        kv_act_seqs: keys of each sequence [b]. block_size: tokens of a block.
        block_num: blocks of the cache, by default the smallest number that fits.
        max_blocknum_perbatch: columns of the table, by default as many as the longest sequence needs.
        rng: hands out the blocks in a random order. Without it they are consecutive.

    Returns:
        int32 [b, max_blocknum_perbatch]. Every block is used at most once, and unused entries are -1.

    Raises:
        ValueError: the sequences do not fit the cache or the table, or a number of keys is negative.
    """
    counts = blocks_of(kv_act_seqs, block_size)
    need = int(counts.sum())
    longest = int(counts.max(initial=0))
    block_num = need if block_num is None else block_num
    columns = longest if max_blocknum_perbatch is None else max_blocknum_perbatch
    if need > block_num:
        raise ValueError(f"make_block_table: the sequences need {need} blocks, block_num is {block_num}")
    if longest > columns:
        raise ValueError(f"make_block_table: a sequence needs {longest} blocks, max_blocknum_perbatch is {columns}")
    blocks = np.arange(block_num, dtype=np.int32) if rng is None else rng.permutation(block_num).astype(np.int32)
    table = np.full((counts.size, columns), -1, np.int32)
    first = 0
    for sequence, count in enumerate(counts):
        table[sequence, :count] = blocks[first : first + count]
        first += int(count)
    return table


def cache_index_of(block_table: Array, positions: Array, block_size: int = BLOCK_SIZE) -> NDArray[np.int64]:
    """cache_index int64 [b, s1] for the tokens at key positions `positions` [b, s1].

    A token at a negative position, or at one without a block (entry -1 or beyond the table), is padding: its
    cache_index is -1.

    Raises:
        ValueError: the positions are not [b, s1] with the b of the table.
    """
    positions = np.asarray(positions, np.int64)
    if positions.ndim != 2 or len(positions) != len(block_table):
        expected = f"(b, s1) with b = {len(block_table)}, as block_table"
        raise ValueError(f"paging: positions has shape {positions.shape}, expected {expected}")
    column = positions // block_size
    valid = (column >= 0) & (column < block_table.shape[1])
    if block_table.shape[1] == 0:
        return np.full(positions.shape, -1, np.int64)
    sequence = np.arange(positions.shape[0])[:, None]
    block = block_table[sequence, np.where(valid, column, 0)].astype(np.int64)
    return np.where(valid & (block >= 0), block * block_size + positions % block_size, -1)


def token_positions(kv_act_seqs: Sequence[int] | Array, s1: int) -> NDArray[np.int64]:
    """Key positions int64 [b, s1] of this call's tokens, the last s1 of each sequence: ``kv_act_seqs[b] - s1 + j``.

    A sequence with fewer than s1 keys has negative positions, which `cache_index_of` takes for padding.
    """
    lengths = np.asarray(kv_act_seqs, np.int64)
    positions: NDArray[np.int64] = lengths[:, None] - s1 + np.arange(s1, dtype=np.int64)
    return positions


def ragged_tokens(
    kv_act_seqs: Sequence[int] | Array, query_act_seqs: Sequence[int] | Array, t: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sequence and key position of each of t tokens, int64 [t] both, of a call with `query_act_seqs`.

    The tokens are the last query_act_seqs[b] of each sequence. Tokens beyond the sum are padding: sequence 0, position
    -1. The cache_index [t, 1] of all is ``cache_index_of(block_table[sequence], position[:, None])``.

    Raises:
        ValueError: query_act_seqs has a negative entry, another length than kv_act_seqs, or a sum above t.
    """
    lengths, counts = np.asarray(kv_act_seqs, np.int64), np.asarray(query_act_seqs, np.int64)
    if lengths.shape != counts.shape or lengths.ndim != 1:
        expected = f"(b,) = {lengths.shape}, as kv_act_seqs"
        raise ValueError(f"paging: query_act_seqs has shape {counts.shape}, expected {expected}")
    if (counts < 0).any() or counts.sum() > t:
        raise ValueError(
            f"paging: query_act_seqs is {counts.tolist()}, expected 0 or more and at most t = {t} together"
        )
    sequence = np.repeat(np.arange(lengths.size), counts)
    first = np.cumsum(counts) - counts
    position = lengths[sequence] - counts[sequence] + np.arange(sequence.size) - first[sequence]
    padding = t - sequence.size
    return np.append(sequence, np.zeros(padding, np.int64)), np.append(position, np.full(padding, -1, np.int64))


def rows_of(block_table: Array, sequence: int, length: int, block_size: int = BLOCK_SIZE) -> NDArray[np.int64]:
    """Cache rows int64 [length] of positions 0 .. length - 1 of one sequence, -1 where the table has no block."""
    rows: NDArray[np.int64] = cache_index_of(block_table[[sequence]], np.arange(length)[None, :], block_size)[0]
    return rows


def read_sequence(cache: Array, block_table: Array, sequence: int, length: int) -> Array:
    """A copy [length, d] of the first `length` rows of one sequence in a cache [block_num, block_size, 1, d].

    Raises:
        ValueError: the table has no block for one of them.
    """
    return cache.reshape(-1, cache.shape[-1])[_existing_rows(cache, block_table, sequence, length)]


def write_sequence(cache: Array, block_table: Array, sequence: int, rows: Array) -> None:
    """Writes `rows` [length, d] as the first rows of one sequence into a cache [block_num, block_size, 1, d], in place.

    Raises:
        ValueError: the table has no block for one of them, or the cache is not contiguous.
    """
    if not cache.flags.c_contiguous:
        raise ValueError("write_sequence: cache must be contiguous, because it is updated in place")
    cache.reshape(-1, cache.shape[-1])[_existing_rows(cache, block_table, sequence, rows.shape[0])] = rows


def _existing_rows(cache: Array, block_table: Array, sequence: int, length: int) -> NDArray[np.int64]:
    rows = rows_of(block_table, sequence, length, cache.shape[1])
    if (rows < 0).any():
        raise ValueError(f"sequence {sequence} has no block for position {int(np.flatnonzero(rows < 0)[0])}")
    return rows
