"""Prints the table "Code size" of docs/ascend.md: how many LLVM IR instructions clang makes of a kernel's two sides.

Run ``python tests/ascendc/code_size.py``, with names of operators for a part; ``--write`` puts the figures into
docs/ascend.md and its Chinese twin. They are figures to watch: what the device's compiler is given, not what it makes
of it. Counted is our own code at -O2, with ``__aicore__`` functions inlined, as on the device, unless they are marked
noinline; such a function counts once. A call of the API counts as one instruction, whatever stands behind it, beside
those that prepare its tensors and parameter structures.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    TESTS = Path(__file__).resolve().parent.parent
    sys.path[:0] = [str(TESTS / "ascendc"), str(TESTS / "ascendc_emulator")]

import page_tables
from emulator import HERE as EMULATOR
from tiling import OP_KERNEL

from ms_dsv32 import op_info

COMPILER = "clang++"
SIDES = ("AIC", "AIV")
COLUMNS = 1 + len(SIDES)
# A scalar unit has no vectors, and copies of a loop's body are the device compiler's own choice.
FLAGS = ("-O2", "-fno-vectorize", "-fno-slp-vectorize", "-fno-unroll-loops", "-S", "-emit-llvm", "-o", "-")
SOURCE = """
#include "kernel_operator.h"
#undef __aicore__
#undef ASCEND_IS_AIC
#undef ASCEND_IS_AIV
#define __aicore__ __attribute__((always_inline))
#define ASCEND_IS_AIC constexpr(MS_DSV32_IS_AIC)
#define ASCEND_IS_AIV constexpr(!MS_DSV32_IS_AIC)
#include "{kernel}.cpp"
"""
DEFINITION = re.compile(r"^define [^@]*@\"?([^\"(]+)\"?\(")
HEAD = re.compile(r"^define (?:linkonce_odr |internal |weak_odr |available_externally )?(.* #\d+) .*$")
INSTRUCTION = re.compile(r"  (?! )")
MARKER = re.compile(r"call void @llvm\.(lifetime|experimental\.noalias|assume|dbg)")
"""Calls that make no code."""


def compiler() -> str | None:
    return shutil.which(COMPILER)


def _run(command: list[str], text: str) -> str:
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def _is_ours(symbol: str, kernel: str) -> bool:
    return symbol == kernel or re.match(r"_Z+NK?8ms_dsv32", symbol) is not None


def _is_data(name: str) -> bool:
    """Members of the API's tensors and parameter structures, which become part of the code around them. What acts is
    told apart by its last parameter, the place of the call in the source, which the emulator's findings name."""
    if name.startswith("ascendc_emulator::Loc::"):
        return True
    plain = name
    while (shorter := re.sub(r"<[^<>]*>", "", plain)) != plain:
        plain = shorter
    owner = re.search(r"AscendC::(\w+)::", plain.partition("(")[0])
    return owner is not None and owner[1] != "TPipe" and "ascendc_emulator::Loc" not in name


def _opaque(ir: str, kernel: str) -> str:
    """`ir` before optimisation, with the API's functions as declarations."""
    lines = ir.splitlines()
    symbols = {i: match[1] for i, line in enumerate(lines) if (match := DEFINITION.match(line))}
    names = _run(["c++filt"], "\n".join(symbols.values())).splitlines()
    for (i, symbol), name in zip(symbols.items(), names, strict=True):
        if not _is_ours(symbol, kernel) and not _is_data(name):
            end = lines.index("}", i)
            lines[i : end + 1] = [HEAD.sub(r"declare \1 nounwind", lines[i]), *[""] * (end - i)]
    return "\n".join(lines)


def functions(kernel: str, side: str, op_kernel: Path = OP_KERNEL) -> dict[str, int]:
    """IR instructions, by symbol, of our functions that are left after inlining."""
    command = [COMPILER, "-std=c++17", f"-DMS_DSV32_IS_AIC={int(side == 'AIC')}", f"-I{EMULATOR}", f"-I{op_kernel}"]
    source = SOURCE.replace("{kernel}", kernel)
    ir = _run([*command, "-x", "c++", *FLAGS, "-Xclang", "-disable-llvm-passes", "-"], source)
    ir = _run([COMPILER, "-x", "ir", "-Wno-override-module", *FLAGS, "-"], _opaque(ir, kernel))
    counts: dict[str, int] = {}
    symbol = ""
    for line in ir.splitlines():
        if match := DEFINITION.match(line):
            symbol = match[1] if _is_ours(match[1], kernel) else ""
        elif line == "}":
            symbol = ""
        elif symbol and INSTRUCTION.match(line) and not MARKER.search(line):
            counts[symbol] = counts.get(symbol, 0) + 1
    return counts


def size(kernel: str, side: str, op_kernel: Path = OP_KERNEL) -> int:
    return sum(functions(kernel, side, op_kernel).values())


def main(arguments: list[str]) -> None:
    print("| operator | AIC | AIV |\n|---|---|---|")
    for kernel in [a for a in arguments if a != "--write"] or op_info.names():
        cells = [str(size(kernel, side)) for side in SIDES]
        print(f"| `{kernel}` | {' | '.join(cells)} |", flush=True)
        if "--write" in arguments:
            page_tables.write(f"`{kernel}`", COLUMNS, cells)


if __name__ == "__main__":
    main(sys.argv[1:])
