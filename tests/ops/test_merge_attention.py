"""`ops.merge_attention` in every mode: the golden reference's values, one call over all keys, what it refuses."""

from __future__ import annotations

import re
from typing import Any

import cases
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import MODES, arrays, bare, mode, tensor
from merging import OUTPUTS, Merge, assert_golden, in_parts, merged
from mindspore import Tensor, nn

from ms_dsv32 import golden, ops


@pytest.mark.parametrize("mode_name", MODES)
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4), (0, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_golden(count: int, shape: tuple[int, ...], mode_name: str) -> None:
    outs, lses = cases.random_parts(count, shape)
    got = merged(mode_name, outs, lses)
    assert_golden(got, outs, lses)
    if count == 1:
        tolerance.assert_same_bits("attention_out", got["attention_out"], outs[0])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("b", "s1", "kv"), [(2, 1, [300, 5000]), (1, 3, 150), (3, 2, [2, 0, 400])], ids=str)
def test_one_call_over_all_keys(b: int, s1: int, kv: Any, count: int) -> None:
    case = cases.attention_case(b, s1, 16, kv, topk=2048, holes=0.1)
    parts = [bare(part) for part in cases.parts_of(case, count)]
    got = merged("graph", [p["attention_out"] for p in parts], [p["lse"] for p in parts])
    whole = bare(cases.with_lse(case))
    tolerance.assert_merged("attention_out", got["attention_out"], whole["attention_out"])
    tolerance.assert_lse("lse", got["lse"], whole["lse"])


@pytest.mark.parametrize("mode_name", MODES)
def test_the_parts_come_from_the_operator(mode_name: str) -> None:
    case = cases.attention_case(2, 2, 3, [5, 300], topk=256)
    got, whole = in_parts(case, mode_name), bare(cases.with_lse(case))
    tolerance.assert_merged("attention_out", got["attention_out"], whole["attention_out"])
    tolerance.assert_lse("lse", got["lse"], whole["lse"])


@pytest.mark.parametrize("mode_name", MODES)
def test_no_key_at_all(mode_name: str) -> None:
    outs, lses = [np.zeros((2, 3, 512), np.uint16)] * 2, [np.full((2, 3), -np.inf, np.float32)] * 2
    got = merged(mode_name, outs, lses)
    assert not got["attention_out"].any()
    assert np.isneginf(got["lse"]).all()


@pytest.mark.parametrize("mode_name", MODES)
def test_nan_stays_in_its_row(mode_name: str) -> None:
    outs, lses = cases.random_parts(2, (4, 3))
    clean = merged(mode_name, outs, lses)
    outs[1][2], lses[1][2] = 0x7FC0, np.nan
    got = merged(mode_name, outs, lses)
    assert np.isnan(golden.bf16_to_float32(got["attention_out"][2])).all()
    for name in OUTPUTS:
        tolerance.assert_same_bits(name, np.delete(got[name], 2, 0), np.delete(clean[name], 2, 0))


@pytest.mark.parametrize("axes", [1, 2], ids=["merged", "split"])
def test_one_graph_serves_every_number_of_tokens(axes: int) -> None:
    cell = Merge()
    free = [None] * axes
    placeholders = [Tensor(shape=[*free, 2, 512], dtype=ms.bfloat16), Tensor(shape=[*free, 2], dtype=ms.float32)]
    cell.set_inputs(*[p for p in placeholders for _ in range(2)])
    with mode("graph"):
        for t in (3, 1, 0, 8):
            outs, lses = cases.random_parts(2, (*[1] * (axes - 1), t, 2), seed=t)
            assert_golden(arrays(OUTPUTS, cell(*[tensor(a) for a in (*outs, *lses)])), outs, lses)


class Whole(nn.Cell):
    def construct(self, attention_outs, lses):
        return ops.merge_attention(attention_outs, lses)


def bfloat16(*shape: int) -> Tensor:
    return tensor(np.zeros(shape, np.uint16))


def float32(*shape: int) -> Tensor:
    return tensor(np.zeros(shape, np.float32))


OUT, LSE = (2, 3, 512), (2, 3)
REFUSED = [
    (TypeError, "attention_outs must be a tuple or list of Tensors, got ", bfloat16(*OUT), (float32(*LSE),)),
    (TypeError, "lses must be a tuple or list of Tensors, got ", (bfloat16(*OUT),), float32(*LSE)),
    (ValueError, "attention_outs has no part, expected at least one", (), ()),
    (TypeError, "lses[0] must be a Tensor, got ", (bfloat16(*OUT),), (1,)),
    (ValueError, "lses has 1 parts, expected 2, as attention_outs", (bfloat16(*OUT),) * 2, (float32(*LSE),)),
    (TypeError, "attention_outs[0] must be bfloat16, got float32", (float32(*OUT),), (float32(*LSE),)),
    (TypeError, "lses[1] must be float32, got bfloat16", (bfloat16(*OUT),) * 2, (float32(*LSE), bfloat16(*LSE))),
    (
        ValueError,
        "attention_outs[1] has shape (2, 4, 512), expected (t, n_q, kv_lora_rank) = (2, 3, 512)",
        (bfloat16(*OUT), bfloat16(2, 4, 512)),
        (float32(*LSE),) * 2,
    ),
    (
        ValueError,
        "attention_outs[0] has shape (2, 2, 3, 576), expected (b, s1, n_q, kv_lora_rank) = (b, s1, n_q, 512)",
        (bfloat16(2, 2, 3, 576),),
        (float32(2, 2, 3),),
    ),
    (ValueError, "attention_outs[0] has shape (6, 512), expected (t, n_q, kv_", (bfloat16(6, 512),), (float32(6),)),
    (ValueError, "lses[0] has shape (2, 3, 1), expected (t, n_q) = (2, 3)", (bfloat16(*OUT),), (float32(2, 3, 1),)),
]


@pytest.mark.parametrize("mode_name", MODES)
@pytest.mark.parametrize(("error", "text", "outs", "lses"), REFUSED, ids=[r[1] for r in REFUSED])
def test_refuses(error: type[Exception], text: str, outs: Any, lses: Any, mode_name: str) -> None:
    call = ops.merge_attention if mode_name == "pynative" else Whole()
    call = ms.jit(call) if mode_name == "jit" else call
    with mode(mode_name), pytest.raises(error, match=re.escape(f"merge_attention: {text}")):
        call(outs, lses)
