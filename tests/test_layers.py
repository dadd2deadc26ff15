"""Imports go one way, files of one operator share one stem, and per-ISA code stays private to its instruction set."""

from __future__ import annotations

import ast
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ms_dsv32 import kernel_impl, op_info

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ms_dsv32"
# What each layer may import of the package, and of everything outside the standard library.
ALLOWED = {
    "__init__": (set(), set()),
    "cann": (set(), set()),
    "op_info": ({"op_info"}, {"jsonschema"}),
    "paging": (set(), {"numpy"}),
    "rope": (set(), {"numpy"}),
    "config": ({"op_info", "rope"}, set()),
    "golden": ({"golden", "paging", "rope"}, {"numpy"}),
    "kernel_impl": ({"op_info"}, {"numpy"}),
    "opp": ({"cann", "op_info"}, set()),
    "weights": (
        {"config", "kernel_impl", "op_info", "weights"},
        {"mindspore", "ml_dtypes", "numpy", "rich", "safetensors"},
    ),
    "ops": ({"cann", "config", "kernel_impl", "op_info", "opp", "ops"}, {"mindspore", "ml_dtypes", "numpy"}),
    "_cell": ({"config", "op_info", "ops", "weights"}, {"mindspore", "numpy"}),
    "_operator_cells": ({"_cell", "config", "ops", "weights"}, {"mindspore"}),
    "cells": ({"_cell", "_operator_cells", "config", "ops", "weights"}, {"mindspore"}),
    "doctor": (
        {"cann", "cells", "kernel_impl", "op_info", "opp", "ops", "weights"},
        {"mindspore", "numpy", "packaging", "rich"},
    ),
}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    layer = path.relative_to(PACKAGE).with_suffix("").parts[0]
    layers, packages = ALLOWED[layer]
    for name in _imports(path):
        top, _, rest = name.partition(".")
        if top == "ms_dsv32":
            assert rest.split(".")[0] in layers, f"{layer} imports {name}"
        elif top not in sys.stdlib_module_names:
            assert top in packages, f"{layer} imports {name}"


KERNEL_IMPL = PACKAGE / "kernel_impl"
# What the sources of each C++ folder may include between quotes: folders and single files of kernel_impl, and CANN's.
INCLUDED = {
    "contract": {"contract"},
    "cpu": {"contract", "cpu", "cpu/isa"},
    "cpu/isa": {
        "cpu/isa",
        # These are compiled once, and have no code of an instruction set in their interfaces.
        *("cpu/scratch.h", "cpu/threading.h", "cpu/verbose.h"),
        # A kernel needs its parameters and the sizes. Other headers of the contract have standard templates.
        *("contract/generated/dims.h", "contract/query_token.h"),
        *(f"contract/generated/{name}_params.h" for name in op_info.names()),
    },
    "ascendc/op_host": {
        "contract",
        "ascendc/op_host",
        # What host and kernel share: tiling data, and the sizes that it is made for.
        *(f"ascendc/op_kernel/{path.name}" for path in KERNEL_IMPL.glob("ascendc/op_kernel/*_tiling.h")),
        "ascendc/op_kernel/dims.h",
        *("register/op_def_registry.h", "tiling/platform/platform_ascendc.h"),
    },
    # CANN compiles it alone: its files include each other without a path.
    "ascendc/op_kernel": {
        *(path.name for path in KERNEL_IMPL.glob("ascendc/op_kernel/*.h")),
        "kernel_operator.h",
    },
}
SOURCES = sorted(path for path in KERNEL_IMPL.rglob("*") if path.suffix in (".h", ".cc", ".cpp"))


def _folder(path: Path) -> str:
    """The part of kernel_impl that a file belongs to."""
    parent = path.parent.relative_to(KERNEL_IMPL).as_posix()
    return "contract" if parent.startswith("contract") else parent


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(KERNEL_IMPL)))
def test_includes_go_one_way(path: Path) -> None:
    if path == KERNEL_IMPL / "ascendc" / "twin.cpp":
        pytest.skip("a program that users build by itself")
    allowed = INCLUDED[_folder(path)]
    for name in re.findall(r'#\s*include\s*"([^"]+)"', path.read_text(encoding="utf-8")):
        inside = name.removeprefix("ms_dsv32/kernel_impl/")
        assert ".." not in name, f"{path} includes {name}"
        assert inside in allowed if inside == name else {inside, _folder(KERNEL_IMPL / inside)} & allowed, (
            f"{path} includes {name}"
        )


REACHED = [p for p in SOURCES if {p.relative_to(KERNEL_IMPL).as_posix(), _folder(p)} & INCLUDED["cpu/isa"]]


@pytest.mark.parametrize("path", REACHED, ids=lambda path: path.name)
def test_kernels_of_an_instruction_set_use_no_standard_templates(path: Path) -> None:
    """The linker keeps one copy of each, which may have been compiled for another instruction set."""
    # C's headers end in .h; <cstdint> has types alone.
    assert not re.findall(r"#\s*include\s*<(?!cstdint>)\w+>", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted(KERNEL_IMPL.glob("ascendc/op_kernel/*")), ids=lambda path: path.name)
def test_statements_of_ascendc_kernels_are_in_braces(path: Path) -> None:
    """clang-format inserts them from version 15 on."""
    code = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
    for head in re.finditer(r"\b(?:(?:if(?: constexpr)?|for|while) ?\(|else\b)", code):
        end, depth = head.end(), code[head.start() : head.end()].count("(")
        while depth:
            depth += {"(": 1, ")": -1}.get(code[end], 0)
            end += 1
        statement = code[end:].lstrip()
        assert statement.startswith(("{", "if ")), f"{path.name}: no brace after {code[head.start() : end]}"


@pytest.mark.parametrize("name", op_info.names())
def test_an_operator_has_one_stem_in_each_layer(name: str) -> None:
    for path in (
        f"golden/{name}.py",
        f"ops/{name}.py",
        f"kernel_impl/cpu/isa/{name}.cc",
        f"kernel_impl/contract/generated/{name}.h",
        f"kernel_impl/contract/generated/{name}_params.h",
        f"kernel_impl/ascendc/op_host/{name}_def.cpp",
        f"kernel_impl/ascendc/op_host/{name}_tiling.cpp",
        f"kernel_impl/ascendc/op_kernel/{name}.cpp",
    ):
        assert (PACKAGE / path).is_file(), path
    assert (ROOT / "tests" / "golden" / f"test_{name}.py").is_file(), f"tests/golden/test_{name}.py is missing"


@pytest.mark.parametrize("name", op_info.names())
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("ms_dsv32/_operator_cells.py", " ops.{}("),
        ("README.md", "\n| `{}` | "),
        ("README.zh.md", "\n| `{}` | "),
        ("CHANGELOG.md", "`{}`"),
        ("docs/kernels.md", "\n## {}\n"),
        ("docs/performance.md", "`{}`"),
        ("tests/cover/reasons.yaml", "- file: ms_dsv32/ops/{}.py\n"),
        ("tests/mutation/faults/golden.yaml", "  file: ms_dsv32/golden/{}.py\n"),
    ],
    ids=lambda value: value if "/" in value or value.endswith(".md") else "",
)
def test_an_operator_is_in_each_list_that_is_written_by_hand(name: str, path: str, text: str) -> None:
    """The lists that no other test compares with op_info."""
    entries = (ROOT / path).read_text(encoding="utf-8").count(text.format(name))
    expected = 2 if path.startswith("README") else 1  # what it does, and its status
    assert entries >= expected, f"{path} has no {text.format(name).strip()}, or not in each table"


@pytest.mark.parametrize("folder", ["ascendc_emulator", "ascend_virtual/cann"])
def test_what_stands_in_for_huaweis_software_knows_no_kernel(folder: str) -> None:
    for path in (ROOT / "tests" / folder).rglob("*.[ch]*"):
        text = path.read_text(encoding="utf-8")
        for name in op_info.names():
            assert name not in text, f"{path} names {name}"
            assert op_info.load(name).cann_type not in text, f"{path} names {op_info.load(name).cann_type}"


@pytest.mark.parametrize(
    "statement",
    [f"import ms_dsv32.{name}" for name in ("golden", "op_info", "kernel_impl", "config", "opp", "weights")],
)
def test_mindspore_is_not_needed_below_the_operators(statement: str) -> None:
    code = f"import sys; {statement}; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_only_the_custom_module_knows_mindspores_custom() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name != "_custom.py":
            assert "ops.Custom(" not in path.read_text(encoding="utf-8"), path


VECTOR = {"x86_64": r"\tv[a-z]\w+ ", "aarch64": r"\t(?:sdot|bfdot|bfcvtn?2?)\s"}
"""Instructions that the baseline of a machine lacks, as objdump writes them."""


def test_kernels_of_one_instruction_set_are_private_to_it() -> None:
    """A function compiled for AVX-512 and shared with the baseline could be the copy that the linker keeps for all."""
    instruction = VECTOR.get(platform.machine())
    if instruction is None or shutil.which("objdump") is None:
        pytest.skip(f"no objdump, or nothing known of {platform.machine()}")
    command = ["objdump", "-dC", "--no-show-raw-insn", str(kernel_impl.library_path())]
    functions = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n\n")
    isas = set()
    for function in functions:
        name = re.match(r"[0-9a-f]+ <(.*)>:", function)
        if name is None or not (found := re.search(instruction, function)):
            continue
        owner = re.search(r"ms_dsv32::cpu::(\w+)::", name[1])
        assert owner is not None, f"{name[1]} uses {found[0].strip()} and is in no instruction set's namespace"
        assert owner[1] != "portable", f"{name[1]} uses {found[0].strip()}"
        isas.add(owner[1])
    assert isas == set(kernel_impl.isas(supported=False)) - {"portable"}
