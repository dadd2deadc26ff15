"""Calls the operators through MindSpore, for the tests of ops and cells; results as NumPy arrays."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import bare_kernels
import mindspore as ms
import ml_dtypes
import numpy as np
import pytest
from cases import IN_PLACE, Case
from mindspore import Tensor, nn
from numpy.typing import NDArray

from ms_dsv32 import op_info, ops, weights
from ms_dsv32.config import Configuration

Array = NDArray[Any]
MODES = ("pynative", "graph", "jit")


@contextmanager
def mode(name: str) -> Iterator[None]:
    """MindSpore's mode for the time of the block: "graph", or PyNative for everything else."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE if name == "graph" else ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=before)


@functools.lru_cache(maxsize=64)
def _shared(address: int, shape: tuple[int, ...], dtype: str) -> list[Tensor]:
    return []


def tensor(array: Array) -> Tensor:
    """A Tensor on an array's memory; of the read-only weights of `cases` always the same one."""
    if array.flags.writeable:
        return weights.to_tensor(array)
    kept = _shared(array.ctypes.data, array.shape, array.dtype.str)
    if not kept:
        kept.append(Tensor.from_numpy(array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array))
    return kept[0]


def tensors(case: Case) -> dict[str, Tensor]:
    """The case's inputs as Tensors; its in-place caches are copied, so that the case stays as it is."""
    return {name: tensor(array) for name, array in case.copy().inputs.items()}


def arrays(names: Sequence[str], results: Any) -> dict[str, Array]:
    """An operator's results by name, as arrays of their own."""
    results = results if isinstance(results, (tuple, list)) else (results,)
    return {name: weights.to_array(r).copy() for name, r in zip(names, results, strict=True)}


def placeholders(case: Case, free: Collection[str] = ("t", "b", "s1")) -> list[Tensor]:
    """Inputs for set_inputs with the axes of the free dims unknown."""
    out = []
    for arg in op_info.load(case.operator).inputs[: len(case.inputs)]:
        shape = case.inputs[arg.name].shape
        axes = next(s for s in arg.shapes if len(s) == len(shape))
        known = [n if set(op_info.symbols(a)).isdisjoint(free) else None for a, n in zip(axes, shape, strict=True)]
        out.append(Tensor(shape=known, dtype=getattr(ms, arg.ms_dtype)))
    return out


class Call(nn.Cell):
    """One operator as a graph; returns all outputs, so copies of the caches."""

    def __init__(self, operator: str, attributes: dict[str, Any]) -> None:
        super().__init__()
        self.function = getattr(ops, operator)
        self.attributes = attributes

    def construct(self, *inputs: Tensor) -> Any:
        return self.function(*inputs, **self.attributes)


class Loss(nn.Cell):
    """The first output of an operator as float32, for a gradient."""

    def __init__(self, operator: str, attributes: dict[str, Any]) -> None:
        super().__init__()
        self.function = getattr(ops, operator)
        self.attributes = attributes

    def construct(self, *inputs: Tensor) -> Any:
        results = self.function(*inputs, **self.attributes)
        return (results[0] if isinstance(results, tuple) else results).astype(ms.float32)


def run(case: Case, mode_name: str, call: Call | None = None) -> dict[str, Array]:
    """The outputs of a case in one of `MODES`; caches are read from the tensors that were passed.

    call: with the case's attributes, where one graph is to serve several cases.
    """
    inputs = tensors(case)
    with mode(mode_name):
        if mode_name == "pynative":
            results = getattr(ops, case.operator)(*inputs.values(), **case.attributes)
        else:
            call = call or Call(case.operator, case.attributes)
            results = (call if mode_name == "graph" else ms.jit(call))(*inputs.values())
        named = arrays(case.outputs, results)
    for cache, output in IN_PLACE[case.operator].items():
        named[output] = weights.to_array(inputs[cache]).copy()
    return named


def forget_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the time of a test no operator has been called yet, and MindSpore knows no registration."""
    for name in op_info.names():
        operator = getattr(ops, name).__globals__["_operator"]
        monkeypatch.setattr(operator, "_customs", {})
        monkeypatch.setattr(operator, "_kernels", {})
    for name in ("attr_dict", "registered_func", "compiled_bin"):
        monkeypatch.setattr(ms.ops.Custom, name, type(getattr(ms.ops.Custom, name))())


def bound_configurations(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Configuration]:
    """A dict that fills with the tile configurations of calls, by operator and attribute.

    They are checked where a graph is compiled, and in PyNative mode at the first call with these attributes. So earlier
    calls are forgotten for the time of the test.
    """
    for name in op_info.names():
        monkeypatch.setattr(getattr(ops, name).__globals__["_operator"], "_kernels", {})
    found: dict[tuple[str, str], Configuration] = {}
    bind = op_info.bind_attrs

    def recorded(info: op_info.OpInfo, given: Mapping[str, Any]) -> Any:
        tiles = {n: v for n, v in given.items() if isinstance(v, Configuration) and n != "ip_attrs"}
        found.update({(info.name, name): value for name, value in tiles.items()})
        return bind(info, given)

    monkeypatch.setattr(op_info, "bind_attrs", recorded)
    return found


def bare(case: Case) -> dict[str, Array]:
    """The outputs that a case asks for by the bare kernel, without MindSpore; the case stays as it is."""
    outputs = bare_kernels.run(case)
    return {name: outputs[name] for name in case.outputs}
