"""Builds our operators as a vendor package of the stand-in for CANN, as `setup.py build_ascend` does with CANN.

The functions ``aclnn<Type>`` and their headers are made from the definitions that ``op_host`` registers, by the rules
of CANN's build. Parameters are inputs, attributes, outputs. A tensor that is both input and output comes once, among
the inputs, and is called ``<name>Ref``. An optional input, which may be null, is called ``<name>Optional``. A Float
attribute is a ``double``. The functions run ``op_host``'s tiling functions, and then the AscendC kernels in the
emulator, or the CPU kernels.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import op_host
import stand_in
from emulator import HERE as EMULATOR
from emulator import build as build_kernel
from emulator import building, cache_directory, compiler

from ms_dsv32 import cann, kernel_impl, op_info

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "package"
ROOT = HERE.parents[1]
OP_KERNEL = ROOT / "ms_dsv32" / "kernel_impl" / "ascendc" / "op_kernel"
VENDOR = "ms_dsv32"
_OPTIONAL = "1"
"""OPTIONAL of CANN's ``Option``."""
_CPU_TYPES = {"float": 0, "int": 1, "str": 2, "bool": 3}


@dataclass(frozen=True)
class Parameter:
    """A parameter of ``aclnn<Type>GetWorkspaceSize``."""

    type: str
    name: str

    def __str__(self) -> str:
        return f"{self.type}{'' if self.type.endswith('*') else ' '}{self.name}"


@dataclass(frozen=True)
class Definition:
    """What an OpDef says: names and CANN's dtypes of inputs and outputs, names and types of attributes, the kernel.

    ``contiguous`` are the inputs that CANN copies if they are not contiguous. ``optional`` are those that may be null.
    """

    type: str
    kernel: str
    contiguous: frozenset[str]
    optional: frozenset[str]
    inputs: dict[str, int]
    outputs: dict[str, int]
    attrs: dict[str, str]

    @classmethod
    def read(cls, op_type: str) -> Definition:
        tensors: dict[str, dict[str, int]] = {"input": {}, "output": {}}
        attrs, kernel, contiguous, optional = {}, "", set(), set()
        for kind, name, *rest in op_host.definition(op_type):
            if kind in tensors:
                tensors[kind][name] = int(rest[1].rstrip(",").split(",")[0])
                if kind == "input" and rest[-1] == "1":
                    contiguous.add(name)
                if rest[0] == _OPTIONAL:
                    optional.add(name)
            elif kind == "attr":
                attrs[name] = rest[1]
            elif kind == "unit":
                kernel = dict(entry.split("=") for entry in rest)["opInterface.value"]
        return cls(
            op_type, kernel, frozenset(contiguous), frozenset(optional), tensors["input"], tensors["output"], attrs
        )

    @property
    def results(self) -> list[str]:
        """The outputs that are not inputs."""
        return [name for name in self.outputs if name not in self.inputs]

    def parameters(self) -> list[Parameter]:
        """The parameters of the first function, without CANN's own two."""
        found = []
        for name in self.inputs:
            written = name in self.outputs
            kind = "aclTensor *" if written else "const aclTensor *"
            suffix = "Ref" if written else "Optional" if name in self.optional else ""
            found.append(Parameter(kind, f"{_mixed(name)}{suffix}"))
        types = {"float": "double", "int": "int64_t"}
        found += [Parameter(types[kind], _mixed(name)) for name, kind in self.attrs.items()]
        several = len(self.results) > 1
        names = (f"{_mixed(name)}Out" if several else "out" for name in self.results)
        return [*found, *(Parameter("const aclTensor *", name) for name in names)]


def _mixed(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def header(op_type: str, parameters: list[Parameter]) -> str:
    """``aclnn_<op>.h`` as CANN's build writes it: a comment that names the parameters, then a line for each."""
    listed = ",\n    ".join([*map(str, parameters), "uint64_t *workspaceSize", "aclOpExecutor **executor"])
    guard, visible = f"ACLNN_{op_type.upper()}_H_", '__attribute__((visibility("default")))\n'
    names = "\n".join(f" * {p.name}" for p in parameters)
    return f"""#ifndef {guard}
#define {guard}

#include "aclnn/acl_meta.h"

#ifdef __cplusplus
extern "C" {{
#endif

/* aclnn{op_type}GetWorkspaceSize
{names}
 */
{visible}aclnnStatus aclnn{op_type}GetWorkspaceSize(
    {listed});

{visible}aclnnStatus aclnn{op_type}(
    void *workspace,
    uint64_t workspaceSize,
    aclOpExecutor *executor,
    aclrtStream stream);

#ifdef __cplusplus
}}
#endif

#endif
"""


def build() -> Path:
    """The package's folder, which ASCEND_CUSTOM_OPP_PATH may list. It is made once for each content.

    Its parts are compiled in parallel, because the other processes of a test run wait for them.
    """
    infos = [op_info.load(name) for name in op_info.names()]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        of_cann, of_host = pool.submit(stand_in.build), pool.submit(op_host.library)
        kernels = dict(zip(op_info.names(), pool.map(_kernel, op_info.names()), strict=True))
        home = of_cann.result()
        of_host.result()
    text = _source(infos, kernels)
    flags = [*stand_in.FLAGS, *(f"-I{path}" for path in (SOURCES, stand_in.SOURCES, EMULATOR))]
    sources = sorted(SOURCES.glob("*.cc"))
    digest = hashlib.sha256("\0".join([text, str(home), *compiler(), *flags]).encode())
    for path in (*sorted(SOURCES.glob("*")), EMULATOR / "interface.h", Path(__file__)):
        digest.update(path.read_bytes())
    root = cache_directory() / f"package-{digest.hexdigest()[:20]}"
    with building(root):
        if not root.exists():
            made = root.with_suffix(".tmp")
            shutil.rmtree(made, ignore_errors=True)
            vendor = made / "vendors" / VENDOR
            for folder in ("op_api/include", "op_api/lib", "op_proto", *_configs()):
                (vendor / folder).mkdir(parents=True)
            for info in infos:
                definition = Definition.read(info.cann_type)
                path = vendor / "op_api" / "include" / f"aclnn_{info.cann_stem}.h"
                path.write_text(header(info.cann_type, definition.parameters()), encoding="utf-8")
            (vendor / "version.info").write_text(f"custom_opp_compiler_version={stand_in.VERSION}\n", encoding="utf-8")
            generated = made / "operators.cc"
            generated.write_text(text, encoding="utf-8")
            lib = home / "lib64"
            command = [*compiler(), *flags, "-shared", "-Wl,--no-undefined", str(generated), *map(str, sources)]
            command += ["-o", str(vendor / cann.OP_API), f"-L{lib}", "-lnnopbase", "-lascendcl", "-ldl"]
            stand_in.run(command)
            made.rename(root)
    return root / "vendors" / VENDOR


def _configs() -> list[str]:
    return [f"op_impl/ai_core/tbe/config/{unit}" for unit in op_info.ASCEND_UNITS]


def _kernel(name: str) -> Path:
    """A kernel as a library for the emulator."""
    return build_kernel(OP_KERNEL / f"{name}.cpp", [name], include_dirs=[OP_KERNEL]).path


def _source(infos: list[op_info.OpInfo], kernels: Mapping[str, Path]) -> str:
    """The table of operators, and their functions. `kernels` has the library of each kernel by its name."""
    lines = ['#include "operator.h"', "", "namespace ascend_virtual {", ""]
    libraries = (str(op_host.library()._name), str(kernel_impl.library_path()))
    lines.append(f"const Libraries kLibraries = {{{', '.join(map(json.dumps, libraries))}}};")
    functions = []
    for info in infos:
        definition = Definition.read(info.cann_type)
        lines.append(f"static const Operator k{info.cann_type} = {{{_operator(info, definition, kernels)}}};")
        functions.append(_functions(definition))
    return "\n".join([*lines, "", "}  // namespace ascend_virtual", "", *functions])


def _operator(info: op_info.OpInfo, definition: Definition, kernels: Mapping[str, Path]) -> str:
    nz = {arg.name: arg.format == "NZ" for arg in info.inputs}
    copied = definition.contiguous - set(definition.outputs)  # an output must be the caller's memory
    inputs = [
        f'{{"{name}", {dtype}, {int(nz[name])}, {int(name in copied)}, {int(name in definition.optional)}}}'
        for name, dtype in definition.inputs.items()
    ]
    outputs = [f'{{"{name}", {definition.outputs[name]}, 0, 0, 0}}' for name in definition.results]
    attributes = [f'{{"{name}", {int(kind == "float")}}}' for name, kind in definition.attrs.items()]
    order = [*definition.inputs, *definition.results]
    arguments = [str(order.index(name)) for name in (*definition.inputs, *definition.outputs)]
    cpu = []
    for attr in (a for a in info.kernel_attrs if not a.optional):  # Ascend's operators have none of those
        names = list(definition.attrs)
        own = attr.name.replace(".", "_")
        source = names.index(own) if own in names else -1
        # The CPU kernels get row-major weights here, whatever layout the caller used.
        default = "ND" if attr.name == "weight_format" else attr.default
        text = json.dumps(default) if attr.type == "str" else "nullptr"
        integer = int(default) if attr.type == "bool" else 0
        cpu.append(f'{{"{attr.name}", {source}, {_CPU_TYPES[attr.type]}, {integer}, {text}}}')
    names = ", ".join(map(json.dumps, (definition.type, definition.kernel, str(kernels[definition.kernel]))))
    return ", ".join([names, *(f"{{{', '.join(part)}}}" for part in (inputs, outputs, attributes, cpu, arguments))])


def _functions(definition: Definition) -> str:
    parameters = definition.parameters()
    tensors = ", ".join(p.name for p in parameters if p.type.endswith("*"))
    numbers = ", ".join(f"static_cast<double>({p.name})" for p in parameters if not p.type.endswith("*"))
    listed = ", ".join([*map(str, parameters), "uint64_t* workspace_size", "aclOpExecutor** executor"])
    name = definition.type
    return f"""ASCEND_VIRTUAL_API int aclnn{name}GetWorkspaceSize({listed}) {{
  using namespace ascend_virtual;
  return GetWorkspaceSize(k{name}, {{{tensors}}}, {{{numbers}}}, workspace_size, executor);
}}
ASCEND_VIRTUAL_API int aclnn{name}(void* workspace, uint64_t bytes, aclOpExecutor* executor, aclrtStream stream) {{
  return ascend_virtual::Launch(workspace, bytes, executor, stream);
}}
"""
