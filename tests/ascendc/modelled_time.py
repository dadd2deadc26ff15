"""Prints the tables of "Modelled time" in docs/ascend.md: what the emulator's cycle model says of each operator.

Run ``python tests/ascendc/modelled_time.py`` for all of it, with names of operators and numbers of tokens for a part;
``--write`` puts the figures into docs/ascend.md and its Chinese twin. Each is given for the optimistic and for the
pessimistic end of what public sources say of memory. One worker, so that they repeat. 910_9391 is two dies with the
parameters of a 910B1: its figures are the same.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    TESTS = Path(__file__).resolve().parent.parent
    sys.path[:0] = [str(TESTS), str(TESTS / "ascendc"), str(TESTS / "ascendc_emulator")]

import cases
import emulated
import page_tables
from emulator import OPTIMISTIC, PESSIMISTIC, GmCosts

CORES = 24
SHAPES = {
    1: (1, 1, 65536),
    4: (2, 2, 65536),
    8: (4, 2, 65536),
    32: (16, 2, 8192),
    256: (1, 256, 8192),
    1024: (1, 1024, 8192),
}
"""By t: sequences, tokens of each, and keys of each for the indexer."""
ATTENTION_KEYS = 8192
ANCHOR_SHAPES = {80: (16, 5, 3072)}
"""Shapes that only the table of others' times has."""


def case_of(op: str, t: int) -> cases.Case:
    b, s1, keys = {**SHAPES, **ANCHOR_SHAPES}[t]
    if op == "sparse_flash_attention_quant":
        keys = ATTENTION_KEYS
    elif op not in cases.READERS:
        keys = s1 + 2  # which cost nothing
    return cases.make(op, b, s1, keys, 128)


ANCHORS = {
    "`lightning_indexer_prolog_quant`, t = 8": ("lightning_indexer_prolog_quant", 8),
    "`mla_prolog_quant`, t = 8": ("mla_prolog_quant", 8),
    "`mla_indexer_prolog_quant`, t = 8": ("mla_indexer_prolog_quant", 8),
    "`sparse_flash_attention_quant`, t = 1": ("sparse_flash_attention_quant", 1),
    "`sparse_flash_attention_quant`, t = 8": ("sparse_flash_attention_quant", 8),
    "`lightning_indexer_quant`, b = 16, s1 = 5, 3072 keys": ("lightning_indexer_quant", 80),
}
"""Shapes for which others have published times: first cells of the second table."""
TITLES = "| operator, shape | modelled µs | roofline µs | ratio | bound by |"
COLUMNS, ANCHOR_COLUMNS = 5, 3


@functools.cache
def modelled(op: str, t: int, gm: GmCosts = OPTIMISTIC) -> dict[str, Any]:
    case = case_of(op, t)
    options: dict[str, Any] = {"workers": 1, "hazards": False, "gm": gm, "timeout": 1200.0}
    return emulated.run(case, CORES, **options)[1].modelled


def label(op: str, t: int) -> str:
    """First cell of a row."""
    keys = f", {SHAPES[t][2] // 1024}K keys" if op == "lightning_indexer_quant" else ""
    return f"`{op}`, t = {t}{keys}"


def _range(op: str, t: int, figure: str, form: str) -> str:
    return " to ".join(format(modelled(op, t, gm)[figure], form) for gm in (OPTIMISTIC, PESSIMISTIC))


def figures(op: str, t: int) -> list[str]:
    """Modelled time of a shape, roofline, their ratio and what bounds it, each at both ends."""
    bound = ", ".join(dict.fromkeys(modelled(op, t, gm)["bound"] for gm in (OPTIMISTIC, PESSIMISTIC)))
    forms = {"us": ".1f", "roofline_us": ".1f", "ratio": ".2f"}
    return [*(_range(op, t, figure, form) for figure, form in forms.items()), bound]


def main(arguments: list[str]) -> None:
    names = [a for a in arguments if a in cases.OUTPUTS] or list(cases.OUTPUTS)
    tokens = [int(a) for a in arguments if a.isdigit()] or list(SHAPES)
    print(f"{TITLES}\n|---|---|---|---|---|")
    for op in names:
        for t in tokens:
            _emit(label(op, t), COLUMNS, figures(op, t), "--write" in arguments)
    print("\n| shape of the second table | modelled µs |\n|---|---|")
    for first, (op, t) in ANCHORS.items():
        if op in names and (t in tokens or t in ANCHOR_SHAPES):
            _emit(first, ANCHOR_COLUMNS, [_range(op, t, "us", ".1f")], "--write" in arguments)


def _emit(first: str, columns: int, cells: list[str], write: bool) -> None:
    print(f"| {first} | {' | '.join(cells)} |", flush=True)
    if write:
        page_tables.write(first, columns, cells)


if __name__ == "__main__":
    main(sys.argv[1:])
