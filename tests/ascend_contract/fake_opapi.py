"""As much of CANN as MindSpore's Ascend path needs where no device is: an installation, and a custom operator package.

Both are made from op_info by the rules of CANN's documentation of generated ``aclnn`` functions: inputs, attributes,
outputs; a tensor that is both input and output comes once, among the inputs, and is called ``<name>Ref``; a Float
attribute is a ``double``. The functions write down what they are given.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ms_dsv32 import op_info

ACL_BASE = """#pragma once
#include <cstdint>
typedef int32_t aclDataType;
typedef void* aclrtStream;
"""
ACL_META = """#pragma once
#include "acl/acl_base.h"
typedef int32_t aclnnStatus;
typedef struct aclTensor aclTensor;
typedef struct aclOpExecutor aclOpExecutor;
"""
DRIVER = """// Calls a callback as MindSpore's kernel of a Custom operator does (custom_v2_aclnn_kernel.cc).
#include <cstdint>
#include <vector>
extern "C" int CallBack(void* callback, void* function, void** inputs, int input_count, void** outputs,
                        int output_count, uint64_t* workspace_size, void** executor) {
  using Callback = int (*)(void*, std::vector<void*>, std::vector<void*>, uint64_t*, void**);
  const std::vector<void*> ins(inputs, inputs + input_count), outs(outputs, outputs + output_count);
  return reinterpret_cast<Callback>(callback)(function, ins, outs, workspace_size, executor);
}
"""


@dataclass(frozen=True)
class Parameter:
    """A parameter of ``aclnn<Op>GetWorkspaceSize``."""

    type: str
    name: str

    def __str__(self) -> str:
        return f"{self.type}{'' if self.type.endswith('*') else ' '}{self.name}"


Change = Callable[[list[Parameter]], list[Parameter]]


def _mixed(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def parameters(info: op_info.OpInfo) -> list[Parameter]:
    """The parameters of an operator's first function, without CANN's own two."""
    found = []
    for arg in info.inputs:
        if arg.in_place:
            found.append(Parameter("aclTensor *", f"{_mixed(arg.name)}Ref"))
        else:
            found.append(Parameter("const aclTensor *", _mixed(arg.name)))
    types = {"float": "double", "int": "int64_t"}
    found += [Parameter(types[a.type], _mixed(a.name)) for a in info.ascend_attrs]
    several = len(info.kernel_outputs) > 1
    outputs = (f"{_mixed(o.name)}Out" if several else "out" for o in info.kernel_outputs)
    return [*found, *(Parameter("const aclTensor *", name) for name in outputs)]


def _declarations(info: op_info.OpInfo, change: Change) -> tuple[str, str]:
    listed = ",\n    ".join(map(str, change(parameters(info))))
    first = f"aclnnStatus aclnn{info.cann_type}GetWorkspaceSize(\n    {listed},\n    uint64_t *workspaceSize,\n"
    first += "    aclOpExecutor **executor)"
    second = f"aclnnStatus aclnn{info.cann_type}(\n    void *workspace,\n    uint64_t workspaceSize,\n"
    return first, second + "    aclOpExecutor *executor,\n    aclrtStream stream)"


def header(info: op_info.OpInfo, change: Change = lambda found: found) -> str:
    """``aclnn_<stem>.h``: a comment that names the parameters, then the declarations, a line each parameter."""
    first, second = _declarations(info, change)
    visible = '__attribute__((visibility("default")))\n'
    names = "\n".join(f" * {p.name}" for p in change(parameters(info)))
    return f"""#ifndef ACLNN_{info.cann_stem.upper()}_H_
#define ACLNN_{info.cann_stem.upper()}_H_

#include "aclnn/acl_meta.h"

#ifdef __cplusplus
extern "C" {{
#endif

/* aclnn{info.cann_type}GetWorkspaceSize
{names}
 */
{visible}{first};

{visible}{second};

#ifdef __cplusplus
}}
#endif

#endif
"""


def _source(infos: Sequence[op_info.OpInfo]) -> str:
    """The functions: each writes "name value" of every argument, pointers and floats in hexadecimal."""
    lines = ["#include <cstdarg>\n#include <cstdio>"]
    lines += [f'#include "aclnn_{info.cann_stem}.h"' for info in infos]
    lines.append("static char calls[1 << 14];\nstatic int used;")
    lines.append("static void Note(const char* format, ...) {\n  va_list list;\n  va_start(list, format);")
    lines.append("  used += vsnprintf(calls + used, sizeof(calls) - used, format, list);\n  va_end(list);\n}")
    lines.append('extern "C" const char* Calls() { used = 0; return calls; }')
    shown = {"double": ("%a", ""), "int64_t": ("%lld", "(long long)")}
    for info in infos:
        first, second = _declarations(info, lambda found: found)
        lines.append(f"{first} {{")
        for p in parameters(info):
            code, cast = shown.get(p.type, ("%p", "(const void*)"))
            lines.append(f'  Note("{p.name} {code}\\n", {cast}{p.name});')
        lines.append("  *workspaceSize = 512;\n  *executor = (aclOpExecutor*)0x77;\n  return 0;\n}")
        lines.append(f"{second} {{ return workspace && executor && stream ? (int)workspaceSize : 0; }}")
    return "\n".join(lines) + "\n"


def _compile(source: Path, library: Path, *flags: str) -> None:
    command = ["g++", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Werror", *flags, str(source), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True)


@dataclass(frozen=True)
class FakeCann:
    """Where things are: CANN's ``opp``, the operator package, its library, and the driver of callbacks."""

    opp: Path
    package: Path
    library: Path
    driver: Path

    def write_header(self, info: op_info.OpInfo, change: Change) -> None:
        """Replaces an operator's header; the library stays as it is."""
        path = self.package / "op_api" / "include" / f"aclnn_{info.cann_stem}.h"
        path.unlink()
        path.write_text(header(info, change))


def make(root: Path, names: Sequence[str] = op_info.names()) -> FakeCann:
    """Builds a fake CANN with a package of these operators."""
    opp, package = root / "cann" / "opp", root / "vendors" / "ms_dsv32"
    include, lib = package / "op_api" / "include", package / "op_api" / "lib"
    headers = root / "cann" / "include"
    for folder in (opp, headers / "acl", headers / "aclnn", include, lib):
        folder.mkdir(parents=True)
    (headers / "acl" / "acl_base.h").write_text(ACL_BASE)
    (headers / "aclnn" / "acl_meta.h").write_text(ACL_META)
    infos = [op_info.load(name) for name in names]
    for info in infos:
        (include / f"aclnn_{info.cann_stem}.h").write_text(header(info))
    (root / "opapi.cc").write_text(_source(infos))
    _compile(root / "opapi.cc", lib / "libcust_opapi.so", f"-I{headers}", f"-I{include}")
    (root / "driver.cc").write_text(DRIVER)
    _compile(root / "driver.cc", root / "driver.so")
    return FakeCann(opp, package, lib / "libcust_opapi.so", root / "driver.so")
