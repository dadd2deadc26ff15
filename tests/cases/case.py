"""One call of one operator, and how its results are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tolerance
from numpy.typing import NDArray

from cases.pages import Paging
from cases.values import Array
from ms_dsv32 import golden, op_info

OUTPUTS: dict[str, tuple[str, ...]] = {
    name: tuple(o.name for o in op_info.load(name).outputs if not o.extension) for name in op_info.names()
}
"""Output names of each operator, without those that a call must ask for."""

IN_PLACE: dict[str, dict[str, str]] = {
    name: {o.in_place_of: o.name for o in op_info.load(name).outputs if o.in_place_of} for name in op_info.names()
}
"""For each operator, the input caches that are updated in place, and the outputs that are the same buffers."""

CACHE_INDEX = {
    name: a.name for name in op_info.names() for a in op_info.load(name).inputs if a.name.endswith("cache_index")
}
"""The input of each prolog that tells the cache row of every token."""

OTHER_DTYPE = {"bf16": "fp16", "fp16": "bf16", "fp32": "fp16", "int8": "int32", "int32": "int64", "int64": "int32"}
"""For each dtype, another one that an operator must refuse in its place."""


@dataclass(frozen=True)
class Case:
    """One call of one operator.

    Attributes:
        operator: its name. inputs: NumPy arrays in contract order, bfloat16 as uint16 bits. attributes: those without a
            default, and those that the maker was asked for. paging: where the sequences live. n_q: query heads.
    """

    operator: str
    inputs: dict[str, Array]
    attributes: dict[str, Any]
    paging: Paging
    n_q: int = 128
    outputs: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", self.outputs or OUTPUTS[self.operator])

    @property
    def ragged(self) -> bool:
        """Whether query_act_seqs tells the tokens of each sequence."""
        return "query_act_seqs" in self.inputs

    @property
    def t(self) -> int:
        """Tokens, padding included."""
        if not self.ragged:
            return self.paging.t
        return self.inputs["weights" if "weights" in self.inputs else "topk_indices"].shape[0]

    def copy(self, **changed: Array) -> Case:
        """The same case with its own copies of the caches that are updated in place, and with the inputs `changed`."""
        unknown = set(changed) - set(self.inputs)
        if unknown:
            raise KeyError(f"{self.operator} has no input {sorted(unknown)}")
        inputs = {
            name: changed[name] if name in changed else value.copy() if name in IN_PLACE[self.operator] else value
            for name, value in self.inputs.items()
        }
        return replace(self, inputs=inputs)

    def with_attributes(self, **attributes: Any) -> Case:
        """The same case (sharing the arrays) with more or other attributes."""
        return replace(self, attributes={**self.attributes, **attributes})

    def run(self, function: Callable[..., Any]) -> dict[str, Array]:
        """Calls `function` with copies of the caches and names its outputs; this case stays as it is."""
        case = self.copy()
        results = function(*case.inputs.values(), **case.attributes)
        return dict(zip(self.outputs, results if isinstance(results, tuple) else (results,), strict=True))

    def golden(self) -> dict[str, Array]:
        """The golden reference's outputs, by name; this case stays as it is."""
        return self.run(getattr(golden, self.operator))

    def check(
        self,
        got: Mapping[str, Array],
        want: Mapping[str, Array] | None = None,
        *,
        rtol: float = tolerance.CPU_TOPK_RTOL,
        tokens: NDArray[np.bool_] | None = None,
    ) -> None:
        """Compares all outputs by the contract's tolerances; cache rows that are not this call's must be as before.

        Args:
            got: the outputs, by name. want: the golden reference's, where a caller has them.
            rtol: of a selection's scores (`tolerance.assert_topk`).
            tokens: bool [t], the tokens that are compared; all of them if left out. What the others wrote into caches
                is not looked at.

        Raises:
            AssertionError: with the operator, the output, how many of its values are wrong, the first and the worst.
        """
        want = self.golden() if want is None else want
        caches = {output: cache for cache, output in IN_PLACE[self.operator].items()}
        try:
            for name in self.outputs:
                assert name in got, f"{name}: missing"
                tolerance.assert_same_kind(name, got[name], want[name])
                if name == "topk_indices":
                    self._check_selection(got[name], want[name], rtol, tokens)
                elif name in caches:
                    self._check_cache(name, got[name], want[name], self.inputs[caches[name]], tokens)
                elif tokens is None:
                    tolerance.assert_close_output(name, got[name], want[name])
                else:
                    compared = (_by_token(name, array, tokens.size)[tokens] for array in (got[name], want[name]))
                    tolerance.assert_close_output(name, *compared)
        except AssertionError as error:
            raise AssertionError(f"{self.operator}: {error}") from error

    def _check_selection(self, got: Array, want: Array, rtol: float, tokens: NDArray[np.bool_] | None) -> None:
        """Scores are asked for only where the sets differ, because golden takes long for them."""
        assert (np.diff(got < 0) >= 0).all(), "topk_indices: valid entries do not come first"
        differs = (np.sort(got) != np.sort(want)).any(axis=1)
        rows = np.flatnonzero(differs if tokens is None else differs & tokens)
        if rows.size:
            scores, magnitudes = ([of_case[i] for i in rows] for of_case in indexer_scores(self))
            tolerance.assert_topk(got[rows], want[rows], scores, magnitudes, rtol=rtol, tokens=rows)

    def _check_cache(self, name: str, got: Array, want: Array, before: Array, tokens: NDArray[np.bool_] | None) -> None:
        index = self.inputs[CACHE_INDEX[self.operator]].reshape(-1)
        if tokens is not None:
            writer = {int(row): token for token, row in enumerate(index) if row >= 0}  # the last token of a row
            ignored = [row for row, token in writer.items() if not tokens[token]]
            got = got.copy()
            got.reshape(-1, got.shape[-1])[ignored] = before.reshape(-1, before.shape[-1])[ignored]
            index = np.setdiff1d(index, ignored)
        tolerance.assert_close_cache(name, got, want, before, index)


def _by_token(name: str, array: Array, t: int) -> Array:
    """An output as [t, ...]; attention's may have come as [b, s1, ...]."""
    axes = 2 if (name, array.ndim) in (("attention_out", 4), ("lse", 3)) else 1
    return array.reshape(t, *array.shape[axes:])


def indexer_scores(case: Case) -> tuple[list[Array], list[Array]]:
    """The scores of an `indexer_case` and the sums of their absolute terms, of each token over what it sees."""
    signless = {name: np.abs(case.inputs[name]) for name in ("q_scale", "weights", "k_cache_scale")}
    given = (case, case.copy(**signless))
    scores, magnitudes = ([*golden.lightning_indexer_scores(*c.inputs.values())] for c in given)
    return scores, magnitudes


def weight_name(name: str) -> str:
    """The fused operator's `mla_<name>` and `ip_<name>_in` without prefix and suffix."""
    return name.removeprefix("mla_").removeprefix("ip_").removesuffix("_in")
