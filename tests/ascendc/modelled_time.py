"""Prints the table "Modelled time" of docs/ascend.md: what the emulator's cycle model says of each operator.

Run ``python tests/ascendc/modelled_time.py`` for all of it, with names of operators for a part. One worker, so that the
figures repeat. 910_9391 is two dies with the parameters of a 910B1: its figures are the same.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    TESTS = Path(__file__).resolve().parent.parent
    sys.path[:0] = [str(TESTS), str(TESTS / "ascendc"), str(TESTS / "ascendc_emulator")]

import cases
import prologs
import test_lightning_indexer_quant as indexer
import test_sparse_flash_attention_quant as attention
from emulator import OPTIMISTIC, PESSIMISTIC, GmCosts

CORES = 24
TOKENS = {1: (1, 1), 4: (2, 2), 8: (4, 2), 32: (16, 2), 256: (1, 256), 1024: (1, 1024)}
"""Of each t: sequences, and tokens of each."""
DECODE_KEYS, PREFILL_KEYS = 65536, 8192


def case_of(op: str, t: int) -> cases.Case:
    b, s1 = TOKENS[t]
    keys = DECODE_KEYS if s1 <= 4 else PREFILL_KEYS
    if b > 4 and op == "lightning_indexer_quant":
        keys = PREFILL_KEYS
    if op == "mla_prolog_quant":
        return cases.mla_prolog_case(b, s1, 128, s1 + 2)
    if op == "lightning_indexer_prolog_quant":
        return cases.indexer_prolog_case(b, s1, s1 + 2)
    if op == "mla_indexer_prolog_quant":
        return cases.fused_prolog_case(b, s1, 128, s1 + 2)
    if op == "sparse_flash_attention_quant":
        return cases.attention_case(b, s1, 128, PREFILL_KEYS)
    return cases.indexer_case(b, s1, keys)


def modelled(op: str, t: int, gm: GmCosts = OPTIMISTIC) -> dict[str, Any]:
    case = case_of(op, t)
    options: dict[str, Any] = {"workers": 1, "hazards": False, "gm": gm, "timeout": 1200.0}
    if op == "sparse_flash_attention_quant":
        report = attention.run(case, CORES, **options)[1]
    elif op == "lightning_indexer_quant":
        report = indexer.run(case, CORES, **options)[1]
    else:
        report = prologs.run(case, CORES, **options)[1]
    return report.modelled


def row(op: str, t: int) -> str:
    """Of a shape: modelled time, roofline, their ratio and what bounds it, each at both ends."""
    ends = [modelled(op, t, gm) for gm in (OPTIMISTIC, PESSIMISTIC)]
    keys = f", {int(case_of(op, t).paging.kv_act_seqs[0]) // 1024}K keys" if op == "lightning_indexer_quant" else ""
    us, roofline, ratio = (
        " to ".join(format(end[name], form) for end in ends)
        for name, form in (("us", ".1f"), ("roofline_us", ".1f"), ("ratio", ".2f"))
    )
    bound = ", ".join(dict.fromkeys(end["bound"] for end in ends))
    return f"| `{op}`, t = {t}{keys} | {us} | {roofline} | {ratio} | {bound} |"


if __name__ == "__main__":
    names = [a for a in sys.argv[1:] if not a.isdigit()] or list(cases.OUTPUTS)
    tokens = [int(a) for a in sys.argv[1:] if a.isdigit()] or list(TOKENS)
    print("| operator, shape | modelled µs | roofline µs | ratio | bound by |\n|---|---|---|---|---|")
    for name in names:
        for t in tokens:
            print(row(name, t), flush=True)
