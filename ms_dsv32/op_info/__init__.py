"""The only reader of ``op_info/``: the operators' contracts as objects.

``generate`` makes from them what is derived, and ``python -m ms_dsv32.op_info`` checks or writes it.

A shape is written in symbols (``dims.json`` gives their values or ranges), each axis a sum or a product of them. An
argument may have alternatives, told apart by their rank: the token axis merged, ``(t, h)``, or split, ``(b, s1, h)``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# contract's dtype -> (MindSpore's name, C++ enumerator, CANN's name, NumPy's, which has no bfloat16: its bits)
DTYPES = {
    "bf16": ("bfloat16", "kBFloat16", "DT_BF16", "uint16"),
    "fp16": ("float16", "kFloat16", "DT_FLOAT16", "float16"),
    "fp32": ("float32", "kFloat32", "DT_FLOAT", "float32"),
    "int8": ("int8", "kInt8", "DT_INT8", "int8"),
    "int32": ("int32", "kInt32", "DT_INT32", "int32"),
    "int64": ("int64", "kInt64", "DT_INT64", "int64"),
}
ASCEND_UNITS = ("ascend910b", "ascend910_93")
"""The devices that the Ascend operators are built for, by CANN's names: Atlas A2 and Atlas A3."""
CANN_PREFIX = "MsDsa"
"""Prefix of each operator's type in CANN, which finds an operator by its type alone, whoever made it."""


@dataclass(frozen=True)
class Dim:
    """A symbol of the shapes: a fixed ``value``, or a range from ``min`` to ``max`` (None: no bound)."""

    name: str
    doc: str
    min: int
    max: int | None
    equals: tuple[str, str] | None

    @property
    def value(self) -> int | None:
        """The fixed value, or None if the dim is free."""
        return self.min if self.min == self.max else None


@dataclass(frozen=True)
class Arg:
    """An input or output: ``shapes`` holds the alternatives, each a tuple of axis expressions.

    ``format`` and ``packable`` are of inputs; ``in_place`` inputs are written; an output with ``in_place_of`` is the
    buffer of that input and not an output of the kernel. With an ``optional`` input the tokens are divided among the
    sequences as it says: shapes with s1 do not occur.
    """

    name: str
    dtype: str
    shapes: tuple[tuple[str, ...], ...]
    doc: str
    source_name: str
    format: Literal["ND", "NZ"] = "ND"
    packable: bool = False
    in_place: bool = False
    optional: bool = False
    in_place_of: str | None = None
    values: str | None = None
    extension: bool = False

    @property
    def ms_dtype(self) -> str:
        """MindSpore's name of the dtype."""
        return DTYPES[self.dtype][0]

    @property
    def np_dtype(self) -> str:
        """NumPy's name of the dtype; bfloat16 travels as its bits in ``uint16``."""
        return DTYPES[self.dtype][3]


@dataclass(frozen=True)
class Attr:
    """An attribute; ``required`` if it has no default, ``optional`` if the kernel does without it where it is None.

    ``binds`` names the dim whose value it is.

    A ``config`` is an object of that class in ``ms_dsv32.config``; if it ``carries`` an operator, its fields are that
    operator's published attributes, and the kernel knows them as ``attr.field``.
    """

    name: str
    type: Literal["float", "int", "str", "bool", "config"]
    doc: str
    required: bool
    default: Any
    choices: tuple[str, ...]
    min: float | None
    binds: str | None
    config: str | None
    carries: str | None
    extension: bool
    source_name: str

    @property
    def optional(self) -> bool:
        """Whether it may be None; the shapes of the inputs then give its value."""
        return not self.required and self.default is None and self.type != "config"


@dataclass(frozen=True)
class SourceFunction:
    """Functions of the source that are the operator: their parameters in order, and the differences beyond names.

    A note says how a parameter is converted, or why a parameter has no counterpart.
    """

    names: tuple[str, ...]
    parameters: tuple[str, ...]
    notes: Mapping[str, str]


@dataclass(frozen=True)
class Part:
    """An operator that a fused one contains: the fused one's arguments are the part's, with a ``prefix``.

    ``names`` has the fused operator's names of the arguments that both parts share, and ``inside`` the arguments that
    the fused operator makes itself. ``name`` is the part's in the kernels.
    """

    name: str
    operator: str
    prefix: str
    names: Mapping[str, str]
    inside: tuple[str, ...]


@dataclass(frozen=True)
class OpInfo:
    """The contract of one operator.

    ``formula`` states the mathematics in the numbered steps of the golden reference, ``example`` is a call on tensors
    that have the inputs' names, and ``limits`` is what a caller must know beside the shapes. Internal ones have none.
    """

    name: str
    summary: str
    source: str
    formula: tuple[str, ...]
    example: tuple[str, ...]
    limits: tuple[str, ...]
    source_functions: tuple[SourceFunction, ...]
    inputs: tuple[Arg, ...]
    attrs: tuple[Attr, ...]
    outputs: tuple[Arg, ...]
    parts: tuple[Part, ...]

    @property
    def entry(self) -> str:
        """Name of the operator in C++ and in the kernel library: ``MlaPrologQuant``."""
        return camel(self.name)

    @property
    def cann_type(self) -> str:
        """Type of the operator in CANN, whose functions are ``aclnn<type>``: ``MsDsaMlaPrologQuant``."""
        return CANN_PREFIX + self.entry

    @property
    def cann_stem(self) -> str:
        """The type in names of files that CANN makes, as ``aclnn_<stem>.h``: ``ms_dsa_mla_prolog_quant``."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", self.cann_type).lower()

    @property
    def kernel_outputs(self) -> tuple[Arg, ...]:
        """The outputs that the kernel allocates: all but the caches, which are updated in place."""
        return tuple(o for o in self.outputs if o.in_place_of is None)

    @property
    def kernel_attrs(self) -> tuple[Attr, ...]:
        """The attributes that the kernel reads, those carried by another one by their dotted names."""
        flat: list[Attr] = []
        for a in self.attrs:
            if a.carries:
                carried = (c for c in load(a.carries).attrs if c.type != "config" and not c.extension)
                flat += (dataclasses.replace(c, name=f"{a.name}.{c.name}") for c in carried)
            elif a.type != "config":
                flat.append(a)
        return tuple(flat)

    @property
    def ascend_attrs(self) -> tuple[Attr, ...]:
        """The attributes of the operator in CANN: the numbers among the kernel's, by names that are identifiers.

        The others choose among layouts, of which there is one on Ascend, or among outputs, which are all written there.
        Those that may be None are left out: they say what the shapes say.
        """
        numbers = (a for a in self.kernel_attrs if a.type in ("float", "int") and not a.optional)
        return tuple(dataclasses.replace(a, name=a.name.replace(".", "_")) for a in numbers)

    def counterpart(self, part: Part, name: str) -> str | None:
        """What an argument or attribute of a part is called here; None if it is neither, as one inside is."""
        args: tuple[Arg | Attr, ...] = (*self.inputs, *self.kernel_outputs, *self.kernel_attrs)
        known = {a.name for a in args}
        carried = (f"{a.name}.{name}" for a in self.attrs if a.carries == part.operator)
        candidates = (part.names.get(name, ""), f"{part.prefix}{name}_in", part.prefix + name, name, *carried)
        return None if name in part.inside else next((c for c in candidates if c in known), None)

    @property
    def source_names(self) -> dict[str, str]:
        """The source's name of each input, attribute and output that is not an extension, by our name."""
        args: tuple[Arg | Attr, ...] = (*self.inputs, *self.attrs, *self.outputs)
        return {a.name: a.source_name for a in args if not a.extension}

    @property
    def optional(self) -> Arg | None:
        """The input that may be left out, the last one; None if there is none."""
        return self.inputs[-1] if self.inputs[-1].optional else None

    @property
    def required_inputs(self) -> tuple[Arg, ...]:
        """The inputs without the optional one."""
        return tuple(a for a in self.inputs if not a.optional)

    @property
    def packable(self) -> tuple[str, ...]:
        """Names of the weights that may be stored packed."""
        return tuple(i.name for i in self.inputs if i.packable)


def camel(name: str) -> str:
    """``mla_prolog_quant`` -> ``MlaPrologQuant``."""
    return "".join(part.capitalize() for part in name.split("_"))


@functools.cache
def directory() -> Path:
    """The folder of the JSON files: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "op_info_json", package.parent / "op_info"):
        if (folder / "dims.json").is_file():
            return folder
    raise FileNotFoundError(f"ms_dsv32: no op_info files beside {package}; the installation is incomplete")


@functools.cache
def dims() -> dict[str, Dim]:
    """All symbols of the shapes, in the order of the file."""
    raw = json.loads((directory() / "dims.json").read_text(encoding="utf-8"))["dims"]

    def dim(name: str, d: dict[str, Any]) -> Dim:
        equals = tuple(d["equals"].split("*")) if "equals" in d else None
        low, high = (d["value"], d["value"]) if "value" in d else (d["min"], d.get("max"))
        return Dim(name, d["doc"], low, high, equals)

    return {name: dim(name, d) for name, d in raw.items()}


@functools.cache
def names() -> tuple[str, ...]:
    """Names of all operators, sorted."""
    return tuple(sorted(p.stem for p in directory().glob("*.json") if p.stem != "dims"))


@functools.cache
def internal() -> tuple[str, ...]:
    """Names of the functions that the kernel library has beside the operators, for cells on CPU, sorted."""
    return tuple(sorted(p.stem for p in directory().glob("internal/*.json")))


@functools.cache
def load(name: str) -> OpInfo:
    """The contract of operator ``name``, which may be internal.

    Raises:
        ValueError: there is no such operator.
    """
    if name not in (*names(), *internal()):
        raise ValueError(f"op_info: no operator {name!r}; there are {', '.join(names())}")
    folder = directory() / "internal" if name in internal() else directory()
    raw = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

    def arg(d: dict[str, Any]) -> Arg:
        shapes = tuple(tuple(shape) for shape in d["shape"])
        rest = {k: v for k, v in d.items() if k not in ("name", "dtype", "shape", "doc", "source_name")}
        return Arg(d["name"], d["dtype"], shapes, d["doc"], d.get("source_name", d["name"]), **rest)

    def attr(d: dict[str, Any]) -> Attr:
        return Attr(
            name=d["name"],
            type=d["type"],
            doc=d["doc"],
            required="default" not in d,
            default=d.get("default"),
            choices=tuple(d.get("choices", ())),
            min=d.get("min"),
            binds=d.get("binds"),
            config=d.get("config"),
            carries=d.get("carries"),
            extension=d.get("extension", False),
            source_name=d.get("source_name", d["name"]),
        )

    return OpInfo(
        name=raw["name"],
        summary=raw["summary"],
        source=raw["source"],
        formula=tuple(raw.get("formula", ())),
        example=tuple(raw.get("example", ())),
        limits=tuple(raw.get("limits", ())),
        source_functions=tuple(
            SourceFunction(tuple(f["names"]), tuple(f["parameters"]), f["notes"])
            for f in raw.get("source_functions", ())
        ),
        inputs=tuple(map(arg, raw["inputs"])),
        attrs=tuple(map(attr, raw["attrs"])),
        outputs=tuple(map(arg, raw["outputs"])),
        parts=tuple(
            Part(p["name"], p["operator"], p["prefix"], p.get("names", {}), tuple(p["inside"]))
            for p in raw.get("parts", ())
        ),
    )


def bind_attrs(op: OpInfo, given: Mapping[str, Any]) -> dict[str, float | int | str | bool]:
    """The kernel's attributes, by the names of ``op.kernel_attrs``: defaults filled in, carried ones flattened.

    An optional one that is None is left out.

    Values are checked by the kernel library, configurations here.

    Raises:
        TypeError: an attribute is missing or unknown, or a configuration is of another class.
        TypeError, ValueError: a value of a configuration does not fit its field.
    """
    unknown = sorted(set(given) - {a.name for a in op.attrs})
    missing = [a.name for a in op.attrs if a.required and a.name not in given]
    if unknown or missing:
        raise TypeError(
            f"{op.name}: " + (f"no attribute {unknown[0]}" if unknown else f"attribute {missing[0]} is missing")
        )
    bound: dict[str, float | int | str | bool] = {}
    for attr in op.attrs:
        value = given.get(attr.name, attr.default)
        if attr.type != "config":
            if value is not None or not attr.optional:
                is_int = attr.type == "float" and type(value) is int
                bound[attr.name] = _as_float(op, attr, value) if is_int else value
            continue
        kind = type(value)
        if value is not None and (kind.__module__, kind.__name__) != ("ms_dsv32.config", attr.config):
            got = kind.__name__ if kind.__name__ != attr.config else f"that of {kind.__module__}"
            raise TypeError(f"{op.name}: {attr.name} must be {attr.config} or None, got {got}")
        if value is not None:
            value = value.frozen()  # its lists may have been changed in place, which nothing has checked yet
        if attr.carries:
            for carried in op.kernel_attrs:
                holder, _, field = carried.name.partition(".")
                if holder == attr.name:
                    bound[carried.name] = carried.default if value is None else getattr(value, field)
    return bound


def _as_float(op: OpInfo, attr: Attr, value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{op.name}: {attr.name} must be finite, got an int of {value.bit_length()} bits") from None


def symbols(expression: str) -> list[str]:
    """The dims that an axis expression names."""
    return [s for s in expression.replace("+", "*").split("*") if not s.isdigit()]
