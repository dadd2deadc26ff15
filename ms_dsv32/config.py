"""DeepSeek-V3.2's dimensions and the operators' configuration objects.

The classes have the field names of the PyPTO source (``models/deepseek_v32_exp``). Where the source gives defaults they
are its defaults; where it gives none (`RopeTileShapeConfig`, `IndexerPrologQuantConfigs`, `SaTileShapeConfig`) they are
the values of its decode example. A configuration is immutable and hashable, so that one compiled operator can be kept
for each: lists become tuples, and the ``*_setting`` mappings sorted tuples of (key, value) pairs.

Tile configurations are checked, against the buffers of an Atlas A2/A3 core too, and change nothing: every target's
kernels choose their tiles by the shapes of the call. So a script written for the source runs as it is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ms_dsv32 import op_info

# Bytes of a core's buffers: CANN, NPU architecture 2201.
_BUFFERS = {"L0A": 65536, "L0B": 65536, "L0C": 131072, "L1": 524288, "UB": 196608}

Setting = Mapping[int, int] | Sequence[tuple[int, int]]


def _value(dim: str) -> int:
    value = op_info.dims()[dim].value
    if value is None:
        raise ValueError(f"config: dim {dim} has no fixed value")
    return value


def _maximum(dim: str) -> int:
    maximum = op_info.dims()[dim].max
    if maximum is None:
        raise ValueError(f"config: dim {dim} has no maximum")
    return maximum


H: Final = _value("h")
"""Hidden size, 7168."""
N_Q: Final = _maximum("n_q")
"""Query heads of the whole model, 128; a tensor-parallel rank holds fewer."""
Q_LORA_RANK: Final = _value("q_lora_rank")
KV_LORA_RANK: Final = _value("kv_lora_rank")
ROPE_DIM: Final = _value("rope_dim")
QK_NOPE_HEAD_DIM: Final = _value("qk_nope_head_dim")
Q_HEAD_DIM: Final = _value("q_head_dim")
K_SCALE_GROUPS: Final = _value("k_scale_groups")
IDX_N_HEADS: Final = _value("idx_n_heads")
IDX_HEAD_DIM: Final = _value("idx_head_dim")
SELECTED_COUNT: Final = _maximum("selected_count")
"""Keys that a token attends to (topk), 2048."""
BLOCK_SIZE: Final = _value("block_size")
"""Tokens of one cache block, 128."""
V_HEAD_DIM: Final = _value("v_head_dim")
"""Value dimensions of a head, after the epilog's value up-projection."""
SOFTMAX_SCALE: Final = Q_HEAD_DIM**-0.5 * (0.1 * math.log(40.0) + 1.0) ** 2
"""The model's factor on the scores: q_head_dim**-0.5 times the square of YaRN's mscale for rope_factor 40
(DeepSeek-V3.2-Exp, inference/model.py). Without YaRN it is q_head_dim**-0.5."""


def _set(config: Any, field: str, value: Any) -> None:
    object.__setattr__(config, field, value)  # the dataclass is frozen; this is its own __post_init__


def _refuse(config: Any, field: str, expected: str) -> None:
    value = getattr(config, field)
    usual = type(type(config).__dataclass_fields__[field].default)
    kind = ValueError if type(value) in (usual, int if usual is float else usual) else TypeError
    raise kind(f"{type(config).__name__}: {field} must be {expected}, got {value!r}")


def _check_ints(config: Any, *fields: str) -> None:
    for field in fields:
        value = getattr(config, field)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            _refuse(config, field, "a positive int")


def _check_tile(config: Any, field: str, length: int) -> None:
    value = getattr(config, field)
    if isinstance(value, Sequence) and not isinstance(value, str):
        _set(config, field, tuple(value))
    value = getattr(config, field)
    good = isinstance(value, tuple) and len(value) == length
    if not good or any(not isinstance(v, int) or isinstance(v, bool) or v < 1 for v in value):
        _refuse(config, field, f"{length} positive ints")


def _check_cube_tile(config: Any, field: str, item: int, k: int, n: int) -> None:
    """A tile of a product [m, k] @ [k, n] with elements of `item` bytes; a tile larger than an axis is cut to it."""
    _check_tile(config, field, 6)
    m_l0, m_l1, k_l0, k_l1, n_l0, n_l1 = getattr(config, field)
    if m_l1 % m_l0 or k_l1 % k_l0 or n_l1 % n_l0:
        _refuse(config, field, "[m_L0, m_L1, k_L0, k_L1, n_L0, n_L1] with each L1 tile a multiple of its L0 tile")
    k_l0, k_l1, n_l0, n_l1 = min(k_l0, k), min(k_l1, k), min(n_l0, n), min(n_l1, n)
    needs = {
        "L0A": m_l0 * k_l0 * item,
        "L0B": k_l0 * n_l0 * item,
        "L0C": m_l0 * n_l0 * 4,  # float32 or int32 sums
        "L1": (m_l1 + n_l1) * k_l1 * item,
    }
    for buffer, size in _BUFFERS.items():
        if needs.get(buffer, 0) > size:
            _refuse(config, field, f"a tile that fits {buffer} ({size} bytes; this one needs {needs[buffer]})")


def _check_vector_tile(config: Any, field: str) -> None:
    _check_tile(config, field, 2)
    needs = math.prod(getattr(config, field)) * 4  # as float32
    if needs > _BUFFERS["UB"]:
        _refuse(config, field, f"a tile that fits UB ({_BUFFERS['UB']} bytes; this one needs {needs})")


def _check_unroll_list(config: Any) -> None:
    value = config.unroll_list
    if isinstance(value, Sequence) and not isinstance(value, str):
        _set(config, "unroll_list", tuple(value))
    value = config.unroll_list
    good = isinstance(value, tuple) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
    # Greedy unrolling covers every number of tokens only if it can end with single ones.
    if not good or list(value) != sorted(set(value), reverse=True) or not value or value[-1] != 1:
        _refuse(config, "unroll_list", "ints in descending order that end with 1")


def _check_setting(config: Any, field: str) -> None:
    value = getattr(config, field)
    if isinstance(value, Mapping):
        _set(config, field, tuple(value.items()))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        _set(config, field, tuple(tuple(pair) if isinstance(pair, Sequence) else pair for pair in value))
    value = getattr(config, field)
    pairs = isinstance(value, tuple) and all(isinstance(p, tuple) and len(p) == 2 for p in value)
    if not pairs or any(not isinstance(v, int) or isinstance(v, bool) for pair in value for v in pair):
        _refuse(config, field, "a mapping of ints to ints")
    if any(key < -1 or count < 1 for key, count in value) or len(dict(value)) != len(value):
        _refuse(config, field, "a mapping of graph numbers (-1 for all others) to positive counts")
    _set(config, field, tuple(sorted(value)))


@dataclass(frozen=True)
class MlaTileConfig:
    """Tiles of the MLA prolog; field names and defaults are the source's ``MlaTileConfig``.

    Raises:
        TypeError, ValueError: a field is not what its type below says, tile sizes are not positive, an L1 tile is not a
            multiple of its L0 tile, a tile does not fit a core's buffers, or ``unroll_list`` does not descend to 1.
    """

    tile_b: int = 8
    tile_s: int = 1
    tile_bs: int = 8
    m_tile: int = 16
    mv_tile: int = 16
    pre_quant_cube_tile: Sequence[int] = (16, 16, 256, 256, 128, 128)
    cube_qb_tile: Sequence[int] = (16, 16, 256, 256, 128, 128)
    cube_wuk_tile: Sequence[int] = (32, 32, 256, 256, 256, 256)
    unroll_list: Sequence[int] = (32, 16, 8, 4, 2, 1)
    q_vec_tile0: int = 16
    q_vec_tile1: int = 16
    k_vec_tile0: int = 16
    k_vec_tile1: int = 16
    cube_l1_reuse_setting: Setting = ((-1, 4),)
    cube_nbuffer_setting: Setting = ((3, 4),)
    dynamic_unaligned_enable: bool = False

    def __post_init__(self) -> None:
        _check_ints(self, "tile_b", "tile_s", "tile_bs", "m_tile", "mv_tile")
        _check_ints(self, "q_vec_tile0", "q_vec_tile1", "k_vec_tile0", "k_vec_tile1")
        _check_cube_tile(self, "pre_quant_cube_tile", 2, H, Q_LORA_RANK)
        _check_cube_tile(self, "cube_qb_tile", 1, Q_LORA_RANK, N_Q * Q_HEAD_DIM)
        _check_cube_tile(self, "cube_wuk_tile", 2, QK_NOPE_HEAD_DIM, KV_LORA_RANK)
        _check_unroll_list(self)
        _check_setting(self, "cube_l1_reuse_setting")
        _check_setting(self, "cube_nbuffer_setting")
        if not isinstance(self.dynamic_unaligned_enable, bool):
            _refuse(self, "dynamic_unaligned_enable", "a bool")


@dataclass(frozen=True)
class RopeTileShapeConfig:
    """Vector tiles of the RoPE stage for operands of two, three and four axes.

    Raises:
        TypeError, ValueError: a field is not that many positive ints.
    """

    two_dim: Sequence[int] = (32, 64)
    three_dim: Sequence[int] = (32, 32, 128)
    four_dim: Sequence[int] = (16, 128, 128, 128)

    def __post_init__(self) -> None:
        _check_tile(self, "two_dim", 2)
        _check_tile(self, "three_dim", 3)
        _check_tile(self, "four_dim", 4)


@dataclass(frozen=True)
class IndexerPrologQuantConfigs:
    """Tiles of the indexer's prolog.

    Raises:
        TypeError, ValueError: as `MlaTileConfig`; or ``block_size`` is not the caches' block size.
    """

    q_linear: Sequence[int] = (16, 16, 512, 512, 128, 128)
    q_hd: Sequence[int] = (32, 32, 128, 128, 128, 128)
    k_linear: Sequence[int] = (16, 16, 512, 512, 64, 64)
    w_linear: Sequence[int] = (16, 16, 1024, 1024, 32, 32)
    unroll_list: Sequence[int] = (32, 16, 8, 4, 2, 1)
    cube_l1_reuse_setting: Setting = ((1, 4),)
    block_size: int = BLOCK_SIZE
    t_sub_tile: int = 1
    chunk_size: int = 2
    vec_nbuffer_setting: Setting = ((-1, 1),)

    def __post_init__(self) -> None:
        _check_cube_tile(self, "q_linear", 1, Q_LORA_RANK, IDX_N_HEADS * IDX_HEAD_DIM)
        _check_cube_tile(self, "q_hd", 2, IDX_HEAD_DIM, IDX_HEAD_DIM)
        _check_cube_tile(self, "k_linear", 2, H, IDX_HEAD_DIM)
        _check_cube_tile(self, "w_linear", 2, H, IDX_N_HEADS)
        _check_unroll_list(self)
        _check_setting(self, "cube_l1_reuse_setting")
        _check_setting(self, "vec_nbuffer_setting")
        _check_ints(self, "t_sub_tile", "chunk_size")
        if type(self.block_size) is not int or self.block_size != BLOCK_SIZE:
            _refuse(self, "block_size", str(BLOCK_SIZE))


@dataclass(frozen=True)
class SaTileShapeConfig:
    """Tiles of the sparse attention.

    Raises:
        TypeError, ValueError: as `MlaTileConfig`.
    """

    g_tile: int = 128
    s_kv_tile: int = 2048
    gather_vec_tile_shape: Sequence[int] = (32, 512)
    c1_tile_shape: Sequence[int] = (128, 128, 128, 128, 128, 128)
    v1_tile_shape: Sequence[int] = (8, 2048)
    c2_tile_shape: Sequence[int] = (128, 128, 128, 128, 128, 128)
    v2_tile_shape: Sequence[int] = (64, 256)

    def __post_init__(self) -> None:
        _check_ints(self, "g_tile", "s_kv_tile")
        _check_vector_tile(self, "gather_vec_tile_shape")
        _check_vector_tile(self, "v1_tile_shape")
        _check_vector_tile(self, "v2_tile_shape")
        _check_cube_tile(self, "c1_tile_shape", 2, KV_LORA_RANK + ROPE_DIM, SELECTED_COUNT)
        _check_cube_tile(self, "c2_tile_shape", 2, SELECTED_COUNT, KV_LORA_RANK)


@dataclass(frozen=True)
class IndexerPrologQuantAttr:
    """The attributes of `lightning_indexer_prolog_quant` in one object: ``ip_attrs`` of `mla_indexer_prolog_quant`.

    The names are those of the published attributes; the source's class calls them ``eps``, ``layerout_query`` and
    ``layerout_key``.

    Raises:
        TypeError, ValueError: a wrong type, or a layout that is not supported.
    """

    layernorm_epsilon_k: float = 1e-6
    layout_query: str = "TND"
    layout_key: str = "PA_BSND"

    def __post_init__(self) -> None:
        epsilon = self.layernorm_epsilon_k
        if not isinstance(epsilon, (int, float)) or isinstance(epsilon, bool) or not 0.0 <= epsilon < math.inf:
            _refuse(self, "layernorm_epsilon_k", "a finite number >= 0")
        _set(self, "layernorm_epsilon_k", float(epsilon))
        attrs = {a.name: a for a in op_info.load("lightning_indexer_prolog_quant").attrs}
        for field in dataclasses.fields(self):
            choices = attrs[field.name].choices
            if choices and getattr(self, field.name) not in choices:
                _refuse(self, field.name, " or ".join(map(repr, choices)))
