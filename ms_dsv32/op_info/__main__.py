"""``python -m ms_dsv32.op_info``: checks the JSON files against their schemas, and what is generated from them.

``--check`` fails if a JSON file is invalid or a generated file out of step; ``--write`` writes the generated files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from ms_dsv32 import op_info
from ms_dsv32.op_info import Arg, Attr, OpInfo, SourceFunction, dims, internal, load, names, symbols
from ms_dsv32.op_info.generate import generated

_EXPLAINED = ("formula", "example", "limits")
"""Members from which ``docs/ops.md`` explains an operator. Internal operators have no page and lack them."""


def check_schemas() -> list[str]:
    """What is wrong with the JSON files, by their schemas and by what a schema cannot say; empty if nothing is."""
    import jsonschema  # a development dependency: users never need it

    problems = []
    for path in sorted((*op_info.directory().glob("*.json"), *op_info.directory().glob("internal/*.json"))):
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
        problems += [f"{op.name}: {p}" for p in _part_problems(op)]
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


def _part_problems(op: OpInfo) -> Iterator[str]:
    """What is wrong with the parts of a fused operator: arguments on either side that have no counterpart."""
    found = set()
    for part in op.parts:
        of_part = load(part.operator)
        args: tuple[Arg | Attr, ...] = (*of_part.inputs, *of_part.kernel_outputs, *of_part.kernel_attrs)
        known = [a.name for a in args]
        for name in known:
            found.add(op.counterpart(part, name))
            if name not in part.inside and op.counterpart(part, name) is None:
                yield f"{name} of {part.operator} is no argument"
        yield from (f"{part.operator} has no {name}" for name in (*part.names, *part.inside) if name not in known)
    for arg in (*op.inputs, *op.kernel_outputs) if op.parts else ():
        if arg.name not in found:
            yield f"{arg.name} is no argument of a part"


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
    for path, text in generated(op_info.directory().parent) if not problems else ():
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
