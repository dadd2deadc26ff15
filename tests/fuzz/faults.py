"""What happens to a process while operators run: threads, fork(), signals, Ctrl-C, memory that the system refuses.

Each trial is a process of its own, which calls operators through the kernel library and through MindSpore. It has to
end in time, well, and with the right bits.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_SECONDS = 60  # that a trial may take: it takes a few
_SCRIPT = Path(__file__).with_name("fault_process.py")


class Faults:
    """Runs ``fault_process.py`` with the fault, seed and index of a trial."""

    subjects = ("threads", "fork", "signals", "interrupt", "memory")

    def __init__(self) -> None:
        self._command: list[str] = []

    def draw(self, subject: str, seed: int, index: int) -> tuple[str, str]:
        self._command = [sys.executable, "-X", "faulthandler", str(_SCRIPT), subject, str(seed), str(index)]
        return subject, "a process"

    def run(self) -> None:
        with subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                output, _ = process.communicate(timeout=_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                raise AssertionError(f"the process hangs: {output[-1500:]}") from None
        assert process.returncode == 0, f"the process ended with status {process.returncode}: {output[-1500:]}"
        assert output.endswith("well\n"), output[-1500:]

    def finish(self) -> Iterator[tuple[str, str]]:
        return iter(())
