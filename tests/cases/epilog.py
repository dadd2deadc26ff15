"""Calls of mla_epilog_quant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cases.case import Case
from cases.pages import make_paging
from cases.values import (
    epilog_weights,
    random_bf16,
    split_tokens,
)


def mla_epilog_case(
    b: int = 1,
    s1: int = 1,
    n_q: int = 128,
    kv_lens: Sequence[int] | int | None = None,
    *,
    seed: int = 0,
    split: bool = False,
) -> Case:
    """A `mla_epilog_quant` call. The operator reads no cache, so the paging tells only b and s1.

    Args:
        b, s1, n_q: sequences, tokens of each, query heads. kv_lens: as `make_paging`.
        seed: of attention_out; the weights are those of `epilog_weights`. split: attention_out as [b, s1, n_q, 512].
    """
    paging = make_paging(b, s1, kv_lens, seed=seed)
    rng = np.random.default_rng([seed, 5])
    attention_out = random_bf16(rng, (paging.t, n_q, 512))
    inputs = {"attention_out": split_tokens(paging, split, attention_out), **epilog_weights(n_q)}
    return Case("mla_epilog_quant", inputs, {}, paging, n_q)
