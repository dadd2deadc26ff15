"""What the kernels are made of: conversions, products, threads, scratch; and inner loops that stay in registers."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import shutil
import subprocess
from pathlib import Path

import core_check
import driver
import pytest

from ms_dsv32 import kernel_impl

CPU = driver.ROOT / "ms_dsv32" / "kernel_impl" / "cpu"
FLAGS = (
    *("-std=c++17", "-O1", "-pthread", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-psabi", f"-I{driver.ROOT}"),
)
ISAS: dict[str, dict[str, list[str]]] = json.loads((CPU / "isas.json").read_text())
"""The instruction sets of each machine, with the flags that the kernels are compiled with."""

pytestmark = pytest.mark.isa


def _compiler(machine: str) -> str:
    compiler = "g++" if machine == platform.machine() else f"{machine}-linux-gnu-g++"
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    return compiler


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "isa"), [(m, isa) for m, isas in ISAS.items() for isa in isas])
def test_core(machine: str, isa: str, tmp_path: Path) -> None:
    compiler = _compiler(machine)
    flags: tuple[str, ...] = tuple(ISAS[machine][isa])
    emulator: tuple[str, ...] = ()
    if machine != platform.machine():
        if shutil.which(f"qemu-{machine}") is None:
            pytest.skip(f"qemu-{machine} is not installed (Debian: qemu-user)")
        flags, emulator = (*flags, "-static", "-DMS_DSV32_EMULATED"), (f"qemu-{machine}", "-cpu", "max")
    elif isa not in kernel_impl.isas():
        if not isa.startswith("avx512") or not Path("/usr/include/simde/x86/avx512.h").is_file():
            pytest.skip(f"this CPU lacks {isa}, and there is no SIMDe to stand in")
        flags = (*ISAS[machine]["avx2"], "-DMS_DSV32_SIMDE", "-w")
    program = tmp_path / "core_check"
    result = driver.run(compiler, *FLAGS, f"-DMS_DSV32_ISA={isa}", *flags, *core_check.SOURCES, "-o", program)
    assert result.returncode == 0, result.stderr[-5000:]
    result = driver.run(*emulator, program)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]


@dataclasses.dataclass(frozen=True)
class Assembly:
    """Regular expressions for what objdump writes: instructions from their start, stack accesses anywhere."""

    jump: str  # its group is the target
    product: str
    stack: str
    store: str  # of a vector


ASSEMBLY = {
    "x86_64": Assembly(
        jump=r"j\w+ +([0-9a-f]+) ",
        product=r"vfmadd|vpmaddwd|vdpbf16ps|vpdpbusd",
        stack=r"%rsp|%rbp",
        store=r"vmov\w+ +%[xyz]mm\d+,",
    ),
    "aarch64": Assembly(
        jump=r"(?:b|b\.\w+|cbn?z\t\w+,|tbn?z\t\w+, #\w+,)\s+([0-9a-f]+) ",
        product=r"fmla|sdot|bfdot|smmla|bfmmla",
        stack=r"\[(?:sp|x29)\b",
        store=r"st[pru]+\t[qd]\d+",
    ),
}


def inner_loops(disassembly: str, assembly: Assembly) -> dict[str, tuple[int, int, int]]:
    """Each function's inner loop with most products: its products, its stack accesses, and the stores among these."""
    loops: dict[str, tuple[int, int, int]] = {}
    for function in disassembly.split("\n\n"):
        name = re.match(r"[0-9a-f]+ <(.*)>:", function)
        if name is None:
            continue
        code = [(int(m[1], 16), m[2]) for m in re.finditer(r"^ *([0-9a-f]+):\t(.*)$", function, re.MULTILINE)]
        index = {address: i for i, (address, _) in enumerate(code)}
        for i, (_, text) in enumerate(code):
            jump = re.match(assembly.jump, text)
            start = index.get(int(jump[1], 16), i + 1) if jump else i + 1
            if start > i:
                continue
            body = [t for _, t in code[start : i + 1]]
            if any(re.match(assembly.jump, t) for t in body[:-1]):
                continue  # not an innermost loop
            products = sum(bool(re.match(assembly.product, t)) for t in body)
            stack = [t for t in body if re.search(assembly.stack, t)]
            stores = sum(bool(re.match(assembly.store, t)) for t in stack)
            if products:
                loops[name[1]] = max(loops.get(name[1], (0, 0, 0)), (products, len(stack), stores))
    return loops


@pytest.mark.parametrize(
    ("machine", "isa"), [(m, isa) for m, isas in ISAS.items() for isa in isas if isa != "portable"]
)
@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("mla_prolog_quant", ("GemmTile<.*Bf16Dot, 6, ", "GemmTile<.*Int8Dot, 6, ")),
        ("lightning_indexer_quant", ("LightningIndexerQuant.*lambda",)),  # IndexDots is inlined there
        ("sparse_flash_attention_quant", ("KeyTile<6, 4>", "ValueTile<6>")),
    ],
)
def test_accumulators_stay_in_registers(
    operator: str, expected: tuple[str, ...], machine: str, isa: str, tmp_path: Path
) -> None:
    """GCC 12 moves accumulators to the stack for reasons that are hard to see, which halves the speed."""
    compiler = _compiler(machine)
    objdump = compiler.replace("g++", "objdump")
    if shutil.which(objdump) is None:
        pytest.skip(f"{objdump} is not installed (Debian: binutils)")
    target = tmp_path / "kernel.o"
    flags = (*FLAGS, "-O3", "-fPIC", f"-DMS_DSV32_ISA={isa}", *ISAS[machine][isa])
    result = driver.run(compiler, *flags, "-c", CPU / "isa" / f"{operator}.cc", "-o", target)
    assert result.returncode == 0, result.stderr[-5000:]
    command = [objdump, "-dC", "--no-show-raw-insn", str(target)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    loops = inner_loops(output, ASSEMBLY[machine])
    kernels = {
        name: loop for name, loop in loops.items() if re.search("GemmTile|LightningIndexer|KeyTile|ValueTile", name)
    }
    if isa == "amx":  # its products of bfloat16 are summed in tiles, which do not go to the stack
        expected = tuple(pattern for pattern in expected if not re.search("Bf16Dot|KeyTile|ValueTile", pattern))
    elif operator == "sparse_flash_attention_quant" and isa != "avx512_bf16":  # they multiply strips of keys
        expected = ("GemmTile<.*Bf16Dot, 6, ",)
    if isa.startswith("avx512"):  # its largest tile of int8
        expected = tuple(pattern.replace("Int8Dot, 6,", "Int8Dot, 12,") for pattern in expected)
    for pattern in expected:
        assert any(re.search(pattern, name) for name in kernels), (pattern, sorted(loops))
    for name, (products, stack, stores) in kernels.items():
        # A constant may come from memory now and then; an accumulator that is spilled is stored there too.
        shape = re.search(r"KeyTile<(\d), (\d)>", name)  # down to one row of keys and one strip of heads
        assert products >= (int(shape[1]) * int(shape[2]) if shape else 4), (name, products)
        assert stores == 0, f"{name}: {stores} stores to the stack for {products} products"
        assert stack <= products / 5, f"{name}: {stack} accesses to the stack for {products} products"
