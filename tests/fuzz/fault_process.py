"""A process with a fault, see `faults`: ``python fault_process.py FAULT SEED INDEX``. It prints "well" at the end."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import busy
import calls
import cases
from cases import Array

from fuzz.draw import Rng, generator, pick
from ms_dsv32 import kernel_impl

_SECONDS = 1.5  # that a fault lasts
_HANG = 40  # seconds after which a process says where its threads are, and dies


def make_calls(rng: Rng) -> list[Callable[[], bool]]:
    """Calls of operators, each of which returns whether it gave the same bits as its first time."""
    made: list[Callable[[], bool]] = []
    for case in (
        cases.indexer_case(1, 1, int(rng.integers(100, 3000)), selected_count=8),
        cases.attention_case(1, 2, 2, 200, topk=64),
        cases.mla_epilog_case(2, 1, 1),
    ):
        for way in (calls.bare, lambda case: calls.run(case, "pynative")):

            def call(case: cases.Case = case, way: Callable[[cases.Case], dict[str, Array]] = way) -> dict[str, Array]:
                return way(case)

            want = call()
            made.append(lambda call=call, want=want: _same(call(), want))
    return made


def _same(got: dict[str, Array], want: dict[str, Array]) -> bool:
    return all(got[name].tobytes() == array.tobytes() for name, array in want.items())


def background(made: list[Callable[[], bool]], rng: Rng) -> contextlib.AbstractContextManager[None]:
    """Threads that call all the time."""
    chosen = [pick(rng, made) for _ in range(int(pick(rng, (1, 2, 4))))]
    turn = iter(range(1 << 60))
    return busy.calling(lambda: chosen[next(turn) % len(chosen)](), threads=len(chosen))


def until(seconds: float) -> Callable[[], bool]:
    """Tells whether there is time left."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def threads(made: list[Callable[[], bool]], rng: Rng) -> None:
    """Threads call, while the number of the kernels' threads changes."""
    wrong: list[str] = []

    def work(call: Callable[[], bool]) -> None:
        more = until(_SECONDS)
        while more() and not wrong:
            if not call():
                wrong.append("other bits")

    workers = [threading.Thread(target=work, args=(pick(rng, made),)) for _ in range(6)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        kernel_impl.set_thread_count(int(pick(rng, (0, 1, 2, 3, 8))))
        time.sleep(0.01)
    assert not wrong, wrong


def fork(made: list[Callable[[], bool]], rng: Rng) -> None:
    """Children of a process in the middle of calls."""
    more = until(_SECONDS)
    with background(made, rng):
        while more():
            call = pick(rng, made)
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                kernel_impl.set_thread_count(int(pick(rng, (0, 2))))
                os._exit(not call())
            _, status = os.waitpid(child, 0)
            assert status == 0, f"a child ended with {status}"


def signals(made: list[Callable[[], bool]], rng: Rng) -> None:
    """A handler calls operators in the middle of a call of the main thread."""
    handled: list[bool] = []
    inner, outer = pick(rng, made), pick(rng, made)
    signal.signal(signal.SIGALRM, lambda *_: handled.append(inner()))
    signal.setitimer(signal.ITIMER_REAL, 0.002, float(pick(rng, (0.003, 0.011, 0.05))))
    more = until(_SECONDS)
    while more() or not handled:
        assert outer()
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert all(handled), "other bits in a handler"


def interrupt(made: list[Callable[[], bool]], rng: Rng) -> None:
    """Ctrl-C, again and again, wherever the main thread is."""
    interrupted = 0
    more = until(_SECONDS)
    while more() or not interrupted:
        timer = threading.Timer(float(rng.random()) * 0.02, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            while timer.is_alive():
                assert pick(rng, made)()
            time.sleep(1)  # the signal comes now, if it has not come yet
        except KeyboardInterrupt:
            interrupted += 1
        timer.join()
    for call in made:
        assert call()


def memory(made: list[Callable[[], bool]], rng: Rng) -> None:
    """The system refuses memory: an error says so, nothing is written, and with enough memory the call works."""
    kernel_impl.set_thread_count(int(pick(rng, (1, 2))))
    case = cases.mla_prolog_case(int(pick(rng, (1, 30, 300))), 1, kv_lens=1, n_q=1)
    caches = cases.IN_PLACE[case.operator]
    limits = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for _ in range(8):
        inputs, failed = case.copy().inputs, None
        resource.setrlimit(resource.RLIMIT_AS, (size + int(rng.integers(0, 64 << 20)), limits[1]))
        try:
            kernel_impl.call(case.operator, inputs, case.attributes)
        except (RuntimeError, MemoryError) as error:
            failed = error
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        if failed is None:
            continue
        # A MemoryError comes from NumPy, which allocates the outputs.
        text = str(failed)
        assert isinstance(failed, MemoryError) or text.startswith((f"{case.operator}: ", "ms_dsv32: ")), text
        for name in caches:
            assert inputs[name].tobytes() == case.inputs[name].tobytes(), f"{name} was written"
    for call in made:
        assert call()


def main(fault: str, seed: int, index: int) -> None:
    """The process."""
    faulthandler.dump_traceback_later(_HANG, exit=True)
    rng = generator(fault, seed, 1, index)
    made = make_calls(rng)
    faults: dict[str, Any] = {f.__name__: f for f in (threads, fork, signals, interrupt, memory)}
    faults[fault](made, rng)
    print("well")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
