"""Calls of the operators whose results show the order of every sum."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import cases
import exact
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


COUNTS = (1, 2, 15, 16, 17, 31, 32, 33, 34, 63, 64, 65, 66, 130, 511, 512, 513, 1026)
"""Keys of each token of a call: about a tile, a link of 32 and a panel, and 512 keys of V; even ones make pairs."""


def attend(counts: Sequence[int], n_q: int, **options: Any) -> cases.Case:
    return cases.with_lse(cases.attention_case(len(counts), 1, n_q, list(counts), **options))


def keys_changed(case: cases.Case, change: Callable[[Array, Array, Array], None]) -> cases.Case:
    """`change` gets the caches of a case that will be another one's: latents, rope parts and scales, as rows."""
    copies = {n: case.inputs[n].copy() for n in exact.KEY_PARTS}
    change(*copies.values())
    return case.copy(**copies)


def scores_that_cancel(n_q: int) -> cases.Case:
    """Each term of q . k comes twice, with both signs; the factor of the softmax makes scores of the roundings."""
    case = attend((17, 65), n_q)
    query = {n: case.inputs[n].copy() for n in ("query_nope", "query_rope")}
    first, second = (
        (np.random.default_rng(3).permutation(128) + 128 * np.arange(4)[:, None]).reshape(4, 2, 64).swapaxes(0, 1)
    )
    rope = np.random.default_rng(4).permutation(64).reshape(2, 32)
    query["query_nope"][:, second] = query["query_nope"][:, first] ^ MINUS
    query["query_rope"][:, rope[1]] = query["query_rope"][:, rope[0]] ^ MINUS

    def alike(nope: Array, rope_part: Array, _: Array) -> None:
        nope[:, second] = nope[:, first]
        rope_part[:, rope[1]] = rope_part[:, rope[0]]

    return keys_changed(case.copy(**query), alike).with_attributes(softmax_scale=2.0**19)


def values_that_cancel(n_q: int) -> cases.Case:
    """Keys come in pairs with equal scores and opposite values."""
    case = attend([n for n in COUNTS if n % 2 == 0], n_q)

    def pairs(nope: Array, rope: Array, scales: Array) -> None:
        for i, count in enumerate(case.paging.kv_act_seqs):
            rows = case.inputs["block_table"][i, np.arange(count) // 128] * 128 + np.arange(count) % 128
            nope[rows[1::2]] = -nope[rows[::2]]
            rope[rows[1::2]], scales[rows[1::2]] = rope[rows[::2]], scales[rows[::2]]

    return keys_changed(case.copy(query_nope=np.zeros_like(case.inputs["query_nope"])), pairs)


def scores_of(d: Array, n_q: int) -> cases.Case:
    """Two keys and a head for each of d [t * n_q], float32: scores 0 and d, values the first two unit vectors."""
    case = cases.with_lse(cases.attention_case(1, d.size // n_q, n_q, d.size // n_q + 1, topk=2))
    query = np.zeros_like(case.inputs["query_rope"])
    rest = d.copy()
    for i in range(3):  # three bfloat16 values make a float32
        query[:, i] = part = float32_to_bf16(rest)
        rest -= golden.bf16_to_float32(part)
    assert not rest.any()

    def two(nope: Array, rope: Array, scales: Array) -> None:
        row = case.inputs["block_table"][0, 0] * 128
        nope[row : row + 2], rope[row : row + 2], scales[row : row + 2] = 0, 0, 1
        nope[row, 0] = nope[row + 1, 1] = 1
        rope[row + 1, :3] = ONE

    indices = np.tile(np.array([0, 1], np.int32), (case.paging.t, 1))
    visible = case.copy(query_rope=query, query_nope=np.zeros_like(case.inputs["query_nope"]), topk_indices=indices)
    return keys_changed(visible.with_attributes(softmax_scale=1.0), two)


def exponentials() -> cases.Case:
    """lse has e^d to its last bit but one, and the probabilities the small ones. Half of the r are at their largest."""
    rng = np.random.default_rng(0)
    largest = -rng.uniform(0.3, 0.5 * math.log(2), 4096)
    least = np.float32(-126 * math.log(2)).view(np.uint32) + np.arange(-32, 32, dtype=np.int32)
    others = -np.concatenate([rng.uniform(0, 3, 3072), rng.uniform(0, 100, 960)])
    d = np.concatenate([largest, others]).astype(np.float32)
    return scores_of(np.concatenate([d, least.astype(np.uint32).view(np.float32)]), 128)


def heads_that_cancel() -> cases.Case:
    """Every head of the indexer comes twice, with both signs of its weight: roundings alone decide what is selected."""
    case = cases.indexer_case(1, 3, 1500, selected_count=300)
    first, second = np.random.default_rng(2).permutation(64).reshape(2, 32)
    pairs = {n: case.inputs[n].copy() for n in ("q_int8", "q_scale", "weights")}
    for value in pairs.values():
        value[:, second] = value[:, first]
    pairs["weights"][:, second] *= -1
    alike = case.copy(**pairs)
    assert all(np.unique(exact.index_scores(alike, i)).size > 300 for i in range(3))
    return alike
