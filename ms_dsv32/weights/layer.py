"""The attention of one layer of a checkpoint, as the operators' weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from ms_dsv32 import config
from ms_dsv32.weights.contract import (
    EPILOG_WEIGHTS,
    INDEXER_WEIGHTS,
    MLA_WEIGHTS,
    Array,
    argument,
    check,
    hadamard,
    shape_of,
)
from ms_dsv32.weights.files import Checkpoint
from ms_dsv32.weights.matrix import (
    FLOATS,
    Kind,
    Loss,
    Matrix,
    bits_of,
    check_tensor,
    positive,
    require_finite,
    require_one,
    require_zero,
)
from ms_dsv32.weights.names import NAMES, OWN, ROTATIONS, Names, prefixes_of

_CHUNK = 1024 * config.H  # values that are dequantised at a time, at most: 29 MB of float32
_HEAD_ROWS = config.QK_NOPE_HEAD_DIM + config.V_HEAD_DIM  # rows of kv_b_proj: a head's keys, then its values
_ALL_WEIGHTS = (*MLA_WEIGHTS, *INDEXER_WEIGHTS, *EPILOG_WEIGHTS)
# For each weight that belongs to heads, the axis along which heads follow one another, and the length of one head.
_HEAD_AXES = {
    "w_uq_qr": (1, config.Q_HEAD_DIM),
    "dequant_scale": (0, config.Q_HEAD_DIM),
    "w_uk": (0, 1),
    "w_uv": (0, 1),
    "w_o": (0, config.V_HEAD_DIM),
}
_DTYPES = {"bf16": "BF16", "fp32": "F32", "int8": "I8"}  # dtypes of our own files, by op_info's names

# The module of each weight that is a matrix, and its shape [out, in].
_MLA_MATRICES = {
    "w_dq": ("q_a_proj", ("q_lora_rank", "h")),
    "w_uq_qr": ("q_b_proj", ("n_q * q_head_dim", "q_lora_rank")),
    "w_uk": ("kv_b_proj", ("n_q * (qk_nope_head_dim + v_head_dim)", "kv_lora_rank")),
    "w_dkv_kr": ("kv_a_proj_with_mqa", ("kv_lora_rank + rope_dim", "h")),
}
_INDEXER_MATRICES = {
    "w_qb": ("indexer.wq_b", ("idx_n_heads * idx_head_dim", "q_lora_rank")),
    "wk": ("indexer.wk", ("idx_head_dim", "h")),
    "w_proj": ("indexer.weights_proj", ("idx_n_heads", "h")),
}
_EPILOG_MATRICES = {
    "w_uv": _MLA_MATRICES["w_uk"],
    "w_o": ("o_proj", ("h", "n_q * v_head_dim")),
}
_ROWS = {
    "w_dq": config.Q_LORA_RANK,
    "w_dkv_kr": config.KV_LORA_RANK + config.ROPE_DIM,
    "w_qb": config.IDX_N_HEADS * config.IDX_HEAD_DIM,
    "wk": config.IDX_HEAD_DIM,
    "w_proj": config.IDX_N_HEADS,
}
_COLUMNS = {"h": config.H, "q_lora_rank": config.Q_LORA_RANK, "kv_lora_rank": config.KV_LORA_RANK}


@dataclass(frozen=True)
class Part:
    """What one weight is made of: the tensor ``name``, whose format ``kind`` is one of `Kind`, or `OWN`."""

    weight: str
    name: str
    kind: str
    shape: tuple[int, ...]


class Layer:
    """The attention's tensors of one layer.

    Args:
        checkpoint: where they are. Only headers are read until a ``read_`` method is called.
        prefix: the beginning of their names, ``"model.layers.0.self_attn."``.
        allow_unknown: whether unknown tensors under the prefix are ignored instead of refused.
        losses: if given, filled with what each matrix loses, by the weight's name. Reading then takes longer.

    Raises:
        TypeError: the prefix is not a str. KeyError: no attention is under it. ValueError: a tensor under it is in two
            files, or the weights are laid out for a device target.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        prefix: str,
        *,
        allow_unknown: bool = False,
        losses: dict[str, Loss] | None = None,
    ) -> None:
        if not isinstance(prefix, str):
            raise TypeError(f"weights: prefix must be a str, got {prefix!r}")
        self.prefix = prefix
        self.parts: dict[str, Part] = {}
        """What was checked, by the weight's name."""
        self._checkpoint = checkpoint
        self._allow_unknown = allow_unknown
        self._losses = losses
        self._tensors = {name for name in checkpoint.names() if name.startswith(prefix)}
        self._matrices: dict[str, Matrix] = {}
        self._is_own = any(prefix + weight in self._tensors for weight in _ALL_WEIGHTS)
        self._names = max(NAMES, key=self._count)  # the first one, if several fit equally
        if not self._is_own and not self._count(self._names):
            there = ", ".join(map(repr, [*prefixes_of(checkpoint)][:3])) or "none"
            raise KeyError(f"weights: no attention under {prefix!r} in {checkpoint.paths}; layers begin with {there}")
        checkpoint.under(prefix)
        if self._is_own and self._own("layout") in self._tensors:
            text = (
                "tells that the weights beside it are laid out for one device target, as mindspore.save_checkpoint does"
            )
            raise ValueError(f"weights: {checkpoint.where(self._own('layout'))} {text}; use mindspore.load_checkpoint")

    @property
    def whose(self) -> str:
        """Whose names the tensors have."""
        return OWN if self._is_own else self._names.whose

    @property
    def used(self) -> set[str]:
        """The names of the tensors that were checked. They determine what is read."""
        return {part.name for part in self.parts.values()}.union(*(m.tensors for m in self._matrices.values()))

    @property
    def has_epilog(self) -> bool:
        """Whether the checkpoint has `EPILOG_WEIGHTS` other than the value half of ``kv_b_proj``."""
        own = any(self._own(weight) in self._tensors for weight in EPILOG_WEIGHTS)
        return own if self._is_own else bool(self._of_module("o_proj"))

    def n_q(self) -> int:
        """The query heads that the checkpoint holds.

        Raises:
            KeyError, ValueError: the tensor that tells it is missing, or has a wrong shape.
        """
        if self._is_own:
            weight = "w_uv" if self._own("w_uk") not in self._tensors and self.has_epilog else "w_uk"
            name, rows, symbolic = self._own(weight), 1, ", ".join(argument(weight).shapes[0])
        else:
            name, rows = f"{self._module('kv_b_proj')}.weight", _HEAD_ROWS
            symbolic = ", ".join(_MLA_MATRICES["w_uk"][1])
        shape = self._checkpoint.info(name).shape
        n_q, rest = divmod(shape[0], rows) if shape else (0, 0)
        if rest or not 1 <= n_q <= config.N_Q:
            expected = f"({symbolic}) with n_q from 1 to {config.N_Q}"
            raise ValueError(f"weights: {self._checkpoint.where(name)} has shape {shape}, expected {expected}")
        return n_q

    def heads(self, heads: range | None) -> range:
        """The query heads to read: ``heads``, or all.

        Raises:
            TypeError, ValueError: ``heads`` is not a range of the checkpoint's heads. Other errors are those of `n_q`.
        """
        n_q = self.n_q()
        return range(n_q) if heads is None else checked_heads(heads, n_q)

    def check_mla(self) -> int:
        """Checks what `MLA_WEIGHTS` are made of, as far as headers and small tensors tell. Returns n_q.

        Raises:
            KeyError, TypeError, ValueError: a tensor is missing, has a wrong dtype or shape, or cannot be honoured.
        """
        n_q = self.n_q()
        if self._is_own:
            self._check_own(MLA_WEIGHTS, n_q)
            return n_q
        rows = {**_ROWS, "w_uq_qr": n_q * config.Q_HEAD_DIM, "w_uk": n_q * _HEAD_ROWS}
        for weight, (module, symbolic) in _MLA_MATRICES.items():
            self._check_matrix(weight, module, (rows[weight], _COLUMNS[symbolic[1]]), symbolic)
        for weight, module in (("gamma_cq", "q_a_layernorm"), ("gamma_ckv", "kv_a_layernorm")):
            self._check_vector(weight, f"{self._module(module)}.weight")
            bias = f"{self._module(module)}.bias"
            if bias in self._tensors:
                check_tensor(self._checkpoint, bias, FLOATS, (shape_of(weight),), argument(weight).shapes[0])
                require_zero(self._checkpoint, bias)
        self._check_rest(self._tensors - self._of_indexer(), passed_over="o_proj")
        return n_q

    def check_indexer(self) -> None:
        """Checks what `INDEXER_WEIGHTS` are made of. Errors are those of `check_mla`."""
        if self._is_own:
            self._check_own(INDEXER_WEIGHTS)
            return
        for weight, (module, symbolic) in _INDEXER_MATRICES.items():
            self._check_matrix(weight, module, (_ROWS[weight], _COLUMNS[symbolic[1]]), symbolic)
        self._check_vector("ln_gamma_k", f"{self._module('indexer.k_norm')}.weight")
        self._check_vector("ln_beta_k", f"{self._module('indexer.k_norm')}.bias")
        both, *each = (self.prefix + name for name in ROTATIONS)
        if both in self._tensors and not self._tensors.isdisjoint(each):
            where = self._checkpoint.where(both)
            raise ValueError(f"weights: {where} stands beside q_rot or k_rot, expected one way to turn query and key")
        if both in self._tensors:
            each = [both, both]
        if not self._tensors.isdisjoint(each):
            for weight, name in zip(("hadamard_q", "hadamard_k"), each, strict=True):
                self._check_vector(weight, name)
        self._check_rest(self._of_indexer())

    def check_epilog(self) -> None:
        """Checks what `EPILOG_WEIGHTS` are made of. Errors are those of `check_mla`."""
        n_q = self.n_q()
        if self._is_own:
            self._check_own(EPILOG_WEIGHTS, n_q)
            return
        shapes = {
            "w_uv": (n_q * _HEAD_ROWS, config.KV_LORA_RANK),
            "w_o": (config.H, n_q * config.V_HEAD_DIM),
        }
        for weight, (module, symbolic) in _EPILOG_MATRICES.items():
            self._check_matrix(weight, module, shapes[weight], symbolic)
        self._check_rest(self._of_module("kv_b_proj") | self._of_module("o_proj"))

    def read_mla(self, heads: range | None = None) -> dict[str, Array]:
        """Checks and reads `MLA_WEIGHTS`, row-major, of some of the query heads (all by default).

        Raises:
            KeyError, TypeError, ValueError: as `check_mla`; or a value is not finite, a scale is not finite and
                positive, a quant_bias is a bias, or ``heads`` is not a range of the checkpoint's heads.
        """
        self.check_mla()
        heads = self.heads(heads)
        if self._is_own:
            weights = of_heads(self._read_own(MLA_WEIGHTS), heads)
        else:
            query = (heads.start * config.Q_HEAD_DIM, heads.stop * config.Q_HEAD_DIM)
            keys = [(n * _HEAD_ROWS, n * _HEAD_ROWS + config.QK_NOPE_HEAD_DIM) for n in heads]
            w_uq_qr, dequant_scale = self._int8("w_uq_qr", [query])
            weights = {
                "w_dq": _transposed(self._bf16("w_dq")),
                "w_uq_qr": w_uq_qr,
                "dequant_scale": dequant_scale,
                "w_uk": self._bf16("w_uk", keys).reshape(shape_of("w_uk", len(heads))),
                "w_dkv_kr": _transposed(self._bf16("w_dkv_kr")),
                "gamma_cq": self._vector("gamma_cq"),
                "gamma_ckv": self._vector("gamma_ckv"),
            }
        check(weights, MLA_WEIGHTS, len(heads))
        return weights

    def read_indexer(self) -> dict[str, Array]:
        """Checks and reads `INDEXER_WEIGHTS`, row-major. Errors are those of `read_mla`.

        If the checkpoint has no matrices that turn query and key, they are `hadamard`.
        """
        self.check_indexer()
        if self._is_own:
            weights = self._read_own(INDEXER_WEIGHTS)
        else:
            w_qb, w_qb_scale = self._int8("w_qb")
            # msModelSlim multiplies by the transposes (msmodelslim/ir/quarot.py). Scores are the same: the turns cancel
            # in q . k if Q.T @ K is the identity, which it is if and only if Q @ K.T is.
            turns = {w: self._vector(w) if w in self.parts else hadamard() for w in ("hadamard_q", "hadamard_k")}
            weights = {
                "w_qb": w_qb,
                "w_qb_scale": w_qb_scale,
                "wk": _transposed(self._bf16("wk")),
                "w_proj": _transposed(self._bf16("w_proj")),
                "ln_gamma_k": self._vector("ln_gamma_k"),
                "ln_beta_k": self._vector("ln_beta_k"),
                **turns,
            }
        check(weights, INDEXER_WEIGHTS)
        return weights

    def read_epilog(self, heads: range | None = None) -> dict[str, Array]:
        """Checks and reads `EPILOG_WEIGHTS`, row-major, of some of the query heads. Errors are those of `read_mla`.

        A ``w_o`` that is quantised here has one scale for each output channel over all heads, whichever are taken. So a
        rank's weights are a part of the whole layer's.
        """
        self.check_epilog()
        heads = self.heads(heads)
        if self._is_own:
            weights = of_heads(self._read_own(EPILOG_WEIGHTS), heads)
        else:
            values = [(n * _HEAD_ROWS + config.QK_NOPE_HEAD_DIM, (n + 1) * _HEAD_ROWS) for n in heads]
            w_uv = self._bf16("w_uv", values).reshape(len(heads), config.V_HEAD_DIM, config.KV_LORA_RANK)
            w_o, w_o_scale = self._int8("w_o")
            weights = {
                "w_uv": np.ascontiguousarray(w_uv.swapaxes(1, 2)),
                **of_heads({"w_o": w_o, "w_o_scale": w_o_scale}, heads),
            }
        check(weights, EPILOG_WEIGHTS, len(heads))
        return weights

    def _own(self, weight: str) -> str:
        return self.prefix + weight

    def _count(self, names: Names) -> int:
        """How many of a naming's modules are there."""
        weights = ([f"{self.prefix}{name}.weight" for name in module] for module in names.modules.values())
        return sum(not self._tensors.isdisjoint(alternatives) for alternatives in weights)

    def _module(self, module: str) -> str:
        """The full name of a module: the alternative that is there, or the first."""
        alternatives = [self.prefix + name for name in self._names.modules[module]]
        return next((name for name in alternatives if f"{name}.weight" in self._tensors), alternatives[0])

    def _of_indexer(self) -> set[str]:
        prefixes = tuple(self.prefix + name.rpartition(".")[0] + "." for name in self._names.modules["indexer.wk"])
        return {name for name in self._tensors if name.startswith(prefixes)}

    def _of_module(self, module: str) -> set[str]:
        prefix = self._module(module) + "."
        return {name for name in self._tensors if name.startswith(prefix)}

    def _check_matrix(self, weight: str, module: str, shape: tuple[int, int], symbolic: Sequence[str]) -> None:
        matrix = Matrix(self._checkpoint, self._module(module), shape, symbolic, self._names.block_scale)
        self._matrices[weight] = matrix
        self.parts[weight] = Part(weight, matrix.weight, matrix.kind.value, shape)

    def _check_vector(self, weight: str, name: str) -> None:
        shape = shape_of(weight)
        check_tensor(self._checkpoint, name, FLOATS, (shape,), argument(weight).shapes[0])
        self.parts[weight] = Part(weight, name, Kind.FLOAT.value, shape)
        self._vector(weight)  # it is small, so its values are checked here too

    def _check_rest(self, tensors: set[str], passed_over: str | None = None) -> None:
        """Refuses what is left: clipping factors other than one, and unknown tensors."""
        known = self.used | {f"{self._module(norm)}.bias" for norm in ("q_a_layernorm", "kv_a_layernorm")}
        known.add(self.prefix + "rotary_emb.inv_freq")  # a table that transformers stored until version 4.34
        other = tuple(f"{self.prefix}{name}." for name in self._names.modules[passed_over]) if passed_over else ()
        for name in sorted(tensors - known):
            if name.endswith("alpha"):
                check_tensor(self._checkpoint, name, FLOATS, ((1,), ()), ("1",))
                require_one(self._checkpoint, name, "the operators do not clip what they quantise")
            elif not name.startswith(other):
                self._refuse_unknown(name)

    def _refuse_unknown(self, name: str) -> None:
        if not self._allow_unknown:
            where = self._checkpoint.where(name)
            raise ValueError(f"weights: {where} is not known here; allow_unknown=True passes it over")

    def _chunks(self, matrix: Matrix, rows: Sequence[tuple[int, int]] | None) -> Iterator[tuple[int, int, slice]]:
        """Chunks of rows to read, as start and stop, and the slice of the result that they fill."""
        position, step = 0, _CHUNK // matrix.shape[1]
        for first, last in rows or [(0, matrix.shape[0])]:
            for start in range(first, last, step):
                stop = min(start + step, last)
                yield start, stop, slice(position, position + stop - start)
                position += stop - start

    def _bf16(self, weight: str, rows: Sequence[tuple[int, int]] | None = None) -> Array:
        """A matrix [out, in], or rows of it, as bfloat16 bits."""
        matrix = self._matrices[weight]
        chunks = [*self._chunks(matrix, rows)]
        bits = np.empty((chunks[-1][2].stop, matrix.shape[1]), np.uint16)
        for start, stop, place in chunks:
            values = matrix.float32(start, stop)
            bits[place] = bits_of(self._checkpoint, matrix.weight, values, start)
            if self._losses is not None:
                rounded = bits[place].view(ml_dtypes.bfloat16).astype(np.float32)
                self._losses.setdefault(weight, Loss()).add(values, rounded)
        return bits

    def _int8(self, weight: str, rows: Sequence[tuple[int, int]] | None = None) -> tuple[Array, Array]:
        """A matrix [out, in], or rows of it, as int8 [in, out] and scale [out, 1]."""
        matrix = self._matrices[weight]
        chunks = [*self._chunks(matrix, rows)]
        count = chunks[-1][2].stop
        q, scale = np.empty((matrix.shape[1], count), np.int8), np.empty((count, 1), np.float32)
        loss = None if self._losses is None else self._losses.setdefault(weight, Loss())
        for start, stop, place in chunks:
            values, scale[place] = matrix.int8(start, stop, loss)
            q[:, place] = values.T
        return q, scale

    def _vector(self, weight: str) -> Array:
        """A small tensor as bfloat16 bits."""
        name = self.parts[weight].name
        return bits_of(self._checkpoint, name, self._checkpoint.read(name))

    def _check_own(self, names: Sequence[str], n_q: int = config.N_Q) -> None:
        for weight in names:
            arg, shape = argument(weight), shape_of(weight, n_q)
            check_tensor(self._checkpoint, self._own(weight), (_DTYPES[arg.dtype],), (shape,), arg.shapes[0])
            self.parts[weight] = Part(weight, self._own(weight), OWN, shape)
        for name in sorted(self._tensors - {self._own(weight) for weight in _ALL_WEIGHTS}):
            self._refuse_unknown(name)

    def _read_own(self, names: Sequence[str]) -> dict[str, Array]:
        weights = {}
        for weight in names:
            name = self._own(weight)
            array = positive(self._checkpoint, name) if weight.endswith("_scale") else self._checkpoint.read(name)
            require_finite(self._checkpoint, name, array)
            weights[weight] = array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array
        return weights


def checked_heads(heads: range, n_q: int) -> range:
    """Returns ``heads``. Raises a TypeError or ValueError unless it is a part of ``range(n_q)``."""
    if not isinstance(heads, range):
        raise TypeError(f"weights: heads must be a range, got {heads!r}")
    if heads.step != 1 or not 0 <= heads.start < heads.stop <= n_q:
        raise ValueError(f"weights: heads is {heads}, expected a part of range(0, {n_q})")
    return heads


def of_heads(weights: Mapping[str, Array], heads: range) -> dict[str, Array]:
    """Row-major weights of some of the query heads: weights that belong to heads are cut, the others stay.

    Args:
        weights: some or all of the weights of a layer.
        heads: a part of the heads that they have.

    Returns:
        The same names. Weights that are cut are contiguous copies. The others, and all if heads are all, are the very
        arrays that were passed.

    Raises:
        TypeError, ValueError: heads is not a range, or not a part of the heads that the weights have.
    """
    cut = {name: _HEAD_AXES[name] for name in weights if name in _HEAD_AXES}
    checked_heads(heads, min((weights[n].shape[axis] // size for n, (axis, size) in cut.items()), default=config.N_Q))
    parts = dict(weights)
    for name, (axis, size) in cut.items():
        index = (slice(None),) * axis + (slice(heads.start * size, heads.stop * size),)
        part = weights[name][index]
        if part.shape != weights[name].shape:
            parts[name] = part.copy()
    return parts


def _transposed(matrix: Array) -> Array:
    return np.ascontiguousarray(matrix.T)
