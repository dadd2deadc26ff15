"""How near the layer comes to the model in float32 (tests/float32_layer.py), on a checkpoint and inputs from a seed.

The weights are made in float32 and stored in a checkpoint's format. Three layers are run: the operators on the
checkpoint, the float32 layer on what the checkpoint's numbers mean, and the float32 layer on the weights before they
were stored. So the losses of the operators and of the format can be separated.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import float32_layer
import mindspore as ms
import numpy as np
from float32_layer import Float32Layer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from benchmarks.limits import machine
from ms_dsv32 import cells, paging, rope, weights
from ms_dsv32.golden import bf16_to_float32, float32_to_bf16

sys.path.append(str(Path(float32_layer.__file__).parent / "weights"))
import checkpoints

Array = NDArray[Any]

H = 7168
KEYS = (300, 3000, 8192, 65536)
TOKENS = 4
"""The last tokens of a sequence, whose results are compared: as many as a step of multi-token prediction decodes."""
FORMATS = ("FP8", "bfloat16")
COMPARISONS = ("arithmetic", "operators", "storing", "both")
"""The losses: of the operators after the selection of keys, of the operators with it, of storing, and of all."""
TOP = 256
"""So many keys of the highest scores, which matter most, have a recall of their own."""

_CHUNK = 1024  # tokens that are computed at once, and that one random generator makes
_SMALL = {"q_a_proj": (1536, 1 / 64), "kv_a_proj_with_mqa": (512, 1 / 64), "indexer.wk": (128, 1 / 256)}
"""Rows that a norm follows are small: its inputs vary by 0.03 or 0.007, so that a wrong epsilon shows."""


def _generator(seed: int, stream: str, first: int = 0) -> np.random.Generator:
    """A generator for one stream. Streams differ, because inputs must not be correlated with the weights."""
    return np.random.default_rng([seed, *stream.encode(), first])


# Weights.


def float32_weights(heads: int, seed: int = 0) -> dict[str, Array]:
    """A layer's weights as `Float32Layer` takes them. Output channels differ in size.

    The scores of the attention vary by 0.9 to 1.6, so that some hundred of 2048 keys share most of a head's weight.
    """
    rng = _generator(seed, "weights")
    made = {}
    for module, shape in checkpoints.shapes(heads).items():
        values = rng.standard_normal(shape, np.float32)
        if len(shape) == 2:
            values *= np.float32(0.02) * np.exp(np.float32(0.5) * rng.standard_normal((shape[0], 1), np.float32))
            rows, factor = _SMALL.get(module, (0, 1))
            values[:rows] *= np.float32(factor)
        else:
            values = 1 + np.float32(0.1) * values
        made[module] = values
    made["kv_a_proj_with_mqa"][512:] *= np.float32(0.5)
    made["indexer.k_norm.bias"] = np.float32(0.1) * rng.standard_normal(128, np.float32)
    return made


def store(made: Mapping[str, Array], kind: str) -> dict[str, Array]:
    """The tensors of a checkpoint, named as in `made`. kind is one of `FORMATS`.

    FP8 is DeepSeek's own: weights_proj and the norms stay bfloat16, and the indexer's k_norm is float32 in both.
    """
    tensors = {}
    for module, values in made.items():
        name = module if module.endswith(".bias") else f"{module}.weight"
        if kind == "FP8" and values.ndim == 2 and module != "indexer.weights_proj":
            tensors[name], tensors[f"{module}.weight_scale_inv"] = checkpoints.block_quantised(values)
        else:
            tensors[name] = values if "k_norm" in module else values.astype(checkpoints.BF16)
    return tensors


def meaning(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """What the tensors of `store` mean, in float32, as `Float32Layer` takes it."""
    meant = {}
    for name, stored in tensors.items():
        if name.endswith("_scale_inv"):
            continue
        module, scale = name.removesuffix(".weight"), f"{name}_scale_inv"
        values = stored.astype(np.float32)
        if scale in tensors:
            for first in range(0, len(values), 128):  # all rows at once would be another copy
                rows = values[first : first + 128]
                rows *= np.repeat(tensors[scale][first // 128], 128)[: rows.shape[1]]
        meant[module] = values
    return meant


# Inputs.


def _random(count: int, seed: int) -> Iterator[Array]:
    """Independent normal values."""
    for first in range(0, count, _CHUNK):
        yield _generator(seed, "random", first).standard_normal((_CHUNK, H), np.float32)


def _structured(count: int, seed: int) -> Iterator[Array]:
    """Tokens that resemble those before them, with massive activations, and normed as after input_layernorm.

    Most of a token lies in a subspace of 64 dimensions, in which it walks (AR(1)). Channels differ in size. In every
    token six channels hold 50 to 100 times as much as the others. In the first token, and in one of some 256, two of
    the six hold 30 times as much again, so that nothing else is left of such a token after the norm.
    """
    rng = _generator(seed, "structured")
    basis = rng.standard_normal((64, H), np.float32) / np.float32(8)
    gains = np.exp(0.5 * rng.standard_normal(H, np.float32))
    channels = rng.choice(H, 6, replace=False)
    sizes = rng.uniform(50, 100, 6) * rng.choice([-1, 1], 6)
    place = rng.standard_normal(64, np.float32)
    for first in range(0, count, _CHUNK):
        rng = _generator(seed, "structured", first)
        walk = rng.standard_normal((_CHUNK, 64), np.float32)
        for i, step in enumerate(walk):
            place = np.float32(0.99) * place + np.float32((1 - 0.99**2) ** 0.5) * step
            walk[i] = place
        x = (walk @ basis + np.float32(0.5) * rng.standard_normal((_CHUNK, H), np.float32)) * gains
        x /= np.sqrt(np.mean(x * x))
        x[:, channels] = sizes * (1 + 0.1 * rng.standard_normal((_CHUNK, 6)))
        massive = rng.random(_CHUNK) < 1 / 256
        massive[0] |= first == 0
        x[np.ix_(massive, channels[:2])] *= 30
        yield x / np.sqrt(np.mean(x * x, axis=1, keepdims=True))


INPUTS: dict[str, Callable[[int, int], Iterator[Array]]] = {"random": _random, "structured": _structured}


def hidden_states(kind: str, count: int, seed: int = 0) -> Array:
    """Inputs of the layer, of a kind in `INPUTS`: bfloat16 bits [count, 7168]. Fewer tokens are the first of more."""
    return np.concatenate([float32_to_bf16(x) for x in INPUTS[kind](count, seed)])[:count]


# Layers.


@dataclass(frozen=True)
class Result:
    """What a layer gave for the last tokens."""

    hidden_out: Array
    """float32 [TOKENS, 7168]."""
    selected: Array
    """bool [TOKENS, keys]: the keys that the indexer selected."""
    top: Array | None = None
    """bool [TOKENS, keys]: the keys of the `TOP` highest scores, if the scores are known."""


class Model:
    """The float32 layer with the keys of one sequence, of inputs x, bfloat16 bits [n, 7168]."""

    def __init__(self, made: Mapping[str, Array], x: Array) -> None:
        self._x = x
        self._layer = Float32Layer(made)
        parts = range(0, len(x), _CHUNK)
        self._keys = float32_layer.join([self._layer.keys(bf16_to_float32(x[i : i + _CHUNK]), i) for i in parts])
        self._results: dict[int, Result] = {}

    def __call__(self, length: int) -> Result:
        """The result for the last tokens of the first `length` ones."""
        if length not in self._results:
            self._results[length] = self._run(length)
        return self._results[length]

    def with_keys(self, selected: Array) -> Result:
        """The result as if the indexer had selected these keys, bool [TOKENS, length]."""
        return self._run(selected.shape[1], selected)

    def _run(self, length: int, selected: Array | None = None) -> Result:
        x = bf16_to_float32(self._x[length - TOKENS : length])
        output = self._layer(x, self._keys.first(length), selected)
        return Result(output.hidden_out, output.selected, output.top(TOP))


def make_layer(length: int, heads: int, **arguments: Any) -> cells.SparseAttentionLayer:
    """The layer over a sequence of `length` keys. The arguments are those of `cells.SparseAttentionLayer`."""
    return cells.SparseAttentionLayer(paging.block_num_of([length]), heads, **arguments)


@contextmanager
def _pynative() -> Iterator[None]:
    """PyNative mode during the block."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=before)


class Operators:
    """The layer made of the operators, over one sequence.

    Args:
        layer: a layer of `make_layer`, with its weights. length: keys of the sequence at the end.
        filler: writes the keys of all tokens but the last. It is the layer's own prolog, or one of fewer query heads,
            which takes less time, and on which keys do not depend.
    """

    def __init__(
        self, layer: cells.SparseAttentionLayer, length: int, filler: cells.MLAIndexerProlog | None = None
    ) -> None:
        self._layer = layer
        self._filler = filler or layer.step.prolog
        self._table = paging.make_block_table([length], rng=np.random.default_rng(1))
        self._block_num = paging.block_num_of([length])

    def results(self, x: Array, lengths: Sequence[int]) -> Iterator[Result]:
        """The layer's results for the last tokens of each length of x, bfloat16 bits [n, 7168]. Lengths ascend.

        The layer writes the keys of these tokens itself, into rows of the cache that were empty. It runs in MindSpore's
        mode. All else runs in PyNative mode, which compiles nothing.
        """
        caches, filled = cells.make_caches(self._block_num), 0
        for length in lengths:
            with _pynative():
                for first in range(filled, length - TOKENS, _CHUNK):
                    prolog_inputs, _ = self._inputs(x, first, min(first + _CHUNK, length - TOKENS))
                    self._filler(*prolog_inputs, *caches)
            filled = length
            prolog_inputs, paging_inputs = self._inputs(x, length - TOKENS, length)
            hidden_out = bf16_to_float32(weights.to_array(self._layer(*prolog_inputs, *paging_inputs, *caches)))
            with _pynative():
                _, _, *indexer_inputs = self._layer.step.prolog(*prolog_inputs, *caches)
                indices = weights.to_array(self._layer.step.indexer(*indexer_inputs, *caches[3:], *paging_inputs))
            selected = np.zeros((TOKENS, length), bool)
            for i, row in enumerate(indices):
                selected[i, row[row >= 0]] = True
            yield Result(hidden_out, selected)

    def _inputs(self, x: Array, first: int, stop: int) -> tuple[list[ms.Tensor], list[ms.Tensor]]:
        """The inputs of tokens first to stop: those of the prolog before the caches, and block table and length."""
        positions = np.arange(first, stop)[None]
        cos, sin = rope.rope_tables(positions[0])
        index = paging.cache_index_of(self._table, positions)[0]
        inputs = [weights.to_tensor(array) for array in (x[first:stop].copy(), cos, sin, index)]
        return inputs, [weights.to_tensor(array) for array in (self._table, np.array([stop], np.int32))]


# Comparison.


def compare(got: Result, want: Result) -> dict[str, float]:
    """How near `got` comes to the float32 layer's result.

    Returns:
        cosine: the smallest of the tokens' hidden_out. relative_error: the norm of the difference of all tokens over
        the norm of `want`. recall: the share of the keys selected by `want` that `got` selected too. top_recall: the
        same share of the `TOP` keys of the highest scores.
    """
    a, b = got.hidden_out.astype(np.float64), want.hidden_out.astype(np.float64)
    cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return {
        "cosine": float(cosines.min()),
        "relative_error": float(np.linalg.norm(a - b) / np.linalg.norm(b)),
        "recall": float((got.selected & want.selected).sum() / want.selected.sum()),
        "top_recall": float((got.selected & want.top).sum() / want.top.sum()),
    }


def figures(got: Result, meant: Model, before: Model) -> dict[str, dict[str, float]]:
    """The results of `compare` for the operators' last tokens, by `COMPARISONS`.

    Args:
        meant, before: the float32 layer on what the checkpoint means, and on the weights before they were stored.
    """
    length = got.selected.shape[1]
    want, original = meant(length), before(length)
    pairs = {
        "arithmetic": (got, meant.with_keys(got.selected)),
        "operators": (got, want),
        "storing": (want, original),
        "both": (got, original),
    }
    return {name: compare(*pairs[name]) for name in COMPARISONS}


def accuracy(console: Console, heads: int = 128, keys: Sequence[int] = KEYS, seed: int = 0) -> dict[str, Any]:
    """All comparisons, by input, format and number of keys. MindSpore runs in graph mode."""
    ms.set_context(mode=ms.GRAPH_MODE)
    found: dict[str, Any] = {"machine": machine(), "heads": heads, "seed": seed, "tokens": TOKENS, "results": []}
    with Progress(console=console, transient=True) as progress, tempfile.TemporaryDirectory() as folder:
        bar = progress.add_task("weights and inputs", total=1 + len(INPUTS) + len(FORMATS) * (1 + 2 * len(INPUTS)))

        def done(next_one: str) -> None:
            progress.update(bar, advance=1, description=next_one)

        made = float32_weights(heads, seed)
        states = {kind: hidden_states(kind, max(keys), seed) for kind in INPUTS}
        before = {}
        for kind, x in states.items():
            done(f"float32 weights, {kind}: keys in float32")
            before[kind] = Model(made, x)
        for form in FORMATS:
            done(f"{form}: checkpoint")
            path = Path(folder) / f"{form}.safetensors"
            tensors = store(made, form)
            checkpoints.write(path, checkpoints.renamed(tensors))
            weights_meant = meaning(tensors)
            del tensors
            layer = make_layer(max(keys), heads)
            layer.load(path, layer=0)
            filler = cells.MLAIndexerProlog(1)
            filler.load(path, layer=0, heads=range(1))
            path.unlink()
            operators = Operators(layer, max(keys), filler)
            for kind, x in states.items():
                done(f"{form}, {kind}: keys in float32")
                meant = Model(weights_meant, x)
                done(f"{form}, {kind}: operators, and comparisons")
                for length, result in zip(keys, operators.results(x, keys), strict=True):
                    row = {"input": kind, "format": form, "keys": length, **figures(result, meant, before[kind])}
                    found["results"].append(row)
                    console.print(_line(row))
    return found


def _line(row: Mapping[str, Any]) -> str:
    """A result as one line of text."""
    errors = ", ".join(f"{name} {row[name]['relative_error']:.4f}" for name in COMPARISONS)
    both = row["both"]
    told = f"cosine {both['cosine']:.5f}, recall {both['recall']:.4f}, top {both['top_recall']:.4f}"
    return f"{row['input']:10} {row['format']:8} {row['keys']:6} keys: errors: {errors}; {told}"
