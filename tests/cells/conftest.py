"""Everything here goes through MindSpore; `calls` is shared with ``tests/ops``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "ops"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.mindspore)


@pytest.fixture(autouse=True)
def _pynative_afterwards() -> Iterator[None]:
    import mindspore as ms

    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)
