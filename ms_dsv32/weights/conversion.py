"""Whole models: tells what is in a checkpoint, and converts it to files of our own, one for each layer and rank."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ms_dsv32.weights.contract import Array, save
from ms_dsv32.weights.files import Checkpoint, Paths, metadata_of
from ms_dsv32.weights.layer import Layer, Part, of_heads
from ms_dsv32.weights.matrix import Kind, Loss
from ms_dsv32.weights.names import OWN, choose, layers_of

REPORT = "report.json"
"""The file beside the converted ones that tells what each matrix lost."""
# A layer's format is the first one here that one of its matrices has.
_FORMATS = {
    OWN: OWN,
    Kind.MIX.value: "w8a8-mix",
    Kind.STATIC.value: "w8a8-static",
    Kind.DYNAMIC.value: "w8a8-dynamic",
    Kind.FP8.value: "fp8",
    Kind.FLOAT.value: "bf16",
}
FORMATS = tuple(_FORMATS.values())
_LAST_LAYER = 999  # the largest number in a range, because `file_of` writes three digits


@dataclass(frozen=True)
class Found:
    """One layer of a checkpoint.

    ``parts`` tell what its weights would be made of, in the contract's order, and ``tensors`` are the names of all that
    is read for them. ``refused`` is the reason why it cannot be loaded, as far as headers and small tensors tell, or
    empty.
    """

    layer: int
    prefix: str
    whose: str
    format: str
    n_q: int
    parts: tuple[Part, ...]
    tensors: frozenset[str]
    refused: str = ""


@dataclass(frozen=True)
class Lost:
    """What one matrix of a layer lost: the relative error (Frobenius norm) to the source's dequantised values."""

    layer: int
    weight: str
    tensor: str
    format: str
    relative_error: float


@dataclass(frozen=True)
class Written:
    """One of a conversion's ``total`` files. ``kept`` says that it was there already."""

    path: Path
    layer: int
    rank: int
    kept: bool
    total: int


def file_of(out: str | Path, layer: int, rank: int = 0, ranks: int = 1) -> Path:
    """The file of one layer and tensor-parallel rank in a directory that `convert` wrote."""
    return Path(out) / f"layer-{layer:03d}-rank-{rank}-of-{ranks}.safetensors"


def inspect(
    source: Paths | Checkpoint, layers: Iterable[int] | None = None, *, allow_unknown: bool = False
) -> list[Found]:
    """Tells what would be loaded for each layer of a checkpoint. Reads headers and small tensors only.

    Args:
        source: ``paths`` of `load_mla`.
        layers: numbers of layers, all by default.
        allow_unknown: see `load_mla`.

    Raises:
        KeyError: there is no such layer. ValueError: there is no layer at all. OSError, TypeError, ValueError: a file
            cannot be read, see `Checkpoint`.
    """
    checkpoint = source if isinstance(source, Checkpoint) else Checkpoint(source)
    return [_look(checkpoint, *layer, allow_unknown) for layer in _choose(checkpoint, layers).items()]


def convert(
    source: Paths | Checkpoint,
    out: str | Path,
    *,
    layers: Iterable[int] | None = None,
    tensor_parallel: int = 1,
    format: str | None = None,
    allow_unknown: bool = False,
    overwrite: bool = False,
    tell: Callable[[Written], None] = lambda written: None,
) -> list[Lost]:
    """Writes the weights of each layer to ``out``, one file for each layer and rank (`file_of`), and a report.

    A rank has ``n_q / tensor_parallel`` query heads in order, and all of the indexer. A source without ``o_proj`` gives
    files without the epilog's weights. The conversion needs the memory of one layer. A file appears when it is
    complete. A file that is there already is kept if the source's tensors are still those that it was made of, so a
    conversion that was interrupted goes on where it stopped.

    Args:
        source: ``paths`` of `load_mla`.
        layers: numbers of layers, all by default.
        tensor_parallel: ranks among which the query heads are divided.
        format: one of `FORMATS`. A source in another format is refused.
        allow_unknown: see `load_mla`.
        overwrite: whether to replace files of another source instead of refusing to.
        tell: called after each file.

    Returns:
        What each matrix of each layer lost, also for files that were kept. ``out / REPORT`` has the same, and keeps
        what it had for other layers.

    Raises:
        KeyError, TypeError, ValueError, OSError: as `load_mla` and `inspect`; or the number of ranks does not divide
            the heads, a file of another source is in the way, or ``out`` is the source. All layers are checked before
            the first is written.
    """
    if not isinstance(tensor_parallel, int) or isinstance(tensor_parallel, bool) or tensor_parallel < 1:
        raise ValueError(f"convert: tensor_parallel must be a positive int, got {tensor_parallel!r}")
    if format is not None and format not in FORMATS:
        raise ValueError(f"convert: format must be one of {', '.join(FORMATS)}, got {format!r}")
    checkpoint = source if isinstance(source, Checkpoint) else Checkpoint(source)
    out = Path(out)
    if checkpoint.is_in(out):
        raise ValueError(f"convert: {out} is the source's own directory; its files would be taken for the source's")
    works = [
        _Work(checkpoint, layer, out, tensor_parallel, allow_unknown)
        for layer in inspect(checkpoint, layers, allow_unknown=allow_unknown)
    ]
    for work in works:
        work.check(format, overwrite)
    out.mkdir(parents=True, exist_ok=True)
    done = {work.layer.layer for work in works}
    report = read_report(out / REPORT) if (out / REPORT).exists() else []
    report = [matrix for matrix in report if matrix.layer not in done]
    lost = []
    for work in works:
        losses = work.write(tell, len(works) * tensor_parallel)
        for part in work.layer.parts:
            if part.weight in losses:
                relative = losses[part.weight].relative
                lost.append(Lost(work.layer.layer, part.weight, part.name, part.kind, relative))
    _write_report(out / REPORT, sorted([*report, *lost], key=lambda matrix: matrix.layer))
    return lost


class _Work:
    """The conversion of one layer: its files, one for each rank, and which of them are there already."""

    def __init__(self, checkpoint: Checkpoint, layer: Found, out: Path, ranks: int, allow_unknown: bool) -> None:
        self.layer = layer
        self._checkpoint = checkpoint
        self._paths = [file_of(out, layer.layer, rank, ranks) for rank in range(ranks)]
        self._allow_unknown = allow_unknown
        self._kept: dict[Path, dict[str, Loss]] = {}

    @functools.cached_property
    def _mark(self) -> str:
        """A hash of this layer's values. The file is read for it, and only the hash is kept."""
        return self._checkpoint.fingerprint(self.layer.tensors)

    def check(self, format: str | None, overwrite: bool) -> None:
        """Raises ValueError if the layer cannot be converted, or a file is in the way."""
        layer = self.layer
        if layer.refused:
            raise ValueError(f"layer {layer.layer}: {layer.refused}")
        if format not in (None, layer.format):
            raise ValueError(f"convert: layer {layer.layer} has format {layer.format}, expected {format}")
        if layer.n_q % len(self._paths):
            text = f"{layer.n_q} query heads, which {len(self._paths)} ranks do not divide"
            raise ValueError(f"convert: layer {layer.layer} has {text}")
        for path in filter(Path.exists, self._paths):
            losses = _losses_of(path, self._mark)
            if losses is not None:
                self._kept[path] = losses
            elif not overwrite:
                raise ValueError(f"convert: {path} is there already, and not of this source; nothing was written")

    def write(self, tell: Callable[[Written], None], total: int) -> dict[str, Loss]:
        """Writes the files that are missing, calls `tell` for each, and returns what the layer's matrices lose."""
        losses: dict[str, Loss] = {}
        weights: dict[str, Array] = {}
        if len(self._kept) < len(self._paths):
            reader = Layer(self._checkpoint, self.layer.prefix, allow_unknown=self._allow_unknown, losses=losses)
            weights = {**reader.read_mla(), **reader.read_indexer()}
            if reader.has_epilog:
                weights |= reader.read_epilog()
        else:
            losses = self._kept[self._paths[0]]
        heads = self.layer.n_q // len(self._paths)
        for rank, path in enumerate(self._paths):
            if path not in self._kept:
                metadata = {
                    "layer": str(self.layer.layer),
                    "rank": f"{rank} of {len(self._paths)}",
                    "source": self._mark,
                    "losses": json.dumps({weight: (loss.values, loss.differences) for weight, loss in losses.items()}),
                }
                save(path, of_heads(weights, range(rank * heads, (rank + 1) * heads)), metadata)
            tell(Written(path, self.layer.layer, rank, path in self._kept, total))
        return losses


def read_report(path: str | Path) -> list[Lost]:
    """Reads the report that `convert` wrote: the losses of all layers in a directory, also of earlier conversions.

    Raises:
        FileNotFoundError: there is no report. ValueError: the file is not a report.
    """
    try:
        return [Lost(**matrix) for matrix in json.loads(Path(path).read_text())["matrices"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"convert: {path} is no report of a conversion") from error


def _write_report(path: Path, lost: Sequence[Lost]) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps({"matrices": [vars(matrix) for matrix in lost]}, indent=1) + "\n")
    part.replace(path)


def _choose(checkpoint: Checkpoint, layers: Iterable[int] | None) -> dict[int, str]:
    there = layers_of(checkpoint)
    if not there:
        raise ValueError(f"weights: {checkpoint.paths}: no attention of DeepSeek-V3.2 under any known names")
    if layers is None:
        return there
    return {layer: choose(checkpoint, there, layer) for layer in sorted(set(layers))}


def _look(checkpoint: Checkpoint, number: int, prefix: str, allow_unknown: bool) -> Found:
    layer, n_q, refused = None, 0, ""
    try:
        layer = Layer(checkpoint, prefix, allow_unknown=allow_unknown)
        n_q = layer.check_mla()
        layer.check_indexer()
        if layer.has_epilog:
            layer.check_epilog()
    except (KeyError, TypeError, ValueError, OSError) as error:
        refused = text_of(error)
    parts = tuple(layer.parts.values()) if layer else ()
    kinds = {part.kind for part in parts}
    format = next((name for kind, name in _FORMATS.items() if kind in kinds), "")
    tensors = frozenset(layer.used if layer else ())
    return Found(number, prefix, layer.whose if layer else "", format, n_q, parts, tensors, refused)


def _losses_of(path: Path, mark: str) -> dict[str, Loss] | None:
    """What the matrices of a converted file lost, or None if the file was not made from this source."""
    try:
        metadata = metadata_of(path)
        if metadata.get("source") != mark:
            return None
        return {weight: Loss(*sums) for weight, sums in json.loads(metadata["losses"]).items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return None


def text_of(error: BaseException) -> str:
    """An error's text. ``str`` of a KeyError would put quotes around it."""
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def numbers(ranges: str) -> list[int]:
    """The numbers in a list of ranges, such as ``"0-2,5"``.

    Raises:
        ValueError: the text is not such a list.
    """
    chosen: list[int] = []
    for piece in ranges.split(","):
        first, dash, last = piece.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{ranges!r} is no list of layers such as 0-2,5")
        low, high = int(first), int(last or first)
        if not low <= high <= _LAST_LAYER:
            raise ValueError(f"{piece.strip()!r} is no range of layers from 0 to {_LAST_LAYER}, the lower one first")
        chosen += range(low, high + 1)
    return chosen


def ranges(numbers: Sequence[int]) -> str:
    """Undoes `numbers`: ascending numbers as a list of ranges."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
