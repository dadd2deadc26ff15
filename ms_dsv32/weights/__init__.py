"""Weights: the layouts that kernels want, and files: our own, and the checkpoints that people have.

In NumPy bfloat16 is held as its bits in ``uint16``, as everywhere in this package. Weights are dicts of row-major
arrays under the names of the operators' arguments. `MLA_WEIGHTS`, `INDEXER_WEIGHTS` and `EPILOG_WEIGHTS` list them.

`load_layer` reads a layer from a checkpoint, in any of the formats of docs/checkpoints.md, and `load_mla`,
`load_indexer` and `load_epilog` read a part of it. ``python -m ms_dsv32.weights`` tells what is in a checkpoint, and
converts it to files of our own, which `save` writes.
"""

from __future__ import annotations

from ms_dsv32.weights.contract import (
    EPILOG_WEIGHTS,
    INDEXER_WEIGHTS,
    MLA_WEIGHTS,
    Array,
    check,
    hadamard,
    save,
    shape_of,
)
from ms_dsv32.weights.conversion import convert, file_of, inspect, read_report
from ms_dsv32.weights.files import Checkpoint, Paths
from ms_dsv32.weights.layer import Layer, of_heads
from ms_dsv32.weights.layouts import from_nz, pack, prepare, restore, to_array, to_nz, to_tensor, unpack
from ms_dsv32.weights.names import layers_of, prefix_of

__all__ = [
    "EPILOG_WEIGHTS",
    "INDEXER_WEIGHTS",
    "MLA_WEIGHTS",
    "Checkpoint",
    "Paths",
    "check",
    "convert",
    "file_of",
    "from_nz",
    "hadamard",
    "inspect",
    "layers_of",
    "load_epilog",
    "load_indexer",
    "load_layer",
    "load_mla",
    "load_prologs",
    "of_heads",
    "pack",
    "prepare",
    "read_report",
    "restore",
    "save",
    "shape_of",
    "to_array",
    "to_nz",
    "to_tensor",
    "unpack",
]


def load_mla(
    paths: Paths | Checkpoint,
    *,
    prefix: str = "",
    layer: int | None = None,
    heads: range | None = None,
    allow_unknown: bool = False,
) -> dict[str, Array]:
    """Reads the weights of `mla_prolog_quant`.

    All tensors are checked by their headers before a large one is read. int8 projections are taken as they are. Other
    projections that the operators want as int8 are quantised by output channel, from float32.

    Args:
        paths: a safetensors file, a list of shards, a directory, an index, or a `Checkpoint` of them.
        prefix: the beginning of the tensors' names: ``"model.layers.0.self_attn."``.
        layer: the layer's number, which tells the prefix.
        heads: query heads to take, all by default. A tensor-parallel rank takes its own.
        allow_unknown: whether to ignore unknown tensors of the layer, instead of refusing them.

    Returns:
        The arrays of `MLA_WEIGHTS`, row-major. The value half of ``kv_b_proj`` is not among them: `load_epilog` reads
        it, with ``o_proj``.

    Raises:
        FileNotFoundError, OSError: a file is not there or cannot be read.
        KeyError: no file has a tensor. TypeError, ValueError: a file is not a safetensors file, a dtype or shape does
            not fit, or a tensor holds what the operators cannot honour, see docs/checkpoints.md. The text names the
            file and the tensor.
    """
    return _layer("load_mla", paths, prefix, layer, allow_unknown).read_mla(heads)


def load_indexer(
    paths: Paths | Checkpoint, *, prefix: str = "", layer: int | None = None, allow_unknown: bool = False
) -> dict[str, Array]:
    """Reads the weights of `lightning_indexer_prolog_quant`.

    Args:
        paths, prefix, layer, allow_unknown: see `load_mla`. The indexer's names have ``indexer.`` after the prefix.

    Returns:
        The arrays of `INDEXER_WEIGHTS`, row-major. hadamard_q and hadamard_k are the checkpoint's if it has them, else
        `hadamard`.

    Raises:
        KeyError, TypeError, ValueError, OSError: as `load_mla`.
    """
    return _layer("load_indexer", paths, prefix, layer, allow_unknown).read_indexer()


def load_epilog(
    paths: Paths | Checkpoint,
    *,
    prefix: str = "",
    layer: int | None = None,
    heads: range | None = None,
    allow_unknown: bool = False,
) -> dict[str, Array]:
    """Reads the weights of `mla_epilog_quant`: the value half of ``kv_b_proj``, and ``o_proj``.

    Args:
        paths, prefix, layer, heads, allow_unknown: see `load_mla`.

    Returns:
        The arrays of `EPILOG_WEIGHTS`, row-major. All ranks have the same ``w_o_scale``, because an ``o_proj`` that is
        quantised here is quantised by output channel over all heads, whichever are taken.

    Raises:
        KeyError, TypeError, ValueError, OSError: as `load_mla`.
    """
    return _layer("load_epilog", paths, prefix, layer, allow_unknown).read_epilog(heads)


def load_prologs(
    paths: Paths | Checkpoint,
    *,
    prefix: str = "",
    layer: int | None = None,
    heads: range | None = None,
    allow_unknown: bool = False,
) -> dict[str, Array]:
    """Reads the weights of `mla_indexer_prolog_quant`: those of `load_mla` and `load_indexer` in one dict.

    Args:
        paths, prefix, layer, heads, allow_unknown: see `load_mla`.

    Raises:
        KeyError, TypeError, ValueError, OSError: as `load_mla`. Headers and small tensors of both parts are checked
            before the first large tensor is read.
    """
    reader = _layer("load_prologs", paths, prefix, layer, allow_unknown)
    reader.check_mla()
    heads = reader.heads(heads)
    # The indexer's weights are small, so they are read first: an error in them comes before the large ones are read.
    return {**reader.read_indexer(), **reader.read_mla(heads)}


def load_layer(
    paths: Paths | Checkpoint,
    *,
    prefix: str = "",
    layer: int | None = None,
    heads: range | None = None,
    allow_unknown: bool = False,
) -> dict[str, Array]:
    """Reads all weights of a layer: those of `load_mla`, `load_indexer` and `load_epilog` in one dict.

    Args:
        paths, prefix, layer, heads, allow_unknown: see `load_mla`.

    Raises:
        KeyError, TypeError, ValueError, OSError: as `load_mla`. Headers and small tensors of all parts are checked
            before the first large tensor is read.
    """
    reader = _layer("load_layer", paths, prefix, layer, allow_unknown)
    reader.check_mla()
    reader.check_epilog()
    heads = reader.heads(heads)
    # The indexer goes first: its weights are small, and reading them begins with its headers and small tensors.
    return {**reader.read_indexer(), **reader.read_mla(heads), **reader.read_epilog(heads)}


def _layer(function: str, paths: Paths | Checkpoint, prefix: str, layer: int | None, allow_unknown: bool) -> Layer:
    checkpoint = paths if isinstance(paths, Checkpoint) else Checkpoint(paths)
    if layer is not None:
        if prefix != "":
            raise ValueError(f"{function}: prefix is {prefix!r} and layer is {layer!r}, expected one of them")
        prefix = prefix_of(checkpoint, layer)
    return Layer(checkpoint, prefix, allow_unknown=allow_unknown)
