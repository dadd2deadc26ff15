"""Marks, skips and fixtures that every test folder shares."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

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
