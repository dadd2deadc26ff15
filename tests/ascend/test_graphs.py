"""Graphs on Ascend: levels of compilation, unknown numbers of tokens, inputs in any memory, MindSpore's operators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import cases
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import Array, Call, arrays, mode, placeholders
from cases import IN_PLACE, Case, make
from mindspore import Tensor, nn
from runs import assert_golden, attributes_of, calls_of, inputs_of, packed, results_of, run

from ms_dsv32 import golden, op_info, ops, weights
from ms_dsv32.ops._custom import Operator


@functools.cache
def known(operator: str) -> tuple[Case, dict[str, Array]]:
    """A call, and its results in PyNative mode."""
    case = make(operator, 2, 2, [5, 130], n_q=2)
    return case, run(case, "pynative")


def compiled(case: Case, how: str, level: str = "O0") -> Callable[..., Any]:
    """The operator as a cell of graph mode, or compiled by mindspore.jit; `how` "pynative" leaves it as it is."""
    call: Any = Call(case.operator, attributes_of(case))
    if how == "jit":
        return ms.jit(call, jit_level=level)  # type: ignore[no-any-return]
    if how == "graph":
        call.set_jit_config(ms.JitConfig(jit_level=level))
    return call  # type: ignore[no-any-return]


@pytest.mark.parametrize("level", ["O0", "O1"])
@pytest.mark.parametrize("how", ["graph", "jit"])
@pytest.mark.parametrize("operator", op_info.names())
def test_every_level_gives_the_bits_of_pynative_mode(operator: str, how: str, level: str) -> None:
    case, want = known(operator)
    with mode(how):
        tolerance.assert_same_outputs(results_of(case, compiled(case, how, level), inputs_of(case)), want)


@pytest.mark.parametrize("operator", op_info.names())
def test_graphs_of_ge_are_refused(operator: str) -> None:
    case, _ = known(operator)
    inputs = inputs_of(case)
    text = rf"{operator}: cannot run under jit_level O2 \(backend GE\); set jit_level to O0 or O1"
    with mode("graph"), pytest.raises(RuntimeError, match=text):
        compiled(case, "graph", "O2")(*inputs.values())
    for cache in IN_PLACE[operator]:
        tolerance.assert_same_bits(cache, weights.to_array(inputs[cache]), case.inputs[cache])


# b and s1 of calls that one graph serves. The cube's tiles have 16 rows, of tokens in the prologs.
SIZES = {"few": [(1, 1), (2, 2), (0, 1), (3, 1), (1, 4), (2, 2)], "around a tile": [(15, 1), (4, 4), (17, 1), (1, 1)]}


class Compilations:
    """Counts how often our operators were compiled into a graph."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        infer = Operator.__infer__

        def counted(*args: Any) -> Any:
            self.count += 1
            return infer(*args)

        monkeypatch.setattr(Operator, "__infer__", counted)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Compilations:
    return Compilations(monkeypatch)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("operator", op_info.names())
def test_one_graph_serves_all_numbers_of_tokens(operator: str, sizes: str, compilations: Compilations) -> None:
    several = calls_of(operator, SIZES[sizes])
    call = compiled(several[0], "graph")
    call.set_inputs(*placeholders(packed(several[0])))  # type: ignore[attr-defined]
    with mode("graph"):
        for case in several:
            assert_golden(case, results_of(case, call, inputs_of(case)))
    assert compilations.count == 1


@pytest.mark.parametrize("operator", op_info.names())
def test_jit_makes_a_graph_for_all_numbers_of_tokens_by_itself(operator: str, compilations: Compilations) -> None:
    several = calls_of(operator, [(1, 1), (3, 1), (2, 2), (1, 4), (2, 1), (0, 1)])
    call = ms.jit(Call(operator, attributes_of(several[0])), dynamic=1)
    counts = []
    for case in several:
        assert_golden(case, results_of(case, call, inputs_of(case)))
        counts.append(compilations.count)
    assert counts[3] <= 4
    assert counts[-1] == counts[3], "still compiles after three sizes"


def select(q_int8, q_scale, weights, k_cache, k_cache_scale, block_table, kv_act_seqs):
    return ops.lightning_indexer_quant(
        q_int8, q_scale, weights, k_cache, k_cache_scale, block_table, kv_act_seqs, selected_count=2048
    )


def write(token_x, cos, sin, cache_index, *fixed):
    return ops.mla_prolog_quant(token_x, *fixed[:7], cos, sin, cache_index, *fixed[7:], weight_format="PACKED")


@pytest.mark.parametrize("function", [select, write], ids=["lightning_indexer_quant", "mla_prolog_quant"])
def test_enable_dynamic(function: Any, compilations: Compilations) -> None:
    operator = {"select": "lightning_indexer_quant", "write": "mla_prolog_quant"}[function.__name__]
    several = calls_of(operator, [(1, 1), (3, 1), (2, 2)])  # MindSpore refuses an axis of 0 here
    unknown = dict(zip(several[0].inputs, placeholders(packed(several[0])), strict=True))
    unknown = {name: tensor for name, tensor in unknown.items() if -1 in tensor.shape or None in tensor.shape}
    call = ms.jit(ms.enable_dynamic(**unknown)(function))
    for case in several:
        inputs = inputs_of(case)
        first = [n for n in inputs if n in unknown] if function is write else list(inputs)
        given = [inputs[n] for n in (*first, *(n for n in inputs if n not in first))]
        named = arrays(case.outputs, call(*given))
        for cache, output in IN_PLACE[operator].items():
            named[output] = weights.to_array(inputs[cache])
        assert_golden(case, named)
    assert compilations.count == 1


def on_device(tensor: Tensor) -> Tensor:
    return tensor.to("Ascend")


def at_an_offset(tensor: Tensor) -> Tensor:
    """A view of the last of three copies of a tensor's rows; the others are poison."""
    array = weights.to_array(tensor)
    whole = np.full((3, *array.shape), 111 if array.dtype.kind == "i" else 0x7FC0, array.dtype)
    whole[2] = array
    return on_device(weights.to_tensor(whole))[2]


def transposed(tensor: Tensor) -> Tensor:
    """A view whose first and last axes lie the other way round in memory."""
    array = weights.to_array(tensor)
    return on_device(weights.to_tensor(np.ascontiguousarray(array.swapaxes(0, -1)))).swapaxes(0, -1)


PLACES = {"on the device": on_device, "a view at an offset": at_an_offset, "transposed": transposed}


@pytest.mark.parametrize("how", ["pynative", "graph", "jit"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("operator", op_info.names())
def test_inputs_that_are_only_read_may_lie_anywhere(operator: str, place: str, how: str) -> None:
    """`known` had all of them in host memory. MindSpore hands a strided view over as it is, and CANN copies it."""
    case, want = known(operator)
    inputs = inputs_of(case)
    for name, tensor in inputs.items():
        if name not in IN_PLACE[operator] and tensor.size < 1 << 20:  # the large weights take long
            inputs[name] = PLACES[place](tensor)
    before = {name: weights.to_array(tensor).copy() for name, tensor in inputs.items()}
    with mode(how):
        tolerance.assert_same_outputs(results_of(case, compiled(case, how), inputs), want)
    for name in set(inputs) - set(IN_PLACE[operator]):
        tolerance.assert_same_bits(name, weights.to_array(inputs[name]), before[name])


class Surrounded(nn.Cell):
    """A write and a read with MindSpore's own operators before, between and after them."""

    def __init__(self, writer: dict[str, Any], reader: dict[str, Any]) -> None:
        super().__init__()
        self.writer = writer
        self.reader = reader

    def construct(self, x, residual, fixed, cos_sin_index, caches, selection):
        token_x = (x + residual).astype(ms.bfloat16)
        prolog = ops.mla_prolog_quant(token_x, *fixed, *cos_sin_index, *caches, **self.writer)
        q_nope = prolog[2].astype(ms.float32) * 2.0
        nope, rope = q_nope.astype(ms.bfloat16).reshape(-1, 512), prolog[3].reshape(-1, 64)
        attention = ops.sparse_flash_attention_quant(nope, rope, *caches, *selection, **self.reader)
        return attention.astype(ms.float32) + 1.0, prolog[0].astype(ms.int32) + prolog[0].astype(ms.int32)


@pytest.mark.parametrize("how", ["pynative", "graph", "jit"])
def test_mindspores_operators_around_ours(how: str) -> None:
    """At O0: at O1 MindSpore fuses its own operators into kernels that it generates for the device."""
    writer = cases.mla_prolog_case(2, 1, 2, [5, 130])
    reader = cases.attention_case(2, 1, 2, [5, 130], topk=16)
    rng = np.random.default_rng(0)
    x, residual = (rng.standard_normal((2, 7168), np.float32) for _ in range(2))
    own = writer.copy(token_x=golden.float32_to_bf16(x + residual))
    first = run(own, "pynative")
    seen = {n: first[f"{c}_out"] for n, c in zip(list(reader.inputs)[2:5], IN_PLACE["mla_prolog_quant"], strict=True)}
    doubled = golden.float32_to_bf16(2 * golden.bf16_to_float32(first["query_nope_out"])).reshape(-1, 512)
    query = {"query_nope": doubled, "query_rope": first["query_rope_out"].reshape(-1, 64)}
    seen = {n: a.reshape(reader.inputs[n].shape) for n, a in seen.items()}
    attention = run(reader.copy(**query, **seen), "pynative")["attention_out"]

    given = inputs_of(writer)
    names = list(given)
    caches = [given[n] for n in IN_PLACE["mla_prolog_quant"]]
    cell: Any = Surrounded(attributes_of(writer), attributes_of(reader))
    cell = ms.jit(cell, jit_level="O0") if how == "jit" else cell
    if how == "graph":
        cell.set_jit_config(ms.JitConfig(jit_level="O0"))
    with mode(how):
        out, twice = cell(
            Tensor(x),
            Tensor(residual),
            ms.mutable([given[n] for n in names[1:8]]),
            ms.mutable([given[n] for n in names[8:11]]),
            ms.mutable(caches),
            ms.mutable(list(inputs_of(reader).values())[5:]),
        )
        tolerance.assert_same_bits("attention", out.asnumpy(), golden.bf16_to_float32(attention) + np.float32(1))
        tolerance.assert_same_bits("q_norm", twice.asnumpy(), 2 * first["q_norm_out"].astype(np.int32))
    for name, cache in zip(IN_PLACE["mla_prolog_quant"], caches, strict=True):
        tolerance.assert_same_bits(name, weights.to_array(cache), first[f"{name}_out"])
