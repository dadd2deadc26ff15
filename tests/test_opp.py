"""Custom operator packages: the search order, and the symbols of a library as another tool reads them."""

from __future__ import annotations

import platform
import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from opp_packages import header, make_operators, make_package, write_header

from ms_dsv32 import cann, kernel_impl, op_info, opp


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
    assert opp.packages() == [vendor, first]


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
    broken = opp.library(tmp_path / "broken")
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no library")
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", f"{tmp_path / 'broken'}:{other}")
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


SPARSE = "sparse_flash_attention_quant"


def test_the_interface_is_that_of_op_info(tmp_path: Path) -> None:
    package = make_operators(tmp_path)
    for op in op_info.names():
        opp.require_interface(op_info.load(op), opp.library(package))
    text = header(SPARSE).replace("const aclTensor *", "aclTensor const* ").replace(",\n", ", // a comment, (\n")
    write_header(package, SPARSE, text)
    opp.require_interface(op_info.load(SPARSE), opp.library(package))


def swapped(first: int, second: int) -> Callable[[list[str]], list[str]]:
    def change(found: list[str]) -> list[str]:
        found[first], found[second] = found[second], found[first]
        return found

    return change


@pytest.mark.parametrize("include", ["op_api/include", "op_api/include/aclnnop"])
@pytest.mark.parametrize(
    "change",
    [
        lambda found: found[:-1],
        lambda found: [*found, found[-1]],
        swapped(10, 11),  # n_kv and softmax_scale: the number of arguments is right
        swapped(13, 14),  # block_size and attention_out
        lambda found: [parameter.replace("double", "float") for parameter in found],
    ],
    ids=["one too few", "one too many", "two attributes exchanged", "attribute after output", "float for double"],
)
def test_another_interface_is_refused(tmp_path: Path, change: Callable[[list[str]], list[str]], include: str) -> None:
    """MindSpore itself tells only a wrong number of arguments."""
    package = make_package(tmp_path / "package", list(opp.entries(SPARSE)))
    path = write_header(package, SPARSE, header(SPARSE, change), include)
    function = opp.entries(SPARSE)[1]
    text = f"{SPARSE}: no Ascend kernel: {function} of {opp.library(package)} takes (aclTensor*, "
    with pytest.raises(RuntimeError, match=f"^{re.escape(text)}.*{re.escape(str(path))}; build the Ascend operators"):
        opp.require_interface(op_info.load(SPARSE), opp.library(package))


def test_a_header_that_is_missing_or_of_another_operator(tmp_path: Path) -> None:
    package = make_package(tmp_path / "package", list(opp.entries(SPARSE)))
    path = package / "op_api/include" / f"aclnn_{op_info.load(SPARSE).cann_stem}.h"
    with pytest.raises(RuntimeError, match=f"has {opp.entries(SPARSE)[1]}, but there is no {re.escape(str(path))}; "):
        opp.require_interface(op_info.load(SPARSE), opp.library(package))
    write_header(package, SPARSE, header("mla_prolog_quant"))
    with pytest.raises(RuntimeError, match=f"but {re.escape(str(path))} does not declare it; build"):
        opp.require_interface(op_info.load(SPARSE), opp.library(package))
