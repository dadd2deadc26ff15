"""Processes that hold the contenders, one for each framework, so that their threads and allocators do not interfere."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.shapes import Shape

FAMILIES = {
    "ours": ("kernel", "pynative", "graph", "jit"),
    "rivals_torch": ("torch", "torch.compile"),
    "rivals_mindspore": ("mindspore",),
    "rivals_numpy": ("golden",),
}
"""Modules and the names of their contenders."""

PAGES = ("huge", "4K")


class Hall:
    """Prepares and times contenders in this process.

    Args:
        family: the module. cold: whether to flush the caches before each call.
    """

    def __init__(self, family: str, cold: bool) -> None:
        from benchmarks.limits import Probe

        self._contenders = importlib.import_module(f"benchmarks.{family}").contenders
        self._probe = Probe()
        self._cold = cold
        self._ready: dict[str, Any] = {}

    def prepare(self, shape: Shape, wanted: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Builds, checks and warms up. For each contender, ``seconds`` of a call and ``note``, or ``error``."""
        from benchmarks import checks, shapes

        self._ready.clear()
        shapes.make_case.cache_clear()
        gc.collect()
        if "mindspore" in sys.modules:  # its graphs keep the tensors of their last call, gigabytes of caches
            sys.modules["mindspore"].ms_memory_recycle()
        report: dict[str, dict[str, Any]] = {}
        case = shapes.make_case(shape)
        contenders = self._contenders(shape, case, self._probe.flush)
        # A rival that fails is reported. It must not end the run, nor keep the next one from being timed.
        while missing := [name for name in wanted if name not in report]:
            try:
                contender = next(contenders)
            except Exception as error:  # it cannot be made, nor can those after it
                report |= dict.fromkeys(missing, _failure(error))
                break
            if contender.name not in missing:
                continue
            try:
                checks.forget(case)
                contender.before()
                checks.check(shape, case, contender.arrays(contender.call()), checks.sample(shape.t))
                self._ready[contender.name] = contender
                report[contender.name] = {"seconds": self.measure(contender.name)[0], "note": contender.note}
            except Exception as error:
                self._ready.pop(contender.name, None)
                report[contender.name] = _failure(error)
        return report

    def measure(self, name: str, pages: str = PAGES[0]) -> tuple[float, float]:
        """Seconds of one call, and GB/s of the flush before it. A hot call follows an untimed one, and GB/s are 0."""
        contender = self._ready[name]
        contender.before()
        if self._cold:
            rate = self._probe.flush(pages)
        else:
            rate = 0.0
            contender.call()
        start = time.perf_counter()
        contender.call()
        return time.perf_counter() - start, rate


def _failure(error: Exception) -> dict[str, Any]:
    """The report of a contender that cannot be timed."""
    traceback.print_exception(error)
    return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


def _serve(connection: Connection, family: str, cold: bool) -> None:
    hall = Hall(family, cold)
    while True:
        try:
            method, args = connection.recv()
        except EOFError:  # the parent is gone
            return
        connection.send(getattr(hall, method)(*args))


class Worker:
    """A `Hall` in a process of its own.

    Args:
        timeout: seconds that one request may take. After that the process is ended, and the next request starts one.
    """

    def __init__(self, family: str, cold: bool, timeout: float) -> None:
        self._args = (family, cold)
        self._timeout = timeout
        self._process: multiprocessing.process.BaseProcess | None = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, *self._args), daemon=True)
        self._process.start()
        other.close()

    def request(self, method: str, *args: Any) -> Any:
        """Calls a method of the `Hall`.

        Raises:
            RuntimeError: it took too long, or the process died.
        """
        if self._process is None:
            self._start()
        try:
            self._connection.send((method, args))
            if self._connection.poll(self._timeout):
                return self._connection.recv()
            reason = f"no answer in {self._timeout:g} s"
        except (EOFError, ConnectionError):
            reason = "the process died (out of memory?)"
        self.close()
        raise RuntimeError(reason)

    def close(self) -> None:
        """Ends the process, which frees its memory. The next request starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


def set_environment(threads: int) -> None:
    """Gives all contenders the same number of threads, and torch's allocator huge pages too."""
    if threads:
        os.environ["MS_DSV32_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("GLOG_v", "3")
