"""Fixtures that the tests of weights share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here has to outlive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
