"""What the CPU needs of the bridge to MindSpore: caches that are passed by address, errors in the caller's line."""

from __future__ import annotations

import ctypes
import functools
import math
import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import mindspore as ms
import ml_dtypes
import numpy as np
from mindspore import Tensor, ops
from mindspore.graph import api as graph_api

from ms_dsv32 import kernel_impl, op_info

_NUMPY: dict[Any, np.dtype[Any]] = {
    getattr(ms, name): np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else np_name)
    for name, *_, np_name in op_info.DTYPES.values()
}


def require(info: op_info.OpInfo, attrs: dict[str, Any]) -> None:
    """Every contract value of every attribute has a kernel here."""


def require_graph(info: op_info.OpInfo, jit_config: dict[str, str]) -> None:
    """Every kind of graph works here."""


def require_cache(info: op_info.OpInfo, name: str, tensor: Tensor) -> None:
    """Checks that what a graph writes into an argument will be there afterwards.

    Args:
        name: of the cache. tensor: the argument of the graph.

    Raises:
        ValueError: MindSpore would hand a copy to the kernel, and refuse the argument when the kernel has run.
    """
    if tensor._need_contiguous():
        text = (
            f"must be contiguous and begin its storage, as it is updated in place in a graph; pass {name}.contiguous()"
        )
        raise ValueError(f"{info.name}: {name} {text}")


def building(info: op_info.OpInfo) -> AbstractContextManager[None]:
    """What the ``Custom`` primitive is made under."""
    return nullcontext()


def reg_info(info: op_info.OpInfo) -> None:
    """None: dtypes are checked by the kernel library, and attributes travel as those of the primitive."""


def constants(info: op_info.OpInfo, attrs: dict[str, Any]) -> tuple[Any, ...]:
    """What a call passes behind the tensors: nothing."""
    return ()


class Launch:
    """Calls a kernel in PyNative mode and waits for it."""

    def __init__(self, info: op_info.OpInfo, custom: ops.Custom, attrs: dict[str, Any]) -> None:
        self._info = info
        self._custom = custom
        self._attrs = attrs
        self._caches = [(i, a.name, a.in_place) for i, a in enumerate(info.inputs) if _is_cache(a)]

    def __call__(self, tensors: tuple[Tensor, ...]) -> Any:
        args = list(tensors)
        for i, name, in_place in self._caches:
            if tensors[i].is_contiguous():
                args[i] = _base_alias(tensors[i])
            elif in_place:
                raise ValueError(f"{self._info.name}: {name} must be contiguous, as it is updated in place")
        try:
            with kernel_impl.LentThread():
                outputs = self._custom(*args)
            # Wait: an error must not surface elsewhere, and the aliases do not keep the caches' memory alive.
            graph_api._pynative_executor.sync()
        except RuntimeError as error:
            text = re.search(rf"Error message is ({self._info.name}: .*?)(?:\n\n|$)", str(error), re.DOTALL)
            if text is None:
                raise
            # What shapes, dtypes and attributes tell is raised with its type by `validate`; the rest is about values.
            shapes, dtypes = [t.shape for t in tensors], [str(t.dtype).lower() for t in tensors]
            kernel_impl.validate(self._info.name, shapes, dtypes, self._attrs)
            raise ValueError(text[1]) from None
        return outputs


def _is_cache(arg: op_info.Arg) -> bool:
    return any("block_num" in axis for axis in arg.shapes[0])


def _base_alias(tensor: Tensor) -> Tensor:
    """A base tensor on the memory of a contiguous tensor, which may be a view; it does not keep that memory alive."""
    dtype = tensor.dtype
    if dtype not in _NUMPY or tensor.size == 0:
        return tensor
    return _alias(tensor.data_ptr(), dtype, tensor.shape)  # waits for all that has been called


# An alias is an address, so it is right for whatever tensor is found there later. As many as caches of a large model.
@functools.lru_cache(maxsize=1024)
def _alias(address: int, dtype: Any, shape: tuple[int, ...]) -> Tensor:
    size = math.prod(shape) * _NUMPY[dtype].itemsize
    buffer: Any = (ctypes.c_char * size).from_address(address)
    return Tensor.from_numpy(np.frombuffer(buffer, _NUMPY[dtype]).reshape(shape))
