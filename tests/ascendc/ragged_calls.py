"""Helpers for calls with query_act_seqs: the same tokens in calls without it, and numbers that need it."""

from __future__ import annotations

import dataclasses

import cases
from cases import Case

IMPOSSIBLE = [[-1, 2, 2], [2, 2, -1], [5, 4, 4], [0, 0, 13], [2**31 - 1] * 3, [2**31 - 1, 1, -5], [-(2**31), 0, 0]]
"""Numbers of tokens of three sequences that 12 tokens cannot be divided into."""


def own_call(case: Case, sequence: int, count: int) -> Case:
    """The last `count` tokens of a sequence of `case` in a call without query_act_seqs."""
    alone = cases.ragged(case, [count * (n == sequence) for n in range(case.paging.b)])
    inputs = {name: array for name, array in alone.inputs.items() if name != "query_act_seqs"}
    inputs |= {name: inputs[name][[sequence]] for name in ("block_table", "kv_act_seqs")}
    return dataclasses.replace(alone, inputs=inputs, paging=dataclasses.replace(case.paging, b=1, s1=count))


def no_sequence(case: Case) -> Case:
    """Five tokens of padding, and no sequence; `case` has one."""
    padding = cases.ragged(case, [0], padding=5)
    none = {name: padding.inputs[name][:0] for name in ("block_table", "kv_act_seqs", "query_act_seqs")}
    return dataclasses.replace(padding.copy(**none), paging=dataclasses.replace(case.paging, b=0))
