"""Checkpoints of every format, made here, with the values that they mean.

Nothing here uses the code under test: the formats are written down again, in NumPy, from what their makers do. Modules
have Hugging Face's names without a prefix; `renamed` gives the names that a file has.
"""

from __future__ import annotations

import functools
import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BF16 = np.dtype(ml_dtypes.bfloat16)
FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
_FP8_MAX = 448.0
_MOST_HEADS = 8  # random matrices are made once, for so many, and cut
PREFIX = "model.layers.0.self_attn."

# NumPy's names, as a file's header spells them.
_HEADER = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "uint64": "U64",
    "bool": "BOOL",
}
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1}

MLA = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")


def from_bits(bits: Array) -> Array:
    """bfloat16 values as float64."""
    return bits.view(ml_dtypes.bfloat16).astype(np.float64)


def shapes(n_q: int) -> dict[str, tuple[int, ...]]:
    """[out, in] of every module's weight, of vectors [n]."""
    return {
        "q_a_proj": (1536, 7168),
        "q_a_layernorm": (1536,),
        "q_b_proj": (n_q * 192, 1536),
        "kv_a_proj_with_mqa": (576, 7168),
        "kv_a_layernorm": (512,),
        "kv_b_proj": (n_q * 256, 512),
        "o_proj": (7168, n_q * 128),
        "indexer.wq_b": (8192, 1536),
        "indexer.wk": (128, 7168),
        "indexer.k_norm": (128,),
        "indexer.weights_proj": (64, 7168),
    }


@functools.cache
def _random(module: str, rows: int, columns: int) -> Array:
    rng = np.random.default_rng(zlib.crc32(module.encode()))
    matrix = rng.standard_normal((rows, columns), dtype=np.float32)
    matrix *= 0.02 * np.exp(0.5 * rng.standard_normal((rows, 1), dtype=np.float32))  # channels differ in size
    matrix.flags.writeable = False
    return matrix


def matrix(module: str, n_q: int, seed: int = 0) -> Array:
    """A module's float32 values before any format; fewer heads are the first ones."""
    values = _random(f"{module} {seed}" if seed else module, *shapes(_MOST_HEADS)[module])
    rows, columns = shapes(n_q)[module]
    return values[:rows, :columns]


@dataclass
class Made:
    """A layer of a checkpoint: its tensors, without a prefix, and what they mean."""

    n_q: int
    tensors: dict[str, Array]
    kinds: dict[str, str] = field(default_factory=dict)
    """msModelSlim's description of each weight."""
    int8: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    """Values and float64 scales [out, 1] of the modules that are int8 already."""
    values: dict[str, Callable[[slice], Array]] = field(default_factory=dict)
    """Functions that give float64 values of some rows of a matrix [out, in]. All rows would be 300 MB."""
    rotations: tuple[Array, Array] | None = None
    """The matrices by which query and key of the indexer are multiplied, from the right."""

    def meaning(self, module: str, start: int = 0, stop: int | None = None) -> Array:
        """float64 values of a matrix [out, in], or of rows start to stop."""
        return self.values[module](slice(start, stop))

    def put(
        self, module: str, stored: Mapping[str, Array], values: Callable[[slice], Array], kind: str = "FLOAT"
    ) -> None:
        """Replaces a module's tensors."""
        for name in [n for n in self.tensors if n.startswith(f"{module}.")]:
            del self.tensors[name]
        self.tensors.update({f"{module}.{suffix}": array for suffix, array in stored.items()})
        self.values[module] = values
        self.kinds[module] = kind
        self.int8.pop(module, None)

    def description(self, prefix: str = PREFIX) -> dict[str, str]:
        """What msModelSlim's ``quant_model_description.json`` says."""
        kinds = {f"{prefix}{name}": self.kinds.get(name.rpartition(".")[0], "FLOAT") for name in self.tensors}
        return {"model_quant_type": "W8A8", "version": "1.0.0", **kinds}


def bf16(n_q: int, dtype: Any = BF16, seed: int = 0) -> Made:
    """bfloat16 (or another dtype of floats); the LayerNorm of the indexer's key is float32, as DeepSeek stores it."""
    rng = np.random.default_rng(7 + seed)
    made = Made(n_q, {})
    for module, shape in shapes(n_q).items():
        if len(shape) == 2:
            stored = matrix(module, n_q, seed).astype(dtype)
            made.put(module, {"weight": stored}, lambda rows, s=stored: s[rows].astype(np.float64))
        else:
            made.tensors[f"{module}.weight"] = (1 + 0.1 * rng.standard_normal(shape)).astype(dtype)
    for name in ("weight", "bias"):
        made.tensors[f"indexer.k_norm.{name}"] = rng.standard_normal(128).astype(np.float32)
    return made


def block_quantised(values: Array) -> tuple[Array, Array]:
    """FP8 with a float32 scale for each block of 128 x 128; blocks at the edges are smaller."""
    rows, columns = values.shape
    padded = np.zeros((-(-rows // 128) * 128, -(-columns // 128) * 128), np.float32)
    padded[:rows, :columns] = values
    blocks = padded.reshape(padded.shape[0] // 128, 128, -1, 128)
    scale = (np.abs(blocks).max(axis=(1, 3)) / _FP8_MAX).astype(np.float32)
    q = (blocks / scale[:, None, :, None]).reshape(padded.shape)[:rows, :columns].astype(FP8)
    return q, scale


def block_meaning(q: Array, scale: Array, rows: slice = slice(None)) -> Array:
    """float64 values of FP8 with block scales: value (r, c) times scale (r // 128, c // 128)."""
    r, c = np.arange(q.shape[0])[rows] // 128, np.arange(q.shape[1]) // 128
    values: Array = q[rows].astype(np.float64)
    values *= scale.astype(np.float64)[r][:, c]
    return values


def fp8(n_q: int, seed: int = 0) -> Made:
    """The official checkpoint: FP8 but for the norms and weights_proj."""
    made = bf16(n_q, seed=seed)
    for module in (*MLA, "o_proj", "indexer.wq_b", "indexer.wk"):
        q, scale = block_quantised(matrix(module, n_q, seed))
        made.put(module, {"weight": q, "weight_scale_inv": scale}, functools.partial(block_meaning, q, scale), "FP8")
    return made


def _channels(module: str, n_q: int) -> tuple[Array, Array]:
    values = matrix(module, n_q)
    scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    return np.rint(values / scale).astype(np.int8), scale


def _product(q: Array, scale: Array, rows: slice) -> Array:
    return q[rows].astype(np.float64) * scale[rows]


def _put_int8(made: Made, module: str, beside: Mapping[str, Array], q: Array, scale: Array, kind: str) -> None:
    made.put(module, {"weight": q, **beside}, functools.partial(_product, q, scale), kind)
    made.int8[module] = q, scale


def _dynamic(made: Made, modules: Iterable[str], *, offset: bool) -> Made:
    for module in modules:
        q, scale = _channels(module, made.n_q)
        beside = {"weight_scale": scale, **({"weight_offset": np.zeros_like(scale)} if offset else {})}
        _put_int8(made, module, beside, q, scale.astype(np.float64), "W8A8_DYNAMIC")
    return made


def compressed_tensors(n_q: int, *, c8: bool = False) -> Made:
    """W8A8C16 and W8A8C8 of cann-recipes: int8 q_b, o and wq_b; C8 has the matrix that turns query and key."""
    made = _dynamic(bf16(n_q), ("q_b_proj", "o_proj", "indexer.wq_b"), offset=False)
    if c8:
        both = rotation(1)
        made.tensors["indexer.hadamard_matrix"] = both
        made.rotations = both, both  # used as x @ H
    return made


def dynamic(n_q: int, *, everywhere: bool = False) -> Made:
    """msModelSlim's W8A8_DYNAMIC: of q_b and o, or of all that it can quantise."""
    modules = (*MLA[:3], "o_proj", "indexer.wq_b", "indexer.wk") if everywhere else ("q_b_proj", "o_proj")
    return _dynamic(bf16(n_q), modules, offset=True)


def static(n_q: int, *, bits: bool = False, mix: bool = False, symmetric: bool = False) -> Made:
    """msModelSlim's W8A8, whose activations are asymmetric, or its W8A8_MIX.

    bits: deq_scale holds the bits of float32 in int64. mix: q_b_proj and o_proj are static and dynamic at once, and the
    others static. symmetric: input_offset is 0, and so is quant_bias.
    """
    made = bf16(n_q)
    for i, module in enumerate((*MLA[:3], "o_proj")):
        q, scale = _channels(module, n_q)
        input_scale = np.array([0.0173 * (i + 1)], np.float32)
        input_offset = np.array([0 if symmetric else (-13, 5, 127, -128)[i]], np.float32)
        deq_scale = input_scale * scale[:, 0]
        beside = {
            "input_scale": input_scale,
            "input_offset": input_offset,
            "deq_scale": deq_scale.view(np.int32).astype(np.int64) if bits else deq_scale,
            "quant_bias": np.round(-(q.astype(np.float32).sum(axis=1) * input_offset)).astype(np.int32),
        }
        meant = deq_scale.astype(np.float64)[:, None] / input_scale.astype(np.float64)
        kind = "W8A8"
        if mix and module in ("q_b_proj", "o_proj"):
            beside |= {"weight_scale": scale, "weight_offset": np.zeros_like(scale)}
            meant, kind = scale.astype(np.float64), "W8A8_MIX"
        _put_int8(made, module, beside, q, meant, kind)
    return made


def rotation(seed: int) -> Array:
    """A bfloat16 matrix [128, 128], nearly orthogonal and not symmetric."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((128, 128)))
    return q.astype(BF16)


def rotated(n_q: int) -> Made:
    """msModelSlim with matrices that turn the indexer's query and key."""
    made = dynamic(n_q)
    made.tensors["indexer.q_rot"], made.tensors["indexer.k_rot"] = rotation(2), rotation(3)
    made.rotations = rotation(2), rotation(3)
    return made


# Names

_DEEPSEEK = {
    "q_a_proj": "wq_a",
    "q_a_layernorm": "q_norm",
    "q_b_proj": "wq_b",
    "kv_a_proj_with_mqa": "wkv_a",
    "kv_a_layernorm": "kv_norm",
    "kv_b_proj": "wkv_b",
    "o_proj": "wo",
}
_MINDSPORE = {
    "q_a_proj": "linear_q_down_proj",
    "q_a_layernorm": "q_layernorm",
    "q_b_proj": "linear_q_up_proj",
    "kv_a_proj_with_mqa": "linear_kv_down_proj",
    "kv_a_layernorm": "kv_layernorm",
    "kv_b_proj": "linear_kv_up_proj",
    "o_proj": "linear_proj",
    "indexer.wq_b": "core_attention.indexer.linear_wq_b",
    "indexer.wk": "core_attention.indexer.linear_wk",
    "indexer.k_norm": "core_attention.indexer.k_norm",
    "indexer.weights_proj": "core_attention.indexer.linear_weights_proj",
}
_NAMINGS: dict[str, tuple[str, dict[str, str]]] = {
    "Hugging Face": ("model.layers.{}.self_attn.", {}),
    "DeepSeek's inference code": ("layers.{}.attn.", _DEEPSEEK),
    "MindSpore Transformers": ("decoder.layers.{}.self_attention.", _MINDSPORE),
}
NAMINGS = tuple(_NAMINGS)


def prefix_of(layer: int, whose: str = NAMINGS[0]) -> str:
    """The prefix of a layer's attention."""
    return _NAMINGS[whose][0].format(layer)


def renamed(tensors: Mapping[str, Any], layer: int = 0, whose: str = NAMINGS[0]) -> dict[str, Any]:
    """Tensors under the names that a file of somebody's has."""
    prefix, modules = prefix_of(layer, whose), _NAMINGS[whose][1]
    result = {}
    for name, tensor in tensors.items():
        module, _, suffix = name.rpartition(".")
        if whose == NAMINGS[1] and suffix == "weight_scale_inv":
            suffix = "scale"
        result[f"{prefix}{modules.get(module, module)}{'.' if module else ''}{suffix}"] = tensor
    return result


# Files


def write_shards(directory: Path, tensors: Mapping[str, Array], count: int, *, index: bool = True) -> list[Path]:
    """Deals tensors to shards in turn, so that those of one module are apart; returns the shards."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    weight_map = {}
    for i, path in enumerate(paths):
        part = {name: tensor for j, (name, tensor) in enumerate(tensors.items()) if j % count == i}
        write(path, part)
        weight_map |= dict.fromkeys(part, path.name)
    if index:
        write_index(directory, weight_map)
    return paths


def write_index(directory: Path, weight_map: Mapping[str, Any], name: str = "model") -> Path:
    """Writes the index of shards."""
    path = directory / f"{name}.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": dict(weight_map)}))
    return path


@dataclass(frozen=True)
class Zeros:
    """A tensor of zeros that takes no space: a hole in its file."""

    dtype: str
    """As a file's header spells it."""
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The bytes that it takes in the file."""
        return math.prod(self.shape) * _BYTES[self.dtype]


def write(path: Path, tensors: Mapping[str, Array | Zeros]) -> Path:
    """Writes a safetensors file byte by byte; `Zeros` stay holes, so that a file of gigabytes costs nothing."""
    header, places, offset = {}, [], 0
    # safetensors wants no gaps and aligned tensors; wide dtypes first keeps them aligned.
    for name, tensor in sorted(tensors.items(), key=lambda item: -_width(item[1])):
        dtype = tensor.dtype if isinstance(tensor, Zeros) else _HEADER[tensor.dtype.name]
        header[name] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        places.append((offset, tensor))
        offset += tensor.nbytes
    with path.open("wb") as file:
        begin = file.write(with_length(json.dumps(header).encode()))
        for place, tensor in places:
            if not isinstance(tensor, Zeros):
                file.seek(begin + place)
                file.write(np.ascontiguousarray(tensor).tobytes())
        file.truncate(begin + offset)
    return path


def _width(tensor: Array | Zeros) -> int:
    return _BYTES[tensor.dtype] if isinstance(tensor, Zeros) else int(tensor.dtype.itemsize)


def with_length(header: bytes) -> bytes:
    """A header as it stands at the beginning of a file: its length in 8 bytes, then itself, padded with spaces."""
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


# Hollow layers


def hollow(n_q: int = 1, kind: str = "FLOAT") -> dict[str, Any]:
    """A layer whose matrices are holes, without a prefix, for tests of refusals.

    kind: FLOAT, FP8, W8A8_DYNAMIC, W8A8 or W8A8_MIX, of every matrix that comes in this format.
    """
    tensors: dict[str, Any] = {}
    for module, shape in shapes(n_q).items():
        if len(shape) == 1:
            tensors[f"{module}.weight"] = np.ones(shape, np.float32 if module.endswith("k_norm") else BF16)
            continue
        out, columns = shape
        quantised = kind != "FLOAT" and module != "indexer.weights_proj"
        dtype = {"FLOAT": "BF16", "FP8": "F8_E4M3"}.get(kind, "I8") if quantised else "BF16"
        tensors[f"{module}.weight"] = Zeros(dtype, shape)
        if not quantised:
            continue
        if kind == "FP8":
            tensors[f"{module}.weight_scale_inv"] = np.ones((-(-out // 128), -(-columns // 128)), np.float32)
        if kind in ("W8A8_DYNAMIC", "W8A8_MIX"):
            tensors[f"{module}.weight_scale"] = np.full((out, 1), 0.5, np.float32)
            tensors[f"{module}.weight_offset"] = np.zeros((out, 1), np.float32)
        if kind in ("W8A8", "W8A8_MIX"):
            tensors[f"{module}.input_scale"] = np.full(1, 2, np.float32)
            tensors[f"{module}.input_offset"] = np.full(1, 3, np.float32)
            tensors[f"{module}.deq_scale"] = np.ones(out, np.float32)
            tensors[f"{module}.quant_bias"] = np.zeros(out, np.int32)
    tensors["indexer.k_norm.bias"] = np.zeros(128, np.float32)
    return tensors
