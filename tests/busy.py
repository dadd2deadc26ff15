"""Threads that keep the library busy while a test does something else."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def calling(call: Callable[[], Any], threads: int) -> Iterator[None]:
    """So many threads call `call` again and again, until the block ends."""
    end = threading.Event()

    def work() -> None:
        while not end.is_set():
            call()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        end.set()
        for worker in workers:
            worker.join()
