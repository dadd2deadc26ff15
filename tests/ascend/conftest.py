"""The device target of the tests here, and what stands in for a device where there is none.

On a machine with an Atlas A2 or A3, CANN and the built operators everything runs on the device. Elsewhere the tests of
the fixture `target` run on CPU, with the operators registered as for Ascend: attributes behind the tensors, PyNative as
a graph of one node. What needs a device is skipped with the reason; ``MS_DSV32_TEST_TARGET=CPU`` runs it on CPU too.
"""

from __future__ import annotations

import functools
import os
from contextlib import nullcontext
from typing import Any

import pytest
from device import missing

_ON_CPU = os.environ.get("MS_DSV32_TEST_TARGET") == "CPU"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what cannot run here."""
    for item in items:
        needs_device = item.get_closest_marker("ascend") is not None
        if needs_device and missing():
            item.add_marker(pytest.mark.skip(reason=missing()))


@pytest.fixture
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers the operators on CPU as for Ascend."""
    from calls import forget_kernels

    from ms_dsv32.ops import _ascend, _custom

    if not _ON_CPU and not missing():
        pytest.skip("the tests run on the device")
    monkeypatch.setitem(_custom._TARGETS, "CPU", _ascend)
    monkeypatch.setattr(_ascend, "require", lambda info, attrs: None)
    monkeypatch.setattr(_ascend, "_is_on_host", lambda tensor: False)
    monkeypatch.setattr(_ascend, "building", lambda info: nullcontext())
    monkeypatch.setattr(_ascend, "reg_info", functools.partial(_ascend.reg_info, target="CPU"))
    forget_kernels(monkeypatch)


_DEVICE = pytest.param("Ascend", marks=pytest.mark.ascend)


def _use(target: str, request: pytest.FixtureRequest) -> str:
    if target == "CPU":
        request.getfixturevalue("_stand_in")
    else:
        import mindspore as ms

        if ms.get_context("device_target") != "Ascend":
            ms.set_device("Ascend")
    return target


@pytest.fixture(params=["CPU"] if _ON_CPU else [_DEVICE, "CPU"])
def target(request: pytest.FixtureRequest) -> Any:
    """ "Ascend" or "CPU": where the test runs."""
    return _use(request.param, request)


@pytest.fixture(params=["CPU"] if _ON_CPU else [_DEVICE])
def device(request: pytest.FixtureRequest) -> Any:
    """The same, for what is too much for a CPU in everyday tests."""
    return _use(request.param, request)
