"""Finding CANN and reading its version, on fake trees."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from ms_dsv32 import cann

INFO = f"{platform.machine()}-linux/ascend_toolkit_install.info"


def _tree(root: Path, **files: str) -> Path:
    names = {"info": INFO, "cfg": "version.cfg", "compiler": "compiler/version.info"}
    for key, text in files.items():
        path = root / names[key]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    root.mkdir(exist_ok=True)
    return root


@pytest.mark.parametrize(
    ("files", "version", "text"),
    [
        ({"info": "package_name=Ascend-cann-toolkit\nversion=8.1.RC1\ninnerversion=V100R001C21\n"}, (8, 1), "8.1.RC1"),
        ({"cfg": "# version: 1.0\nruntime_running_version=[7.7.0.1.238:8.1.RC1]\n"}, (8, 1), "8.1.RC1"),
        ({"cfg": "toolkit_running_version=[8.5.0]\n"}, (8, 5), "8.5.0"),
        ({"compiler": "Version=8.2.RC1.B080\nversion_dir=8.2.RC1\n"}, (8, 2), "8.2.RC1.B080"),
        ({"compiler": "Version=10.0.0\n"}, (10, 0), "10.0.0"),
        ({"info": "version=9.0.0\n", "compiler": "Version=8.2.RC1\n"}, (9, 0), "9.0.0"),
        ({"info": "version=\n", "cfg": "runtime_running_version=[7.6.0.1.220:8.0.0]\n"}, (8, 0), "8.0.0"),
    ],
)
def test_read(tmp_path: Path, files: dict[str, str], version: tuple[int, int], text: str) -> None:
    found = cann.read(_tree(tmp_path / "cann", **files))
    assert (found.version, found.version_text) == (version, text)
    assert found.version_file.is_file()


# 7.6.0.1.220: CANN 8.0's components have versions in a series of their own, which do not tell the product's version.
@pytest.mark.parametrize("files", [{}, {"cfg": "nothing"}, {"compiler": "Version=7.6.0.1.220\n"}])
def test_a_tree_without_a_version(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(cann.CannError, match=r"does not tell CANN's version .*version\.cfg.*set_env\.sh"):
        cann.read(_tree(tmp_path / "cann", **files))


def test_what_a_package_was_built_with(tmp_path: Path) -> None:
    """The package has the compiler's version, to be compared with that of a CANN. The product's may differ."""
    home = _tree(tmp_path / "cann", info="version=8.1.RC1\n", compiler="name=compiler\nVersion=7.7.0.1.238\n")
    package = tmp_path / "vendors" / "ms_dsv32"
    assert cann.built_with(package) is None
    package.mkdir(parents=True)
    for text, version in (
        ("custom_opp_compiler_version=7.7.0.1.238\n", "7.7.0.1.238"),
        ("vendor=x\ncustom_opp_compiler_version=9.0.0\n", "9.0.0"),
        ("custom_opp_compiler_version=\n", None),  # of a CANN without compiler/version.info
    ):
        (package / "version.info").write_text(text)
        assert cann.built_with(package) == version
    assert cann.compiler_version(home) == "7.7.0.1.238"
    assert cann.compiler_version(tmp_path) is None


def test_require(tmp_path: Path) -> None:
    old = _tree(tmp_path / "old", info="version=8.0.RC3\n")
    with pytest.raises(cann.CannError, match=r"old is 8\.0\.RC3, expected 8\.1 or later; install the CANN toolkit"):
        cann.require({"ASCEND_HOME_PATH": str(old)})
    good = _tree(tmp_path / "good", info="version=8.1.RC1\n")
    assert cann.require({"ASCEND_HOME_PATH": str(good)}).home == good
    with pytest.raises(cann.CannError, match="which is no folder"):
        cann.require({"ASCEND_HOME_PATH": str(tmp_path / "gone")})


def test_cann_whose_environment_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "cann"
    monkeypatch.setattr(cann, "default_homes", lambda: (home,))
    with pytest.raises(cann.CannError, match=r"not set and CANN is in none .*https://www\.hiascend\.com"):
        cann.find({})
    home.mkdir()
    with pytest.raises(cann.CannError, match=r"run `source .*cann/set_env\.sh`"):
        cann.find({})
