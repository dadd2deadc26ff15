"""Reads what gcov counted in compiled code, and what coverage.py traced in Python: which lines and branches ran."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


_CONDITION = re.compile(r"\b(if|for|while|switch)\b|\?|&&|\|\||[<>=!]=| [<>] ")

_Line = tuple[int, bool, int, int]
"""Number, whether it ran, its branches, and how many of them were taken."""


@dataclass(frozen=True)
class Counts:
    """Lines and branches of one file or of many: how many there are, and how many ran."""

    lines: int = 0
    lines_run: int = 0
    branches: int = 0
    branches_run: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.lines + other.lines,
            self.lines_run + other.lines_run,
            self.branches + other.branches,
            self.branches_run + other.branches_run,
        )


@dataclass(frozen=True)
class Missed:
    """A line that did not run, or one with a branch that was never taken. `text` is the line, without its indent."""

    file: str
    line: int
    text: str
    branch: bool

    def __str__(self) -> str:
        what = "a branch was never taken" if self.branch else "never ran"
        return f"{self.file}:{self.line}: {what}: {self.text}"


@dataclass(frozen=True)
class Coverage:
    """What ran of some files, which are named from the checkout."""

    counts: dict[str, Counts]
    missed: list[Missed]

    @property
    def total(self) -> Counts:
        return sum(self.counts.values(), Counts())


def of_compiled(folder: Path, sources: Sequence[str]) -> Coverage:
    """What ran of the sources that these regular expressions match, by the counters that gcov left below `folder`.

    A line of a template ran if it did in one of its instances. Where GCC branches and the text has no condition, as
    around some intrinsics, there is no branch to count.
    """
    files: dict[str, _Merged] = {}
    for counted in sorted(folder.rglob("*.gcda")):
        for file in _unit(counted, sources)["files"]:
            files.setdefault(file["file"], _Merged()).add(file)
    return _coverage({name: list(merged.lines(name)) for name, merged in files.items()})


def _unit(counted: Path, sources: Sequence[str]) -> dict[str, Any]:
    """What gcovr says of the counters of one compilation."""
    options = ["--json", "-", "--root", str(ROOT), "--exclude-unreachable-branches", "--exclude-noncode-lines"]
    options += ["--merge-mode-functions=separate", "--gcov-ignore-errors=all"]  # sources that came from a pipe
    options += ["--gcov-suspicious-hits-threshold=0"]  # inner loops do run more than 2^32 times
    for source in sources:
        options += ["--filter", str(ROOT / source)]
    command = [sys.executable, "-m", "gcovr", *options, str(counted)]
    result = subprocess.run(command, cwd=counted.parent, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"gcovr failed on {counted}:\n{result.stderr[-3000:]}")
    unit: dict[str, Any] = json.loads(result.stdout)
    return unit


class _Merged:
    """The lines of one file, from all compilations."""

    def __init__(self) -> None:
        self._ran: dict[int, bool] = {}
        self._branches: dict[int, dict[tuple[int, int], bool]] = {}
        self._began: set[int] = set()  # where functions begin that ran
        self._silent: dict[int, int] = {}  # lines of functions that did not run, and where these begin

    def add(self, file: dict[str, Any]) -> None:
        """Adds what one compilation says.

        The linker keeps one copy of a function that several compilations have, and only that copy counts. So a
        function that did not run in a compilation tells nothing if it ran in another.
        """
        counted = [function for function in file["functions"] if "execution_count" in function]
        functions = {f.get("demangled_name", f.get("name")): f for f in counted}
        self._began |= {f["lineno"] for f in counted if f["execution_count"] > 0}
        for line in file["lines"]:
            number, function = line["line_number"], functions.get(line.get("function_name", ""))
            if function is not None and function["execution_count"] == 0:
                self._silent[number] = function["lineno"]
                continue
            self._ran[number] = self._ran.get(number, False) or line["count"] > 0
            # A block that ends with a call branches only where that call throws.
            calls = {call.get("source_block_id") for call in line.get("calls", ())}
            own = [b["count"] for b in line["branches"] if not b["throw"] and b.get("source_block_id") not in calls]
            taken = self._branches.setdefault(number, {})
            for place, count in enumerate(own):  # instances of a template number their branches alike
                key = (len(own), place)
                taken[key] = taken.get(key, False) or count > 0

    def lines(self, name: str) -> Iterator[_Line]:
        """All lines with code."""
        text = (ROOT / name).read_text(encoding="utf-8").splitlines()
        for number, begin in self._silent.items():
            if number not in self._ran and begin not in self._began:
                yield number, False, 0, 0
        for number, ran in self._ran.items():
            taken = self._branches.get(number, {}) if _CONDITION.search(text[number - 1]) else {}
            yield number, ran, len(taken), sum(taken.values())


def of_python(settings: Path) -> Coverage:
    """What ran of the package, by the records that coverage.py left where its settings say."""
    report = settings.with_name("python.json")
    for action in (["combine", "--keep", "-q"], ["json", "-q", "-o", str(report)]):
        command = [sys.executable, "-m", "coverage", *action, f"--rcfile={settings}"]
        subprocess.run(command, cwd=ROOT, check=True)
    files = json.loads(report.read_text(encoding="utf-8"))["files"]
    return _coverage({name: list(_traced(file)) for name, file in files.items()})


def _traced(file: dict[str, Any]) -> Iterator[_Line]:
    executed = {branch[0]: 0 for branch in (*file["executed_branches"], *file["missing_branches"])}
    every = dict(executed)
    for begin, _ in file["executed_branches"]:
        executed[begin] += 1
        every[begin] += 1
    for begin, _ in file["missing_branches"]:
        every[begin] += 1
    for number in (*file["executed_lines"], *file["missing_lines"]):
        yield number, number not in file["missing_lines"], every.get(number, 0), executed.get(number, 0)


def _coverage(files: dict[str, list[_Line]]) -> Coverage:
    counts, missed = {}, []
    for name, lines in sorted(files.items()):
        text = (ROOT / name).read_text(encoding="utf-8").splitlines()
        ran, branches, taken = (sum(line[i] for line in lines) for i in (1, 2, 3))
        counts[name] = Counts(len(lines), ran, branches, taken)
        for number, did_run, has, took in sorted(lines):
            if not did_run or took < has:
                missed.append(Missed(name, number, text[number - 1].strip(), did_run))
    return Coverage(counts, missed)
