"""Calls of the operators with weights whose results show the order of every sum."""

from __future__ import annotations

import functools
from collections.abc import Callable

import cases
import numpy as np
from bare_kernels import TOKENS
from cases import CACHE_INDEX, Array

from ms_dsv32 import golden
from ms_dsv32.golden import float32_to_bf16

ONE = np.uint16(0x3F80)
MINUS = np.uint16(0x8000)  # the sign of a bfloat16
T = 7  # different tokens of a call
HEADS = 3


def weights_of(case: cases.Case) -> dict[str, Array]:
    """Copies of its inputs by their names in the operators that are not fused."""
    return {cases.weight_name(name): value.copy() for name, value in case.inputs.items()}


def turned_by_nothing(case: cases.Case) -> cases.Case:
    """RoPE by an angle of 0."""
    return case.copy(
        **{
            n: np.full_like(v, ONE if n.startswith("cos") else 0)
            for n, v in case.inputs.items()
            if n[:3] in ("cos", "sin")
        }
    )


def cancelling(case: cases.Case) -> cases.Case:
    """Every sum of products of bfloat16 is zero but for its roundings: each term comes twice, with both signs."""
    rng = np.random.default_rng(5)
    w = weights_of(case)

    def pair(rows: int) -> tuple[Array, Array]:
        first, second = rng.permutation(rows).reshape(2, -1)
        return first, second

    def opposite(name: str, pairs: tuple[Array, Array]) -> None:
        if name in w:
            matrix = w[name].swapaxes(0, -2)  # the rows of each head's come first
            matrix[pairs[1]] = matrix[pairs[0]] ^ MINUS

    def alike(pairs: tuple[Array, Array], *names: str) -> None:
        for name in names:
            if name in w:
                w[name][..., pairs[1]] = w[name][..., pairs[0]]

    tokens = TOKENS[case.operator]
    h = pair(w[tokens].shape[-1])
    alike(h, tokens)
    # So large that the roundings of sums are about 1.
    w[tokens] = float32_to_bf16(golden.bf16_to_float32(w[tokens]) * np.float32(2.0**20))
    for name in ("w_dq", "w_dkv_kr", "wk", "w_proj", "w_uv"):
        opposite(name, h)
    if "w_uk" in w:
        nope = pair(128)
        for name in ("w_uq_qr", "dequant_scale"):
            heads = w[name].reshape(-1, case.n_q, 192)
            heads[..., nope[1]] = heads[..., nope[0]]
        opposite("w_uk", nope)
    if "w_qb" in w:
        queries, keys = pair(128), pair(128)
        for name in ("w_qb", "w_qb_scale"):
            heads = w[name].reshape(-1, 64, 128)
            heads[..., queries[1]] = heads[..., queries[0]]
        alike(keys, "wk", "ln_gamma_k", "ln_beta_k")
        for name, pairs in (("hadamard_q", queries), ("hadamard_k", keys)):
            w[name] = cases.random_bf16(rng, (128, 128))
            opposite(name, pairs)
    return turned_by_nothing(cases.changed(case, **w))


def with_ties(case: cases.Case) -> cases.Case:
    """Every sum is of two terms with eight bits each: half-way between two bfloat16 values, once in a few times."""
    rng = np.random.default_rng(6)
    w = weights_of(case)

    def two(shape: tuple[int, ...]) -> Array:
        """Two ones in each column."""
        ones = np.zeros((*shape[:-2], shape[-1], shape[-2]), np.uint16)
        for column in ones.reshape(-1, shape[-2]):
            column[rng.choice(shape[-2], 2, replace=False)] = ONE
        return np.ascontiguousarray(ones.swapaxes(-1, -2))

    if "w_uv" in w:
        return cases.changed(case, w_uv=two(w["w_uv"].shape))
    w[TOKENS[case.operator]] = two((7168, T)).T.copy()
    for name in ("w_uk", "hadamard_q", "hadamard_k"):
        if name in w:
            w[name] = two(w[name].shape)
    for name in ("cos", "sin", "cos_idx_rope", "sin_idx_rope"):
        if name in w:
            w[name][:] = ONE
    return cases.changed(case, **w)


def far_from_zero(case: cases.Case) -> cases.Case:
    """Indexer keys with a large mean, of which the last bit counts."""
    w = weights_of(case)
    w["wk"][0] = 0x4400  # 512
    w[TOKENS[case.operator]][:, 0] = ONE
    return cases.changed(case, **w)


def scales_that_tell(sums: Array, token: np.float32) -> Array:
    """Channel scales by which ``sums * token`` comes as near as float32 can to half-way between two bfloat16 values.

    Of its neighbours, one is taken that another order of the factors rounds the other way: in every second column the
    order ``sums * (token * scale)``, in the others ``sums * scale * token``.
    """
    wide = sums.astype(np.float32)
    half_way = np.random.default_rng(9).integers(128, 256, sums.size) + 0.5
    middle = (half_way / np.where(wide == 0, 1, wide * token)).astype(np.float32)
    near = (np.abs(middle).view(np.uint32) + np.arange(-32, 33, dtype=np.int32)[:, None]).astype(np.uint32)
    scale = np.copysign(near.view(np.float32), middle)
    right, others = float32_to_bf16(wide * token * scale), (wide * (token * scale), wide * scale * token)
    told = np.where(np.arange(sums.size) % 2, *(float32_to_bf16(other) != right for other in others))
    assert told.any(axis=0).mean() > 0.2
    return np.asarray(scale[told.argmax(axis=0), np.arange(sums.size)])


KINDS: dict[str, Callable[[cases.Case], cases.Case]] = {
    "ordinary": lambda case: case,
    "cancelling": cancelling,
    "ties": with_ties,
    "floor": cases.below_the_floor,
    "offset": far_from_zero,
}


@functools.cache
def distinct(operator: str, kind: str) -> cases.Case:
    """A call of T tokens."""
    return KINDS[kind](cases.with_epsilons(cases.make(operator, 1, T, n_q=HEADS, seed=8)))


def repeated(case: cases.Case, t: int) -> cases.Case:
    """T tokens, over and over."""
    longer = cases.make(case.operator, 1, t, n_q=HEADS).with_attributes(**case.attributes)
    caches = {*cases.IN_PLACE[case.operator], CACHE_INDEX.get(case.operator)}
    inputs = {n: v for n, v in case.inputs.items() if n not in caches}
    return longer.copy(**{n: v[np.arange(t) % T] if v.shape[0] == T else v for n, v in inputs.items()})


def by_token(case: cases.Case, results: dict[str, Array]) -> dict[str, Array]:
    """Outputs, and of caches the rows that are written, one for each token."""
    caches = cases.IN_PLACE[case.operator].values()
    return {
        n: v.reshape(-1, v.shape[-1])[case.inputs[CACHE_INDEX[case.operator]]] if n in caches else v
        for n, v in results.items()
    }
