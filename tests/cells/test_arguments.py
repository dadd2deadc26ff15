"""Every cell with one argument after the other changed: its results are those of the bare operators in a row.

The bare operators are compared with golden, with each of their arguments changed, in ``tests/kernels``.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import cell_arguments as given
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import Array, bound_configurations, mode
from layer_files import FORMS, Files, same
from mindspore import Tensor

from ms_dsv32 import cells, golden, kernel_impl, op_info, weights

MODES = ("pynative", "graph")
CELLS = given.all_cells()


def bare(operator: str, inputs: Mapping[str, Array], attributes: Mapping[str, Any]) -> dict[str, Array]:
    """Outputs of a bare kernel by name."""
    names = (o.name for o in op_info.load(operator).outputs)
    return dict(zip(names, kernel_impl.call(operator, inputs, attributes), strict=True))


def run(cell: Any, mode_name: str, inputs: Mapping[str, Array | None]) -> list[Array]:
    """Outputs of a cell, then its caches."""
    tensors = {n: None if a is None else weights.to_tensor(np.array(a)) for n, a in inputs.items()}
    with mode(mode_name):
        results = cell(*(t for n, t in tensors.items() if n != "query_act_seqs" or t is not None))
    results = results if isinstance(results, tuple) else (results,)
    return [weights.to_array(t).copy() for t in (*results, *(tensors[n] for n in given.CACHES if n in tensors))]


def assert_same(got: list[Array], want: list[Array]) -> None:
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        tolerance.assert_same_bits(f"result {i}", a, b)


def make(cls: type[Any], arguments: Mapping[str, Any], seed: int = 0) -> Any:
    """A cell with its weights."""
    cell = cls(**arguments)
    if given.weight_names(cls):
        cell.set_weights(given.weights_of(cls, arguments.get("n_q", 1), seed))
    return cell


@functools.lru_cache(maxsize=1)  # the tests of a cell follow one another
def cell_before(cls: type[Any]) -> Any:
    return make(cls, given.values(cls))


@functools.lru_cache(maxsize=8)
def before(cls: type[Any]) -> list[Array]:
    """What the cell gives before any change."""
    arguments = given.values(cls)
    return given.expected(bare, cls, arguments, given.inputs_of(cls), given.weights_of(cls, arguments.get("n_q", 1)))


def names_of(cls: type[Any]) -> Iterator[str]:
    yield from given.inputs_of(cls)


def by_cell(names: Any) -> list[Any]:
    return [pytest.param(cls, name, id=f"{cls.__name__}-{name}") for cls in CELLS for name in names(cls)]


def configured(cls: type[Any]) -> list[str]:
    return [name for name in given.parameters(cls) if given.configuration(cls, name) is not None]


def refused(cls: type[Any]) -> list[str]:
    return [name for name in given.parameters(cls) if name in given.ERRORS_ONLY]


def test_every_cell_is_here() -> None:
    assert set(given.OPERATORS) == set(CELLS), "OPERATORS of cell_arguments.py says what each cell does"
    for cls in CELLS:
        assert not set(given.changing(cls)) - set(given.VALUES), cls


@pytest.mark.parametrize("cls", CELLS)
def test_before_the_changes(cls: type[Any]) -> None:
    for mode_name in MODES:
        assert_same(run(cell_before(cls), mode_name, given.inputs_of(cls)), before(cls))
    assert_same(run(ms.jit(cell_before(cls)), "pynative", given.inputs_of(cls)), before(cls))


@pytest.mark.parametrize("mode_name", MODES)
@pytest.mark.parametrize(("cls", "name"), by_cell(names_of))
def test_inputs(cls: type[Any], name: str, mode_name: str) -> None:
    arguments, inputs = given.values(cls), given.changed_inputs(cls, name)
    want = given.expected(bare, cls, arguments, inputs, given.weights_of(cls, arguments.get("n_q", 1)))
    assert given.differ(want, before(cls))
    assert_same(run(cell_before(cls), mode_name, inputs), want)


@pytest.mark.parametrize(("cls", "name"), by_cell(given.changing))
def test_arguments_of_the_constructor(cls: type[Any], name: str) -> None:
    arguments = given.values(cls, name)
    n_q = arguments.get("n_q", 1)
    inputs = given.inputs_of(cls, arguments.get("n_q", given.arguments.HEADS))
    want = given.expected(bare, cls, arguments, inputs, given.weights_of(cls, n_q))
    assert given.differ(want, before(cls))
    assert_same(run(make(cls, arguments), "pynative", inputs), want)


@pytest.mark.parametrize("cls", CELLS)
def test_a_cell_of_a_configuration_in_a_graph(cls: type[Any]) -> None:
    """Everything differs: the model's configuration, the other arguments, weights and inputs."""
    arguments = given.values(cls, *given.changing(cls))
    told = [name for name in arguments if name in cls._model_arguments and name != "topk"]
    assert set(told) == set(cls._model_arguments) - {"topk"}
    n_q = arguments.get("n_q", 1)
    cell = cls.from_config(given.MODEL, **{n: v for n, v in arguments.items() if n not in told})
    if given.weight_names(cls):
        cell.set_weights(given.weights_of(cls, n_q, 1))
    inputs = given.inputs_of(cls, arguments.get("n_q", given.arguments.HEADS), 1)
    want = given.expected(bare, cls, arguments, inputs, given.weights_of(cls, n_q, 1))
    assert_same(run(cell, "graph", inputs), want)
    # An argument that is given beside the configuration replaces its value.
    other = given.values(cls)
    cell = cls.from_config(given.MODEL, **other)
    if given.weight_names(cls):
        cell.set_weights(given.weights_of(cls, other.get("n_q", 1)))
    assert_same(run(cell, "pynative", given.inputs_of(cls)), before(cls))


@pytest.mark.parametrize("cls", [cls for cls in CELLS if given.weight_names(cls)])
def test_weights(cls: type[Any]) -> None:
    """Other weights in a cell that has some and was compiled. Each must become the weight of its name."""
    arguments = given.values(cls)
    other = given.weights_of(cls, arguments.get("n_q", 1), 1)
    want = given.expected(bare, cls, arguments, given.inputs_of(cls), other)
    cell = cell_before(cls)
    assert_same(run(cell, "graph", given.inputs_of(cls)), before(cls))
    try:
        cell.set_weights(dict(reversed(other.items())))
        for name, array in cell.get_weights().items():
            tolerance.assert_same_bits(name, array, other[name])
        for mode_name in MODES:
            assert_same(run(cell, mode_name, given.inputs_of(cls)), want)
    finally:
        cell.set_weights(given.weights_of(cls, arguments.get("n_q", 1)))


@pytest.mark.parametrize("mode_name", MODES)
@pytest.mark.parametrize(("cls", "name"), by_cell(configured))
def test_configurations_arrive_and_change_nothing(
    cls: type[Any], name: str, mode_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, callers = given.configuration(cls, name), copy.deepcopy(given.configuration(cls, name))
    cell = make(cls, {**given.values(cls), name: callers})
    for field in dataclasses.fields(callers):  # the cell has a copy
        setattr(callers, field.name, getattr(type(callers)(), field.name))
    assert callers != config
    found = bound_configurations(monkeypatch)
    assert_same(run(cell, mode_name, given.inputs_of(cls)), before(cls))
    assert list(found.values()) == [config]


@pytest.mark.parametrize("mode_name", MODES)
@pytest.mark.parametrize(("cls", "name"), by_cell(refused))
def test_other_values_are_refused(cls: type[Any], name: str, mode_name: str) -> None:
    value, _ = given.ERRORS_ONLY[name]
    cell = make(cls, {**given.values(cls), name: value + 1})
    with pytest.raises(ValueError, match=r"selected_count|max_blocknum_perbatch"):
        run(cell, mode_name, given.inputs_of(cls))


BAD: dict[str, Any] = {
    **dict.fromkeys(("epsilon_cq", "epsilon_ckv", "layernorm_epsilon_k"), -1.0),
    **dict.fromkeys(("selected_count", "topk"), 2049),
    "max_blocknum_perbatch": -1,
    "n_q": 129,
    "softmax_scale": float("nan"),
    "return_lse": 1,
    "stop_gradient": 1,
    "group": 1,
}
"""Values that are refused; of a configuration, any other object is."""


@pytest.mark.parametrize(("cls", "name"), by_cell(given.parameters))
def test_a_bad_argument_is_refused_when_the_cell_is_made(cls: type[Any], name: str) -> None:
    """Its operator may be a step's last one, which would refuse it after others have written caches."""
    bad = BAD[name] if given.configuration(cls, name) is None else object()
    of_operator = {"n_q": "n_?q", "attention_tile_config": "tile_config"}.get(name, name)
    text = rf"^\w+: {of_operator} must be "
    with pytest.raises((TypeError, ValueError), match=text):
        cls(**{name: bad})
    with pytest.raises((TypeError, ValueError), match=text):
        make(cls, {**given.values(cls), name: bad})


@pytest.mark.parametrize("cls", CELLS)
def test_stop_gradient(cls: type[Any]) -> None:
    cell = cell_before(cls)
    tensors = [weights.to_tensor(np.array(a)) for a in given.inputs_of(cls).values() if a is not None]
    place = next(i for i, t in enumerate(tensors) if t.dtype in (ms.bfloat16, ms.float16))

    def loss(x: Tensor) -> Tensor:
        results = cell(*tensors[:place], x, *tensors[place + 1 :])
        first = results[0] if isinstance(results, tuple) else results
        return first.astype(ms.float32).sum() + x.astype(ms.float32).sum()

    def gradient() -> Array:
        return ms.grad(loss)(tensors[place]).astype(ms.float32).asnumpy()

    with pytest.raises(NotImplementedError, match="inference only, there is no gradient"):
        gradient()
    cell = make(cls, {**given.values(cls), "stop_gradient": True})
    assert (gradient() == 1).all()


class Doubled:
    """Stands for a group of two ranks that have the same."""

    groups: ClassVar[list[str]] = []

    def __init__(self, group: str) -> None:
        self.groups.append(group)

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor * 2


@pytest.mark.parametrize("cls", [cls for cls in CELLS if "group" in given.parameters(cls)])
def test_a_group_adds_its_ranks_results(cls: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "get_group_size", lambda group: 2)
    monkeypatch.setattr(cells.GlobalComm, "INITED", True)
    monkeypatch.setattr(ms.ops, "AllReduce", Doubled)
    monkeypatch.setattr(Doubled, "groups", [])
    got = run(make(cls, {**given.values(cls), "group": "a group"}), "pynative", given.inputs_of(cls))
    assert Doubled.groups == ["a group"]
    want = before(cls)
    doubled = golden.float32_to_bf16(2 * golden.bf16_to_float32(want[0]))
    assert_same(got, [doubled, *want[1:]])


@pytest.mark.parametrize("cls", [cls for cls in CELLS if hasattr(cls, "dynamic_inputs")])
def test_arguments_of_dynamic_inputs(cls: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cls(7, 1)
    like = [Tensor(shape=shape, dtype=dtype) for shape, dtype in (
        ((1, 7168), ms.bfloat16), ((1, 32), ms.float16), ((1, 64), ms.float32), ((1,), ms.int32),
        ((1, 7), ms.int64), ((1,), ms.int64),
    )]  # fmt: skip
    set_inputs: list[Any] = []
    monkeypatch.setattr(type(cell), "set_inputs", lambda self, *inputs: set_inputs.append(inputs))

    def told(inputs: Any) -> list[Any]:
        return [(*tensor.shape, tensor.dtype) for tensor in inputs]

    caches = [(5, 128, 1, w, d) for w, d in ((512, ms.int8), (64, ms.bfloat16), (4, ms.float32), (128, ms.int8))]
    caches.append((5, 128, 1, 1, ms.float16))
    usual = [
        (-1, 7168, ms.bfloat16), (-1, 64, ms.bfloat16), (-1, 64, ms.bfloat16), (-1, ms.int64), (-1, 7, ms.int32),
        (-1, ms.int32), *caches,
    ]  # fmt: skip
    alike = [
        (-1, 7168, ms.bfloat16), (-1, 32, ms.float16), (-1, 64, ms.float32), (-1, ms.int32), (-1, 7, ms.int64),
        (-1, ms.int64), *caches, (-1, ms.int64),
    ]  # fmt: skip
    assert told(cell.dynamic_inputs(5)) == usual
    assert told(cell.dynamic_inputs(5, like, ragged=True)) == alike
    cell.set_dynamic_tokens(5)
    cell.set_dynamic_tokens(5, like, ragged=True)
    assert [told(inputs) for inputs in set_inputs] == [usual, alike]
    assert told(cls(None, 1).dynamic_inputs(5))[4] == (-1, -1, ms.int32)


@pytest.fixture(scope="module", params=FORMS)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("arguments"), FORMS[request.param])


@pytest.mark.parametrize("cls", [cls for cls in CELLS if hasattr(cls, "load")])
def test_arguments_of_load(cls: type[Any], files: Files) -> None:
    cell = cls(**({"n_q": 2} if "n_q" in given.parameters(cls) else {}))
    for path, layer, arguments in files.loads(cell.load, [range(2)]):
        cell.load(**arguments)
        got = cell.get_weights()
        want = files.want("load_layer", path, layer, arguments.get("heads"))
        same(got, {name: want[name] for name in got})
    files.check_refusals(cell.load)
    same(cell.get_weights(), got)
