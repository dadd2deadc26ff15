"""FRACTAL_NZ: how the weights that op_info marks NZ lie in memory on Atlas."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def to_nz(matrix: Array) -> Array:
    """A row-major matrix [k, n] as [n / c0, k, c0], c0 elements in 32 bytes: 16 of bf16, 32 of int8; n % c0 == 0."""
    k, n = matrix.shape
    c0 = 32 // matrix.itemsize
    return np.ascontiguousarray(matrix.reshape(k, n // c0, c0).transpose(1, 0, 2))
