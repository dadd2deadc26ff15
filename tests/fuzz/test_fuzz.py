"""Some trials on every path, always the same ones; ``python -m tests.fuzz`` runs others for as long as one likes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fuzz import campaign, paths
from fuzz.worker import Job
from ms_dsv32 import kernel_impl, op_info

SEED = 18
"""Every run of the suite has the same trials, so that a new failure comes from a change of the code."""


def assert_well(job: Job, calls: int, **environment: str) -> None:
    """All trials of a job are run, and none fails."""
    result = campaign.run(job, environment)
    assert not result.failures, "\n".join(map(str, result.failures))
    assert sum(result.counts.values()) == calls


def job(path: str, calls: int, **options: Any) -> Job:
    return Job(path, campaign.SUBJECTS[path], SEED, calls=calls, **options)


def test_the_kernel_library() -> None:
    assert_well(job("library", 900), 900)


@pytest.mark.isa
@pytest.mark.slow
@pytest.mark.parametrize("isa", kernel_impl.isas()[1:])
def test_other_instruction_sets(isa: str) -> None:
    assert_well(job("library", 300), 300, MS_DSV32_CPU_ISA=isa)


@pytest.mark.mindspore
@pytest.mark.slow
@pytest.mark.parametrize(("path", "calls"), [("pynative", 240), ("graph", 36), ("jit", 24)])
def test_through_mindspore(path: str, calls: int) -> None:
    assert_well(job(path, calls), calls)


@pytest.mark.mindspore
@pytest.mark.ascend
@pytest.mark.slow
def test_on_ascend() -> None:
    assert_well(job("ascend", 12), 12)


def test_weight_files() -> None:
    assert_well(job("files", 300), 300)


@pytest.mark.mindspore
@pytest.mark.slow
def test_process_faults() -> None:
    assert_well(job("faults", 5), 5)


def test_a_process_that_dies_is_a_failure() -> None:
    result = campaign.run(job("library", 6), {"PYTHONPATH": ""})
    (failure,) = result.failures
    assert "the process ended with status 1" in failure.error


def test_a_failure_can_be_run_again() -> None:
    result = campaign.run(job("library", 6), {"MS_DSV32_CPU_ISA": "sse9"})
    assert len(result.failures) == 6
    variable, python, *words = result.failures[-1].command.split()
    assert (variable, python) == ("MS_DSV32_CPU_ISA=sse9", "python")
    again = subprocess.run(
        [sys.executable, *words],
        cwd=campaign.TESTS.parent,
        env=os.environ | {"MS_DSV32_CPU_ISA": "sse9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 1
    assert result.failures[-1].subject in again.stdout
    assert "MS_DSV32_CPU_ISA=sse9" in again.stdout


# What a kernel might do wrong.

Arrays = dict[str, np.ndarray]


def first(outputs: tuple[np.ndarray, ...]) -> np.ndarray:
    return next(o for o in outputs if o.size)


def other_value(op: str, inputs: Arrays, outputs: tuple[np.ndarray, ...]) -> None:
    output = first(outputs)
    output.reshape(-1).view(np.uint8)[output.itemsize - 1] ^= 0x40


def other_row(op: str, inputs: Arrays, outputs: tuple[np.ndarray, ...]) -> None:
    index = inputs["cache_index"]
    free = np.setdiff1d(np.arange(inputs["kv_cache"].shape[0] * 128), index)
    inputs["kv_cache"].reshape(-1, 512)[free[0], 7] ^= 1


def an_input(op: str, inputs: Arrays, outputs: tuple[np.ndarray, ...]) -> None:
    inputs["cos"].reshape(-1)[:1] ^= 1


@pytest.mark.parametrize("defect", [other_value, other_row, an_input])
def test_a_kernel_with_a_defect_is_found(defect: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    call = kernel_impl.call

    def broken(op: str, inputs: Any, attrs: Any) -> Any:
        outputs = call(op, inputs, attrs)
        defect(op, inputs, outputs)
        return outputs

    library = paths.Library(threads=1)
    monkeypatch.setattr(library, "call", library._by_name)
    monkeypatch.setattr(kernel_impl, "call", broken)
    found = 0
    for index in range(60):
        kind, _ = library.draw("mla_prolog_quant", SEED, index)
        trial = library._trial
        assert trial is not None
        if kind == "good" and trial.case.paging.t and trial.compared[0] and trial.case.paging.cache_index.min() >= 0:
            with pytest.raises(AssertionError):
                library.run()
            found += 1
    assert found > 2


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (None, "the call was accepted"),
        (KeyError("mla_epilog_quant: w_uv attention_out w_o w_o_scale weight_format"), "raised KeyError"),
        (ValueError("w_uv has shape (1, 2)"), "the error names no operator"),
        (ValueError("mla_epilog_quant: wrong"), "the error names none of "),
    ],
)
def test_a_bad_refusal_is_found(error: Exception | None, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(kernel_impl, "call", refuse)
    library = paths.Library(threads=1)
    found = 0
    for index in range(20):
        kind, _ = library.draw("mla_epilog_quant", SEED, index)
        if kind not in ("good", "memory"):
            with pytest.raises(AssertionError, match=text):
                library.run()
            found += 1
    assert found > 5


def test_a_bad_call_that_writes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    call = kernel_impl.call

    def writes(op: str, inputs: Any, attrs: Any) -> Any:
        inputs["kv_cache"].reshape(-1)[0] ^= 1
        return call(op, inputs, attrs)

    monkeypatch.setattr(kernel_impl, "call", writes)
    library = paths.Library(threads=1)
    found = 0
    for index in range(60):
        if library.draw("mla_prolog_quant", SEED, index)[0] == "value":
            with pytest.raises(AssertionError, match="kv_cache was written"):
                library.run()
            found += 1
    assert found > 2


def test_every_operator_is_tried() -> None:
    assert set(campaign.OPERATORS) == set(op_info.names())
