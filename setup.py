"""Builds the native CPU kernels into the package, and the Ascend operators; everything else is in pyproject.toml.

The CPU kernels are a plain shared library, loaded by MindSpore and by ctypes, so one wheel serves every Python version
of a platform. Each source in ``cpu/isa/`` is compiled once for every instruction set; the library chooses among them at
run time.

``python setup.py build_ascend`` builds the Ascend operators with CANN into ``ms_dsv32/vendors`` of the checkout. Where
``ASCEND_HOME_PATH`` is set, as CANN's ``set_env.sh`` does, every build and every installation does so too.

Environment: ``CXX`` (default g++), ``CXXFLAGS`` (appended), ``MS_DSV32_BUILD_JOBS`` (parallel compiler processes),
``MS_DSV32_SANITIZE`` (value of -fsanitize=), ``MS_DSV32_SIMDE=1`` (compile the AVX-512 sources to AVX2 through SIMDe's
headers, to test them on a CPU without AVX-512), ``MS_DSV32_CPU_ARCH`` (machine to compile for, where CXX is a cross
compiler), ``MS_DSV32_ISAS`` (instruction sets to compile the kernels for, separated by commas; by default all of the
machine).
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from setuptools import Command, Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
KERNEL_IMPL = ROOT / "ms_dsv32" / "kernel_impl"
CONTRACT, CPU, ASCENDC = (KERNEL_IMPL / name for name in ("contract", "cpu", "ascendc"))

# MindSpore passes std::string and std::vector through its ahead-of-time interface with the old ABI. Contraction is off
# because the contract rounds after each named step; fused multiply-add is written out where a kernel wants it.
FLAGS = [
    *("-std=c++17", "-O3", "-fPIC", "-pthread", "-fvisibility=hidden", "-D_GLIBCXX_USE_CXX11_ABI=0"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra"),
]
SIMDE = bool(os.environ.get("MS_DSV32_SIMDE"))
# The instruction sets of each machine with their compiler flags. The newest comes last.
ISAS: dict[str, dict[str, list[str]]] = json.loads((CPU / "isas.json").read_text())
if SIMDE:
    ISAS["x86_64"] |= dict.fromkeys(("avx512", "avx512_bf16"), ISAS["x86_64"]["avx2"])
    del ISAS["x86_64"]["amx"]  # nothing stands in for it


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
        wanted = [name for name in os.environ.get("MS_DSV32_ISAS", "").split(",") if name] or list(isas)
        if unknown := set(wanted) - set(isas):
            raise SystemExit(
                f"ms_dsv32: MS_DSV32_ISAS has {', '.join(sorted(unknown))}; {machine} has {', '.join(isas)}"
            )
        isas = {name: isa_flags for name, isa_flags in isas.items() if name in wanted}
        if "amx" in isas and not _knows(compiler, isas["amx"]):
            print(f"{compiler[0]} does not know {' '.join(isas['amx'])}: the kernels are built without amx", flush=True)
            del isas["amx"]
        if not isas:
            raise SystemExit(f"ms_dsv32: {compiler[0]} compiles for none of MS_DSV32_ISAS={','.join(wanted)}")
        tables = " ".join(f"F({name})" for name in reversed(isas))
        flags = [*FLAGS, f"-I{ROOT}"]
        exports = f"-Wl,--version-script={CPU / 'exports.map'}"
        # glibc before 2.34 has dladdr in libdl.
        link = ["-shared", "-pthread", "-ldl", "-Wl,-z,nodelete", "-Wl,--no-undefined", exports]
        if sanitize := os.environ.get("MS_DSV32_SANITIZE"):
            flags += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g"]
            link = [f"-fsanitize={sanitize}", *(o for o in link if o != "-Wl,--no-undefined")]
        if SIMDE:
            flags.append("-DMS_DSV32_SIMDE")
        flags += shlex.split(os.environ.get("CXXFLAGS", ""))
        # In a checkout objects stay, so that building again compiles what changed.
        temp = ROOT / ("build/objects" if self.inplace or self.editable_mode else self.build_temp)
        temp.mkdir(parents=True, exist_ok=True)
        baseline, kernels = sorted([*CONTRACT.glob("*.cc"), *CPU.glob("*.cc")]), sorted(CPU.glob("isa/*.cc"))
        units = [(p, p.stem, [f"-DMS_DSV32_ISAS(F)={tables}"] if p.stem == "dispatch" else []) for p in baseline]
        for isa, isa_flags in isas.items():
            units += [(p, f"{p.stem}.{isa}", [*isa_flags, f"-DMS_DSV32_ISA={isa}"]) for p in kernels]

        def compile_unit(unit: tuple[Path, str, list[str]]) -> Path:
            source, output, extra = unit
            target = temp / f"{output}.o"
            command = [*compiler, *flags, *extra, "-MMD", "-MF", f"{target}.d", "-c", str(source), "-o", str(target)]
            if not _up_to_date(target, command):
                print(f"compiling {output}", flush=True)
                target.unlink(missing_ok=True)
                if subprocess.run(command, check=False).returncode:
                    raise SystemExit(f"ms_dsv32: could not compile {source.name} ({output})")
                Path(f"{target}.cmd").write_text(shlex.join(command))
            return target

        with ThreadPoolExecutor(_jobs()) as pool:
            objects = list(pool.map(compile_unit, units))
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        partial = library.with_suffix(".partial")
        subprocess.run([*compiler, *map(str, objects), *link, "-o", str(partial)], check=True)
        partial.replace(library)  # a new file: a process that has the old one mapped keeps it


def _knows(compiler: list[str], flags: list[str]) -> bool:
    """Whether the compiler takes the flags: g++ before 11 and clang before 12 have no AMX."""
    command = [*compiler, *flags, "-E", "-x", "c++", "-"]  # writes no file, with --coverage either
    return subprocess.run(command, input=b"", check=False, capture_output=True).returncode == 0


def _up_to_date(target: Path, command: list[str]) -> bool:
    """Whether an object was made by this very command and no file that it was made from is newer."""
    depends, record = Path(f"{target}.d"), Path(f"{target}.cmd")
    if not (target.is_file() and depends.is_file() and record.is_file()) or record.read_text() != shlex.join(command):
        return False
    made = target.stat().st_mtime
    sources = depends.read_text().replace("\\\n", " ").partition(":")[2].split()
    return all(Path(s).is_file() and Path(s).stat().st_mtime <= made for s in sources)


def _jobs() -> int:
    """How many compiler processes run at a time."""
    return int(os.environ.get("MS_DSV32_BUILD_JOBS", 0)) or len(os.sched_getaffinity(0))


def _load_cann() -> ModuleType:
    """``ms_dsv32/cann.py``, by its path: the package cannot be imported while it is built."""
    spec = importlib.util.spec_from_file_location("cann", ROOT / "ms_dsv32" / "cann.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cann"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class BuildAscend(Command):
    """Builds the Ascend operators with CANN, and keeps what MindSpore needs in ``ms_dsv32/vendors/ms_dsv32``.

    CANN 9 and later bring CMake functions (``find_package(ASC)``) for ``kernel_impl/ascendc/CMakeLists.txt``. Older
    ones bring a project template, of which a copy is filled with the same sources.
    """

    description = "build the Ascend operators with CANN (needs ASCEND_HOME_PATH)"
    user_options: ClassVar = [("compute-unit=", "u", "devices to build for, by CANN's names, separated by ';'")]
    editable_mode = False

    def initialize_options(self) -> None:
        self.compute_unit = "ascend910b;ascend910_93"
        self.build_lib: str | None = None  # set by `build`; without it the checkout is what is filled

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        cann = _load_cann()
        try:
            found = cann.require()
        except cann.CannError as error:
            without = "; or unset ASCEND_HOME_PATH to do without them" if os.environ.get("ASCEND_HOME_PATH") else ""
            raise SystemExit(f"ms_dsv32: cannot build the Ascend operators: {error}{without}") from None
        if shutil.which("cmake") is None:
            raise SystemExit("ms_dsv32: cannot build the Ascend operators: no cmake; install CMake 3.19 or later")
        work = ROOT / "build" / "ascend"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        source = ASCENDC if found.version >= (9, 0) else self._fill_template(found.home, work / "project")
        print(f"building the Ascend operators for {self.compute_unit} with CANN {found.version_text}", flush=True)
        definitions = {
            "ASCEND_CANN_PACKAGE_PATH": found.home,
            "ASCEND_COMPUTE_UNIT": self.compute_unit,
            "ASCEND_PYTHON_EXECUTABLE": sys.executable,
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_INSTALL_PREFIX": work / "install",
            "ENABLE_BINARY_PACKAGE": "True",
            "ENABLE_SOURCE_PACKAGE": "True",
        }
        if source != ASCENDC:  # the name of the package is in CMakeLists.txt there
            definitions["vendor_name"] = "ms_dsv32"
        environment = dict(os.environ)
        # The host sources name headers by their path from here, and the template has no place for an option.
        given = os.environ.get("CPLUS_INCLUDE_PATH")
        environment["CPLUS_INCLUDE_PATH"] = f"{ROOT}{os.pathsep}{given}" if given else str(ROOT)
        # CANN's compiler is in part Python, and needs numpy and other packages of this environment. pip's build
        # environment drops what set_env.sh put on PYTHONPATH, so it is put back. pip's own entries would hide the
        # environment's packages, so they are taken out.
        python = [found.home / "python" / "site-packages", found.home / "opp/built-in/op_impl/ai_core/tbe"]
        given_python = [
            p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and "pip-build-env-" not in p
        ]
        environment["PYTHONPATH"] = os.pathsep.join([*map(str, python), *given_python])

        def cmake(*arguments: str | Path) -> None:
            command = ["cmake", *map(str, arguments)]
            if subprocess.run(command, env=environment, check=False).returncode:
                raise SystemExit(f"ms_dsv32: could not build the Ascend operators: {shlex.join(command)} failed")

        tree = work / "tree"
        cmake("-S", source, "-B", tree, "-G", "Unix Makefiles", *(f"-D{k}={v}" for k, v in definitions.items()))
        cmake("--build", tree, "--target", "binary", f"-j{_jobs()}")
        cmake("--build", tree, f"-j{_jobs()}")
        cmake("--install", tree)
        made = work / "install" / "packages" / "vendors" / "ms_dsv32"
        if not (made / cann.OP_API).is_file():
            raise SystemExit(f"ms_dsv32: CANN's build ended without {made / cann.OP_API}")
        target = self._vendor()
        shutil.rmtree(target, ignore_errors=True)
        for part in ("op_api", "op_impl", "op_proto"):
            shutil.copytree(made / part, target / part, symlinks=True)
        if (made / cann.VERSION_INFO).is_file():  # it only informs: no reason to fail
            shutil.copy2(made / cann.VERSION_INFO, target)
        print(f"the Ascend operators are in {target}", flush=True)

    def _vendor(self) -> Path:
        base = ROOT if self.build_lib is None or self.editable_mode else Path(self.build_lib)
        return base / "ms_dsv32" / "vendors" / "ms_dsv32"

    @staticmethod
    def _fill_template(cann: Path, project: Path) -> Path:
        """A copy of CANN 8's project template (what ``msopgen`` starts from), with our sources instead of its own."""
        template = cann / "tools" / "op_project_templates" / "ascendc" / "customize"
        if not template.is_dir():
            raise SystemExit(f"ms_dsv32: no {template}; install CANN's toolkit package as a whole")
        shutil.copytree(template, project)  # links are followed: some lead out of the template
        for folder in ("op_host", "op_kernel"):
            for example in [*(project / folder).glob("*.cpp"), *(project / folder).glob("*.h")]:
                example.unlink()
            for file in [*(ASCENDC / folder).glob("*.cpp"), *(ASCENDC / folder).glob("*.h")]:
                shutil.copy2(file, project / folder)
        shutil.copy2(CONTRACT / "op_check.cc", project / "op_host" / "op_check.cpp")
        # Options must come before the kernels that they are for, so they are the first line of the file.
        shutil.copy2(ASCENDC / "kernel_options.cmake", project / "cmake")
        kernels = project / "op_kernel" / "CMakeLists.txt"
        options = "include(${CMAKE_SOURCE_DIR}/cmake/kernel_options.cmake)\n"
        options += "add_ops_compile_options(ALL OPTIONS ${kernel_options})\n"
        kernels.write_text(options + kernels.read_text(encoding="utf-8"), encoding="utf-8")
        # The template compiles host sources as C++11, with no option to change it.
        for file in [*(project / "cmake").glob("*.cmake"), *project.glob("**/CMakeLists.txt")]:
            text = file.read_text(encoding="utf-8")
            changed = re.sub(r"-std=(?:c|gnu)\+\+11\b", "-std=c++17", text)
            if changed != text:
                file.write_text(changed, encoding="utf-8")
        return project

    def get_source_files(self) -> list[str]:
        files = [*ASCENDC.glob("CMake*"), *ASCENDC.glob("*.cmake"), *ASCENDC.glob("op_*/*")]
        return [str(file.relative_to(ROOT)) for file in files if file.is_file()]

    def get_outputs(self) -> list[str]:
        return [str(file) for file in self._vendor().rglob("*") if file.is_file()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Build(build):
    """Builds the Ascend operators too where there is CANN."""

    sub_commands: ClassVar = [
        *build.sub_commands,
        ("build_ascend", lambda self: bool(os.environ.get("ASCEND_HOME_PATH"))),
    ]

    def run(self) -> None:
        self.get_finalized_command("build_ascend").build_lib = self.build_lib
        super().run()


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
    cmdclass={
        "build": Build,
        "build_ascend": BuildAscend,
        "build_ext": BuildLibrary,
        "build_py": BuildPackage,
        "bdist_wheel": PlatformWheel,
    },
)
