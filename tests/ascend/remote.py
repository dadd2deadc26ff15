"""Runs tests in another process: one that has a device, while this one's MindSpore has none.

MindSpore fixes the device target, and the dynamic linker the libraries of CANN, when a process begins. So the tests of
this folder are collected here, and each is run by a second pytest, which reports what became of it. Options (``-s``,
``--tb``, ``--basetemp``) do not reach the second.
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
from typing import Any, Literal, TextIO

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
                start_new_session=True,  # so that what it started can be ended with it
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        os.close(tests_read)
        os.close(reports_write)
        self._pending = b""

    def run(self, item: pytest.Item, following: pytest.Item | None) -> Iterator[pytest.TestReport]:
        """The reports of a test. If the process died or does not answer, a report says that the test failed.

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
        yield failed(item, self._end())

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> str:
        """Lets the process end. Returns what it printed last, if it did not end well."""
        os.close(self._tests)
        try:
            status = self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._kill()
            status = self._process.wait()
        os.close(self._reports)
        text = self._output.read_text(errors="replace")[-_TAIL:]
        self._folder.cleanup()
        return text if status else ""

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
        """Ends a process that does not answer, if it is not dead already, and says what became of it."""
        try:
            status = self._process.wait(5)
            how = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        except subprocess.TimeoutExpired:
            how = f"did not answer for {_SECONDS} s"
            self._process.send_signal(signal.SIGABRT)  # pytest writes down where its threads are
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self._kill()
            self._process.wait()
        return f"the process that runs the tests {how}\n{self._output.read_text(errors='replace')[-_TAIL:]}"

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def failed(item: pytest.Item, text: str, when: Literal["call", "teardown"] = "call") -> pytest.TestReport:
    """The report of a test that did not run, or of one after which the process did not end well."""
    return pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "failed", text, when)


def serve(session: pytest.Session, pipes: str) -> None:
    """The loop of the second pytest: runs the tests that it is told, until the first pytest closes the pipe."""
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
