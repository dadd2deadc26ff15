"""Runs any operator's AscendC kernel in the emulator on a case of `cases`, and compares it with golden."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attention
import cases
import epilog
import indexer
import prologs
import tolerance
from cases import Array, Case
from emulator import Report
from tiling import PROLOGS

RUNS: dict[str, Callable[..., tuple[dict[str, Array], Report]]] = {
    **dict.fromkeys(PROLOGS, prologs.run),
    epilog.OPERATOR: epilog.run,
    attention.OPERATOR: attention.run,
    indexer.OPERATOR: indexer.run,
}
"""How the emulator runs each operator."""
_ODD: dict[str, Callable[[], Case]] = {
    # Lists of 96 entries are not sorted: that would depend on the cores.
    attention.OPERATOR: lambda: cases.with_lse(cases.attention_case(7, 1, 20, [96, 0, 2, 77, 300, 40, 9], topk=96)),
    indexer.OPERATOR: lambda: cases.indexer_case(7, 1, [900, 0, 2, 700, 2300, 40, 5000], selected_count=64),
}


def odd_case(operator: str) -> Case:
    """A small call with heads, tokens, keys and columns that cores cannot share equally."""
    make = _ODD.get(operator)
    return make() if make else cases.make(operator, 7, 1, [3, 60, 5, 9, 1, 4, 130], 5)


def run(case: Case, cores: int = 1, **options: Any) -> tuple[dict[str, Array], Report]:
    """The kernel's outputs by name, and the launch's report, which must be clean. The case stays as it is.

    options: of the operator's own `run`, or of Library.launch.
    """
    if case.operator not in RUNS:
        raise KeyError(f"{case.operator} is not run in the emulator: add a function that does to RUNS in emulated.py")
    return RUNS[case.operator](case, cores, **options)


def check(case: Case, cores: int = 1, want: Mapping[str, Array] | None = None, **options: Any) -> Report:
    """Runs a case and compares its outputs with the golden reference's, which are `want` if a caller has them.

    The kernel of attention always gives lse, so it is always compared.
    """
    if case.operator == attention.OPERATOR:
        case = cases.with_lse(case)
    got, report = run(case, cores, **options)
    case.check(got, want, rtol=tolerance.ASCEND_TOPK_RTOL)
    return report
