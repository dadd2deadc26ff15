"""What is published: one version, a source distribution that is whole, and a library for Linux of the stated age."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from checkout import ROOT, tracked_files

import ms_dsv32
from ms_dsv32 import kernel_impl

NOT_PUBLISHED = {".ci/run", ".gitignore"}
MADE = re.compile(r"PKG-INFO|setup\.cfg|ms_dsv32\.egg-info/.*")
"""What setuptools writes into a source distribution."""

Version = tuple[int, ...]

FLOOR: dict[str, Version] = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0)}
"""The newest versions that manylinux_2_28 lets a wheel ask for (docs/releasing.md): auditwheel's policy, which is the
same for x86-64 and aarch64."""

OF_NEWER_HEADERS = {
    "__libc_single_threaded": "libstdc++'s headers read it from GCC 11 on, where glibc is 2.32 or later",
    "_ZSt28__throw_bad_array_new_lengthv": "std::allocator calls it from GCC 11 on; manylinux's compiler links it in",
    "__isoc23_strtol": "strtol, by the name that the headers of glibc 2.38 and later give it",
    "__isoc23_strtoll": "strtoll, likewise",
}
"""Symbols that the sources do not name: with an older compiler, or on an older Linux, the library does without them."""

OPERATOR = """
import numpy as np
from ms_dsv32 import golden, kernel_impl, op_info
import ms_dsv32
assert ms_dsv32.__file__.startswith(FOLDER), ms_dsv32.__file__
rng = np.random.default_rng(0)
attention_out = golden.float32_to_bf16(rng.standard_normal((2, 2, 512), np.float32))
weights = golden.make_epilog_weights(seed=0, n_q=2)
(hidden_out,) = kernel_impl.call("mla_epilog_quant", {"attention_out": attention_out, **weights}, {})
expected = golden.mla_epilog_quant(attention_out, **weights)
got, expected = (golden.bf16_to_float32(x) for x in (hidden_out, expected))
np.testing.assert_allclose(got, expected, rtol=2**-7, atol=2**-7 * np.abs(expected).max())
print(ms_dsv32.__version__, kernel_impl.isa())
"""


def _version(text: str) -> Version:
    return tuple(map(int, text.split(".")))


def test_the_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.*?)\](.*)$", text, re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    version, date = headings[1]
    assert version == ms_dsv32.__version__
    assert re.fullmatch(r" - \d{4}-\d\d-\d\d", date)
    released = [_version(name) for name, _ in headings[1:]]
    assert released == sorted(set(released), reverse=True)


def test_the_version_is_in_one_place() -> None:
    """The build takes it from the package. setup.py and CANN's package have none of their own."""
    assert 'version = {attr = "ms_dsv32.__version__"}' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    own = [ROOT / "setup.py", *(ROOT / "ms_dsv32").rglob("*.py"), *(ROOT / "ms_dsv32").rglob("CMake*")]
    having = [path for path in own if ms_dsv32.__version__ in path.read_text(encoding="utf-8")]
    assert [str(path.relative_to(ROOT)) for path in having] == ["ms_dsv32/__init__.py"]


def _build(kind: str, source: Path, target: Path, **environment: str) -> Path:
    """Has setuptools build a wheel or a source distribution, as pip and `python -m build` do, but in this Python."""
    code = f"import sys; from setuptools import build_meta; print('made', build_meta.build_{kind}(sys.argv[1]))"
    env = {name: value for name, value in os.environ.items() if name not in ("ASCEND_HOME_PATH", "PYTHONPATH")}
    command = [sys.executable, "-c", code, str(target)]
    result = subprocess.run(command, cwd=source, env=env | environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-5000:]
    return target / re.findall(r"^made (.*)$", result.stdout, re.MULTILINE)[0]


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the files in git."""
    pytest.importorskip("setuptools", minversion="70.1")
    folder = tmp_path_factory.mktemp("release")
    checkout = folder / "checkout"
    for name in tracked_files():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name)
    return _build("sdist", checkout, folder)


def test_the_source_distribution_has_all_files(source_distribution: Path) -> None:
    assert source_distribution.name == f"ms_dsv32-{ms_dsv32.__version__}.tar.gz"
    with tarfile.open(source_distribution) as archive:
        files = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert {name for name in files if not MADE.fullmatch(name)} == set(tracked_files()) - NOT_PUBLISHED


@pytest.mark.slow
def test_a_wheel_of_the_source_distribution_works(source_distribution: Path, tmp_path: Path) -> None:
    """The distribution has everything that a build needs, and the wheel everything that an operator needs."""
    with tarfile.open(source_distribution) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    wheel = _build("wheel", source, tmp_path, MS_DSV32_ISAS="portable", MS_DSV32_BUILD_JOBS="2")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
        assert not [name for name in archive.namelist() if not re.match(r"ms_dsv32(/|-[\d.]+\.dist-info/)", name)]
    environment = os.environ | {"PYTHONPATH": str(installed), "MS_DSV32_CPU_ISA": "portable"}
    environment.pop("MS_DSV32_LIBRARY", None)
    code = OPERATOR.replace("FOLDER", repr(str(installed)))
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [ms_dsv32.__version__, "portable"]


def _symbols(library: str, *, undefined: bool) -> list[tuple[str, str, Version]]:
    """Symbols with versions that a library asks for, or has: name, kind of the version, version."""
    result = subprocess.run(["objdump", "-T", library], capture_output=True, text=True, check=True)
    found = []
    for line in result.stdout.splitlines():
        match = re.search(r" (\S+)\t[0-9a-f]+ +\(?([A-Z]+)_([\d.]+)\)? +(\S+)$", line)
        if match and (match[1] == "*UND*") == undefined:
            found.append((match[4], match[2], _version(match[3])))
    return found


def test_the_library_asks_for_no_newer_linux_than_stated() -> None:
    """On a Linux as old as stated, this holds for all symbols, and `auditwheel` says the same of the wheel.

    On a newer one the linker takes the newest version of a symbol. That is well if the system has an older version of
    it too, which the same sources get on the older Linux, or if only newer headers bring the symbol in.
    """
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed (Debian: binutils)")
    if os.environ.get("MS_DSV32_LIBRARY"):
        pytest.skip("MS_DSV32_LIBRARY names another library than the package's")
    kernel_impl.load()
    asked = _symbols(str(kernel_impl.library_path()), undefined=True)
    assert {kind for _, kind, _ in asked} <= set(FLOOR)
    assert {"GLIBC", "GLIBCXX"} <= {kind for _, kind, _ in asked}
    newer = {(name, kind, version) for name, kind, version in asked if version > FLOOR[kind]}
    mapped = set(re.findall(r"/\S*/lib(?:c|m|stdc\+\+|gcc_s)\.so\.\d\S*", Path("/proc/self/maps").read_text()))
    older = {
        name
        for library in mapped
        for name, kind, version in _symbols(library, undefined=False)
        if kind in FLOOR and version <= FLOOR[kind]
    }
    wrong = [symbol for symbol in newer if symbol[0] not in older and symbol[0] not in OF_NEWER_HEADERS]
    assert not wrong, f"no Linux of the stated age has these: {sorted(wrong)}"
