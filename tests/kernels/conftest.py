"""Fixtures that the tests of the kernels share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ms_dsv32 import kernel_impl


@pytest.fixture
def default_threads() -> Iterator[None]:
    """The kernels have as many threads as usual after a test that chooses how many."""
    yield
    kernel_impl.set_thread_count(0)
