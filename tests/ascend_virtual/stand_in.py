"""Builds the stand-in for CANN's libraries that MindSpore's own Ascend backend loads.

``cann/*.cc`` has the functions that do something. The libraries must also have every other name that MindSpore's
libraries are linked against, because these resolve all names when they are loaded, and every name that MindSpore looks
up after loading them. Such a function is a stub here, which returns 0. Both lists are read from MindSpore's own files.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from emulator import HERE as EMULATOR
from emulator import building, cache_directory, compiler

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "cann"
VERSION = "9.0.0"
MARKER = "virtual_ascend.txt"
"""A file that tells the stand-in from CANN."""
# Their C++ interface is the one that CANN is built with.
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror", "-D_GLIBCXX_USE_CXX11_ABI=0")
EXECUTOR = "nnopbase"
LIBRARIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ascendcl": (("device", "memory", "stream", "runtime"), ()),
    EXECUTOR: (("tensor",), ("ascendcl",)),
    "opapi": (("aclnn",), (EXECUTOR, "ascendcl")),
}
"""The sources of each library, and the libraries that it needs. The stubs are in libascendcl and libgraph."""
EMPTY = (
    *("platform", "register", "mmpa", "ascendalog", "c_sec", "hcomm", "msprofiler", "hccl", "runtime", "profapi"),
    *("acl_tdt_queue", "acl_tdt_channel", "acl_op_compiler", "acl_dvpp", "acl_dvpp_op", "acl_dvpp_mpi", "ascend_ml"),
)
"""Libraries that MindSpore loads by name. They need libascendcl, which has the functions that it looks up there."""

# The header that MindSpore's generated call of a custom operator includes.
ACL_BASE_H = """#pragma once
#include <cstddef>
#include <cstdint>
typedef int32_t aclDataType;
typedef void *aclrtStream;
"""
ACL_META_H = """#pragma once
#include "acl/acl_base.h"
typedef int32_t aclnnStatus;
typedef struct aclTensor aclTensor;
typedef struct aclOpExecutor aclOpExecutor;
"""
# This is not a stub, because MindSpore calls a method of the map in CANN's singleton.
STATUS_FACTORY = """#include <map>
#include <string>
namespace ge {
struct StatusFactory {
  static StatusFactory* Instance();
  std::map<unsigned, std::string> texts;
};
StatusFactory* StatusFactory::Instance() {
  static StatusFactory factory;
  return &factory;
}
}  // namespace ge
"""


@functools.cache
def folder() -> Path:
    """The folder of the stand-in, named after the content of the sources and of MindSpore's libraries."""
    digest = hashlib.sha256("\0".join([*compiler(), *FLAGS]).encode())
    for path in sorted([*SOURCES.glob("*"), EMULATOR / "types.h", Path(__file__)]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for path in _wanting():
        digest.update(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return cache_directory() / f"cann-{digest.hexdigest()[:20]}" / "latest"  # MindSpore wants that name in the path


def build() -> Path:
    """The folder for ASCEND_HOME_PATH. It is made once for each content."""
    home = folder()
    root = home.parent
    with building(root):
        if not root.exists():
            made = root.with_suffix(".tmp")
            shutil.rmtree(made, ignore_errors=True)
            _build(made / home.name)
            made.rename(root)
    return home


def _build(home: Path) -> None:
    lib, work = home / "lib64", home / "work"
    files = {
        "compiler/version.info": f"Version={VERSION}\n",
        "include/acl/acl_base.h": ACL_BASE_H,
        "include/aclnn/acl_meta.h": ACL_META_H,
        "opp/version.info": f"Version={VERSION}\n",
        MARKER: "Not CANN: a stand-in of ms_dsv32's tests, see tests/ascend_virtual/README.md.\n",
    }
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text, encoding="utf-8")
    for made in (lib / "driver", work):
        made.mkdir(parents=True)
    objects = {
        source: _compile(SOURCES / f"{source}.cc", work) for sources, _ in LIBRARIES.values() for source in sources
    }
    _link(lib, EXECUTOR, [objects["tensor"]], allow_undefined=True)
    # A stub in libascendcl would come before the executor's own function, which another library has.
    own = _symbols(lib / f"lib{EXECUTOR}.so", "--defined-only")
    undefined = _undefined()
    functions = (_looked_up() | {name for name in undefined if not name.startswith("_Z")}) - own
    methods = {name for name in undefined if name.startswith("_Z")}
    (work / "functions.c").write_text(_stubs(functions), encoding="utf-8")
    (work / "methods.c").write_text(_stubs(methods), encoding="utf-8")
    (work / "status.cc").write_text(STATUS_FACTORY, encoding="utf-8")
    objects |= {name: _compile(work / name, work) for name in ("functions.c", "methods.c", "status.cc")}
    for name, (sources, needs) in LIBRARIES.items():
        stubs = [objects["functions.c"]] if name == "ascendcl" else []
        _link(lib, name, [*(objects[source] for source in sources), *stubs], needs)
    _link(lib, "graph", [objects["status.cc"], objects["methods.c"]])
    _link(lib, "ge_runner", [], ("graph", "ascendcl"))
    for name in EMPTY:
        _link(lib, name, [], ("ascendcl",))
    for where in (lib, lib / "driver"):
        _link(where, "ascend_hal", [], ("ascendcl",), search=lib)


def _stubs(names: Iterable[str]) -> str:
    """The stubs in C. One text serves every machine, because a mangled name of C++ is a name of C too.

    A constructor (C1 or C2) zeroes the 16 bytes of a shared_ptr, which most of CANN's graph classes consist of. The
    constructors of classes that register something must not write, because these are empty. A stub that would run an
    operator fails: the operators that exist are in ``aclnn.cc`` and in the package.
    """
    lines = ["#define STUB __attribute__((weak)) long"]
    for name in sorted(names):
        constructor = re.search(r"C[12]E", name) and name.startswith("_Z") and not re.search(r"Register|2fe", name)
        runs = re.match(r"aclnn|aclmdl(RI)?Execute|aclop.*Execute|aclrtLaunch|rt.*Launch", name)
        body = f"(void) {{ return {-1 if runs else 0}; }}"
        if constructor:
            body = "(long *self) { return self[0] = self[1] = 0, (long)self; }"
        lines.append(f"STUB {name}{body}")
    return "\n".join(lines) + "\n"


def _compile(source: Path, work: Path) -> Path:
    made = work / f"{source.name}.o"
    flags = ["-x", "c", "-O1", "-fPIC", "-w"] if source.suffix == ".c" else [*FLAGS, f"-I{SOURCES}", f"-I{EMULATOR}"]
    run([*compiler(), *flags, "-c", str(source), "-o", str(made)])
    return made


def _link(
    folder: Path,
    name: str,
    objects: Sequence[Path],
    needs: Sequence[str] = (),
    search: Path | None = None,
    allow_undefined: bool = False,
) -> None:
    undefined = [] if allow_undefined else ["-Wl,--no-undefined"]
    command = [*compiler(), "-shared", "-pthread", "-Wl,--no-as-needed", *undefined, f"-Wl,-soname,lib{name}.so"]
    command += [*map(str, objects), "-o", str(folder / f"lib{name}.so"), f"-L{search or folder}"]
    run([*command, *(f"-l{need}" for need in needs)])


def run(command: Sequence[str]) -> None:
    """Runs the compiler."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"the stand-in for CANN does not compile: {' '.join(command)}\n{result.stderr}")


def _mindspore() -> Path:
    spec = importlib.util.find_spec("mindspore")
    if spec is None or spec.origin is None:
        raise RuntimeError("MindSpore is not installed: pip install mindspore==2.10.0")
    return Path(spec.origin).parent / "lib"


def _wanting() -> list[Path]:
    """MindSpore's libraries that are linked against CANN's."""
    plugin = _mindspore() / "plugin"
    ascend = plugin / "ascend"
    names = ("libmindspore_ascend_res_manager", "libd_collective", "libmindspore_graph_ir", "libhccl_plugin")
    names += ("libmindspore_internal_kernels", "libmindspore_symmetric_memory_kernels")
    return [
        plugin / "libmindspore_ascend.so.2",
        plugin / "libmindspore_ops_ascend.so",
        *(ascend / f"{name}.so" for name in names),
        *sorted(ascend.glob("ms_kernels*/**/lib/*.so")),
    ]


@functools.cache
def _symbols(library: Path, kind: str) -> set[str]:
    result = subprocess.run(["nm", "-D", kind, str(library)], capture_output=True, text=True, check=True)
    return {line.split()[-1].split("@")[0] for line in result.stdout.splitlines() if line.strip()}


def _undefined() -> set[str]:
    """Names that these libraries need and that neither MindSpore nor the system has."""
    wanting = _wanting()
    command = ["ldd", str(_mindspore() / "libmindspore_core.so")]
    linked = subprocess.run(command, capture_output=True, text=True, check=True)
    system = {Path(path) for path in re.findall(r"(/\S+)", linked.stdout)}
    others = [*_mindspore().glob("*.so*"), _mindspore() / "plugin" / "libmindspore_ops_cpu.so", *system]
    defined = set().union(*(_symbols(path, "--defined-only") for path in [*wanting, *others]))
    wanted = set().union(*(_symbols(path, "--undefined-only") for path in wanting)) - defined
    return {name for name in wanted if not re.match(r"_?Py|_ITM|__g|_ZTH|__cxa|_Jv|GOMP|omp_", name)}


def _looked_up() -> set[str]:
    """Names of functions among the strings of these libraries, which they look up after loading CANN's."""
    ascend = _mindspore() / "plugin" / "ascend"
    function = re.compile(rb"(?<=\0)((?:acl(?!nn)[a-zA-Z]*[A-Z]|Hccl[A-Z]|hal[A-Z]|rt[A-Z])\w+)(?=\0)")
    found: set[bytes] = set()
    for path in {*_wanting(), *ascend.glob("libmindspore_*.so"), ascend / "libdvpp_utils.so"}:
        found.update(function.findall(path.read_bytes()))
    return {name.decode() for name in found}
