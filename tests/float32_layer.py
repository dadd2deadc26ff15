"""DeepSeek-V3.2's attention layer in float32, after inference/model.py of deepseek-ai/DeepSeek-V3.2-Exp.

This is what the operators approximate, stated a second time: it knows nothing of their contract, rounds nothing and
takes the model's own weights. Attention is the naive one: every selected key is projected up to its heads, where the
operators absorb ``kv_b_proj`` into the query. The Hadamard transform of the indexer's query and key is left out, as it
is orthogonal and cancels in their product. RoPE of the indexer is half-split: early versions of that file had MLA's,
which DeepSeek has called a mistake and corrected.

Weights go by Hugging Face's names without a prefix and without ``.weight``, each [out, in] or [n].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NOPE, ROPE, VALUE = 128, 64, 128
LATENT = 512
INDEX_HEADS, INDEX_DIM, TOPK = 64, 128, 2048
EPSILON = 1e-6
THETA, FACTOR, ORIGINAL, BETA_FAST, BETA_SLOW = 10000.0, 40.0, 4096, 32, 1
SOFTMAX_SCALE = (NOPE + ROPE) ** -0.5 * (0.1 * math.log(FACTOR) + 1) ** 2
_HEADS_AT_ONCE = 16  # keys and values of 8192 tokens and so many heads are 134 MB


def yarn_frequencies() -> Array:
    """Angles a position, float64 [32]: the low frequencies are interpolated, the high ones stay."""
    frequencies = THETA ** -(np.arange(0, ROPE, 2) / ROPE)

    def dimension(rotations: float) -> float:
        """The dimension that turns so often within the original context."""
        return ROPE * math.log(ORIGINAL / (rotations * 2 * math.pi)) / (2 * math.log(THETA))

    low, high = max(math.floor(dimension(BETA_FAST)), 0), min(math.ceil(dimension(BETA_SLOW)), ROPE - 1)
    interpolated = np.clip((np.arange(ROPE // 2) - low) / (high - low), 0, 1)
    return frequencies / FACTOR * interpolated + frequencies * (1 - interpolated)


def _turn(a: Array, b: Array, positions: Array) -> tuple[Array, Array]:
    """Turns the points (a, b), [t, ..., 32] each, of tokens at positions [t]."""
    angle = positions[:, None] * yarn_frequencies()
    angle = angle.reshape(len(positions), *(1,) * (a.ndim - 2), -1)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    return a * cos - b * sin, a * sin + b * cos


def rope_interleaved(x: Array, positions: Array) -> Array:
    """MLA's RoPE of [t, ..., 64]: neighbours are a pair."""
    return np.stack(_turn(x[..., 0::2], x[..., 1::2], positions), axis=-1).reshape(x.shape)


def rope_half_split(x: Array, positions: Array) -> Array:
    """The indexer's RoPE of [t, ..., 128]: of the first 64, the halves are pairs; the rest stays."""
    turned = _turn(x[..., : ROPE // 2], x[..., ROPE // 2 : ROPE], positions)
    return np.concatenate([*turned, x[..., ROPE:]], axis=-1)


def rms_norm(x: Array, gamma: Array) -> Array:
    """x / sqrt(mean(x^2) + 1e-6) * gamma, by rows."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(EPSILON)) * gamma


def layer_norm(x: Array, gamma: Array, beta: Array) -> Array:
    """(x - mean) / sqrt(variance + 1e-6) * gamma + beta, by rows."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + np.float32(EPSILON)) * gamma + beta


@dataclass(frozen=True)
class Keys:
    """What the layer caches of n tokens, float32."""

    latent: Array
    """[n, 512], normed."""
    rope: Array
    """[n, 64], turned."""
    index: Array
    """[n, 128], the indexer's, normed and turned."""

    def first(self, count: int) -> Keys:
        """The keys of the first tokens."""
        return Keys(self.latent[:count], self.rope[:count], self.index[:count])


def join(parts: Sequence[Keys]) -> Keys:
    """The keys of tokens that follow one another."""
    return Keys(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("latent", "rope", "index")))


@dataclass(frozen=True)
class Output:
    """What the layer gives for t tokens that see n keys or fewer."""

    hidden_out: Array
    """float32 [t, h]."""
    scores: Array
    """float32 [t, n], the indexer's, -inf where a key is not visible."""
    selected: Array
    """bool [t, n], the keys that were attended to."""

    def top(self, count: int) -> Array:
        """bool [t, n]: the visible keys of the highest scores."""
        return top(self.scores, count)


def top(scores: Array, count: int) -> Array:
    """bool of the same shape: the `count` highest of each row, or all above -inf if they are fewer."""
    chosen = scores > -np.inf
    if count < scores.shape[1]:
        highest = np.argpartition(scores, -count, axis=1)[:, -count:]
        mask = np.zeros_like(chosen)
        np.put_along_axis(mask, highest, True, axis=1)
        chosen &= mask
    return chosen


class Float32Layer:
    """The layer with its weights, which are kept as they are given: float32 arrays."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.weights = weights
        self.heads = weights["o_proj"].shape[1] // VALUE

    def keys(self, x: Array, first: int) -> Keys:
        """Keys of tokens with inputs x float32 [n, h] at positions first, first + 1, ..."""
        w, positions = self.weights, np.arange(first, first + len(x))
        latent, rope = np.split(x @ w["kv_a_proj_with_mqa"].T, [LATENT], axis=1)
        index = layer_norm(x @ w["indexer.wk"].T, w["indexer.k_norm"], w["indexer.k_norm.bias"])
        return Keys(
            rms_norm(latent, w["kv_a_layernorm"]),
            rope_interleaved(rope, positions),
            rope_half_split(index, positions),
        )

    def __call__(self, x: Array, keys: Keys, selected: Array | None = None) -> Output:
        """The result of the last tokens.

        Args:
            x: their inputs, float32 [t, h]. keys: of all tokens up to the last one.
            selected: bool [t, n], the keys to attend to instead of those that the indexer selects.
        """
        w, count = self.weights, len(keys.latent)
        positions = np.arange(count - len(x), count)
        q_latent = rms_norm(x @ w["q_a_proj"].T, w["q_a_layernorm"])
        scores = self._index(x, q_latent, keys, positions)
        selected = top(scores, TOPK) if selected is None else selected
        return Output(self._attend(q_latent, keys, positions, selected) @ w["o_proj"].T, scores, selected)

    def _index(self, x: Array, q_latent: Array, keys: Keys, positions: Array) -> Array:
        """The indexer's scores [t, n]."""
        w = self.weights
        q = (q_latent @ w["indexer.wq_b"].T).reshape(len(x), INDEX_HEADS, INDEX_DIM)
        q = rope_half_split(q, positions)
        head_weights = x @ w["indexer.weights_proj"].T * np.float32(INDEX_HEADS**-0.5 * INDEX_DIM**-0.5)
        scores = np.empty((len(x), len(keys.index)), np.float32)
        for i in range(len(x)):  # one token's products of 64K keys are 17 MB
            scores[i] = head_weights[i] @ np.maximum(q[i] @ keys.index.T, 0)
        scores[np.arange(len(keys.index)) > positions[:, None]] = -np.inf
        return scores

    def _attend(self, q_latent: Array, keys: Keys, positions: Array, selected: Array) -> Array:
        """The heads' results [t, heads * 128] over the keys that are `selected`, bool [t, n]."""
        w, tokens = self.weights, len(positions)
        q = (q_latent @ w["q_b_proj"].T).reshape(tokens, self.heads, NOPE + ROPE)
        q_nope, q_rope = q[..., :NOPE], rope_interleaved(q[..., NOPE:], positions)
        kv_b = w["kv_b_proj"].reshape(self.heads, NOPE + VALUE, LATENT)
        used = np.flatnonzero(selected.any(axis=0))  # what no token selected is not projected
        latent, rope, hidden = keys.latent[used], keys.rope[used], ~selected[:, None, used]
        out = np.empty((tokens, self.heads, VALUE), np.float32)
        for first in range(0, self.heads, _HEADS_AT_ONCE):
            part = slice(first, min(first + _HEADS_AT_ONCE, self.heads))
            kv = (latent @ kv_b[part].reshape(-1, LATENT).T).reshape(len(used), -1, NOPE + VALUE).transpose(1, 0, 2)
            scores = (q_nope[:, part].transpose(1, 0, 2) @ kv[..., :NOPE].transpose(0, 2, 1)).transpose(1, 0, 2)
            scores = (scores + q_rope[:, part] @ rope.T) * np.float32(SOFTMAX_SCALE)
            scores = np.where(hidden, -np.inf, scores)
            p = np.exp(scores - scores.max(axis=-1, keepdims=True))
            p /= p.sum(axis=-1, keepdims=True)
            out[:, part] = (p.transpose(1, 0, 2) @ kv[..., NOPE:]).transpose(1, 0, 2)
        return out.reshape(tokens, -1)
