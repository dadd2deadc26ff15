"""Builds the kernel library in other ways than pip does, and runs it through `driver.cc` instead of through Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
from numpy.typing import NDArray

from ms_dsv32 import kernel_impl, op_info

Array = NDArray[Any]
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NUMPY = {
    "bf16": np.dtype(np.uint16),
    "fp16": np.dtype(np.float16),
    "fp32": np.dtype(np.float32),
    "int8": np.dtype(np.int8),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
}


def build_library(folder: Path, **environment: str) -> Path:
    """Compiles the kernel library into `folder` by setup.py, under the environment variables that its docstring names.

    Skips the test if there is no setuptools; fails if anything does not compile.
    """
    command = ("setup.py", "-q", "build_ext", "--build-lib", str(folder), "--build-temp", str(folder / "temp"))
    result = run(sys.executable, *command, cwd=ROOT, MS_DSV32_BUILD_JOBS="2", **environment)
    if "No module named 'setuptools" in result.stderr:
        pytest.skip("setuptools>=70.1 is not installed in this environment")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-5000:]
    return folder / "ms_dsv32" / "kernel_impl" / "libms_dsv32_cpu.so"


def build_driver(folder: Path, compiler: str, *flags: str) -> Path:
    """Compiles `driver.cc` into `folder`."""
    target = folder / "driver"
    warnings = ("-Wall", "-Wextra", "-Werror")
    result = run(compiler, "-std=c++17", "-O1", "-pthread", *warnings, *flags, HERE / "driver.cc", "-o", target, "-ldl")
    assert result.returncode == 0, result.stderr
    return target


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command with more environment variables and keeps what it prints."""
    return subprocess.run(
        [str(c) for c in command],
        env=os.environ | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


class Calls:
    """Calls of bare kernels as the files that `driver.cc` takes. Arrays that cases share are written once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[int, Path] = {}
        self._alive: list[Array] = []  # so that no other array gets the id of a written one
        self._count = 0

    def write(self, case: cases.Case) -> Path:
        """Writes one call; its outputs will be where `results` looks for them."""
        info = op_info.load(case.operator)
        attrs = op_info.bind_attrs(info, case.attributes)
        path = self._folder / f"call{self._count}"
        self._count += 1
        lines = [f"op {case.operator}"]
        for name, value in attrs.items():
            attr = kernel_impl._attr(case.operator, name, value)
            text = "-" if attr.text is None else attr.text.decode()
            lines.append(f"attr {name} {attr.type} {attr.number!r} {attr.integer} {text}")
        for arg in info.inputs:
            if arg.name not in case.inputs:  # the optional one
                lines.append(_line("input", self._file(np.zeros(0, np.int32)), "none", 0, ()))
                continue
            array = case.inputs[arg.name]
            file = self._result(path, arg.name) if arg.in_place else self._file(array)
            if arg.in_place:
                array.tofile(file)
            lines.append(_line("in_place" if arg.in_place else "input", file, arg.ms_dtype, array.nbytes, array.shape))
        for out, shape in zip(info.kernel_outputs, self._shapes(info, case, attrs), strict=True):
            size = int(np.prod(shape)) * NUMPY[out.dtype].itemsize
            lines.append(_line("output", self._result(path, out.name), out.ms_dtype, size, shape))
        path.write_text("\n".join(lines) + "\n")
        return path

    def results(self, case: cases.Case, path: Path) -> dict[str, Array]:
        """All outputs of a call that has run, by their names in the contract."""
        info = op_info.load(case.operator)
        shapes = self._shapes(info, case, op_info.bind_attrs(info, case.attributes))
        kernel_outputs = dict(zip((o.name for o in info.kernel_outputs), shapes, strict=True))
        outputs = {}
        for out in info.outputs:
            shape = case.inputs[out.in_place_of].shape if out.in_place_of else kernel_outputs[out.name]
            file = self._result(path, out.in_place_of or out.name)
            outputs[out.name] = np.fromfile(file, NUMPY[out.dtype]).reshape(shape)
        return outputs

    def _file(self, array: Array) -> Path:
        if id(array) not in self._files:
            file = self._folder / f"array{len(self._files)}"
            array.tofile(file)
            self._files[id(array)] = file
            self._alive.append(array)
        return self._files[id(array)]

    @staticmethod
    def _result(path: Path, name: str) -> Path:
        return path.with_name(f"{path.name}.{name}")

    @staticmethod
    def _shapes(info: op_info.OpInfo, case: cases.Case, attrs: Mapping[str, Any]) -> Sequence[Sequence[int]]:
        given = [a for a in info.inputs if a.name in case.inputs]
        shapes = [case.inputs[a.name].shape for a in given]
        return kernel_impl.validate(info.name, shapes, [a.ms_dtype for a in given], attrs)


def _line(kind: str, file: Path, dtype: str, size: int, shape: Sequence[int]) -> str:
    return " ".join(map(str, (kind, file, dtype, size, len(shape), *shape)))
