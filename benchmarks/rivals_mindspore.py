"""The operators made of MindSpore's own operators, in graph mode.

MindSpore's CPU backend multiplies neither bf16 (no MatMul kernel) nor int8 into int32 (its int8 MatMul returns int8),
so everything is computed in float32 with weights that were converted in advance, rounded where the contract rounds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import cases
import mindspore as ms
import numpy as np
from cases import OUTPUTS, Case
from mindspore import Parameter, Tensor, nn, ops

from benchmarks.contender import STEP_OUTPUTS, Contender, activations
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
from ms_dsv32 import golden
from ms_dsv32.paging import rows_of
from ms_dsv32.weights import to_array, to_tensor


def _float(array: Array) -> Array:
    return golden.bf16_to_float32(array) if array.dtype == np.uint16 else array.astype(np.float32)


@functools.cache
def _weight(*names: str) -> Parameter:
    """Weights side by side, in float32."""
    return Parameter(
        Tensor.from_numpy(np.concatenate([_float(row_major()[n]) for n in names], -1)), requires_grad=False
    )


def bf16(x):
    """Rounds to bf16 and stays in float32."""
    return ops.cast(ops.cast(x, ms.bfloat16), ms.float32)


def quantise(x):
    """int8 values, still as float32, and their scale."""
    r = 127.0 / ops.maximum(ops.ReduceMax(True)(ops.abs(x), -1), 1e-30)
    return ops.Round()(x * r), 1.0 / r


def rope(x, cos, sin):
    a, b = x[..., :32], x[..., 32:]
    return x * cos + ops.concat((-b, a), -1) * sin


def split_pairs(x):
    return ops.concat((x[..., 0::2], x[..., 1::2]), -1)


def rms_norm(x, gamma):
    return bf16(x / ops.sqrt(ops.ReduceMean(True)(x * x, -1) + 1e-5) * gamma)


class Mla(nn.Cell):
    """`mla_prolog_quant`. The caches are Parameters of rows."""

    def __init__(self, caches: tuple[Parameter, ...]) -> None:
        super().__init__()
        self.down, self.up, self.uk = _weight("w_dq", "w_dkv_kr"), _weight("w_uq_qr"), _weight("w_uk")
        self.scale = Tensor(row_major()["dequant_scale"].reshape(1, -1))
        self.gamma_cq, self.gamma_ckv = _weight("gamma_cq"), _weight("gamma_ckv")
        self.kv, self.kr, self.ks = caches

    def construct(self, token_x, cos, sin, cache_index):
        t = token_x.shape[0]
        cos, sin = ops.cast(cos, ms.float32), ops.cast(sin, ms.float32)
        c = bf16(ops.matmul(ops.cast(token_x, ms.float32), self.down))
        q_norm, q_scale = quantise(rms_norm(c[:, :1536], self.gamma_cq))
        qb = bf16(ops.matmul(q_norm, self.up) * q_scale * self.scale).reshape(t, 128, 192)
        q_nope = ops.transpose(ops.BatchMatMul()(ops.transpose(qb[:, :, :128], (1, 0, 2)), self.uk), (1, 0, 2))
        q_rope = rope(split_pairs(qb[:, :, 128:]), cos[:, None], sin[:, None])
        k8, ks = quantise(rms_norm(c[:, 1536:2048], self.gamma_ckv).reshape(t, 4, 128))
        kr = rope(split_pairs(c[:, 2048:]), cos, sin)
        ops.scatter_nd_update(self.kv, cache_index[:, None], ops.cast(k8.reshape(t, 512), ms.int8))
        ops.scatter_nd_update(self.kr, cache_index[:, None], bf16(kr))
        ops.scatter_nd_update(self.ks, cache_index[:, None], ks.reshape(t, 4))
        q_norm = ops.cast(q_norm, ms.int8)
        return q_norm, q_scale, ops.cast(q_nope, ms.bfloat16), ops.cast(q_rope, ms.bfloat16)


class IndexerProlog(nn.Cell):
    """`lightning_indexer_prolog_quant`. The caches are Parameters of rows."""

    def __init__(self, caches: tuple[Parameter, ...]) -> None:
        super().__init__()
        self.up, self.down = _weight("w_qb"), _weight("wk", "w_proj")
        self.scale = Tensor(row_major()["w_qb_scale"].reshape(1, -1))
        self.gamma, self.beta = _weight("ln_gamma_k"), _weight("ln_beta_k")
        self.hadamard_q, self.hadamard_k = _weight("hadamard_q"), _weight("hadamard_k")
        self.k, self.ks = caches

    def construct(self, x, q_norm, q_norm_scale, cos, sin, k_cache_index):
        t = x.shape[0]
        cos, sin = ops.cast(cos, ms.float32), ops.cast(sin, ms.float32)
        q = bf16(ops.matmul(ops.cast(q_norm, ms.float32), self.up) * q_norm_scale * self.scale).reshape(t, 64, 128)
        q = ops.concat((bf16(rope(q[:, :, :64], cos[:, None], sin[:, None])), q[:, :, 64:]), -1)
        q_int8, q_scale = quantise(bf16(ops.matmul(q.reshape(t * 64, 128), self.hadamard_q)))
        c = ops.matmul(ops.cast(x, ms.float32), self.down)
        k = c[:, :128]
        k = k - ops.ReduceMean(True)(k, -1)
        k = bf16(k / ops.sqrt(ops.ReduceMean(True)(k * k, -1) + 1e-6) * self.gamma + self.beta)
        k = ops.concat((bf16(rope(k[:, :64], cos, sin)), k[:, 64:]), -1)
        k_int8, k_scale = quantise(bf16(ops.matmul(k, self.hadamard_k)))
        ops.scatter_nd_update(self.k, k_cache_index[:, None], ops.cast(k_int8, ms.int8))
        ops.scatter_nd_update(self.ks, k_cache_index[:, None], ops.cast(k_scale, ms.float16))
        weights = bf16(c[:, 128:]) * 64**-0.5 * 128**-0.5
        q_int8, q_scale = ops.cast(q_int8.reshape(t, 64, 128), ms.int8), ops.cast(q_scale.reshape(t, 64, 1), ms.float16)
        return q_int8, q_scale, ops.cast(weights, ms.float16)


class Fused(nn.Cell):
    """`mla_indexer_prolog_quant`. Returns the outputs that are not caches."""

    def __init__(self, caches: tuple[Parameter, ...]) -> None:
        super().__init__()
        self.mla, self.indexer = Mla(caches[:3]), IndexerProlog(caches[3:])

    def construct(self, token_x, cos, sin, cache_index):
        q_norm, q_scale, q_nope, q_rope = self.mla(token_x, cos, sin, cache_index)
        q_int8, q_scale, weights = self.indexer(token_x, q_norm, q_scale, cos, sin, cache_index)
        return q_nope, q_rope, q_int8, q_scale, weights


class Indexer(nn.Cell):
    """`lightning_indexer_quant`."""

    def __init__(self, case: Case, caches: tuple[Parameter, ...]) -> None:
        super().__init__()
        paging = case.paging
        self.b, self.s1, self.kv = paging.b, paging.s1, int(paging.kv_act_seqs[0])
        self.k, self.ks = caches
        self.rows = Tensor(np.stack([rows_of(paging.block_table, b, self.kv) for b in range(self.b)]).astype(np.int32))
        hidden = np.arange(self.kv) >= paging.visible().reshape(self.b, self.s1, 1)
        self.mask = Tensor(np.where(hidden, -np.inf, 0).astype(np.float32))

    def construct(self, q_int8, q_scale, weights):
        keys = ops.cast(ops.gather(self.k, self.rows, 0), ms.float32)
        scales = ops.cast(ops.gather(self.ks, self.rows, 0), ms.float32).reshape(self.b, 1, self.kv)
        q = ops.cast(q_int8, ms.float32).reshape(self.b, self.s1 * 64, 128)
        factor = ops.cast(q_scale, ms.float32) * ops.cast(weights, ms.float32)[:, :, None]
        dot = ops.relu(ops.BatchMatMul(transpose_b=True)(q, keys)).reshape(self.b * self.s1, 64, self.kv)
        score = ops.BatchMatMul(transpose_a=True)(factor, dot).reshape(self.b, self.s1, self.kv) * scales + self.mask
        return ops.cast(ops.topk(score, SELECTED_COUNT, sorted=False)[1], ms.int32).reshape(-1, SELECTED_COUNT)


class Attention(nn.Cell):
    """`sparse_flash_attention_quant`, for full rows of topk_indices."""

    def __init__(self, case: Case, caches: tuple[Parameter, ...]) -> None:
        super().__init__()
        paging = case.paging
        self.kv, self.kr, self.ks = caches
        self.t, self.scale = paging.t, golden.softmax_scale()
        # Cache row of each position of each token's sequence.
        rows = [rows_of(paging.block_table, b, int(n)) for b, n in enumerate(paging.kv_act_seqs)]
        self.rows = Tensor(np.concatenate(rows).astype(np.int32))
        self.first = Tensor((np.arange(paging.t) // paging.s1 * len(rows[0])).astype(np.int32)[:, None])

    def construct(self, query_nope, query_rope, topk_indices):
        rows = ops.gather(self.rows, topk_indices + self.first, 0)
        k8 = ops.cast(ops.gather(self.kv, rows, 0), ms.float32).reshape(self.t, -1, 4, 128)
        k = bf16(k8 * ops.gather(self.ks, rows, 0)[..., None]).reshape(self.t, -1, 512)
        key = ops.concat((k, ops.gather(self.kr, rows, 0)), -1)
        query = ops.concat((ops.cast(query_nope, ms.float32), ops.cast(query_rope, ms.float32)), -1).reshape(
            self.t, -1, 576
        )
        p = bf16(ops.softmax(ops.BatchMatMul(transpose_b=True)(query, key) * self.scale, -1))
        return ops.cast(ops.BatchMatMul()(p, k), ms.bfloat16)


class Epilog(nn.Cell):
    """`mla_epilog_quant`, which has no caches."""

    def __init__(self, caches: tuple[Parameter, ...]) -> None:
        super().__init__()
        self.uv, self.o = _weight("w_uv"), _weight("w_o")
        self.scale = Tensor(row_major()["w_o_scale"].reshape(1, -1))

    def construct(self, attention_out):
        t = attention_out.shape[0]
        heads = ops.transpose(ops.cast(attention_out, ms.float32), (1, 0, 2))
        v8, s = quantise(bf16(ops.transpose(ops.BatchMatMul()(heads, self.uv), (1, 0, 2))).reshape(t, -1))
        return ops.cast(ops.matmul(v8, self.o) * s * self.scale, ms.bfloat16)


class Step(nn.Cell):
    """The whole step."""

    def __init__(self, case: Case, caches: tuple[Parameter, ...]) -> None:
        super().__init__()
        self.prolog, self.indexer, self.attention = (
            Fused(caches),
            Indexer(case, caches[3:]),
            Attention(case, caches[:3]),
        )

    def construct(self, token_x, cos, sin, cache_index):
        q_nope, q_rope, q_int8, q_scale, weights = self.prolog(token_x, cos, sin, cache_index)
        topk = self.indexer(q_int8, q_scale, weights)
        return q_nope, q_rope, q_int8, q_scale, weights, topk, self.attention(q_nope, q_rope, topk)


CACHES = {
    INDEXER: ("k_cache", "k_cache_scale"),
    ATTENTION: ("key_nope_2d", "key_rope_2d", "k_nope_scales"),
    **{op: tuple(cases.IN_PLACE[op]) for op in PROJECTIONS},
}


def contenders(shape: Shape, case: Case, flush: Callable[[], object]) -> Iterator[Contender]:
    """MindSpore's own operators in graph mode."""
    # The bf16 cache is held in float32, because MindSpore cannot gather bf16.
    in_caches = {n: case.inputs[n].reshape(-1, case.inputs[n].shape[-1]) for n in CACHES[case.operator]}
    rows = {n: _float(v) if v.dtype == np.uint16 else v for n, v in in_caches.items()}
    caches = tuple(Parameter(Tensor.from_numpy(v), name=n, requires_grad=False) for n, v in rows.items())
    kinds = {MLA: Mla, INDEXER_PROLOG: IndexerProlog, FUSED: Fused, EPILOG: Epilog}
    cell = (
        kinds[shape.op](caches)
        if shape.op in kinds
        else {INDEXER: Indexer, ATTENTION: Attention, STEP: Step}[shape.op](case, caches)
    )
    skipped = {*CACHES[case.operator], "block_table", "kv_act_seqs"}
    inputs = [to_tensor(v) for n, v in activations(case).items() if n not in skipped]
    in_place = cases.IN_PLACE[case.operator]
    names = [n for n in (STEP_OUTPUTS if shape.op == STEP else OUTPUTS[shape.op]) if n not in in_place.values()]

    def call() -> tuple[Any, ...]:
        result = cell(*inputs)
        result = result if isinstance(result, tuple) else (result,)
        result[-1].asnumpy()
        return result

    def arrays(result: tuple[Any, ...]) -> dict[str, Array]:
        found = {n: to_array(r) for n, r in zip(names, result, strict=True)}
        for parameter, (name, output) in zip(caches, in_place.items(), strict=bool(in_place)):
            value, like = parameter.asnumpy(), case.inputs[name]
            found[output] = (golden.float32_to_bf16(value) if like.dtype == np.uint16 else value).reshape(like.shape)
        return found

    yield Contender("mindspore", call, arrays, before=lambda: ms.set_context(mode=ms.GRAPH_MODE))
