"""The doctor on this machine, on broken ones, and on Atlas machines that are made of files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opp_packages import header, make_operators, make_package, write_header

from ms_dsv32 import cann, doctor, kernel_impl, op_info, opp

NPU_SMI = """
+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.rc3                 Version: 24.1.rc3                                             |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     {name:<20}| {health:<14}| 166.5       38                0    / 0             |
| 0     0                   | 0000:9D:00.0  | 0           0    / 0          3131 / 65536         |
+------------------------------------------------------------------------------------------------+
| 1     {name:<20}| OK            | -           37                0    / 0             |
| 0     1                   | 0000:9F:00.0  | 0           0    / 0          2886 / 65536         |
+===========================+===============+====================================================+
"""
"""The table that npu-smi prints: a row with a name for each NPU or die, and a second row below it."""

Result = tuple[dict[str, dict[str, Any]], dict[str, bool], int]


def run(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command as a user gives it, but always of the package that is tested, whatever PYTHONPATH says."""
    command = [sys.executable, "-m", "ms_dsv32.doctor", *args]
    paths = filter(None, (environ.get("PYTHONPATH"), str(Path(doctor.__file__).parents[1])))
    environ = {**os.environ, **environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def run_json(**environ: str) -> Result:
    """Checks by name, what is usable, and the exit status; nothing may be on stderr."""
    result = run("--json", **environ)
    assert result.stderr == ""
    told = json.loads(result.stdout)
    return {c["name"]: c for c in told["checks"]}, told["usable"], result.returncode


@pytest.mark.mindspore
def test_on_this_machine() -> None:
    checks, usable, status = run_json()
    assert status == 0
    assert usable["CPU PyNative"]
    assert usable["CPU graph"]
    assert not [c for c in checks.values() if c["state"] == "wrong"]
    assert checks["Python"]["found"].startswith(platform.python_version())
    for name in ("mindspore", "numpy", "ml_dtypes", "safetensors"):
        assert checks[name]["found"].startswith(importlib.metadata.version(name))
    assert checks["import mindspore"]["found"] == importlib.metadata.version("mindspore")
    assert checks["instruction set"]["found"].startswith(kernel_impl.isa())
    assert all(isa in checks["instruction set"]["found"] for isa in kernel_impl.isas())
    assert checks["threads"]["found"] == str(kernel_impl.thread_count())
    assert str(kernel_impl.library_path()) in checks["kernel library"]["found"]
    assert all(c["todo"] for c in checks.values() if c["state"] == "missing")


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("raise ImportError('libgomp.so.1: no such file\\nmore')", "ImportError: libgomp.so.1: no such file"),
        ("import os; os.kill(os.getpid(), 11)", "the process died of SIGSEGV"),
        ("import sys; print('noise'); print('noise', file=sys.stderr); sys.exit(3)", "SystemExit: 3"),
        ("import os; print('noise', flush=True); os._exit(7)", "exit status 7"),
    ],
)
def test_a_broken_mindspore_is_a_line_of_the_result(tmp_path: Path, program: str, text: str) -> None:
    (tmp_path / "mindspore").mkdir()
    (tmp_path / "mindspore" / "__init__.py").write_text(program, encoding="utf-8")
    checks, usable, status = run_json(PYTHONPATH=str(tmp_path))
    assert status == 1
    assert not any(usable.values())
    assert checks["import mindspore"]["state"] == "wrong"
    assert checks["import mindspore"]["found"] == text
    assert checks["CPU PyNative"]["found"] == checks["CPU graph"]["found"] == text
    assert checks["kernel library"]["state"] == "ok"  # what was found before stays
    assert checks["threads"]["found"] == str(kernel_impl.thread_count())


def test_a_mindspore_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mindspore.py").write_text("import time; time.sleep(600)", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "_PROBE_SECONDS", 3)
    checks, usable = examine()
    assert not any(usable.values())
    assert (checks["import mindspore"].state, checks["import mindspore"].found) == ("wrong", "no answer in 3 s")
    assert checks["CPU PyNative"].found == checks["CPU graph"].found == "no answer in 3 s"


@pytest.mark.mindspore
def test_an_operator_that_selects_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    import mindspore as ms

    from ms_dsv32 import cells

    selected = ms.Tensor([[0, 2]], ms.int32)
    monkeypatch.setattr(cells, "LightningIndexer", lambda count: lambda *inputs: selected)
    monkeypatch.setattr(ms, "set_device", lambda target: None)  # MindSpore refuses it after a kernel has run
    with pytest.raises(RuntimeError, match=r"^lightning_indexer_quant selected \[0, 2\], expected \[1, 2\]$"):
        doctor._probe_mode("PyNative")


@pytest.mark.mindspore
@pytest.mark.parametrize("opp_path", ["", "/cann/opp"], ids=["no path", "a path"])
def test_what_mindspore_can_be_asked_without_a_device(opp_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mindspore as ms

    from ms_dsv32.ops import _ascend

    asked = []
    monkeypatch.setenv("ASCEND_OPP_PATH", opp_path)
    monkeypatch.setattr(doctor.shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(_ascend, "called", lambda function: Path("lib.so"))
    monkeypatch.setattr(_ascend, "library", lambda info: Path("lib.so"))
    monkeypatch.setattr(_ascend, "require", lambda info, attrs: asked.append(info.name))
    monkeypatch.setattr(ms.device_context.ascend, "is_available", lambda: False)
    monkeypatch.setattr(ms, "set_device", lambda target: None)
    found = doctor._probe_ascend()
    assert (found["devices"], found["reason"]) == (0, "not available")
    assert found["called"] == dict.fromkeys(op_info.names(), "lib.so")
    assert found["refused"] == {}
    assert asked == (list(op_info.names()) if opp_path else [])


def test_a_broken_kernel_library(tmp_path: Path) -> None:
    (tmp_path / "mindspore.py").write_text("raise ImportError('left out to be quick')", encoding="utf-8")
    quick = {"PYTHONPATH": str(tmp_path)}
    checks, _, status = run_json(MS_DSV32_LIBRARY=str(tmp_path / "none.so"), **quick)
    assert status == 1
    assert "none.so is missing; MS_DSV32_LIBRARY names no file" in checks["kernel library"]["found"]
    assert checks["kernel library"]["todo"].startswith("build it: pip install")
    checks, _, _ = run_json(MS_DSV32_CPU_ISA="neon_nonsense", **quick)
    assert checks["kernel library"]["state"] == "wrong"
    assert "neon_nonsense" in checks["kernel library"]["found"]


@pytest.mark.mindspore
def test_libraries_where_mindspores_plugin_does_not_load(tmp_path: Path) -> None:
    vendor = make_operators(tmp_path / "vendor")
    header = write_header(vendor, "mla_prolog_quant", "")
    checks, _, status = run_json(ASCEND_CUSTOM_OPP_PATH=str(vendor), ASCEND_OPP_PATH=str(tmp_path))
    assert status == 0
    for op in set(op_info.names()) - {"mla_prolog_quant"}:
        text = f"{', '.join(opp.entries(op))}: {opp.library(vendor)}; MindSpore could not be asked"
        assert (checks[op]["state"], checks[op]["found"]) == ("ok", text)
    assert checks["mla_prolog_quant"]["state"] == "wrong"
    assert f"{header} does not declare it" in checks["mla_prolog_quant"]["found"]
    assert checks["MindSpore's Ascend plugin"]["state"] == "missing"


@pytest.fixture
def atlas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An Atlas A2 on which everything is in order, made of files; the folder of `npu-smi`, `dev` and the rest."""
    home, dev = tmp_path / "cann", tmp_path / "dev"
    dev.mkdir()
    for name in ("davinci0", "davinci1", "davinci_manager"):
        (dev / name).touch()
    (home / "compiler").mkdir(parents=True)
    (home / "compiler" / "version.info").write_text("Version=8.5.0\n", encoding="utf-8")
    (home / "include" / "acl").mkdir(parents=True)
    (home / "include" / "acl" / "acl_base.h").touch()
    (tmp_path / "version.info").write_text("Version=24.1.rc3\npackage_version=24.1.rc3\n", encoding="utf-8")
    npu_smi(tmp_path, NPU_SMI.format(name="910B3", health="OK"))
    vendor = make_operators(tmp_path / "vendor")
    for unit in ("ascend910b", "ascend910_93"):
        (vendor / "op_impl/ai_core/tbe/config" / unit).mkdir(parents=True)
    monkeypatch.setattr(doctor, "DEVICES", dev)
    monkeypatch.setattr(doctor, "DRIVER", tmp_path / "version.info")
    monkeypatch.setattr(cann, "VENDOR", vendor)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("ASCEND_HOME_PATH", str(home))
    monkeypatch.setenv("ASCEND_OPP_PATH", str(home / "opp"))
    monkeypatch.delenv("ASCEND_CUSTOM_OPP_PATH", raising=False)
    report = {
        "ended": "exit status 0",
        "library": {"path": str(kernel_impl.library_path()), "isa": "avx2", "supported": ["avx2"], "threads": 2},
        "mindspore": {"version": "2.10.0"},
        "PyNative": {},
        "graph": {},
        "Ascend": {
            "devices": 2,
            "cann": ["8.2", "8.3", "8.5"],
            "called": {op: str(opp.library(vendor)) for op in op_info.names()},
            "refused": {},
            "reason": "",
        },
    }
    monkeypatch.setattr(doctor, "_run_probe", lambda: report)
    return tmp_path


def npu_smi(folder: Path, output: str, status: int = 0, seconds: float = 0) -> None:
    """Puts a program of this name there."""
    (folder / "output").write_text(output, encoding="utf-8")
    path = folder / "npu-smi"
    path.write_text(f"#!/bin/sh\nexec 2>&1\nsleep {seconds}\ncat {folder}/output\nexit {status}\n", encoding="utf-8")
    path.chmod(0o755)


def examine() -> tuple[dict[str, doctor.Check], dict[str, bool]]:
    checks, usable = doctor.examine()
    return {c.name: c for c in checks}, usable


def test_an_atlas_machine_in_order(atlas: Path) -> None:
    checks, usable = examine()
    assert all(usable.values())
    assert {c.state for c in checks.values() if c.group != "CPU"} == {"ok"}
    assert checks["driver"].found == "24.1.rc3"
    assert checks["devices"].found == "2: davinci0, davinci1"
    assert checks["npu-smi"].found == "2 x 910B3, npu-smi 24.1.rc3 (ascend910b)"
    assert checks["CANN"].found == f"8.5.0 in {atlas / 'cann'}"
    assert checks["operators"].found == f"{opp.library(atlas / 'vendor')}, for ascend910_93, ascend910b"
    for op in op_info.names():
        library = opp.library(atlas / "vendor")
        assert checks[op].found == f"{', '.join(opp.entries(op))}: MindSpore calls {library}"
    assert checks["Ascend graph"].found == "ready; not run"


@pytest.mark.parametrize(
    ("output", "status", "state", "text"),
    [
        (NPU_SMI.format(name="Ascend910", health="OK"), 0, "ok", "2 x Ascend910, npu-smi 24.1.rc3 (ascend910_93)"),
        (NPU_SMI.format(name="Ascend910B2", health="OK"), 0, "ok", "2 x Ascend910B2, npu-smi 24.1.rc3 (ascend910b)"),
        (NPU_SMI.format(name="310P3", health="OK"), 0, "wrong", "there are kernels for Atlas A2 (910B) and A3"),
        (NPU_SMI.format(name="910B1", health="Alarm"), 0, "wrong", "health Alarm"),
        ("dcmi module initialize failed. ret is -8005\n", 245, "wrong", "exit status 245: dcmi module initialize fail"),
        ("", 0, "wrong", "exit status 0: no output"),
    ],
)
def test_what_npu_smi_says(atlas: Path, output: str, status: int, state: str, text: str) -> None:
    npu_smi(atlas, output, status)
    checks, usable = examine()
    assert checks["npu-smi"].state == state
    assert text in checks["npu-smi"].found
    assert usable["Ascend graph"] == (state == "ok")


def test_npu_smi_hangs(atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npu_smi(atlas, "", seconds=5)
    monkeypatch.setattr(doctor, "_NPU_SMI_SECONDS", 0.2)
    checks, _ = examine()
    assert checks["npu-smi"].found == "no answer in 0.2 s"


def test_a_kernel_library_of_another_version(atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = doctor._run_probe()
    entries = [op_info.load(op).entry for op in op_info.names()]
    report["library"]["path"] = str(opp.library(make_package(atlas / "old", entries)))
    checks, usable = examine()
    assert checks["kernel library"].state == "wrong"
    assert f"has no {entries[0]}InferShape" in checks["kernel library"].found
    assert not usable["Ascend graph"]  # it checks the calls there too


def test_one_mode_is_not_enough(atlas: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--json"]) == 0
    doctor._run_probe()["graph"]["error"] = "RuntimeError: no graph"
    assert doctor.main(["--json"]) == 1
    assert '"CPU PyNative": true' in capsys.readouterr().out


def test_devices(atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:  # for root every file is open
        patch.setattr(os, "access", lambda path, mode: Path(path).name != "davinci1")
        checks, usable = examine()
        assert checks["devices"].found == f"no permission for {atlas / 'dev' / 'davinci1'}"
        assert not usable["Ascend PyNative"]
    for name in ("davinci_manager", "davinci0"):
        (atlas / "dev" / name).unlink()
        checks, _ = examine()
        assert (checks["devices"].state, checks["devices"].found) == ("missing", f"no {atlas / 'dev' / name}")
        (atlas / "dev" / "davinci1").unlink(missing_ok=True)
    (atlas / "version.info").unlink()
    checks, _ = examine()
    assert checks["driver"].state == "missing"


def test_cann_is_missing_old_or_unknown(atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = atlas / "cann" / "compiler" / "version.info"
    info.write_text("Version=9.7.T1\n", encoding="utf-8")
    checks, usable = examine()
    assert checks["CANN"].state == "info"
    assert "MindSpore warns about it: it was made for 8.2, 8.3, 8.5" in checks["CANN"].todo
    assert usable["Ascend graph"]
    (atlas / "cann" / "version.cfg").write_text("toolkit_running_version=[7.5.0.1:8.0.RC3]\n", encoding="utf-8")
    checks, usable = examine()
    assert checks["CANN"].state == "wrong"
    assert f"is 8.0.RC3, expected {'.'.join(map(str, cann.MINIMUM))} or later" in checks["CANN"].found
    assert "install the CANN toolkit" in checks["CANN"].todo
    assert not usable["Ascend graph"]
    assert usable["CPU graph"]
    monkeypatch.delenv("ASCEND_HOME_PATH")
    monkeypatch.setattr(cann, "default_homes", lambda: ())
    checks, usable = examine()
    assert checks["CANN"].state == "missing"
    assert "ASCEND_HOME_PATH is not set" in checks["CANN"].found
    assert not usable["Ascend PyNative"]


def test_what_mindspore_needs_at_run_time(atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASCEND_OPP_PATH", str(atlas / "opp"))
    checks, usable = examine()
    assert checks["ASCEND_OPP_PATH"].found == f"no {atlas / 'include/acl/acl_base.h'}"
    assert not usable["Ascend graph"]
    monkeypatch.delenv("ASCEND_OPP_PATH")
    monkeypatch.setenv("PATH", str(atlas))
    checks, usable = examine()
    assert checks["ASCEND_OPP_PATH"].todo == f"run `source {atlas / 'cann'}/set_env.sh`"
    assert checks["g++"].state == "missing"
    assert not usable["Ascend graph"]


def test_operators_are_missing_or_lack_an_entry(atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = opp.entries("mla_prolog_quant")[1]
    part = make_operators(atlas / "part", without=lacking)
    (part / "op_impl/ai_core/tbe/config/ascend910b").mkdir(parents=True)
    monkeypatch.setattr(cann, "VENDOR", part)
    checks, usable = examine()
    assert checks["mla_prolog_quant"].state == "wrong"
    assert checks["mla_prolog_quant"].found == f"{opp.library(part)} has no symbol {lacking}"
    assert checks["lightning_indexer_quant"].state == "ok"
    assert checks["Ascend graph"].found == "not ready: mla_prolog_quant"
    assert not usable["Ascend graph"]
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", str(atlas / "vendor"))
    checks, usable = examine()  # the other library has them all
    assert checks["mla_prolog_quant"].state == "ok"
    assert usable["Ascend graph"]
    other = make_package(atlas / "other", ["aclnnOfSomebodyElse"])  # and what holds none does not matter
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", f"{other}:{atlas / 'vendor'}")
    assert examine()[1]["Ascend graph"]
    opp.library(part).write_bytes(b"no library")
    monkeypatch.delenv("ASCEND_CUSTOM_OPP_PATH")
    assert "is no 64-bit little-endian ELF file" in examine()[0]["mla_prolog_quant"].found
    opp.library(part).unlink()
    checks, _ = examine()
    assert (checks["operators"].state, checks["operators"].found) == ("missing", f"no {opp.library(part)}")


def test_what_mindspore_says_of_the_operators(atlas: Path) -> None:
    ascend = doctor._run_probe()["Ascend"]
    text = "mla_prolog_quant: no Ascend kernel: MindSpore does not find aclnnX, expected Y: it cannot be loaded: Z"
    ascend["refused"]["mla_prolog_quant"] = text
    checks, usable = examine()
    assert checks["mla_prolog_quant"].state == "wrong"
    assert checks["mla_prolog_quant"].found == text.removeprefix("mla_prolog_quant: no Ascend kernel: ")
    assert checks["lightning_indexer_quant"].state == "ok"
    assert checks["Ascend graph"].found == "not ready: mla_prolog_quant"
    ascend["called"], ascend["refused"], ascend["unasked"] = {}, {}, "MindSpore 2.11.0 cannot be asked"
    checks, usable = examine()
    assert checks["MindSpore's Ascend plugin"].state == "wrong"
    assert checks["MindSpore's Ascend plugin"].found == "MindSpore 2.11.0 cannot be asked"
    assert checks["mla_prolog_quant"].found.endswith(f"{opp.library(atlas / 'vendor')}; MindSpore could not be asked")
    assert not usable["Ascend graph"]


@pytest.mark.parametrize("include", ["op_api/include", "op_api/include/aclnnop"])
def test_a_package_with_other_parameters(atlas: Path, include: str) -> None:
    """vllm-ascend has such an operator of the same purpose, whose header is in ``aclnnop``."""
    op = "lightning_indexer_quant"
    write_header(atlas / "vendor", op, "").unlink()
    written = write_header(atlas / "vendor", op, header(op, lambda found: [*found, "char *layout"]), include)
    checks, usable = examine()
    assert checks[op].state == "wrong"
    assert checks[op].found.startswith(f"{opp.entries(op)[1]} of {opp.library(atlas / 'vendor')} takes (aclTensor*, ")
    assert str(written) in checks[op].found
    assert checks["mla_prolog_quant"].state == "ok"
    assert not usable["Ascend graph"]


def test_operators_built_for_another_device(atlas: Path) -> None:
    config = atlas / "vendor/op_impl/ai_core/tbe/config"
    (config / "ascend910b").rmdir()
    checks, usable = examine()
    assert (checks["operators"].state, usable["Ascend graph"]) == ("wrong", False)
    assert checks["operators"].found.endswith(", for ascend910_93")
    assert checks["operators"].todo.endswith(", for ascend910b")
    npu_smi(atlas, NPU_SMI.format(name="Ascend910", health="OK"))
    assert examine()[1]["Ascend graph"]
    (config / "ascend910_93").rmdir()
    assert examine()[0]["operators"].found.endswith(", for no device")


def test_operators_built_with_another_cann(atlas: Path) -> None:
    info = atlas / "vendor" / cann.VERSION_INFO
    info.write_text("custom_opp_compiler_version=8.5.0\n", encoding="utf-8")
    assert "operators' CANN" not in examine()[0]
    info.write_text("custom_opp_compiler_version=8.2.RC1\n", encoding="utf-8")
    checks, usable = examine()
    line = checks["operators' CANN"]
    assert (line.state, line.found) == ("info", "built with CANN's compiler 8.2.RC1, this CANN's is 8.5.0")
    assert line.todo == "for Ascend: if one fails, build them, see docs/ascend.md, Build"
    assert usable["Ascend graph"]


def test_packages_out_of_their_ranges(atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def other(name: str) -> str:
        if name == "safetensors":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"numpy": "2.1.0"}.get(name) or version(name)

    monkeypatch.setattr(importlib.metadata, "version", other)
    monkeypatch.setattr(platform, "python_version", lambda: "3.13.1")
    checks, _ = examine()
    ranges = {name: checks[name].todo.split("'")[1].removeprefix(name) for name in ("numpy", "safetensors")}
    for name, specifier in ranges.items():
        assert any(line.startswith(name + specifier) for line in importlib.metadata.requires("ms_dsv32") or [])
    assert (checks["numpy"].state, checks["numpy"].found) == ("wrong", f"2.1.0 ({ranges['numpy']})")
    assert (checks["safetensors"].state, checks["safetensors"].found) == (
        "wrong",
        f"not installed ({ranges['safetensors']})",
    )
    assert checks["Python"].state == "wrong"
    assert checks["Python"].found.startswith("3.13.1 (")
    assert checks["ml_dtypes"].state == "ok"


def test_a_package_that_is_not_installed(atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", missing)
    checks, _ = examine()
    line = checks["ms_dsv32"]
    assert (line.state, line.found, line.todo) == ("wrong", "not installed", "pip install .")
    assert (checks["Python"].state, checks["Python"].found) == ("info", platform.python_version())
    assert "numpy" not in checks  # only the package's own metadata has the ranges


def test_ranges_that_cannot_be_read(atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    checks, _ = examine()
    line = checks["packaging"]
    assert (line.state, line.todo) == ("wrong", "pip install packaging")
    assert line.found.startswith("ModuleNotFoundError: import of packaging.requirements halted")
    assert checks["ms_dsv32"].state == "ok"
    assert "numpy" not in checks


def test_a_check_that_fails_is_a_line(atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise PermissionError("version.info")

    monkeypatch.setattr(cann, "find", broken)
    checks, usable = examine()
    assert (checks["CANN"].state, checks["CANN"].found) == ("wrong", "PermissionError: version.info")
    assert not usable["Ascend graph"]
    assert usable["CPU graph"]
    monkeypatch.setattr(doctor, "_run_probe", broken)
    checks, usable = examine()
    assert {checks[name].found for name in ("kernel library", "import mindspore", "CPU graph")} == {
        "PermissionError: version.info"
    }
    assert not any(usable.values())


def test_the_table_shows_every_line(
    atlas: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (atlas / "npu-smi").unlink()
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    checks, _ = examine()
    for columns in ("80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        assert doctor.main([]) == 0
        table = capsys.readouterr()
        assert table.err == ""
        for name, check in checks.items():
            assert any(name in line and f" {check.state} " in line for line in table.out.splitlines()), name
    assert "for Ascend: install the driver and firmware of your Atlas machine" in table.out
    monkeypatch.setitem(sys.modules, "rich", None)
    assert doctor.main([]) == 0
    plain = capsys.readouterr().out
    assert "pip install rich" in plain
    assert all(name in plain and check.found in plain for name, check in checks.items())
