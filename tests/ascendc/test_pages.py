"""The tables of docs/ascend.md and its Chinese twin hold what the scripts of this directory compute.

``python tests/ascendc/modelled_time.py --write`` and ``python tests/ascendc/code_size.py --write`` bring them in step.
"""

from __future__ import annotations

import code_size
import modelled_time
import page_tables
import pytest
from modelled_time import ANCHOR_COLUMNS, ANCHORS, COLUMNS, SHAPES

from ms_dsv32 import op_info

PAGES = list(page_tables.WORDS)
ENGLISH = "ascend.md"
ROWS = {modelled_time.label(op, t): (op, t) for op in op_info.names() for t in SHAPES}
CLANG_TOLERANCE = 0.1
"""Versions of clang differ by so much; the pages have the figures of clang 14."""


@pytest.mark.parametrize("op", ["sparse_flash_attention_quant", "lightning_indexer_quant"])
@pytest.mark.parametrize("t", [1, 4])
def test_modelled_times(op: str, t: int) -> None:
    """The cheapest rows, which every change of these two kernels moves; some 4 s each."""
    assert page_tables.figures(ENGLISH, modelled_time.label(op, t), COLUMNS, 4) == modelled_time.figures(op, t)


def test_every_shape_has_its_row_of_modelled_times() -> None:
    found = [cells[0] for cells in page_tables.rows(ENGLISH, COLUMNS) if ", t = " in cells[0]]
    assert sorted(found) == sorted(ROWS)


@pytest.mark.parametrize("page", PAGES)
def test_both_pages_have_the_same_figures(page: str) -> None:
    shapes = [(first, COLUMNS, 4) for first in ROWS] + [(first, ANCHOR_COLUMNS, 1) for first in ANCHORS]
    shapes += [(f"`{op}`", code_size.COLUMNS, len(code_size.SIDES)) for op in op_info.names()]
    for first, columns, count in shapes:
        cells = page_tables.figures(page, first, columns, count)
        assert all(cells), first
        assert cells == page_tables.figures(ENGLISH, first, columns, count)


def test_a_shape_has_one_modelled_time() -> None:
    """The table with others' figures repeats the first table's time of a shape that both have."""
    both = [first for first in ANCHORS if first in ROWS]
    assert both
    for first in both:
        time = page_tables.figures(ENGLISH, first, COLUMNS, 4)[0]
        assert page_tables.figures(ENGLISH, first, ANCHOR_COLUMNS, 1) == [time], first


@pytest.mark.skipif(code_size.compiler() is None, reason="needs clang++")
@pytest.mark.parametrize(("op", "side"), [("lightning_indexer_quant", "AIV"), ("sparse_flash_attention_quant", "AIC")])
def test_code_size(op: str, side: str) -> None:
    """The largest entry of one kernel and the smallest of all; 5 s each."""
    cells = page_tables.figures(ENGLISH, f"`{op}`", code_size.COLUMNS, len(code_size.SIDES))
    stated = int(cells[code_size.SIDES.index(side)])
    assert code_size.size(op, side) == pytest.approx(stated, rel=CLANG_TOLERANCE)
