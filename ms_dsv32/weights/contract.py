"""The weights that the operators take: their names, shapes and dtypes, row-major, and files of them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as serialise

from ms_dsv32 import config, op_info

Array = NDArray[Any]

MLA_WEIGHTS = ("w_dq", "w_uq_qr", "dequant_scale", "w_uk", "w_dkv_kr", "gamma_cq", "gamma_ckv")
"""Weights of `mla_prolog_quant`, in the contract's order."""
INDEXER_WEIGHTS = ("w_qb", "w_qb_scale", "wk", "w_proj", "ln_gamma_k", "ln_beta_k", "hadamard_q", "hadamard_k")
"""Weights of `lightning_indexer_prolog_quant`, in the contract's order."""
EPILOG_WEIGHTS = ("w_uv", "w_o", "w_o_scale")
"""Weights of `mla_epilog_quant`, in the contract's order."""

_OPERATORS = {
    **dict.fromkeys(MLA_WEIGHTS, "mla_prolog_quant"),
    **dict.fromkeys(INDEXER_WEIGHTS, "lightning_indexer_prolog_quant"),
    **dict.fromkeys(EPILOG_WEIGHTS, "mla_epilog_quant"),
}


def argument(name: str) -> op_info.Arg:
    """What op_info says of a weight of `MLA_WEIGHTS`, `INDEXER_WEIGHTS` or `EPILOG_WEIGHTS`.

    Raises:
        ValueError: there is no such weight.
    """
    if name not in _OPERATORS:
        raise ValueError(f"weights: there is no weight {name}; there are {', '.join(_OPERATORS)}")
    return next(a for a in op_info.load(_OPERATORS[name]).inputs if a.name == name)


def shape_of(name: str, n_q: int = config.N_Q) -> tuple[int, ...]:
    """The shape of a weight of `MLA_WEIGHTS`, `INDEXER_WEIGHTS` or `EPILOG_WEIGHTS` for n_q heads."""
    values = {dim.name: dim.value for dim in op_info.dims().values()} | {"n_q": n_q}

    def axis(expression: str) -> int:
        return sum(math.prod(int(values.get(s) or s) for s in term.split("*")) for term in expression.split("+"))

    return tuple(map(axis, argument(name).shapes[0]))


def check(weights: Mapping[str, Array], names: Sequence[str], n_q: int = config.N_Q) -> None:
    """Checks names, dtypes and shapes of row-major weights.

    Raises:
        TypeError, ValueError: what is missing, unknown or wrong.
    """
    missing, unknown = sorted(set(names) - set(weights)), sorted(set(weights) - set(names))
    if missing or unknown:
        raise ValueError(
            f"weights: {missing[0]} is missing" if missing else f"weights: there is no weight {unknown[0]}"
        )
    for name in names:
        shape = shape_of(name, n_q)
        _check_dtype(name, weights[name])
        if weights[name].shape != shape:
            symbolic = f"({', '.join(argument(name).shapes[0])})"
            raise ValueError(f"weights: {name} has shape {weights[name].shape}, expected {symbolic} = {shape}")


def _check_dtype(name: str, array: Array) -> None:
    arg = argument(name)
    if array.dtype != np.dtype(arg.np_dtype):
        expected = "uint16 (bfloat16 bits)" if arg.dtype == "bf16" else np.dtype(arg.np_dtype).name
        raise TypeError(f"weights: {name} must be {expected}, got {array.dtype}")


def hadamard(n: int = config.IDX_HEAD_DIM) -> Array:
    """The indexer's usual matrix: Sylvester's Hadamard matrix over sqrt(n), bfloat16 bits [n, n], n a power of two."""
    i = np.arange(n)
    parity = np.zeros((n, n), np.int64)
    for bit in range(n.bit_length() - 1):
        parity ^= (i[:, None] >> bit) & (i >> bit) & 1
    return to_bits((1 - 2 * parity) / math.sqrt(n))


def save(path: str | Path, weights: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Writes row-major weights to a safetensors file under their own names.

    The file is written beside its place, as ``<name>.part``, and renamed when it is complete. So neither an
    interruption nor a full disk destroys an older file.

    Args:
        path: the file.
        weights: the weights under the contract's names.
        metadata: texts to keep in the file's header.

    Raises:
        ValueError: a name is in no list. TypeError: a weight has a wrong dtype. OSError: the file cannot be written.
    """
    for name, array in weights.items():
        _check_dtype(name, array)
    arrays = {
        k: np.ascontiguousarray(v.view(ml_dtypes.bfloat16) if v.dtype == np.uint16 else v) for k, v in weights.items()
    }
    content = serialise(arrays, {"format": "ms_dsv32", **(metadata or {})})
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def to_bits(values: Array) -> Array:
    """Rounds to bfloat16, to nearest even, and returns the bits in uint16."""
    return values.astype(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)


def is_bfloat16(array: Array) -> bool:
    """Whether an array has a NumPy type called bfloat16: MindSpore and ml_dtypes each bring one."""
    return array.dtype.name == "bfloat16"
