"""The contract's tolerance table as code: one comparison per kind of output.

`assert_close_output` takes the output names of op_info. int8 is compared in int32 (in int8, 127 against -128 differs by
1), bfloat16 comes as bit patterns in uint16, shapes and dtypes must agree, and a NaN or Inf anywhere fails.

Two additions to the table, both about rounding flips. Two float32 summation orders differ by about 1e-6 relative, so
that once in some thousand values they fall on different sides of a bfloat16 rounding boundary, one ulp (up to 2^-7
relative) apart:

- Where the table allows 0.5 % of the values outside, none of them may be grossly outside (beyond `GROSS` times the
  tolerance): a wrong token among 256 would otherwise pass.
- `kr_cache`, the scales and `weights` are one rounded value of such a sum, with a tolerance below one bfloat16 ulp.
  There at most 0.5 % of the values (at least one) may be outside the table, by no more than what one flipped ulp
  explains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_dsv32.golden import bf16_to_float32

Array = NDArray[Any]

ALLOWED_FRACTION = 0.005
GROSS = 16.0
BF16_ULP = 2.0**-7  # the largest distance of two neighbouring bfloat16 values, relative
FP16_ULP = 2.0**-10  # the same of float16
CPU_TOPK_RTOL = 1e-5
ASCEND_TOPK_RTOL = 2e-3
"""How far, relative to its terms, the score of a selected position may be below the k-th best (`assert_topk`)."""


def _describe(name: str, what: str, wrong: Array, difference: Array, got: Array, want: Array) -> str:
    """How many, where first, where the largest."""
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    worst = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.where(wrong, difference, -1))), wrong.shape))
    return (
        f"{name}: {int(wrong.sum())} of {wrong.size} values {what}; first at {first}: "
        f"got {got[first]!r}, want {want[first]!r}; "
        f"largest difference {difference[worst]!r} at {worst}: got {got[worst]!r}, want {want[worst]!r}"
    )


def assert_same_kind(name: str, got: Array, want: Array) -> None:
    """Equal shape and dtype."""
    assert got.dtype == want.dtype, f"{name}: dtype {got.dtype}, want {want.dtype}"
    assert got.shape == want.shape, f"{name}: shape {got.shape}, want {want.shape}"


def _to_float64(name: str, got: Array, want: Array) -> tuple[Array, Array]:
    """Values as float64, after checking that all are finite."""
    assert_same_kind(name, got, want)
    if got.dtype == np.uint16:
        got, want = bf16_to_float32(got), bf16_to_float32(want)
    for side, values in (("the reference", want), ("the result", got)):
        bad = ~np.isfinite(values)
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            raise AssertionError(f"{name}: {int(bad.sum())} NaN or Inf in {side}; first {values[first]} at {first}")
    return got.astype(np.float64), want.astype(np.float64)


class Pool:
    """Counts, over many small calls, the values outside of a tolerance that allows a fraction outside.

    A single call has few values, and one rounding that flips may move several of them.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, float], list[int]] = {}

    def add(self, name: str, outside: int, size: int, fraction: float) -> None:
        """Counts an output's values."""
        counts = self._counts.setdefault((name, fraction), [0, 0])
        counts[0] += outside
        counts[1] += size

    def check(self, beside: int) -> None:
        """Raises AssertionError if more than the fraction, and `beside` values more, of all calls are outside."""
        for (name, fraction), (outside, size) in self._counts.items():
            allowed = int(fraction * size) + beside
            assert outside <= allowed, f"{name}: {outside} of {size} values outside the tolerance, {allowed} allowed"


_pools: list[Pool] = []


@contextmanager
def pooled(pool: Pool) -> Iterator[None]:
    """For the time of a block, a pool counts the fractions of values. All other limits stay as they are."""
    _pools.append(pool)
    try:
        yield
    finally:
        _pools.pop()


def _limit_outside(
    name: str, outside: Array, difference: Array, got: Array, want: Array, fraction: float, at_least: int = 0
) -> None:
    if _pools:
        _pools[-1].add(name, int(outside.sum()), outside.size, fraction)
        return
    allowed = max(int(fraction * outside.size), at_least)
    if int(outside.sum()) > allowed:
        raise AssertionError(
            _describe(name, f"outside the tolerance, {allowed} allowed", outside, difference, got, want)
        )


def assert_int8(name: str, got: Array, want: Array, *, most: int = 1, fraction: float = 1.0) -> None:
    """int8 within +-`most`; at most `fraction` of the values may differ at all."""
    assert_same_kind(name, got, want)
    assert got.dtype == np.int8, f"{name}: dtype {got.dtype}, want int8"
    difference = np.abs(got.astype(np.int32) - want.astype(np.int32))
    beyond = difference > most
    if beyond.any():
        raise AssertionError(_describe(name, f"differ by more than {most}", beyond, difference, got, want))
    _limit_outside(name, difference > 0, difference, got, want, fraction)


def assert_float(
    name: str,
    got: Array,
    want: Array,
    *,
    atol: float,
    rtol: float,
    fraction: float = ALLOWED_FRACTION,
    one_ulp: bool = False,
    flip: float = 0.0,
) -> None:
    """Floats within ``atol + rtol * |want|``; at most `fraction` outside, and none beyond `GROSS` times that.

    one_ulp: neighbouring bfloat16 values are inside too. flip: grossly wrong begins this fraction of the row's largest
    value later.
    """
    bits = (got, want)
    got, want = _to_float64(name, got, want)
    difference = np.abs(got - want)
    tolerance = atol + rtol * np.abs(want)
    outside = difference > tolerance
    if one_ulp:
        outside &= bf16_steps(*bits) > 1
    gross = difference > GROSS * tolerance + flip * np.abs(want).max(axis=-1, keepdims=True, initial=0.0)
    if gross.any():
        raise AssertionError(_describe(name, f"beyond {GROSS:g} times the tolerance", gross, difference, got, want))
    _limit_outside(name, outside, difference, got, want, fraction)


def bf16_steps(a: Array, b: Array) -> NDArray[np.int32]:
    """Steps between neighbouring bfloat16 values from the bit patterns `a` to `b`: 0 for equal ones."""

    def ordinal(bits: Array) -> NDArray[np.int32]:
        magnitude = (bits & np.uint16(0x7FFF)).astype(np.int32)
        return np.where(bits & np.uint16(0x8000), -magnitude, magnitude)

    return np.abs(ordinal(a) - ordinal(b))


def _assert_flips(name: str, got: Array, want: Array, tolerance: Array, flip: Array) -> None:
    """Within `tolerance`; at most 0.5 % of the values (at least one) beyond it, and those within `flip`."""
    difference = np.abs(got - want)
    beyond = difference > np.maximum(tolerance, flip)
    if beyond.any():
        raise AssertionError(_describe(name, "beyond one flipped ulp", beyond, difference, got, want))
    _limit_outside(name, difference > tolerance, difference, got, want, ALLOWED_FRACTION, at_least=1)


def assert_scale(name: str, got: Array, want: Array) -> None:
    """Quantisation scales: atol 2.5e-5, rtol 5e-3. A flip moves a scale by an ulp of amax (and of float16)."""
    got_f, want_f = _to_float64(name, got, want)
    ulp = FP16_ULP if got.dtype == np.float16 else 0.0
    _assert_flips(name, got_f, want_f, 2.5e-5 + 5e-3 * np.abs(want_f), (1.01 * BF16_ULP + ulp) * np.abs(want_f))


def assert_weights(name: str, got: Array, want: Array) -> None:
    """Indexer head weights: atol 2.5e-5 plus one fp16 ulp. A flip moves one by a bfloat16 ulp of the projection."""
    got_f, want_f = _to_float64(name, got, want)
    ulp = np.spacing(np.abs(want)).astype(np.float64)
    _assert_flips(name, got_f, want_f, 2.5e-5 + ulp, BF16_ULP * np.abs(want_f) + 2.0 * ulp)


def assert_rope_key(name: str, got: Array, want: Array) -> None:
    """Rotated keys: atol 1e-4, rtol 2^-7.

    A flip of one input of a pair by an ulp moves both outputs by up to 2^-7 of the pair's length, which the rotation
    keeps; the output's own rounding adds up to an ulp of the output.
    """
    got_f, want_f = _to_float64(name, got, want)
    half = want.shape[-1] // 2
    length = np.hypot(want_f[..., :half], want_f[..., half:])
    length = np.concatenate([length, length], axis=-1)
    tolerance = 1e-4 + BF16_ULP * np.abs(want_f)
    _assert_flips(name, got_f, want_f, tolerance, tolerance + BF16_ULP * length)


def assert_lse(name: str, got: Array, want: Array) -> None:
    """Log-sum-exp: atol 1e-4, rtol 1e-5; -inf exactly where the reference has it."""
    assert_same_kind(name, got, want)
    empty = np.isneginf(want)
    differ = np.isneginf(got) != empty
    if differ.any():
        first = tuple(int(i) for i in np.argwhere(differ)[0])
        raise AssertionError(f"{name}: {int(differ.sum())} rows are -inf on one side only; first at {first}")
    assert_float(name, got[~empty], want[~empty], atol=1e-4, rtol=1e-5, fraction=0.0)


def assert_merged(name: str, got: Array, want: Array) -> None:
    """attention_out [.., 512] of parts of the keys that were merged, against attention over all keys at once.

    Each part's p and its output are rounded to bfloat16, and the merged output again: errors of 2^-8 at most, 2^-8 over
    the root of 3 in the mean, none of which is as large as the row. A row, as a vector, is within 2^-7.
    """
    got_f, want_f = _to_float64(name, got, want)
    difference = np.linalg.norm(got_f - want_f, axis=-1)
    beyond = difference > 2.0**-7 * np.linalg.norm(want_f, axis=-1)
    if beyond.any():
        raise AssertionError(_describe(name, "differ as rows", beyond, difference, difference, difference * 0))


def assert_close_output(name: str, got: Array, want: Array) -> None:
    """Compares one output with the golden reference by the contract's tolerance table.

    Args:
        name: the output's name in op_info (``q_norm_out``, ``mla_kv_cache_out``, ...; ``topk_indices`` needs
            `assert_topk`).
        got, want: NumPy arrays of the same shape and dtype; bfloat16 as uint16 bits.

    Raises:
        AssertionError: with how many values are wrong, the first and the worst. KeyError: a name that is not in the
            table.
    """
    if name == "q_norm_out":
        assert_int8(name, got, want, most=1, fraction=ALLOWED_FRACTION)
    elif name == "q_int8_out":
        assert_int8(name, got, want, most=1)
    elif name == "ip_q_int8_out":
        assert_int8(name, got, want, most=2)
    elif name in ("kv_cache_out", "mla_kv_cache_out", "k_int8_out", "ip_k_int8_out"):
        assert_int8(name, got, want, most=1)
    elif name in ("query_nope_out", "query_rope_out", "mla_query_nope_out", "mla_query_rope_out", "hidden_out"):
        assert_float(name, got, want, atol=5e-3, rtol=2.0**-7)
    elif name in ("kr_cache_out", "mla_kr_cache_out"):
        assert_rope_key(name, got, want)
    elif name in (
        "q_norm_scale_out",
        "k_scale_cache_out",
        "mla_k_scale_cache_out",
        "q_scale_out",
        "k_scale_out",
        "ip_q_scale_out",
        "ip_k_scale_out",
    ):
        assert_scale(name, got, want)
    elif name in ("weights_out", "ip_weights_out"):
        assert_weights(name, got, want)
    elif name == "attention_out":
        # Where one key has most of the weight, a flip of its rounded probability moves the row by an ulp of that key.
        assert_float(name, got, want, atol=1e-4, rtol=5e-3, one_ulp=True, flip=BF16_ULP)
    elif name == "lse":
        assert_lse(name, got, want)
    else:
        raise KeyError(f"no tolerance for an output called {name!r}")


def assert_same_bits(name: str, got: Array, want: Array) -> None:
    """Equal shape, dtype and bytes; NaN equals the same NaN, 0.0 differs from -0.0."""
    assert_same_kind(name, got, want)
    unsigned = np.dtype(f"u{got.dtype.itemsize}")
    a = np.ascontiguousarray(got).view(unsigned)
    b = np.ascontiguousarray(want).view(unsigned)
    if (a != b).any():
        difference = np.where(a > b, a - b, b - a)
        raise AssertionError(_describe(name, "differ in their bits", a != b, difference, got, want))


def assert_same_outputs(got: Mapping[str, Array], want: Mapping[str, Array]) -> None:
    """The same outputs, by name and in their order, with the same bits in each."""
    assert list(got) == list(want), f"outputs are {list(got)}, expected {list(want)}"
    for name, array in want.items():
        assert_same_bits(name, got[name], array)


def assert_close_cache(name: str, got: Array, want: Array, before: Array, cache_index: Array) -> None:
    """A cache after the call: rows of `cache_index` close to the reference, every other row the same bits as before.

    Args:
        name: the cache's output name. got, want: caches [block_num, block_size, 1, d] after the call.
        before: the cache before the call. cache_index: rows written, any shape; -1 is ignored.
    """
    assert_same_kind(name, got, want)
    rows = np.unique(cache_index[cache_index >= 0])
    flat_got, flat_want, flat_before = (a.reshape(-1, a.shape[-1]) for a in (got, want, before))
    others = np.ones(flat_got.shape[0], bool)
    others[rows] = False
    assert_same_bits(f"{name} (rows not written)", flat_got[others], flat_before[others])
    assert_close_output(name, flat_got[rows], flat_want[rows])


def assert_topk(
    got: Array,
    want: Array,
    scores: Sequence[Array],
    magnitudes: Sequence[Array],
    *,
    rtol: float = CPU_TOPK_RTOL,
    tokens: Sequence[int] | Array | None = None,
) -> None:
    """Selections of the indexer: equal sets, or every differing position scores within `rtol` of the k-th score.

    The head weights have both signs, so that a score can be small beside its terms, which are what was rounded: `rtol`
    is relative to the larger of the k-th score and the sum of the absolute terms of either score.

    Args:
        got, want: int32 [t, selected_count]; any order of the valid entries.
        scores, magnitudes: of each token, float32 [visible], scores and the sums of their absolute terms
            (`cases.indexer_scores`). rtol: `CPU_TOPK_RTOL` or `ASCEND_TOPK_RTOL`.
        tokens: what an error calls the rows; their numbers in `got` if left out.
    """
    assert_same_kind("topk_indices", got, want)
    assert got.dtype == np.int32, f"topk_indices: dtype {got.dtype}, want int32"
    assert len(scores) == got.shape[0], f"topk_indices: {got.shape[0]} rows, want {len(scores)}"
    called = range(len(scores)) if tokens is None else tokens
    for i, (token, score, magnitude) in enumerate(zip(called, scores, magnitudes, strict=True)):
        count = min(score.size, got.shape[1])
        chosen, rest = got[i, :count], got[i, count:]
        assert (rest == -1).all(), f"topk_indices[{token}]: entries after the first {count} are not all -1"
        bad = np.flatnonzero((chosen < 0) | (chosen >= score.size))
        assert bad.size == 0, f"topk_indices[{token}, {bad[0]}] = {chosen[bad[0]]} is outside [0, {score.size})"
        assert np.unique(chosen).size == count, f"topk_indices[{token}]: a position occurs twice"
        differing = np.setxor1d(chosen, want[i, :count])
        if differing.size == 0:
            continue
        last = want[i, np.argmin(score[want[i, :count]])]
        kth = float(score[last])
        error = np.abs(score[differing].astype(np.float64) - kth)
        beyond = ~(error <= rtol * np.maximum(abs(kth), np.maximum(magnitude[last], magnitude[differing])))
        first = differing[beyond][:1]
        assert not first.size, (
            f"topk_indices[{token}]: {int(beyond.sum())} positions differ beyond rounding; first {first[0]}, "
            f"score {score[first[0]]!r}, k-th score {kth!r}, largest distance {error.max()!r}"
        )
