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


def run(case: Case, cores: int = 1, **options: Any) -> tuple[dict[str, Array], Report]:
    """The kernel's outputs by name, and the launch's report, which must be clean. The case stays as it is.

    options: of the operator's own `run`, or of Library.launch.
    """
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
