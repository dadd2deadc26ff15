"""Where sequences live in a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ms_dsv32.paging import block_num_of, blocks_of, cache_index_of, make_block_table, rows_of, token_positions


@dataclass(frozen=True)
class Paging:
    """Where b sequences of kv_act_seqs keys live in a cache; the last s1 keys of each are this call's tokens."""

    b: int
    s1: int
    block_size: int
    block_num: int
    kv_act_seqs: NDArray[np.int32]
    block_table: NDArray[np.int32]
    positions: NDArray[np.int64]
    cache_index: NDArray[np.int64]

    @property
    def t(self) -> int:
        return self.b * self.s1

    def visible(self) -> NDArray[np.int64]:
        """Keys that each of the t tokens sees: ``max(kv_act_seqs[b] - s1 + 1 + j, 0)``."""
        return np.maximum(self.positions.reshape(-1) + 1, 0)

    def occupied_rows(self) -> NDArray[np.int64]:
        """Cache rows of all keys of all sequences."""
        rows = [rows_of(self.block_table, n, int(length), self.block_size) for n, length in enumerate(self.kv_act_seqs)]
        return np.concatenate([np.zeros(0, np.int64), *rows])


def make_paging(
    b: int,
    s1: int,
    kv_lens: Sequence[int] | int | None = None,
    *,
    seed: int = 0,
    block_size: int = 128,
    spare_blocks: int = 1,
    spare_columns: int = 1,
    shuffle: bool = True,
) -> Paging:
    """Paging of b sequences.

    Args:
        b, s1: sequences, and this call's tokens of each.
        kv_lens: keys of each sequence, this call's tokens included; one number for all of them; or None for lengths
            that differ and end at different places of a block. A sequence with fewer than s1 keys has padding tokens
            (cache_index -1).
        spare_blocks: blocks of the cache that no sequence uses. spare_columns: columns of block_table that hold -1
            alone.
        shuffle: hand out the blocks in random order.
    """
    if kv_lens is None:
        lengths = np.array([s1 + 129 + 61 * n for n in range(b)], np.int32)
    else:
        lengths = np.broadcast_to(np.asarray(kv_lens, np.int32), (b,)).copy()
    block_num = block_num_of(lengths, block_size) + spare_blocks
    block_table = make_block_table(
        lengths,
        block_size,
        block_num=block_num,
        max_blocknum_perbatch=int(blocks_of(lengths, block_size).max(initial=0)) + spare_columns,
        rng=np.random.default_rng([seed, 100]) if shuffle else None,
    )
    positions = token_positions(lengths, s1)
    return Paging(
        b=b,
        s1=s1,
        block_size=block_size,
        block_num=block_num,
        kv_act_seqs=lengths,
        block_table=block_table,
        positions=positions,
        cache_index=cache_index_of(block_table, positions, block_size),
    )
