"""DeepSeek-V3.2's dimensions, the values of a model's ``config.json``, and the operators' configuration objects.

`ModelConfig` reads what the layers need to know of a model and refuses a model that the operators do not fit.

The tile configurations exist so that a script written for the PyPTO source (``models/deepseek_v32_exp``) runs as it is.
They have the source's field names and its defaults. Where the source gives no defaults (`RopeTileShapeConfig`,
`IndexerPrologQuantConfigs`, `SaTileShapeConfig`), they are the values of its decode example. Fields are assignable, as
the source's are, and a call copies them by value (see `Configuration`). They are checked, also against the buffers of
an Atlas A2/A3 core, but have no effect: the kernels of every target choose their tiles by the shapes of the call.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import stat
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar, cast

from ms_dsv32 import op_info
from ms_dsv32.rope import DEEPSEEK_V32
from ms_dsv32.rope import softmax_scale as _softmax_scale

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
"""Query heads of the whole model, 128. A tensor-parallel rank holds fewer."""
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
RMS_NORM_EPS: Final = 1e-6
"""The model's ``rms_norm_eps``, which the cells take. The operators' own default is the source's, 1e-5."""
LAYERNORM_EPSILON_K: Final = 1e-6
"""Epsilon of the indexer key's LayerNorm. It is fixed in the model's code (inference/model.py), not in config.json."""


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    """Whether a value is a finite float, or an int that a float can hold: JSON's ints may have any size."""
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


# Dimensions that a model's configuration must have, under the names of DeepSeek's two files: config.json beside the
# weights, as transformers reads it, and inference/config_671B_v3.2.json, the arguments of inference/model.py.
_DIMENSIONS = {
    "q_lora_rank": Q_LORA_RANK,
    "kv_lora_rank": KV_LORA_RANK,
    "qk_nope_head_dim": QK_NOPE_HEAD_DIM,
    "qk_rope_head_dim": ROPE_DIM,
    "v_head_dim": V_HEAD_DIM,
    "index_n_heads": IDX_N_HEADS,
    "index_head_dim": IDX_HEAD_DIM,
}
_HF_DIMENSIONS = {"hidden_size": H, **_DIMENSIONS}
_DEEPSEEK_DIMENSIONS = {"dim": H, **_DIMENSIONS}
# Defaults of inference/model.py, without those of the dimensions: a file that lacks the indexer's is DeepSeek-V3's.
_DEEPSEEK_DEFAULTS = {"max_seq_len": 4 * 4096, **vars(DEEPSEEK_V32)}
# Keys that few files have. With another value than this one they would change the arithmetic.
_HF_OPTIONS = {"attention_bias": False, "rope_interleave": True, "indexer_rope_interleave": False}
_YARN_OPTIONS = {"attention_factor": 1.0, "truncate": True}
_MISSING = object()


class _Keys:
    """The keys of one JSON object. Every error names the file, the key, what was expected and what came."""

    def __init__(
        self, source: str, keys: Mapping[str, Any], prefix: str = "", defaults: Mapping[str, Any] = {}
    ) -> None:
        self._source = source
        self._keys = keys
        self._prefix = prefix
        self._defaults = defaults

    def __contains__(self, key: str) -> bool:
        return self._keys.get(key) is not None

    def label(self, key: str) -> str:
        return f"{self._source}: {self._prefix}{key}"

    def _get(self, key: str, expected: str) -> Any:
        value = self._keys.get(key, self._defaults.get(key, _MISSING))
        if value is _MISSING:
            raise ValueError(f"{self.label(key)} is missing, expected {expected}")
        return value

    def fixed(self, key: str, value: int) -> None:
        """Requires an int to be `value`, which the operators are made for."""
        got = self._get(key, str(value))
        if not _is_int(got) or got != value:
            raise _refusal(self.label(key), str(value), got, int)

    def optional(self, key: str, value: Any) -> None:
        """Requires a key to be `value`, if it is there and not null."""
        got = self._keys.get(key)
        if got is not None and (isinstance(got, bool) != isinstance(value, bool) or got != value):
            raise ValueError(f"{self.label(key)} must be {value!r} or absent, got {got!r}")

    def integer(self, key: str, maximum: int | None = None) -> int:
        expected = "a positive int" if maximum is None else f"an int from 1 to {maximum}"
        value = self._get(key, expected)
        if not _is_int(value) or value < 1 or (maximum is not None and value > maximum):
            raise _refusal(self.label(key), expected, value, int)
        return int(value)

    def number(self, key: str, minimum: float = 0.0, exclusive: bool = False) -> float:
        expected = f"a finite number {'>' if exclusive else '>='} {minimum:g}"
        value = self._get(key, expected)
        if not _is_finite(value) or value < minimum or (exclusive and value == minimum):
            raise _refusal(self.label(key), expected, value, int, float)
        return float(value)

    def betas(self) -> dict[str, float]:
        """YaRN's two numbers of rotations."""
        fast, slow = self.number("beta_fast", exclusive=True), self.number("beta_slow", exclusive=True)
        if fast <= slow:
            raise ValueError(f"{self.label('beta_fast')} must be above beta_slow = {slow:g}, got {fast:g}")
        return {"beta_fast": fast, "beta_slow": slow}


_Model = TypeVar("_Model", bound="ModelConfig")


@dataclass(frozen=True)
class ModelConfig:
    """What the layers need to know of a model beside its weights. The defaults are DeepSeek-V3.2-Exp's.

    ``cells.<Cell>.from_config(config, ...)`` makes a layer from it, and ``rope.rope_tables(positions, config)`` makes
    its tables.

    Attributes:
        n_q: query heads of the whole model, 1..128.
        epsilon_cq, epsilon_ckv: epsilons of the two latents' RmsNorms, the model's ``rms_norm_eps``.
        layernorm_epsilon_k: epsilon of the indexer key's LayerNorm.
        selected_count: keys that a token attends to, 1..2048 (``index_topk``).
        rope_theta: base of the rotary frequencies.
        rope_factor: YaRN's factor. It is 1 if the model has no YaRN, and then the four fields below have no effect.
        original_seq_len: tokens of the context that YaRN extends.
        beta_fast, beta_slow: rotations in `original_seq_len` tokens above which a frequency stays as it is, and below
            which it is divided by `rope_factor`.
        mscale: YaRN's factor on the logarithm in `softmax_scale`. cos and sin are not scaled.
        num_hidden_layers: layers of the model, without those that predict further tokens.
        max_position_embeddings: tokens of the longest context.

    Raises:
        TypeError, ValueError: a field has a wrong type or is outside its range.
    """

    n_q: int = N_Q
    epsilon_cq: float = RMS_NORM_EPS
    epsilon_ckv: float = RMS_NORM_EPS
    layernorm_epsilon_k: float = LAYERNORM_EPSILON_K
    selected_count: int = SELECTED_COUNT
    rope_theta: float = DEEPSEEK_V32.rope_theta
    rope_factor: float = DEEPSEEK_V32.rope_factor
    original_seq_len: int = DEEPSEEK_V32.original_seq_len
    beta_fast: float = DEEPSEEK_V32.beta_fast
    beta_slow: float = DEEPSEEK_V32.beta_slow
    mscale: float = DEEPSEEK_V32.mscale
    num_hidden_layers: int = 61
    max_position_embeddings: int = 163840

    def __post_init__(self) -> None:
        keys = _Keys("ModelConfig", vars(self))
        keys.integer("n_q", N_Q)
        keys.integer("selected_count", SELECTED_COUNT)
        for name in ("original_seq_len", "num_hidden_layers", "max_position_embeddings"):
            keys.integer(name)
        for name in ("epsilon_cq", "epsilon_ckv", "layernorm_epsilon_k", "mscale"):
            object.__setattr__(self, name, keys.number(name))
        for name in ("rope_theta", "rope_factor"):
            object.__setattr__(self, name, keys.number(name, 1.0, exclusive=name == "rope_theta"))
        for name, value in keys.betas().items():
            object.__setattr__(self, name, value)

    @property
    def yarn(self) -> bool:
        """Whether the rotary frequencies are YaRN's."""
        return self.rope_factor > 1.0

    @property
    def softmax_scale(self) -> float:
        """The factor on the scores: ``192**-0.5``, times ``(0.1 * mscale * ln(rope_factor) + 1)**2`` with YaRN."""
        return _softmax_scale(self)

    @classmethod
    def from_json(cls: type[_Model], path: str | Path) -> _Model:
        """Reads a model's configuration.

        It reads two kinds of files, which differ in their keys. ``config.json`` beside the weights has transformers'
        names (``hidden_size``, ...), with the RoPE in ``rope_scaling`` and ``rope_theta`` or, since transformers 5, in
        ``rope_parameters``. DeepSeek's own ``inference/config_671B_v3.2.json`` has ``dim``, ... It leaves out what has
        a default in DeepSeek's code: epsilons, RoPE, and a context (``max_seq_len``) of 16384 tokens. Its model uses
        YaRN only if the context is longer than ``original_seq_len``. Other keys are ignored.

        Args:
            path: the file, or a directory that holds ``config.json``.

        Raises:
            OSError: the file cannot be read.
            TypeError, ValueError: it is not a regular file or not a JSON object, a key is missing, has a wrong type or
                is not finite, the model has other dimensions than the operators, or another kind of RoPE than YaRN. The
                text names the file and the key.
        """
        path = Path(path)
        if path.is_dir():
            path /= "config.json"
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path}: not a regular file")

        def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            keys = dict(pairs)
            if len(keys) < len(pairs):
                twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
                raise ValueError(f"{twice} is there twice")
            return keys

        try:
            keys = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
        except (ValueError, RecursionError) as error:  # a text that is not UTF-8 raises a ValueError too
            raise ValueError(f"{path}: not a JSON file of unique keys: {error}") from None
        return cls._from_keys(str(path), keys)

    @classmethod
    def from_dict(cls: type[_Model], keys: Mapping[str, Any]) -> _Model:
        """`from_json` for the content of a file.

        Raises:
            TypeError, ValueError: as `from_json`.
        """
        return cls._from_keys("ModelConfig", keys)

    @classmethod
    def _from_keys(cls: type[_Model], source: str, keys: Any) -> _Model:
        if not isinstance(keys, Mapping):
            raise TypeError(f"{source}: must be a JSON object, got {type(keys).__name__}")
        hf, deepseek = ("hidden_size" in keys), ("dim" in keys)
        if hf == deepseek:
            which = "has both" if hf else "has neither"
            text = "hidden_size (config.json) nor dim (inference/config_671B_v3.2.json)"
            raise ValueError(f"{source}: {which} {text.replace(' nor ', ' and ') if hf else text}")
        return cls(**(_read_hf(source, keys) if hf else _read_deepseek(source, keys)))


def _read_hf(source: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `ModelConfig` from a config.json with the names of transformers."""
    keys = _Keys(source, raw)
    for key, dimension in _HF_DIMENSIONS.items():
        keys.fixed(key, dimension)
    for key, value in _HF_OPTIONS.items():
        keys.optional(key, value)
    epsilon = keys.number("rms_norm_eps")
    fields = {
        "n_q": keys.integer("num_attention_heads", N_Q),
        "epsilon_cq": epsilon,
        "epsilon_ckv": epsilon,
        "selected_count": keys.integer("index_topk", SELECTED_COUNT),
        "num_hidden_layers": keys.integer("num_hidden_layers"),
        "max_position_embeddings": keys.integer("max_position_embeddings"),
    }
    if "rope_scaling" in keys and "rope_parameters" in keys:
        raise ValueError(f"{keys.label('rope_scaling')} and rope_parameters are both there, expected one of them")
    new = "rope_parameters" in keys or ("rope_parameters" in raw and "rope_scaling" not in raw)
    holder = "rope_parameters" if new else "rope_scaling"
    if holder not in raw:
        raise ValueError(f"{keys.label(holder)} is missing, expected an object, or null for no YaRN")
    rope = {} if raw[holder] is None else raw[holder]  # null: no YaRN
    if not isinstance(rope, Mapping):
        raise TypeError(f"{keys.label(holder)} must be an object or null, got {rope!r}")
    scaling = _Keys(source, rope, f"{holder}.")
    if "rope_theta" in keys and "rope_theta" in scaling and raw["rope_theta"] != rope["rope_theta"]:
        text = f"must be rope_theta = {raw['rope_theta']!r}, got {rope['rope_theta']!r}"
        raise ValueError(f"{scaling.label('rope_theta')} {text}")
    theta = scaling if "rope_theta" in scaling else keys
    fields["rope_theta"] = theta.number("rope_theta", 1.0, exclusive=True)
    if raw[holder] is None:
        return {**fields, "rope_factor": 1.0}
    return {**fields, **_read_yarn(scaling, rope, holder)}


def _read_yarn(scaling: _Keys, rope: Mapping[str, Any], holder: str) -> dict[str, Any]:
    """The fields of `ModelConfig` from transformers' description of the RoPE."""
    kinds = {key: rope[key] for key in ("rope_type", "type") if key in scaling}
    plain = holder == "rope_parameters" and not kinds
    for key, kind in kinds.items():
        if kind not in ("yarn", "default") or kind != next(iter(kinds.values())):
            raise ValueError(f"{scaling.label(key)} must be 'yarn' or 'default' (no YaRN), got {kind!r}")
        plain = kind == "default"
    if plain:
        return {"rope_factor": 1.0}
    if not kinds:
        raise ValueError(f"{scaling.label('type')} is missing, expected 'yarn' or 'default' (no YaRN)")
    for key, value in _YARN_OPTIONS.items():
        scaling.optional(key, value)
    fields = {
        "rope_factor": scaling.number("factor", 1.0),
        "original_seq_len": scaling.integer("original_max_position_embeddings"),
        **scaling.betas(),
        "mscale": scaling.number("mscale_all_dim"),
    }
    # If the two differ, cos and sin have a factor too, their quotient, which the operators do not apply.
    if scaling.number("mscale") != fields["mscale"]:
        text = f"must be mscale_all_dim = {fields['mscale']:g}, got {rope['mscale']!r}"
        raise ValueError(f"{scaling.label('mscale')} {text}")
    return fields


def _read_deepseek(source: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `ModelConfig` from the arguments of DeepSeek's inference/model.py."""
    keys = _Keys(source, raw, defaults=_DEEPSEEK_DEFAULTS)
    for key, dimension in _DEEPSEEK_DIMENSIONS.items():
        keys.fixed(key, dimension)
    context, original = keys.integer("max_seq_len"), keys.integer("original_seq_len")
    factor = keys.number("rope_factor", 1.0)
    return {
        "n_q": keys.integer("n_heads", N_Q),
        "selected_count": keys.integer("index_topk", SELECTED_COUNT),
        "rope_theta": keys.number("rope_theta", 1.0, exclusive=True),
        "rope_factor": factor if context > original else 1.0,
        "original_seq_len": original,
        **keys.betas(),
        "mscale": keys.number("mscale"),
        "num_hidden_layers": keys.integer("n_layers"),
        "max_position_embeddings": context,
    }


SOFTMAX_SCALE: Final = ModelConfig().softmax_scale
"""DeepSeek-V3.2-Exp's factor on the scores, with YaRN. Without YaRN it is q_head_dim**-0.5."""

# The rule of a field of a configuration: takes "Class: field" and a value, and returns the value as it is stored.
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
    """The very list that is passed, another sequence as a new list, or None if it is not a sequence."""
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
    """A tile of a product [m, k] @ [k, n] with elements of `item` bytes. A tile larger than an axis is cut to it."""

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
    """A pass setting: how many graphs to merge, by a graph's number or label, or for all others (-1, "DEFAULT")."""
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
    """A field with a default and a rule. Each object gets its own copy of a list or mapping."""
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=default.copy, metadata={"rule": rule})
    return dataclasses.field(default=default, metadata={"rule": rule})


def _freeze(value: Any) -> Any:
    """A list or mapping as a tuple. The order of a mapping's items does not depend on how it was filled."""
    if isinstance(value, dict):
        return tuple(sorted(value.items(), key=repr))
    return tuple(value) if isinstance(value, list) else value


_Config = TypeVar("_Config", bound="Configuration")


class Configuration:
    """What the operators' configuration objects share.

    Fields may be assigned, and lists and mappings changed in place, until a call uses them. An assignment is checked
    when it is made. All fields are checked again when a call, or a cell that is made with the configuration, copies
    them by value. A later change of the object has no effect there. In a compiled graph a configuration is a constant,
    with the values that it had when the graph was compiled.

    Configurations are equal if their values are. They are not hashable, because they can change. A `frozen` copy is.

    Raises:
        TypeError, ValueError: a value does not fit its field. The text names the class and the field.
        AttributeError: there is no such field, or the object is a frozen copy.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)  # `name` is the source's name of a field
            return
        fields = _fields(self)
        if name not in fields:
            raise AttributeError(f"{type(self).__name__}: no field {name!r}; there are {', '.join(fields)}")
        object.__setattr__(self, name, fields[name](f"{type(self).__name__}: {name}", value))

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}: {name!r} cannot be deleted")

    # A class that defines equality loses its hash in Python. MindSpore looks constants up by their hash, but can handle
    # objects without one.
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
    """Tiles of the MLA prolog. Field names and defaults are those of the source's ``MlaTileConfig``.

    A cube tile is [m_L0, m_L1, k_L0, k_L1, n_L0, n_L1]. A setting is the source's pass setting of that name: how many
    graphs to merge, by a graph's number or label, or for all others (-1 or "DEFAULT").

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
    """Tiles of the indexer's prolog. Cube tiles and settings have the form of `MlaTileConfig`'s.

    Raises:
        TypeError, ValueError: as `MlaTileConfig`, or ``block_size`` is not the caches' block size.
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
    """Tiles of the sparse attention: cube tiles in the form of `MlaTileConfig`'s, vector tiles of two axes.

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
    ``layerout_key``. Either name may be given, assigned and read.

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
