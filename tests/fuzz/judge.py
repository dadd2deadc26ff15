"""Whether a call did what the contract says."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import CACHE_INDEX, IN_PLACE, Array, Case
from tolerance import CPU_TOPK_RTOL

from fuzz.draw import Trial, quiet
from ms_dsv32 import golden

LARGE = 1 << 20
"""Bytes from which an array counts as a weight. `unchanged` does not look at weights."""
_NAN = 0x7FC0


def good(trial: Trial, got: dict[str, Array], topk_rtol: float = CPU_TOPK_RTOL) -> None:
    """Compares the outputs with the golden reference, and all other cache rows with what they held before.

    Raises:
        AssertionError: they differ.
    """
    case, want = trial.case, trial.want()
    assert list(got) == list(case.outputs), f"outputs are {list(got)}, expected {list(case.outputs)}"
    quiet(functools.partial(case.check, got, want, rtol=topk_rtol, tokens=_numbers(want, trial.compared)))
    in_place = IN_PLACE[case.operator].values()
    for name, value in got.items():
        if value.dtype == np.uint16:
            _one_nan(name, _written(case, value) if name in in_place else value)


def _numbers(want: dict[str, Array], compared: Array) -> Array:
    """The tokens that are compared and whose attention has neither NaN nor Inf."""
    compared = compared.copy()
    if "attention_out" in want and compared.size:
        values = golden.bf16_to_float32(want["attention_out"])
        compared &= np.isfinite(values.reshape(compared.size, -1)).all(axis=1)
    return compared


def _written(case: Case, cache: Array) -> Array:
    """The cache rows of a call's tokens."""
    index = case.inputs[CACHE_INDEX[case.operator]]
    return cache.reshape(-1, cache.shape[-1])[index[index >= 0]]


def _one_nan(name: str, got: Array) -> None:
    """NaN in a bfloat16 result is 0x7fc0."""
    odd = got[((got & 0x7FFF) > 0x7F80) & (got != _NAN)]
    assert odd.size == 0, f"{name}: {odd.size} NaN other than 0x7fc0, first {odd[0]:#06x}"


def contents(inputs: Mapping[str, Any]) -> dict[str, bytes]:
    """What the arrays hold, but for weights."""
    return {
        n: a.tobytes()
        for n, a in inputs.items()
        if isinstance(a, np.ndarray) and a.nbytes <= LARGE and a.dtype != object
    }


def unchanged(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
    """No array was written.

    Raises:
        AssertionError: one was.
    """
    written = [name for name, content in before.items() if after[name] != content]
    assert not written, f"{', '.join(written)} was written"


def refusal(trial: Trial, error: BaseException, kinds: tuple[type[BaseException], ...]) -> None:
    """An error is of one of the kinds, and names the operator and an argument that is to blame.

    Raises:
        AssertionError: it does not.
    """
    text = str(error)
    assert isinstance(error, kinds), f"raised {type(error).__name__}: {text}"
    assert re.search(rf"\b{trial.case.operator}(: |\(\))", text), f"the error names no operator: {text!r:.300}"
    named = [name for name in trial.blamed if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)]
    expected = ", ".join(sorted(trial.blamed))
    assert named, f"the error names none of {expected:.200}: {text!r:.300}"
