"""What tests compare instead of the arrays themselves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from cases import Array, Case
from numpy.typing import NDArray

from ms_dsv32 import golden


def wide(bits: NDArray[np.uint16]) -> NDArray[np.float64]:
    """bfloat16 values as float64."""
    return golden.bf16_to_float32(bits).astype(np.float64)


def relative(got: Array, want: Array) -> float:
    """The norm of the difference over that of what is wanted."""
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def written(case: Case, outputs: Mapping[str, Array], name: str) -> Array:
    """The rows of a cache that a call's tokens have."""
    cache = outputs[name]
    return cache.reshape(-1, cache.shape[-1])[case.paging.cache_index.reshape(-1)]
