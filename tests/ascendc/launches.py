"""The operators' AscendC kernels as libraries of the emulator."""

from __future__ import annotations

import functools

from emulator import Library, build
from tiling import OP_KERNEL


@functools.cache
def library(op: str) -> Library:
    return build(OP_KERNEL / f"{op}.cpp", [op])
