"""Rotary position embedding in NumPy: the tables that the operators take, YaRN, and its factor on the softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Bf16 = NDArray[np.uint16]

ROPE_DIM = 64
"""Dimensions of a head that RoPE turns, in MLA and in the indexer."""
_Q_HEAD_DIM = 192  # 128 that RoPE does not turn and 64 that it does: a score sums as many products


class Rope(Protocol):
    """What the tables depend on. `ms_dsv32.config.ModelConfig` is one, and explains each field."""

    @property
    def rope_theta(self) -> float: ...
    @property
    def rope_factor(self) -> float: ...
    @property
    def original_seq_len(self) -> int: ...
    @property
    def beta_fast(self) -> float: ...
    @property
    def beta_slow(self) -> float: ...
    @property
    def mscale(self) -> float: ...


@dataclass(frozen=True)
class RopeParameters:
    """A `Rope` whose defaults are DeepSeek-V3.2-Exp's (inference/model.py: ModelArgs)."""

    rope_theta: float = 10000.0
    rope_factor: float = 40.0
    original_seq_len: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0


DEEPSEEK_V32 = RopeParameters()
"""DeepSeek-V3.2-Exp's: YaRN by 40 over 4096 positions."""
PLAIN = replace(DEEPSEEK_V32, rope_factor=1.0)
"""The same without YaRN."""


def rope_frequencies(rope: Rope = DEEPSEEK_V32) -> NDArray[np.float64]:
    """Angle per position of each of the 32 pairs: float64 [32], ``rope_theta**(-i / 32)`` for pair i before YaRN.

    YaRN (arXiv:2309.00071) counts how often a pair turns within the `original_seq_len` positions. A pair that turns
    more than beta_fast times keeps its frequency. A pair that turns less than beta_slow times is slowed by
    `rope_factor`. Pairs between are interpolated linearly in i. The matching factor on the softmax is `softmax_scale`.

    Args:
        rope: the model's constants, e.g. a `ms_dsv32.config.ModelConfig`. A `rope_factor` of 1 means no YaRN.

    Raises:
        ValueError: `rope_factor` is below 1.
    """
    _require_factor(rope)
    pair = np.arange(ROPE_DIM // 2, dtype=np.float64)
    frequency = rope.rope_theta ** (-2.0 * pair / ROPE_DIM)
    if rope.rope_factor == 1.0:
        return frequency

    def pair_that_turns(times: float) -> float:
        # frequency * original_seq_len = 2 pi * times, solved for the pair's number
        turns = rope.original_seq_len / (times * 2.0 * math.pi)
        return ROPE_DIM * math.log(turns) / (2.0 * math.log(rope.rope_theta))

    first = max(math.floor(pair_that_turns(rope.beta_fast)), 0)
    last = min(math.ceil(pair_that_turns(rope.beta_slow)), ROPE_DIM - 1)
    # DeepSeek's code and transformers' give a range of no pairs a width of 0.001, which makes it a step.
    slowed = np.clip((pair - first) / (last - first or 0.001), 0.0, 1.0)
    interpolated: NDArray[np.float64] = frequency * (1.0 - slowed) + frequency / rope.rope_factor * slowed
    return interpolated


def softmax_scale(rope: Rope = DEEPSEEK_V32) -> float:
    """The attention's factor on the scores: ``192**-0.5``, times ``(0.1 * mscale * ln(rope_factor) + 1)**2`` with YaRN.

    Args:
        rope: see `rope_frequencies`, which has the same errors.
    """
    _require_factor(rope)
    mscale = 0.1 * rope.mscale * math.log(rope.rope_factor) + 1.0
    return mscale * mscale / math.sqrt(_Q_HEAD_DIM)


def rope_tables(positions: Array, rope: Rope = DEEPSEEK_V32) -> tuple[Bf16, Bf16]:
    """cos and sin of the given positions, one row a token.

    MLA and the indexer take the same tables: the pairs that they turn differ, the angles do not.

    Args:
        positions: key positions, integers of any shape (`ms_dsv32.paging.token_positions`).
        rope: see `rope_frequencies`, which has the same errors.

    Returns:
        Two arrays of bfloat16 bits [*positions.shape, 64], both halves of a row alike.
    """
    angle = np.asarray(positions, np.float64)[..., None] * rope_frequencies(rope)
    angle = np.concatenate([angle, angle], axis=-1)
    return _to_bf16(np.cos(angle)), _to_bf16(np.sin(angle))


def _require_factor(rope: Rope) -> None:
    if not rope.rope_factor >= 1.0:
        raise ValueError(f"rope: rope_factor is {rope.rope_factor}, expected 1 (no YaRN) or more")


def _to_bf16(values: NDArray[np.float64]) -> Bf16:
    """Rounds finite values to bfloat16, to nearest even."""
    bits = values.astype(np.float32).view(np.uint32)
    bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (bits >> np.uint32(16)).astype(np.uint16)
