"""Good calls of the operators, with the outputs that they must give; ``spoil`` makes bad calls of them.

Operator, seed and index determine a trial, so that any of them can be run alone. `GROUP` consecutive trials share a
`Group`: one call whose golden reference is computed once. A trial takes some of the group's tokens, in another order
and to other cache rows. Its outputs are known, because a token's outputs do not depend on the rest of its batch.
"""

from __future__ import annotations

import functools
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cases
import numpy as np
from cases import IN_PLACE, READERS, WITH_WEIGHTS, Array, Case

from ms_dsv32 import golden, kernel_impl, op_info

GROUP = 128
Rng = np.random.Generator

HEADS = (1, 3)
"""Query heads of operators with weights. Few values, because every number of heads has weights of its own."""
LENGTHS = (0, 1, 2, 63, 64, 100, 127, 128, 129, 200, 255, 256, 257, 300)
"""Keys of a sequence, around the edges of blocks."""
COUNTS = (1, 2, 7, 15, 16, 17, 31, 33, 64, 127, 128, 129, 200, 256, 2048)
"""Values of selected_count, around the kernels' vectors and blocks."""
ANY_INT32 = (-(2**31), -2, -1, 0, 1, 2**15, 2**31 - 1)
NAN, INFINITY = 0x7FC0, 0x7F80  # bfloat16
# Exponents of factors of a token's values. RmsNorm takes a factor out again, unless a square overflows float32. Where
# there is no norm, a large factor makes large results, which the tolerances are not meant for.
_EXPONENTS = {
    "mla_prolog_quant": (-60, -20, -3, 0, 3, 20, 45),  # AscendC's norms square in float32
    # No large factor: a sum of `weights` may be small beside its terms by chance. Its rounding is then that of the
    # terms, and its tolerance is absolute.
    "lightning_indexer_prolog_quant": (-60, -20, -3, 0, 3),
    "mla_indexer_prolog_quant": (-60, -20, -3, 0, 3),
}
_SMALL = (-60, -20, -3, 0)


@dataclass(frozen=True)
class Trial:
    """One call.

    Attributes:
        case: the call. In a bad one inputs and attributes may be anything at all.
        what: the call in words.
        kind: "good", or what is wrong with it: see ``spoil``.
        blamed: the arguments of which an error must name one; empty for a good call.
        may_pass: the contract does not say whether a bad call fails; it must not do harm.
        want: gives the outputs of a good call.
        compared: for each token, whether its outputs are compared; those of a token that holds NaN or Inf are not.
        threads: how many the kernels use.
    """

    case: Case
    what: str
    kind: str = "good"
    blamed: frozenset[str] = frozenset()
    may_pass: bool = False
    want: Callable[[], dict[str, Array]] = dict
    compared: Array = field(default_factory=lambda: np.zeros(0, bool))
    threads: int = 1


def quiet(function: Callable[..., Any], *args: Any) -> Any:
    """Calls the golden reference without NumPy's warnings about NaN and Inf."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return function(*args)


def chance(rng: Rng, probability: float) -> bool:
    return bool(rng.random() < probability)


def generator(subject: str, seed: int, number: int, index: int) -> Rng:
    """The random numbers of one trial, or of a group. Seeded with one int, which is much faster than with a list."""
    return np.random.default_rng(((seed << 32 | zlib.crc32(subject.encode())) << 32 | number) << 32 | index)


def pick(rng: Rng, values: Any) -> Any:
    """One of a sequence's values, as it is. NumPy's own choice would convert the values to an array."""
    return values[int(rng.integers(len(values)))]


@functools.lru_cache(maxsize=4)
def group(operator: str, seed: int, number: int) -> Group:
    """The group of a number; the last ones are kept."""
    return Group(operator, seed, number)


class Group:
    """What `GROUP` trials share: a call, and its golden reference once a trial asks for it."""

    def __init__(self, operator: str, seed: int, number: int) -> None:
        rng = generator(operator, seed, number, 2**31)
        self.operator = operator
        self.threads = int(pick(rng, (1, 1, 2, 3)))
        self.case: Case = (_reader_case if operator in READERS else _weighted_case)(operator, rng)
        self.packed = operator in WITH_WEIGHTS and chance(rng, 0.5)

    @functools.cached_property
    def outputs(self) -> dict[str, Array]:
        """What the golden reference makes of the group's own call, by names."""
        outputs: dict[str, Array] = quiet(self.case.golden)
        return outputs

    def good(self, rng: Rng) -> Trial:
        """A good call."""
        trial = _good_reader(self.operator, rng) if self.operator in READERS else self._some_tokens(rng)
        return replace(trial, threads=self.threads)

    def _some_tokens(self, rng: Rng) -> Trial:
        """Some tokens of the group's call, in any order."""
        base, caches = self.case, IN_PLACE[self.operator]
        t = base.paging.t
        chosen = rng.permutation(t)[: int(rng.integers(0, t + 1))]
        b, s1 = _factors(rng, chosen.size)
        split = chance(rng, 0.4)
        lead = (b, s1) if split else (chosen.size,)
        tokens = token_inputs(self.operator)
        inputs = {n: a[chosen].reshape(*lead, *a.shape[1:]) if n in tokens else a for n, a in base.inputs.items()}
        index = np.zeros(0, np.int64)
        if caches:
            rows = base.paging.block_num * base.paging.block_size
            index = rng.permutation(rows)[: chosen.size].astype(np.int64)
            if chosen.size and chance(rng, 0.3):
                index[rng.random(chosen.size) < 0.4] = -1
            if chosen.size and chance(rng, 0.3):  # the later token wins
                index[rng.random(chosen.size) < 0.5] = index[0]
            inputs[index_input(self.operator)] = index.reshape(lead)
        paging = replace(base.paging, b=b, s1=s1, cache_index=index)
        case = replace(base, inputs=inputs, paging=paging)
        finite = self._finite[chosen]

        def want() -> dict[str, Array]:
            result = {}
            for name, value in self.outputs.items():
                cache = {out: given for given, out in caches.items()}.get(name)
                if cache is None:
                    result[name] = value[chosen]
                    continue
                after = base.inputs[cache].copy()
                flat, written = (a.reshape(-1, a.shape[-1]) for a in (after, value))
                for token, row in zip(chosen, index, strict=True):
                    if row >= 0:
                        flat[row] = written[base.paging.cache_index.reshape(-1)[token]]
                result[name] = after
            return result

        if self.packed:
            case = replace(
                case, inputs=case.inputs | packed(case), attributes=case.attributes | {"weight_format": "PACKED"}
            )
        what = f"{chosen.size} of {t} tokens{' split' if split else ''}{' packed' if self.packed else ''}"
        return Trial(case, what, want=want, compared=finite)

    @functools.cached_property
    def _finite(self) -> Array:
        """Tells for each token whether the golden reference gives numbers alone."""
        finite = np.ones(self.case.paging.t, bool)
        index = self.case.paging.cache_index.reshape(-1)
        for name, value in self.outputs.items():
            if name in IN_PLACE[self.operator].values():
                value = value.reshape(-1, value.shape[-1])[index]
            if value.dtype == np.uint16:
                value = golden.bf16_to_float32(value)
            finite &= np.isfinite(value.reshape(finite.size, -1)).all(axis=1)
        for name in token_inputs(self.operator):  # a NaN or Inf may not show in golden's outputs, such as int8
            value = self.case.inputs[name].reshape(finite.size, -1)
            if value.dtype == np.uint16:
                finite &= ((value & 0x7F80) != 0x7F80).all(axis=1)
            elif value.dtype.kind == "f":
                finite &= np.isfinite(value).all(axis=1)
        return finite


@functools.cache
def token_inputs(operator: str) -> tuple[str, ...]:
    """The inputs that have a token axis, without the one of cache rows."""
    info = op_info.load(operator)
    return tuple(a.name for a in info.inputs if a.shapes[0][0].split("*")[0] == "t" and "cache_index" not in a.name)


@functools.cache
def index_input(operator: str) -> str:
    """The input that holds cache rows."""
    return next(a.name for a in op_info.load(operator).inputs if "cache_index" in a.name)


_packed: dict[int, tuple[Array, Array]] = {}


def packed(case: Case) -> dict[str, Array]:
    """The packed weights of a call; each is packed once per process."""
    result = {}
    for name in op_info.load(case.operator).packable:
        weight = case.inputs[name]
        kept = _packed.get(id(weight))
        if kept is None or kept[0] is not weight:
            kept = _packed[id(weight)] = (weight, kernel_impl.pack(weight))
            kept[1].flags.writeable = False
        result[name] = kept[1]
    return result


def _factors(rng: Rng, t: int) -> tuple[int, int]:
    """b and s1 whose product is t."""
    if t == 0:
        return pick(rng, ((0, 1), (1, 0), (0, 0), (3, 0)))
    b = pick(rng, [n for n in range(1, t + 1) if t % n == 0])
    return b, t // b


def _weighted_case(operator: str, rng: Rng) -> Case:
    """A call of an operator with weights: few tokens, some of them strange."""
    t = int(pick(rng, (1, 2, 3, 5, 6, 7, 9, 12)))
    n_q, seed = int(pick(rng, HEADS)), int(rng.integers(2**31))
    case = cases.make(operator, 1, t, t, n_q, seed=seed)
    attributes = {
        a.name: pick(rng, (1e-6, 1e-5, 0.0, 0.5, 1))
        for a in op_info.load(operator).attrs
        if a.type == "float" and chance(rng, 0.2)
    }
    # Without an epsilon, a norm scales up sums below 2^-126, which dot products of bfloat16 take for zero.
    constants = (0, 0x8000, 0x3F80) if 0.0 in attributes.values() else (0, 0x8000, 1, 0x007F, 0x3F80, 0x0080)
    changed: dict[str, Array] = {}
    for name in token_inputs(operator):
        array = case.inputs[name].copy()
        if array.dtype == np.uint16 and array[0].size > 64:
            for i in range(t):
                if chance(rng, 0.35):
                    array[i] = _strange_token(rng, array[i], _EXPONENTS.get(operator, _SMALL), constants)
        elif name == "q_norm_scale" and chance(rng, 0.2):
            array[int(rng.integers(t))] = pick(rng, (np.nan, np.inf, 0.0, 1e-38, 1e30))
        elif array.dtype == np.uint16 and chance(rng, 0.05):  # cos and sin
            array[int(rng.integers(t)), int(rng.integers(64))] = pick(rng, (NAN, INFINITY, 0, 0x8000, 0x3F80))
        changed[name] = array
    return case.copy(**changed).with_attributes(**attributes)


def _strange_token(rng: Rng, values: Array, exponents: Sequence[int], constants: Sequence[int]) -> Array:
    """A token's bfloat16 values, scaled, or with some of them replaced by special values."""
    how = int(rng.integers(8))
    if how < 4:
        scaled = golden.bf16_to_float32(values) * np.float32(2.0 ** pick(rng, exponents))
        return golden.float32_to_bf16(scaled)
    strange = values.copy()
    flat = strange.reshape(-1)
    if how == 4:
        flat[:] = pick(rng, constants)
    elif how == 5:  # one value among zeros
        flat[:] = 0
        flat[int(rng.integers(flat.size))] = pick(rng, (0x3F80, 0xC100, 0x4480))
    elif how == 6:
        flat[rng.integers(flat.size, size=5)] = pick(rng, (0, 1, 0x8001, 0x0080))
    else:
        flat[int(rng.integers(flat.size))] = pick(rng, (NAN, 0xFFC1, INFINITY, 0xFF80, 0x7F81))
    return strange


def _lengths(rng: Rng, b: int) -> list[int]:
    return [int(pick(rng, LENGTHS)) for _ in range(b)]


def _reader_case(operator: str, rng: Rng) -> Case:
    """A call of an operator that reads caches."""
    b, s1 = int(pick(rng, (0, 1, 1, 2, 2, 3, 4))), int(pick(rng, (0, 1, 1, 1, 2, 3)))
    options: dict[str, Any] = {"seed": int(rng.integers(2**31)), "split": chance(rng, 0.5)}
    lengths = _lengths(rng, b)
    ragged = b * s1 > 0 and chance(rng, 0.35)
    options["split"] &= not ragged
    if operator == "lightning_indexer_quant":
        distinct = int(pick(rng, (1, 3))) if chance(rng, 0.2) else None
        count = int(pick(rng, COUNTS))
        case = cases.indexer_case(b, s1, lengths, selected_count=count, distinct_keys=distinct, **options)
        return _ragged(case, rng) if ragged else case
    if operator != "sparse_flash_attention_quant":
        raise KeyError(f"{operator} reads caches: tests/fuzz/draw.py has to draw it in _reader_case and _good_reader")
    n_q, topk = int(pick(rng, (1, 2, 3, 5, 16))), int(pick(rng, COUNTS))
    case = cases.attention_case(
        b, s1, n_q, lengths, topk=topk, holes=pick(rng, (0.0, 0.0, 0.2, 1.0)), tail=pick(rng, ANY_INT32), **options
    )
    case = case.with_attributes(softmax_scale=pick(rng, (golden.softmax_scale(), 0.0, -0.05, 0.1, 0)))
    case = _ragged(case, rng) if ragged else case
    return cases.with_lse(case) if chance(rng, 0.5) else case


def _ragged(case: Case, rng: Rng) -> Case:
    """The case with other numbers of tokens for its sequences, and padding."""
    counts = [int(rng.integers(case.paging.s1 + 1)) for _ in range(case.paging.b)]
    return cases.ragged(case, counts, padding=int(pick(rng, (0, 0, 1, 3))))


def tokens_of(case: Case) -> int:
    """How many tokens a call has."""
    if "query_act_seqs" not in case.inputs:
        return case.paging.t
    return int(case.inputs["topk_indices" if "topk_indices" in case.inputs else "weights"].shape[0])


def _good_reader(operator: str, rng: Rng) -> Trial:
    """A good call of an operator that reads caches, perhaps with something strange that it must not mind."""
    case = _reader_case(operator, rng)
    paging, t, what = case.paging, tokens_of(case), ["ragged"] if "query_act_seqs" in case.inputs else []
    compared = np.ones(t, bool)
    table, lengths = paging.block_table.copy(), paging.kv_act_seqs
    used = -(-lengths // paging.block_size)
    if chance(rng, 0.3):
        what.append("unused entries of block_table")
        for b, columns in enumerate(used):
            table[b, columns:] = rng.choice(np.array(ANY_INT32, np.int32), table.shape[1] - columns)
    if paging.b > 1 and chance(rng, 0.3):
        what.append("shared blocks")
        shared = int(used[:2].min())
        table[1, :shared] = table[0, :shared]
    changed = {"block_table": table}
    if operator == "sparse_flash_attention_quant" and what[:1] != ["ragged"]:
        rows = paging.visible()
        indices = case.inputs["topk_indices"].reshape(paging.t, case.attributes["topk"]).copy()
        if paging.t and chance(rng, 0.2):
            what.append("a position twice")
            i = int(rng.integers(paging.t))
            indices[i, : min(int(rows[i]), indices.shape[1])] = indices[i, 0]
        changed["topk_indices"] = indices.reshape(case.inputs["topk_indices"].shape)
        if chance(rng, 0.3):
            what.append("holes in block_table behind nothing")
            read = {
                (i // paging.s1, int(p) // paging.block_size)
                for i in range(paging.t)
                for p in indices[i, : rows[i]]
                if p >= 0
            }
            for b, columns in enumerate(used):
                for column in range(columns):
                    if (b, column) not in read:
                        table[b, column] = pick(rng, ANY_INT32)
    query = "query_nope" if operator == "sparse_flash_attention_quant" else "weights"
    if t and chance(rng, 0.2):
        what.append("NaN in a token")
        values = case.inputs[query].copy()
        i = int(rng.integers(t))
        values.reshape(t, -1)[i, int(rng.integers(64))] = NAN if values.dtype == np.uint16 else np.nan
        changed[query], compared[i] = values, False
    scales = "k_nope_scales" if operator == "sparse_flash_attention_quant" else "k_cache_scale"
    if paging.occupied_rows().size and chance(rng, 0.2):
        what.append("a strange key")
        values = case.inputs[scales].copy()
        row = pick(rng, paging.occupied_rows())
        values.reshape(-1, values.shape[-1])[row, 0] = pick(rng, (np.nan, np.inf, -np.inf, 0.0, -0.02, 1e-7))
        changed[scales] = values
    case = case.copy(**changed)
    return Trial(case, ", ".join(what) or "as it comes", want=lambda: quiet(case.golden), compared=compared)
