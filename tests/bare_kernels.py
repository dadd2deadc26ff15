"""Runs the bare CPU kernels, without MindSpore, on the cases of `cases`."""

from __future__ import annotations

from typing import Any

import cases
import tolerance
from cases import Array, Case

from ms_dsv32 import kernel_impl, op_info

TOKENS = {name: op_info.load(name).inputs[0].name for name in cases.WITH_WEIGHTS}
"""The input of each operator with weights that holds the tokens: the first one."""


def run(case: Case) -> dict[str, Array]:
    """All outputs of the kernel by name, also those that the case does not ask for. The case stays as it is."""
    results = kernel_impl.call(case.operator, case.copy().inputs, case.attributes)
    return dict(zip((o.name for o in op_info.load(case.operator).outputs), results, strict=True))


def check(case: Case) -> None:
    """Compares every output of the kernel with the golden reference."""
    case.check(run(case))


def prolog(name: str, b: int, s1: int, n_q: int = 16, **options: Any) -> Case:
    """A prolog case whose epsilons count."""
    return cases.with_epsilons(cases.make(name, b, s1, n_q=n_q, **options))


def pack(case: Case) -> Case:
    """The same case with packed weights."""
    packable = op_info.load(case.operator).packable
    packed = {n: kernel_impl.pack(case.inputs[n]) for n in packable}
    return case.copy(**packed).with_attributes(weight_format="PACKED")


def check_part(case: Case, whole: dict[str, Array], part: slice) -> None:
    """Some tokens of a prolog's case on their own get the bits that they have in the whole."""
    index = case.inputs[cases.CACHE_INDEX[case.operator]]
    alone = run(case.copy(**{n: v[part] for n, v in case.inputs.items() if v.shape[:1] == index.shape}))
    for output, value in alone.items():
        if output in cases.IN_PLACE[case.operator].values():
            got, want = (v.reshape(-1, v.shape[-1])[index[part]] for v in (value, whole[output]))
        else:
            got, want = value, whole[output][part]
        tolerance.assert_same_bits(output, got, want)
