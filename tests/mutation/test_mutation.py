"""The list of faults is in step with the files, and those of the day are caught."""

from __future__ import annotations

import contextlib
import datetime
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mutation import catalogue, report
from mutation.catalogue import ROOT, Fault
from mutation.copies import BuildError, Run
from mutation.trial import Baseline, attempt, confirmed

LIST = catalogue.load()
A_FAULT = Fault("cpu", "cpu-a-fault", "a.cc", "n + 1", "n", ("tests/test_a.py",), seconds=3)


@pytest.mark.parametrize("fault", LIST, ids=lambda fault: fault.id)
def test_a_fault_can_be_made_and_its_tests_are_there(fault: Fault) -> None:
    assert fault.id.startswith(f"{fault.layer}-")
    assert fault.applied((ROOT / fault.file).read_text(encoding="utf-8"))
    for tests in fault.tests:
        words = shlex.split(tests)
        assert words
        for word in words:
            path, _, name = word.partition("::")
            if path.startswith("tests/"):
                assert (ROOT / path).exists(), path
                assert not name or f"def {name.partition('[')[0]}(" in (ROOT / path).read_text(encoding="utf-8"), word


def test_a_fault_needs_its_text_exactly_once() -> None:
    assert A_FAULT.applied("f(n + 1);") == "f(n);"
    for text in ("f(n);", "f(n + 1, n + 1);"):
        with pytest.raises(ValueError, match="expected once"):
            A_FAULT.applied(text)
    with pytest.raises(ValueError, match="the same"):
        replace(A_FAULT, after=A_FAULT.before).applied("f(n + 1);")


ENTRY = "- id: x-a\n  file: a.cc\n  before: a\n  after: b\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml"),
        (ENTRY, "x-a"),  # neither tests nor a reason
        (f'{ENTRY}  tests: [tests/a.py]\n  equivalent: "it is the same sum in another order"\n', "x-a"),
        (f"{ENTRY}  tests: [a.py]\n", "a.py"),
        (f"{ENTRY}  tests: [tests/a.py]\n  isas: [sse]\n", "sse"),
        (f"{ENTRY}  test: [tests/a.py]\n", "x-a"),
        (f"{ENTRY}  tests: [tests/a.py]\n" * 2, "several faults have the id x-a"),
    ],
)
def test_a_wrong_list_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        catalogue.load(tmp_path)


def test_the_days_choice_is_balanced_and_cheap() -> None:
    cheap = [replace(A_FAULT, layer=f"l{i % 3}", id=f"l{i % 3}-{i}") for i in range(30)]
    dear = [
        replace(A_FAULT, layer="l0", id="l0-slow", seconds=catalogue.CHEAP + 1),
        replace(A_FAULT, layer="l0", id="l0-new", seconds=None),
        replace(A_FAULT, layer="l0", id="l0-isa", isas=("amx",)),
        replace(A_FAULT, layer="l0", id="l0-ascend", tests=("tests/ascend/test_a.py",)),
        replace(A_FAULT, layer="l0", id="l0-equivalent", equivalent="it changes nothing"),
    ]
    one, same, other = (
        catalogue.of_the_day(faults, datetime.date(2026, 12, day), 7)
        for faults, day in ((cheap + dear, 2), (dear + cheap[::-1], 2), (cheap + dear, 3))
    )
    assert one == same
    assert one != other
    assert sorted(sum(fault.layer == layer for fault in one) for layer in ("l0", "l1", "l2")) == [2, 2, 3]
    assert set(catalogue.of_the_day(cheap + dear, datetime.date(2026, 12, 2), 99)) == set(cheap)


@pytest.mark.parametrize("day", range(1, 8))
def test_every_layer_has_a_fault_of_the_day(day: int) -> None:
    chosen = catalogue.of_the_day(LIST, datetime.date(2026, 12, day), 12)
    assert {fault.layer for fault in chosen} == {fault.layer for fault in LIST}


def test_what_faults_took_is_written_into_the_list(tmp_path: Path) -> None:
    first, second = (
        f"{ENTRY}  tests: [tests/a.py]  # a remark\n",
        ENTRY.replace("x-a", "x-b") + "  tests: [tests/b.py]\n",
    )
    path = tmp_path / "x.yaml"
    path.write_text(f"# The layer.\n{first}\n{second}  seconds: 9\n")
    catalogue.write_seconds({"x-a": 4, "x-b": 5}, tmp_path)
    assert path.read_text() == f"# The layer.\n{first}  seconds: 4\n\n{second}  seconds: 5\n"
    assert [fault.seconds for fault in catalogue.load(tmp_path)] == [4, 5]


def test_the_page_has_the_figures_of_the_list(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Head.\n<!-- figures: written by --write -->\nold\n<!-- end of the figures -->\nTail.\n")
    report.write_page([A_FAULT, replace(A_FAULT, layer="x", id="x-b", equivalent="it changes nothing", tests=())], page)
    text = page.read_text()
    assert text.startswith("Head.\n")
    assert text.endswith("\nTail.\n")
    assert "old" not in text
    for line in ("| cpu | 1 | 1 | 0 | 3 |", "| x | 1 | 0 | 1 | 0 |", "| all | 2 | 1 | 1 | 3 |", "it changes nothing"):
        assert line in text
    assert report.figures(LIST) in (ROOT / "tests/mutation/README.md").read_text(encoding="utf-8"), (
        "run `python -m tests.mutation --only --write`"
    )


class FakeCopy:
    """A copy whose builds and runs of pytest end as a test says."""

    def __init__(self, *runs: Run, compiles: bool = True) -> None:
        self.runs = list(runs)
        self._compiles = compiles

    def build(self, isas: tuple[str, ...]) -> None:
        pass

    @contextlib.contextmanager
    def with_fault(self, fault: Fault) -> Iterator[None]:
        if not self._compiles:
            raise BuildError("a.cc:1: error")
        yield

    def pytest(self, arguments: str, seconds: float) -> Run:
        return self.runs.pop(0)


GOOD, CAUGHT = Run(0, 3, "", "", "", 1.0), Run(1, 2, "tests/test_a.py::test_b", "assert 1 == 2", "", 1.0)
ONE, NONE = replace(GOOD, passed=1), replace(GOOD, status=5, passed=0)
SKIPPED, KILLED, ENDLESS = replace(GOOD, passed=0), replace(GOOD, status=-11), replace(GOOD, status=None)


@pytest.mark.parametrize(
    ("runs", "changed", "status"),
    [
        pytest.param((CAUGHT, ONE), {}, "caught", id="caught"),
        pytest.param((CAUGHT, CAUGHT, CAUGHT), {}, "error", id="fails without the fault too"),
        pytest.param((CAUGHT, CAUGHT, GOOD), {}, "caught", id="a test that fails after others only"),
        pytest.param((CAUGHT, NONE, GOOD), {}, "caught", id="a test whose name pytest does not take"),
        pytest.param((GOOD, GOOD), {}, "survived", id="survived"),
        pytest.param((GOOD, SKIPPED), {}, "error", id="all skipped"),
        pytest.param((NONE,), {}, "error", id="no test"),
        pytest.param((replace(GOOD, status=2),), {}, "error", id="interrupted"),
        pytest.param((replace(GOOD, status=4),), {}, "error", id="wrong use of pytest"),
        pytest.param((replace(CAUGHT, failure="a.cpp does not compile: .."),), {}, "error", id="does not compile"),
        pytest.param((ENDLESS,), {}, "error", id="endless"),
        pytest.param((GOOD, ENDLESS), {"hangs": True}, "caught", id="endless as expected"),
        pytest.param((CAUGHT,), {"hangs": True}, "error", id="endless expected, fails without the fault"),
        pytest.param((KILLED,), {}, "error", id="killed"),
        pytest.param((GOOD, KILLED), {"crashes": True}, "caught", id="killed as expected"),
        pytest.param(
            (GOOD, CAUGHT, ONE), {"tests": ("tests/test_a.py", "tests/test_b.py")}, "caught", id="caught by the second"
        ),
        pytest.param((), {"tests": (), "equivalent": "it changes nothing"}, "equivalent", id="equivalent"),
    ],
)
def test_what_becomes_of_a_fault(runs: tuple[Run, ...], changed: dict[str, Any], status: str) -> None:
    copy: Any = FakeCopy(*runs)
    baseline = Baseline()
    outcome = attempt(copy, replace(A_FAULT, **changed), baseline, ("portable",))
    (outcome,) = confirmed(copy, [outcome], baseline, ("portable",))
    assert outcome.status == status
    assert not copy.runs


def test_a_fault_that_does_not_compile_is_not_caught() -> None:
    copy: Any = FakeCopy(compiles=False)
    outcome = attempt(copy, A_FAULT, Baseline(), ("portable",))
    assert (outcome.status, outcome.why) == ("error", "does not compile: a.cc:1: error")


def mutation(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the command line."""
    command = [sys.executable, "-m", "tests.mutation", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "COLUMNS": "150"}, capture_output=True, text=True)


@pytest.mark.mindspore
@pytest.mark.slow
def test_the_faults_of_the_day_are_caught(tmp_path: Path) -> None:
    choice = ("--day", datetime.date.today().isoformat(), "--count", "12")
    print("python -m tests.mutation", *choice)
    result = mutation(*choice, "--json", tmp_path / "report.json")
    print(result.stdout)
    assert result.returncode == 0, result.stderr
    assert "12 caught" in result.stdout
