"""Fixtures and skips that every test folder shares."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

os.environ.setdefault("GLOG_v", "3")  # MindSpore: errors only


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what this machine cannot run, with the reason."""
    if importlib.util.find_spec("mindspore") is not None:
        return
    for item in items:
        if item.get_closest_marker("mindspore"):
            item.add_marker(pytest.mark.skip(reason="MindSpore is not installed: pip install mindspore==2.10.0"))


@pytest.fixture(autouse=True)
def _scratch_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MindSpore leaves rank_0/om/analyze_fail.ir in the working directory when a compilation fails."""
    monkeypatch.chdir(tmp_path)
