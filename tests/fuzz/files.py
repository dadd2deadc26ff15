"""Weight files with something wrong in them: `ms_dsv32.weights` names the file, or gives what the file says."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
from safetensors import SafetensorError, safe_open

from fuzz.draw import Rng, generator, pick
from ms_dsv32 import weights

_NUMBERS = (-(2**63), -1, 0, 1, 2**31, 2**32 + 1, 2**62, 2**63, 2**64, 10**30, 1.5, "1", None, True, [])
_DTYPES = ("F32", "F16", "BF16", "I8", "U8", "I64", "F64", "F8_E4M3", "F8_E5M2", "F4", "BOOL", "", "x", 3, None)
_SMALL = 1 << 16  # bytes up to which a tensor is read


class Files:
    """Files that were whole: "header" is one of a few small tensors, "layer" a whole layer whose matrices are holes."""

    subjects = ("header", "layer")

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ms_dsv32_files_")
        folder = Path(self._folder.name)
        small = {
            "a": np.arange(6, dtype=np.float32).reshape(2, 3),
            "b": np.ones(4, np.int8),
            "c": np.zeros((), np.float16),
        }
        layer = checkpoints.renamed(checkpoints.hollow(1))
        self._whole = {
            "header": checkpoints.write(folder / "small.safetensors", small),
            "layer": checkpoints.write(folder / "layer.safetensors", layer),
        }
        self._headers = {name: _split(path.read_bytes())[0] for name, path in self._whole.items()}
        self._path = folder / "tried.safetensors"
        self._subject = "header"

    def draw(self, subject: str, seed: int, index: int) -> tuple[str, str]:
        rng = generator(subject, seed, 0, index)
        self._subject = subject
        header, size = self._headers[subject], self._whole[subject].stat().st_size
        how = pick(rng, [*_CHANGES])
        begin, rest = _CHANGES[how](rng, header)
        whole = self._whole[subject].read_bytes() if subject == "header" else b""
        with self._path.open("wb") as file:  # the values of a layer are holes but for the norms, which hold ones
            file.write(begin)
            data = size - 8 - len(header)
            if subject == "header":
                file.write(whole[8 + len(header) :])
            file.truncate(max(0, len(begin) + data + rest))
        return how, f"{how}, {self._path.stat().st_size} bytes of {size}"

    def run(self) -> None:
        readable = _readable(self._path)
        try:
            checkpoint = weights.Checkpoint(self._path)
            infos = {name: checkpoint.info(name) for name in checkpoint.names()}
        except (ValueError, TypeError) as error:
            text = str(error)
        else:
            text = ""
        if text:
            assert str(self._path) in text, f"the error names no file: {text}"
            assert not readable, f"safetensors reads it, and it was refused: {text}"
            return
        assert readable, "safetensors refuses it, and it was read"
        self._read(checkpoint, infos)
        if self._subject == "layer":
            self._load()

    def finish(self) -> Iterator[tuple[str, str]]:
        self._folder.cleanup()
        return iter(())

    def _read(self, checkpoint: weights.Checkpoint, infos: dict[str, Any]) -> None:
        raw = self._path.read_bytes() if self._path.stat().st_size < _SMALL else None
        for name, info in infos.items():
            try:
                array = checkpoint.read(name, 0, 1)
            except (TypeError, ValueError) as error:
                if str(self._path) not in str(error):
                    raise AssertionError(f"the error names no file: {error}") from error
                continue
            assert array.shape == ((min(1, info.shape[0]), *info.shape[1:]) if info.shape else ())
            if raw is not None:
                stored = raw[info.offset : info.offset + array.nbytes]
                assert array.tobytes() == stored, f"{name} is not what the file holds"

    def _load(self) -> None:
        prefix = checkpoints.prefix_of(0)
        try:
            loaded = weights.load_mla(self._path, prefix=prefix)
        except (KeyError, TypeError, ValueError) as error:
            text = str(error.args[0])
            assert str(self._path) in text or prefix in text, f"the error names neither file nor tensor: {text}"
            return
        for name, array in loaded.items():
            expected = weights.shape_of(name, 1)
            assert array.shape == expected, f"{name} has shape {array.shape}, expected {expected}"


def _split(content: bytes) -> tuple[bytes, bytes]:
    """The header's text and what follows it."""
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length], content[8 + length :]


def _readable(path: Path) -> bool:
    """Whether safetensors itself takes the file."""
    try:
        with safe_open(str(path), framework="np"):
            return True
    except (SafetensorError, OSError):
        return False


def _beginning(header: Any) -> bytes:
    return checkpoints.with_length(json.dumps(header).encode())


def _flip(rng: Rng, header: bytes) -> tuple[bytes, int]:
    raw = bytearray(len(header).to_bytes(8, "little") + header)
    for _ in range(int(pick(rng, (1, 1, 2, 8)))):
        raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
    return bytes(raw), 0


def _cut(rng: Rng, header: bytes) -> tuple[bytes, int]:
    whole = len(header).to_bytes(8, "little") + header
    return (
        (whole[: int(rng.integers(len(whole)))], -(1 << 40))
        if rng.random() < 0.5
        else (whole, -int(rng.integers(1, 60)))
    )


def _longer(rng: Rng, header: bytes) -> tuple[bytes, int]:
    return len(header).to_bytes(8, "little") + header, int(pick(rng, (1, 7, 8, 100)))


def _length(rng: Rng, header: bytes) -> tuple[bytes, int]:
    length = int(pick(rng, (0, 1, len(header) - 1, len(header) + 1, 10**8, 2**31, 2**32, 2**63 - 1)))
    return length.to_bytes(8, "little") + header, 0


def _field(rng: Rng, header: bytes) -> tuple[bytes, int]:
    tensors = json.loads(header)
    tensor = tensors[pick(rng, [*tensors])]
    field = pick(rng, [*tensor])
    if field == "dtype":
        tensor[field] = pick(rng, _DTYPES)
    elif tensor[field] and rng.random() < 0.7:
        i = int(rng.integers(len(tensor[field])))
        old = tensor[field][i]
        tensor[field][i] = pick(rng, (*_NUMBERS, old + 1, old - 1, 2 * old))
    elif rng.random() < 0.5:
        del tensor[field]
    else:
        tensor[field] = pick(rng, (*_NUMBERS, [1] * 70, {}, [[1]]))
    return _beginning(tensors), 0


def _exchange(rng: Rng, header: bytes) -> tuple[bytes, int]:
    """Exchanges the entries of two tensors in the header."""
    tensors = json.loads(header)
    first, second = pick(rng, [*tensors]), pick(rng, [*tensors])
    tensors[first], tensors[second] = tensors[second], tensors[first]
    return _beginning(tensors), 0


def _names(rng: Rng, header: bytes) -> tuple[bytes, int]:
    tensors = json.loads(header)
    name = pick(rng, [*tensors])
    tensor = tensors.pop(name)
    tensors[
        pick(rng, ("", "__metadata__", name.upper(), f"{name}\0", "中", "\ud800", "x" * 10_000, f"{name}.weight"))
    ] = tensor
    return _beginning(tensors), 0


def _text(rng: Rng, header: bytes) -> tuple[bytes, int]:
    text = pick(
        rng,
        (b"", b"{}", b"[]", b"null", b"{" * 1000, b"[" * 100_000, b"\xff\xfe", b'{"a":{}}', b"{}" + header, header[1:]),
    )
    return checkpoints.with_length(text), 0


_CHANGES: dict[str, Callable[[Rng, bytes], tuple[bytes, int]]] = {
    "bits": _flip,
    "cut": _cut,
    "longer": _longer,
    "length": _length,
    "field": _field,
    "exchange": _exchange,
    "names": _names,
    "text": _text,
}
