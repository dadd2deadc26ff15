"""Errors on the device, which the host learns late: which statement raises, and that the next call is right."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cases
import mindspore as ms
import pytest
import tolerance
import virtual
from calls import Call, mode, placeholders
from cases import IN_PLACE, Case, make
from mindspore import Tensor
from runs import attributes_of, calls_of, inputs_of, results_of, run

from ms_dsv32 import cells, weights

KINDS = (
    "tensors",
    "executors",
    "events",
    "scalars",
    "lists",
    "streams",
    "allocations",
    "host allocations",
    "memory blocks",
)
MODES = ("pynative", "jit", "graph", "dynamic")
REFUSED = "GetWorkspaceSize call failed"
NOT_ENOUGH = r"[Mm]emory not enough|no \d+ bytes of memory"
pytestmark = pytest.mark.cpu_kernels


@pytest.fixture(autouse=True)
def _no_failure_afterwards(only_virtual: None) -> Iterator[None]:
    yield
    virtual.put("FAIL_LAUNCH", 0)


@pytest.fixture(params=MODES)
def how(request: pytest.FixtureRequest) -> Iterator[str]:
    with mode("graph" if request.param in ("graph", "dynamic") else "pynative"):
        yield request.param


def made(case: Case, how: str) -> Callable[..., Any]:
    call: Any = Call(case.operator, attributes_of(case))
    if how == "dynamic":
        call.set_inputs(*placeholders(case))
    return ms.jit(call) if how == "jit" else call  # type: ignore[no-any-return]


def assert_caches_unchanged(case: Case, inputs: dict[str, Tensor]) -> None:
    for cache in IN_PLACE[case.operator]:
        tolerance.assert_same_bits(cache, weights.to_array(inputs[cache]), case.inputs[cache])


@pytest.mark.parametrize("operator", ["mla_prolog_quant", "sparse_flash_attention_quant"])
def test_a_kernel_that_fails(operator: str, how: str) -> None:
    """In graph mode the call itself raises; else the first statement that reads a result. MindSpore never runs a graph
    of graph mode again that has failed: a new one is needed."""
    case = make(operator, 2, 1, [3, 130], n_q=1)
    want = run(case, "pynative")
    call, inputs = made(case, how), inputs_of(case)
    tolerance.assert_same_outputs(results_of(case, call, inputs_of(case)), want)
    virtual.put("FAIL_LAUNCH", 1)
    with pytest.raises(RuntimeError, match=r"MsDsa\w+Quant: a fault that a test asked for"):
        results_of(case, call, inputs)
    assert virtual.get("FAILURES") == 1
    virtual.put("FAILURES", 0)
    assert_caches_unchanged(case, inputs)
    if how in ("graph", "dynamic"):
        with pytest.raises(RuntimeError, match="An error occurred in the previous step"):
            results_of(case, call, inputs_of(case))
        call = made(case, how)
    for _ in range(3):
        tolerance.assert_same_outputs(results_of(case, call, inputs_of(case)), want)
    tolerance.assert_same_outputs(run(case, "pynative"), want)


def test_a_cell_of_graph_mode_goes_on() -> None:
    """Our cells have MindSpore compile a graph again that has failed."""
    cell, case = cells.MLAEpilog(1), cases.mla_epilog_case(1, 1, 1)
    cell.set_weights({name: case.inputs[name] for name in ("w_uv", "w_o", "w_o_scale")})
    attention_out = inputs_of(case)["attention_out"]
    with mode("graph"):
        want = weights.to_array(cell(attention_out)).copy()
        virtual.put("FAIL_LAUNCH", 1)
        with pytest.raises(RuntimeError, match="MsDsaMlaEpilogQuant: a fault that a test asked for"):
            weights.to_array(cell(attention_out))
        virtual.put("FAILURES", 0)
        for _ in range(2):
            tolerance.assert_same_bits("hidden_out", weights.to_array(cell(attention_out)), want)


def test_calls_go_on_after_one_that_was_refused(how: str) -> None:
    """The tiling function refuses a device without cores, before the kernel is launched."""
    case = make("mla_prolog_quant", 3, 1, [3, 5, 7], n_q=1)
    call = made(case, how)
    with virtual.option("CORES", 0), pytest.raises(RuntimeError, match=REFUSED):
        results_of(case, call, inputs_of(case))
    hear_the_rest(REFUSED)
    again = call if how == "pynative" else made(case, how)  # MindSpore never runs a graph again that has failed
    tolerance.assert_same_outputs(results_of(case, again, inputs_of(case)), run(case, "pynative"))


def test_memory_that_does_not_suffice(how: str) -> None:
    small, large = make("mla_prolog_quant", 2, 1, [3, 130], n_q=1), cases.attention_case(64, 4, 128, 4, topk=16)
    want = run(small, "pynative")
    inputs = inputs_of(large)
    ms.runtime.synchronize()
    ms.runtime.empty_cache()
    with virtual.option("MEMORY_MB", 1), pytest.raises(RuntimeError, match=NOT_ENOUGH):
        results_of(large, made(large, how), inputs)
    hear_the_rest(NOT_ENOUGH)
    tolerance.assert_same_outputs(results_of(small, made(small, how), inputs_of(small)), want)


def hear_the_rest(text: str, seconds: float = 60) -> None:
    """Waits until MindSpore has told of a failure, whose message has `text`, as often as it does.

    A thread of MindSpore's that fails at a task keeps the error for a later statement. Then it fails every task in its
    queue, those too that are put there meanwhile, until it finds the queue empty: any number of statements, if one
    follows the other at once. So there is a pause before each. One that passes through the queues shows that the thread
    is done, and the synchronisation after it raises what was kept.
    """
    end = time.monotonic() + seconds
    while True:
        time.sleep(0.02)
        try:
            (ms.ops.zeros((1,), ms.float32) + 1).asnumpy()
            ms.runtime.synchronize()
            return
        except RuntimeError as error:
            if not re.search(text, str(error)) or time.monotonic() > end:
                raise


def counts() -> dict[str, int]:
    ms.runtime.synchronize()
    return {kind: virtual.live(kind) for kind in KINDS}


@pytest.mark.parametrize("operator", ["mla_prolog_quant", "lightning_indexer_quant"])
def test_nothing_is_left_of_many_calls(operator: str, how: str) -> None:
    """After a warm-up of ten calls, which are of two sizes in turn."""
    several = calls_of(operator, [(2, 1), (3, 1)])
    call = made(several[0], how)
    seen = []
    for i in range(60):
        case = several[i % 2]
        inputs = inputs_of(case)
        results_of(case, call, inputs)
        del inputs
        if i >= 10 and i % 10 == 9:
            seen.append(counts())
    assert all(now == seen[0] for now in seen[1:]), seen


@pytest.mark.parametrize("how", ["pynative", "jit"], indirect=True)
def test_nothing_is_left_of_calls_that_fail(how: str) -> None:
    case = make("mla_prolog_quant", 2, 1, [3, 130], n_q=1)
    call, seen = made(case, how), []
    for i in range(40):
        virtual.put("FAIL_LAUNCH", 1)
        with pytest.raises(RuntimeError, match="a fault that a test asked for"):
            results_of(case, call, inputs_of(case))
        if i % 10 == 9:
            seen.append(counts())
    virtual.put("FAILURES", 0)
    assert all(now == seen[0] for now in seen[1:]), seen


CONFTEST = """
import importlib.util

spec = importlib.util.spec_from_file_location("of_the_folder", {path!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
_device = module._device
"""
LEAVES_AN_ERROR = """
import mindspore as ms
import virtual


def test_that_leaves_an_error():
    zeros = ms.ops.zeros((4,), ms.int8)
    virtual.put("FAIL_LAUNCH", 1)
    zeros + zeros


def test_after_it():
    assert (ms.ops.zeros((4,), ms.int8) + 1).asnumpy().tolist() == [1] * 4
"""


def test_an_error_that_a_test_leaves_is_its_own(tmp_path: Path) -> None:
    """The fixture of this folder fails the test that has left it, and the next test passes."""
    own = Path(__file__).with_name("conftest.py")
    (tmp_path / "conftest.py").write_text(CONFTEST.format(path=str(own)), encoding="utf-8")
    (tmp_path / "test_it.py").write_text(LEAVES_AN_ERROR, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)],
        env={**virtual.environment(), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ERROR test_it.py::test_that_leaves_an_error" in result.stdout, result.stdout + result.stderr
    assert "2 passed, 1 error" in result.stdout
