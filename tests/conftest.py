"""Marks, skips and fixtures that every test folder shares."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("GLOG_v", "3")  # MindSpore: errors only
HERE = Path(__file__).parent
MARKS = {
    "ops": ("mindspore",),
    "cells": ("mindspore",),
    "ascendc": ("emulator",),
    "ascend": ("mindspore", "ascend"),
}
"""What everything in a folder needs."""
MOST_OF_AN_ID = 100
"""Characters that one argument has in a test's id."""


def pytest_report_header() -> str:
    """Says which device tests/ascend is run on."""
    from device import chosen

    return f"tests/ascend: {chosen()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests by their folder, and skips what this machine cannot run, with the reason."""
    has_mindspore = importlib.util.find_spec("mindspore") is not None
    for item in items:
        folder = item.path.relative_to(HERE).parts[0]
        for mark in MARKS.get(folder, ()):
            item.add_marker(mark)
        if not has_mindspore and item.get_closest_marker("mindspore"):
            item.add_marker(pytest.mark.skip(reason="MindSpore is not installed: pip install mindspore==2.10.0"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A readable part of a test's id where pytest would give a bare number, or no more than the argument's name.

    Strings, types and functions say what they are. A function without a name takes its argument's.
    """
    if isinstance(val, type) or callable(val):
        return argname if getattr(val, "__name__", "") == "<lambda>" else None
    if isinstance(val, (str, bytes)):
        return None if len(val) <= MOST_OF_AN_ID else f"{_escaped(str(val)[:MOST_OF_AN_ID])}..."
    if isinstance(val, np.ndarray):
        return f"{argname}={val.dtype}{list(val.shape)}"
    if isinstance(val, int) and abs(val) >= 2**64:
        return f"{argname}=large"
    if isinstance(val, dict) and val:
        text = ",".join(f"{key}" if callable(value) else f"{key}={value}" for key, value in val.items())
    else:
        text = f"{argname}={val}".replace(", ", ",")
    return _escaped(text) if len(text) <= MOST_OF_AN_ID and " at 0x" not in text else argname


def _escaped(text: str) -> str:
    """What a terminal and a command line can show."""
    return text.encode("unicode_escape").decode("ascii")


@pytest.fixture(autouse=True)
def _scratch_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MindSpore leaves rank_0/om/analyze_fail.ir in the working directory when a compilation fails."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True, scope="module")
def _graphs_end_with_their_file() -> Iterator[None]:
    """A compiled graph keeps the tensors of its last call, weights among them: gigabytes in the end."""
    yield
    if "mindspore" in sys.modules:
        import mindspore as ms

        ms.ms_memory_recycle()


@pytest.fixture(autouse=True)
def _pynative_afterwards() -> Iterator[None]:
    """A test that chose graph mode leaves it again."""
    yield
    if "mindspore" in sys.modules:
        import mindspore as ms

        ms.set_context(mode=ms.PYNATIVE_MODE)
