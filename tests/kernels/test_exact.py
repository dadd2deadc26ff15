"""Every output of every operator to the last bit, on every instruction set.

`exact.py` says what the bits are. Ordinary data would hide most errors, because results are rounded to eight bits. So
these tests have sums that cancel and leave only the roundings of their terms, values that lie half-way between two of
the format, rows in which the last bit of a sum of squares decides, and scores that show a single exponential.
"""

from __future__ import annotations

import functools
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
    COUNTS,
    KINDS,
    ONE,
    T,
    attend,
    by_token,
    distinct,
    exponentials,
    heads_that_cancel,
    keys_changed,
    repeated,
    scales_that_tell,
    scores_of,
    scores_that_cancel,
    turned_by_nothing,
    values_that_cancel,
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


HEADS = (1, 3, 4, 5, 6, 7, 16, 17, 33)


@pytest.mark.parametrize("n_q", HEADS)
def test_attention(n_q: int, order: Order) -> None:
    counts = COUNTS[:12] if n_q != 7 else COUNTS
    check(attend(counts, n_q, seed=n_q, holes=0.1), order)


@pytest.mark.parametrize("n_q", [5, 17])
def test_scores_that_cancel(n_q: int, order: Order) -> None:
    check(scores_that_cancel(n_q), order)


@pytest.mark.parametrize("n_q", [1, 6, 17])
def test_values_that_cancel(n_q: int, order: Order) -> None:
    check(values_that_cancel(n_q), order)


def test_keys_as_they_are_dequantised(order: Order) -> None:
    """A token that selects one key has its value: with scales of which every second product is half-way."""
    case = attend([150] * 40, 1, topk=1)

    def ties(nope: Array, _: Array, scales: Array) -> None:
        scales[::2] = 3 * 2.0**-8
        nope[-1] = -128

    check(keys_changed(case, ties), order)


def test_exponentials(order: Order) -> None:
    check(exponentials(), order)


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
    check(heads_that_cancel(), order)
