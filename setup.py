"""Builds the native CPU kernels into the package; everything else is in pyproject.toml.

The kernels are a plain shared library, loaded by MindSpore and by ctypes, so one wheel serves every Python version of a
platform. Each ``<op>.cc`` is compiled once for every instruction set; the library chooses among them at run time.

Environment: ``CXX`` (default g++), ``CXXFLAGS`` (appended), ``MS_DSV32_BUILD_JOBS`` (parallel compiler processes),
``MS_DSV32_SANITIZE`` (value of -fsanitize=), ``MS_DSV32_SIMDE=1`` (compile the AVX-512 sources to AVX2 through SIMDe's
headers, to test them on a CPU without AVX-512), ``MS_DSV32_CPU_ARCH`` (machine to compile for, where CXX is a cross
compiler).
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CPU = Path("ms_dsv32/kernel_impl/cpu")

# MindSpore passes std::string and std::vector through its ahead-of-time interface with the old ABI. Contraction is off
# because the contract rounds after each named step; fused multiply-add is written out where a kernel wants it.
FLAGS = [
    *("-std=c++17", "-O3", "-fPIC", "-pthread", "-fvisibility=hidden", "-D_GLIBCXX_USE_CXX11_ABI=0"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra"),
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"]
SIMDE = bool(os.environ.get("MS_DSV32_SIMDE"))
ISAS: dict[str, dict[str, list[str]]] = {
    "x86_64": {
        "portable": [],
        "avx2": AVX2,
        "avx512": AVX2 if SIMDE else AVX512,
        "avx512_bf16": AVX2 if SIMDE else [*AVX512, "-mavx512bf16"],
    },
    "aarch64": {
        "portable": [],
        "neon_dotprod": ["-march=armv8.2-a+dotprod+fp16"],
        "neon_bf16": ["-march=armv8.2-a+dotprod+fp16+bf16+i8mm"],
    },
}
KERNELS = [
    "mla_prolog_quant",
    "lightning_indexer_prolog_quant",
    "mla_indexer_prolog_quant",
    "sparse_flash_attention_quant",
    "lightning_indexer_quant",
]


class BuildLibrary(build_ext):
    """Compiles the kernels for every instruction set and links one library without a Python ABI in its name."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        compiler = shlex.split(os.environ.get("CXX", "g++"))
        if shutil.which(compiler[0]) is None:
            raise SystemExit(f"ms_dsv32: no C++ compiler {compiler[0]!r}; install g++ or clang, or set CXX")
        machine = os.environ.get("MS_DSV32_CPU_ARCH", platform.machine())
        isas = ISAS.get(machine)
        if isas is None:
            raise SystemExit(f"ms_dsv32: no CPU kernels for {machine}; there are {', '.join(ISAS)}")
        flags = [*FLAGS, f"-I{ROOT}"]
        link = ["-shared", "-pthread", "-Wl,-z,nodelete", "-Wl,--no-undefined"]
        if sanitize := os.environ.get("MS_DSV32_SANITIZE"):
            flags += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g"]
            link = [f"-fsanitize={sanitize}", *(o for o in link if o != "-Wl,--no-undefined")]
        if SIMDE:
            flags.append("-DMS_DSV32_SIMDE")
        flags += shlex.split(os.environ.get("CXXFLAGS", ""))
        # In a checkout objects stay, so that building again compiles what changed.
        temp = ROOT / ("build/objects" if self.inplace or self.editable_mode else self.build_temp)
        temp.mkdir(parents=True, exist_ok=True)
        baseline = sorted(p.stem for p in (ROOT / CPU).glob("*.cc") if p.stem not in KERNELS)
        units = [(name, name, list[str]()) for name in baseline]
        for isa, isa_flags in isas.items():
            units += [(name, f"{name}.{isa}", [*isa_flags, f"-DMS_DSV32_ISA={isa}"]) for name in KERNELS]

        def compile_unit(unit: tuple[str, str, list[str]]) -> Path:
            name, output, extra = unit
            source, target = ROOT / CPU / f"{name}.cc", temp / f"{output}.o"
            command = [*compiler, *flags, *extra, "-MMD", "-MF", f"{target}.d", "-c", str(source), "-o", str(target)]
            if not _up_to_date(target, command):
                print(f"compiling {output}", flush=True)
                target.unlink(missing_ok=True)
                if subprocess.run(command, check=False).returncode:
                    raise SystemExit(f"ms_dsv32: could not compile {source.name} ({output})")
                Path(f"{target}.cmd").write_text(shlex.join(command))
            return target

        jobs = int(os.environ.get("MS_DSV32_BUILD_JOBS", 0)) or len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(jobs) as pool:
            objects = list(pool.map(compile_unit, units))
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        partial = library.with_suffix(".partial")
        subprocess.run([*compiler, *map(str, objects), *link, "-o", str(partial)], check=True)
        partial.replace(library)  # a new file: a process that has the old one mapped keeps it


def _up_to_date(target: Path, command: list[str]) -> bool:
    """Whether an object was made by this very command and no file that it was made from is newer."""
    depends, record = Path(f"{target}.d"), Path(f"{target}.cmd")
    if not (target.is_file() and depends.is_file() and record.is_file()) or record.read_text() != shlex.join(command):
        return False
    made = target.stat().st_mtime
    sources = depends.read_text().replace("\\\n", " ").partition(":")[2].split()
    return all(Path(s).is_file() and Path(s).stat().st_mtime <= made for s in sources)


class BuildPackage(build_py):
    """Copies ``op_info/`` into the package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "ms_dsv32" / "op_info_json"
            shutil.copytree(ROOT / "op_info", target, dirs_exist_ok=True)


class PlatformWheel(bdist_wheel):
    """Tags the wheel for the platform but for every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


if sys.platform != "linux":
    raise SystemExit(
        "ms_dsv32: only Linux is supported, as by MindSpore's packages for CPU and Ascend that it builds on"
    )
setup(
    ext_modules=[Extension("ms_dsv32.kernel_impl.libms_dsv32_cpu", sources=[])],
    cmdclass={"build_ext": BuildLibrary, "build_py": BuildPackage, "bdist_wheel": PlatformWheel},
)
