"""Runs tests in another process: one that has a device, while this one's MindSpore has none.

MindSpore fixes the device target, and the dynamic linker the libraries of CANN, when a process begins. So the tests of
this folder are collected here, and each is run by a second pytest, which reports what became of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import pytest

PIPES = "MS_DSV32_TEST_PIPES"
"""Names the two file descriptors that the second pytest reads tests from and writes reports to."""
_SECONDS = 600  # that a test may take
_TAIL = 20_000  # characters of output that are shown of a process that died


class Worker:
    """The second pytest, seen from the first."""

    def __init__(self, config: pytest.Config, environment: Mapping[str, str]) -> None:
        self._config = config
        self._folder = tempfile.TemporaryDirectory(prefix="ms_dsv32_")
        self._output = Path(self._folder.name) / "output"
        tests_read, self._tests = os.pipe()
        self._reports, reports_write = os.pipe()
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"]
        own = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [*command, str(Path(__file__).parent)],
                env={**own, PIPES: f"{tests_read},{reports_write}"},
                cwd=config.rootpath,
                pass_fds=(tests_read, reports_write),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        os.close(tests_read)
        os.close(reports_write)
        self._pending = b""

    def run(self, item: pytest.Item, following: pytest.Item | None) -> Iterator[pytest.TestReport]:
        """The reports of a test; one that failed if the process died of it or does not answer.

        Fixtures that the test shares with `following` stay.
        """
        line = json.dumps([item.nodeid, following.nodeid if following else None])
        with contextlib.suppress(BrokenPipeError):
            os.write(self._tests, line.encode() + b"\n")
        while (line := self._line()) is not None:
            if line == b"":
                return
            data = json.loads(line)
            yield self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
        keywords = dict.fromkeys(item.keywords, 1)
        yield pytest.TestReport(item.nodeid, item.location, keywords, "failed", self._end(), "call")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """Lets the process end."""
        os.close(self._tests)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        os.close(self._reports)
        self._folder.cleanup()

    def _line(self) -> bytes | None:
        """The next line; None if there will be none."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._reports, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                read = os.read(self._reports, 1 << 16) if selector.select(_SECONDS) else b""
                if not read:
                    return None
                self._pending += read
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _end(self) -> str:
        if self.alive:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
        status = self._process.wait()
        how = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        text = f"the process that runs the tests on the device {how}, or was ended after {_SECONDS} s"
        return f"{text}\n{self._output.read_text(errors='replace')[-_TAIL:]}"


def serve(session: pytest.Session, pipes: str) -> None:
    """The loop of the second pytest: runs the tests that it is told, until there is nobody to tell it."""
    tests, reports = (int(number) for number in pipes.split(","))
    items = {item.nodeid: item for item in session.items}
    with os.fdopen(tests, encoding="utf-8") as lines, os.fdopen(reports, "w", encoding="utf-8") as sink:
        for line in lines:
            nodeid, following = json.loads(line)
            _run(items[nodeid], items.get(following), sink)


def _run(item: pytest.Item, following: pytest.Item | None, sink: TextIO) -> None:
    from _pytest.runner import runtestprotocol

    hook = item.config.hook
    for report in runtestprotocol(item, log=False, nextitem=following):
        data: dict[str, Any] = hook.pytest_report_to_serializable(config=item.config, report=report)
        sink.write(json.dumps(data) + "\n")
    sink.write("\n")
    sink.flush()
