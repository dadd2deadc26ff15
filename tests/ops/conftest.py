"""Everything here goes through MindSpore, on the library that the package was built with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


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
