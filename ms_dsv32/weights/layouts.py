"""Layouts of weights in memory, and conversion of bfloat16 bits to and from Tensors.

In NumPy bfloat16 is held as its bits in ``uint16``, as everywhere in this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from ms_dsv32 import kernel_impl
from ms_dsv32.weights.contract import Array, argument, is_bfloat16

if TYPE_CHECKING:
    from mindspore import Tensor

_PANEL = 64  # the columns of a packed weight are a multiple of it
_STRIP = 16  # columns that a packed weight holds together, see kernel_impl/cpu/pack.h
# A fractal of FRACTAL_NZ is 16 rows of 32 bytes.
_FRACTAL_ROWS = 16
_FRACTAL_ROW_BYTES = 32


def to_tensor(array: Array) -> Tensor:
    """A Tensor on the memory of an array. uint16 holds bfloat16 bits and becomes bfloat16.

    An array that is not C-contiguous, aligned, writable and in the machine's byte order is copied first. The Tensor is
    not a view in MindSpore's sense, so it may be a cache.

    Raises:
        TypeError: what was passed is not an array.
    """
    from mindspore import Tensor  # imported here, because layouts and files work without MindSpore

    if not isinstance(array, np.ndarray):
        raise TypeError(f"to_tensor: array must be a NumPy array, got {type(array).__name__}")
    array = np.require(array, array.dtype.newbyteorder("="), ["C", "A", "W"])
    return Tensor.from_numpy(array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array)


def to_array(tensor: Tensor) -> Array:
    """The values of a Tensor as an array. bfloat16 becomes its bits in uint16.

    The array may share the memory of a CPU Tensor. Copy it before the Tensor is written again.
    """
    array: Array = tensor.asnumpy()
    return array.view(np.uint16) if is_bfloat16(array) else array


def pack(weight: Array) -> Array:
    """Lays out a weight for the CPU kernels (``weight_format="PACKED"``): same shape and dtype, another order of bytes.

    Args:
        weight: int8, or bfloat16 bits as uint16; [K, N] or [batch, K, N], row-major; N a multiple of 64, K of 4 (int8)
            or 2.

    Raises:
        TypeError, ValueError: another dtype or shape.
    """
    return kernel_impl.pack(weight)


def unpack(weight: Array) -> Array:
    """Undoes `pack`. Argument and errors are those of `pack`."""
    if weight.dtype not in (np.int8, np.uint16) or weight.ndim not in (2, 3):
        got = f"{weight.dtype} {weight.shape}"
        raise TypeError(f"unpack: weight must be int8 or uint16 (bfloat16 bits) of rank 2 or 3, got {got}")
    *batch, k, n = weight.shape
    group = 4 // weight.dtype.itemsize  # values of one column that are adjacent, 32 bits
    if n % _PANEL or k % group:
        expected = f"(.., K, N) with K % {group} == 0 and N % {_PANEL} == 0"
        raise ValueError(f"unpack: weight has shape {weight.shape}, expected {expected}")
    strips = weight.reshape(-1, n // _STRIP, k // group, _STRIP, group)
    return np.ascontiguousarray(strips.transpose(0, 2, 4, 1, 3)).reshape(*batch, k, n)


def to_nz(weight: Array) -> Array:
    """Lays out a weight as FRACTAL_NZ, the order in which the cube unit of Atlas A2/A3 loads it fastest.

    Columns come in groups of c0, the values of 32 bytes. The rows of a group follow each other, in fractals of 16.
    Source: CANN's documentation, "data formats", FRACTAL_NZ.

    Args:
        weight: int8 (c0 = 32), or bfloat16 bits as uint16 (c0 = 16); [.., k, n], row-major.

    Returns:
        A copy of the same dtype, [.., ceil(n / c0), ceil(k / 16), 16, c0]. Rows and columns of padding are zero.

    Raises:
        TypeError: another dtype. ValueError: fewer than two axes.
    """
    c0 = _c0("to_nz", weight)
    if weight.ndim < 2:
        raise ValueError(f"to_nz: weight has shape {weight.shape}, expected (.., k, n)")
    *batch, k, n = weight.shape
    groups, fractals = -(-n // c0), -(-k // _FRACTAL_ROWS)
    padded = np.zeros((*batch, fractals * _FRACTAL_ROWS, groups * c0), weight.dtype)
    padded[..., :k, :n] = weight
    split = padded.reshape(*batch, fractals, _FRACTAL_ROWS, groups, c0)
    return np.ascontiguousarray(np.moveaxis(split, -2, -4))


def from_nz(weight: Array, k: int, n: int) -> Array:
    """Undoes `to_nz`: a row-major weight [.., k, n], a copy, from its fractals.

    Raises:
        TypeError: a dtype that `to_nz` does not give. ValueError: the shape does not fit k rows and n columns.
    """
    c0 = _c0("from_nz", weight)
    expected = (-(-n // c0), -(-k // _FRACTAL_ROWS), _FRACTAL_ROWS, c0)
    if weight.ndim < 4 or weight.shape[-4:] != expected:
        raise ValueError(f"from_nz: weight has shape {weight.shape}, expected {('..', *expected)} for k = {k}, n = {n}")
    rows = np.moveaxis(weight, -4, -2).reshape(*weight.shape[:-4], expected[1] * _FRACTAL_ROWS, expected[0] * c0)
    return rows[..., :k, :n].copy()


def prepare(name: str, weight: Array, target: str) -> Array:
    """Lays out a weight as the kernels of a device target want it with ``weight_format="PACKED"``.

    For CPU that is `pack` of the packable weights, for Ascend `to_nz` of those whose storage format is NZ in op_info. A
    prepared weight keeps shape and dtype, on Ascend too. MindSpore takes it for a row-major tensor, so nothing converts
    it a second time.

    Args:
        name: one of `MLA_WEIGHTS`, `INDEXER_WEIGHTS` or `EPILOG_WEIGHTS`.
        weight: row-major, with the dtype that `check` wants, e.g. w_dq [7168, 1536].
        target: MindSpore's device target, "CPU" or "Ascend".

    Returns:
        An array of the same shape and dtype. It is the very array that was passed if its layout does not change.

    Raises:
        TypeError, ValueError: an unknown name or target, or a dtype or shape without such a layout.
    """
    if not _is_laid_out(name, target):
        return weight
    if target == "CPU":
        return pack(weight)
    nz = to_nz(weight)
    if nz.size != weight.size:
        whole = f"k % {_FRACTAL_ROWS} == 0 and n % {nz.shape[-1]} == 0"
        raise ValueError(f"prepare: {name} has shape {weight.shape}, expected (k, n) with {whole}")
    return nz.reshape(weight.shape)


def restore(name: str, weight: Array, target: str) -> Array:
    """Undoes `prepare`: a row-major copy. Arguments and errors are those of `prepare`."""
    if not _is_laid_out(name, target):
        return weight.copy()
    if target == "CPU":
        return unpack(weight)
    *batch, k, n = weight.shape
    c0 = _c0("restore", weight)
    return from_nz(weight.reshape(*batch, n // c0, k // _FRACTAL_ROWS, _FRACTAL_ROWS, c0), k, n)


def _c0(function: str, weight: Array) -> int:
    if weight.dtype not in (np.int8, np.uint16):
        raise TypeError(f"{function}: weight must be int8 or uint16 (bfloat16 bits), got {weight.dtype}")
    return _FRACTAL_ROW_BYTES // weight.dtype.itemsize


def _is_laid_out(name: str, target: str) -> bool:
    """Whether the weight's layout for the target differs from row-major."""
    arg = argument(name)
    if target not in ("CPU", "Ascend"):
        raise ValueError(f"weights: there is no device target {target!r}; there are 'CPU' and 'Ascend'")
    return arg.packable if target == "CPU" else arg.format == "NZ"
