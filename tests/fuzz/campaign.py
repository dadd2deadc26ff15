"""Starts workers, watches them, and says how to repeat a trial that failed."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import ms_dsv32
from fuzz.worker import Job
from ms_dsv32 import op_info

TESTS = Path(__file__).resolve().parents[1]
_FOLDERS = ("", "kernels", "ops", "weights", "ascend", "ascend_virtual", "ascend_host", "ascendc_emulator")
_SILENCE = 180  # seconds without a line after which a worker counts as hung: compiling a graph takes a few
_SHOWN = 3000  # characters of either end

OPERATORS = op_info.names()
SUBJECTS: dict[str, tuple[str, ...]] = {
    "library": OPERATORS,
    "pynative": OPERATORS,
    "graph": OPERATORS,
    "jit": OPERATORS,
    "ascend": OPERATORS,
    "files": ("header", "layer"),
    "faults": ("threads", "fork", "signals", "interrupt", "memory"),
}
"""What each path can be tried on."""


@dataclass(frozen=True)
class Failure:
    """A trial that failed."""

    subject: str
    index: int
    what: str
    error: str
    command: str
    """Runs the trial again."""

    def __str__(self) -> str:
        return f"{self.subject} {self.index}: {self.what}\n  {self.error}\n  {self.command}"


@dataclass
class Result:
    """What became of a job: how many trials of each subject and kind, and which failed."""

    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


def command(job: Job, subject: str, index: int, environment: Mapping[str, str]) -> str:
    """The line that runs one trial again."""
    words = [
        "python",
        "-m",
        "tests.fuzz",
        "--path",
        job.path,
        "--on",
        subject,
        "--seed",
        str(job.seed),
        "--index",
        str(index),
    ]
    if job.good != Job.good:
        words += ["--good", str(job.good)]
    if job.threads:
        words += ["--threads", str(job.threads)]
    settings = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return " ".join([*settings, *words])


def environment_of(job: Job, given: Mapping[str, str]) -> dict[str, str]:
    """The variables of a worker."""
    variables: dict[str, str] = dict(os.environ)
    if job.path == "ascend":
        from device import environment

        variables = environment()
    package = Path(ms_dsv32.__file__).resolve().parents[1]
    folders = [*(str(TESTS / folder) for folder in _FOLDERS), str(package), variables.get("PYTHONPATH", "")]
    # The golden reference's products are small, and on a busy machine NumPy's threads would wait for one another.
    quiet = {"GLOG_v": "3", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**variables, **quiet, "PYTHONPATH": ":".join(filter(None, folders)), **given}


def run(
    job: Job, environment: Mapping[str, str] | None = None, tell: Callable[[Result], None] = lambda result: None
) -> Result:
    """Runs a job in a process of its own.

    Args:
        environment: variables of the process, such as the instruction set. tell: called when there is something new.

    Returns:
        What became of it. A process that died or hung is a failure of the trial that it ran.
    """
    given, result = dict(environment or {}), Result()
    with tempfile.TemporaryDirectory(prefix="ms_dsv32_fuzz_") as folder:
        output, state = Path(folder, "output"), Path(folder, "state")
        state.write_text("")
        arguments = json.dumps(asdict(replace(job, state=str(state))))
        with output.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "fuzz.worker", arguments],
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment_of(job, given),
                cwd=folder,
                start_new_session=True,
            )
        hung = not _read(process, job, given, result, tell)
        if hung:
            process.send_signal(signal.SIGABRT)  # faulthandler writes down where its threads are
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        if hung or status:
            how = f"said nothing for {_SILENCE} s" if hung else _end(status)
            subject, index = state.read_text().split() or ("", "0")
            text = f"the process {how}\n{_brief(output.read_text(errors='replace'))}"
            again = command(job, subject, int(index), given)
            result.failures.append(Failure(subject, int(index), "the last trial", text, again))
            tell(result)
    return result


def _read(
    process: subprocess.Popen[bytes], job: Job, given: Mapping[str, str], result: Result, tell: Callable[[Result], None]
) -> bool:
    """Takes what a worker says until it ends; False if it is silent for too long."""
    assert process.stdout is not None
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(_SILENCE):
            read = os.read(process.stdout.fileno(), 1 << 16)
            if not read:
                return True
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                _take(json.loads(line), job, given, result)
            tell(result)
    return False


def _take(line: dict[str, Any], job: Job, given: Mapping[str, str], result: Result) -> None:
    if "counts" in line:
        result.counts = {(subject, kind): count for subject, kind, count in line["counts"]}
        return
    failure = line["failure"]
    again = command(job, failure["subject"], failure["index"], given)
    result.failures.append(Failure(**failure, command=again))


def _brief(text: str) -> str:
    """The beginning and the end of a process's output. The beginning is where a sanitizer says what is wrong."""
    return text if len(text) < 2 * _SHOWN else f"{text[:_SHOWN]}\n[...]\n{text[-_SHOWN:]}"


def _end(status: int) -> str:
    return f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def isas() -> Sequence[str]:
    """The instruction sets of this machine, best first."""
    from ms_dsv32 import kernel_impl

    return kernel_impl.isas()
