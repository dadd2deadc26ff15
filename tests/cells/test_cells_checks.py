"""Cells check at each call what MindSpore hides from the operators in them: views, and weights for another target.

Every refused call must leave all caches as they were, and the next good call must work: MindSpore's own refusal comes
when the kernel has run on a copy, and the graph fails at every call from then on.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cases
import cell_arguments
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import forget_kernels, mode
from mindspore import Tensor, nn, ops
from sequences import SCALE, Sequences, step_weights, tensors

from ms_dsv32 import _cell, cells, weights
from ms_dsv32.ops import _custom


@dataclass
class Call:
    """A cell with its weights, and the inputs of a call by the names of its `construct`."""

    cell: nn.Cell
    operator: str
    inputs: dict[str, Any]

    @property
    def caches(self) -> dict[str, str]:
        """What the cell calls its caches: the operator's name of each."""
        return {name.removeprefix("mla_").removeprefix("ip_"): name for name in cases.IN_PLACE[self.operator]}

    def tensors(self) -> dict[str, Tensor]:
        return dict(zip(self.inputs, tensors(*self.inputs.values()), strict=True))


def of_case(cell: Any, case: cases.Case) -> Call:
    caches = {name: name.removeprefix("mla_").removeprefix("ip_") for name in cases.IN_PLACE[case.operator]}
    given = {caches.get(name, name): array for name, array in case.inputs.items()}
    return Call(cell, case.operator, {name: given[name] for name in inspect.signature(cell.construct).parameters})


def mla_prolog() -> Call:
    cell = cells.MLAProlog(1)
    cell.set_weights(cases.mla_weights(1))
    return of_case(cell, cases.mla_prolog_case(1, 1, 1, 5))


def indexer_prolog() -> Call:
    cell = cells.LightningIndexerProlog()
    cell.set_weights(cases.indexer_weights())
    return of_case(cell, cases.indexer_prolog_case(1, 1, 5))


def fused_prolog() -> Call:
    cell = cells.MLAIndexerProlog(1)
    cell.set_weights(step_weights(1))
    return of_case(cell, cases.fused_prolog_case(1, 1, 1, 5))


def step() -> Call:
    cell = cells.SparseAttentionStep(3, 1, softmax_scale=SCALE)
    cell.prolog.set_weights(step_weights(1))
    sequences = Sequences(1, 1, 2)
    arrays = [*sequences.advance(1), *sequences.caches]
    names = list(inspect.signature(cell.construct).parameters)[: len(arrays)]  # without query_act_seqs
    return Call(cell, "mla_indexer_prolog_quant", dict(zip(names, arrays, strict=True)))


def dynamic_step() -> Call:
    call = step()
    with mode("graph"):
        call.cell.set_dynamic_tokens(2)
    return call


def layer() -> Call:
    call, cell = step(), cells.SparseAttentionLayer(3, 1, softmax_scale=SCALE)
    cell.set_weights(cases.layer_weights(1))
    return Call(cell, call.operator, call.inputs)


CELLS = [mla_prolog, indexer_prolog, fused_prolog, step, dynamic_step, layer]
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "at an offset": lambda cache: ops.stack((cache.view(ms.int8), cache.view(ms.int8)))[1].view(cache.dtype),
    "strided": lambda cache: ops.concat((cache.view(ms.int8), cache.view(ms.int8)), -1).view(cache.dtype)[
        ..., : cache.shape[-1]
    ],
}


FILLED: dict[str, tuple[type[nn.Cell], str, dict[str, Any]]] = {
    "mla": (cells.MLAProlog, "mla_prolog_quant: w_dq", cases.mla_weights(1)),
    "indexer": (cells.LightningIndexerProlog, "lightning_indexer_prolog_quant: w_qb", cases.indexer_weights()),
}
"""The halves of a layer's weights: the cell that holds them, what an error names, and the weights."""


def assert_unchanged(call: Call, given: dict[str, Tensor]) -> None:
    for name in call.caches:
        tolerance.assert_same_bits(name, weights.to_array(given[name]), call.inputs[name])


def assert_works(call: Call) -> None:
    """A call with good caches, in graph mode, writes each of them."""
    given = call.tensors()
    with mode("graph"):
        call.cell(*given.values())
    for name in call.caches:
        assert weights.to_array(given[name]).tobytes() != np.ascontiguousarray(call.inputs[name]).tobytes(), name


def test_every_cell_that_writes_caches_is_tried() -> None:
    writing = {cls for cls in cell_arguments.all_cells() if issubclass(cls, _cell.Checked)}
    assert {type(make().cell) for make in CELLS} == writing - {cells.MLAEpilog}


@pytest.mark.parametrize("make", CELLS)
def test_every_cache_that_an_operator_writes_is_checked(make: Callable[[], Call]) -> None:
    call = make()
    parameters = list(inspect.signature(call.cell.construct).parameters)
    want = [(parameters.index(name), name, operator_name) for name, operator_name in call.caches.items()]
    assert list(call.cell._require_caches.caches) == want


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("make", CELLS)
def test_a_view_is_refused_before_anything_runs(make: Callable[[], Call], kind: str) -> None:
    call = make()
    assert_works(call)  # compiles: the operator is not asked again
    for index, (name, operator_name) in enumerate(call.caches.items()):
        given = call.tensors()
        given[name] = VIEWS[kind](given[name])
        split = len(given) - index  # the more arguments by keyword
        text = f"{call.operator}: {operator_name} must be contiguous and begin its storage, as it is updated in place"
        with mode("graph"), pytest.raises(ValueError, match=f"^{re.escape(text)}"):
            call.cell(*list(given.values())[:split], **dict(list(given.items())[split:]))
        assert_unchanged(call, given)
    assert_works(call)


def test_set_inputs_does_not_hide_a_view_from_the_first_call() -> None:
    call = dynamic_step()
    given = call.tensors()
    given["k_scale_cache"] = VIEWS["at an offset"](given["k_scale_cache"])
    with mode("graph"), pytest.raises(ValueError, match="mla_indexer_prolog_quant: mla_k_scale_cache must be contig"):
        call.cell(*given.values())
    assert_unchanged(call, given)
    assert_works(call)


@pytest.mark.parametrize("make", CELLS)
def test_pynative_writes_through_a_view_at_an_offset(make: Callable[[], Call]) -> None:
    call, strided = make(), VIEWS["strided"]
    want, given = call.tensors(), call.tensors()
    given.update({name: VIEWS["at an offset"](given[name]) for name in call.caches})
    for inputs in (want, given):
        call.cell(*inputs.values())
    for name in call.caches:
        tolerance.assert_same_bits(name, weights.to_array(given[name]), weights.to_array(want[name]))
    for name in call.caches:
        given = call.tensors()
        given[name] = strided(given[name])
        with pytest.raises(ValueError, match=f"{call.operator}: {call.caches[name]} must be contiguous"):
            call.cell(*given.values())
        assert_unchanged(call, given)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda cache: cache.view(ms.uint8), TypeError, r"7th type should be Tensor\[Int8\], but got Tensor\[UInt8\]"),
        (lambda cache: ops.concat((cache, cache)), ValueError, "shape of 7th input .* expected: 2, and input: 4"),
    ],
)
def test_mindspore_refuses_what_was_not_declared(
    change: Callable[[Tensor], Tensor], error: type[Exception], text: str
) -> None:
    """It names the input by its number, before anything runs, and the graph goes on working."""
    call = dynamic_step()
    given = call.tensors()
    before = given["kv_cache"]
    given["kv_cache"] = change(before)
    with mode("graph"), pytest.raises(error, match=text):
        call.cell(*given.values())
    assert_unchanged(call, {**given, "kv_cache": before})
    assert_works(call)


@pytest.mark.parametrize("how", ["pynative", "graph"])
@pytest.mark.parametrize(
    ("make", "part"),
    [(m, p) for m in CELLS for p in FILLED if (m, p) not in ((mla_prolog, "indexer"), (indexer_prolog, "mla"))],
)
def test_weights_for_another_device_are_refused(
    make: Callable[[], Call], part: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Part of a cell was filled before `set_device` changed the device target."""
    call, (owner_type, name, arrays) = make(), FILLED[part]
    (owner,) = (cell for _, cell in call.cell.cells_and_names() if isinstance(cell, owner_type))
    real = ms.get_context
    with monkeypatch.context() as patch:
        patch.setattr(ms, "get_context", lambda key: "Ascend" if key == "device_target" else real(key))
        owner.set_weights(arrays)
    given = call.tensors()
    text = f"{name} is laid out for Ascend, and the device target is CPU now: make the cell, or set its"
    with mode(how), pytest.raises(ValueError, match=f"^{text} weights, after mindspore.set_device"):
        call.cell(*given.values())
    assert_unchanged(call, given)
    owner.set_weights(arrays)
    assert_works(call)


def test_a_part_of_the_weights_for_another_device_leaves_the_others_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A checkpoint that ends early announces another layout than that of the weights that it did not reach."""
    call, real = mla_prolog(), ms.get_context
    other = cells.MLAProlog(1)
    with monkeypatch.context() as patch:
        patch.setattr(ms, "get_context", lambda key: "Ascend" if key == "device_target" else real(key))
        other.set_weights(cases.mla_weights(1))
        mark, *part = list(other.parameters_dict().items())[:4]
        call.cell.layout.set_data(mark[1])
        for name, parameter in part:
            getattr(call.cell, name).set_data(Tensor(parameter))
        with pytest.raises(ValueError, match="w_dq is laid out for CPU, and the device target is Ascend now"):
            call.cell.require_layout("Ascend")


@pytest.mark.parametrize("how", ["pynative", "graph"])
def test_an_epilogs_weights_for_another_device_are_refused(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, real = cells.MLAEpilog(1), ms.get_context
    with monkeypatch.context() as patch:
        patch.setattr(ms, "get_context", lambda key: "Ascend" if key == "device_target" else real(key))
        cell.set_weights(cases.epilog_weights(1))
    (attention_out,) = tensors(cases.mla_epilog_case(1, 1, 1).inputs["attention_out"])
    text = "mla_epilog_quant: w_uv is laid out for Ascend, and the device target is CPU now: make the cell, or set its"
    with mode(how), pytest.raises(ValueError, match=f"^{text} weights, after mindspore.set_device"):
        cell(attention_out)
    cell.set_weights(cases.epilog_weights(1))
    with mode(how):
        assert cell(attention_out).shape == (1, 7168)


@pytest.mark.parametrize("how", ["pynative", "graph"])
def test_a_weight_of_another_shape_is_refused_by_the_operator(how: str) -> None:
    """MindSpore's `set_data` lets a Parameter change its shape."""
    call, arrays = indexer_prolog(), cases.indexer_weights()
    call.cell.layout.set_data(Tensor(call.cell.layout.asnumpy()))
    call.cell.w_qb_scale.set_data(Tensor(np.ones((3, 1), np.float32)))
    given = call.tensors()
    text = r"lightning_indexer_prolog_quant: w_qb_scale has shape .*3, 1.*, expected .*8192, 1"
    with mode(how), pytest.raises(ValueError, match=f"^{text}"):
        call.cell(*given.values())
    assert_unchanged(call, given)
    call.cell.set_weights(arrays)
    assert_works(call)


@pytest.mark.parametrize("make", CELLS)
def test_a_cache_that_is_no_tensor(make: Callable[[], Call]) -> None:
    call = make()
    name = next(iter(call.caches))
    given = call.tensors()
    text = f"{call.operator}: {call.caches[name]} must be a Tensor, got NoneType"
    with pytest.raises(TypeError, match=f"^{text}"):
        call.cell(*{**given, name: None}.values())
    assert_unchanged(call, given)
    assert_works(call)


def test_there_is_no_cell_for_other_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator tells of it, where the cell's weights are laid out for no target."""
    call = indexer_prolog()
    monkeypatch.setattr(call.cell._layout, "target", "GPU")
    monkeypatch.setattr(_cell, "device_target", lambda: "GPU")
    monkeypatch.setattr(_custom, "device_target", lambda: "GPU")
    forget_kernels(monkeypatch)
    with pytest.raises(RuntimeError, match="lightning_indexer_prolog_quant: no kernel for device target GPU"):
        call.cell(*call.tensors().values())


def test_the_quick_way_to_the_device_target() -> None:
    assert _custom.device_target() == ms.get_context("device_target") == "CPU"
