"""Calls of the kernels between margins of poison, which must stay."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
from numpy.typing import NDArray

from ms_dsv32 import kernel_impl, op_info

Array = NDArray[Any]

_MARGIN = 4096  # bytes: more than a kernel writes at a time
_POISON = 0xB5  # no value of a result: as a byte -75, as bfloat16 -1.35e-6, as float32 -1.35e-6


class _Buffer:
    """An array of its own between two margins, itself filled with poison."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        size = int(np.prod(shape)) * dtype.itemsize
        self._bytes = np.full(size + 2 * _MARGIN, _POISON, np.uint8)
        self._end = _MARGIN + size
        self.array: Array = self._bytes[_MARGIN : self._end].view(dtype).reshape(shape)

    def check(self, name: str) -> None:
        for where, margin in (("before", self._bytes[:_MARGIN]), ("after", self._bytes[self._end :])):
            changed = np.flatnonzero(margin != _POISON)
            assert changed.size == 0, f"{name}: {changed.size} bytes {where} it are written, first at {changed[0]}"


def bind(case: cases.Case) -> kernel_impl.BoundCall:
    """The call of a case, which takes the addresses of the case's inputs, then those of the kernel's outputs."""
    info = op_info.load(case.operator)
    dtypes = [arg.ms_dtype for arg in info.inputs[: len(case.inputs)]]  # the optional one is the last
    shapes = [array.shape for array in case.inputs.values()]
    return kernel_impl.BoundCall(info.name, shapes, dtypes, op_info.bind_attrs(info, case.attributes))


def run(case: cases.Case) -> dict[str, Array]:
    """The kernel's outputs by name; the case stays as it is.

    Raises:
        AssertionError: bytes before or after an output or a cache are written.
    """
    info = op_info.load(case.operator)
    call = bind(case)
    buffers = {
        arg.name: _Buffer(case.inputs[arg.name].shape, case.inputs[arg.name].dtype)
        for arg in info.inputs
        if arg.in_place
    }
    for name, buffer in buffers.items():
        buffer.array[...] = case.inputs[name]
    arrays = [buffers[name].array if name in buffers else array for name, array in case.inputs.items()]
    for out, shape in zip(info.kernel_outputs, call.out_shapes, strict=True):
        buffers[out.name] = _Buffer(shape, np.dtype(out.np_dtype))
        arrays.append(buffers[out.name].array)
    call([array.ctypes.data for array in arrays])
    for name, buffer in buffers.items():
        buffer.check(f"{case.operator}: {name}")
    return {out.name: buffers[out.in_place_of or out.name].array for out in info.outputs}
