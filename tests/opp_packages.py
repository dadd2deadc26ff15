"""Makes packages of custom operators, as CANN installs them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from ms_dsv32 import op_info, opp


def make_package(folder: Path, functions: list[str]) -> Path:
    """A vendor package whose library defines these functions; the folder."""
    path = opp.library(folder)
    path.parent.mkdir(parents=True)
    source = "int undefined_one(void);\nstatic int hidden(void) { return undefined_one(); }\n"
    source += "".join(f"int {name}(void) {{ return hidden(); }}\n" for name in functions)
    command = [os.environ.get("CXX", "g++"), "-x", "c", "-", "-shared", "-fPIC", "-s", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)
    return folder


def header(op: str, change: Callable[[list[str]], list[str]] = lambda found: found) -> str:
    """What CANN generates for an operator, as far as it is read: a comment, and its first function."""
    info = op_info.load(op)
    found = [f"{'aclTensor *' if a.in_place else 'const aclTensor *'}{a.name}" for a in info.inputs]
    found += [f"{'double' if a.type == 'float' else 'int64_t'} {a.name}" for a in info.ascend_attrs]
    found += [f"const aclTensor *{o.name}Out" for o in info.kernel_outputs]
    listed = ",\n    ".join([*change(found), "uint64_t *workspaceSize", "aclOpExecutor **executor"])
    name = opp.entries(op)[1]
    return f'/* {name}(\n * x, y\n */\n__attribute__((visibility("default")))\naclnnStatus {name}(\n    {listed});\n'


def make_operators(folder: Path, without: str = "") -> Path:
    """A vendor package with all operators, their headers included, but for one function; the folder."""
    make_package(folder, [entry for op in op_info.names() for entry in opp.entries(op) if entry != without])
    for op in op_info.names():
        write_header(folder, op, header(op))
    return folder


def write_header(folder: Path, op: str, text: str, include: str = "op_api/include") -> Path:
    """Writes the header of an operator into a package; its path."""
    path = folder / include / f"aclnn_{op_info.load(op).cann_stem}.h"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
