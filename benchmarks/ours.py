"""Our operators with packed weights: the bare kernel, MindSpore in both modes, and `mindspore.jit`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cases
import mindspore as ms
from cases import OUTPUTS, Case, weight_name
from mindspore import nn

from benchmarks.contender import STEP_OUTPUTS, Contender, activations, attention_attributes
from benchmarks.contender import weights as row_major
from benchmarks.shapes import (
    ATTENTION,
    EPILOG,
    FUSED,
    INDEXER,
    INDEXER_PROLOG,
    MLA,
    PROJECTIONS,
    SELECTED_COUNT,
    STEP,
    Array,
    Shape,
)
from ms_dsv32 import cells, golden, kernel_impl, op_info, ops, weights


def contenders(shape: Shape, case: Case, flush: Callable[[], object]) -> Iterator[Contender]:
    """The bare kernel, then the operator in PyNative mode, its cell in graph mode, and a jitted function around it."""
    step = shape.op == STEP
    yield (_kernel_step if step else _kernel)(shape, case)
    tensors = {name: weights.to_tensor(value) for name, value in _packed(case).items()}
    if step:
        tensors |= _paging_tensors(case)
    pynative = functools.partial((_pynative_step if step else _pynative), shape, case, tensors)
    yield _mindspore("pynative", ms.PYNATIVE_MODE, shape, case, pynative)
    cell, names = _cell(shape, case)
    args = [tensors[n] for n in names]
    yield _mindspore("graph", ms.GRAPH_MODE, shape, case, functools.partial(cell, *args))

    def through(*args):
        return cell(*args)

    yield _mindspore("jit", ms.PYNATIVE_MODE, shape, case, functools.partial(ms.jit(through), *args))


# The bare kernel: its C entry on NumPy arrays.


@functools.cache
def _packed_weight(name: str) -> Array:
    packable = {n for op in (MLA, INDEXER_PROLOG, EPILOG) for n in op_info.load(op).packable}
    return kernel_impl.pack(row_major()[name]) if name in packable else row_major()[name].copy()


def _packed(case: Case) -> dict[str, Array]:
    """The inputs of a case with packed weights, which are made once."""
    known = activations(case)
    return {n: value if n in known else _packed_weight(weight_name(n)) for n, value in case.inputs.items()}


def _format(case: Case) -> dict[str, Any]:
    return {**case.attributes, **({"weight_format": "PACKED"} if case.operator in PROJECTIONS else {})}


def bare(op: str, inputs: Mapping[str, Array], attributes: Mapping[str, Any]) -> Callable[[], tuple[Array, ...]]:
    """The call of a kernel's C entry with everything that Python does for it done in advance, outputs included.

    It is `kernel_impl.call` without the Python around it, which takes longer than the smallest kernels.
    """
    info = op_info.load(op)
    results = kernel_impl.call(op, inputs, attributes)
    outputs = dict(zip((o.name for o in info.outputs), results, strict=True))
    given = [inputs[a.name] for a in info.inputs if a.name in inputs]
    arrays = [*given, *(outputs[o.name] for o in info.kernel_outputs)]
    dtypes = [kernel_impl._MS_DTYPES[a.dtype] for a in given]
    bound = kernel_impl.BoundCall(op, [a.shape for a in given], dtypes, op_info.bind_attrs(info, attributes))
    addresses = [a.ctypes.data for a in arrays]

    def call(_alive: list[Array] = arrays) -> tuple[Array, ...]:
        bound(addresses)
        return results

    return call


def _kernel(shape: Shape, case: Case) -> Contender:
    return Contender(
        "kernel",
        bare(shape.op, _packed(case), _format(case)),
        lambda result: dict(zip(OUTPUTS[shape.op], result)),  # noqa: B905  not lse, which nobody asked for
    )


def _kernel_step(shape: Shape, case: Case) -> Contender:
    paging = {"block_table": case.paging.block_table, "kv_act_seqs": case.paging.kv_act_seqs}
    prolog = bare(FUSED, _packed(case), _format(case))
    q_nope, q_rope, kv, kr, ks, q_int8, q_scale, k_int8, k_scale, head_weights = prolog()
    queries = {
        "q_int8": q_int8,
        "q_scale": q_scale,
        "weights": head_weights,
        "k_cache": k_int8,
        "k_cache_scale": k_scale,
    }
    indexer = bare(INDEXER, {**queries, **paging}, {"selected_count": SELECTED_COUNT})
    queries = {"query_nope": q_nope, "query_rope": q_rope, "topk_indices": indexer()[0]}
    keys = {"key_nope_2d": kv, "key_rope_2d": kr, "k_nope_scales": ks}
    attention = bare(ATTENTION, {**queries, **keys, **paging}, attention_attributes(case))

    def call() -> tuple[Array, ...]:  # each writes what the next one reads
        return (*prolog(), indexer()[0], attention()[0])

    return Contender("kernel", call, lambda result: dict(zip(STEP_OUTPUTS, result, strict=True)))


# MindSpore. A call is over when its last output has been read.


def _mindspore(name: str, mode: int, shape: Shape, case: Case, function: Any) -> Contender:
    names = STEP_OUTPUTS if shape.op == STEP else OUTPUTS[shape.op]
    caches = {out: case.inputs[n] for n, out in cases.IN_PLACE[case.operator].items()}
    kept = [n for n in names if n not in caches]

    def call() -> tuple[Any, ...]:
        result = function()
        result = result if isinstance(result, tuple) else (result,)
        result[-1].asnumpy()
        return result

    def arrays(result: tuple[Any, ...]) -> dict[str, Array]:
        found = result if len(result) == len(kept) else [r for n, r in zip(names, result, strict=True) if n in kept]
        return {**caches, **{n: weights.to_array(r) for n, r in zip(kept, found, strict=True)}}

    return Contender(name, call, arrays, before=lambda: ms.set_context(mode=mode))


def _paging_tensors(case: Case) -> dict[str, Any]:
    return {n: weights.to_tensor(getattr(case.paging, n)) for n in ("block_table", "kv_act_seqs")}


def _pynative(shape: Shape, case: Case, tensors: dict[str, Any]) -> Any:
    return getattr(ops, shape.op)(*tensors.values(), **_format(case))


def _pynative_step(shape: Shape, case: Case, tensors: dict[str, Any]) -> tuple[Any, ...]:
    paging = (tensors["block_table"], tensors["kv_act_seqs"])
    outputs = ops.mla_indexer_prolog_quant(*(tensors[n] for n in case.inputs), weight_format="PACKED")
    q_nope, q_rope, kv, kr, ks, q_int8, q_scale, k_int8, k_scale, head_weights = outputs
    topk = ops.lightning_indexer_quant(q_int8, q_scale, head_weights, k_int8, k_scale, *paging)
    out = ops.sparse_flash_attention_quant(q_nope, q_rope, kv, kr, ks, topk, *paging, **attention_attributes(case))
    return (*outputs, topk, out)


class _Step(nn.Cell):
    """`cells.SparseAttentionStep` with what is between, for comparison."""

    def __init__(self, prolog: nn.Cell, max_blocknum_perbatch: int) -> None:
        super().__init__()
        self.prolog = prolog
        self.indexer = cells.LightningIndexer()
        self.attention = cells.SparseFlashAttention(max_blocknum_perbatch, softmax_scale=golden.softmax_scale())

    def construct(self, token_x, cos, sin, cache_index, kv, kr, ks, k_cache, k_cache_scale, block_table, kv_act_seqs):
        q_nope, q_rope, q_int8, q_scale, w = self.prolog(
            token_x, cos, sin, cache_index, kv, kr, ks, k_cache, k_cache_scale
        )
        topk = self.indexer(q_int8, q_scale, w, k_cache, k_cache_scale, block_table, kv_act_seqs)
        out = self.attention(q_nope, q_rope, kv, kr, ks, topk, block_table, kv_act_seqs)
        return q_nope, q_rope, q_int8, q_scale, w, topk, out


@functools.cache
def _weighted(kind: type[nn.Cell]) -> nn.Cell:
    # The rivals use the operators' default epsilon, and the cells' default is the model's.
    with_mla = kind in (cells.MLAProlog, cells.MLAIndexerProlog)
    cell = kind(epsilon_cq=1e-5, epsilon_ckv=1e-5) if with_mla else kind()
    cell.set_weights({name: row_major()[name] for name in cell.get_weights()})
    return cell


def _cell(shape: Shape, case: Case) -> tuple[nn.Cell, list[str]]:
    """The cell of an operator, and the names of its inputs: the operator's inputs that are not weights."""
    columns = case.paging.block_table.shape[1]
    if shape.op == INDEXER:
        return cells.LightningIndexer(), list(case.inputs)
    if shape.op == ATTENTION:
        return cells.SparseFlashAttention(columns, softmax_scale=golden.softmax_scale()), list(case.inputs)
    names = list(activations(case))
    if shape.op == STEP:
        return _Step(_weighted(cells.MLAIndexerProlog), columns), [*names, "block_table", "kv_act_seqs"]
    kinds = {
        MLA: cells.MLAProlog,
        INDEXER_PROLOG: cells.LightningIndexerProlog,
        FUSED: cells.MLAIndexerProlog,
        EPILOG: cells.MLAEpilog,
    }
    return _weighted(kinds[shape.op]), names
