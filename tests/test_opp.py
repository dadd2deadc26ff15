"""Custom operator packages: the search order, and the symbols of a library as another tool reads them."""

from __future__ import annotations

import os
import platform
import struct
import subprocess
from pathlib import Path

import pytest

from ms_dsv32 import cann, kernel_impl, op_info, opp


def make_package(folder: Path, functions: list[str]) -> Path:
    """A vendor package whose library defines these functions; the folder."""
    path = opp.library(folder)
    path.parent.mkdir(parents=True)
    source = "int undefined_one(void);\nstatic int hidden(void) { return undefined_one(); }\n"
    source += "".join(f"int {name}(void) {{ return hidden(); }}\n" for name in functions)
    command = [os.environ.get("CXX", "g++"), "-x", "c", "-", "-shared", "-fPIC", "-s", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)
    return folder


@pytest.fixture
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the package's own folder is looked for; it is not there yet."""
    monkeypatch.setattr(cann, "VENDOR", tmp_path / "vendors" / "ms_dsv32")
    monkeypatch.delenv("ASCEND_CUSTOM_OPP_PATH", raising=False)
    return cann.VENDOR


def test_symbols_are_those_that_nm_lists() -> None:
    path = kernel_impl.library_path()
    lines = subprocess.run(["nm", "-D", "--defined-only", str(path)], capture_output=True, text=True, check=True)
    assert opp.dynamic_symbols(path) == {line.split()[-1].partition("@")[0] for line in lines.stdout.splitlines()}


def test_an_undefined_or_static_function_is_no_symbol(vendor: Path) -> None:
    make_package(vendor, ["one", "two"])
    found = opp.dynamic_symbols(opp.library(vendor))
    assert {"one", "two"} <= found
    assert not found & {"undefined_one", "hidden"}


def test_packages_are_searched_in_order(tmp_path: Path, vendor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opp.packages() == [vendor]
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", f"{first}::{second}")
    assert opp.packages() == [vendor, first, second]
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", f"{first}:{vendor}")
    assert opp.packages() == [first, vendor]


def test_find_takes_the_first_library_that_has_both_entries(
    tmp_path: Path, vendor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match=r"mla_prolog_quant: no Ascend kernel: there is no .*libcust_opapi\.so, and"):
        opp.find("mla_prolog_quant")
    assert opp.entries("mla_prolog_quant") == ("aclnnMsDsaMlaPrologQuant", "aclnnMsDsaMlaPrologQuantGetWorkspaceSize")
    other = make_package(tmp_path / "other", list(opp.entries("mla_prolog_quant")))
    make_package(vendor, ["aclnnMsDsaMlaPrologQuant"])
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", f"{tmp_path / 'nowhere'}:{other}")
    assert opp.find("mla_prolog_quant") == opp.library(other)
    for name in set(op_info.names()) - {"mla_prolog_quant"}:
        text = f"{name}: no Ascend kernel: .* has no symbol {opp.entries(name)[0]};.*run python -m ms_dsv32.doctor"
        with pytest.raises(RuntimeError, match=text):
            opp.find(name)


@pytest.mark.parametrize("size", [0, 63, 64, 500, 5000])
def test_a_truncated_library_is_an_error_that_names_it(tmp_path: Path, size: int) -> None:
    path = tmp_path / "part.so"
    path.write_bytes(kernel_impl.library_path().read_bytes()[:size])
    with pytest.raises(ValueError, match=r"part\.so is (no 64-bit|damaged)"):
        opp.dynamic_symbols(path)


def test_a_library_for_another_machine(vendor: Path) -> None:
    path = opp.library(make_package(vendor, list(opp.entries("mla_prolog_quant"))))
    data = bytearray(path.read_bytes())
    number, name = (183, "aarch64") if platform.machine() == "x86_64" else (62, "x86_64")
    struct.pack_into("<H", data, 18, number)
    path.write_bytes(data)
    with pytest.raises(RuntimeError, match=f"was built for {name}, this machine is {platform.machine()}"):
        opp.find("mla_prolog_quant")
