"""Builds the AscendC kernels, compiled for the emulator, into a library that replaces the CPU one.

``MS_DSV32_LIBRARY`` names it, or ``python tests/ascendc/kernel_library.py`` prints its path. Its entries and checks are
those of the CPU library; it takes weights as the CPU does, row-major or PACKED, and lays them out for the kernels.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __name__ == "__main__":
    ROOT_TESTS = Path(__file__).resolve().parent.parent
    sys.path += [str(ROOT_TESTS / "ascendc_emulator")]

from emulator import HERE as EMULATOR
from emulator import build, building, cache_directory, compiler

from ms_dsv32 import op_info

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KERNEL_IMPL = ROOT / "ms_dsv32" / "kernel_impl"
CONTRACT, CPU = KERNEL_IMPL / "contract", KERNEL_IMPL / "cpu"
OP_KERNEL = KERNEL_IMPL / "ascendc" / "op_kernel"
OP_HOST = OP_KERNEL.with_name("op_host")
SHARED = [
    *sorted(CONTRACT.glob("*.cc")),
    *(CPU / f"{name}.cc" for name in ("c_api", "graph_guard", "mindspore_entry", "pack")),
    *(CPU / f"{name}.cc" for name in ("run_call", "threading", "verbose")),
]
"""Sources of the CPU library that stay as they are."""
FLAGS = (
    *("-std=c++17", "-O1", "-fPIC", "-pthread", "-fvisibility=hidden", "-D_GLIBCXX_USE_CXX11_ABI=0"),
    *("-ffp-contract=off", "-Wall", "-Wextra", "-Werror"),
    *(f"-I{path}" for path in (ROOT, EMULATOR)),
)
LINK = ("-shared", "-pthread")


def _tables() -> str:
    """C++ of each kernel: its declarations, and its GM arguments in order, as indices into a call's in- and outputs."""
    text = '#include <vector>\n#include "interface.h"\n'
    text += "struct Argument {\n  int index;\n  bool nz, packable, written;\n};\n"
    for name in op_info.names():
        info = op_info.load(name)
        inputs = [a.name for a in info.inputs]
        outputs = [*inputs, *(o.name for o in info.kernel_outputs)]
        rows = [(i, a.format == "NZ", a.packable, False) for i, a in enumerate(info.inputs)]
        rows += [(outputs.index(o.in_place_of or o.name), False, False, bool(o.in_place_of)) for o in info.outputs]
        entries = ", ".join(f"{{{i}, {int(nz)}, {int(packable)}, {int(written)}}}" for i, nz, packable, written in rows)
        text += f"ASCENDC_EMULATOR_DECLARE({name});\n"
        text += f"static const std::vector<Argument> k_{name} = {{{entries}}};\n"
    return text


def build_library(sources: Mapping[str, str] | None = None) -> Path:
    """The library's path. `sources`: other text for the kernels of these operators, to see what becomes of a fault."""
    texts = {name: OP_KERNEL / f"{name}.cpp" for name in op_info.names()} | dict(sources or {})
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = pool.submit(_objects)
        kernels = list(pool.map(lambda name: build(texts[name], [name], include_dirs=[OP_KERNEL]).path, texts))
    files = [*objects.result(), *kernels]
    digest = hashlib.sha256("\0".join([*compiler(), *LINK, *map(str, files)]).encode())
    target = cache_directory() / f"kernel_library-{digest.hexdigest()[:20]}.so"
    with building(target):
        if not target.exists():
            made = target.with_suffix(".tmp")
            _run([*compiler(), *LINK, *map(str, files), "-o", str(made)])
            made.replace(target)
    return target


def _objects() -> list[Path]:
    """What does not depend on the text of the kernels: compiled once for each content."""
    text = _tables() + (HERE / "kernel_library.cc").read_text(encoding="utf-8")
    digest = hashlib.sha256("\0".join([text, *compiler(), *FLAGS]).encode())
    headers = [*CONTRACT.rglob("*.*"), *CPU.rglob("*.*"), *OP_HOST.glob("*.h"), *OP_KERNEL.glob("*.h")]
    for path in sorted([*headers, EMULATOR / "interface.h"]):
        digest.update(path.read_bytes())
    folder = cache_directory() / f"kernel_library-{digest.hexdigest()[:20]}"
    with building(folder):
        if not folder.exists():
            made = folder.with_suffix(".tmp")
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            own = made / "kernel_library.cc"
            own.write_text(text, encoding="utf-8")
            units = [own, *SHARED]
            commands = [[*compiler(), *FLAGS, "-c", str(unit), "-o", str(made / f"{unit.stem}.o")] for unit in units]
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                list(pool.map(_run, commands))
            made.rename(folder)
    return sorted(folder.glob("*.o"))


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"the kernel library does not compile: {' '.join(command)}\n{result.stderr}")


if __name__ == "__main__":
    print(build_library())
