"""Tests of AscendC sources in the host emulator."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

EMULATOR = Path(__file__).resolve().parent.parent / "ascendc_emulator"
sys.path.insert(0, str(EMULATOR))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here runs in the emulator."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.emulator)
