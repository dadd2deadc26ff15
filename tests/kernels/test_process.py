"""The library within its process: limits on threads, and fork(). Each test runs a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import driver
import pytest

PREPARE = """
import os, resource, sys
import numpy as np
import cases
from ms_dsv32 import kernel_impl

def limit_memory(spare):
    size = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + spare, size + spare))
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    tests = str(driver.HERE.parent)
    return driver.run(sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r}){PREPARE}{code}", **environment)


def test_threads_that_the_system_refuses_are_an_error() -> None:
    """Both entries name what to do, nothing aborts, and with fewer threads the library works."""
    code = """
case, weight = cases.indexer_case(2, 1, 3000), np.zeros((4, 256), np.int8)
kernel_impl.load()
limit_memory(256 << 20)  # the stacks of some threads
for entry, *arguments in ((kernel_impl.pack, weight), (kernel_impl.call, case.operator, case.inputs, case.attributes)):
    try:
        entry(*arguments)
    except RuntimeError as error:
        print(error)
kernel_impl.set_thread_count(2)
(got,) = kernel_impl.call(case.operator, case.inputs, case.attributes)
print((got >= 0).all())
"""
    result = run(code, MS_DSV32_NUM_THREADS="1024")
    assert result.returncode == 0, result.stderr
    *errors, works = result.stdout.splitlines()
    assert len(errors) == 2, result.stdout
    for error in errors:
        assert error.startswith("ms_dsv32: the system refuses thread "), error
        assert " of 1024 (" in error
        assert "set MS_DSV32_NUM_THREADS to fewer" in error
    assert works == "True"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one CPU")
def test_threads_that_meet_on_one_cpu_part() -> None:
    code = """
import time
case = cases.indexer_case(1, 1, 3000, selected_count=8)
first, *others = sorted(os.sched_getaffinity(0))
before = set(os.listdir("/proc/self/task"))
kernel_impl.call(case.operator, case.inputs, case.attributes)
(worker,) = (int(task) for task in set(os.listdir("/proc/self/task")) - before)
for thread in (0, worker):
    os.sched_setaffinity(thread, [first])
for _ in range(2):  # at the end of the first call the worker falls asleep there, if it was not there before
    time.sleep(0.1)
    kernel_impl.call(case.operator, case.inputs, case.attributes)
print(os.sched_getaffinity(worker) == set(others), os.sched_getaffinity(0) == {first})
"""
    result = run(code, MS_DSV32_NUM_THREADS="2")
    assert result.stdout.split() == ["True", "True"], result.stdout + result.stderr


def test_fork_while_kernels_run_on_another_thread() -> None:
    """A child gets working kernels, whatever the other thread was in the middle of."""
    code = """
import signal, threading
case = cases.indexer_case(1, 1, 3000, selected_count=8)
(want,) = kernel_impl.call(case.operator, case.copy().inputs, case.attributes)
stop = False

def work():
    while not stop:
        kernel_impl.call(case.operator, case.inputs, case.attributes)

workers = [threading.Thread(target=work) for _ in range(2)]
for worker in workers:
    worker.start()
failed = 0
for _ in range(40):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        (got,) = kernel_impl.call(case.operator, case.inputs, case.attributes)
        kernel_impl.set_thread_count(3)  # waits for every call that runs
        (again,) = kernel_impl.call(case.operator, case.inputs, case.attributes)
        os._exit(not (np.array_equal(got, want) and np.array_equal(again, want)))
    failed += os.waitpid(child, 0)[1] != 0
stop = True
for worker in workers:
    worker.join()
print(failed)
"""
    result = run(code, MS_DSV32_NUM_THREADS="2")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "0\n", result.stderr
