"""Steps that write into caches and read them, and cells that make them.

The writer is `mla_prolog_quant`, the reader `sparse_flash_attention_quant`, both with one head. The expected results
come from the bare kernels on NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cases
import mindspore as ms
import numpy as np
import tolerance
from calls import bare, tensor
from mindspore import Parameter, Tensor, nn

from ms_dsv32 import weights
from ms_dsv32.ops import mla_prolog_quant, sparse_flash_attention_quant

CACHES = ("kv_cache", "kr_cache", "k_scale_cache")


class Steps:
    """Calls of the writer that differ in token_x alone, all to one cache row, and one call of the reader."""

    def __init__(self, count: int = 1) -> None:
        self.case = cases.mla_prolog_case(1, 1, 1, 5)
        self.token_x = [cases.mla_prolog_case(1, 1, 1, 5, seed=seed).inputs["token_x"] for seed in range(count)]
        self.attributes = {
            "nq": 1,
            "n_kv": 1,
            "softmax_scale": 0.07,
            "topk": 8,
            "block_size": 128,
            "max_blocknum_perbatch": self.case.paging.block_table.shape[1],
        }
        self.query = {
            "query_nope": cases.random_bf16(np.random.default_rng(1), (1, 512)),
            "query_rope": cases.random_bf16(np.random.default_rng(2), (1, 64)),
        }
        self.selection = {
            "topk_indices": np.array([[0, 1, 2, 3, 4, -1, -1, -1]], np.int32),
            "block_table": self.case.paging.block_table,
            "kv_act_seqs": self.case.paging.kv_act_seqs,
        }

    def caches(self) -> list[Tensor]:
        return [weights.to_tensor(self.case.inputs[name].copy()) for name in CACHES]

    def parameters(self, prefix: str = "cache") -> list[Parameter]:
        return [Parameter(c, name=f"{prefix}{i}", requires_grad=False) for i, c in enumerate(self.caches())]

    def expected(self, *steps: int) -> list[cases.Array]:
        """The caches after these steps."""
        return self.expected_reads(*steps)[0]

    def expected_reads(self, *steps: int) -> tuple[list[cases.Array], list[cases.Array]]:
        """The caches after these steps, and what the reader gives before the first and after each."""
        case = self.case.copy()
        names = list(cases.attention_case(1, 1, 1, 5).inputs)

        def attention() -> cases.Array:
            values = (*self.query.values(), *(case.inputs[c] for c in CACHES), *self.selection.values())
            inputs = dict(zip(names, values, strict=True))
            reader = cases.Case("sparse_flash_attention_quant", inputs, self.attributes, case.paging)
            return bare(reader)["attention_out"]

        reads = [attention()]
        for step in steps:
            outputs = bare(case.copy(token_x=self.token_x[step]))
            case = case.copy(**{c: outputs[f"{c}_out"] for c in CACHES})
            reads.append(attention())
        return [case.inputs[c] for c in CACHES], reads


STEPS = Steps(3)
TOKENS = [tensor(x) for x in STEPS.token_x]
FIXED = [tensor(a) for n, a in STEPS.case.inputs.items() if n not in ("token_x", *CACHES)]
QUERY = [tensor(a) for a in STEPS.query.values()]
SELECTION = [tensor(a) for a in STEPS.selection.values()]


def write(x: Tensor, fixed: Sequence[Tensor], a: Tensor, b: Tensor, c: Tensor) -> Any:
    """A call of the writer."""
    return mla_prolog_quant(x, *fixed, a, b, c)


def read(query: Sequence[Tensor], selection: Sequence[Tensor], a: Tensor, b: Tensor, c: Tensor) -> Any:
    """A call of the reader."""
    return sparse_flash_attention_quant(
        *query,
        a,
        b,
        c,
        *selection,
        nq=1,
        n_kv=1,
        softmax_scale=0.07,
        topk=8,
        block_size=128,
        max_blocknum_perbatch=2,
    )


def assert_caches(got: Any, want: list[cases.Array]) -> None:
    """Three caches have the bits of arrays."""
    for name, tensor_, array in zip(CACHES, got, want, strict=True):
        tolerance.assert_same_bits(name, weights.to_array(tensor_), array)


class Base(nn.Cell):
    """The constant inputs, as a tuple of tensors that a graph takes as constants."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed = tuple(FIXED)
        self.query = tuple(QUERY)
        self.selection = tuple(SELECTION)


class Ignored(Base):
    """Nothing of the write is used."""

    def construct(self, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        write(x, self.fixed, a, b, c)
        return x


def works(call: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a call goes through; waits for it, as ms.jit reports an error of a running graph later."""
    try:
        weights.to_array(call(*arguments))
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


def graph_or_jit(cell: nn.Cell, how: str) -> Callable[..., Any]:
    """A cell, which the mode makes a graph of or not, or the function that `mindspore.jit` makes of it."""
    return ms.jit(cell) if how == "jit" else cell
