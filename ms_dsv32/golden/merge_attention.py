"""Golden reference of `merge_attention`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ms_dsv32.golden.checks import Checker
from ms_dsv32.golden.numerics import Bf16, Float32, bf16_to_float32, float32_to_bf16, one_nan

OPERATION = "merge_attention"
FLOOR = np.float32(-1e30)
"""Below every lse of a key."""


def merge_attention(attention_outs: Sequence[Bf16], lses: Sequence[Float32]) -> tuple[Bf16, Float32]:
    """Attention over all keys, from its results over parts of them that have no key in common.

    bf16 means bit patterns in uint16.

    Args:
        attention_outs: one for each part, bf16 [t, n_q, 512] or [b, s1, n_q, 512], as `sparse_flash_attention_quant`
            returns it. lses: one for each part, fp32 [t, n_q] or [b, s1, n_q].

    Returns:
        attention_out bf16 and lse fp32, in the shapes of one part. A row whose parts all have lse -inf gives zeros and
        -inf.

    Raises:
        TypeError, ValueError: wrong dtype or shape, no part, or a wrong number of lses.
    """
    checker = Checker(OPERATION)
    if not attention_outs:
        raise ValueError(f"{OPERATION}: attention_outs has no part, expected at least one")
    if len(lses) != len(attention_outs):
        raise ValueError(f"{OPERATION}: lses has {len(lses)} parts, expected {len(attention_outs)}, as attention_outs")
    lead = attention_outs[0].shape[:-1] if isinstance(attention_outs[0], np.ndarray) else ()
    symbols = ("b", "s1", "n_q") if len(lead) == 3 else ("t", "n_q")
    sizes = lead if len(lead) == len(symbols) else (None,) * len(symbols)
    shape = list(zip(symbols, sizes, strict=True))
    for i, attention_out in enumerate(attention_outs):
        checker.array(f"attention_outs[{i}]", attention_out, np.uint16, [*shape, ("kv_lora_rank", 512)])
    for i, lse in enumerate(lses):
        checker.array(f"lses[{i}]", lse, np.float32, shape)

    with np.errstate(invalid="ignore", divide="ignore"):
        # (1) the largest lse of a row, or a finite number if all are -inf, because -inf - -inf is NaN
        largest = np.max(lses, axis=0, initial=FLOOR)
        # (2) each part's share of the row's sum, relative to the largest. The sum is 0 if all are -inf, else 1 or more.
        shares = [np.exp(lse - largest) for lse in lses]
        total = np.sum(shares, axis=0, dtype=np.float32)
        # (3) the parts in these proportions, rounded once
        divisor = np.maximum(total, np.float32(1))
        merged = sum(
            bf16_to_float32(attention_out) * (share / divisor)[..., None]
            for attention_out, share in zip(attention_outs, shares, strict=True)
        )
        # (4) log-sum-exp of all keys
        lse = one_nan((largest + np.log(total)).astype(np.float32))
    return float32_to_bf16(np.asarray(merged, np.float32)), lse
