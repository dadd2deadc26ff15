"""`ops.merge_attention` on Ascend, from the parts that the attention leaves there."""

from __future__ import annotations

import cases
import mindspore as ms
import pytest
import tolerance
from calls import MODES, arrays, mode, tensor
from merging import OUTPUTS, Merge, assert_golden, in_parts
from runs import run


@pytest.mark.parametrize("mode_name", MODES)
@pytest.mark.parametrize("count", [1, 3])
def test_golden(count: int, mode_name: str) -> None:
    outs, lses = cases.random_parts(count, (2, 2, 3))
    with mode(mode_name):
        cell = ms.jit(Merge()) if mode_name == "jit" else Merge()
        got = arrays(OUTPUTS, cell(*[tensor(a).to("Ascend") for a in (*outs, *lses)]))
    assert_golden(got, outs, lses)


@pytest.mark.parametrize("mode_name", MODES)
def test_the_parts_come_from_the_operator(mode_name: str) -> None:
    case = cases.attention_case(2, 2, 3, [5, 300], topk=256)
    got, whole = in_parts(case, mode_name), run(cases.with_lse(case), mode_name)
    tolerance.assert_merged("attention_out", got["attention_out"], whole["attention_out"])
    tolerance.assert_lse("lse", got["lse"], whole["lse"])
