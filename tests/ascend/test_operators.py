"""The operators through MindSpore on Ascend: golden results at all sizes, equal modes, caches in place, bad input."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import cases
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import MODES, Call, Loss, mode
from cases import WITH_WEIGHTS, make
from mindspore import Parameter, Tensor, nn
from runs import assert_golden, attributes_of, inputs_of, run

from ms_dsv32 import op_info, ops, weights

# b, s1, keys of each sequence, n_q
SMALL = [(0, 1, None, 2), (1, 1, 3, 2), (3, 3, (3, 130, 257), 3)]
LARGE = [
    (1, 1, 4096, 128),
    (32, 4, 9, 128),  # the largest decode step of the model's heads
    (1, 1024, 1024, 1),
]
# Numbers of tokens around the cube's 16 rows and the 128 tokens of a step.
PROLOG_SIZES = [*((t, 1, 4, 16) for t in (15, 16, 17, 33, 127, 128, 129)), *LARGE]
READER_SIZES = [
    (1, 1, 1, 128),
    (5, 1, (127, 128, 129, 2047, 2048), 16),
    (2, 4, (2049, 4096), 128),
    (3, 3, (3, 513, 8191), 1),
    (1, 257, 300, 1),
]


@functools.lru_cache(maxsize=1)  # the modes of a size follow one another
def _case_and_golden(operator: str, size: tuple[Any, ...]) -> tuple[cases.Case, dict[str, cases.Array]]:
    case = make(operator, *size)
    return case, case.golden()


@pytest.mark.parametrize("mode_name", ["pynative", "graph"])
@pytest.mark.parametrize("size", SMALL, ids=str)
@pytest.mark.parametrize("operator", op_info.names())
def test_golden_at_small_sizes(operator: str, size: tuple[Any, ...], mode_name: str) -> None:
    case, want = _case_and_golden(operator, size)
    assert_golden(case, run(case, mode_name), want)


def _sizes() -> list[Any]:
    """Both modes run the same kernel, so the AscendC ones run in one of them; the emulator's tests have the largest."""
    found = []
    for operator in op_info.names():
        for size in PROLOG_SIZES if operator in WITH_WEIGHTS else READER_SIZES:
            for mode_name in ("pynative", "graph"):
                quick = mode_name == "graph" or size in LARGE
                marks = [pytest.mark.cpu_kernels] if quick else []
                found.append(pytest.param(operator, size, mode_name, id=f"{operator}-{size}-{mode_name}", marks=marks))
    return found


@pytest.mark.parametrize(("operator", "size", "mode_name"), _sizes())
def test_golden_at_all_sizes(operator: str, size: tuple[Any, ...], mode_name: str) -> None:
    case, want = _case_and_golden(operator, size)
    assert_golden(case, run(case, mode_name), want)


@pytest.mark.parametrize("operator", op_info.names())
def test_all_modes_give_the_same_bits(operator: str) -> None:
    case = make(operator, 2, 2, [5, 130], n_q=3, split=True)
    want = run(case, "pynative")
    for mode_name in MODES[1:]:
        tolerance.assert_same_outputs(run(case, mode_name), want)
    tolerance.assert_same_outputs(run(case, "pynative"), want)  # nothing is left of the runs before


def test_the_fused_operator_has_the_bits_of_the_pair() -> None:
    fused = cases.fused_prolog_case(3, 1, 3, [3, 130, 257])
    mla = cases.mla_prolog_case(3, 1, 3, [3, 130, 257])
    got, first = run(fused, "pynative"), run(mla, "pynative")
    second = cases.indexer_prolog_case(3, 1, [3, 130, 257]).copy(
        x=mla.inputs["token_x"], q_norm=first["q_norm_out"], q_norm_scale=first["q_norm_scale_out"]
    )
    pair = {f"mla_{name}": array for name, array in first.items()}
    pair |= {f"ip_{name}": array for name, array in run(second, "pynative").items()}
    for name in fused.outputs:
        tolerance.assert_same_bits(name, got[name], pair[name])


def test_lse() -> None:
    case = cases.with_lse(make("sparse_flash_attention_quant", 2, 2, [1, 140], n_q=2))
    for mode_name in ("pynative", "graph"):
        got = run(case, mode_name)
        assert np.isneginf(got["lse"][0, 0]).all()  # a row without a visible key
        assert_golden(case, got)


@pytest.mark.parametrize("mode_name", ["pynative", "graph"])
def test_padding_nan_and_equal_rows(mode_name: str) -> None:
    case = make("mla_prolog_quant", 4, 1, n_q=2)
    clean = run(case, mode_name)
    own = case.inputs["cache_index"]
    index, token_x = own.copy(), case.inputs["token_x"].copy()
    index[1] = -1  # padding: its cache rows are not written
    token_x[2] = 0x7FC0  # NaN: only this token's outputs and row may change
    index[3] = index[0]  # the later token wins
    got = run(case.copy(cache_index=index, token_x=token_x), mode_name)
    rows = [0, 1, 3]
    for name in ("q_norm_out", "query_nope_out", "query_rope_out"):
        tolerance.assert_same_bits(name, got[name][rows], clean[name][rows])
    for cache, output in cases.IN_PLACE["mla_prolog_quant"].items():
        after, alone = (r[output].reshape(-1, r[output].shape[-1]) for r in (got, clean))
        before = case.inputs[cache].reshape(after.shape)
        written = [own[0], own[2]]
        tolerance.assert_same_bits(cache, after[own[0]], alone[own[3]])
        others = np.setdiff1d(np.arange(after.shape[0]), written)
        tolerance.assert_same_bits(f"{cache} (rows not written)", after[others], before[others])


@pytest.mark.parametrize("mode_name", ["pynative", "graph"])
def test_a_row_outside_the_cache_is_not_written(mode_name: str) -> None:
    case = make("mla_prolog_quant", 3, 1, n_q=2)
    index = case.inputs["cache_index"].copy()
    index[1] = case.paging.block_num * 128
    outside, padding = case.copy(cache_index=index), index.copy()
    padding[1] = -1
    tolerance.assert_same_outputs(run(outside, mode_name), run(case.copy(cache_index=padding), mode_name))


@pytest.mark.parametrize("mode_name", ["pynative", "graph"])
def test_a_position_outside_the_sequence_is_skipped(mode_name: str) -> None:
    case = make("sparse_flash_attention_quant", 2, 1, [130, 140], n_q=2)
    outside, skipped = case.inputs["topk_indices"].copy(), case.inputs["topk_indices"].copy()
    outside[1, 17], skipped[1, 17] = 140, -1
    want = run(case.copy(topk_indices=skipped), mode_name)
    tolerance.assert_same_outputs(run(case.copy(topk_indices=outside), mode_name), want)


class Twice(nn.Cell):
    """Two writes and the read after each, in one graph."""

    def __init__(self, attributes: dict[str, Any], reader: dict[str, Any]) -> None:
        super().__init__()
        self.attributes = attributes
        self.reader = reader

    def construct(self, first, second, fixed, query, selection, *caches):
        ops.mla_prolog_quant(first, *fixed, *caches, **self.attributes)
        a = ops.sparse_flash_attention_quant(*query, *caches, *selection, **self.reader)
        ops.mla_prolog_quant(second, *fixed, *caches, **self.attributes)
        b = ops.sparse_flash_attention_quant(*query, *caches, *selection, **self.reader)
        return a, b


@pytest.mark.parametrize("parameter", [False, True])
@pytest.mark.parametrize("mode_name", MODES)
def test_a_read_sees_the_write_before_it(mode_name: str, parameter: bool) -> None:
    writer = cases.mla_prolog_case(1, 1, 1, 5)
    other = writer.copy(token_x=cases.mla_prolog_case(1, 1, 1, 5, seed=1).inputs["token_x"])  # to the same row
    reader = cases.attention_case(1, 1, 1, 5, topk=8)
    given, read = inputs_of(writer), inputs_of(reader)
    names = list(cases.IN_PLACE["mla_prolog_quant"])
    want = []
    caches = {n: writer.inputs[n] for n in names}
    for step in (writer, other):
        written = run(step.copy(**caches), "pynative")
        caches = {n: written[f"{n}_out"] for n in names}
        seen = dict(zip(("key_nope_2d", "key_rope_2d", "k_nope_scales"), caches.values(), strict=True))
        want.append(run(reader.copy(**seen), "pynative")["attention_out"])
    assert (want[0] != want[1]).any()

    held = [given[n] for n in names]
    if parameter:
        held = [Parameter(t, name=f"cache{i}", requires_grad=False) for i, t in enumerate(held)]
    fixed = [t for n, t in given.items() if n not in ("token_x", *names)]
    values = list(read.values())
    call: Any = Twice(attributes_of(writer), attributes_of(reader))
    call = ms.jit(call) if mode_name == "jit" else call
    with mode(mode_name):
        got = call(
            given["token_x"],
            inputs_of(other)["token_x"],
            ms.mutable(tuple(fixed)),
            ms.mutable(tuple(values[:2])),
            ms.mutable(tuple(values[5:])),
            *held,
        )
    for i, (result, array) in enumerate(zip(got, want, strict=True)):
        tolerance.assert_same_bits(f"read {i}", weights.to_array(result), array)
    for name, tensor_ in zip(names, held, strict=True):
        tolerance.assert_same_bits(name, weights.to_array(tensor_), caches[name])


def refused(case: cases.Case, mode_name: str, error: Any, text: str, **changed: Any) -> None:
    """A call with changed inputs or attributes raises, and leaves the caches as they were."""
    given: dict[str, Any] = {**inputs_of(case), **attributes_of(case)}
    caches = {n: given[n] for n in cases.IN_PLACE[case.operator]}
    given |= {n: change(given.get(n)) if callable(change) else change for n, change in changed.items()}
    attributes = {n: v for n, v in given.items() if n not in case.inputs}
    inputs = [given[n] for n in case.inputs]
    call: Any = functools.partial(getattr(ops, case.operator), **attributes)
    if mode_name == "graph":
        call = Call(case.operator, attributes)
    with mode(mode_name), pytest.raises(error, match=re.escape(f"{case.operator}: {text}")):
        call(*inputs)
    for name, tensor_ in caches.items():
        tolerance.assert_same_bits(name, weights.to_array(tensor_), case.inputs[name])


def zeros(shape: tuple[int, ...], dtype: Any) -> Callable[[Any], Tensor]:
    return lambda _: weights.to_tensor(np.zeros(shape, dtype))


BAD: list[tuple[str, Any, str, dict[str, Any]]] = [
    (
        "mla_prolog_quant",
        ValueError,
        "w_dq has shape (7169, 1536), expected ",
        {"w_dq": zeros((7169, 1536), "u2")},
    ),
    ("mla_prolog_quant", TypeError, "kv_cache must be int8, got float16", {"kv_cache": zeros((4, 128, 1, 512), "f2")}),
    ("mla_prolog_quant", TypeError, "cos must be a Tensor, got ", {"cos": None}),
    ("mla_prolog_quant", ValueError, "cache_mode must be 'PA_BSND', got 'BNSD'", {"cache_mode": "BNSD"}),
    ("lightning_indexer_prolog_quant", ValueError, "w_proj has shape ", {"w_proj": zeros((7168, 65), "u2")}),
    ("mla_indexer_prolog_quant", ValueError, "ip_wk_in has shape ", {"ip_wk_in": zeros((7169, 128), "u2")}),
    ("sparse_flash_attention_quant", TypeError, "nq must be int", {"nq": 2.0}),
    ("sparse_flash_attention_quant", ValueError, "query_rope has shape ", {"query_rope": zeros((2, 65), "u2")}),
    ("lightning_indexer_quant", ValueError, "selected_count ", {"selected_count": 2049}),
    ("lightning_indexer_quant", TypeError, "kv_act_seqs must be int32, got int64", {"kv_act_seqs": zeros((2,), "i8")}),
    ("mla_epilog_quant", ValueError, "w_o has shape (127, 7168), expected ", {"w_o": zeros((127, 7168), "i1")}),
]


def test_every_operator_is_listed() -> None:
    cases.assert_all_listed({operator for operator, *_ in BAD})
    cases.assert_all_listed(RAGGED, [name for name in op_info.names() if op_info.load(name).optional])


@pytest.mark.parametrize("mode_name", ["pynative", "graph"])
@pytest.mark.parametrize(("operator", "error", "text", "changed"), BAD)
def test_bad_input(operator: str, error: Any, text: str, changed: dict[str, Any], mode_name: str) -> None:
    refused(make(operator, 2, 1, [3, 130], n_q=1), mode_name, error, text, **changed)


@pytest.mark.parametrize("mode_name", ["pynative", "graph"])
@pytest.mark.parametrize("cache", cases.IN_PLACE["mla_prolog_quant"])
def test_caches_of_which_mindspore_would_write_a_copy(cache: str, mode_name: str) -> None:
    case = make("mla_prolog_quant", 2, 1, [3, 130], n_q=1)
    width = case.inputs[cache].shape[-1]

    def strided(tensor_: Tensor) -> Tensor:
        array = np.ascontiguousarray(weights.to_array(tensor_).transpose(3, 2, 1, 0))
        return weights.to_tensor(array).to("Ascend").permute(3, 2, 1, 0)

    def part(tensor_: Tensor) -> Tensor:
        pool = np.stack([weights.to_array(tensor_)] * 2)
        return weights.to_tensor(pool).to("Ascend")[1]

    refused(case, mode_name, ValueError, f"{cache} must be contiguous", **{cache: strided})
    text = f"{cache} is a view that begins {case.paging.block_num * 128 * width} elements into its storage"
    refused(case, mode_name, ValueError, text, **{cache: part})


@pytest.mark.parametrize("mode_name", ["pynative", "graph"])
@pytest.mark.parametrize("cache", cases.IN_PLACE["mla_prolog_quant"])
def test_a_cache_in_host_memory(cache: str, mode_name: str) -> None:
    case = make("mla_prolog_quant", 2, 1, [3, 130], n_q=1)
    text = f"{cache} of shape {case.inputs[cache].shape} is in the memory of CPU"
    host = weights.to_tensor(case.inputs[cache].copy())
    refused(case, mode_name, ValueError, text, **{cache: host})


@pytest.mark.parametrize("mode_name", ["pynative", "graph"])
def test_gradients_are_refused(mode_name: str) -> None:
    case = make("sparse_flash_attention_quant", 1, 1, 3, n_q=1)
    with mode(mode_name), pytest.raises((RuntimeError, NotImplementedError), match="bprop"):
        ms.grad(Loss(case.operator, case.attributes))(*inputs_of(case).values())


RAGGED: dict[str, Callable[[], cases.Case]] = {
    "lightning_indexer_quant": lambda: cases.indexer_case(4, 3, [700, 5, 90, 300], selected_count=64),
    "sparse_flash_attention_quant": lambda: cases.with_lse(
        cases.attention_case(4, 3, 3, [130, 5, 90, 300], topk=64, holes=0.1)
    ),
}


@pytest.mark.parametrize("mode_name", ["pynative", "graph"])
@pytest.mark.parametrize("operator", RAGGED)
def test_sequences_of_different_numbers_of_tokens(operator: str, mode_name: str) -> None:
    """Golden results, padding included. A call without query_act_seqs works before and after."""
    plain = RAGGED[operator]()
    before = run(plain, mode_name)
    case = cases.ragged(plain, [1, 0, 3, 2], padding=2)
    assert_golden(case, run(case, mode_name))
    tolerance.assert_same_outputs(run(plain, mode_name), before)


@pytest.mark.parametrize("counts", [[-1, 1, 1, 1], [3, 3, 3, 3], [2**31 - 1, 2**31 - 1, 3, 0]])
@pytest.mark.parametrize("operator", RAGGED)
def test_tokens_that_cannot_be_are_padding(operator: str, counts: list[int]) -> None:
    """Negative numbers, and more than there are: no token is of a sequence."""
    case = cases.ragged(RAGGED[operator](), [1, 0, 3, 2], padding=2)
    got = run(case.copy(query_act_seqs=np.array(counts, np.int32)), "graph")
    want = {"topk_indices": -1, "attention_out": 0, "lse": -np.inf}
    for name, array in got.items():
        assert (array == want[name]).all()
