"""The naming of a checkpoint's tensors, and the layers that it holds.

Modules have the names of Hugging Face's DeepSeek-V3.2 here. Sources of the other names:
deepseek-ai/DeepSeek-V3.2-Exp (inference/convert.py), mindspore-lab/mindformers (models/deepseek3/utils.py, and for
the indexer models/deepseek4/utils.py, as deepseek3 has none).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ms_dsv32.weights.files import Checkpoint

OWN = "ms_dsv32"
"""The naming of the files that `save` and ``convert`` write: the contract's."""


@dataclass(frozen=True)
class Names:
    """A naming: whose it is, and each module's alternatives, without the prefix of a layer."""

    whose: str
    modules: Mapping[str, tuple[str, ...]]
    block_scale: str = "weight_scale_inv"
    """The suffix of the scales of FP8 blocks."""


NAMES = (
    Names(
        "Hugging Face",
        {
            "q_a_proj": ("q_a_proj",),
            "q_a_layernorm": ("q_a_layernorm",),
            "q_b_proj": ("q_b_proj",),
            "kv_a_proj_with_mqa": ("kv_a_proj_with_mqa",),
            "kv_a_layernorm": ("kv_a_layernorm",),
            "kv_b_proj": ("kv_b_proj",),
            "o_proj": ("o_proj",),
            "indexer.wq_b": ("indexer.wq_b",),
            "indexer.wk": ("indexer.wk",),
            "indexer.k_norm": ("indexer.k_norm",),
            "indexer.weights_proj": ("indexer.weights_proj",),
        },
    ),
    Names(
        "DeepSeek's inference code",
        {
            "q_a_proj": ("wq_a",),
            "q_a_layernorm": ("q_norm",),
            "q_b_proj": ("wq_b",),
            "kv_a_proj_with_mqa": ("wkv_a",),
            "kv_a_layernorm": ("kv_norm",),
            "kv_b_proj": ("wkv_b",),
            "o_proj": ("wo",),
            "indexer.wq_b": ("indexer.wq_b",),
            "indexer.wk": ("indexer.wk",),
            "indexer.k_norm": ("indexer.k_norm",),
            "indexer.weights_proj": ("indexer.weights_proj",),
        },
        block_scale="scale",
    ),
    Names(
        "MindSpore Transformers",
        {
            "q_a_proj": ("linear_q_down_proj",),
            "q_a_layernorm": ("q_layernorm",),
            "q_b_proj": ("linear_q_up_proj",),
            "kv_a_proj_with_mqa": ("linear_kv_down_proj",),
            "kv_a_layernorm": ("kv_layernorm",),
            "kv_b_proj": ("linear_kv_up_proj",),
            "o_proj": ("linear_proj",),
            "indexer.wq_b": ("core_attention.indexer.linear_wq_b", "indexer.linear_wq_b", "indexer.wq_b"),
            "indexer.wk": ("core_attention.indexer.linear_wk", "indexer.linear_wk", "indexer.wk"),
            "indexer.k_norm": ("core_attention.indexer.k_norm", "indexer.k_norm"),
            "indexer.weights_proj": (
                "core_attention.indexer.linear_weights_proj",
                "indexer.linear_weights_proj",
                "indexer.weights_proj",
            ),
        },
    ),
)
ROTATIONS = ("indexer.hadamard_matrix", "indexer.q_rot", "indexer.k_rot")
"""Matrices that turn the indexer's query and key before they are quantised: cann-recipes' one, msModelSlim's two."""

_FIRST = [name for names in NAMES for name in names.modules["q_a_proj"]]
_LAYER = re.compile(rf"(?P<prefix>(?:.*\.)?)(?:(?:{'|'.join(map(re.escape, _FIRST))})\.weight|w_dq)\Z")


def prefixes_of(checkpoint: Checkpoint) -> list[str]:
    """The prefix of each layer's attention, as the files have them."""
    return [match["prefix"] for match in map(_LAYER.match, checkpoint.names()) if match]


def layers_of(checkpoint: Checkpoint) -> dict[int, str]:
    """The prefix of each layer's attention, by the layer's number, in order.

    A layer's number is the last number in its prefix; a layer without one has number 0.

    Raises:
        ValueError: two prefixes have the same number.
    """
    prefixes: dict[int, str] = {}
    for prefix in prefixes_of(checkpoint):
        numbers = [part for part in prefix.split(".") if part.isdecimal()]
        number = int(numbers[-1]) if numbers else 0
        if prefixes.setdefault(number, prefix) != prefix:
            raise ValueError(
                f"weights: {checkpoint.paths}: {prefixes[number]} and {prefix} are both layer {number}; pass a prefix"
            )
    return dict(sorted(prefixes.items()))


def prefix_of(checkpoint: Checkpoint, layer: int) -> str:
    """The prefix of a layer's attention.

    Raises:
        TypeError: ``layer`` is not an int. KeyError: the checkpoint has no such layer. ValueError: as `layers_of`.
    """
    return choose(checkpoint, layers_of(checkpoint), layer)


def choose(checkpoint: Checkpoint, layers: Mapping[int, str], layer: int) -> str:
    """The prefix of one of the layers of `layers_of`. Errors are those of `prefix_of`."""
    if not isinstance(layer, int) or isinstance(layer, bool):
        raise TypeError(f"weights: layer must be an int, got {layer!r}")
    if layer not in layers:
        there = ", ".join(map(str, layers)) or "none"
        raise KeyError(f"weights: no layer {layer} in {checkpoint.paths}; there are {there}")
    return layers[layer]
