"""What setup.py compiles again: whatever an object was made from that has changed, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import driver
import pytest

SOURCES = sorted((driver.ROOT / "ms_dsv32" / "kernel_impl").rglob("*.cc"))
COMPILER = """#!/bin/sh
# Makes empty files in the place of objects, of which that of pack.cc was made from a header too.
while [ $# -gt 0 ]; do
  case $1 in -o) target=$2 ;; -MF) depends=$2 ;; -c) source=$2 ;; esac
  shift
done
[ -z "$target" ] || : > "$target"
case $source in */pack.cc) header={header} ;; esac
[ -z "$depends" ] || printf '%s: %s \\\\\\n %s\\n' "$target" "$source" "$header" > "$depends"
"""


@pytest.fixture
def built(tmp_path: Path) -> Callable[..., set[str]]:
    """Builds once more, and returns the names of the objects that were compiled."""
    (tmp_path / "header.h").touch()
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER.replace("{header}", str(tmp_path / "header.h")))
    compiler.chmod(0o755)
    seen: dict[str, int] = {}

    def build(**environment: str) -> set[str]:
        driver.build_library(tmp_path, CXX=str(compiler), **{"MS_DSV32_ISAS": "portable", **environment})
        times = {path.stem: path.stat().st_mtime_ns for path in (tmp_path / "temp").glob("*.o")}
        compiled = {name for name, time in times.items() if seen.get(name) != time}
        seen.update(times)
        return compiled

    return build


def test_what_has_changed_is_compiled(built: Callable[..., set[str]], tmp_path: Path) -> None:
    everything = {path.stem for path in SOURCES}
    first = built()
    assert {name.partition(".")[0] for name in first} == everything
    assert built() == set()
    os.utime(tmp_path / "header.h")
    assert built() == {"pack"}
    (tmp_path / "temp" / "pack.o.d").unlink()
    (tmp_path / "temp" / "scratch.o.cmd").unlink()
    assert built() == {"pack", "scratch"}
    assert built(CXXFLAGS="-DOTHER") == first
