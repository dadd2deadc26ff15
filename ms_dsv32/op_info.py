"""The only reader of ``op_info/``: the operators' contracts as objects, and what is generated from them.

``python -m ms_dsv32.op_info --check`` validates the JSON files against their schemas and fails if a generated file is
out of step; ``--write`` writes the generated files: the C++ tables in ``kernel_impl/contract/generated/`` (argument
indices, shapes, dtypes and attribute rules, against which every call is checked), CANN's operator definitions
``kernel_impl/ascendc/op_host/<op>_def.cpp`` and ``docs/ops.md``.

A shape is written in symbols (``dims.json`` gives their values or ranges), each axis a sum or a product of them. An
argument may have alternatives, told apart by their rank: the token axis merged, ``(t, h)``, or split, ``(b, s1, h)``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import re
import sys
from collections.abc import Iterator, Mapping
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
"""What the type of each operator begins with in CANN, which finds an operator by its type alone, whoever made it."""


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
        """Whether it may be None; the shapes of the inputs tell then what it would say."""
        return not self.required and self.default is None and self.type != "config"


@dataclass(frozen=True)
class SourceFunction:
    """Functions of the source that are the operator: their parameters, in order, and what else than names differs.

    A note says of a parameter how it is converted; one that has no counterpart has a note that says why.
    """

    names: tuple[str, ...]
    parameters: tuple[str, ...]
    notes: Mapping[str, str]


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
    package = Path(__file__).resolve().parent
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
    """Names of what the kernel library has beside the operators for the cells on CPU, sorted."""
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


def _pretty(expression: str) -> str:
    return expression.replace("*", " * ").replace("+", " + ")


def _notice(op: str, comment: str) -> str:
    file = f"internal/{op}" if op in internal() else op
    return f"{comment} Generated from op_info/{file}.json by `python -m ms_dsv32.op_info --write`. Do not edit."


def dims_header() -> str:
    """``generated/dims.h``: the symbols and their values or ranges."""
    head = [_notice("dims", "//"), "// clang-format off", "#pragma once", "", "#include <cstdint>", ""]
    lines = [*head, "namespace ms_dsv32::op_info {", ""]
    for d in dims().values():
        if d.value is not None:
            lines.append(f"inline constexpr int64_t k{camel(d.name)} = {d.value};  // {d.doc}")
    lines += [
        "",
        "// `equals` is a product of two dims or empty; max -1 is no bound.",
        "struct DimInfo {",
        "  const char* name;",
        "  int64_t min;",
        "  int64_t max;",
        "  const char* equals[2];",
        "};",
        "inline constexpr DimInfo kDims[] = {",
    ]
    for d in dims().values():
        equals = ", ".join(f'"{e}"' for e in d.equals) if d.equals else "nullptr, nullptr"
        lines.append(f'    {{"{d.name}", {d.min}, {-1 if d.max is None else d.max}, {{{equals}}}}},')
    lines += ["};", "", "}  // namespace ms_dsv32::op_info", ""]
    return "\n".join(lines)


def op_header(op: OpInfo) -> str:
    """``generated/<op>.h``: indices into the kernel's arguments, and the tables that a call is checked against."""
    indices = [f"k{camel(a.name)}" for a in (*op.inputs, *op.kernel_outputs)]

    def arg_row(a: Arg) -> str:
        shapes = "|".join(",".join(shape) for shape in a.shapes)
        flags = f"{a.in_place}, {a.optional}".lower()
        return f'    {{"{a.name}", DType::{DTYPES[a.dtype][1]}, "{shapes}", {flags}}},'

    def attr_row(a: Attr) -> str:
        fields = [f'"{a.name}"', f"AttrType::k{a.type.capitalize()}", f'"{a.binds or ""}"', f'"{"|".join(a.choices)}"']
        minimum = "kNoMinimum" if a.min is None else repr(float(a.min))
        return f"    {{{', '.join(fields)}, {minimum}, {str(a.optional).lower()}}},"

    lines = [
        _notice(op.name, "//"),
        "// clang-format off",
        "#pragma once",
        "",
        '#include "ms_dsv32/kernel_impl/contract/tables.h"',
        "",
        f"namespace ms_dsv32::op_info::{op.name} {{",
        "",
        "enum Index : int {",
        *(f"  {index}," for index in indices),
        "  kArgCount,",
        "};",
        "inline constexpr ArgInfo kInputs[] = {",
        *map(arg_row, op.inputs),
        "};",
        "inline constexpr ArgInfo kOutputs[] = {",
        *map(arg_row, op.kernel_outputs),
        "};",
        "inline constexpr AttrInfo kAttrs[] = {",
        *map(attr_row, op.kernel_attrs),
        "};",
        f'inline constexpr OpInfo kOp{{"{op.name}", "{op.entry}", kInputs, std::size(kInputs), kOutputs,',
        "                             std::size(kOutputs), kAttrs, std::size(kAttrs)};",
        "",
        f"}}  // namespace ms_dsv32::op_info::{op.name}",
        "",
    ]
    return "\n".join(lines)


def op_def(op: OpInfo) -> str:
    """``kernel_impl/ascendc/op_host/<op>_def.cpp``: the operator's definition for CANN.

    An output that is an input's buffer has that input's name: CANN then makes one parameter of both. The order is that
    of the kernel's entry. All formats are ND, as MindSpore marks every tensor and CANN takes the declared formats only;
    the bytes of an NZ weight are laid out before (``ms_dsv32.weights.prepare``). The type has `CANN_PREFIX`; the kernel
    keeps the operator's own name, as a file and as a function. Source: asc-devkit, "算子原型定义".
    """

    def tensor(kind: str, name: str, a: Arg) -> str:
        need = "OPTIONAL" if a.optional else "REQUIRED"
        declared = f'this->{kind}("{name}").ParamType({need}).DataType({{ge::{DTYPES[a.dtype][2]}}})'
        # CANN makes a tensor contiguous that is not, and copies a cache back.
        return f"    {declared}.Format({{ge::FORMAT_ND}}){'.AutoContiguous()' if kind == 'Input' else ''};"

    def attribute(a: Attr) -> str:
        kind = {"float": "Float", "int": "Int"}[a.type]
        value, need = ("", "REQUIRED") if a.required else (repr(a.default), "OPTIONAL")
        return f'    this->Attr("{a.name}").AttrType({need}).{kind}({value});'

    def output(a: Arg) -> str:
        index = f"k{camel(a.in_place_of)}" if a.in_place_of else "-1"
        return f"    {{ge::{DTYPES[a.dtype][2]}, {index}}},  // {a.name}"

    lines = [
        _notice(op.name, "//"),
        "// clang-format off",
        f'#include "ms_dsv32/kernel_impl/contract/generated/{op.name}.h"',
        "",
        '#include "ms_dsv32/kernel_impl/ascendc/op_host/op_host.h"',
        "",
        "namespace ms_dsv32::ascendc {",
        f"ge::graphStatus Tile{op.entry}(gert::TilingContext* context);",
        "}  // namespace ms_dsv32::ascendc",
        "",
        "namespace ops {",
        "",
        "using namespace ms_dsv32::ascendc;",
        f"using namespace ms_dsv32::op_info::{op.name};",
        "",
        f"static constexpr OutputInfo k{op.entry}Outputs[] = {{",
        *map(output, op.outputs),
        "};",
        "",
        f"class {op.cann_type} : public OpDef {{",
        " public:",
        f"  explicit {op.cann_type}(const char* name) : OpDef(name) {{",
    ]
    lines += [tensor("Input", a.name, a) for a in op.inputs]
    lines += [tensor("Output", a.in_place_of or a.name, a) for a in op.outputs]
    lines += [
        *map(attribute, op.ascend_attrs),
        f"    this->SetInferShape(InferShape<kOp, k{op.entry}Outputs>);",
        f"    this->SetInferDataType(InferDataType<k{op.entry}Outputs>);",
        f"    this->AICore().SetTiling(Tile{op.entry});",
        f'    OpAICoreConfig config = KernelConfig("{op.name}");',
        *(f'    this->AICore().AddConfig("{unit}", config);' for unit in ASCEND_UNITS),
        "  }",
        "};",
        "",
        f"OP_ADD({op.cann_type});",
        "",
        "}  // namespace ops",
        "",
    ]
    return "\n".join(lines)


def docs() -> str:
    """``docs/ops.md``: the operators' contracts as formulas, examples, limits and tables."""
    out = [
        "<!-- Generated from op_info/ by `python -m ms_dsv32.op_info --write`. Do not edit. -->",
        "# Operators",
        "",
        *(f"- [`{name}`](#{name}): {load(name).summary}" for name in names()),
        "",
        "Every tensor is contiguous. Where two shapes are given, the token axis may come merged or split. Caches are",
        "updated in place: the function returns the very tensors that were passed. NZ is the storage format on Ascend.",
        'A *packable* weight may be laid out once by `ms_dsv32.weights` and passed with `weight_format="PACKED"`. (+)',
        "marks what goes beyond the source. The operators have no gradient.",
        "",
        "An example is a call on tensors that have the inputs' names. A test runs each one.",
        "",
        "The source is PyPTO, as its repository was on 2026-08-22 (883e7dfb). A section *In PyPTO* lists what differs",
        "there from the operator here. Its functions take everything by position, outputs too, and NZ weights in",
        "FRACTAL_NZ. Here inputs are positional, attributes are keywords, outputs are returned, and weights are",
        "row-major or packed.",
        "",
        "## Formulas",
        "",
        "Arithmetic is in float32 unless a formula says otherwise. `bf16(x)` and `fp16(x)` round to nearest, ties to",
        "even. `int32(a · b)` is an exact product of int8. `ms_dsv32/golden/<operator>.py` has the same steps.",
        "",
        "```text",
        "RmsNorm(x, gamma, eps)         = x / sqrt(mean(x^2) + eps) * gamma",
        "LayerNorm(x, gamma, beta, eps) = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * gamma + beta",
        "Quant(x)                       = int8(rint(x * (127 / amax))), 1 / (127 / amax); amax = max(max |x|, 1e-30)",
        "RopeHalfSplit(x, cos, sin)     = bf16(x * cos + [-b, a] * sin); [a, b] are the halves of x",
        "RopeInterleaved(x, cos, sin)   = RopeHalfSplit([x[0::2], x[1::2]], cos, sin)",
        "```",
        "",
        "## Dimensions",
        "",
        "| name | value | meaning |",
        "|---|---|---|",
    ]
    for d in dims().values():
        bounds = str(d.value) if d.value is not None else f"{d.min}.." + ("" if d.max is None else str(d.max))
        if d.equals:
            bounds = " * ".join(d.equals)
        out.append(f"| `{d.name}` | {bounds} | {d.doc} |")
    for op in map(load, names()):
        out += ["", f"## `{op.name}`", "", op.summary, "", f"Source: {op.source}", ""]
        out += ["```text", *op.formula, "```", "", "```python", *op.example, "```", ""]
        out += ["Limits:", "", *(f"- {limit}" for limit in op.limits), ""]
        out += ["| input | dtype | shape | format | |", "|---|---|---|---|---|"]
        for a in op.inputs:
            notes = [a.doc]
            notes += ["Updated in place."] if a.in_place else []
            notes += ["Optional."] if a.optional else []
            notes += [f"Values: {_pretty(a.values)}."] if a.values else []
            fmt = a.format + (", packable" if a.packable else "")
            plus = " (+)" if a.extension else ""
            out.append(f"| `{a.name}`{plus} | {a.dtype} | {_shapes(a)} | {fmt} | {' '.join(notes)} |")
        out += ["", "| attribute | type | default | |", "|---|---|---|---|"]
        for at in op.attrs:
            default = "required" if at.required else f"`{at.default!r}`"
            plus = " (+)" if at.extension else ""
            out.append(f"| `{at.name}`{plus} | {at.config or at.type} | {default} | {at.doc} |")
        out += ["", "| output | dtype | shape | |", "|---|---|---|---|"]
        for a in op.outputs:
            plus = " (+)" if a.extension else ""
            out.append(f"| `{a.name}`{plus} | {a.dtype} | {_shapes(a)} | {a.doc} |")
        if op.source_functions:
            out += ["", "### In PyPTO"]
        for function in op.source_functions:
            out += ["", *_source_table(op, function)]
    return "\n".join(out) + "\n"


def _source_table(op: OpInfo, function: SourceFunction) -> list[str]:
    """How a call of the source is written here: its parameters in its order, and those that differ."""
    rows = []
    for parameter in function.parameters:
        ours = {n: s for n, s in op.source_names.items() if s.partition(".")[0] == parameter}
        note = function.notes.get(parameter, "")
        if note or not ours:
            rows.append((parameter, " ".join(f"`{n}`" for n, s in ours.items() if s == parameter) or "-", note))
        elif ours != {parameter: parameter}:
            rows += [(source, f"`{name}`", "") for name, source in ours.items() if source == parameter]
        rows += [(source, f"`{name}`", "") for name, source in ours.items() if source != parameter]
    names = " and ".join(f"`{name}`" for name in function.names)
    inputs = [a.source_name for a in op.inputs if not a.extension]
    if inputs == [p for p in function.parameters if p in inputs]:
        text = f"{names}: the inputs come in the same order."
    else:
        text = f"{names}: the parameters are {', '.join(f'`{p}`' for p in function.parameters)}, in this order."
    if not rows:
        return [f"{text} All names are the same."]
    table = [f"| `{source}` | {ours} | {note} |".replace("|  |", "| |") for source, ours, note in rows]
    return [text, "", "| PyPTO | here | |", "|---|---|---|", *table]


def _shapes(arg: Arg) -> str:
    return " or ".join(f"[{', '.join(map(_pretty, shape))}]" for shape in arg.shapes)


def generated(root: Path) -> Iterator[tuple[Path, str]]:
    """Each generated file of the checkout at ``root``, with the text that it must have."""
    headers = root / "ms_dsv32" / "kernel_impl" / "contract" / "generated"
    yield headers / "dims.h", dims_header()
    op_host = root / "ms_dsv32" / "kernel_impl" / "ascendc" / "op_host"
    for name in internal():
        yield headers / f"{name}.h", op_header(load(name))
    for name in names():
        yield headers / f"{name}.h", op_header(load(name))
        yield op_host / f"{name}_def.cpp", op_def(load(name))
    yield root / "docs" / "ops.md", docs()


_EXPLAINED = ("formula", "example", "limits")
"""What ``docs/ops.md`` explains an operator by; internal ones are in no page."""


def check_schemas() -> list[str]:
    """What is wrong with the JSON files, by their schemas and by what a schema cannot say; empty if nothing is."""
    import jsonschema  # a development dependency: users never need it

    problems = []
    for path in sorted((*directory().glob("*.json"), *directory().glob("internal/*.json"))):
        raw = json.loads(path.read_text(encoding="utf-8"))
        schema = json.loads((path.parent / raw["$schema"]).read_text(encoding="utf-8"))
        errors = jsonschema.Draft202012Validator(schema).iter_errors(raw)
        problems += [f"{path.name}: {'/'.join(map(str, e.absolute_path))}: {e.message}" for e in errors]
    if problems:
        return problems
    for op in map(load, (*names(), *internal())):
        args = (*op.inputs, *op.outputs)
        shape_symbols = {s for a in args for shape in a.shapes for axis in shape for s in symbols(axis)}
        problems += [f"{op.name}: {s} is no dim" for s in sorted(shape_symbols - set(dims()))]
        in_place = [i.name for i in op.inputs if i.in_place]
        if in_place != [o.in_place_of for o in op.outputs if o.in_place_of]:
            problems.append(f"{op.name}: in-place inputs and outputs do not pair")
        problems += [f"{op.name} has no {n}" for n in _EXPLAINED if op.name in names() and not getattr(op, n)]
        for function in op.source_functions:
            problems += [f"{op.name}: {p}" for p in _source_problems(op, function)]
        problems += [f"{op.name}: {a.name} is optional and not the last input" for a in op.inputs[:-1] if a.optional]
        for a in args:
            if len({len(shape) for shape in a.shapes}) != len(a.shapes):
                problems.append(f"{op.name}: {a.name}: alternatives must differ in rank")
    return problems


def _source_problems(op: OpInfo, function: SourceFunction) -> Iterator[str]:
    """What is wrong with the list of the source's parameters: every argument has a place in it, or a note says why."""
    known = {name.partition(".")[0] for name in op.source_names.values()}
    name = function.names[0]
    for parameter in function.parameters:
        if parameter not in known and parameter not in function.notes:
            yield f"{name} has {parameter}, which is no argument and has no note"
    for parameter in function.notes:
        if parameter not in function.parameters:
            yield f"{name} has a note about {parameter}, which is none of its parameters"
    if function is op.source_functions[0]:  # the others may lack arguments that a note of theirs names
        for parameter in sorted(known - set(function.parameters)):
            yield f"{name} lacks {parameter}"


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ms_dsv32.op_info", description=(__doc__ or "").partition("\n")[0])
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument(
        "--check", action="store_true", help="fail if a JSON file is invalid or a generated file out of step"
    )
    mode.add_argument("--write", action="store_true", help="write the generated files")
    write = parser.parse_args(argv).write
    problems = check_schemas()
    for path, text in generated(directory().parent) if not problems else ():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
        else:
            problems.append(f"{path} is out of step; run python -m ms_dsv32.op_info --write")
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
