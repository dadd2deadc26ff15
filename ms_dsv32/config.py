"""DeepSeek-V3.2's dimensions and the operators' configuration objects.

The tile configurations have the field names of the PyPTO source (``models/deepseek_v32_exp``). Where the source gives
defaults they are its defaults; where it gives none (`RopeTileShapeConfig`, `IndexerPrologQuantConfigs`,
`SaTileShapeConfig`) they are the values of its decode example. They are assignable, as the source's are, and a call
copies them by value; see `Configuration`. They are checked, against the buffers of an Atlas A2/A3 core too, and change
nothing: every target's kernels choose their tiles by the shapes of the call. So a script written for the source runs
as it is.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar, cast

from ms_dsv32 import op_info

# Bytes of a core's buffers: CANN, NPU architecture 2201.
_BUFFERS = {"L0A": 65536, "L0B": 65536, "L0C": 131072, "L1": 524288, "UB": 196608}


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
V_HEAD_DIM: Final = 128
"""Value dimensions of a head, after the value up-projection that follows the attention operator."""
LAYERNORM_EPSILON_K: Final = 1e-6
"""Epsilon of the indexer key's LayerNorm. The model's code fixes it (inference/model.py); no config.json has it."""


def _softmax_scale(rope_factor: float, mscale: float) -> float:
    """q_head_dim**-0.5 times the square of YaRN's mscale; a factor of 1 is no YaRN, and its logarithm 0."""
    return math.pow(Q_HEAD_DIM, -0.5) * math.pow(0.1 * mscale * math.log(rope_factor) + 1.0, 2)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    """Whether a value is an int or a float that a float can hold; what JSON reads may be an int of any size."""
    if not _is_int(value) and not isinstance(value, float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _refusal(label: str, expected: str, value: Any, *types: type) -> Exception:
    """The error for a value that does not fit: a ValueError if its type is one of `types`, otherwise a TypeError."""
    kind = ValueError if type(value) in types else TypeError
    return kind(f"{label} must be {expected}, got {value!r}")


SOFTMAX_SCALE: Final = _softmax_scale(40.0, 1.0)
"""DeepSeek-V3.2-Exp's factor on the scores, with YaRN; without YaRN it is q_head_dim**-0.5."""

# What a field of a configuration must be: takes "Class: field" and a value, and returns the value as it is stored.
_Rule = Callable[[str, Any], Any]


def _positive_int(label: str, value: Any) -> Any:
    if not _is_int(value) or value < 1:
        raise _refusal(label, "a positive int", value, int)
    return value


def _bool(label: str, value: Any) -> Any:
    if not isinstance(value, bool):
        raise _refusal(label, "a bool", value)
    return value


def _block_size(label: str, value: Any) -> Any:
    if not _is_int(value) or value != BLOCK_SIZE:
        raise _refusal(label, str(BLOCK_SIZE), value, int)
    return value


def _epsilon(label: str, value: Any) -> float:
    if not _is_finite(value) or value < 0.0:
        raise _refusal(label, "a finite number >= 0", value, int, float)
    return float(value)


def _choice(attr: str) -> _Rule:
    """One of the choices of a published attribute of `lightning_indexer_prolog_quant`."""

    def rule(label: str, value: Any) -> Any:
        choices = {a.name: a for a in op_info.load("lightning_indexer_prolog_quant").attrs}[attr].choices
        if not isinstance(value, str) or value not in choices:
            raise _refusal(label, " or ".join(map(repr, choices)), value, str)
        return value

    return rule


def _as_list(value: Any) -> list[Any] | None:
    """A list as it is, so that it stays the caller's; another sequence as a list; None if it is no sequence."""
    if isinstance(value, list):
        return value
    return list(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else None


def _tile(length: int) -> _Rule:
    def rule(label: str, value: Any) -> list[int]:
        tile = _as_list(value)
        if tile is None or len(tile) != length or any(not _is_int(v) or v < 1 for v in tile):
            raise _refusal(label, f"{length} positive ints", value, list, tuple)
        return tile

    return rule


def _cube_tile(item: int, k: int, n: int) -> _Rule:
    """A tile of a product [m, k] @ [k, n] with elements of `item` bytes; a tile larger than an axis is cut to it."""

    def rule(label: str, value: Any) -> list[int]:
        tile: list[int] = _tile(6)(label, value)
        m_l0, m_l1, k_l0, k_l1, n_l0, n_l1 = tile
        if m_l1 % m_l0 or k_l1 % k_l0 or n_l1 % n_l0:
            expected = "[m_L0, m_L1, k_L0, k_L1, n_L0, n_L1] with each L1 tile a multiple of its L0 tile"
            raise _refusal(label, expected, tile, list)
        k_l0, k_l1, n_l0, n_l1 = min(k_l0, k), min(k_l1, k), min(n_l0, n), min(n_l1, n)
        needs = {
            "L0A": m_l0 * k_l0 * item,
            "L0B": k_l0 * n_l0 * item,
            "L0C": m_l0 * n_l0 * 4,  # float32 or int32 sums
            "L1": (m_l1 + n_l1) * k_l1 * item,
        }
        for buffer, size in needs.items():
            if size > _BUFFERS[buffer]:
                expected = f"a tile that fits {buffer} ({_BUFFERS[buffer]} bytes; this one needs {size})"
                raise _refusal(label, expected, tile, list)
        return tile

    return rule


def _vector_tile(label: str, value: Any) -> list[int]:
    tile: list[int] = _tile(2)(label, value)
    size = math.prod(tile) * 4  # as float32
    if size > _BUFFERS["UB"]:
        raise _refusal(label, f"a tile that fits UB ({_BUFFERS['UB']} bytes; this one needs {size})", tile, list)
    return tile


def _unroll_list(label: str, value: Any) -> list[int]:
    steps = _as_list(value)
    # Greedy unrolling covers every number of tokens only if it can end with single ones.
    good = steps is not None and all(map(_is_int, steps)) and steps == sorted(set(steps), reverse=True)
    if steps is None or not good or steps[-1:] != [1]:
        raise _refusal(label, "ints in descending order that end with 1", value, list, tuple)
    return steps


def _setting(label: str, value: Any) -> dict[int | str, int]:
    """A pass setting: how many graphs to merge, by a graph's number, for all others (-1, "DEFAULT"), or by a label."""
    expected = "a mapping of graph numbers (from -2) or labels to positive counts"
    pairs = list(value.items()) if isinstance(value, Mapping) else _as_list(value)
    if pairs is None or any(not isinstance(pair, Sequence) or len(pair) != 2 for pair in pairs):
        raise _refusal(label, expected, value, dict, list, tuple)
    for key, count in pairs:
        known = bool(key) if isinstance(key, str) else _is_int(key) and key >= -2
        if not known or not _is_int(count) or count < 1:
            raise _refusal(label, expected, value, dict, list, tuple)
    setting = value if isinstance(value, dict) else dict(pairs)
    if len(setting) != len(pairs):
        raise _refusal(label, expected, value, list, tuple)
    return setting


def _field(default: Any, rule: _Rule) -> Any:
    """A field with a default and a rule; each object has lists and mappings of its own."""
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=default.copy, metadata={"rule": rule})
    return dataclasses.field(default=default, metadata={"rule": rule})


def _freeze(value: Any) -> Any:
    """A list or mapping as a tuple; the items of a mapping in an order of their own, whatever the keys."""
    if isinstance(value, dict):
        return tuple(sorted(value.items(), key=repr))
    return tuple(value) if isinstance(value, list) else value


_Config = TypeVar("_Config", bound="Configuration")


class Configuration:
    """What the operators' configuration objects share.

    Fields may be assigned until a call uses them; lists and mappings may be changed in place. An assignment is checked
    when it is made, and all fields again when a call, or a cell that is made with the configuration, copies them by
    value: a later change of the object changes nothing there. In a compiled graph a configuration is a constant, with
    the values that it had when the graph was compiled.

    Configurations are equal if their values are. They are not hashable, as they can change; a `frozen` copy is.

    Raises:
        TypeError, ValueError: a value does not fit its field; the text names the class and the field.
        AttributeError: there is no such field, or the object is a frozen copy.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)  # the source's name of a field
            return
        fields = _fields(self)
        if name not in fields:
            raise AttributeError(f"{type(self).__name__}: no field {name!r}; there are {', '.join(fields)}")
        object.__setattr__(self, name, fields[name](f"{type(self).__name__}: {name}", value))

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}: {name!r} cannot be deleted")

    # Python takes the hash away from a class that defines equality, and MindSpore, which looks constants up by their
    # hash, knows such objects.
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Configuration) or _plain_class(self) is not _plain_class(other):
            return NotImplemented
        return _frozen_values(self) == _frozen_values(other)

    def frozen(self: _Config) -> _Config:
        """A checked, hashable copy that cannot change: lists are tuples, mappings sorted tuples of pairs.

        Raises:
            TypeError, ValueError: a value does not fit its field, after a change in place.
        """
        for name, rule in _fields(self).items():
            rule(f"{type(self).__name__}: {name}", getattr(self, name))
        copy: _Config = object.__new__(_frozen_class(cast(Hashable, type(self))))
        for name, value in _frozen_values(self).items():
            object.__setattr__(copy, name, value)
        return copy


class _Frozen:
    """The part of a frozen copy that comes before its configuration class."""

    _plain: ClassVar[type[Configuration]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._plain(*args, **kwargs)  # so that dataclasses.replace of a frozen copy gives an assignable object

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(
            f"{type(self).__name__}: {name} cannot be assigned: this is a frozen copy"
        )

    def __hash__(self) -> int:
        return hash((self._plain, *vars(self).values()))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle_frozen, (self._plain, dict(vars(self)))

    def frozen(self) -> Any:
        return self


@functools.cache
def _frozen_class(cls: Hashable) -> Any:
    """The class of the frozen copies, which has the name of `cls`."""
    plain = cast(type[Configuration], cls)
    body = {"_plain": plain, "__module__": plain.__module__, "__qualname__": plain.__qualname__}
    return type(plain.__name__, (_Frozen, plain), {**body, "__doc__": plain.__doc__})


def _unpickle_frozen(cls: type[_Config], values: dict[str, Any]) -> _Config:
    return cls(**values).frozen()


def _plain_class(config: Configuration) -> type:
    return getattr(config, "_plain", type(config))


def _fields(config: Configuration) -> dict[str, _Rule]:
    """The rule of each field."""
    return {name: field.metadata["rule"] for name, field in getattr(config, "__dataclass_fields__", {}).items()}


def _frozen_values(config: Configuration) -> dict[str, Any]:
    return {name: _freeze(getattr(config, name)) for name in _fields(config)}


@dataclass(eq=False)
class MlaTileConfig(Configuration):
    """Tiles of the MLA prolog; field names and defaults are the source's ``MlaTileConfig``.

    A cube tile is [m_L0, m_L1, k_L0, k_L1, n_L0, n_L1]. A setting is the source's pass setting of that name: how many
    graphs to merge, by a graph's number, for all others (-1 or "DEFAULT"), or by a label.

    Raises:
        TypeError, ValueError: a field is not what its type below says, tile sizes are not positive, an L1 tile is not a
            multiple of its L0 tile, a tile does not fit a core's buffers, or ``unroll_list`` does not descend to 1.
    """

    tile_b: int = _field(8, _positive_int)
    tile_s: int = _field(1, _positive_int)
    tile_bs: int = _field(8, _positive_int)
    m_tile: int = _field(16, _positive_int)
    mv_tile: int = _field(16, _positive_int)
    pre_quant_cube_tile: list[int] = _field([16, 16, 256, 256, 128, 128], _cube_tile(2, H, Q_LORA_RANK))
    cube_qb_tile: list[int] = _field([16, 16, 256, 256, 128, 128], _cube_tile(1, Q_LORA_RANK, N_Q * Q_HEAD_DIM))
    cube_wuk_tile: list[int] = _field([32, 32, 256, 256, 256, 256], _cube_tile(2, QK_NOPE_HEAD_DIM, KV_LORA_RANK))
    unroll_list: list[int] = _field([32, 16, 8, 4, 2, 1], _unroll_list)
    q_vec_tile0: int = _field(16, _positive_int)
    q_vec_tile1: int = _field(16, _positive_int)
    k_vec_tile0: int = _field(16, _positive_int)
    k_vec_tile1: int = _field(16, _positive_int)
    cube_l1_reuse_setting: dict[int | str, int] = _field({-1: 4}, _setting)
    cube_nbuffer_setting: dict[int | str, int] = _field({3: 4}, _setting)
    dynamic_unaligned_enable: bool = _field(False, _bool)


@dataclass(eq=False)
class RopeTileShapeConfig(Configuration):
    """Vector tiles of the RoPE stage for operands of two, three and four axes.

    Raises:
        TypeError, ValueError: a field is not that many positive ints.
    """

    two_dim: list[int] = _field([32, 64], _tile(2))
    three_dim: list[int] = _field([32, 32, 128], _tile(3))
    four_dim: list[int] = _field([16, 128, 128, 128], _tile(4))


@dataclass(eq=False)
class IndexerPrologQuantConfigs(Configuration):
    """Tiles of the indexer's prolog; cube tiles and settings as of `MlaTileConfig`.

    Raises:
        TypeError, ValueError: as `MlaTileConfig`; or ``block_size`` is not the caches' block size.
    """

    q_linear: list[int] = _field([16, 16, 512, 512, 128, 128], _cube_tile(1, Q_LORA_RANK, IDX_N_HEADS * IDX_HEAD_DIM))
    q_hd: list[int] = _field([32, 32, 128, 128, 128, 128], _cube_tile(2, IDX_HEAD_DIM, IDX_HEAD_DIM))
    k_linear: list[int] = _field([16, 16, 512, 512, 64, 64], _cube_tile(2, H, IDX_HEAD_DIM))
    w_linear: list[int] = _field([16, 16, 1024, 1024, 32, 32], _cube_tile(2, H, IDX_N_HEADS))
    unroll_list: list[int] = _field([32, 16, 8, 4, 2, 1], _unroll_list)
    cube_l1_reuse_setting: dict[int | str, int] = _field({1: 4}, _setting)
    block_size: int = _field(BLOCK_SIZE, _block_size)
    t_sub_tile: int = _field(1, _positive_int)
    chunk_size: int = _field(2, _positive_int)
    vec_nbuffer_setting: dict[int | str, int] = _field({-1: 1}, _setting)


@dataclass(eq=False)
class SaTileShapeConfig(Configuration):
    """Tiles of the sparse attention: cube tiles as of `MlaTileConfig`, vector tiles of two axes.

    Raises:
        TypeError, ValueError: as `MlaTileConfig`.
    """

    g_tile: int = _field(128, _positive_int)
    s_kv_tile: int = _field(2048, _positive_int)
    gather_vec_tile_shape: list[int] = _field([32, 512], _vector_tile)
    c1_tile_shape: list[int] = _field(
        [128, 128, 128, 128, 128, 128], _cube_tile(2, KV_LORA_RANK + ROPE_DIM, SELECTED_COUNT)
    )
    v1_tile_shape: list[int] = _field([8, 2048], _vector_tile)
    c2_tile_shape: list[int] = _field([128, 128, 128, 128, 128, 128], _cube_tile(2, SELECTED_COUNT, KV_LORA_RANK))
    v2_tile_shape: list[int] = _field([64, 256], _vector_tile)


def _alias(field: str) -> Any:
    """A field by the source's name."""

    def get(config: Any) -> Any:
        return getattr(config, field)

    def assign(config: Any, value: Any) -> None:
        setattr(config, field, value)

    return property(get, assign, doc=f"The source's name of `{field}`.")


_NOT_GIVEN: Any = object()


@dataclass(eq=False, init=False)
class IndexerPrologQuantAttr(Configuration):
    """The attributes of `lightning_indexer_prolog_quant` in one object: ``ip_attrs`` of `mla_indexer_prolog_quant`.

    The names are those of the published attributes. The source's class calls them ``eps``, ``layerout_query`` and
    ``layerout_key``; both names may be given, assigned and read.

    Raises:
        TypeError, ValueError: a wrong type, a layout that is not supported, or both names of one attribute.
    """

    layernorm_epsilon_k: float = _field(LAYERNORM_EPSILON_K, _epsilon)
    layout_query: str = _field("TND", _choice("layout_query"))
    layout_key: str = _field("PA_BSND", _choice("layout_key"))

    eps = _alias("layernorm_epsilon_k")
    layerout_query = _alias("layout_query")
    layerout_key = _alias("layout_key")

    def __init__(
        self,
        layernorm_epsilon_k: float = _NOT_GIVEN,
        layout_query: str = _NOT_GIVEN,
        layout_key: str = _NOT_GIVEN,
        *,
        eps: float = _NOT_GIVEN,
        layerout_query: str = _NOT_GIVEN,
        layerout_key: str = _NOT_GIVEN,
    ) -> None:
        names = {"layernorm_epsilon_k": "eps", "layout_query": "layerout_query", "layout_key": "layerout_key"}
        given = (layernorm_epsilon_k, layout_query, layout_key)
        aliases = (eps, layerout_query, layerout_key)
        for (name, alias), value, other in zip(names.items(), given, aliases, strict=True):
            if value is not _NOT_GIVEN and other is not _NOT_GIVEN:
                raise TypeError(f"IndexerPrologQuantAttr: {name} and {alias} are names of one attribute")
            default = type(self).__dataclass_fields__[name].default
            setattr(self, name, next((v for v in (value, other) if v is not _NOT_GIVEN), default))
