"""Which library MindSpore calls where several operator packages are listed: ours works, or is refused by name.

Every case is a process of its own on the virtual Ascend, because MindSpore loads the libraries once. The other packages
are made here: a library whose functions fail when they are called, and a header.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import virtual

from ms_dsv32 import op_info, opp

OP = "lightning_indexer_quant"
INFO = op_info.load(OP)
TYPES = opp.parameters(INFO)
OTHER_TYPES = ["aclTensor*", "aclTensor*", "char*", "int64_t", "aclTensor*", "uint64_t*", "aclOpExecutor**"]
VLLM = ("aclnnLightningIndexerQuant", "aclnnLightningIndexerQuantGetWorkspaceSize")
"""The functions of vllm-ascend's operator, whose header is in ``op_api/include/aclnnop``."""

CALL = """
import mindspore as ms
import numpy as np

ms.set_device("Ascend")
{before}
import os

from ms_dsv32 import cells, weights

k_cache = np.zeros((1, 128, 1, 128), np.int8)
k_cache[0, :3, 0, 0] = 0, 1, 2
q_int8 = np.zeros((1, 64, 128), np.int8)
q_int8[..., 0] = 1
ones = [np.ones(shape, np.float16) for shape in ((1, 64, 1), (1, 64), (1, 128, 1, 1))]
inputs = (q_int8, ones[0], ones[1], k_cache, ones[2], np.zeros((1, 1), np.int32), np.full(1, 3, np.int32))


def call():
    return cells.LightningIndexer(2)(*map(weights.to_tensor, inputs)).asnumpy()


{between}
try:
    selected = call()
    listed = os.environ["ASCEND_CUSTOM_OPP_PATH"].split(":")
    print(sorted(selected[0].tolist()), *(entry for entry in listed if not entry.startswith(ms.__path__[0])))
except RuntimeError as error:
    print("RuntimeError:", error)
"""
"""Selects 2 of 3 keys, whose scores are 0, 64 and 128; prints them, and the search path without what MindSpore puts
there, or the error."""

OWN = """
from pathlib import Path

from ms_dsv32 import cann

cann.VENDOR = Path({ours!r})
"""
"""The folder is the one that the package's own build fills."""

LOAD = """
import ctypes

ctypes.CDLL(f"{ms.__path__[0]}/lib/plugin/libmindspore_ops_ascend.so")._ZN9mindspore6device6ascend12LoadOpApiLibEv()
"""
"""What an import of ms_custom_ops has MindSpore do, when it has put its own folders into the search path."""


def ours() -> Path:
    """The library of our operators."""
    return opp.library(virtual.package())


def run(before: str = "", packages: Sequence[Path] | None = None, between: str = "") -> str:
    """What `CALL` prints, with these statements before the import of the package, and before its call."""
    program = CALL.format(before=before, between=between)
    environ = virtual.environment(packages=packages)
    result = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def own(package: Path | None = None) -> str:
    return OWN.format(ours=str(package or virtual.package()))


def make_package(
    folder: Path,
    functions: Sequence[str] = opp.entries(OP),
    types: Sequence[str] = OTHER_TYPES,
    include: str = "op_api/include",
    needs: str = "",
) -> Path:
    """A package with these functions, and a header that declares the last of them with these types."""
    stem = re.sub(r"(?<!^)(?=[A-Z])", "_", functions[0].removeprefix("aclnn")).lower()
    path, header = opp.library(folder), folder / include / f"aclnn_{stem}.h"
    for made in (path, header):
        made.parent.mkdir(parents=True, exist_ok=True)
    listed = ",\n    ".join(f"const {t} p{i}" for i, t in enumerate(types))
    header.write_text(f"/* A comment. */\naclnnStatus {functions[-1]}(\n    {listed});\n", encoding="utf-8")
    source = "".join(f'extern "C" int {name}() {{ return 161999; }}\n' for name in functions)
    command = ["g++", "-x", "c++", "-", "-shared", "-fPIC", "-o", str(path)]
    if needs:
        command += ["-Wl,--no-as-needed", "-x", "none", needs]
    subprocess.run(command, input=source, text=True, check=True)
    return folder


def test_ours_alone() -> None:
    assert run() == f"[1, 2] {virtual.package()}"


def test_the_packages_own_folder_is_searched_first(tmp_path: Path) -> None:
    """Also if the variable lists it after a package with functions of the same names."""
    other = make_package(tmp_path / "other")
    for listed in ([other, virtual.package()], [other]):
        assert run(own(), listed) == f"[1, 2] {virtual.package()} {other}"


@pytest.mark.parametrize("mode", ["PYNATIVE_MODE", "GRAPH_MODE"])
@pytest.mark.parametrize("include", ["op_api/include", "op_api/include/aclnnop"])
def test_another_package_with_our_names_in_front_is_refused(tmp_path: Path, include: str, mode: str) -> None:
    """Its library is what MindSpore would call, with the types of our header if its own is where vllm-ascend has it."""
    other = make_package(tmp_path / "other", include=include)
    got = run("", [other, virtual.package()], between=f"ms.set_context(mode=ms.{mode})")
    function = opp.entries(OP)[1]
    text = f"{function} of {opp.library(other)} takes ({', '.join(OTHER_TYPES)}), expected ({', '.join(TYPES)})"
    assert got.startswith(f"RuntimeError: {OP}: no Ascend kernel: {text}: see ")
    assert f"{other / include}/aclnn_{INFO.cann_stem}.h" in got
    assert "take that package out of ASCEND_CUSTOM_OPP_PATH" in got


@pytest.mark.parametrize("types", [OTHER_TYPES, TYPES[::-1]], ids=["others", "in another order"])
def test_mindspore_reads_the_same_header(types: list[str], tmp_path: Path) -> None:
    """It takes the first, whether or not the library beside it is the one that it calls."""
    stray = make_package(tmp_path / "stray", types=types)
    make_package(stray, VLLM)  # another library beside that header
    text = f"RuntimeError: {OP}: aclnn_{INFO.cann_stem}.h is"
    got = run("", [stray, virtual.package()])
    assert got.startswith(f"{text} first found in {stray}/op_api/include/, where it takes ({', '.join(types)}), ")
    hidden = make_package(tmp_path / "hidden", types=TYPES, include="op_api/include/aclnnop")
    assert run("", [hidden]).startswith(
        f"{text} in no op_api/include of ASCEND_CUSTOM_OPP_PATH, where MindSpore looks "
    )


def test_another_package_with_our_names_behind_does_not_matter(tmp_path: Path) -> None:
    other = make_package(tmp_path / "other")
    listed = [virtual.package(), other]
    assert run("", listed) == f"[1, 2] {virtual.package()} {other}"


def test_vllm_ascends_operator_of_the_same_purpose_does_not_matter(tmp_path: Path) -> None:
    vllm = make_package(tmp_path / "vllm-ascend", VLLM, include="op_api/include/aclnnop")
    assert run("", [vllm, virtual.package()]) == f"[1, 2] {vllm} {virtual.package()}"


def test_mindspore_had_loaded_its_libraries_before(tmp_path: Path) -> None:
    theirs = make_package(tmp_path / "ms_custom_ops", ["aclnnTheirs", "aclnnTheirsGetWorkspaceSize"])
    got = run(LOAD + own(), [theirs])
    function = opp.entries(OP)[0]
    text = f"RuntimeError: {OP}: no Ascend kernel: MindSpore does not find {function}, expected {ours()}: MindSpore had"
    assert got.startswith(text)
    assert got.endswith("import ms_dsv32.ops before them")
    # If theirs is listed in the environment or imported before, ours is found after it.
    listed = [theirs, virtual.package()]
    assert run(LOAD, listed) == f"[1, 2] {theirs} {virtual.package()}"
    assert run(own() + "import ms_dsv32.ops\n" + LOAD, [theirs]) == f"[1, 2] {virtual.package()} {theirs}"


def test_mindspore_had_loaded_another_library_with_our_names(tmp_path: Path) -> None:
    other = make_package(tmp_path / "other", types=TYPES)
    got = run(LOAD + own(), [other])
    text = f"MindSpore calls {opp.entries(OP)[0]} of {opp.library(other)}, expected {ours()}: MindSpore had loaded its"
    assert text in got


@pytest.mark.parametrize("behind", [False, True])
def test_a_library_whose_own_dependency_is_missing(tmp_path: Path, behind: bool) -> None:
    gone = tmp_path / "libgone.so"
    command = ["g++", "-x", "c++", "-", "-shared", "-fPIC", "-Wl,-soname,libgone.so", "-o", str(gone)]
    subprocess.run(command, input="int gone;", text=True, check=True)
    broken = make_package(tmp_path / "broken", types=TYPES, needs=str(gone))
    gone.unlink()
    got = run("", [broken, virtual.package()] if behind else [broken])
    function = opp.entries(OP)[0]
    what = f"calls {function} of {ours()}" if behind else f"does not find {function}"
    text = (
        f"{OP}: no Ascend kernel: MindSpore {what}, expected {opp.library(broken)}: it cannot be loaded: libgone.so: "
    )
    assert text in got
    checks, usable = doctor([broken])
    assert checks[OP]["state"] == "wrong"
    assert "it cannot be loaded: libgone.so: " in checks[OP]["found"]
    assert not usable["Ascend graph"]


def test_a_launch_that_fails_leaves_nothing_to_the_next_call(tmp_path: Path) -> None:
    """MindSpore never runs a graph again in which a launch failed, and says "Invalid output number" for each call."""
    launch, size = opp.entries(OP)
    parameters = ", ".join(f"{re.sub('aclTensor|aclOpExecutor', 'void', t)} p{i}" for i, t in enumerate(TYPES))
    package = make_package(tmp_path / "package", [launch, size], TYPES)
    source = f"""#include <dlfcn.h>
#include <cstdint>
#include <cstdlib>
static void* Real(const char* name) {{ return dlsym(dlopen("{ours()}", RTLD_LAZY), name); }}
extern "C" int {size}({parameters}) {{
  return reinterpret_cast<int (*)({parameters})>(Real("{size}"))({", ".join(f"p{i}" for i in range(len(TYPES)))});
}}
extern "C" int {launch}(void* workspace, uint64_t size, void* executor, void* stream) {{
  const char* fail = getenv("FAIL");
  if (fail && *fail) return 507015;
  return reinterpret_cast<int (*)(void*, uint64_t, void*, void*)>(Real("{launch}"))(workspace, size, executor, stream);
}}
"""
    command = ["g++", "-x", "c++", "-", "-shared", "-fPIC", "-o", str(opp.library(package)), "-ldl"]
    subprocess.run(command, input=source, text=True, check=True)
    failures = """
import os

os.environ["FAIL"] = "1"
for _ in range(2):
    try:
        call()
    except RuntimeError as error:
        print(str(error).splitlines()[0])
os.environ["FAIL"] = ""
"""
    text = f"Call {launch} failed, detail: "
    got = run("", [package], between=failures).splitlines()
    assert [line.strip() for line in got] == [text.strip()] * 2 + [f"[1, 2] {package}"]


def test_a_mindspore_that_cannot_be_asked() -> None:
    got = run('from ms_dsv32.ops import _ascend\n\n_ascend._GET_FUNCTION = "absent"\n')
    text = f"RuntimeError: MindSpore 2.10.0 cannot be asked of which library it calls {opp.entries(OP)[0]}: "
    assert got.startswith(text)
    assert got.endswith("undefined symbol: absent; this package is made for mindspore 2.10.0")


def doctor(packages: Sequence[Path] | None = None, **environ: str) -> tuple[dict[str, dict[str, str]], dict[str, bool]]:
    """Checks by name, and what is usable."""
    result = subprocess.run(
        [sys.executable, "-m", "ms_dsv32.doctor", "--json"],
        env={**virtual.environment(packages=packages), **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(result.stdout)
    return {c["name"]: c for c in told["checks"]}, told["usable"]


def test_the_doctor_on_the_virtual_ascend() -> None:
    checks, usable = doctor()
    for name in op_info.names():
        text = f"{', '.join(opp.entries(name))}: MindSpore calls {opp.library(virtual.package())}"
        assert (checks[name]["state"], checks[name]["found"]) == ("ok", text)
    assert checks["MindSpore's Ascend plugin"]["state"] == "ok"
    lacking = [n for n, c in checks.items() if c["group"] == "CANN" and c["state"] != "ok"]
    assert usable["Ascend graph"] == (not lacking)
    assert lacking in ([], ["operators"])


def test_the_doctor_with_another_package_only(tmp_path: Path) -> None:
    vllm = make_package(tmp_path / "vllm-ascend", VLLM, include="op_api/include/aclnnop")
    checks, usable = doctor([vllm])
    assert checks[OP]["state"] == "wrong"
    assert checks[OP]["found"].startswith(f"{opp.library(vllm)} has no symbol {opp.entries(OP)[0]}")
    assert not usable["Ascend PyNative"]
    other = make_package(tmp_path / "other", include="op_api/include/aclnnop")
    checks, _ = doctor([other, virtual.package()])
    assert checks[OP]["state"] == "wrong"
    assert f"of {opp.library(other)} takes (aclTensor*, aclTensor*, char*" in checks[OP]["found"]
    assert checks["mla_prolog_quant"]["state"] == "ok"  # it is in ours, which comes after
    assert not usable["Ascend graph"]
