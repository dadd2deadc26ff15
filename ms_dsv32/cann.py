"""Finds CANN, its version, and the operators that were built with it.

``setup.py`` loads this file by its path, so it imports the standard library only, and nothing of the package.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MINIMUM = (8, 1)
"""The oldest CANN with which the operators can be built."""
VENDOR = Path(__file__).resolve().parent / "vendors" / "ms_dsv32"
"""The folder that the Ascend build fills, in CANN's layout: ``op_api``, ``op_impl``, ``op_proto``, ``version.info``."""
OP_API = Path("op_api", "lib", "libcust_opapi.so")
"""The library of the ``aclnn`` functions, below ``VENDOR``."""
VERSION_INFO = Path("version.info")
"""The file below an operator package's folder that tells with which CANN the package was built."""
INSTALL = (
    "install the CANN toolkit (and the kernels or ops package of your device) from "
    "https://www.hiascend.com/software/cann and run `source <CANN>/set_env.sh`"
)


class CannError(RuntimeError):
    """There is no usable CANN. The text says what to do."""


@dataclass(frozen=True)
class Cann:
    """An installed CANN toolkit: its folder, its version (``(8, 1)`` and ``"8.1.RC1"``), the file that tells it."""

    home: Path
    version: tuple[int, int]
    version_text: str
    version_file: Path


def default_homes() -> tuple[Path, ...]:
    """The folders where CANN's installer puts the toolkit by default, newest layout first.

    Source: CANN software installation guide, "File Paths" (8.5: ``Ascend/cann``; before: ``Ascend/ascend-toolkit``).
    """
    roots = (Path("/usr/local/Ascend"), Path.home() / "Ascend")
    return tuple(root / name for name in ("cann", "ascend-toolkit/latest") for root in roots)


def find(environ: Mapping[str, str] | None = None) -> Cann:
    """The CANN that ``ASCEND_HOME_PATH`` names, as ``set_env.sh`` sets it.

    Args:
        environ: the environment, by default the process's.

    Raises:
        CannError: the variable is not set, there is no such folder, or no file there tells the version.
    """
    given = (os.environ if environ is None else environ).get("ASCEND_HOME_PATH", "")
    if not given:
        for home in default_homes():
            if home.is_dir():
                raise CannError(f"ASCEND_HOME_PATH is not set; CANN is in {home}: run `source {home}/set_env.sh`")
        raise CannError(f"ASCEND_HOME_PATH is not set and CANN is in none of its default folders; {INSTALL}")
    home = Path(given)
    if not home.is_dir():
        raise CannError(f"ASCEND_HOME_PATH is {given}, which is no folder; {INSTALL}")
    return read(home)


def read(home: Path) -> Cann:
    """The CANN in ``home``.

    Three files tell the product's version: ``<machine>-linux/ascend_toolkit_install.info`` (``version=8.1.RC1``),
    ``version.cfg`` (``toolkit_running_version=[7.7.0.1.238:8.1.RC1]``, after the colon) and, from 8.2 on,
    ``compiler/version.info`` (``Version=8.2.RC1``). Before 8.2 that last file has numbers of its own, up to 7.x.

    Raises:
        CannError: no such file, or no version in it.
    """
    sources = (
        (f"{platform.machine()}-linux/ascend_toolkit_install.info", r"^version=(\S+)"),
        ("version.cfg", r"^(?:toolkit|runtime)_running_version=\[(?:[^:\]]*:)?([^\]]+)\]"),
        ("compiler/version.info", r"^Version=((?:[89]|\d\d+)\.\S+)"),
    )
    for name, pattern in sources:
        file = home / name
        if not file.is_file():
            continue
        found = re.search(pattern, file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        number = re.match(r"(\d+)\.(\d+)", found[1]) if found else None
        if found and number:
            return Cann(home, (int(number[1]), int(number[2])), found[1], file)
    names = ", ".join(name for name, _ in sources)
    raise CannError(f"{home} does not tell CANN's version (looked at {names}); is it a CANN toolkit? If not, {INSTALL}")


def compiler_version(home: Path) -> str | None:
    """The version that the compiler of the CANN in ``home`` gives itself, or None if no file tells it.

    Up to 8.1 it is a number of its own (``7.7.0.1.238``) and not the product's version.
    """
    return _row(home / "compiler" / "version.info", r"^Version=(\S+)")


def built_with(package: Path) -> str | None:
    """The ``compiler_version`` of the CANN that an operator package was built with, or None if it does not tell it.

    CANN's build writes it into every package (asc-devkit, ``gen_version_info.sh``).

    Args:
        package: a folder ``vendors/<vendor>``.
    """
    return _row(package / VERSION_INFO, r"^custom_opp_compiler_version=(\S+)")


def _row(file: Path, pattern: str) -> str | None:
    if not file.is_file():
        return None
    found = re.search(pattern, file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return found[1] if found else None


def require(environ: Mapping[str, str] | None = None) -> Cann:
    """Finds a CANN to build with.

    Raises:
        CannError: as ``find``, or CANN is older than ``MINIMUM``.
    """
    cann = find(environ)
    if cann.version < MINIMUM:
        need = ".".join(map(str, MINIMUM))
        raise CannError(f"CANN in {cann.home} is {cann.version_text}, expected {need} or later; {INSTALL}")
    return cann
