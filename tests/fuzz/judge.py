"""Whether a call did what the contract says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import cases
import numpy as np
import tolerance
from cases import IN_PLACE, Array

from fuzz.draw import Trial, quiet
from ms_dsv32 import golden

LARGE = 1 << 20
"""Bytes from which an array is a weight: whether a call wrote into it is not looked at."""
_NAN = 0x7FC0


def good(trial: Trial, got: dict[str, Array], topk_rtol: float = 1e-5) -> None:
    """Compares the outputs with the golden reference, and cache rows that were not to be written with what they held.

    Raises:
        AssertionError: they differ.
    """
    case, want = trial.case, trial.want()
    assert list(got) == list(case.outputs), f"outputs are {list(got)}, expected {list(case.outputs)}"
    compared = _numbers(want, trial.compared)
    caches = {output: name for name, output in IN_PLACE[case.operator].items()}
    for name, value in want.items():
        assert got[name].shape == value.shape, f"{name} has shape {got[name].shape}, expected {value.shape}"
        if name in caches:
            _cache(name, trial, compared, got[name], value, case.inputs[caches[name]])
        elif name == "topk_indices":
            kept = compared & (np.sort(got[name]) != np.sort(value)).any(axis=1)
            assert (np.diff(got[name] < 0) >= 0).all(), f"{name}: valid entries do not come first"
            if kept.any():  # scores are asked for only where the sets differ
                kept = np.flatnonzero(kept)
                of_kept = ([each[i] for i in kept] for each in quiet(cases.indexer_scores, case))
                tolerance.assert_topk(got[name][kept], value[kept], *of_kept, rtol=topk_rtol)
        else:
            t = compared.size
            got_tokens, want_tokens = (a.reshape(t, *a.shape[_lead(name, a) :]) for a in (got[name], value))
            tolerance.assert_close_output(name, got_tokens[compared], want_tokens[compared])
            if value.dtype == np.uint16:
                _one_nan(name, got[name])


def _lead(name: str, array: Array) -> int:
    """How many of an output's axes are those of tokens: 1 of [t, ..], 2 of [b, s1, ..]."""
    return 2 if (name, array.ndim) in (("attention_out", 4), ("lse", 3)) else 1


def _numbers(want: dict[str, Array], compared: Array) -> Array:
    """The tokens that are compared and whose attention is numbers alone."""
    compared = compared.copy()
    if "attention_out" in want and compared.size:
        values = golden.bf16_to_float32(want["attention_out"])
        compared &= np.isfinite(values.reshape(compared.size, -1)).all(axis=1)
    return compared


def _cache(name: str, trial: Trial, compared: Array, got: Array, want: Array, before: Array) -> None:
    last = {int(row): token for token, row in enumerate(trial.case.paging.cache_index) if row >= 0}
    index = np.array([row for row, token in last.items() if compared[token]], np.int64)
    others = np.array([row for row, token in last.items() if not compared[token]], np.int64)
    if before.dtype == np.uint16:
        _one_nan(name, got.reshape(-1, got.shape[-1])[[*last]])
    got = got.copy()
    got.reshape(-1, got.shape[-1])[others] = before.reshape(-1, before.shape[-1])[others]
    tolerance.assert_close_cache(name, got, want, before, index)


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
