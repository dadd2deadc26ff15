"""The library within its process: limits on threads, and fork(). Each test runs a process of its own."""

from __future__ import annotations

import ctypes.util
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

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
    """A child gets working kernels and threads of its own, whatever the other thread was in the middle of."""
    code = """
import signal
import busy
case = cases.indexer_case(1, 1, 3000, selected_count=8)
(want,) = kernel_impl.call(case.operator, case.copy().inputs, case.attributes)
failed = 0
with busy.calling(lambda: kernel_impl.call(case.operator, case.inputs, case.attributes), threads=2):
    for _ in range(40):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            (got,) = kernel_impl.call(case.operator, case.inputs, case.attributes)
            own = len(os.listdir("/proc/self/task"))
            kernel_impl.set_thread_count(3)  # waits for every call that runs
            (again,) = kernel_impl.call(case.operator, case.inputs, case.attributes)
            os._exit(not (own == 2 and np.array_equal(got, want) and np.array_equal(again, want)))
        failed += os.waitpid(child, 0)[1] != 0
print(failed)
"""
    result = run(code, MS_DSV32_NUM_THREADS="2")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "0\n", result.stderr


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the test knows where x86-64 keeps the mode")
def test_threads_keep_subnormals_whatever_starts_them() -> None:
    """A thread starts in the mode of the one that makes it, and MindSpore's flush subnormals to zero.

    A call leaves its thread in the mode that it found.
    """
    code = """
import ctypes
libm = ctypes.CDLL("libm.so.6")
case = cases.mla_prolog_case(1, 3, 16)
case = case.copy(dequant_scale=case.inputs["dequant_scale"] * np.float32(2.0**-130))
usual, environment, after = ((ctypes.c_uint32 * 8)() for _ in range(3))  # the last word is MXCSR
libm.fegetenv(usual)
libm.fegetenv(environment)
environment[7] |= 1 << 15 | 1 << 6  # results and operands that are subnormal count as zero
libm.fesetenv(environment)
assert np.float32(1e-39) * np.float32(1) == 0
kernel_impl.pack(np.zeros((4, 1024), np.int8))
results = [kernel_impl.call(case.operator, case.copy().inputs, case.attributes)]
libm.fegetenv(after)
libm.fesetenv(usual)
print(after[7] >> 6 == environment[7] >> 6)  # the lowest six bits say which exceptions there were
for threads in (4, 1):
    if threads == 1:
        kernel_impl.set_thread_count(1)
    results.append(kernel_impl.call(case.operator, case.copy().inputs, case.attributes))
print((results[2][3] & 0x7FFF != 0).mean() > 0.5, *(np.array_equal(results[2][3], result[3]) for result in results[:2]))
"""
    result = run(code, MS_DSV32_NUM_THREADS="4")
    assert result.stdout.split() == ["True"] * 4, result.stdout + result.stderr


def test_a_new_number_of_threads_does_not_wait_for_calls_that_come_later() -> None:
    code = """
import time
import busy
case = cases.indexer_case(1, 1, 30000, selected_count=8)
changed = 0
with busy.calling(lambda: kernel_impl.call(case.operator, case.inputs, case.attributes), threads=8):
    time.sleep(0.2)
    end = time.monotonic() + 30
    while changed < 20 and time.monotonic() < end:
        kernel_impl.set_thread_count(1 + changed % 2)
        changed += 1
print(changed)
"""
    result = run(code)
    assert result.stdout == "20\n", result.stdout + result.stderr


def test_a_new_number_of_threads_waits_for_the_call_that_runs() -> None:
    """Its working memory is for the threads that there are when it begins. A page that may not be read holds it up."""
    code = """
import ctypes, mmap, signal, threading, time
signal.signal(signal.SIGSEGV, lambda *_: None)  # the call tries to read the page until it may
case = cases.indexer_case(2, 1, 3000, selected_count=8)
(want,) = kernel_impl.call(case.operator, case.inputs, case.attributes)
lengths = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.int32, 2)
lengths[:] = case.inputs["kv_act_seqs"]
inputs = case.inputs | {"kv_act_seqs": lengths}
protect = ctypes.CDLL(None).mprotect
page = ctypes.c_void_p(lengths.ctypes.data), ctypes.c_size_t(mmap.PAGESIZE)
got, changed = [], []
call = threading.Thread(target=lambda: got.extend(kernel_impl.call(case.operator, inputs, case.attributes)))
change = threading.Thread(target=lambda: changed.append(kernel_impl.set_thread_count(3)))
protect(*page, 0)
call.start()
time.sleep(0.2)
change.start()
time.sleep(0.3)
print(got, changed)
protect(*page, mmap.PROT_READ)
call.join()
change.join()
print(np.array_equal(got[0], want), changed)
"""
    result = run(code)
    assert result.stdout == "[] []\nTrue [None]\n", result.stdout + result.stderr


def test_memory_that_the_system_refuses() -> None:
    """The error names the operator and the bytes, nothing is written, and with the memory the next call works."""
    code = """
import mindspore as ms
sys.path.insert(0, os.path.join(sys.path[0], "ops"))
from calls import Call, mode, tensors
from ms_dsv32 import ops
kernel_impl.set_thread_count(1)
case = cases.mla_prolog_case(1024, 1, kv_lens=1, n_q=1)
inputs = tensors(case)
before = {name: inputs[name].asnumpy().copy() for name in ("kv_cache", "k_scale_cache")}
call = Call(case.operator, case.attributes)
small = tensors(cases.mla_prolog_case(1, 1, kv_lens=1, n_q=1))
ops.mla_prolog_quant(*small.values(), **case.attributes)  # what a first call needs
unlimited = resource.getrlimit(resource.RLIMIT_AS)
size = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
own = case.copy().inputs
for how in (lambda: kernel_impl.call(case.operator, own, case.attributes),
            lambda: ops.mla_prolog_quant(*inputs.values(), **case.attributes)):
    resource.setrlimit(resource.RLIMIT_AS, (size + (8 << 20), unlimited[1]))
    try:
        how()
    except RuntimeError as error:
        print(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)
print(all(inputs[name].asnumpy().tobytes() == array.tobytes() for name, array in before.items()))
ops.mla_prolog_quant(*inputs.values(), **case.attributes)[0].asnumpy()
print((inputs["kv_cache"].asnumpy() != before["kv_cache"]).any())
"""
    pytest.importorskip("mindspore")
    result = run(code)
    assert result.returncode == 0, result.stdout + result.stderr
    *errors, kept, works = result.stdout.splitlines()
    assert len(errors) == 2, result.stdout + result.stderr
    for error in errors:
        assert re.fullmatch(r"mla_prolog_quant: the system refuses \d{7,} bytes of working memory", error), error
    assert (kept, works) == ("True", "True")


@pytest.mark.parametrize("what", ["text", "another library"])
def test_a_file_that_is_not_the_library(what: str, tmp_path: Path) -> None:
    path = tmp_path / "library.so"
    if what == "text":
        path.write_text("no library")
    else:
        path = Path(ctypes.util.find_library("m") or "libm.so.6")
        path = next(p for p in (Path("/lib") / path, *Path("/").glob(f"*/*-linux-gnu/{path}")) if p.is_file())
    result = run("kernel_impl.load()", MS_DSV32_LIBRARY=str(path))
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"RuntimeError: ms_dsv32: {path} is not the kernel library: "), result.stderr
    assert last.endswith("; MS_DSV32_LIBRARY names it")
