"""Models that are converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoints
import numpy as np

from ms_dsv32 import weights

WITHOUT_EPILOG = (*weights.MLA_WEIGHTS, *weights.INDEXER_WEIGHTS)
ALL_WEIGHTS = (*WITHOUT_EPILOG, *weights.EPILOG_WEIGHTS)


def hollow(
    path: Path,
    gamma: float = 1.0,
    layers: int = 1,
    kind: str = "W8A8_DYNAMIC",
    n_q: int = 1,
    change: dict[str, Any] | None = None,
) -> Path:
    """A model whose matrices are holes. Models differ in gamma. A tensor that changes to None is left out."""
    tensors: dict[str, Any] = {}
    for layer in range(layers):
        made = {**checkpoints.hollow(n_q, kind), "q_a_layernorm.weight": np.full(1536, gamma + layer, checkpoints.BF16)}
        made |= change or {}
        tensors |= checkpoints.renamed({name: t for name, t in made.items() if t is not None}, layer)
    return checkpoints.write(path, tensors)
