"""Files of layers in which every tensor of every layer has values of its own, so that one read from elsewhere shows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cases
import checkpoints
import numpy as np
import pytest
import tolerance

from ms_dsv32 import weights

N_Q = 3
LAYERS = (2, 5)
PARTS = {
    "load_mla": weights.MLA_WEIGHTS,
    "load_indexer": weights.INDEXER_WEIGHTS,
    "load_epilog": weights.EPILOG_WEIGHTS,
    "load_prologs": (*weights.INDEXER_WEIGHTS, *weights.MLA_WEIGHTS),
    "load_layer": (*weights.INDEXER_WEIGHTS, *weights.MLA_WEIGHTS, *weights.EPILOG_WEIGHTS),
}
UNKNOWN = ("more.weight", "indexer.more.weight", "kv_b_proj.more")
"""Tensors that no loader knows, by source: our own files, the indexer of a checkpoint, the rest of a checkpoint."""
HEAD_AXES = {"w_uq_qr": (1, 192), "dequant_scale": (0, 192), "w_uk": (0, 1), "w_uv": (0, 1), "w_o": (0, 128)}

Weights = dict[str, Any]


def own(seed: int) -> Weights:
    """The weights of a layer, as one of our own files has them."""
    layer = cases.layer_weights(N_Q, seed)
    return {n: a.view(checkpoints.BF16) if a.dtype == np.uint16 else a for n, a in layer.items()}


def hugging_face(shift: int) -> Weights:
    """A layer of a checkpoint with int8 and bfloat16; another shift has other values in every tensor."""
    tensors = {**checkpoints.rotated(N_Q).tensors}
    for module in ("indexer.wq_b",):
        tensors |= {n: t for n, t in checkpoints.compressed_tensors(N_Q).tensors.items() if n.startswith(module)}
    rolled = {n: np.roll(t.reshape(-1), shift).reshape(t.shape) for n, t in tensors.items()}
    return {n: np.zeros_like(t) if n.endswith("offset") else t for n, t in rolled.items()}


class Files:
    """Two files of two layers each, and the whole of each layer, as a file without a prefix gives it."""

    def __init__(self, folder: Path, make: Callable[[int], Weights]) -> None:
        self.paths = [folder / f"{i}.safetensors" for i in range(2)]
        self.layers: dict[tuple[Path, int], Weights] = {}
        made = [make(0), make(1)]
        whole = []
        for i, layer in enumerate(made):
            alone = checkpoints.write(folder / f"alone{i}.safetensors", layer)
            whole.append(weights.load_layer(alone))
        for i, path in enumerate(self.paths):
            tensors: Weights = {}
            for j, layer in enumerate(LAYERS):
                more = {name: np.ones(1, np.float32) for name in UNKNOWN}
                tensors |= {f"{self.prefix(layer)}{n}": t for n, t in {**made[(i + j) % 2], **more}.items()}
                self.layers[path, layer] = whole[(i + j) % 2]
            checkpoints.write(path, tensors)

    @staticmethod
    def prefix(layer: int) -> str:
        return checkpoints.prefix_of(layer)

    def loads(self, load: Callable[..., Any], heads: Sequence[range | None]) -> Iterator[tuple[Path, int, Weights]]:
        """A call of a loader, or of a cell's, and the same with each argument changed: path, layer, and the arguments.

        Args:
            load: what is called. A parameter that is not listed here fails.
            heads: other values than that of the first call.
        """
        first, second = self.paths
        changes: dict[str, list[Weights]] = {
            "paths": [{"paths": second}, {"paths": weights.Checkpoint(second)}],
            "prefix": [{"prefix": self.prefix(2)}],
            "layer": [{"prefix": "", "layer": 5}, {"prefix": "", "layer": 2}],
            "heads": [{"heads": value} for value in heads],
            "allow_unknown": [],
        }
        parameters = inspect.signature(load).parameters
        assert set(parameters) | {"heads"} == set(changes)
        for change in [{}, *(c for name in parameters for c in changes[name])]:
            arguments = {"paths": first, **self._usual(load), "allow_unknown": True, **change}
            layer = arguments.get("layer") or int(arguments["prefix"].split(".")[2])
            yield second if "paths" in change else first, layer, arguments

    def check_refusals(self, load: Callable[..., Any]) -> None:
        """Tensors that are not known are refused where the call asks for that, and by default."""
        for unknown in ({"allow_unknown": False}, {}):
            with pytest.raises(ValueError, match=r"more(\.weight)? is not known here"):
                load(self.paths[0], **self._usual(load), **unknown)

    def _usual(self, load: Callable[..., Any]) -> Weights:
        usual = {"prefix": self.prefix(5), "heads": range(1, 3)}
        return {name: value for name, value in usual.items() if name in inspect.signature(load).parameters}

    def want(self, function: str, path: Path, layer: int, heads: range | None) -> Weights:
        """The weights of a loader, cut here."""
        layer_weights = self.layers[path, layer]
        part = {name: layer_weights[name] for name in PARTS[function]}
        for name, (axis, size) in HEAD_AXES.items():
            if heads is not None and name in part:
                part[name] = np.take(part[name], range(heads.start * size, heads.stop * size), axis)
        return part


FORMS: dict[str, Callable[[int], Weights]] = {"our own": own, "Hugging Face": hugging_face}


def same(got: Weights, want: Weights) -> None:
    """Names, in any order, and bits."""
    assert sorted(got) == sorted(want)
    for name, array in want.items():
        tolerance.assert_same_bits(name, got[name], array)
