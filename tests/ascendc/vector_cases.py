"""Runs the cases of `vector_cases.cpp`: one vector API each."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
from emulator import In, Library, Out, Tiling, build

SOURCE = Path(__file__).resolve().parent.parent / "ascendc_emulator" / "tests" / "vector_cases.cpp"
CASES = [
    case or f"cast_{source}_{to}"
    for case, to, source in re.findall(
        r"^ +(?:CASE\((\w+)\)|CAST\((\w+), (\w+)\))", SOURCE.read_text(encoding="utf-8"), re.MULTILINE
    )
]
F, H, I32, S, U = np.float32, np.float16, np.int32, np.int16, np.uint32
N = 300


@functools.cache
def library() -> Library:
    return build(SOURCE, ["vector_case"])


def run(
    case: str,
    a: np.ndarray,
    b: np.ndarray | None,
    before: np.ndarray,
    count: int = N,
    mode: int = 0,
    seed: int = 0,
) -> np.ndarray:
    """What a case of `vector_cases.cpp` leaves in `before`."""
    b = np.zeros(8, np.float32) if b is None else b
    out = Out("out", before.shape, before.dtype)
    fields = [CASES.index(case), mode, count, a.nbytes, b.nbytes, before.nbytes]
    tiling = Tiling(np.array(fields, np.int32))
    args = [In("a", a), In("b", b), In("before", before), out, tiling]
    library().launch("vector_case", args, kernel_type="AIV_ONLY", seed=seed).check()
    return out.array


def normal(size: int, dtype: type = F, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


def integers(size: int, dtype: type, low: int = -1000, high: int = 1000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, size).astype(dtype)
