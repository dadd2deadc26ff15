"""Cells on Ascend check at each call that their caches are in the device's memory, which operators in them cannot see.

A refused call must compute nothing: the good caches beside the bad one stay as they were. The next good call works.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import mindspore as ms
import numpy as np
import pytest
from calls import mode
from device import environment
from mindspore import Parameter, Tensor, ops
from sequences import CACHES, Sequences, make_step, tensors

from ms_dsv32 import cells, weights

OPERATOR = "mla_indexer_prolog_quant"
NAMES = dict(zip(CACHES, cases.IN_PLACE[OPERATOR], strict=True))
"""What the step calls its caches: the operator's name of each."""


def dynamic_step() -> cells.SparseAttentionStep:
    step = make_step(1)
    with mode("graph"):
        step.set_dynamic_tokens(2)
    return step


class Step:
    """The inputs of a step of one token, and caches of zeros in the device's memory."""

    def __init__(self) -> None:
        sequences = Sequences(1, 1, 2)
        arrays = sequences.advance(1)
        self.rows = arrays[3]
        self.inputs = tensors(*arrays)
        self.caches = {n: c.to("Ascend") for n, c in zip(CACHES, tensors(*sequences.caches), strict=True)}

    def written(self, name: str) -> list[int]:
        """The rows of a cache that are not zero."""
        array = weights.to_array(self.caches[name])
        return [*np.flatnonzero(array.reshape(-1, array.shape[-1]).any(axis=1))]


def assert_refused(call: Callable[..., Any], change: str, step: Step, text: str) -> None:
    with mode("graph"), pytest.raises(ValueError, match=rf"^{OPERATOR}: {NAMES[change]} {text}"):
        call(*step.inputs, *step.caches.values())
    assert all(not step.written(name) for name in CACHES)


def assert_works(call: Callable[..., Any], mode_name: str = "graph") -> None:
    step = Step()
    with mode(mode_name):
        call(*step.inputs, *step.caches.values())
    for name in CACHES:
        assert step.written(name) == [*step.rows], name


def in_host_memory(cache: Tensor) -> Tensor:
    return weights.to_tensor(weights.to_array(cache).copy())


def at_an_offset(cache: Tensor) -> Tensor:
    return ops.zeros((2, *cache.shape), cache.dtype)[1]


def strided(cache: Tensor) -> Tensor:
    return ops.zeros((*cache.shape[:-1], 2 * cache.shape[-1]), cache.dtype)[..., : cache.shape[-1]]


FAULTS = [
    (in_host_memory, r"of shape \(2, 128, 1, \d+\) is in the memory of CPU, so the write would be lost: pass .*"),
    (at_an_offset, r"is a view that begins \d+ elements into its storage, expected a tensor with its own memory"),
    (strided, "must be contiguous, as it is updated in place"),
]


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_graph_that_exists_refuses_bad_caches(dynamic: bool) -> None:
    cell = dynamic_step() if dynamic else make_step(1)
    assert_works(cell)  # compiles: the operator is not asked again
    for change, text in FAULTS:
        for name in CACHES:
            step = Step()
            step.caches[name] = change(step.caches[name])
            assert_refused(cell, name, step, text)
    assert_works(cell)


@pytest.mark.parametrize(("change", "text"), FAULTS)
def test_set_inputs_does_not_hide_bad_caches_from_the_first_call(change: Callable[[Tensor], Tensor], text: str) -> None:
    cell, step = dynamic_step(), Step()
    step.caches["k_scale_cache"] = change(step.caches["k_scale_cache"])
    assert_refused(cell, "k_scale_cache", step, text)
    assert_works(cell)


def test_graph_mode_takes_parameters_from_host_memory() -> None:
    """MindSpore moves a Parameter to the device, so it is not refused, at the first call or later."""
    cell, step = make_step(1), Step()
    assert_works(cell)
    host = {name: in_host_memory(cache) for name, cache in step.caches.items()}
    step.caches = {name: Parameter(cache, name=name, requires_grad=False) for name, cache in host.items()}
    for _ in range(2):
        with mode("graph"):
            cell(*step.inputs, *step.caches.values())
    for name in CACHES:
        assert step.written(name) == [*step.rows], name


@pytest.mark.parametrize("blocks_are_known", [True, False])
def test_jit_of_a_dynamic_step_takes_caches_in_device_memory(blocks_are_known: bool) -> None:
    """The placeholders of ``set_inputs`` are in host memory and are not checked. The caches of the first call are."""
    cell, step = dynamic_step(), Step()
    if not blocks_are_known:
        unknown = [Tensor(shape=[None, *t.shape[1:]], dtype=t.dtype) if t.ndim == 4 else t for t in cell.get_inputs()]
        cell.set_inputs(*unknown)
    call = ms.jit(cell)
    step.caches["kr_cache"] = in_host_memory(step.caches["kr_cache"])
    with pytest.raises(ValueError, match=f"{OPERATOR}: mla_kr_cache of shape .* is in the memory of CPU"):
        call(*step.inputs, *step.caches.values())
    assert all(not step.written(name) for name in CACHES)
    assert_works(call, "pynative")


BEFORE_SET_DEVICE = """
import sys
import mindspore as ms
from mindspore import Tensor
import numpy as np
from ms_dsv32 import cells

ms.set_context(device_target=sys.argv[1])
cell = cells.LightningIndexerProlog()
ms.set_device(sys.argv[2])
ms.set_context(mode=ms.GRAPH_MODE)
try:
    cell(*[Tensor(np.zeros((1,), np.int8))] * 8)
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(("before", "after"), [("CPU", "Ascend"), ("Ascend", "CPU")])
def test_a_cell_made_before_set_device_is_refused(before: str, after: str) -> None:
    Path("program.py").write_text(BEFORE_SET_DEVICE, encoding="utf-8")
    command = [sys.executable, "program.py", before, after]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    text = f"w_qb is laid out for {before}, and the device target is {after} now: make the cell, or set its weights"
    assert result.stdout.startswith(f"lightning_indexer_prolog_quant: {text}, after mindspore.set_device")
