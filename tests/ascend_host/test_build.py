"""`setup.py build_ascend` on fake CANN trees, and what wheels and source distributions hold."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ms_dsv32 import op_info
from ms_dsv32.cann import built_with

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
UNITS = ["ascend910b", "ascend910_93"]
COMPILER_VERSION = "7.7.0.1.238"  # as CANN 8.1 has it
# No flags but ours, and long jumps.
KERNEL_OPTIONS = ["--cce-auto-sync=off", "-mllvm", "-cce-aicore-jump-expand=true"]
# A compiler that makes empty files, because the list of a wheel's files does not depend on the kernels.
COMPILER = """#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in
    -o) : > "$2"; shift;;
    -MF) echo "x:" > "$2"; shift;;
  esac
  shift
done
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that a build needs, to be built in."""
    root = tmp_path_factory.mktemp("checkout") / "ms_dsv32"
    ignore = shutil.ignore_patterns("*.so", "*.o", "__pycache__", "vendors", "build", "rank_*", "kernel_meta")
    for folder in ("ms_dsv32", "op_info", "tests", "examples", "docs", "benchmarks"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    for file in [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.in"), ROOT / "LICENSE", ROOT / "setup.py"]:
        shutil.copy2(file, root)
    compiler = root.parent / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    return root


def _cann(home: Path, version: str) -> Path:
    """A tree with the version of this CANN, and a stand-in for its build system."""
    info = home / f"{platform.machine()}-linux" / "ascend_toolkit_install.info"
    info.parent.mkdir(parents=True)
    info.write_text(f"package_name=Ascend-cann-toolkit\nversion={version}\n")
    (home / "compiler").mkdir()
    (home / "compiler" / "version.info").write_text(f"Version={COMPILER_VERSION}\n")
    shutil.copytree(HERE / "stubs", home / "include")
    fake = HERE / "fake_cann"
    if int(version.partition(".")[0]) >= 9:
        cmake = home / "compiler" / "tikcpp" / "ascendc_kernel_cmake"
        shutil.copytree(fake / "9", cmake)
        shutil.copy2(fake / "record.cmake", cmake)
    else:
        template = home / "tools" / "op_project_templates" / "ascendc" / "customize"
        shutil.copytree(fake / "8", template)
        shutil.copy2(fake / "record.cmake", template / "cmake")
    return home


def _run(
    checkout: Path, *arguments: str, cann: Path | str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k not in ("ASCEND_HOME_PATH", "PYTHONPATH", "CXXFLAGS")}
    given = {"ASCEND_HOME_PATH": str(cann)} if cann else {}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env={**inherited, **given, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _build(checkout: Path, cann: Path | str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return _run(checkout, "setup.py", "-q", "build_ascend", *options, cann=cann, **environment)


def test_without_cann(checkout: Path, tmp_path: Path) -> None:
    result = _build(checkout, "")
    assert result.returncode == 1
    assert result.stderr.startswith("ms_dsv32: cannot build the Ascend operators: ASCEND_HOME_PATH is not set")
    assert "set_env.sh" in result.stderr
    result = _build(checkout, tmp_path / "gone")
    assert "gone, which is no folder; install the CANN toolkit" in result.stderr
    assert result.stderr.rstrip().endswith("or unset ASCEND_HOME_PATH to do without them")


def test_cann_that_is_too_old(checkout: Path, tmp_path: Path) -> None:
    result = _build(checkout, _cann(tmp_path / "cann", "8.0.RC3"))
    assert result.returncode == 1
    assert "cann is 8.0.RC3, expected 8.1 or later" in result.stderr


def test_a_toolkit_without_the_template(checkout: Path, tmp_path: Path) -> None:
    home = _cann(tmp_path / "cann", "8.1.RC1")
    shutil.rmtree(home / "tools")
    result = _build(checkout, home)
    assert result.returncode == 1
    assert "customize; install CANN's toolkit package as a whole" in result.stderr


def test_without_cmake(checkout: Path, tmp_path: Path) -> None:
    result = _build(checkout, _cann(tmp_path / "cann", "8.1.RC1"), PATH=str(tmp_path))
    assert result.returncode == 1
    assert "no cmake; install CMake 3.19 or later" in result.stderr


def _calls(checkout: Path) -> list[list[str]]:
    return [line.split() for line in (checkout / "build/ascend/tree/calls.txt").read_text().splitlines()]


def _check_vendor(vendor: Path, units: list[str]) -> None:
    assert sorted(p.name for p in vendor.iterdir()) == ["op_api", "op_impl", "op_proto", "version.info"]
    assert built_with(vendor) == COMPILER_VERSION
    assert (vendor / "op_api" / "lib" / "libcust_opapi.so").is_file()
    assert sorted(p.name for p in (vendor / "op_impl/ai_core/tbe/config").iterdir()) == sorted(units)


HOST = sorted(f"{name}_{part}.cpp" for name in op_info.names() for part in ("def", "tiling"))


def test_with_the_template_of_cann_8(checkout: Path, tmp_path: Path) -> None:
    """The operators' sources, and none of the template's examples, go through CANN's functions; as C++17."""
    result = _build(checkout, _cann(tmp_path / "cann", "8.1.RC1"))
    assert result.returncode == 0, result.stdout + result.stderr
    opbuild, options, kernels = _calls(checkout)
    assert opbuild[0] == "opbuild"
    assert sorted(Path(p).name for p in opbuild[1:]) == sorted([*HOST, "op_check.cpp"])
    assert options == ["add_ops_compile_options", "ALL", *KERNEL_OPTIONS]
    assert kernels == ["add_kernels_compile", "ms_dsv32", *UNITS, "True", *(f"{n}.cpp" for n in op_info.names())]
    project = checkout / "build/ascend/project"
    assert not list(project.rglob("add_custom.cpp"))
    assert "-std=c++17" in (project / "cmake/record.cmake").read_text()
    _check_vendor(checkout / "ms_dsv32/vendors/ms_dsv32", UNITS)


def test_with_the_functions_of_cann_9(checkout: Path, tmp_path: Path) -> None:
    result = _build(checkout, _cann(tmp_path / "cann", "9.0.0"), "--compute-unit=ascend910_93")
    assert result.returncode == 0, result.stdout + result.stderr
    sources = len(HOST) + 1
    kernels = [
        ["npu_op_kernel_sources", "ascendc_kernels", op_info.load(n).cann_type, "./", f"{n}.cpp"]
        for n in op_info.names()
    ]
    calls = _calls(checkout)
    assert calls[1][:2] == ["npu_op_code_gen", "ms_dsv32"]
    assert sorted(calls[1][2:]) == sorted([*HOST, "op_check.cc"])
    package = "npu_op_package ms_dsv32 RUN ENABLE_SOURCE_PACKAGE True ENABLE_BINARY_PACKAGE True ascend910_93"
    assert [calls[0], *calls[2:]] == [
        package.split(),
        ["npu_op_library", "cust_opapi", "ACLNN", str(len(op_info.names()))],
        ["npu_op_library", "cust_op_proto", "GRAPH", str(sources + 1)],
        ["npu_op_library", "cust_optiling", "TILING", str(sources)],
        ["npu_op_package_add", "ms_dsv32", "cust_optiling", "cust_opapi", "cust_op_proto"],
        *kernels,
        ["npu_op_kernel_options", "ascendc_kernels", "ALL", *KERNEL_OPTIONS],
        ["npu_op_kernel_library", "ascendc_kernels"],
        ["npu_op_package_add", "ms_dsv32", "ascendc_kernels"],
    ]
    _check_vendor(checkout / "ms_dsv32/vendors/ms_dsv32", ["ascend910_93"])


def test_a_build_that_fails(checkout: Path, tmp_path: Path) -> None:
    home = _cann(tmp_path / "cann", "9.1.0")
    (home / "compiler/tikcpp/ascendc_kernel_cmake/asc-config.cmake").write_text('message(FATAL_ERROR "no licence")')
    result = _build(checkout, home)
    assert result.returncode == 1
    assert "no licence" in result.stderr
    assert "ms_dsv32: could not build the Ascend operators: cmake -S" in result.stderr
    assert not (checkout / "build/ascend/install").exists()


# A twin that inverts every byte, so that the files show what reached it and what came back.
TWIN = """#pragma once
#include <cstdint>
#include <cstdlib>
enum class KernelMode { MIX_MODE };
namespace AscendC {
inline size_t g_sizes[64], g_count = 0;
inline void* GmAlloc(size_t size) { return g_sizes[g_count++] = size, std::malloc(size); }
inline void GmFree(void* memory) { std::free(memory); }
inline void SetKernelMode(KernelMode) {}
template <typename... Pointers>
void TurnAround(uint32_t cores, Pointers... pointers) {
  size_t i = 0;
  auto turn = [&](uint8_t* bytes) {
    for (size_t k = 0; k + 1 < g_sizes[i]; ++k) bytes[k] = static_cast<uint8_t>(bytes[k] ^ cores);
    ++i;
  };
  (turn(pointers), ...);
}
}  // namespace AscendC
#define ICPU_RUN_KF(kernel, cores, ...) AscendC::TurnAround(cores, __VA_ARGS__)
"""
TWIN_CMAKE = """add_library(tikicpulib::ascend910B1 INTERFACE IMPORTED)
target_include_directories(tikicpulib::ascend910B1 INTERFACE {folders})
target_link_libraries(tikicpulib::ascend910B1 INTERFACE pthread)
"""


def test_cpu_twin(tmp_path: Path) -> None:
    """The preset builds the kernels' programs, which take a file for each parameter, and write it back."""
    cmake = tmp_path / "cann" / "tools" / "tikicpulib" / "lib" / "cmake"
    cmake.mkdir(parents=True)
    (cmake.parent / "tikicpulib.h").write_text(TWIN)
    emulator = ROOT / "tests" / "ascendc_emulator"  # CANN's kernel_operator.h
    (cmake / "tikicpulib-config.cmake").write_text(TWIN_CMAKE.format(folders=f"{cmake.parent} {emulator}"))
    environment = {**os.environ, "ASCEND_HOME_PATH": str(tmp_path / "cann")}
    tree, source = tmp_path / "tree", ROOT / "ms_dsv32/kernel_impl/ascendc"
    for command in (
        ["cmake", "--preset", "cpu-twin", "-B", str(tree)],
        ["cmake", "--build", str(tree), "--target", "twin_lightning_indexer_quant"],
    ):
        done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    info = op_info.load("lightning_indexer_quant")
    files = [tmp_path / a.name for a in (*info.inputs, *info.outputs)] + [tmp_path / "workspace", tmp_path / "tiling"]
    for i, file in enumerate(files):
        file.write_bytes(bytes(range(i)))
    program = [str(tree / "twin_lightning_indexer_quant"), "5", *map(str, files)]
    subprocess.run(program, check=True)
    for i, file in enumerate(files):
        assert file.read_bytes() == bytes(k ^ 5 for k in range(i))
    short = subprocess.run(program[:-1], capture_output=True, text=True, check=False)
    assert short.returncode == 2
    assert f"<AI cores> and {len(files)} files" in short.stderr


_WHEEL = "import sys; from setuptools import build_meta; print('made', build_meta.build_wheel(sys.argv[1]))"
_SDIST = "import sys; from setuptools import build_meta; print('made', build_meta.build_sdist(sys.argv[1]))"


def _made(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return next(line.split()[1] for line in result.stdout.splitlines() if line.startswith("made "))


@pytest.mark.parametrize("version", ["", "8.1.RC1", "9.0.0"])
def test_wheel(checkout: Path, tmp_path: Path, version: str) -> None:
    """Python, contract files and libraries; the Ascend operators where they were built, and none left from before."""
    stale = checkout / "ms_dsv32/vendors/ms_dsv32/op_impl/ai_core/tbe/ms_dsv32_impl/dynamic/stale.py"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.write_text("")
    shutil.rmtree(checkout / "build", ignore_errors=True)
    cann = _cann(tmp_path / "cann", version) if version else ""
    name = _made(_run(checkout, "-c", _WHEEL, str(tmp_path), cann=cann, CXX=str(checkout.parent / "compiler")))
    assert name.endswith(f"-py3-none-linux_{platform.machine()}.whl")
    with zipfile.ZipFile(tmp_path / name) as wheel:
        files = set(wheel.namelist())
    assert "ms_dsv32/kernel_impl/libms_dsv32_cpu.so" in files
    assert {f"ms_dsv32/op_info_json/{n}.json" for n in op_info.names()} < files
    assert "ms_dsv32/py.typed" in files
    vendors = {f for f in files if "/vendors/" in f}
    assert bool(vendors) == bool(version)
    assert not any("stale" in f for f in vendors)
    if version:
        assert "ms_dsv32/vendors/ms_dsv32/op_api/lib/libcust_opapi.so" in vendors
        assert "ms_dsv32/vendors/ms_dsv32/version.info" in vendors
    assert not [f for f in files if f.startswith(("tests/", "benchmarks/")) or "emulator" in f or f.endswith(".cpp")]


def test_source_distribution(checkout: Path, tmp_path: Path) -> None:
    """Everything that a build needs, with CANN or without, and the tests; nothing that was built."""
    name = _made(_run(checkout, "-c", _SDIST, str(tmp_path)))
    with tarfile.open(tmp_path / name) as archive:
        files = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    ascendc = "ms_dsv32/kernel_impl/ascendc"
    assert {f"{ascendc}/op_host/{name}" for name in [*HOST, "op_host.h"]} < files
    assert {f"{ascendc}/op_kernel/{name}.cpp" for name in op_info.names()} < files
    assert f"{ascendc}/kernel_options.cmake" in files
    assert {f"{ascendc}/CMakeLists.txt", f"{ascendc}/CMakePresets.json", "setup.py", "ms_dsv32/cann.py"} < files
    assert "tests/ascend_host/stubs/register/op_def_registry.h" in files
    assert not [f for f in files if "vendors" in f or f.endswith(".so")]
