"""The contract's sizes: chunks of 1024 tokens and of 260, all heads and one, 128K keys, 1 to 4 tokens of a sequence."""

from __future__ import annotations

import cases
import numpy as np
import pytest
from emulated import check

from ms_dsv32 import op_info

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("op", op_info.names())
def test_every_operator(op: str) -> None:
    """The largest decode step of all heads, on which a new operator is tried by itself."""
    check(cases.make(op, 32, 4, 300, 128), 24)


def test_prologs_of_a_chunk() -> None:
    """Eight steps of 128 tokens; the pair's stages are the same templates."""
    case = cases.fused_prolog_case(1, 1024, 4, 1100)
    check(case, 24)


@pytest.mark.parametrize("s1", [1, 3])
def test_prologs_of_many_sequences(s1: int) -> None:
    """Three steps, the last of 4 tokens or fewer."""
    case = cases.fused_prolog_case(-(-260 // s1), s1, 8 * s1, s1 + 2)
    check(case, 20, seed=s1)


@pytest.mark.parametrize(
    ("b", "s1", "n_q", "kv_len", "topk"),
    [(1, 1024, 1, 1100, 256), (65, 4, 16, 300, 2048), (2, 3, 128, 131072, 2048)],
)
def test_attention(b: int, s1: int, n_q: int, kv_len: int, topk: int) -> None:
    """A chunk has fewer entries for each token: it differs in how many rounds the cores make."""
    check(cases.attention_case(b, s1, n_q, kv_len, topk=topk, holes=0.01), cores=24)


@pytest.mark.parametrize(("b", "s1", "kv_len"), [(1, 1024, 2200), (65, 4, 2300), (2, 3, 131072)])
def test_indexer(b: int, s1: int, kv_len: int) -> None:
    """Weights of one sign: sums that cancel lose more in half precision than the tolerance grants."""
    case = cases.indexer_case(b, s1, kv_len)
    check(case.copy(weights=np.abs(case.inputs["weights"])), cores=24)


@pytest.mark.parametrize(("t", "n_q"), [(1024, 16), (260, 64)])
def test_epilog(t: int, n_q: int) -> None:
    """Four steps of 256 tokens, and two of 130 with many heads."""
    check(cases.mla_epilog_case(t, 1, n_q, 1), 24)
