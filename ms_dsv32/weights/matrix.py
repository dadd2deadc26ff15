"""Matrices [out, in] of a checkpoint, in any format.

int8 matrices are taken as they are, and all others are dequantised to float32 once. Offsets and biases are refused,
because the operators have no such terms.

Sources of the formats: deepseek-ai/DeepSeek-V3.2-Exp (inference/convert.py, model.py), Ascend/msmodelslim
(ascendv1.py), hicann/cann-recipes-infer (deepseek_v3_2_exp/utils/convert_model.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import ml_dtypes
import numpy as np

from ms_dsv32.weights.contract import Array
from ms_dsv32.weights.files import Checkpoint

FLOATS = ("F32", "F16", "BF16")
"""Dtypes of values that are not quantised."""
_INTEGERS = ("I8", "I32", "I64")
_AMAX_FLOOR = 1e-30  # as in the contract's Quant: a channel of zeros gives zeros and a finite scale
_BLOCK = 128  # an FP8 matrix has one scale for each block of so many rows and columns


class Kind(Enum):
    """The format of a matrix. The values of int8 kinds, and FLOAT, are msModelSlim's names."""

    FLOAT = "FLOAT"
    """bfloat16, float16 or float32."""
    FP8 = "FP8"
    """float8 e4m3 with a scale for each block of 128 x 128, as DeepSeek publishes it."""
    DYNAMIC = "W8A8_DYNAMIC"
    """int8 with a scale for each output channel; compressed-tensors' W8A8 too."""
    STATIC = "W8A8"
    """int8 whose scale of a channel is deq_scale / input_scale. input_scale would quantise activations statically."""
    MIX = "W8A8_MIX"
    """The tensors of both int8 kinds."""


@dataclass
class Loss:
    """What loading a matrix loses, as sums of squares: of the file's dequantised values, and of the differences."""

    values: float = 0.0
    differences: float = 0.0

    @property
    def relative(self) -> float:
        """The norm of the differences over that of the values."""
        return float(np.sqrt(self.differences / self.values)) if self.values else 0.0

    def add(self, values: Array, result: Array) -> None:
        """Counts some values [rows, in], and what they became."""
        difference = result - values
        self.values += float(np.einsum("ij,ij->", values, values, dtype=np.float64))
        self.differences += float(np.einsum("ij,ij->", difference, difference, dtype=np.float64))


# Tensors that may stand beside a weight, and tensors that must.
_DYNAMIC = {"weight_scale", "weight_offset"}
_STATIC = {"deq_scale", "input_scale", "input_offset", "quant_bias"}
_BESIDE: dict[Kind, set[str]] = {
    Kind.FLOAT: set(),
    Kind.FP8: {"weight_scale_inv", "weight_scale"},
    Kind.DYNAMIC: _DYNAMIC,
    Kind.STATIC: _STATIC,
    Kind.MIX: _DYNAMIC | _STATIC,
}
_NEEDED: dict[Kind, tuple[str, ...]] = {
    Kind.FLOAT: (),
    Kind.FP8: ("weight_scale_inv",),
    Kind.DYNAMIC: ("weight_scale",),
    Kind.STATIC: ("deq_scale", "input_scale"),
    Kind.MIX: ("weight_scale",),
}
_QUANTISATION = set().union(*_BESIDE.values())


class Matrix:
    """One projection. Its constructor checks what headers and small tensors tell.

    Args:
        checkpoint: where it is.
        module: its full name, ``"model.layers.0.self_attn.q_b_proj"``.
        shape: the required shape [out, in].
        symbolic: the shape in the contract's symbols, for errors.
        block_scale: the suffix of the scales of FP8 blocks.

    Raises:
        KeyError, TypeError, ValueError: a tensor is missing, has a wrong dtype or shape, or cannot be honoured.
    """

    def __init__(
        self, checkpoint: Checkpoint, module: str, shape: tuple[int, int], symbolic: Sequence[str], block_scale: str
    ) -> None:
        self._checkpoint = checkpoint
        self._block_scale = block_scale
        self.module = module
        self.shape = shape
        check_tensor(checkpoint, self.weight, (*FLOATS, "F8_E4M3", "I8"), (shape,), symbolic)
        self.tensors = {name for name in map(self._name, ("weight", "bias", *_QUANTISATION)) if name in checkpoint}
        """The names of all of its tensors."""
        beside = {suffix for suffix in _QUANTISATION if self._name(suffix) in self.tensors}
        self.dtype = checkpoint.info(self.weight).dtype
        self.kind = self._kind(beside)
        self._check_description()
        self._check_beside(beside)
        self._check_neutral()

    @property
    def weight(self) -> str:
        """The full name of its weight."""
        return self._name("weight")

    def int8(self, start: int, stop: int, loss: Loss | None = None) -> tuple[Array, Array]:
        """Output channels start to stop as int8 [rows, in] and their scales float32 [rows, 1].

        An int8 matrix comes as it is. Others are quantised by channel, as in the contract's Quant, and what that loses
        is added to ``loss``.

        Raises:
            ValueError: a value is not finite, a scale is not finite and positive, or a quant_bias is a bias.
        """
        if self.kind in (Kind.FLOAT, Kind.FP8):
            values = self.float32(start, stop)
            q, scale = quantise(values)
            if loss is not None:
                loss.add(values, q * scale)
            return q, scale
        return self._int8(start, stop), self._scale(start, stop)

    def float32(self, start: int, stop: int) -> Array:
        """Output channels start to stop, dequantised, [rows, in]. Errors are those of `int8`."""
        if self.kind is Kind.FP8:
            values = self._checkpoint.read(self.weight, start, stop).astype(np.float32)
            first = start // _BLOCK
            scales = positive(self._checkpoint, self._name("weight_scale_inv"), first, -(-stop // _BLOCK))
            rows = np.repeat(scales, _BLOCK, axis=0)[start - first * _BLOCK :][: stop - start]
            with np.errstate(over="ignore"):  # infinity is refused below
                values *= np.repeat(rows, _BLOCK, axis=1)[:, : values.shape[1]]
        elif self.kind is Kind.FLOAT:
            values = self._checkpoint.read(self.weight, start, stop).astype(np.float32)
        else:
            values = self._int8(start, stop).astype(np.float32)
            with np.errstate(over="ignore"):
                values *= self._scale(start, stop)
        require_finite(self._checkpoint, self.weight, values, start)
        return values

    def _name(self, suffix: str) -> str:
        return f"{self.module}.{self._block_scale if suffix == 'weight_scale_inv' else suffix}"

    def _kind(self, beside: set[str]) -> Kind:
        if self.dtype in FLOATS:
            return Kind.FLOAT
        if self.dtype == "F8_E4M3":
            return Kind.FP8
        if not beside & _STATIC:
            return Kind.DYNAMIC
        return Kind.MIX if "weight_scale" in beside else Kind.STATIC

    def _check_description(self) -> None:
        """Compares the kind with the one in msModelSlim's description, if there is one."""
        file, kinds = self._checkpoint.description()
        told = kinds.get(self.weight)
        if told is None:
            return
        text = f"weights: {file} calls {self.weight} {told}"
        if told not in (kind.value for kind in Kind):
            raise ValueError(f"{text}; read are {', '.join(kind.value for kind in Kind)}")
        fits = {self.kind.value}
        if self.kind is Kind.MIX:  # it has the tensors of both int8 kinds
            fits |= {Kind.DYNAMIC.value, Kind.STATIC.value}
        if told not in fits:
            raise ValueError(f"{text}, but it is {self.dtype} with the tensors of {self.kind.value}")

    def _check_beside(self, beside: set[str]) -> None:
        for suffix in sorted(beside - _BESIDE[self.kind]):
            where = self._checkpoint.where(self._name(suffix))
            raise ValueError(f"weights: {where} is left over: the weight is {self.dtype} ({self.kind.value})")
        out, columns = self.shape
        per_channel = (((out, 1), (out,)), ("out", "1"))
        single = (((1,), ()), ("1",))
        blocks = (((-(-out // _BLOCK), -(-columns // _BLOCK)),), ("ceil(out / 128)", "ceil(in / 128)"))
        expected = {
            "weight_scale": (FLOATS, *per_channel),
            "weight_offset": ((*FLOATS, *_INTEGERS), *per_channel),
            "deq_scale": ((*FLOATS, "I64", "U64"), *per_channel),
            "quant_bias": (("I32",), *per_channel),
            "input_scale": (FLOATS, *single),
            "input_offset": ((*FLOATS, *_INTEGERS), *single),
            "weight_scale_inv": (FLOATS, *blocks),
        }
        for suffix in sorted(beside | set(_NEEDED[self.kind])):
            check_tensor(self._checkpoint, self._name(suffix), *expected[suffix])
        if self._name("bias") in self.tensors:
            check_tensor(self._checkpoint, self._name("bias"), FLOATS, ((out,),), ("out",))
        for suffix in sorted(beside):
            if "_scale" in suffix:
                positive(self._checkpoint, self._name(suffix))
        if self.kind is Kind.STATIC:
            self._static_scale(0, out)

    def _check_neutral(self) -> None:
        """Refuses offsets of weights, biases, and scales that contradict those that are used."""
        if self.kind is Kind.FP8 and self._name("weight_scale") in self.tensors:
            require_one(self._checkpoint, self._name("weight_scale"), "the blocks have their scales")
        for suffix in ("weight_offset", "bias"):
            if self._name(suffix) in self.tensors:
                require_zero(self._checkpoint, self._name(suffix))
        offset = self._input_offset()
        if self._name("quant_bias") not in self.tensors:
            if offset != 0:
                where = self._checkpoint.where(self._name("input_offset"))
                raise ValueError(f"weights: {where} is {offset:g}, expected 0 or a quant_bias that cancels it")
        elif offset == 0:
            require_zero(self._checkpoint, self._name("quant_bias"))
        if self.kind is Kind.MIX and {self._name("deq_scale"), self._name("input_scale")} <= self.tensors:
            static, dynamic = self._static_scale(0, self.shape[0]), self._scale(0, self.shape[0])
            # Either may have been stored as bfloat16, which has 8 bits.
            if not np.allclose(static, dynamic, rtol=1e-2, atol=0):
                where = self._checkpoint.where(self._name("deq_scale"))
                raise ValueError(f"weights: {where} is not input_scale * weight_scale; one of them is wrong")

    def _input_offset(self) -> float:
        name = self._name("input_offset")
        if name not in self.tensors:
            return 0.0
        offset = self._checkpoint.read(name).astype(np.float32).reshape(1)
        require_finite(self._checkpoint, name, offset)
        return float(offset[0])

    def _static_scale(self, start: int, stop: int) -> Array:
        name = self._name("deq_scale")
        deq_scale = positive(self._checkpoint, name, start, stop).astype(np.float64)
        input_scale = float(positive(self._checkpoint, self._name("input_scale")).reshape(1)[0])
        with np.errstate(over="ignore", under="ignore"):
            scale = (deq_scale / input_scale).astype(np.float32)
        good = np.isfinite(scale) & (scale > 0)
        _require(self._checkpoint, name, deq_scale, good, start, f"{input_scale:g} (input_scale) times a float32")
        return scale.reshape(-1, 1)

    def _scale(self, start: int, stop: int) -> Array:
        if self.kind is Kind.STATIC:
            return self._static_scale(start, stop)
        return positive(self._checkpoint, self._name("weight_scale"), start, stop).reshape(-1, 1)

    def _int8(self, start: int, stop: int) -> Array:
        """Rows of an int8 matrix, after a check that its quant_bias contains no bias.

        msModelSlim writes quant_bias = round(bias / deq_scale - input_offset * sum of the row), in float32. The second
        term only cancels what an offset of the activations adds. Activations that are quantised by token have no
        offset, so both can be left out. The first term is a bias, which the operators do not have.
        """
        q = self._checkpoint.read(self.weight, start, stop)
        offset = self._input_offset()
        if offset == 0:
            return q
        name = self._name("quant_bias")
        got = self._checkpoint.read(name, start, stop).reshape(-1).astype(np.float64)
        want = 0 - np.rint(q.sum(axis=1, dtype=np.int32).astype(np.float32) * np.float32(offset)).astype(np.float64)
        wrong = np.abs(got - want) > 1 + np.abs(want) * 2.0**-22  # float32 has 24 bits, here after two roundings
        if wrong.any():
            row = int(np.argmax(wrong))
            where = f"{self._checkpoint.where(name)}[{start + row}]"
            text = f"expected {want[row]:.0f}, which cancels input_offset = {offset:g}; the operators have no bias"
            raise ValueError(f"weights: {where} is {got[row]:.0f}, {text}")
        return q


def quantise(values: Array) -> tuple[Array, Array]:
    """The contract's Quant of rows: int8 of the same shape, and scales float32 [rows, 1]."""
    amax = np.maximum(np.abs(values).max(axis=1, keepdims=True), np.float32(_AMAX_FLOOR))
    return np.rint(values * (np.float32(127.0) / amax)).astype(np.int8), amax / np.float32(127.0)


def check_tensor(
    checkpoint: Checkpoint,
    name: str,
    dtypes: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    symbolic: Iterable[str],
) -> None:
    """Checks dtype and shape of a tensor by its file's header. Errors name the first of ``shapes``, the usual one.

    Raises:
        KeyError: it is missing. TypeError, ValueError: its dtype or shape is wrong.
    """
    info = checkpoint.info(name)
    if info.dtype not in dtypes:
        raise TypeError(f"weights: {checkpoint.where(name)} must be {' or '.join(dtypes)}, got {info.dtype}")
    if info.shape not in shapes:
        expected = f"({', '.join(symbolic)}) = {shapes[0]}"
        raise ValueError(f"weights: {checkpoint.where(name)} has shape {info.shape}, expected {expected}")


def positive(checkpoint: Checkpoint, name: str, start: int = 0, stop: int | None = None) -> Array:
    """Scales as float32, all of them or rows start to stop.

    64-bit integers hold the bits of float32: so msModelSlim writes deq_scale for float16 models.

    Raises:
        ValueError: a scale is not finite and positive.
    """
    scale = checkpoint.read(name, start, stop)
    if scale.dtype in (np.int64, np.uint64):
        if np.any(scale >> scale.dtype.type(32)):
            raise ValueError(f"weights: {checkpoint.where(name)} does not hold the bits of positive float32 numbers")
        scale = scale.astype(np.uint32).view(np.float32)
    scale = scale.astype(np.float32)
    _require(checkpoint, name, scale, np.isfinite(scale) & (scale > 0), start, "a finite positive number")
    return scale


def require_finite(checkpoint: Checkpoint, name: str, values: Array, start: int = 0) -> None:
    """Raises ValueError if a value is not finite. `values` are the tensor's rows from start on."""
    _require(checkpoint, name, values, np.isfinite(values), start, "a finite number")


def require_zero(checkpoint: Checkpoint, name: str) -> None:
    """Raises ValueError if a tensor that would be a further term is not zero."""
    values = checkpoint.read(name).astype(np.float64)
    _require(checkpoint, name, values, values == 0, 0, "0: the operators have no such term")


def require_one(checkpoint: Checkpoint, name: str, why: str) -> None:
    """Raises ValueError if a tensor that would be a further factor is not one."""
    values = checkpoint.read(name).astype(np.float64)
    _require(checkpoint, name, values, values == 1, 0, f"1: {why}")


def bits_of(checkpoint: Checkpoint, name: str, values: Array, start: int = 0) -> Array:
    """Values rounded to bfloat16, as bits in uint16. A float32 that rounds to infinity is refused."""
    rounded = values.astype(np.float32).astype(ml_dtypes.bfloat16)
    _require(checkpoint, name, values, np.isfinite(rounded), start, "a finite number that bfloat16 holds")
    return rounded.view(np.uint16)


def _require(checkpoint: Checkpoint, name: str, values: Array, good: Array, start: int, expected: str) -> None:
    if not good.all():
        at = [int(i) for i in np.argwhere(~good)[0]]
        value = float(values[tuple(at)])
        place = [at[0] + start, *at[1:]] if at else []
        raise ValueError(f"weights: {checkpoint.where(name)}{place or ''} is {value:g}, expected {expected}")
