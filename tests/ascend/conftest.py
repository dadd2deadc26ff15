"""Everything here runs on a device: on the machine's Atlas A2 or A3, or else on the virtual Ascend.

The tests run in a process of their own (`remote.py`), whose device target is Ascend when a test begins. To get at them
with a debugger, start pytest itself on the virtual Ascend, where they run as any other test::

    python tests/ascend_virtual/run.py -- python -m pytest tests/ascend --pdb
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import mindspore as ms
import pytest
import remote
import virtual
from device import environment
from mindspore import Tensor

HERE = Path(__file__).resolve().parent
_workers: list[remote.Worker] = []


def _runs_here() -> bool:
    return remote.PIPES in os.environ or virtual.running()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """In the second pytest: the tests are those that it is told."""
    pipes = os.environ.get(remote.PIPES)
    if pipes is None or session.config.option.collectonly:
        return None
    remote.serve(session, pipes)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """In the first pytest: a test of this folder runs in the second."""
    if not item.path.is_relative_to(HERE) or _runs_here() or item.get_closest_marker("skip"):
        return None
    if not _workers or not _workers[-1].alive:
        _workers.append(remote.Worker(item.config, environment()))
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _workers[-1].run(item, nextitem):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_sessionfinish() -> None:
    for worker in _workers:
        worker.close()
    _workers.clear()


@functools.cache
def _probe() -> Tensor:
    return ms.ops.zeros((1,), ms.int8)


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest) -> Iterator[None]:
    """The device target is Ascend, and an error that a test leaves on the device is that test's own."""
    if ms.get_context("device_target") != "Ascend":
        ms.set_device("Ascend")
    quick = request.node.get_closest_marker("cpu_kernels") is not None
    if virtual.running():
        virtual.put("KERNELS", virtual.CPU if quick else virtual.EMULATOR)
        virtual.put("FAILURES", 0)
    yield
    # Reading a tensor raises what a kernel has left; mindspore.runtime.synchronize() only logs it.
    _probe().asnumpy()
    ms.runtime.synchronize()
    if virtual.running():
        assert virtual.get("FAILURES") == 0, "something failed on the device, see the output"
