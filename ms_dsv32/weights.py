"""Weights: bfloat16 bits to and from Tensors, the layouts that kernels want, and safetensors files.

In NumPy bfloat16 travels as its bits in ``uint16``, as everywhere in this package. Weights are dicts of arrays under
the names of the operators' arguments, row-major; `MLA_WEIGHTS` and `INDEXER_WEIGHTS` list them.

Two layouts of files are read: our own, which `save` writes (the arguments' names and shapes), and DeepSeek's
(``q_a_proj.weight`` ..., matrices as [out, in]), where projections that the operators take as int8 are quantised by
output channel if they are not int8 yet, as W8A8 does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from ms_dsv32 import config, kernel_impl, op_info

if TYPE_CHECKING:
    from mindspore import Tensor

Array = NDArray[Any]
Paths = str | Path | Sequence[str | Path]

MLA_WEIGHTS = ("w_dq", "w_uq_qr", "dequant_scale", "w_uk", "w_dkv_kr", "gamma_cq", "gamma_ckv")
"""Weights of `mla_prolog_quant`, in the contract's order."""
INDEXER_WEIGHTS = ("w_qb", "w_qb_scale", "wk", "w_proj", "ln_gamma_k", "ln_beta_k", "hadamard_q", "hadamard_k")
"""Weights of `lightning_indexer_prolog_quant`, in the contract's order."""

_OPERATORS = {
    **dict.fromkeys(MLA_WEIGHTS, "mla_prolog_quant"),
    **dict.fromkeys(INDEXER_WEIGHTS, "lightning_indexer_prolog_quant"),
}
_AMAX_FLOOR = 1e-30  # as the contract's Quant: a column of zeros gives zeros and a harmless scale
_PANEL = 64  # columns of a packed weight are a multiple of it
_STRIP = 16  # columns that a packed weight holds together, see kernel_impl/cpu/pack.h
# A fractal of FRACTAL_NZ is 16 rows of 32 bytes.
_FRACTAL_ROWS = 16
_FRACTAL_ROW_BYTES = 32


def to_tensor(array: Array) -> Tensor:
    """A Tensor on the memory of an array; uint16 holds bfloat16 bits and becomes bfloat16.

    An array that is not C-contiguous or not writable is copied first. The Tensor is no view in MindSpore's sense, so it
    may be a cache.
    """
    from mindspore import Tensor  # the only need of MindSpore here: layouts and files do without

    if not array.flags.c_contiguous or not array.flags.writeable:
        array = array.copy(order="C")
    return Tensor.from_numpy(array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array)


def to_array(tensor: Tensor) -> Array:
    """The values of a Tensor as an array; bfloat16 becomes its bits in uint16.

    For a CPU Tensor the array may share its memory: copy it before the Tensor is written again.
    """
    array: Array = tensor.asnumpy()
    return array.view(np.uint16) if _is_bfloat16(array) else array


def pack(weight: Array) -> Array:
    """Lays out a weight for the CPU kernels (``weight_format="PACKED"``): the same shape and dtype, other byte order.

    Args:
        weight: int8, or bfloat16 bits as uint16; [K, N] or [batch, K, N], row-major; N a multiple of 64, K of 4 (int8)
            or 2.

    Raises:
        TypeError, ValueError: another dtype or shape.
    """
    return kernel_impl.pack(weight)


def unpack(weight: Array) -> Array:
    """Undoes `pack`. Argument and errors as of `pack`."""
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

    Columns come in groups of c0, the values of 32 bytes; a group's rows follow each other, in fractals of 16.
    Source: CANN's documentation, "data formats", FRACTAL_NZ.

    Args:
        weight: int8 (c0 = 32), or bfloat16 bits as uint16 (c0 = 16); [.., k, n], row-major.

    Returns:
        The same dtype, [.., ceil(n / c0), ceil(k / 16), 16, c0]; rows and columns that pad the edges are zero. A copy.

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
        TypeError: a dtype that `to_nz` does not give. ValueError: the shape is not that of k rows and n columns.
    """
    c0 = _c0("from_nz", weight)
    expected = (-(-n // c0), -(-k // _FRACTAL_ROWS), _FRACTAL_ROWS, c0)
    if weight.ndim < 4 or weight.shape[-4:] != expected:
        raise ValueError(f"from_nz: weight has shape {weight.shape}, expected {('..', *expected)} for k = {k}, n = {n}")
    rows = np.moveaxis(weight, -4, -2).reshape(*weight.shape[:-4], expected[1] * _FRACTAL_ROWS, expected[0] * c0)
    return rows[..., :k, :n].copy()


def prepare(name: str, weight: Array, target: str) -> Array:
    """Lays out a weight as the kernels of a device target want it with ``weight_format="PACKED"``.

    For CPU that is `pack` of the packable weights; for Ascend `to_nz` of those whose storage format is NZ in op_info. A
    prepared weight keeps shape and dtype, on Ascend too: MindSpore goes on taking it for a row-major tensor, so nothing
    converts it once more.

    Args:
        name: of `MLA_WEIGHTS` or `INDEXER_WEIGHTS`.
        weight: row-major, of the dtype that `check` wants; w_dq [7168, 1536].
        target: MindSpore's device target, "CPU" or "Ascend".

    Returns:
        An array of the same shape and dtype; the very array that was passed if its layout does not change.

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
    """Undoes `prepare`: a row-major copy. Arguments and errors as of `prepare`."""
    if not _is_laid_out(name, target):
        return weight.copy()
    if target == "CPU":
        return unpack(weight)
    *batch, k, n = weight.shape
    c0 = _c0("restore", weight)
    return from_nz(weight.reshape(*batch, n // c0, k // _FRACTAL_ROWS, _FRACTAL_ROWS, c0), k, n)


def shape_of(name: str, n_q: int = config.N_Q) -> tuple[int, ...]:
    """The shape of a weight of `MLA_WEIGHTS` or `INDEXER_WEIGHTS` for n_q heads."""
    values = {dim.name: dim.value for dim in op_info.dims().values()} | {"n_q": n_q}

    def axis(expression: str) -> int:
        return sum(math.prod(int(values.get(s) or s) for s in term.split("*")) for term in expression.split("+"))

    return tuple(map(axis, _argument(name).shapes[0]))


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
        arg, shape = _argument(name), shape_of(name, n_q)
        dtype = np.dtype(arg.np_dtype)
        if weights[name].dtype != dtype:
            expected = "uint16 (bfloat16 bits)" if arg.dtype == "bf16" else dtype.name
            raise TypeError(f"weights: {name} must be {expected}, got {weights[name].dtype}")
        if weights[name].shape != shape:
            symbolic = f"({', '.join(arg.shapes[0])})"
            raise ValueError(f"weights: {name} has shape {weights[name].shape}, expected {symbolic} = {shape}")


def hadamard(n: int = config.IDX_HEAD_DIM) -> Array:
    """Sylvester's Hadamard matrix over sqrt(n), bfloat16 bits [n, n]; n is a power of two. The indexer's usual one."""
    i = np.arange(n)
    parity = np.zeros((n, n), np.int64)
    for bit in range(n.bit_length() - 1):
        parity ^= (i[:, None] >> bit) & (i >> bit) & 1
    return _bits((1 - 2 * parity) / math.sqrt(n))


def save(path: str | Path, weights: Mapping[str, Array]) -> None:
    """Writes row-major weights to a safetensors file under their own names.

    Raises:
        ValueError: a name is in neither list.
    """
    for name in weights:
        _argument(name)
    arrays = {
        k: np.ascontiguousarray(v.view(ml_dtypes.bfloat16) if v.dtype == np.uint16 else v) for k, v in weights.items()
    }
    save_file(arrays, str(path), metadata={"format": "ms_dsv32"})


def load_mla(paths: Paths, *, prefix: str = "", heads: range | None = None) -> dict[str, Array]:
    """Reads the weights of `mla_prolog_quant`.

    Args:
        paths: one safetensors file, or the shards among which the weights are.
        prefix: of the names in the file: ``"model.layers.0.self_attn."``.
        heads: query heads to take, all by default; a tensor-parallel rank takes its own.

    Returns:
        The arrays of `MLA_WEIGHTS`, row-major. The value half of ``kv_b_proj`` is not among them: it belongs to the
        projection after the attention.

    Raises:
        KeyError: no file has a weight. TypeError, ValueError: a dtype or shape does not fit.
    """
    with _Files(paths, prefix) as files:
        weights = files.own(MLA_WEIGHTS) or _mla_from_deepseek(files)
    total = weights["w_uk"].shape[0]
    check(weights, MLA_WEIGHTS, total)
    if heads is not None:
        if heads.step != 1 or not 0 <= heads.start < heads.stop <= total:
            raise ValueError(f"load_mla: heads is {heads}, expected a part of range(0, {total})")
        columns = slice(heads.start * config.Q_HEAD_DIM, heads.stop * config.Q_HEAD_DIM)
        weights["w_uq_qr"] = np.ascontiguousarray(weights["w_uq_qr"][:, columns])
        weights["dequant_scale"] = weights["dequant_scale"][columns]
        weights["w_uk"] = weights["w_uk"][heads.start : heads.stop]
    return weights


def load_indexer(paths: Paths, *, prefix: str = "") -> dict[str, Array]:
    """Reads the weights of `lightning_indexer_prolog_quant`.

    Args:
        paths, prefix: as of `load_mla`. DeepSeek's names follow the prefix with ``indexer.``; its files have no
            Hadamard matrices, so these are `hadamard`.

    Returns:
        The arrays of `INDEXER_WEIGHTS`, row-major.

    Raises:
        KeyError, TypeError, ValueError: as `load_mla`.
    """
    with _Files(paths, prefix) as files:
        weights = files.own(INDEXER_WEIGHTS) or _indexer_from_deepseek(files)
    check(weights, INDEXER_WEIGHTS)
    return weights


def _mla_from_deepseek(files: _Files) -> dict[str, Array]:
    w_uq_qr, dequant_scale = files.quantised("q_b_proj")
    kv_b = files.matrix("kv_b_proj.weight")
    per_head = config.QK_NOPE_HEAD_DIM + config.V_HEAD_DIM
    if kv_b.shape[0] % per_head or kv_b.shape[1] != config.KV_LORA_RANK:
        expected = f"(n_q * (qk_nope_head_dim + v_head_dim), kv_lora_rank) = (n_q * {per_head}, {config.KV_LORA_RANK})"
        raise ValueError(f"load_mla: kv_b_proj.weight has shape {kv_b.shape}, expected {expected}")
    w_uk = kv_b.reshape(-1, per_head, config.KV_LORA_RANK)[:, : config.QK_NOPE_HEAD_DIM]
    return {
        "w_dq": np.ascontiguousarray(files.matrix("q_a_proj.weight").T),
        "w_uq_qr": w_uq_qr,
        "dequant_scale": dequant_scale,
        "w_uk": np.ascontiguousarray(w_uk),
        "w_dkv_kr": np.ascontiguousarray(files.matrix("kv_a_proj_with_mqa.weight").T),
        "gamma_cq": files.bf16("q_a_layernorm.weight"),
        "gamma_ckv": files.bf16("kv_a_layernorm.weight"),
    }


def _indexer_from_deepseek(files: _Files) -> dict[str, Array]:
    w_qb, w_qb_scale = files.quantised("indexer.wq_b")
    return {
        "w_qb": w_qb,
        "w_qb_scale": w_qb_scale,
        "wk": np.ascontiguousarray(files.matrix("indexer.wk.weight").T),
        "w_proj": np.ascontiguousarray(files.matrix("indexer.weights_proj.weight").T),
        "ln_gamma_k": files.bf16("indexer.k_norm.weight"),
        "ln_beta_k": files.bf16("indexer.k_norm.bias"),
        "hadamard_q": hadamard(),
        "hadamard_k": hadamard(),
    }


class _Files:
    """Safetensors files as one mapping; names without the prefix."""

    def __init__(self, paths: Paths, prefix: str) -> None:
        self._paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
        self._prefix = prefix
        self._stack = ExitStack()

    def __enter__(self) -> _Files:
        self._files = [self._stack.enter_context(safe_open(str(path), framework="np")) for path in self._paths]
        self._where = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def own(self, names: Sequence[str]) -> dict[str, Array] | None:
        """The weights under our own names, or None if the first is not there."""
        if self._prefix + names[0] not in self._where:
            return None
        arrays = {name: self._get(name) for name in names}
        return {k: v.view(np.uint16) if _is_bfloat16(v) else v for k, v in arrays.items()}

    def bf16(self, name: str) -> Array:
        """A weight as bfloat16 bits."""
        array = self._get(name)
        if _is_bfloat16(array):
            return array.view(np.uint16)
        if array.dtype in (np.float32, np.float16):
            return _bits(array)
        raise TypeError(f"weights: {self._prefix}{name} is {array.dtype}; dequantise it to bfloat16 first")

    def matrix(self, name: str) -> Array:
        """A weight [out, in] as bfloat16 bits."""
        array = self.bf16(name)
        if array.ndim != 2:
            raise ValueError(f"weights: {self._prefix}{name} has shape {array.shape}, expected two axes")
        return array

    def quantised(self, name: str) -> tuple[Array, Array]:
        """A projection [out, in] as int8 [in, out] and scale [out, 1]: as it is in the file, or quantised."""
        array = self._get(f"{name}.weight")
        if array.dtype == np.int8:
            scale = self._get(f"{name}.weight_scale").astype(np.float32).reshape(-1, 1)
            return np.ascontiguousarray(array.T), scale
        w = (self.matrix(f"{name}.weight").astype(np.uint32) << np.uint32(16)).view(np.float32)
        amax = np.maximum(np.abs(w).max(axis=1, keepdims=True), np.float32(_AMAX_FLOOR))
        q = np.rint(w * (np.float32(127.0) / amax)).astype(np.int8)
        return np.ascontiguousarray(q.T), amax / np.float32(127.0)

    def _get(self, name: str) -> Array:
        key = self._prefix + name
        if key not in self._where:
            raise KeyError(f"weights: no tensor {key!r} in {', '.join(map(str, self._paths))}")
        array: Array = self._where[key].get_tensor(key)
        return array


def _c0(function: str, weight: Array) -> int:
    if weight.dtype not in (np.int8, np.uint16):
        raise TypeError(f"{function}: weight must be int8 or uint16 (bfloat16 bits), got {weight.dtype}")
    return _FRACTAL_ROW_BYTES // weight.dtype.itemsize


def _is_laid_out(name: str, target: str) -> bool:
    """Whether the weight's layout for the target is not row-major."""
    arg = _argument(name)
    if target not in ("CPU", "Ascend"):
        raise ValueError(f"weights: there is no device target {target!r}; there are 'CPU' and 'Ascend'")
    return arg.packable if target == "CPU" else arg.format == "NZ"


def _argument(name: str) -> op_info.Arg:
    if name not in _OPERATORS:
        raise ValueError(f"weights: there is no weight {name}; there are {', '.join(_OPERATORS)}")
    return next(a for a in op_info.load(_OPERATORS[name]).inputs if a.name == name)


def _is_bfloat16(array: Array) -> bool:
    return array.dtype.name == "bfloat16"  # MindSpore and ml_dtypes each bring a NumPy type of this name


def _bits(values: Array) -> Array:
    return values.astype(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)
