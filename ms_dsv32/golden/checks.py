"""What the golden operators refuse, in the words of the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Dim = tuple[str, int | None]
Blocks = tuple[int, int]


def _text(dims: Sequence[int | str]) -> str:
    return "(" + ", ".join(str(d) for d in dims) + ("," if len(dims) == 1 else "") + ")"


class Checker:
    """Checks the arguments of one call and names them in the errors.

    It remembers b and s1 of the first argument whose token axis is split. All others must share them.

    Args:
        operator: the operator's name.
        names: published names of arguments that have other names inside the operator (the fused operator's `mla_` and
            `ip_` names).
    """

    def __init__(self, operator: str, names: Mapping[str, str] | None = None) -> None:
        self.operator = operator
        self._names = names or {}
        self._split: tuple[str, int, int] | None = None

    def label(self, name: str) -> str:
        """``operator: argument``, the head of an error message."""
        return f"{self.operator}: {self._names.get(name, name)}"

    def array(self, name: str, value: Array, dtype: type[np.generic], shape: Sequence[Dim]) -> Array:
        """`value`, if it has the dtype (numpy.uint16 for bfloat16 bits) and the shape: (symbol, size or None) per axis.

        Raises:
            TypeError: not a numpy.ndarray, or another dtype. ValueError: another shape.
        """
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{self.label(name)} must be a numpy.ndarray, got {type(value).__name__}")
        if value.dtype != dtype:
            want = "uint16 (bfloat16 bits)" if dtype is np.uint16 else np.dtype(dtype).name
            raise TypeError(f"{self.label(name)} must be {want}, got {value.dtype}")
        sizes = [size for _, size in shape]
        if value.ndim != len(sizes) or any(n is not None and n != d for n, d in zip(sizes, value.shape, strict=True)):
            symbols = [symbol for symbol, _ in shape]
            values = [symbol if size is None else size for symbol, size in shape]
            raise ValueError(f"{self.label(name)} has shape {value.shape}, expected {_text(symbols)} = {_text(values)}")
        return value

    def tokens(
        self, name: str, value: Array, dtype: type[np.generic], tail: Sequence[Dim] = (), t: int | None = None
    ) -> Array:
        """`value` with its token axis merged: [t, *tail] as it is, [b, s1, *tail] as [b * s1, *tail].

        Raises:
            TypeError, ValueError: as `array`; also when the token count is not `t`.
        """
        if isinstance(value, np.ndarray) and value.ndim == len(tail) + 2:
            self.array(name, value, dtype, [("b", None), ("s1", None), *tail])
            b, s1 = value.shape[:2]
            self.split(name, b, s1)
            if t is not None and b * s1 != t:
                raise ValueError(f"{self.label(name)} has b * s1 = {b} * {s1} tokens, expected t = {t}")
            return value.reshape(b * s1, *value.shape[2:])
        return self.array(name, value, dtype, [("t", t), *tail])

    def split(self, name: str, b: int, s1: int) -> None:
        """Raises ValueError if an earlier argument was split to another (b, s1)."""
        if self._split is None:
            self._split = (self._names.get(name, name), b, s1)
        elif self._split[1:] != (b, s1):
            first, *expected = self._split
            raise ValueError(f"{self.label(name)} has (b, s1) = {(b, s1)}, expected {tuple(expected)}, as {first}")

    def cache(
        self, name: str, value: Array, dtype: type[np.generic], width: Dim, blocks: Blocks | None = None
    ) -> Array:
        """The rows [block_num * block_size, width] of a paged cache [block_num, block_size, n_kv = 1, width], a view.

        Raises:
            TypeError, ValueError: as `array`; also when (block_num, block_size) is not `blocks`, or when the cache,
                which is updated in place, is not contiguous and writeable.
        """
        block_num, block_size = blocks if blocks is not None else (None, None)
        self.array(name, value, dtype, [("block_num", block_num), ("block_size", block_size), ("n_kv", 1), width])
        if not value.flags.c_contiguous or not value.flags.writeable:
            raise ValueError(f"{self.label(name)} must be contiguous and writeable, because it is updated in place")
        return value.reshape(value.shape[0] * value.shape[1], value.shape[3])

    def cache_index(self, name: str, index: Array, rows: int) -> None:
        """Raises ValueError unless every entry is -1 (padding) or one of the cache's `rows`."""
        bad = np.flatnonzero((index < -1) | (index >= rows))
        if bad.size:
            raise ValueError(
                f"{self.label(name)}[{bad[0]}] = {index[bad[0]]} is outside [0, block_num * block_size) = [0, {rows}) "
                "and is not -1 (padding)"
            )

    def lengths(self, kv_act_seqs: Array, t: int) -> tuple[int, int]:
        """Checks kv_act_seqs [b] and returns (b, s1 = t / b). Arguments with a token axis must be checked before.

        Raises:
            TypeError, ValueError: as `array`; also when t is not a multiple of b.
        """
        if self._split is not None:
            _, b, s1 = self._split
            self.array("kv_act_seqs", kv_act_seqs, np.int32, [("b", b)])
            return b, s1
        self.array("kv_act_seqs", kv_act_seqs, np.int32, [("b", None)])
        b = kv_act_seqs.shape[0]
        if (b == 0 and t != 0) or (b != 0 and t % b != 0):
            raise ValueError(f"{self.label('kv_act_seqs')} has b = {b} sequences, expected a divisor of t = {t} tokens")
        return b, (t // b if b else 0)

    def sequences(self, kv_act_seqs: Array, query_act_seqs: Array | None, t: int) -> list[tuple[int, int]]:
        """The tokens that belong to a sequence, in order, each as (sequence, visible keys).

        Arguments with a token axis must be checked before. Tokens beyond these are padding.

        Raises:
            TypeError, ValueError: as `lengths`. With query_act_seqs also when an argument's token axis was split, an
                entry is negative, or the sum is above t.
        """
        if query_act_seqs is None:
            b, s1 = self.lengths(kv_act_seqs, t)
            counts = [s1] * b
        else:
            if self._split is not None:
                name, b, s1 = self._split
                text = f"has a split token axis (b, s1) = {(b, s1)}, expected t = {t} with query_act_seqs"
                raise ValueError(f"{self.operator}: {name} {text}")
            self.array("kv_act_seqs", kv_act_seqs, np.int32, [("b", None)])
            self.array("query_act_seqs", query_act_seqs, np.int32, [("b", kv_act_seqs.shape[0])])
            bad = np.flatnonzero((query_act_seqs < 0) | (query_act_seqs > t))
            if bad.size:
                entry = f"query_act_seqs[{bad[0]}] = {query_act_seqs[bad[0]]}"
                raise ValueError(f"{self.operator}: {entry} is outside [0, t] = [0, {t}]")
            counts = [int(count) for count in query_act_seqs]
            if sum(counts) > t:
                text = f"has {sum(counts)} tokens together, expected at most t = {t}"
                raise ValueError(f"{self.operator}: query_act_seqs {text}")
        return [
            (sequence, max(int(kv_act_seqs[sequence]) - count + 1 + j, 0))
            for sequence, count in enumerate(counts)
            for j in range(count)
        ]

    def capacity(self, kv_act_seqs: Array, block_table: Array, block_size: int) -> None:
        """Raises ValueError unless every sequence length is in [0, max_blocknum_perbatch * block_size]."""
        most = block_table.shape[1] * block_size
        bad = np.flatnonzero((kv_act_seqs < 0) | (kv_act_seqs > most))
        if bad.size:
            raise ValueError(
                f"{self.label('kv_act_seqs')}[{bad[0]}] = {kv_act_seqs[bad[0]]} is outside "
                f"[0, max_blocknum_perbatch * block_size] = [0, {most}]"
            )

    def rows(
        self, block_table: Array, sequence: int, positions: Array, block_size: int, block_num: int
    ) -> NDArray[np.int64]:
        """Cache rows of the given positions of one sequence.

        Raises:
            ValueError: a block_table entry for one of the positions is outside [0, block_num).
        """
        columns = positions.astype(np.int64) // block_size
        entries = block_table[sequence, columns].astype(np.int64)
        bad = np.flatnonzero((entries < 0) | (entries >= block_num))
        if bad.size:
            raise ValueError(
                f"{self.label('block_table')}[{sequence}, {columns[bad[0]]}] = {entries[bad[0]]} is outside "
                f"[0, block_num) = [0, {block_num}), and holds position {positions[bad[0]]}"
            )
        rows: NDArray[np.int64] = entries * block_size + positions.astype(np.int64) % block_size
        return rows


def write_rows(cache: Array, cache_index: Array, rows: Array) -> None:
    """``cache[cache_index[i]] = rows[i]`` for i in ascending order, so the later token wins. -1 writes nothing."""
    last: dict[int, int] = {int(row): i for i, row in enumerate(cache_index) if row >= 0}
    if last:
        cache[np.fromiter(last.keys(), np.int64, len(last))] = rows[np.fromiter(last.values(), np.int64, len(last))]
