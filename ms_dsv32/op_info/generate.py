"""What is generated from the operators' contracts: files that are committed, so that a build needs no Python.

- ``kernel_impl/contract/generated/``, for C++: argument indices, shapes, dtypes and attribute rules, against which each
  call is checked; the parameters of the CPU's kernels, and the functions that fill them; the list of operators;
- ``kernel_impl/ascendc/op_host/<op>_def.cpp``: CANN's operator definitions;
- ``docs/ops.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ms_dsv32.op_info import (
    ASCEND_UNITS,
    DTYPES,
    Arg,
    Attr,
    OpInfo,
    SourceFunction,
    camel,
    dims,
    internal,
    load,
    names,
    symbols,
)

_CPP_TYPES = {
    "bf16": "uint16_t",
    "fp16": "uint16_t",
    "fp32": "float",
    "int8": "int8_t",
    "int32": "int32_t",
    "int64": "int64_t",
}
_KV_ACT_SEQS = "kv_act_seqs"
"""The lengths of the sequences. With them and the optional input, a kernel takes a table of the call's tokens."""


def _pretty(expression: str) -> str:
    return expression.replace("*", " * ").replace("+", " + ")


def _notice(op: str, comment: str) -> str:
    file = f"internal/{op}" if op in internal() else op
    return f"{comment} Generated from op_info/{file}.json by `python -m ms_dsv32.op_info --write`. Do not edit."


_NOTICE_OF_ALL = "// Generated from op_info/ by `python -m ms_dsv32.op_info --write`. Do not edit."


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


@dataclass(frozen=True)
class _Field:
    """A member of a kernel's parameters; ``source`` is the contract's name of what it holds."""

    kind: Literal["dim", "packed", "argument", "attribute", "tokens"]
    name: str
    type: str
    comment: str
    source: str

    def value(self, source: str) -> str:
        """Its value in a call that has ``source`` by this name."""
        if self.kind == "argument":
            return f"call.Data<{self.type.removesuffix('*')}>(k{camel(source)})"
        values = {"dim": f'call.Dim("{source}")', "packed": "call.Packed()", "attribute": f'call.Float("{source}")'}
        return values[self.kind]


def _fields(op: OpInfo) -> Iterator[_Field]:
    """The parameters of an operator's kernel.

    Inputs and attributes have the contract's names. Outputs have them without PyPTO's ``_out``, and with ``q_`` for
    ``query_``. Dims are the number of tokens, and those that tell where a row of an argument begins: they are in an
    axis that is not the first.
    """
    tokens = [a.name for a in op.inputs if a.optional or (op.optional and a.name == _KV_ACT_SEQS)]
    shapes = {a.name: next(s for s in a.shapes if "s1" not in s) for a in (*op.inputs, *op.kernel_outputs)}
    used = {"t", *(s for shape in shapes.values() for axis in shape[1:] for s in symbols(axis))}
    for dim in dims().values():
        if dim.name in used and dim.value is None:
            yield _Field("dim", dim.name, "int64_t", "", dim.name)
    if op.packable:
        comment = f"{', '.join(op.packable)}: in the layout of pack.h, else row-major"
        yield _Field("packed", "packed", "bool", comment, "")

    def argument(a: Arg, name: str, const: str) -> _Field:
        bits = f"{a.dtype} " if _CPP_TYPES[a.dtype] == "uint16_t" else ""
        comment = f"{bits}[{', '.join(map(_pretty, shapes[a.name]))}]"
        return _Field("argument", name, f"{const}{_CPP_TYPES[a.dtype]}*", comment, a.name)

    yield from (argument(a, a.name, "" if a.in_place else "const ") for a in op.inputs if a.name not in tokens)
    if tokens:
        yield _Field("tokens", "tokens", "const QueryToken*", f"[t], of {' and '.join(tokens)}", "")
    yield from (_Field("attribute", a.name, "float", "", a.name) for a in op.kernel_attrs if a.type == "float")
    for a in op.kernel_outputs:
        yield argument(a, re.sub("^query_", "q_", a.name.removesuffix("_out")), "")


def params_header(op: OpInfo) -> str:
    """``generated/<op>_params.h``: what the operator's kernel takes on CPU, without a template of the library."""
    if op.parts:
        includes = [f'#include "ms_dsv32/kernel_impl/contract/generated/{part.operator}_params.h"' for part in op.parts]
        members = [f"  {load(part.operator).entry}Params {part.name};" for part in op.parts]
        comment = ["// The parameters of its parts. Those that no caller sees are null."]
    else:
        includes = ["#include <stdint.h>"]
        includes += ["", '#include "ms_dsv32/kernel_impl/contract/query_token.h"'] if op.optional else []
        members = [f"  {f.type} {f.name};" + (f"  // {f.comment}" if f.comment else "") for f in _fields(op)]
        comment = [
            "// The arguments of a checked call. Pointers need the alignment of their element alone.",
            "// What is not const is written, and overlaps nothing else.",
        ]
    lines = [
        _notice(op.name, "//"),
        "// clang-format off",
        "#pragma once",
        "",
        *includes,
        "",
        "namespace ms_dsv32 {",
        "",
        *comment,
        f"struct {op.entry}Params {{",
        *members,
        "};",
        "",
        "}  // namespace ms_dsv32",
        "",
    ]
    return "\n".join(lines)


def _unpack(op: OpInfo) -> list[str]:
    """The function that fills the operator's parameters."""
    values: dict[str, str] = {}
    if op.parts:
        common: dict[str, str] = {}  # what earlier parts have looked up
        for part in op.parts:
            for field in _fields(load(part.operator)):
                member = f"{part.name}.{field.name}"
                if field.kind in ("dim", "packed"):
                    values[member] = common.setdefault(field.name, f"params.{member}")
                    if values[member] == f"params.{member}":
                        values[member] = field.value(field.source)
                elif source := op.counterpart(part, field.source):
                    values[member] = field.value(source)
    elif op.optional:
        values = {f.name: f.value(f.source) for f in _fields(op) if f.kind != "tokens"}
        values |= {"t": "static_cast<int64_t>(tokens.size())", "tokens": "tokens.data()"}
    else:
        values = {f.name: f.value(f.source) for f in _fields(op)}
    table = "const std::vector<QueryToken>& tokens, " if op.optional else ""
    return [
        f"inline void Unpack(const Call& call, {table}{op.entry}Params& params) {{",
        f"  using namespace op_info::{op.name};",
        *(f"  params.{member} = {value};" for member, value in values.items()),
        "}",
        "",
    ]


def unpack_header() -> str:
    """``generated/unpack.h``: the parameters of every kernel, out of a call."""
    return "\n".join(
        [
            _NOTICE_OF_ALL,
            "// clang-format off",
            "#pragma once",
            "",
            "#include <vector>",
            "",
            '#include "ms_dsv32/kernel_impl/contract/call.h"',
            '#include "ms_dsv32/kernel_impl/contract/generated/operators.h"',
            *(f'#include "ms_dsv32/kernel_impl/contract/generated/{name}_params.h"' for name in names()),
            "",
            "namespace ms_dsv32 {",
            "",
            "// Fills the parameters of a kernel. What the caller of a fused operator does not see is left alone.",
            *(line for name in names() for line in _unpack(load(name))),
            "}  // namespace ms_dsv32",
            "",
        ]
    )


def operators_header() -> str:
    """``generated/operators.h``: the list of operators, from which C++ makes its tables."""

    def rows(operators: tuple[str, ...]) -> str:
        return " \\\n".join(f"  F({load(name).entry}, {name})" for name in operators)

    return "\n".join(
        [
            _NOTICE_OF_ALL,
            "// clang-format off",
            "#pragma once",
            "",
            *(f'#include "ms_dsv32/kernel_impl/contract/generated/{name}.h"' for name in (*names(), *internal())),
            "",
            "// F(Entry, name) for each operator that has a kernel.",
            "#define MS_DSV32_KERNELS(F) \\",
            rows(names()),
            "",
            "// F(Entry, name) for what the library has beside them.",
            "#define MS_DSV32_INTERNAL(F) \\",
            rows(internal()),
            "",
        ]
    )


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
    yield headers / "operators.h", operators_header()
    yield headers / "unpack.h", unpack_header()
    op_host = root / "ms_dsv32" / "kernel_impl" / "ascendc" / "op_host"
    for name in internal():
        yield headers / f"{name}.h", op_header(load(name))
    for name in names():
        yield headers / f"{name}.h", op_header(load(name))
        yield headers / f"{name}_params.h", params_header(load(name))
        yield op_host / f"{name}_def.cpp", op_def(load(name))
    yield root / "docs" / "ops.md", docs()
