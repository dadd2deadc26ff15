"""Every output of every operator to the last bit, on every instruction set.

`exact.py` says what the bits are. Ordinary data would hide most errors, because results are rounded to eight bits. So
these tests have sums that cancel and leave only the roundings of their terms, values that lie half-way between two of
the format, rows in which the last bit of a sum of squares decides, and scores that show a single exponential.
"""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import arguments
import cases
import exact
import numpy as np
import pytest
import tolerance
from bare_kernels import TOKENS, pack, prolog, run
from cases import FUSED, WITH_WEIGHTS
from exact import ORDERS, Order
from exact_cases import (
    KINDS,
    MINUS,
    ONE,
    T,
    by_token,
    distinct,
    repeated,
    scales_that_tell,
    turned_by_nothing,
)
from numpy.typing import NDArray

from ms_dsv32 import golden, kernel_impl, op_info
from ms_dsv32.golden import float32_to_bf16

Array = NDArray[Any]
TOKEN_COUNTS = (1, 5, 6, 7, 12, 13, 16, 17, 33, 70)
"""One tile of rows of each instruction set (4, 6, 8, 12, 16), one more and one fewer; more than 64 are other tasks."""


def _of_each_isa() -> list[Any]:
    """The instruction sets of the library. What is no fault of one alone is seen quickly on the best."""
    marks = {True: [pytest.mark.isa], False: [pytest.mark.isa, pytest.mark.slow]}
    return [pytest.param(isa, marks=marks[isa == kernel_impl.isa()]) for isa in kernel_impl.isas(supported=False)]


@pytest.fixture(scope="module", params=_of_each_isa())
def order(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Order]:
    """The order of an instruction set, whose kernels are called meanwhile.

    A library chooses once in its life; its copy is another one to the loader, with a choice of its own.
    """
    isa = request.param
    if isa not in kernel_impl.isas() or isa not in ORDERS:
        pytest.skip(f"this CPU lacks {isa}" if isa in ORDERS else f"the order of {isa} is not stated")
    copy = shutil.copy(kernel_impl.library_path(), tmp_path_factory.mktemp(isa))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MS_DSV32_LIBRARY", str(copy))
        patch.setenv("MS_DSV32_CPU_ISA", isa)
        patch.setattr(kernel_impl, "load", functools.cache(kernel_impl.load.__wrapped__))
        assert kernel_impl.isa() == isa
        yield ORDERS[isa]


def check(case: cases.Case, order: Order) -> None:
    for name, want in exact.outputs(case, order).items():
        tolerance.assert_same_bits(name, run(case)[name], want)


@pytest.mark.parametrize("operator", op_info.names())
def test_every_operator(operator: str, order: Order) -> None:
    """Ordinary data, on which a new operator is tried by itself."""
    check(arguments.base(operator), order)


def _kinds(operator: str) -> list[str]:
    """The data that show an operator's sums. A fused one has the sums of its parts, so one kind is enough."""
    if operator in FUSED:
        return ["cancelling"]
    inputs = {a.name for a in op_info.load(operator).inputs}
    return [kind for kind in KINDS if kind != "offset" or "wk" in inputs]


@pytest.mark.parametrize(
    ("operator", "kind"), [(operator, kind) for operator in WITH_WEIGHTS for kind in _kinds(operator)]
)
def test_tokens(operator: str, kind: str, order: Order) -> None:
    case, ordinary = distinct(operator, kind), distinct(operator, "ordinary")
    same = all(case.inputs[n].tobytes() == value.tobytes() for n, value in ordinary.inputs.items())
    assert same == (kind == "ordinary"), f"exact_cases.py makes no data of the kind {kind} for {operator}"
    want = by_token(case, exact.outputs(case, order))
    for t in TOKEN_COUNTS if kind == "cancelling" else (1, T):
        longer = repeated(case, t)
        got = by_token(longer, run(pack(longer) if t > T else longer))
        for name, value in got.items():
            tolerance.assert_same_bits(name, value, want[name][np.arange(t) % T])


@pytest.mark.parametrize(
    "operator", ["mla_prolog_quant", *(o for o in WITH_WEIGHTS if "w_o" in op_info.load(o).packable)]
)
def test_scales_of_a_product_in_their_order(operator: str, order: Order) -> None:
    """Token first, then channel. Channel scales are chosen so that another order rounds the first token otherwise."""
    case = turned_by_nothing(distinct(operator, "ordinary"))
    if operator == "mla_prolog_quant":
        latent = exact.outputs(case, order)
        quantised, scale, name = latent["q_norm_out"], latent["q_norm_scale_out"], "dequant_scale"
        same = np.zeros_like(case.inputs["w_uk"])  # q_nope is the query itself
        same[:, np.arange(128), np.arange(128)] = ONE
        case = case.copy(w_uk=same)
        matrix = case.inputs["w_uq_qr"]
    else:
        rows = case.inputs["attention_out"]
        heads = [
            exact.product(*map(golden.bf16_to_float32, (rows[:, n], case.inputs["w_uv"][n])), order) for n in (0, 1, 2)
        ]
        quantised, scale = golden.quantise(golden.round_bf16(np.concatenate(heads, axis=1)))
        name, matrix = "w_o_scale", case.inputs["w_o"]
    sums = golden.matmul_int8(quantised[:1], matrix)[0]
    check(case.copy(**{name: scales_that_tell(sums, scale[0, 0])[:, None]}), order)


def _stored(values: Array) -> Array:
    """What quantisation makes of rows of values, as integers."""
    q, scale = golden.quantise(golden.round_bf16(values))
    return np.concatenate([q, scale.view(np.int32)], axis=-1, dtype=np.int32).reshape(len(values), -1)


Columns = Callable[[slice], Array]
"""Values of some columns, [candidates, rows, columns]."""


def _telling(right: Columns, others: Sequence[Columns], columns: int) -> Array:
    """The candidate for each column of which one of the others, by turns, rounds most, and the largest, otherwise."""
    best = np.empty(columns, np.intp)
    for i, other in enumerate(others):
        part = slice(i, None, len(others))
        values = right(part)
        told = float32_to_bf16(other(part)) != float32_to_bf16(values)
        best[part] = np.where(told, np.abs(values), 0).sum(axis=1).argmax(axis=0)
    return best


def _rows(columns: int, count: int, seed: int = 0) -> Array:
    """Values about 1, of one sign in a column, and of the other in as many columns."""
    rows = np.random.default_rng([seed, columns]).uniform(0.9, 1.3, (count, columns))
    return np.asarray(rows * np.resize([-1.0, -1.0, 1.0, 1.0], columns))


def _first(make: Callable[[int], tuple[list[Array], Any]]) -> Any:
    """What `make` makes of the first seed by which what is stored differs from what each of the others stores."""
    for seed in range(16):
        (right, *others), made = make(seed)
        if all((_stored(other) != _stored(right)).any() for other in others):
            return made
    raise AssertionError("no data that tell")


def _one_hot(case: cases.Case, **weights: Array) -> cases.Case:
    """A prolog's call whose tokens are the first rows of these weights, of which all have as many."""
    (count,) = {len(rows) for rows in weights.values()}
    tokens = np.zeros((count, 7168), np.uint16)
    tokens[np.arange(count), np.arange(count)] = ONE
    full = {name: case.inputs[name].copy() for name in weights}
    for name, rows in weights.items():
        full[name][:count] = rows
    return case.copy(**{TOKENS[case.operator]: tokens}, **full)


@functools.cache
def _rms_rows(width: int, lanes: int) -> tuple[Array, Array]:
    """Rows, and a gamma by which another sum of squares, or no division, makes a difference."""
    order, others = Order(lanes, False, "values"), [Order(n, False, "values") for n in (4, 8, 16) if n != lanes]
    sizes = np.arange(0x3F40, 0x4040, dtype=np.uint16)  # 3/4 to 3
    gammas = golden.bf16_to_float32(sizes)[:, None, None]

    def make(seed: int) -> tuple[list[Array], tuple[Array, Array]]:
        values = _rows(width, 1024, seed)
        values[:, width // 2 :] *= 2.0 ** -np.random.default_rng(seed).uniform(
            0, 4, (1024, width // 2)
        )  # or it is exact
        x = golden.round_bf16(values)
        exchanged = x.reshape(len(x), -1, 4, lanes)[:, :, [0, 2, 1, 3]].reshape(x.shape)  # two of the four vectors
        root = exact.rms_root(x, 1e-5, order)
        roots = [*(exact.rms_root(x, 1e-5, other) for other in others), exact.rms_root(exchanged, 1e-5, order)]
        some = np.concatenate([np.flatnonzero(other != root)[:24] for other in roots])
        x, root = x[some], root[some]
        quotients = [x / root, *(x / other[some] for other in roots), x * (np.float32(1) / root)]
        right, *wrong = (functools.partial(lambda v, part: v[:, part] * gammas, v) for v in quotients)
        best = _telling(right, wrong, width)
        groups = (-1, 128 if width == 512 else width)
        return [(v * gammas[best, 0, 0]).reshape(groups) for v in quotients], (float32_to_bf16(x), sizes[best])

    rows: tuple[Array, Array] = _first(make)
    return rows


def test_sums_of_squares(order: Order) -> None:
    """A sum of squares is seen where the last bit of its root moves a value across a boundary."""
    queries, gamma_cq = _rms_rows(1536, order.lanes)
    latents, gamma_ckv = _rms_rows(512, order.lanes)
    count = max(len(queries), len(latents))
    case = prolog("mla_prolog_quant", 1, count, n_q=1).copy(gamma_cq=gamma_cq, gamma_ckv=gamma_ckv)
    w_dq, w_dkv_kr = (np.resize(rows, (count, rows.shape[1])) for rows in (queries, latents))
    check(_one_hot(case, w_dq=w_dq, w_dkv_kr=np.pad(w_dkv_kr, ((0, 0), (0, 64)))), order)


@functools.cache
def _layer_rows(lanes: int) -> tuple[Array, Array, Array]:
    """As `_rms_rows` for LayerNorm, to which a fused multiply-add makes a difference too; with gamma and beta."""

    def make(seed: int) -> tuple[list[Array], tuple[Array, Array, Array]]:
        x, rng = golden.round_bf16(_rows(128, 32, seed)), np.random.default_rng(seed)
        # Beta takes away most of what is normed to about 1.
        sizes, less = (float32_to_bf16(rng.uniform(0.7, 1.4, (512, 128)) * sign) for sign in (1, -np.sign(x[0])))
        gamma, beta = (golden.bf16_to_float32(bits)[:, None, :] for bits in (sizes, less))
        normed = {n: exact.layer_normed(x, 1e-6, Order(n, False, "values")) for n in (4, 8, 16)}
        mine = normed.pop(lanes)

        def fused(part: slice) -> Array:
            factors = np.broadcast_arrays(mine[:, part], gamma[..., part], beta[..., part])
            return exact.fma(*factors, Order(4, True, "values"))

        def plain(values: Array, part: slice) -> Array:
            return np.asarray(values[:, part] * gamma[..., part] + beta[..., part])

        right, *others = (functools.partial(plain, values) for values in (mine, *normed.values()))
        best, columns = _telling(right, [*others, fused], 128), np.arange(128)
        chosen = [values(np.s_[:])[best, :, columns].T for values in (right, *others, fused)]
        return chosen, (float32_to_bf16(x), sizes[best, columns], less[best, columns])

    rows: tuple[Array, Array, Array] = _first(make)
    return rows


def test_sums_of_a_layer_norm(order: Order) -> None:
    wk, gamma, beta = _layer_rows(order.lanes)
    case = turned_by_nothing(prolog("lightning_indexer_prolog_quant", 1, len(wk)))
    same = np.diag(np.full(128, ONE))
    check(_one_hot(case.copy(ln_gamma_k=gamma, ln_beta_k=beta, hadamard_k=same), wk=wk), order)


def test_norms_at_the_ends_of_float32(order: Order) -> None:
    """Sums of squares on either side of 2^-90, and of the largest float32, without an epsilon."""
    sizes = np.repeat(2.0 ** np.array([-46, -45, -44, 62, 63, 64]), 2)[:, None]

    def sized(columns: int) -> Array:
        return float32_to_bf16(_rows(columns, len(sizes)) * sizes)

    mla = prolog("mla_prolog_quant", 1, len(sizes), n_q=1).with_attributes(epsilon_cq=0.0, epsilon_ckv=0.0)
    check(_one_hot(mla, w_dq=sized(1536), w_dkv_kr=sized(576)), order)
    indexer = prolog("lightning_indexer_prolog_quant", 1, len(sizes)).with_attributes(layernorm_epsilon_k=0.0)
    check(_one_hot(indexer, wk=sized(128)), order)


def test_head_weights_of_every_mantissa(order: Order) -> None:
    """Rounded to float16 from bfloat16 times two constants: 128 mantissas, and exponents into float16's subnormals."""
    bits = np.arange(0x3100, 0x4100, dtype=np.uint16).reshape(-1, 64)
    check(_one_hot(prolog("lightning_indexer_prolog_quant", 1, len(bits)), w_proj=bits), order)


COUNTS = (1, 2, 15, 16, 17, 31, 32, 33, 34, 63, 64, 65, 66, 130, 511, 512, 513, 1026)
"""Keys of each token of a call: about a tile, a link of 32 and a panel, and 512 keys of V; even ones make pairs."""
HEADS = (1, 3, 4, 5, 6, 7, 16, 17, 33)


def attend(counts: Sequence[int], n_q: int, **options: Any) -> cases.Case:
    return cases.with_lse(cases.attention_case(len(counts), 1, n_q, list(counts), **options))


def keys_changed(case: cases.Case, change: Callable[[Array, Array, Array], None]) -> cases.Case:
    """`change` gets the caches of a case that will be another one's: latents, rope parts and scales, as rows."""
    copies = {n: case.inputs[n].copy() for n in exact.KEY_PARTS}
    change(*copies.values())
    return case.copy(**copies)


@pytest.mark.parametrize("n_q", HEADS)
def test_attention(n_q: int, order: Order) -> None:
    counts = COUNTS[:12] if n_q != 7 else COUNTS
    check(attend(counts, n_q, seed=n_q, holes=0.1), order)


@pytest.mark.parametrize("n_q", [5, 17])
def test_scores_that_cancel(n_q: int, order: Order) -> None:
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

    check(keys_changed(case.copy(**query), alike).with_attributes(softmax_scale=2.0**19), order)


@pytest.mark.parametrize("n_q", [1, 6, 17])
def test_values_that_cancel(n_q: int, order: Order) -> None:
    """Keys come in pairs with equal scores and opposite values."""
    case = attend([n for n in COUNTS if n % 2 == 0], n_q)

    def pairs(nope: Array, rope: Array, scales: Array) -> None:
        for i, count in enumerate(case.paging.kv_act_seqs):
            rows = case.inputs["block_table"][i, np.arange(count) // 128] * 128 + np.arange(count) % 128
            nope[rows[1::2]] = -nope[rows[::2]]
            rope[rows[1::2]], scales[rows[1::2]] = rope[rows[::2]], scales[rows[::2]]

    check(keys_changed(case.copy(query_nope=np.zeros_like(case.inputs["query_nope"])), pairs), order)


def test_keys_as_they_are_dequantised(order: Order) -> None:
    """A token that selects one key has its value: with scales of which every second product is half-way."""
    case = attend([150] * 40, 1, topk=1)

    def ties(nope: Array, _: Array, scales: Array) -> None:
        scales[::2] = 3 * 2.0**-8
        nope[-1] = -128

    check(keys_changed(case, ties), order)


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


def test_exponentials(order: Order) -> None:
    """lse has e^d to its last bit but one, and the probabilities the small ones. Half of the r are at their largest."""
    rng = np.random.default_rng(0)
    largest = -rng.uniform(0.3, 0.5 * math.log(2), 4096)
    least = np.float32(-126 * math.log(2)).view(np.uint32) + np.arange(-32, 32, dtype=np.int32)
    others = -np.concatenate([rng.uniform(0, 3, 3072), rng.uniform(0, 100, 960)])
    d = np.concatenate([largest, others]).astype(np.float32)
    check(scores_of(np.concatenate([d, least.astype(np.uint32).view(np.float32)]), 128), order)


def test_probabilities_half_way(order: Order) -> None:
    """Scores, out of 2^20, whose probability is half-way between two bfloat16 values, to be rounded to the even one."""
    d = -np.linspace(0, 4, 2**20, dtype=np.float32)
    e = exact.exp_non_positive(d, order)
    inverse = np.float32(1) / (np.float32(1) + e)
    half_way = [p.view(np.uint32) & 0xFFFF == 0x8000 for p in (inverse, e * inverse)]
    down = [p.view(np.uint32) & 0x10000 == 0 for p in (inverse, e * inverse)]
    assert any((half & even).any() for half, even in zip(half_way, down, strict=True))
    found = np.resize(d[half_way[0] | half_way[1]], 64)
    check(scores_of(found, 64), order)


def test_heads_of_the_indexer_that_cancel(order: Order) -> None:
    """Every head comes twice, with both signs of its weight: roundings alone decide which keys are selected."""
    case = cases.indexer_case(1, 3, 1500, selected_count=300)
    first, second = np.random.default_rng(2).permutation(64).reshape(2, 32)
    pairs = {n: case.inputs[n].copy() for n in ("q_int8", "q_scale", "weights")}
    for value in pairs.values():
        value[:, second] = value[:, first]
    pairs["weights"][:, second] *= -1
    alike = case.copy(**pairs)
    assert all(np.unique(exact.index_scores(alike, i)).size > 300 for i in range(3))
    check(alike, order)
