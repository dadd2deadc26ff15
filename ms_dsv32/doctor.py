"""Tells what works on this machine, and what to do about the rest: ``python -m ms_dsv32.doctor``.

It prints a table, or with ``--json`` one object::

    {"checks": [{"group", "name", "state", "found", "todo"}, ...], "usable": {"CPU PyNative": true, ...}}

A check's state is ``ok``, ``missing`` (not there, fine if you do not need it), ``wrong`` (there, but not usable) or
``info``. On CPU an operator is run in both modes. On Ascend nothing is run, and ``ready`` says that everything an
operator needs was found.

For Ascend, MindSpore itself tells which library it will call for each operator, because only it knows what it could
load. If its Ascend plugin does not load, the lines tell what the files say.

The exit status is 0 if the operators work on CPU in both modes, and 1 if not. A broken installation cannot break the
doctor: it tries MindSpore, the kernel library and the operators' libraries in a process of their own.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ms_dsv32 import cann, op_info, opp

DEVICES = Path("/dev")
"""Where the driver puts its devices."""
DRIVER = Path("/usr/local/Ascend/driver/version.info")
"""The file that tells the driver's version, where its installer puts it by default."""
MODES = ("PyNative", "graph")

_PROBE_SECONDS = 60  # a first import of MindSpore from a cold disk can take half a minute
_NPU_SMI_SECONDS = 20
_FEATURES = {
    "x86_64": (
        *("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"),
        *("amx_tile", "amx_int8", "amx_bf16"),
    ),
    "aarch64": ("asimd", "asimdhp", "asimddp", "i8mm", "bf16"),
}
_INSTALL = "pip install --force-reinstall --no-deps . (needs g++ or clang)"
_BUILD = "build them, see docs/ascend.md, Build"
_DRIVER_TODO = "for Ascend: install the driver and firmware of your Atlas machine"


@dataclass(frozen=True)
class Check:
    """One line of the result. ``todo`` is empty if there is nothing to do."""

    group: str
    name: str
    state: Literal["ok", "missing", "wrong", "info"]
    found: str
    todo: str = ""


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ms_dsv32.doctor",
        description="Tells what works on this machine and what to do about the rest.",
        epilog="Exit status: 0 if the operators work on CPU in PyNative and graph mode, 1 if not.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    as_json = parser.parse_args(argv).json
    checks, usable = examine()
    if as_json:
        print(json.dumps({"checks": [dataclasses.asdict(c) for c in checks], "usable": usable}, indent=2))
    else:
        _print_table(checks)
    return 0 if all(usable[f"CPU {mode}"] for mode in MODES) else 1


def examine() -> tuple[list[Check], dict[str, bool]]:
    """All checks, and whether each target and mode is usable. For Ascend that means that nothing is missing."""
    units: set[str] = set()  # of this machine's NPUs
    with ThreadPoolExecutor(2) as pool:
        probe = pool.submit(_run_probe)
        npus = pool.submit(lambda: [*_guarded("NPU", "npu-smi", lambda: _npu_smi(units))])
        broken = probe.exception()
        report = {"ended": _describe(broken)} if broken else probe.result()
        checks = [
            *_guarded("software", "packages", _packages),
            *_guarded("software", "MindSpore", lambda: _mindspore(report)),
            *_guarded("CPU", "processor", _processor),
            *_guarded("CPU", "kernel library", lambda: _library(report)),
            *_guarded("NPU", "driver", _driver),
            *_guarded("NPU", "devices", _devices),
            *npus.result(),
            *_guarded("CANN", "CANN", lambda: _cann(report)),
            *_guarded("CANN", "operators", lambda: _operators(report, units)),
            *_guarded("CANN", "MindSpore's Ascend plugin", lambda: _plugin(report)),
        ]
    usable = {}
    for mode in MODES:
        error = _failure(report, mode)
        usable[f"CPU {mode}"] = not error
        found = error or "lightning_indexer_quant ran"
        todo = "see the lines above" if error else ""
        checks.append(Check("usable", f"CPU {mode}", "wrong" if error else "ok", found, todo))
    # The driver's version file and npu-smi are not required, because a container may lack them while MindSpore sees the
    # devices. The kernel library is, because it checks the calls on Ascend too.
    lacking = [
        c.name
        for c in checks
        if (c.group in ("CPU", "NPU", "CANN") and c.state == "wrong") or (c.group == "CANN" and c.state == "missing")
    ]
    for mode in MODES:
        usable[f"Ascend {mode}"] = not lacking
        found = f"not ready: {', '.join(lacking)}" if lacking else "ready; not run"
        todo = "see the lines above" if lacking else "python -m pytest -m ascend"
        checks.append(Check("usable", f"Ascend {mode}", "missing" if lacking else "ok", found, todo))
    return checks, usable


def _guarded(group: str, name: str, check: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """The lines of a check. An exception becomes a line too."""
    try:
        yield from check()
    except Exception as error:
        yield Check(group, name, "wrong", _describe(error), "repair the installation")


def _packages() -> Iterator[Check]:
    """Python and the packages that this one needs, against the ranges in its own metadata."""
    python = platform.python_version()
    try:
        metadata = importlib.metadata.metadata("ms_dsv32")
        requires = importlib.metadata.requires("ms_dsv32") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("software", "ms_dsv32", "wrong", "not installed", "pip install .")
        yield Check("software", "Python", "info", python)
        return
    yield Check("software", "ms_dsv32", "ok", f"{metadata['Version']} in {Path(__file__).parent}")
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError as error:
        yield Check("software", "packaging", "wrong", _describe(error), "pip install packaging")
        return
    supported = SpecifierSet(metadata["Requires-Python"])
    fits = supported.contains(python)
    found, todo = f"{python} ({supported})", "" if fits else f"use Python {supported}"
    yield Check("software", "Python", "ok" if fits else "wrong", found, todo)
    for line in requires:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        todo = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Check("software", requirement.name, "wrong", f"not installed ({requirement.specifier})", todo)
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        found = f"{version} ({requirement.specifier})"
        yield Check("software", requirement.name, "ok" if fits else "wrong", found, "" if fits else todo)


def _mindspore(report: dict[str, Any]) -> Iterator[Check]:
    error = _failure(report, "mindspore")
    todo = "pip install --force-reinstall mindspore in the version above"
    if error:
        yield Check("software", "import mindspore", "wrong", error, todo)
    else:
        yield Check("software", "import mindspore", "ok", report["mindspore"]["version"])


def _processor() -> Iterator[Check]:
    machine = platform.machine()
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = re.search(r"^model name\s*: (.*)$", info, re.MULTILINE)
    implementer = re.search(r"^CPU implementer\s*: (.*)$", info, re.MULTILINE)  # aarch64 gives no name
    name = model[1] if model else f"implementer {implementer[1]}" if implementer else "unknown"
    yield Check("CPU", "processor", "info", f"{name}, {machine}")
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", info, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    features = [f for f in _FEATURES.get(machine, ()) if f in known]
    yield Check("CPU", "features", "info", " ".join(features) or "none that the kernels know")


def _library(report: dict[str, Any]) -> Iterator[Check]:
    error = _failure(report, "library")
    if error:
        absent = error.startswith(("FileNotFoundError", "OSError"))
        yield Check("CPU", "kernel library", "wrong", error, f"build it: {_INSTALL}" if absent else "")
        return
    library = report["library"]
    path = Path(library["path"])
    wanted = {f"{op_info.load(op).entry}{suffix}" for op in op_info.names() for suffix in ("", "InferShape")}
    lacking = sorted(wanted - opp.dynamic_symbols(path))
    if lacking:
        text = f"{path} has no {', '.join(lacking)}"
        yield Check("CPU", "kernel library", "wrong", text, f"build it again: {_INSTALL}")
    else:
        yield Check("CPU", "kernel library", "ok", f"{path}, {len(op_info.names())} operators")
    others = ", ".join(isa for isa in library["supported"] if isa != library["isa"])
    forced = " (MS_DSV32_CPU_ISA)" if os.environ.get("MS_DSV32_CPU_ISA") else ""
    yield Check("CPU", "instruction set", "info", f"{library['isa']}{forced}; also here: {others or 'none'}")
    yield Check("CPU", "threads", "info", str(library["threads"]))


def _driver() -> Iterator[Check]:
    text = DRIVER.read_text(encoding="utf-8", errors="replace") if DRIVER.is_file() else ""
    version = re.search(r"^Version=(\S+)", text, re.MULTILINE)
    if version:
        yield Check("NPU", "driver", "ok", version[1])
    else:
        yield Check("NPU", "driver", "missing", f"no version in {DRIVER}", _DRIVER_TODO)


def _devices() -> Iterator[Check]:
    devices = sorted(p for p in DEVICES.glob("davinci*") if re.fullmatch(r"davinci\d+", p.name))
    manager = DEVICES / "davinci_manager"
    if not devices or not manager.exists():
        lacking = manager if devices else DEVICES / "davinci0"
        todo = "for Ascend: load the driver; into a container pass the devices (docker run --device)"
        yield Check("NPU", "devices", "missing", f"no {lacking}", todo)
        return
    denied = [p for p in (*devices, manager) if not os.access(p, os.R_OK | os.W_OK)]
    if denied:
        todo = "add your user to the devices' group (HwHiAiUser)"
        yield Check("NPU", "devices", "wrong", f"no permission for {denied[0]}", todo)
    else:
        yield Check("NPU", "devices", "ok", f"{len(devices)}: {', '.join(p.name for p in devices)}")


def _npu_smi(units: set[str]) -> Iterator[Check]:
    """Checks npu-smi, and adds CANN's compute units of the NPUs to ``units``."""
    if shutil.which("npu-smi") is None:
        yield Check("NPU", "npu-smi", "missing", "not on PATH", _DRIVER_TODO)
        return
    try:
        result = subprocess.run(
            ["npu-smi", "info"], capture_output=True, text=True, errors="replace", timeout=_NPU_SMI_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        text = f"no answer in {_NPU_SMI_SECONDS} s"
        yield Check("NPU", "npu-smi", "wrong", text, "the driver hangs: see dmesg, reset the device")
        return
    # Each NPU has a row | 0     910B3               | OK            | 93.8 ... |, and then rows of chips without names.
    npus = re.findall(r"^\|\s*\d+\s+((?:Ascend)?\d{3}\w*)\s*\|\s*(\w+)\s*\|", result.stdout, re.MULTILINE)
    if result.returncode or not npus:
        output = (result.stderr + result.stdout).strip()
        text = f"exit status {result.returncode}: {output.splitlines()[-1] if output else 'no output'}"
        yield Check("NPU", "npu-smi", "wrong", text, "repair the driver: run npu-smi info")
        return
    names = sorted({name for name, _ in npus})
    units |= set(filter(None, map(_unit, names)))
    ill = [health for _, health in npus if health != "OK"]
    version = re.search(r"Version: (\S+)", result.stdout)
    text = f"{len(npus)} x {', '.join(names)}, npu-smi {version[1] if version else 'of unknown version'}"
    if not all(map(_unit, names)):
        text, todo = f"{text}: there are kernels for Atlas A2 (910B) and A3 (Ascend910) only", "use such a machine"
        yield Check("NPU", "npu-smi", "wrong", text, todo)
    elif ill:
        yield Check("NPU", "npu-smi", "wrong", f"{text}; health {', '.join(ill)}", "see npu-smi info -t health")
    else:
        yield Check("NPU", "npu-smi", "ok", f"{text} ({', '.join(sorted(units))})")


def _unit(name: str) -> str:
    """CANN's compute unit of an NPU with this name in npu-smi, or nothing if there are no kernels for it."""
    if name.removeprefix("Ascend").startswith("910B"):
        return "ascend910b"
    return "ascend910_93" if name.startswith("Ascend910") else ""


def _cann(report: dict[str, Any]) -> Iterator[Check]:
    try:
        found = cann.find()
        cann.require()
    except cann.CannError as error:
        what, _, todo = str(error).partition("; ")
        state: Literal["missing", "wrong"] = "wrong" if os.environ.get("ASCEND_HOME_PATH") else "missing"
        yield Check("CANN", "CANN", state, what, f"for Ascend: {todo}")
        return
    text = f"{found.version_text} in {found.home}"
    known = report.get("Ascend", {}).get("cann", [])
    if known and ".".join(map(str, found.version)) not in known:
        todo = f"MindSpore warns about it: it was made for {', '.join(known)}"
        yield Check("CANN", "CANN", "info", text, todo)
    else:
        yield Check("CANN", "CANN", "ok", text)
    # MindSpore compiles a small function for each Custom operator on Ascend, and finds its header from this variable.
    operators = os.environ.get("ASCEND_OPP_PATH", "")
    header = Path(operators.split("opp")[0], "include/acl/acl_base.h")  # as MindSpore's custom_ops.py does
    if not operators or not header.is_file():
        text = f"no {header}" if operators else "not set"
        yield Check("CANN", "ASCEND_OPP_PATH", "missing", text, f"run `source {found.home}/set_env.sh`")
    if shutil.which("g++") is None:
        yield Check("CANN", "g++", "missing", "not on PATH", "install g++: MindSpore compiles the operators' callbacks")


def _operators(report: dict[str, Any], units: set[str]) -> Iterator[Check]:
    if not any(opp.library(package).is_file() for package in opp.packages()):
        places = ", ".join(str(opp.library(p)) for p in opp.packages())
        yield Check("CANN", "operators", "missing", f"no {places}", f"for Ascend: {_BUILD}")
        return
    probed = report.get("Ascend", {})
    called, refused = probed.get("called", {}), probed.get("refused", {})
    packages = set()
    for name in op_info.names():
        reason = refused.get(name, "")
        try:
            listed = opp.find(name)
            packages.add(opp.package_of(listed))
            opp.require_interface(op_info.load(name), listed)
        except RuntimeError as error:
            reason = reason or str(error)
        if reason:
            reason = reason.removeprefix(f"{name}: ").removeprefix("no Ascend kernel: ")
            reason = reason.removesuffix("; run python -m ms_dsv32.doctor")
            yield Check("CANN", name, "wrong", reason, f"for Ascend: {_BUILD}")
        else:
            found = f"MindSpore calls {called[name]}" if name in called else f"{listed}; MindSpore could not be asked"
            yield Check("CANN", name, "ok", f"{', '.join(opp.entries(name))}: {found}")
    for package in sorted(packages):
        built = sorted(p.name for p in (package / "op_impl/ai_core/tbe/config").glob("*"))
        fits = built and units <= set(built)
        todo = "" if fits else f"for Ascend: {_BUILD}, for {', '.join(sorted(units)) or 'your device'}"
        text = f"{opp.library(package)}, for {', '.join(built) or 'no device'}"
        yield Check("CANN", "operators", "ok" if fits else "wrong", text, todo)
        home = os.environ.get("ASCEND_HOME_PATH")
        before, now = cann.built_with(package), cann.compiler_version(Path(home)) if home else None
        if before and now and before != now:
            text = f"built with CANN's compiler {before}, this CANN's is {now}"
            yield Check("CANN", "operators' CANN", "info", text, f"for Ascend: if one fails, {_BUILD}")


def _plugin(report: dict[str, Any]) -> Iterator[Check]:
    name = "MindSpore's Ascend plugin"
    error = _failure(report, "Ascend")
    if error:
        yield Check("CANN", name, "missing", error, "")
    elif not report["Ascend"]["devices"]:
        todo = "for Ascend: get CANN, driver and devices in order"
        yield Check("CANN", name, "missing", report["Ascend"]["reason"], todo)
    elif "unasked" in report["Ascend"]:
        yield Check("CANN", name, "wrong", report["Ascend"]["unasked"], "use the MindSpore version above")
    else:
        yield Check("CANN", name, "ok", f"loads; {report['Ascend']['devices']} devices")


def _failure(report: dict[str, Any], step: str) -> str:
    """Why a step of the probe failed, or nothing if it did not."""
    if step not in report:
        return str(report.get("ended", "not tried"))
    return str(report[step].get("error", ""))


def _run_probe() -> dict[str, Any]:
    """What `_probe` found, by step. ``ended`` says how its process ended if it ended too early."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environ = {"GLOG_v": "3", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    program = "import sys; from ms_dsv32 import doctor; doctor._probe(sys.argv[1])"
    with tempfile.TemporaryDirectory() as folder:  # MindSpore may leave files in the working directory
        lines = Path(folder, "report")
        command = [sys.executable, "-c", program, str(lines)]
        try:
            result = subprocess.run(
                command, cwd=folder, env=environ, capture_output=True, timeout=_PROBE_SECONDS, check=False
            )
            status = result.returncode
            ended = f"the process died of {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            ended = f"no answer in {_PROBE_SECONDS} s"
        text = lines.read_text(encoding="utf-8") if lines.is_file() else ""
    report = {name: value for line in text.splitlines() for name, value in json.loads(line).items()}
    return {"ended": ended, **report}


def _probe(path: str) -> None:
    """In a process of its own, loads the library, imports MindSpore, runs an operator. Writes a JSON line for each."""
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "library": _probe_library,
        "mindspore": _probe_mindspore,
        **{mode: lambda mode=mode: _probe_mode(mode) for mode in MODES},  # type: ignore[misc]
        "Ascend": _probe_ascend,
    }
    with open(path, "w", encoding="utf-8") as lines:
        for name, step in steps.items():
            try:
                found = step()
            except BaseException as error:
                found = {"error": _describe(error)}
            print(json.dumps({name: found}), file=lines, flush=True)
    os._exit(0)  # skips what a broken MindSpore might do at exit


def _probe_library() -> dict[str, Any]:
    from ms_dsv32 import kernel_impl

    isa = kernel_impl.isa()
    path, threads = str(kernel_impl.library_path()), kernel_impl.thread_count()
    return {"path": path, "isa": isa, "supported": kernel_impl.isas(), "threads": threads}


def _probe_mindspore() -> dict[str, Any]:
    import mindspore

    return {"version": mindspore.__version__}


def _probe_mode(mode: str) -> dict[str, Any]:
    """Selects 2 of 3 keys, whose scores are 0, 64 and 128."""
    import mindspore as ms
    import numpy as np

    from ms_dsv32 import cells
    from ms_dsv32.weights import to_tensor

    ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)
    k_cache = np.zeros((1, 128, 1, 128), np.int8)
    k_cache[0, :3, 0, 0] = 0, 1, 2
    q_int8 = np.zeros((1, 64, 128), np.int8)
    q_int8[..., 0] = 1
    ones = [np.ones(shape, np.float16) for shape in ((1, 64, 1), (1, 64), (1, 128, 1, 1))]
    inputs = (q_int8, ones[0], ones[1], k_cache, ones[2], np.zeros((1, 1), np.int32), np.full(1, 3, np.int32))
    selected = cells.LightningIndexer(2)(*[to_tensor(array) for array in inputs]).asnumpy()
    if sorted(selected[0]) != [1, 2]:
        raise RuntimeError(f"lightning_indexer_quant selected {selected[0].tolist()}, expected [1, 2]")
    return {}


def _probe_ascend() -> dict[str, Any]:
    import mindspore as ms
    from mindspore.run_check._check_version import AscendEnvChecker

    from ms_dsv32.ops import _ascend

    found: dict[str, Any] = {"devices": 0, "cann": AscendEnvChecker(None).version, "called": {}, "refused": {}}
    try:
        _ascend.called("aclnnInit")
        names = op_info.names()
    except RuntimeError as error:
        names, found["unasked"] = (), str(error)
    # Without these every operator is refused, for a reason that has a line of its own.
    ready = os.environ.get("ASCEND_OPP_PATH") and shutil.which("g++")
    for name in names:
        info = op_info.load(name)
        try:
            found["called"][name] = str(_ascend.library(info))
            if ready:
                _ascend.require(info, {})
        except RuntimeError as error:
            found["refused"][name] = str(error)
    if ms.device_context.ascend.is_available():
        found["devices"] = ms.device_context.ascend.device_count()
        found["reason"] = "it loads, but there are no devices"
        return found
    try:
        ms.set_device("Ascend")
        found["reason"] = "not available"
    except RuntimeError as error:
        cause = re.search(r"Load dynamic library: (.*)", str(error))
        found["reason"] = cause[1] if cause else _describe(error)
    return found


def _describe(error: BaseException) -> str:
    """The type and the first line of an error's text."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _print_table(checks: list[Check]) -> None:
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError as error:
        print(f"no table: {_describe(error)}; pip install rich")
        for check in checks:
            print(*filter(None, (check.state, check.name, check.found, check.todo)), sep=" | ")
        return
    styles = {"ok": "green", "missing": "yellow", "wrong": "bold red", "info": "dim"}
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(min_width=16)
    table.add_column()
    table.add_column(overflow="fold")
    group = ""
    for check in checks:
        if check.group != group:
            if group:
                table.add_section()
            table.add_row(Text(check.group, style="bold"))
            group = check.group
        found = Text(check.found)
        if check.todo:
            found.append(f"\n{check.todo}", style="italic")
        table.add_row(Text(f"  {check.name}"), Text(check.state, style=styles[check.state]), found)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
