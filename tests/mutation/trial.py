"""Tries one fault in a copy of the checkout."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mutation.catalogue import Fault
from mutation.copies import BuildError, Copy, Run, lacking

_LONGEST = 600
"""Seconds that a fault's tests may take if the list has no time for them."""
_PATIENCE = 30
"""A fault counts as hung after three times the known time and so many seconds."""


@dataclass(frozen=True)
class Outcome:
    """What became of a fault.

    Attributes:
        status: caught, survived, equivalent, skipped or error. catcher: the test that failed, or how pytest ended.
        seconds: what building and the tests took with the fault. why: what went wrong, for an error.
    """

    fault: Fault
    status: str
    catcher: str = ""
    seconds: float = 0.0
    why: str = ""


class Baseline:
    """Results of tests without a fault; each is run once for the same kernels."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[str, ...]], Run] = {}

    def run(self, copy: Copy, tests: str, isas: tuple[str, ...]) -> Run:
        if (tests, isas) not in self._known:
            copy.build(isas)
            self._known[tests, isas] = copy.pytest(tests, _LONGEST)
        return self._known[tests, isas]

    def lacks(self, copy: Copy, fault: Fault, isas: tuple[str, ...]) -> str:
        """What is wrong with the fault's tests without it: one fails, or a run has none that passes; or ""."""
        for tests in fault.tests:
            run = self.run(copy, tests, isas)
            if run.status != 0 or run.passed == 0:
                what = run.failed or f"pytest ends with {run.status}"
                return f"{tests} does not pass without the fault: {what}\n{run.output[-2000:]}"
        return ""


def attempt(copy: Copy, fault: Fault, baseline: Baseline, usual: tuple[str, ...]) -> Outcome:
    """Runs the fault's tests with the fault: one must fail.

    The tests must pass without the fault. This function checks that if no test failed, or if a signal or a time-out is
    the catch. If a test failed, `confirmed` checks it, for many faults at once. The kernels are built for the `usual`
    instruction sets, unless the fault asks for others.
    """
    if fault.equivalent:
        return Outcome(fault, "equivalent", why=fault.equivalent)
    if without := lacking(fault):
        return Outcome(fault, "skipped", why=f"this machine has no {without}")
    isas = fault.isas or usual
    limits = [_LONGEST if fault.seconds is None else 3 * fault.seconds + _PATIENCE for _ in fault.tests]
    try:
        copy.build(isas)
        if fault.hangs or fault.crashes:
            if why := baseline.lacks(copy, fault, isas):
                return Outcome(fault, "error", why=why)
            limits = [math.ceil(3 * baseline.run(copy, tests, isas).seconds + _PATIENCE) for tests in fault.tests]
    except BuildError as error:
        return Outcome(fault, "error", why=f"the kernels cannot be built without the fault: {error}")
    began = time.monotonic()

    def outcome(status: str, catcher: str = "", why: str = "") -> Outcome:
        return Outcome(fault, status, catcher, time.monotonic() - began, why)

    try:
        with copy.with_fault(fault):
            for tests, limit in zip(fault.tests, limits, strict=True):
                run = copy.pytest(tests, limit)
                if run.status != 0:
                    return _judge(run, fault, limit, outcome)
            survived = outcome("survived")
    except BuildError as error:
        return outcome("error", why=f"does not compile: {error}")
    except ValueError as error:
        return outcome("error", why=str(error))
    why = baseline.lacks(copy, fault, isas)
    return replace(survived, status="error", why=why) if why else survived


def confirmed(copy: Copy, outcomes: Sequence[Outcome], baseline: Baseline, usual: tuple[str, ...]) -> Iterator[Outcome]:
    """The outcomes. Those whose catcher also fails without the fault become errors.

    The catchers of all faults are one run of pytest. Where one of them fails, the tests of its faults are run alone.
    """
    caught = [o for o in outcomes if o.status == "caught" and not (o.fault.hangs or o.fault.crashes)]
    passing: dict[tuple[str, ...], set[str]] = {}
    for outcome in outcomes:
        isas = outcome.fault.isas or usual
        if outcome not in caught:
            yield outcome
            continue
        if isas not in passing:
            copy.build(isas)
            passing[isas] = _passing(copy, {o.catcher for o in caught if (o.fault.isas or usual) == isas})
        why = "" if outcome.catcher in passing[isas] else baseline.lacks(copy, outcome.fault, isas)
        yield replace(outcome, status="error", why=why) if why else outcome


def _passing(copy: Copy, tests: set[str]) -> set[str]:
    """Those of the tests that pass in one run; none if it ends otherwise than by a test that fails."""
    while tests:
        run = copy.pytest(shlex.join(sorted(tests)), _LONGEST + _PATIENCE * len(tests))
        if run.status == 0 and run.passed == len(tests):
            break
        tests = tests - {run.failed} if run.status == 1 and run.failed in tests else set()
    return tests


def _judge(run: Run, fault: Fault, limit: float, outcome: Callable[..., Outcome]) -> Outcome:
    """The outcome of a run that did not pass: a test has caught the fault, or something else went wrong."""
    if run.status is None:
        text = f"no end within {limit:.0f} s"
        return outcome("caught", text) if fault.hangs else outcome("error", why=text)
    if run.status < 0:
        text = f"signal {-run.status}"
        return outcome("caught", text) if fault.crashes else outcome("error", why=f"{text}\n{run.output[-2000:]}")
    if run.status != 1 or not run.failed:
        return outcome("error", why=f"pytest ends with {run.status}\n{run.output[-2000:]}")
    if "does not compile" in run.failure and fault.file.endswith((".cc", ".cpp", ".h")):
        return outcome("error", why=f"does not compile in {run.failed}: {run.failure[-2000:]}")
    return outcome("caught", run.failed)
