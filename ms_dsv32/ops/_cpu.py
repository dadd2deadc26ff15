"""What the CPU needs of the bridge to MindSpore: in PyNative mode kernels are called directly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import mindspore as ms
import ml_dtypes
import numpy as np
from mindspore import Tensor
from mindspore.common._grad_function import _Function
from mindspore.graph import api as graph_api
from mindspore.graph.jit_context import jit_context

from ms_dsv32 import kernel_impl, op_info
from ms_dsv32.ops import _target

_NUMPY: dict[Any, np.dtype[Any]] = {
    getattr(ms, name): np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else np_name)
    for name, *_, np_name in op_info.DTYPES.values()
}


def require(info: op_info.OpInfo, attrs: dict[str, Any]) -> None:
    """Every contract value of every attribute has a kernel here."""


def require_graph(info: op_info.OpInfo, jit_config: dict[str, str]) -> None:
    """Every kind of graph works here."""


def require_cache(info: op_info.OpInfo, name: str, tensor: Tensor) -> None:
    """MindSpore would hand a copy of a view to the kernel, and refuse the argument when the kernel has run."""
    if tensor._need_contiguous():
        text = (
            f"must be contiguous and begin its storage, as it is updated in place in a graph; pass {name}.contiguous()"
        )
        raise ValueError(f"{info.name}: {name} {text}")


def building(info: op_info.OpInfo) -> AbstractContextManager[None]:
    """Nothing is needed here."""
    return nullcontext()


def type_name(info: op_info.OpInfo) -> str:
    """MindSpore calls the kernel library's function of this name."""
    return info.entry


def reg_info(info: op_info.OpInfo) -> None:
    """None: dtypes are checked by the kernel library, and attributes travel as those of the primitive."""


def left_out() -> None:
    """None: the kernel library takes MindSpore's own mark of a missing tensor."""


def constants(info: op_info.OpInfo, attrs: dict[str, Any]) -> tuple[Any, ...]:
    """Nothing: attributes travel as those of the primitive."""
    return ()


class Launch(_target.Launch):
    """Calls a kernel in PyNative mode, on the caller's thread.

    MindSpore's own way of calling a ``Custom`` operator takes 0.3 to 2 ms on CPU, as long as some of the kernels take
    (docs/performance.md), copies a view before the kernel writes into it, and tells of an error later. So a kernel is
    called by the addresses of its tensors. A trace (``mindspore.jit(capture_mode="trace")``) needs the primitive.
    """

    def _prepare(self, attrs: dict[str, Any]) -> None:
        self._floats = tuple(float(value) for value in attrs.values() if isinstance(value, (float, np.floating)))
        self._outputs = [_NUMPY[getattr(ms, o.ms_dtype)] for o in self._info.kernel_outputs]

    def __call__(self, tensors: tuple[Tensor, ...], call: kernel_impl.BoundCall) -> Any:
        if jit_context() is not None:
            return self._make_custom()(*tensors, *self._constants)
        if graph_api._pynative_executor.requires_grad():
            return _NoGradient.apply(functools.partial(self._run, call), self._info.name, *tensors)
        return self._run(call, *tensors)

    def _run(self, call: kernel_impl.BoundCall, *tensors: Tensor) -> Any:
        graph_api._pynative_executor.sync()  # what was called before may still read or write the same memory
        tensors = tuple(t if t.is_contiguous() else self._contiguous(i, t) for i, t in enumerate(tensors))
        outputs = [Tensor.from_numpy(np.empty(s, d)) for s, d in zip(call.out_shapes, self._outputs, strict=True)]
        addresses = [t.data_ptr() for t in (*tensors, *outputs)]
        if 0 in addresses:  # of an empty tensor, or of one whose storage was given up
            self._require_data(tensors)
        call(addresses, self._floats)
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    def _require_data(self, tensors: tuple[Tensor, ...]) -> None:
        for arg, tensor in zip(self._info.inputs, tensors, strict=False):  # without the optional one, perhaps
            if tensor.size > 0 and tensor.data_ptr() == 0:
                raise ValueError(f"{self._info.name}: {arg.name} has no data")

    def _contiguous(self, index: int, tensor: Tensor) -> Tensor:
        arg = self._info.inputs[index]
        if arg.in_place:
            raise ValueError(f"{self._info.name}: {arg.name} must be contiguous, as it is updated in place")
        return tensor.contiguous()


class _NoGradient(_Function):  # type: ignore[misc]
    """A call while MindSpore records what a gradient needs."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], op: str, *tensors: Tensor) -> Any:
        ctx.op = op
        return run(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError(f"{ctx.op}: inference only, there is no gradient")
