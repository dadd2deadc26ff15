"""Inputs for every operator, under the contract's names: the one place where tests get them.

A maker returns a `Case`: inputs in contract order, attributes, and the paging that they came from. Weights are made
once per process. Cache rows that no visible key occupies are poisoned (NaN, or -128 in int8, which `quantise` never
writes), so that reading one shows. Arguments that could be taken for one another are unlike: the two matrices of the
indexer, sequences' lengths, scales, and with `with_epsilons` the epsilons.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tolerance
from numpy.typing import NDArray

from ms_dsv32 import golden, op_info
from ms_dsv32.config import IndexerPrologQuantAttr
from ms_dsv32.paging import block_num_of, blocks_of, cache_index_of, make_block_table, rows_of, token_positions

Array = NDArray[Any]

OUTPUTS: dict[str, tuple[str, ...]] = {
    name: tuple(o.name for o in op_info.load(name).outputs if not o.extension) for name in op_info.names()
}
"""Output names of each operator, without those that a call must ask for."""

IN_PLACE: dict[str, dict[str, str]] = {
    name: {o.in_place_of: o.name for o in op_info.load(name).outputs if o.in_place_of} for name in op_info.names()
}
"""Of each operator: input caches that are updated in place, and the outputs that are the same buffers."""

CACHE_INDEX = {
    name: a.name for name in op_info.names() for a in op_info.load(name).inputs if a.name.endswith("cache_index")
}
"""The input of each prolog that tells the cache row of every token."""

POISON: dict[type[np.generic], Any] = {
    np.int8: np.int8(-128),
    np.uint16: np.uint16(0x7FC1),
    np.float16: np.float16("nan"),
    np.float32: np.float32("nan"),
}
"""What rows that nobody may read hold; 0x7FC1 is a bfloat16 NaN with a payload."""

OTHER_DTYPE = {"bf16": "fp16", "fp16": "bf16", "fp32": "fp16", "int8": "int32", "int32": "int64", "int64": "int32"}
"""A dtype that an operator must refuse in the place of each."""


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


@dataclass(frozen=True)
class Case:
    """One call of one operator.

    Attributes:
        operator: its name. inputs: NumPy arrays in contract order, bfloat16 as uint16 bits. attributes: those without a
            default, and those that the maker was asked for. paging: where the sequences live. n_q: query heads.
    """

    operator: str
    inputs: dict[str, Array]
    attributes: dict[str, Any]
    paging: Paging
    n_q: int = 128
    outputs: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", self.outputs or OUTPUTS[self.operator])

    @property
    def ragged(self) -> bool:
        """Whether query_act_seqs tells the tokens of each sequence."""
        return "query_act_seqs" in self.inputs

    @property
    def t(self) -> int:
        """Tokens, padding included."""
        if not self.ragged:
            return self.paging.t
        return self.inputs["weights" if "weights" in self.inputs else "topk_indices"].shape[0]

    def copy(self, **changed: Array) -> Case:
        """The same case with its own copies of the caches that are updated in place, and with the inputs `changed`."""
        unknown = set(changed) - set(self.inputs)
        if unknown:
            raise KeyError(f"{self.operator} has no input {sorted(unknown)}")
        inputs = {
            name: changed[name] if name in changed else value.copy() if name in IN_PLACE[self.operator] else value
            for name, value in self.inputs.items()
        }
        return replace(self, inputs=inputs)

    def with_attributes(self, **attributes: Any) -> Case:
        """The same case (sharing the arrays) with more or other attributes."""
        return replace(self, attributes={**self.attributes, **attributes})

    def run(self, function: Callable[..., Any]) -> dict[str, Array]:
        """Calls `function` with copies of the caches and names its outputs; this case stays as it is."""
        case = self.copy()
        results = function(*case.inputs.values(), **case.attributes)
        return dict(zip(self.outputs, results if isinstance(results, tuple) else (results,), strict=True))

    def golden(self) -> dict[str, Array]:
        """The golden reference's outputs, by name; this case stays as it is."""
        return self.run(getattr(golden, self.operator))

    def check(
        self,
        got: Mapping[str, Array],
        want: Mapping[str, Array] | None = None,
        *,
        rtol: float = tolerance.CPU_TOPK_RTOL,
        tokens: NDArray[np.bool_] | None = None,
    ) -> None:
        """Compares all outputs by the contract's tolerances; cache rows that are not this call's must be as before.

        Args:
            got: the outputs, by name. want: the golden reference's, where a caller has them.
            rtol: of a selection's scores (`tolerance.assert_topk`).
            tokens: bool [t], the tokens that are compared; all of them if left out. What the others wrote into caches
                is not looked at.

        Raises:
            AssertionError: with the operator, the output, how many of its values are wrong, the first and the worst.
        """
        want = self.golden() if want is None else want
        caches = {output: cache for cache, output in IN_PLACE[self.operator].items()}
        try:
            for name in self.outputs:
                assert name in got, f"{name}: missing"
                tolerance.assert_same_kind(name, got[name], want[name])
                if name == "topk_indices":
                    self._check_selection(got[name], want[name], rtol, tokens)
                elif name in caches:
                    self._check_cache(name, got[name], want[name], self.inputs[caches[name]], tokens)
                elif tokens is None:
                    tolerance.assert_close_output(name, got[name], want[name])
                else:
                    compared = (_by_token(name, array, tokens.size)[tokens] for array in (got[name], want[name]))
                    tolerance.assert_close_output(name, *compared)
        except AssertionError as error:
            raise AssertionError(f"{self.operator}: {error}") from error

    def _check_selection(self, got: Array, want: Array, rtol: float, tokens: NDArray[np.bool_] | None) -> None:
        """Scores are asked for only where the sets differ, because golden takes long for them."""
        assert (np.diff(got < 0) >= 0).all(), "topk_indices: valid entries do not come first"
        differs = (np.sort(got) != np.sort(want)).any(axis=1)
        rows = np.flatnonzero(differs if tokens is None else differs & tokens)
        if rows.size:
            scores, magnitudes = ([of_case[i] for i in rows] for of_case in indexer_scores(self))
            tolerance.assert_topk(got[rows], want[rows], scores, magnitudes, rtol=rtol, tokens=rows)

    def _check_cache(self, name: str, got: Array, want: Array, before: Array, tokens: NDArray[np.bool_] | None) -> None:
        index = self.inputs[CACHE_INDEX[self.operator]].reshape(-1)
        if tokens is not None:
            writer = {int(row): token for token, row in enumerate(index) if row >= 0}  # the last token of a row
            ignored = [row for row, token in writer.items() if not tokens[token]]
            got = got.copy()
            got.reshape(-1, got.shape[-1])[ignored] = before.reshape(-1, before.shape[-1])[ignored]
            index = np.setdiff1d(index, ignored)
        tolerance.assert_close_cache(name, got, want, before, index)


def _by_token(name: str, array: Array, t: int) -> Array:
    """An output as [t, ...]; attention's may have come as [b, s1, ...]."""
    axes = 2 if (name, array.ndim) in (("attention_out", 4), ("lse", 3)) else 1
    return array.reshape(t, *array.shape[axes:])


def weight_name(name: str) -> str:
    """The fused operator's `mla_<name>` and `ip_<name>_in` without prefix and suffix."""
    return name.removeprefix("mla_").removeprefix("ip_").removesuffix("_in")


@functools.cache
def mla_weights(n_q: int = 128, seed: int = 0) -> dict[str, Array]:
    """Full-size weights of `mla_prolog_quant`, read-only, made once per process. Fewer heads are the first of 128."""
    return _frozen(golden.make_mla_weights(seed, n_q=n_q))


@functools.cache
def indexer_weights(seed: int = 0) -> dict[str, Array]:
    """Full-size weights of `lightning_indexer_prolog_quant`, read-only, made once per process.

    hadamard_q and hadamard_k are unlike, and unlike their transposes: Q D and Q / D of an orthogonal matrix Q and a
    diagonal one D. As the model's one matrix does, they leave scores as they are: Q D (Q / D)^T is the identity.
    """
    rng = np.random.default_rng([seed, 6])
    turn, _ = np.linalg.qr(rng.standard_normal((128, 128)))
    stretch = np.exp(rng.uniform(-0.25, 0.25, 128))
    matrices = {"hadamard_q": turn * stretch, "hadamard_k": turn / stretch}
    bits = {name: golden.float32_to_bf16(matrix.astype(np.float32)) for name, matrix in matrices.items()}
    return _frozen({**golden.make_indexer_weights(seed), **bits})


@functools.cache
def epilog_weights(n_q: int = 128, seed: int = 0) -> dict[str, Array]:
    """Full-size weights of `mla_epilog_quant`, read-only, made once per process."""
    return _frozen(golden.make_epilog_weights(seed, n_q=n_q))


def layer_weights(n_q: int = 128, seed: int = 0) -> dict[str, Array]:
    """The weights of all operators of a layer."""
    return {**mla_weights(n_q, seed), **indexer_weights(seed), **epilog_weights(n_q, seed)}


def _frozen(arrays: dict[str, Array]) -> dict[str, Array]:
    for value in arrays.values():
        value.flags.writeable = False
    return arrays


def random_int8(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Uniform in -127..127, the range of `quantise`."""
    return rng.integers(-127, 128, shape, dtype=np.int8)


def random_bf16(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> NDArray[np.uint16]:
    """Normal with standard deviation `scale`."""
    return golden.float32_to_bf16(rng.standard_normal(shape, dtype=np.float32) * np.float32(scale))


def random_scale(rng: np.random.Generator, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> Array:
    """Uniform in 0.01..0.03, as the quantisation of values of variance 1 gives."""
    return (np.float32(0.01) + np.float32(0.02) * rng.random(shape, dtype=np.float32)).astype(dtype)


def make_cache(
    paging: Paging,
    width: int,
    dtype: type[np.generic],
    draw: Callable[[tuple[int, ...]], Array],
    rows: Array | None = None,
) -> Array:
    """A cache [block_num, block_size, 1, width] drawn in the given rows (default: the occupied), poison elsewhere."""
    cache = np.full((paging.block_num * paging.block_size, width), POISON[dtype], dtype)
    rows = paging.occupied_rows() if rows is None else rows
    cache[rows] = draw((rows.size, width))
    return cache.reshape(paging.block_num, paging.block_size, 1, width)


def _history_rows(paging: Paging) -> Array:
    """Rows of the keys before this call: what a prolog finds in the caches."""
    return np.setdiff1d(paging.occupied_rows(), paging.cache_index)


def _all_rows(paging: Paging) -> Array:
    return np.arange(paging.block_num * paging.block_size)


def _mla_caches(rng: np.random.Generator, paging: Paging, rows: Array | None = None) -> tuple[Array, Array, Array]:
    return (
        make_cache(paging, 512, np.int8, lambda shape: random_int8(rng, shape), rows),
        make_cache(paging, 64, np.uint16, lambda shape: random_bf16(rng, shape), rows),
        make_cache(paging, 4, np.float32, lambda shape: random_scale(rng, shape), rows),
    )


def _indexer_caches(rng: np.random.Generator, paging: Paging, rows: Array | None = None) -> tuple[Array, Array]:
    return (
        make_cache(paging, 128, np.int8, lambda shape: random_int8(rng, shape), rows),
        make_cache(paging, 1, np.float16, lambda shape: random_scale(rng, shape, np.float16), rows),
    )


def _split(paging: Paging, split: bool, value: Array) -> Array:
    """[t, ...], or [b, s1, ...] if split."""
    lead = (paging.b, paging.s1) if split else (paging.t,)
    return value.reshape(*lead, *value.shape[1:])


def _token_inputs(rng: np.random.Generator, paging: Paging, split: bool) -> tuple[Array, Array, Array, Array]:
    """token_x, cos, sin, cache_index."""
    token_x = random_bf16(rng, (paging.t, 7168))
    cos, sin = golden.rope_tables(np.maximum(paging.positions.reshape(-1), 0))
    index = paging.cache_index.reshape(-1)
    return (
        _split(paging, split, token_x),
        _split(paging, split, cos),
        _split(paging, split, sin),
        _split(paging, split, index),
    )


def mla_prolog_case(
    b: int = 1,
    s1: int = 1,
    n_q: int = 128,
    kv_lens: Sequence[int] | int | None = None,
    *,
    seed: int = 0,
    split: bool = False,
    block_size: int = 128,
    shuffle: bool = True,
) -> Case:
    """A `mla_prolog_quant` call: the history is in the caches, this call's rows are poisoned.

    Args:
        b, s1, n_q: sequences, tokens of each, query heads. kv_lens, block_size, shuffle: as `make_paging`.
        seed: of activations, caches and block table; the weights are those of `mla_weights`. split: token axes as [b,
            s1].
    """
    paging = make_paging(b, s1, kv_lens, seed=seed, block_size=block_size, shuffle=shuffle)
    rng = np.random.default_rng([seed, 1])
    token_x, cos, sin, cache_index = _token_inputs(rng, paging, split)
    kv_cache, kr_cache, k_scale_cache = _mla_caches(rng, paging, _history_rows(paging))
    inputs = {
        "token_x": token_x,
        **mla_weights(n_q),
        "cos": cos,
        "sin": sin,
        "cache_index": cache_index,
        "kv_cache": kv_cache,
        "kr_cache": kr_cache,
        "k_scale_cache": k_scale_cache,
    }
    return Case("mla_prolog_quant", inputs, {}, paging, n_q)


def indexer_prolog_case(
    b: int = 1,
    s1: int = 1,
    kv_lens: Sequence[int] | int | None = None,
    *,
    seed: int = 0,
    split: bool = False,
    block_size: int = 128,
    shuffle: bool = True,
) -> Case:
    """A `lightning_indexer_prolog_quant` call; q_norm and q_norm_scale are random. Arguments as `mla_prolog_case`."""
    paging = make_paging(b, s1, kv_lens, seed=seed, block_size=block_size, shuffle=shuffle)
    rng = np.random.default_rng([seed, 2])
    x, cos, sin, cache_index = _token_inputs(rng, paging, split)
    q_norm, q_norm_scale = golden.quantise(rng.standard_normal((paging.t, 1536), dtype=np.float32))
    k_cache, k_cache_scale = _indexer_caches(rng, paging, _history_rows(paging))
    weights = indexer_weights()
    inputs = {
        "x": x,
        "q_norm": _split(paging, split, q_norm),
        "q_norm_scale": _split(paging, split, q_norm_scale),
        **{name: weights[name] for name in ("w_qb", "w_qb_scale", "wk", "w_proj", "ln_gamma_k", "ln_beta_k")},
        "cos_idx_rope": cos,
        "sin_idx_rope": sin,
        "hadamard_q": weights["hadamard_q"],
        "hadamard_k": weights["hadamard_k"],
        "k_cache": k_cache,
        "k_cache_scale": k_cache_scale,
        "k_cache_index": cache_index,
    }
    return Case("lightning_indexer_prolog_quant", inputs, {}, paging)


def fused_prolog_case(
    b: int = 1,
    s1: int = 1,
    n_q: int = 128,
    kv_lens: Sequence[int] | int | None = None,
    *,
    seed: int = 0,
    split: bool = False,
    block_size: int = 128,
    shuffle: bool = True,
) -> Case:
    """A `mla_indexer_prolog_quant` call. Arguments as `mla_prolog_case`, whose inputs it shares for the same seed."""
    mla = mla_prolog_case(b, s1, n_q, kv_lens, seed=seed, split=split, block_size=block_size, shuffle=shuffle)
    indexer = indexer_prolog_case(b, s1, kv_lens, seed=seed, split=split, block_size=block_size, shuffle=shuffle)
    shared = ("token_x", "cos", "sin", "cache_index")
    inputs = {name if name in shared else f"mla_{name}": value for name, value in mla.inputs.items()}
    for name in ("w_qb", "w_qb_scale", "wk", "w_proj", "ln_gamma_k", "ln_beta_k", "hadamard_q", "hadamard_k"):
        inputs[f"ip_{name}_in"] = indexer.inputs[name]
    inputs["ip_k_cache"] = indexer.inputs["k_cache"]
    inputs["ip_k_cache_scale"] = indexer.inputs["k_cache_scale"]
    return Case("mla_indexer_prolog_quant", inputs, {}, mla.paging, n_q)


PROLOGS: dict[str, Callable[..., Case]] = {
    "mla_prolog_quant": mla_prolog_case,
    "lightning_indexer_prolog_quant": indexer_prolog_case,
    "mla_indexer_prolog_quant": fused_prolog_case,
}


def prolog_case(operator: str, b: int, s1: int, n_q: int, kv_lens: Any = None, **options: Any) -> Case:
    """A prolog's case by the operator's name; the indexer has no n_q."""
    heads = {} if operator == "lightning_indexer_prolog_quant" else {"n_q": n_q}
    return PROLOGS[operator](b, s1, **heads, kv_lens=kv_lens, **options)


def with_epsilons(case: Case) -> Case:
    """A prolog's case with epsilons that count, unlike one another and the defaults: what they are added to is near 1.

    The makers leave them out, so that a call without attributes is the case's.
    """
    values = {"epsilon_cq": 0.25, "epsilon_ckv": 0.5, "layernorm_epsilon_k": 0.75}
    if case.operator == "mla_indexer_prolog_quant":
        values = {f"mla_{name}": value for name, value in values.items() if name != "layernorm_epsilon_k"}
        return case.with_attributes(**values, ip_attrs=IndexerPrologQuantAttr(layernorm_epsilon_k=0.75))
    names = {attr.name for attr in op_info.load(case.operator).attrs}
    return case.with_attributes(**{name: value for name, value in values.items() if name in names})


SOFTMAX_SCALE = 0.09
"""Of attention: neither 192**-0.5 = 0.072, as without YaRN, nor the model's 0.135."""


def changed(case: Case, **inputs: Array) -> Case:
    """The same case with other inputs, by the names that they have in the operators that are not fused.

    Names that the operator does not have are left out.
    """
    names = {weight_name(name): name for name in case.inputs}
    return case.copy(**{names[name]: value for name, value in inputs.items() if name in names})


def with_table(case: Case, table: Array) -> Case:
    """The case with another block_table, whose columns are an attribute too where the operator has it."""
    name = "max_blocknum_perbatch"
    columns = {name: table.shape[1]} if name in case.attributes else {}
    return case.copy(block_table=table).with_attributes(**columns)


def below_the_floor(case: Case) -> Case:
    """A prolog's or an epilog's case whose rows to be quantised have a largest value on either side of 1e-30.

    The first token is zeros. An epilog's channel scales are such that its results are of the usual size.
    """
    rng = np.random.default_rng(7)
    inputs = {weight_name(name): value.copy() for name, value in case.inputs.items()}
    tokens = inputs[next(name for name in ("token_x", "x", "attention_out") if name in inputs)]
    tokens[0] = 0
    if case.operator == "mla_epilog_quant":
        sizes = 2.0 ** -np.resize([99, 100, 101, 102, 103, 98], len(tokens))
        wide = golden.bf16_to_float32(tokens) * sizes.astype(np.float32)[:, None, None]
        scale = inputs["w_o_scale"] * np.float32(2.0**100)
        return changed(case, attention_out=golden.float32_to_bf16(wide), w_o_scale=scale)
    gammas = ("gamma_cq", "gamma_ckv", "ln_gamma_k")
    small = {name: random_bf16(rng, inputs[name].shape, 2.0**-101) for name in gammas if name in inputs}
    if "ln_beta_k" in inputs:
        small["ln_beta_k"] = np.zeros_like(inputs["ln_beta_k"])
        small["w_qb_scale"] = inputs["w_qb_scale"] * np.float32(2.0 ** (-101 if "q_norm" in inputs else 0))
    return changed(case, **{name: inputs[name] for name in ("token_x", "x") if name in inputs}, **small)


def random_topk(
    rng: np.random.Generator, paging: Paging, topk: int, *, holes: float = 0.0, tail: int = -1
) -> NDArray[np.int32]:
    """topk_indices int32 [t, topk]: of each token ``min(visible, topk)`` visible positions, shuffled, then `tail`.

    Args:
        holes: fraction of the valid entries replaced by -1. tail: value of the entries that are not read.
    """
    indices = np.full((paging.t, topk), tail, np.int32)
    for i, visible in enumerate(paging.visible()):
        n = min(int(visible), topk)
        indices[i, :n] = rng.choice(int(visible), n, replace=False)
        indices[i, :n][rng.random(n) < holes] = -1
    return indices


def attention_case(
    b: int = 1,
    s1: int = 1,
    n_q: int = 128,
    kv_lens: Sequence[int] | int | None = None,
    *,
    topk: int = 2048,
    seed: int = 0,
    split: bool = False,
    block_size: int = 128,
    shuffle: bool = True,
    holes: float = 0.0,
    tail: int = 2**31 - 1,
    full: bool = False,
) -> Case:
    """A `sparse_flash_attention_quant` call over random caches and random selections.

    Args:
        b, s1, n_q: sequences, tokens of each, query heads. kv_lens, block_size, shuffle: as `make_paging`. topk:
            entries of a row.
        seed: of everything. split: queries as [b, s1, n_q, d], caches as [block_num, block_size, 1, d], topk_indices as
            [b, s1, topk] instead of the merged forms. holes, tail: as `random_topk`; the tail is out of range on
            purpose, because it is not read.
        full: whether every row of the caches is a key, whoever's: then any block_table may be passed.
    """
    paging = make_paging(b, s1, kv_lens, seed=seed, block_size=block_size, shuffle=shuffle)
    rng = np.random.default_rng([seed, 3])
    query_nope = random_bf16(rng, (paging.t * n_q, 512))
    query_rope = random_bf16(rng, (paging.t * n_q, 64))
    caches = _mla_caches(rng, paging, _all_rows(paging) if full else None)
    topk_indices = random_topk(rng, paging, topk, holes=holes, tail=tail)
    if split:
        query_nope = query_nope.reshape(b, s1, n_q, 512)
        query_rope = query_rope.reshape(b, s1, n_q, 64)
    else:
        caches = tuple(cache.reshape(-1, cache.shape[-1]) for cache in caches)  # type: ignore[assignment]
    inputs = {
        "query_nope": query_nope,
        "query_rope": query_rope,
        "key_nope_2d": caches[0],
        "key_rope_2d": caches[1],
        "k_nope_scales": caches[2],
        "topk_indices": _split(paging, split, topk_indices),
        "block_table": paging.block_table,
        "kv_act_seqs": paging.kv_act_seqs,
    }
    attributes = {
        "nq": n_q,
        "n_kv": 1,
        "softmax_scale": SOFTMAX_SCALE,
        "topk": topk,
        "block_size": block_size,
        "max_blocknum_perbatch": paging.block_table.shape[1],
    }
    return Case("sparse_flash_attention_quant", inputs, attributes, paging, n_q)


def ragged(case: Case, query_act_seqs: Sequence[int], padding: int = 0) -> Case:
    """A case with merged token axes as one whose sequences have fewer tokens, each its last ones, and padding.

    Each token sees what it saw, so that its results are those of the case; `ragged_rows` tells which they are. What
    padding has is poison.
    """
    rows = ragged_rows(case, query_act_seqs)
    inputs = dict(case.inputs)
    for name, array in case.inputs.items():
        if op_info.symbols(_shape_of(case.operator, name, array.ndim)[0])[0] == "t":
            per_token = array.reshape(case.paging.t, -1, *array.shape[1:])[rows]
            poison = POISON.get(array.dtype.type, np.iinfo(np.int32).max)
            filled = np.concatenate([per_token, np.full((padding, *per_token.shape[1:]), poison, array.dtype)])
            inputs[name] = filled.reshape(-1, *array.shape[1:])
    inputs["query_act_seqs"] = np.asarray(query_act_seqs, np.int32)
    return replace(case, inputs=inputs)


def ragged_rows(case: Case, query_act_seqs: Sequence[int]) -> NDArray[np.int64]:
    """The tokens of a case that are the first of `ragged`."""
    s1 = case.paging.s1
    ranges = [np.arange((n + 1) * s1 - count, (n + 1) * s1) for n, count in enumerate(query_act_seqs)]
    return np.concatenate([np.zeros(0, np.int64), *ranges])


def _shape_of(operator: str, name: str, rank: int) -> tuple[str, ...]:
    """The symbols of an input's axes."""
    arg = next(a for a in op_info.load(operator).inputs if a.name == name)
    return next(shape for shape in arg.shapes if len(shape) == rank)


def with_lse(case: Case) -> Case:
    """An attention case that asks for lse too."""
    return replace(case.with_attributes(return_lse=True), outputs=("attention_out", "lse"))


def parts_of(case: Case, count: int) -> list[Case]:
    """An attention case that asks for lse, as `count` ones over parts of its keys: blocks are dealt out in turn."""
    parts = []
    for part in range(count):
        positions = case.inputs["topk_indices"]
        others = positions // case.attributes["block_size"] % count != part
        parts.append(with_lse(case).copy(topk_indices=np.where(others, np.int32(-1), positions)))
    return parts


def random_parts(count: int, shape: tuple[int, ...], seed: int = 0) -> tuple[list[Array], list[Array]]:
    """attention_outs [*shape, 512] and lses [*shape] of parts, each of which has no key in some of the rows.

    None has a key in the first row. In the last row shares vanish beside others.
    """
    rng = np.random.default_rng([seed, 9])
    outs = [random_bf16(rng, (*shape, 512)) for _ in range(count)]
    lses = [rng.normal(scale=3.0, size=shape).astype(np.float32) for _ in range(count)]
    for out, lse in zip(outs, lses, strict=True):
        empty = rng.random(shape) < 0.2
        empty.reshape(-1)[:1] = True
        lse[empty], out[empty] = -np.inf, 0
        lse.reshape(-1)[-1:] += rng.choice([-200.0, 0.0])
    return outs, lses


def indexer_case(
    b: int = 1,
    s1: int = 1,
    kv_lens: Sequence[int] | int | None = None,
    *,
    selected_count: int = 2048,
    seed: int = 0,
    split: bool = False,
    block_size: int = 128,
    shuffle: bool = True,
    distinct_keys: int | None = None,
    full: bool = False,
) -> Case:
    """A `lightning_indexer_quant` call.

    Args:
        b, s1, kv_lens, block_size, shuffle, seed, split, full: as `attention_case`. selected_count: the attribute.
        distinct_keys: draw the keys and their scales from so few, so that most scores are tied.
    """
    paging = make_paging(b, s1, kv_lens, seed=seed, block_size=block_size, shuffle=shuffle)
    rng = np.random.default_rng([seed, 4])
    k_cache, k_cache_scale = _indexer_caches(rng, paging, _all_rows(paging) if full else None)
    if distinct_keys is not None:
        rows = paging.occupied_rows()
        source = rows[rng.integers(0, min(distinct_keys, rows.size), rows.size)] if rows.size else rows
        for cache in (k_cache, k_cache_scale):
            flat = cache.reshape(-1, cache.shape[-1])
            flat[rows] = flat[source]
    q_int8 = random_int8(rng, (paging.t, 64, 128))
    q_scale = random_scale(rng, (paging.t, 64, 1), np.float16)
    weights = (rng.standard_normal((paging.t, 64), dtype=np.float32) * np.float32(8192**-0.5)).astype(np.float16)
    inputs = {
        "q_int8": _split(paging, split, q_int8),
        "q_scale": _split(paging, split, q_scale),
        "weights": _split(paging, split, weights),
        "k_cache": k_cache,
        "k_cache_scale": k_cache_scale,
        "block_table": paging.block_table,
        "kv_act_seqs": paging.kv_act_seqs,
    }
    return Case("lightning_indexer_quant", inputs, {"selected_count": selected_count}, paging)


def mla_epilog_case(
    b: int = 1,
    s1: int = 1,
    n_q: int = 128,
    kv_lens: Sequence[int] | int | None = None,
    *,
    seed: int = 0,
    split: bool = False,
) -> Case:
    """A `mla_epilog_quant` call; the operator knows tokens alone, so that the paging tells no more than b and s1.

    Args:
        b, s1, n_q: sequences, tokens of each, query heads. kv_lens: as `make_paging`.
        seed: of attention_out; the weights are those of `epilog_weights`. split: attention_out as [b, s1, n_q, 512].
    """
    paging = make_paging(b, s1, kv_lens, seed=seed)
    rng = np.random.default_rng([seed, 5])
    attention_out = random_bf16(rng, (paging.t, n_q, 512))
    inputs = {"attention_out": _split(paging, split, attention_out), **epilog_weights(n_q)}
    return Case("mla_epilog_quant", inputs, {}, paging, n_q)


def indexer_scores(case: Case) -> tuple[list[Array], list[Array]]:
    """The scores of an `indexer_case` and the sums of their absolute terms, of each token over what it sees."""
    signless = {name: np.abs(case.inputs[name]) for name in ("q_scale", "weights", "k_cache_scale")}
    given = (case, case.copy(**signless))
    scores, magnitudes = ([*golden.lightning_indexer_scores(*c.inputs.values())] for c in given)
    return scores, magnitudes
