"""The golden reference, for those who wonder. It is written to be read, not to be fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cases import OUTPUTS, Case

from benchmarks.contender import STEP_OUTPUTS, Contender, attention_attributes
from benchmarks.shapes import STEP, Shape
from ms_dsv32 import golden


def contenders(shape: Shape, case: Case, flush: Callable[[], object]) -> Iterator[Contender]:
    """The golden operator."""
    operator = getattr(golden, case.operator)

    def call() -> tuple[Any, ...]:
        result = operator(*case.inputs.values(), **case.attributes)
        return result if isinstance(result, tuple) else (result,)

    def step() -> tuple[Any, ...]:
        paging = (case.paging.block_table, case.paging.kv_act_seqs)
        outputs = call()
        topk = golden.lightning_indexer_quant(*outputs[5:7], outputs[9], *outputs[7:9], *paging)
        keys = [cache.reshape(-1, cache.shape[-1]) for cache in outputs[2:5]]
        out = golden.sparse_flash_attention_quant(*outputs[:2], *keys, topk, *paging, **attention_attributes(case))
        return (*outputs, topk, out)

    names = STEP_OUTPUTS if shape.op == STEP else OUTPUTS[shape.op]
    yield Contender("golden", step if shape.op == STEP else call, lambda result: dict(zip(names, result, strict=True)))
