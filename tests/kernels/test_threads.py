"""Every operator with 1 to 16 threads, on any machine: the same bits, and nothing written outside of the results.

Most numbers of threads cannot share these shapes equally: heads, tokens, keys, panels of weights, parts of a
projection, and the last tokens, which all threads share.
"""

from __future__ import annotations

from collections.abc import Callable

import cases
import guarded
import numpy as np
import pytest
import tolerance
from bare_kernels import TOKENS, check_part, pack, prolog, run
from cases import PROLOGS, assert_all_listed

from ms_dsv32 import golden, kernel_impl, op_info

pytestmark = pytest.mark.usefixtures("default_threads")

THREADS = range(1, 17)
CASES: dict[str, Callable[[], cases.Case]] = {
    # 3 heads: with rows of other lengths than a tile; 9 tokens are one block of rows, the parts of K are tasks
    "mla_prolog_quant": lambda: prolog("mla_prolog_quant", 1, 9, 3, seed=2),
    "lightning_indexer_prolog_quant": lambda: prolog("lightning_indexer_prolog_quant", 1, 13, seed=2),
    "mla_indexer_prolog_quant": lambda: prolog("mla_indexer_prolog_quant", 3, 3, 3, seed=2),
    # 67 tokens: the parts of K are one task, and rows are split into blocks
    "mla_prolog_quant, 67 tokens": lambda: prolog("mla_prolog_quant", 1, 67, 5, seed=2),
    # 35 tokens: panels come in groups
    "mla_epilog_quant": lambda: cases.mla_epilog_case(1, 5, 3, seed=2),
    "mla_epilog_quant, 35 tokens": lambda: cases.mla_epilog_case(1, 35, 9, seed=2),
    "sparse_flash_attention_quant, 1 token": lambda: cases.attention_case(1, 1, 101, 300),
    "sparse_flash_attention_quant, all heads": lambda: cases.attention_case(1, 1, 128, 1300, topk=1100),
    "sparse_flash_attention_quant, 5 tokens": lambda: cases.attention_case(1, 5, 37, 700, topk=600, holes=0.2),
    "sparse_flash_attention_quant, 37 sequences": lambda: cases.attention_case(
        37, 1, 2, [1 + 17 * n % 190 for n in range(37)], topk=64
    ),
    "lightning_indexer_quant, 1 token": lambda: cases.indexer_case(1, 1, 2601, selected_count=300),
    "lightning_indexer_quant, 3 sequences": lambda: cases.indexer_case(3, 3, [2500, 40, 1111], selected_count=100),
    "lightning_indexer_quant, 37 sequences": lambda: cases.indexer_case(
        37, 1, [1 + 37 * n % 500 for n in range(37)], selected_count=50
    ),
}


def test_every_operator_is_listed() -> None:
    assert_all_listed({name.partition(",")[0] for name in CASES})


@pytest.mark.parametrize("name", CASES)
def test_no_bit_depends_on_threads(name: str) -> None:
    case = CASES[name]()
    if case.operator == "sparse_flash_attention_quant":
        case = cases.with_lse(case)
    both = [case, pack(case)] if op_info.load(case.operator).packable else [case]
    kernel_impl.set_thread_count(1)
    want = guarded.run(case)
    case.check(want)
    for threads in THREADS:
        kernel_impl.set_thread_count(threads)
        for same in both:
            tolerance.assert_same_outputs(guarded.run(same), want)


@pytest.mark.parametrize("name", PROLOGS)
@pytest.mark.parametrize("t", [5, 70])
def test_sums_that_cancel_between_the_parts_of_k(name: str, t: int) -> None:
    """The order in which parts of a projection are added shows: 2^20 - 2^21 + 2^20 beside ordinary terms."""
    case = prolog(name, 1, t, 1, seed=3)
    tokens = case.inputs[TOKENS[name]].copy()
    rows = [0, 3000, 7167]  # of the first, the third and the last part
    tokens[:, rows] = 0x3F80  # 1
    changed = {TOKENS[name]: tokens}
    for weight in op_info.load(name).inputs:
        if cases.weight_name(weight.name) in ("w_dq", "w_dkv_kr", "wk", "w_proj"):
            changed[weight.name] = case.inputs[weight.name].copy()
            changed[weight.name][rows] = golden.float32_to_bf16(np.array([2.0**20, -(2.0**21), 2.0**20]))[:, None]
    case = case.copy(**changed)
    kernel_impl.set_thread_count(1)
    want = run(case)
    check_part(case, want, slice(0, 1))
    for threads in (2, 3, 5, 16):
        kernel_impl.set_thread_count(threads)
        tolerance.assert_same_outputs(run(case), want)
        tolerance.assert_same_outputs(run(pack(case)), want)


def test_more_threads_than_histograms() -> None:
    """The indexer's threads have a histogram of each token of a wave: with 128 threads a wave has 32 tokens."""
    case = cases.indexer_case(1, 70, 900, selected_count=60)
    want = guarded.run(case)
    case.check(want)
    kernel_impl.set_thread_count(128)
    tolerance.assert_same_outputs(guarded.run(case), want)
