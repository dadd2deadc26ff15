"""Safetensors files as one mapping of tensors. Only headers are read until a tensor is asked for.

Whatever is wrong with a file is an error with the file's name, before anything large is read. Tensors are read by
offset and not through safetensors. Its NumPy reader has no FP8, and it maps files: shortening a mapped file kills the
process, while a read that ends early can be reported.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from ms_dsv32.weights.contract import Array

Paths = str | Path | Sequence[str | Path]

INDEX_SUFFIX = ".safetensors.index.json"
"""The end of the name of the file that tells in which shard a tensor is."""
DESCRIPTION = "quant_model_description"
"""The begin of the name of the file in which msModelSlim names the kind of each tensor. It ends with ``.json``."""

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_LENGTH_BYTES = 8  # a safetensors file begins with the length of its header, which is JSON
_MOST_AXES = 32  # the most axes of an array in NumPy 1
_HASHED_VALUES = 1 << 22  # values that are hashed at a time
_MAX_JSON_BYTES = 100_000_000  # safetensors' own limit of a header; no index or description comes near it


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is, and what its file's header says of it."""

    path: Path
    dtype: str
    """As safetensors spells it: F32, BF16, F8_E4M3, I8 ..."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the beginning of the file."""


class Checkpoint:
    """The tensors of a checkpoint, by name.

    Args:
        paths: a safetensors file, a list of shards, an index (``model.safetensors.index.json``), or a directory. A
            directory with an index is read through it, and only the shards that are asked for must be there. In a
            directory without an index every ``*.safetensors`` is read.

    Raises:
        FileNotFoundError, OSError: a file is not there or cannot be read.
        TypeError, ValueError: what was passed is not a path, or not a safetensors file. The text names it.
    """

    def __init__(self, paths: Paths) -> None:
        given = [paths] if isinstance(paths, (str, Path)) else paths
        if not isinstance(given, Sequence) or not all(isinstance(path, (str, Path)) for path in given):
            raise TypeError(f"weights: paths must be a path or a list of paths, got {paths!r}")
        if not given:
            raise ValueError("weights: paths is empty, expected at least one file")
        self._paths = [Path(path) for path in given]
        self._headers: dict[Path, dict[str, TensorInfo]] = {}
        self._places: dict[str, list[Path]] = {}
        """The files of each tensor: one, if all is well."""
        self._index: Path | None = None
        self._description: tuple[Path | None, Mapping[str, Any]] | None = None
        if len(self._paths) == 1:
            self._index = self._index_of(self._paths[0])
        if self._index is not None:
            self._read_index(self._index)
            return
        # A file that is passed twice counts once. A link keeps its own name, which Hugging Face's cache relies on.
        files = {file.resolve(): file for given in self._paths for file in _files_of(given)}
        for path in files.values():
            for name in self._header(path):
                self._places.setdefault(name, []).append(path)

    @property
    def paths(self) -> str:
        """The paths that were passed, for errors."""
        return ", ".join(map(str, self._paths))

    def is_in(self, directory: Path) -> bool:
        """Whether one of the paths is this directory, or a file in it."""
        return directory.exists() and any(directory.samefile(p if p.is_dir() else p.parent) for p in self._paths)

    def names(self) -> Iterable[str]:
        """The names of all tensors."""
        return self._places

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def where(self, name: str) -> str:
        """A tensor's file and name, for errors."""
        return f"{self.info(name).path}: {name}"

    def under(self, prefix: str) -> list[str]:
        """The names that begin with a prefix.

        Raises:
            ValueError: one of these tensors is in two files, or in a shard but not in the index.
        """
        names = [name for name in self._places if name.startswith(prefix)]
        paths = {self._path_of(name) for name in names}
        for path in sorted(paths) if self._index is not None else ():
            for name in self._header(path):
                if name.startswith(prefix) and name not in self._places:
                    raise ValueError(f"weights: {path}: {name} is not in {self._index}")
        return names

    def info(self, name: str) -> TensorInfo:
        """What the header says of a tensor.

        Raises:
            KeyError: there is no such tensor. ValueError: it is in two files, or not where the index says.
        """
        if name not in self._places:
            raise KeyError(f"weights: no tensor {name!r} in {self.paths}")
        path = self._path_of(name)
        header = self._header(path)
        if name not in header:
            raise ValueError(f"weights: {self._index} says that {name} is in {path}, which has no such tensor")
        return header[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Reads a tensor, or rows start to stop of its first axis. bfloat16 and FP8 have the types of ml_dtypes.

        Raises:
            KeyError, ValueError: as `info`, or NumPy cannot hold the dtype or so many axes, or the file is too short.
        """
        info = self.info(name)
        if info.dtype not in _DTYPES:
            raise TypeError(f"weights: {info.path}: {name} has dtype {info.dtype}, which is not read")
        if len(info.shape) > _MOST_AXES:
            raise ValueError(f"weights: {info.path}: {name} has {len(info.shape)} axes, expected at most {_MOST_AXES}")
        dtype = np.dtype(_DTYPES[info.dtype])
        rows, *rest = info.shape or (1,)
        start, stop, _ = slice(start, stop).indices(rows)
        row = math.prod(rest)
        count = (stop - start) * row
        # Not np.fromfile, which makes a TypeError of an interruption (Ctrl-C).
        array = np.empty(count, dtype)
        with info.path.open("rb") as file:
            file.seek(info.offset + start * row * dtype.itemsize)
            size = file.readinto(array.view(np.uint8).data)
        if size != array.nbytes:
            raise ValueError(f"weights: {info.path} ends within tensor {name}; it was whole when it was opened")
        return array.reshape((stop - start, *rest) if info.shape else ())

    def description(self) -> tuple[Path | None, Mapping[str, Any]]:
        """The file that tells msModelSlim's kind of each tensor, and the kinds. Empty if there is no such file.

        Raises:
            ValueError: there are several such files, or one is not a JSON object.
        """
        if self._description is None:
            self._description = self._find_description()
        return self._description

    def _find_description(self) -> tuple[Path | None, Mapping[str, Any]]:
        first = self._paths[0]
        directory = first if first.is_dir() else first.parent
        files = sorted(directory.glob(f"{DESCRIPTION}*.json"))
        named = directory / f"{DESCRIPTION}.json"
        if named in files:
            files = [named]
        if not files:
            return None, {}
        if len(files) > 1:
            raise ValueError(f"weights: {directory} has several descriptions: {', '.join(f.name for f in files)}")
        return files[0], _read_json(files[0])

    def fingerprint(self, names: Iterable[str]) -> str:
        """A hash of these tensors: their names, dtypes, shapes and values, whatever files they are in."""
        digest = hashlib.sha256()
        for name in sorted(names):
            info = self.info(name)
            digest.update(repr((name, info.dtype, info.shape)).encode())
            rows, *rest = info.shape or (1,)
            step = max(1, _HASHED_VALUES // max(1, math.prod(rest)))
            for start in range(0, rows, step):
                digest.update(self.read(name, start, min(start + step, rows)).tobytes())
        return digest.hexdigest()[:32]

    def _index_of(self, path: Path) -> Path | None:
        if path.name.endswith(INDEX_SUFFIX):
            return path
        indices = sorted(path.glob(f"*{INDEX_SUFFIX}")) if path.is_dir() else []
        if len(indices) > 1:
            raise ValueError(f"weights: {path} has several indices: {', '.join(i.name for i in indices)}; pass one")
        return indices[0] if indices else None

    def _read_index(self, index: Path) -> None:
        shards = _read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise ValueError(f"weights: {index} has no weight_map from names of tensors to names of files")
        for name, shard in shards.items():
            path = Path(shard)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"weights: {index} places {name} outside of its directory, in {shard}")
            self._places[name] = [index.parent / path]

    def _path_of(self, name: str) -> Path:
        first, *others = self._places[name]
        if self._index is not None:
            self._header(first)
            others = [path for path, header in self._headers.items() if path != first and name in header]
        if others:
            raise ValueError(f"weights: tensor {name} is in two files, {first} and {others[0]}; pass the right one")
        return first

    def _header(self, path: Path) -> dict[str, TensorInfo]:
        if path not in self._headers:
            self._headers[path] = _read_header(path)
        return self._headers[path]


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ValueError(f"weights: {path} is a directory without *.safetensors files")
    return files


def _size_of(path: Path) -> int:
    """The size of a regular file. Anything else is a ValueError, because a pipe would block."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"weights: {path} is not a regular file")
    return status.st_size


def _read_json(path: Path) -> dict[str, Any]:
    size = _size_of(path)
    if size > _MAX_JSON_BYTES:
        raise ValueError(f"weights: {path} has {size} bytes, expected at most {_MAX_JSON_BYTES}")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"weights: {path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"weights: {path} is not a JSON object")
    return value


def _read_header(path: Path) -> dict[str, TensorInfo]:
    size = _size_of(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _MAX_JSON_BYTES):
            text = f"a header of {length} bytes, and the file has {size}" if size >= _LENGTH_BYTES else f"{size} bytes"
            raise ValueError(f"weights: {path} is no safetensors file, or a part of one: {text}")
        raw = file.read(length)
    try:
        with safe_open(str(path), framework="np"):  # checks names, dtypes, and that offsets fit shapes and the file
            pass
    except SafetensorError as error:
        raise ValueError(f"weights: {path} is no safetensors file, or a part of one: {error}") from error
    header = json.loads(raw)
    return {
        name: TensorInfo(path, t["dtype"], tuple(t["shape"]), _LENGTH_BYTES + length + t["data_offsets"][0])
        for name, t in header.items()
        if name != "__metadata__"
    }


def metadata_of(path: Path) -> dict[str, str]:
    """The texts in a file's header.

    Raises:
        ValueError: it is not a safetensors file.
    """
    _read_header(path)
    with safe_open(str(path), framework="np") as file:
        return dict(file.metadata() or {})
