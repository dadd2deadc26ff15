"""Everything here runs on a device: on the machine's Atlas A2 or A3, or else on the virtual Ascend.

The tests run in a process of their own (`remote.py`), whose device target is Ascend when a test begins. To get at them
with a debugger, start pytest itself on the virtual Ascend, where they run as any other test::

    python tests/ascend_virtual/run.py -- python -m pytest tests/ascend --pdb
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import remote
import virtual
from device import environment

HERE = Path(__file__).resolve().parent
_MEMORY = 1 << 30
"""Bytes in use on the device from which compiled graphs are dropped: each keeps the tensors of its last call."""
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
    if not item.path.is_relative_to(HERE) or _runs_here():
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    try:
        if not _workers or not _workers[-1].alive:
            _workers.append(remote.Worker(item.config, environment()))
        reports = _workers[-1].run(item, nextitem)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:  # the virtual Ascend cannot be built
        reports = iter([remote.failed(item, f"there is no process that could run the test: {error}")])
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    if nextitem is None or not nextitem.path.is_relative_to(HERE):  # a virtual device holds gigabytes of this machine
        for text in _end_workers():
            item.ihook.pytest_runtest_logreport(report=remote.failed(item, text, "teardown"))
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_sessionfinish(session: pytest.Session) -> None:
    for text in _end_workers():
        print(f"tests/ascend: {text}", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def _end_workers() -> list[str]:
    """Ends the processes that ran the tests, and says which did not end well."""
    texts = [worker.close() for worker in _workers]
    _workers.clear()
    return [f"the process that ran the tests did not end well\n{text}" for text in texts if text]


@functools.cache
def _probe() -> Any:
    import mindspore as ms

    return ms.ops.zeros((1,), ms.int8)


@pytest.fixture
def only_virtual() -> None:
    """For a test that tells the virtual device what to do."""
    if not virtual.running():
        pytest.skip("tells the virtual device what to do; this is a real one")


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest) -> Iterator[None]:
    """The device target is Ascend, and an error that a test leaves on the device fails that test."""
    import mindspore as ms

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
    if ms.runtime.memory_allocated() > _MEMORY:
        ms.ms_memory_recycle()
    if virtual.running():
        assert virtual.get("FAILURES") == 0, "something failed on the device, see the output"
