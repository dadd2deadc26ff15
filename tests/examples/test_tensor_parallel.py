"""The example of several ranks: under msrun both splits agree with one rank, and a difference ends it with an error."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

psutil = pytest.importorskip("psutil")  # MindSpore's own, for msrun

pytestmark = [pytest.mark.mindspore, pytest.mark.slow]
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "tensor_parallel.py"
SMALL = ("--heads", "4", "--batch", "1", "--kv-len", "200", "--steps", "2")  # two blocks of keys
SECONDS = 180  # a run takes some 20, most of them waiting


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def of_port(port: int) -> Iterator[psutil.Process]:
    """The processes that a msrun with this port has started, and that are still there; some are groups of their own."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("MS_SCHED_PORT") == str(port) and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def msrun(ranks: int, *options: str) -> tuple[int | None, list[str], str]:
    """The exit status, or None if there was none in time; what each rank printed; and what shows a failure."""
    port, logs = free_port(), Path("logs").absolute()
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # msrun starts `python`
        "MS_RETRY_INTERVAL_LOWER": "1",  # seconds; connected sooner
        "MS_RETRY_INTERVAL_UPPER": "1",
        "MS_NODE_TIMEOUT": "5",  # seconds until the scheduler gives up a rank that has died
        "MS_CPU_COMM_OP_TIMEOUT": "120",  # seconds that a collective waits for a rank that is late
    }
    command = [shutil.which("msrun", path=environment["PATH"]) or "msrun", "--join=True", f"--log_dir={logs}"]
    command += [f"--worker_num={ranks}", f"--local_worker_num={ranks}", f"--master_port={port}"]
    command += ["--cluster_time_out=60", str(EXAMPLE), *options]
    status: int | None = None
    left: list[int] = []
    with Path("output").open("w") as output, contextlib.suppress(subprocess.TimeoutExpired):
        status = subprocess.run(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=SECONDS, check=False
        ).returncode
    for process in of_port(port):
        left.append(process.pid)
        process.kill()
    texts = [Path("output"), *(logs / f"{name}.log" for name in ("scheduler", *(f"worker_{n}" for n in range(ranks))))]
    printed = [path.read_text() if path.exists() else "" for path in texts]
    everything = "\n".join(text[-3000:] for text in printed)
    assert status is None or not left, f"msrun has ended and left the processes {left}\n{everything}"
    return status, printed[2:], everything


@pytest.mark.parametrize(
    ("split", "mode", "ranks"), [("heads", "graph", 2), ("keys", "graph", 2), ("keys", "pynative", 3)]
)
def test_the_ranks_agree_with_one(split: str, mode: str, ranks: int) -> None:
    status, printed, everything = msrun(ranks, *SMALL, "--split", split, "--mode", mode)
    assert status == 0, everything
    for rank, text in enumerate(printed):
        assert f"rank {rank} of {ranks} that share the {split}; 4 heads, {mode} mode" in text
        assert "check passed" in text


def test_a_difference_is_an_error() -> None:
    status, printed, everything = msrun(2, *SMALL, "--mode", "pynative", "--limit", "1e-5")
    assert status == 1, everything
    assert any("check FAILED" in text for text in printed), everything


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((), "this is for several ranks: msrun --worker_num=2 --local_worker_num=2 --join=True"),
        (("--heads", "129"), "--heads must be in [1, 128], got 129"),
    ],
    ids=["without msrun", "a bad option"],
)
def test_refuses(options: tuple[str, ...], text: str) -> None:
    result = subprocess.run([sys.executable, str(EXAMPLE), *options], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert text in result.stderr
