"""The operators as a good torch user writes them for a CPU: eager, and with torch.compile.

Weights are converted in advance, projections of one input are one product, and prompts run in chunks. For each product
torch has several ways (bf16 or fp32 weights, transposed, packed by oneDNN or MKL, three kinds of int8 product). Which
one is fastest depends on the CPU and the number of rows. So a short tournament over cold weights picks the fastest way
that is right. The picks are in the contender's note.

Two ways of attention are wrong by the contract on every CPU: a product of bf16 matrices rounds the scores to bf16, and
`scaled_dot_product_attention` rounds the numerators of the softmax to bf16 (in float32 nothing), where the contract
rounds its results.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import cases
import numpy as np
import torch
import torch._inductor.config
import torch.nn.functional as F  # noqa: N812
from cases import OUTPUTS, Case
from torch import Tensor

from benchmarks import checks
from benchmarks.contender import STEP_OUTPUTS, Contender, activations
from benchmarks.contender import weights as row_major
from benchmarks.shapes import (
    ATTENTION,
    EPILOG,
    FUSED,
    INDEXER,
    INDEXER_PROLOG,
    MLA,
    SELECTED_COUNT,
    STEP,
    Array,
    Shape,
)
from ms_dsv32 import golden, kernel_impl

Way = Callable[[Tensor], Tensor]
T = TypeVar("T")
Product = Callable[[Tensor, Tensor], Tensor]
RUNS = 3  # runs of each way in a tournament
QUALIFYING_ROWS = (4, 64)  # the first is bound by the reads of weights, the second by arithmetic
FEW_TOKENS = 8  # tokens on which attention tries its ways: its work for a token does not depend on the others


def to_torch(array: Array) -> Tensor:
    """A tensor on the array's memory. uint16 holds bfloat16 bits."""
    array = array if array.flags.writeable else array.copy()
    return (
        torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        if array.dtype == np.uint16
        else torch.from_numpy(array)
    )


def to_array(tensor: Tensor) -> Array:
    tensor = tensor.detach().contiguous()
    return tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


# torch.compile compiles only what is around the products: it takes packed weights as constants of a frozen graph only,
# and cannot look into a change of a setting.
opaque = torch.compiler.disable


# Products of values that bf16 or int8 holds: [..., M, K] x [..., K, N] -> [..., M, N].


def fp32_product(a: Tensor, b: Tensor) -> Tensor:
    return a.float() @ b.float()


@opaque
def _matmul_of_bf16(a: Tensor, b: Tensor) -> Tensor:
    matmul = torch.backends.mkldnn.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        return a @ b
    finally:
        matmul.fp32_precision = before


def bf16_product(a: Tensor, b: Tensor) -> Tensor:
    """Float32 sums of bf16 products: oneDNN rounds the factors to bf16, which does not change them.

    This is torch's only way to multiply bf16 without rounding the result, because `torch.mm` and `torch.bmm` have no
    `out_dtype` on a CPU.
    """
    return _matmul_of_bf16(a.float(), b.float())


def rounded_product(a: Tensor, b: Tensor) -> Tensor:
    """Rounds to bf16."""
    return a @ b


def int8_product(a: Tensor, b: Tensor) -> Tensor:
    return torch._int_mm(a, b).float()


def unrounded_products() -> dict[str, Product]:
    """Ways to float32 results."""
    return {"fp32": fp32_product} | (
        {"bf16 to fp32": bf16_product} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else {}
    )


# Products with a fixed weight [K, N]. Each way takes rows [t, K] and returns [t, N].


def _fp32_ways(w: Tensor, rows: int) -> dict[str, Callable[[], Way]]:
    w32, wt32 = w.float(), w.t().float().contiguous()

    def onednn() -> Way:
        packed = torch.ops.mkldnn._reorder_linear_weight(wt32, rows)
        return opaque(lambda x: torch.ops.mkldnn._linear_pointwise(x.float(), packed, None, "none", [], ""))

    def mkl() -> Way:
        packed = torch.ops.mkl._mkl_reorder_linear_weight(wt32, rows)
        return opaque(lambda x: torch.ops.mkl._mkl_linear(x.float(), packed, wt32, None, x.shape[0]))

    return {
        "fp32": lambda: lambda x: x.float() @ w32,
        "fp32 W^T": lambda: lambda x: F.linear(x.float(), wt32),
        "fp32 packed (oneDNN)": onednn,
        "fp32 packed (MKL)": mkl,
    }


def _bf16_ways(w: Tensor, rows: int) -> dict[str, Callable[[], Way]]:
    wt = w.t().contiguous()

    def onednn() -> Way:
        packed = torch.ops.mkldnn._reorder_linear_weight(wt, rows)
        return opaque(lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""))

    ways = {
        "bf16": lambda: lambda x: x @ w,
        "bf16 W^T": lambda: lambda x: F.linear(x, wt),
        "bf16 packed (oneDNN)": onednn,
    }
    return ways | _fp32_ways(w, rows)


def _int8_ways(w: Tensor, rows: int) -> dict[str, Callable[[], Way]]:
    # Not torch._weight_int8pack_mm, which rounds to bf16 before the token's scale: beyond the tolerances.
    wt = w.t().contiguous()
    n = w.shape[1]

    def qlinear() -> Way:
        packed = torch.ops.onednn.qlinear_prepack(wt, [rows, w.shape[0]])
        one, zero = torch.ones(n), torch.zeros(n, dtype=torch.int32)
        return opaque(
            lambda q: torch.ops.onednn.qlinear_pointwise(
                q, 1.0, 0, packed, one, zero, None, 1.0, 0, torch.float32, "none", [], ""
            )
        )

    return {
        "_int_mm": lambda: lambda q: torch._int_mm(q, w),
        "_int_mm W^T": lambda: lambda q: torch._int_mm(q, wt.t()),
        "int8 packed (oneDNN)": qlinear,
        **_fp32_ways(w, rows),  # partial sums of real values stay below 2^24, so this is exact too
    }


def _head_ways(w: Tensor, rows: int) -> dict[str, Callable[[], Way]]:
    """w_uk or w_uv [n_q, k, n]: [t, n_q, k] -> [t, n_q, n]."""
    w32 = w.float()
    return {
        "bf16": lambda: lambda x: torch.bmm(x.transpose(0, 1), w).transpose(0, 1).contiguous(),
        "fp32": lambda: lambda x: torch.bmm(x.transpose(0, 1).float(), w32).transpose(0, 1).bfloat16(),
    }


def _seconds(call: Callable[[], Any], flush: Callable[[], Any], runs: int) -> float:
    best = float("inf")
    for _ in range(runs):
        flush()
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


class Tournament:
    """Picks the fastest way for each product and remembers the picks."""

    def __init__(self, flush: Callable[[], Any]) -> None:
        self._flush = flush
        self._picks: dict[tuple[str, int], Any] = {}
        self._finalists: dict[tuple[str, int], list[str]] = {}
        self.used: dict[tuple[str, int], None] = {}

    def pick(self, name: str, ways: Mapping[str, Callable[[], Way]], x: Callable[[int], Tensor], rows: int) -> Way:
        """The fastest way to multiply `rows` rows. `x` makes inputs, and `name` is the product's name in the notes.

        A way is out if torch refuses it on this CPU, if its result is off by more than a rounding to bf16, or if it is
        over four times slower than the best at a few rows (torch emulates what the CPU lacks, for seconds).
        """
        few = min(QUALIFYING_ROWS, key=lambda few: abs(few - rows))
        if (name, few) not in self._finalists:
            self._finalists[name, few] = self._qualify(ways, x(few))
        if (name, rows) not in self._picks:
            many = x(rows)
            calls = {k: functools.partial(ways[k](), many) for k in self._finalists[name, few]}
            times = {k: _seconds(call, self._flush, RUNS) for k, call in calls.items()}
            self._picks[name, rows] = min(times, key=times.__getitem__)
        self.used[name, rows] = None
        return ways[self._picks[name, rows]]()

    def _qualify(self, ways: Mapping[str, Callable[[], Way]], x: Tensor) -> list[str]:
        """The ways that are right, and not four times slower than the fastest of them."""
        want = ways["fp32"]()(x).float()
        bound = 2.0**-7 * want.abs() + 1e-3 * float(want.abs().max())
        times = {}
        for name, make in ways.items():
            try:
                way = make()
                right = bool(((way(x).float() - want).abs() <= bound).all())
            except RuntimeError:  # this CPU lacks what it needs
                continue
            if right:
                times[name] = _seconds(lambda way=way: way(x), self._flush, 2)
        return [name for name, seconds in times.items() if seconds <= 4 * min(times.values())]

    def fastest(self, name: str, rows: int, choices: Mapping[str, Callable[[], T]], check: Callable[[T], None]) -> str:
        """The fastest call that is right. A single call is not checked here, but by the check of the contender.

        Args:
            check: compares what a call returned with the contract, and raises AssertionError.

        Raises:
            AssertionError: none of them is right.
        """
        if len(choices) == 1:
            return next(iter(choices))
        if (name, rows) not in self._picks:
            times, wrong = {}, []
            for choice, call in choices.items():
                try:
                    check(call())
                except AssertionError as error:
                    wrong.append(f"{choice}: {str(error).splitlines()[0]}")
                else:
                    times[choice] = _seconds(call, self._flush, 2)
            if not times:
                raise AssertionError(f"{name} ({rows} rows): no way of torch is right: {'; '.join(wrong)}")
            self._picks[name, rows] = min(times, key=times.__getitem__)
        self.used[name, rows] = None
        return self._picks[name, rows]

    def note(self) -> str:
        """The picks since `used` was cleared."""
        return "; ".join(f"{name} ({rows} rows): {self._picks[name, rows]}" for name, rows in self.used)


# The mathematics.


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    r = 127.0 / x.abs().amax(-1, keepdim=True).clamp_min(1e-30)
    return (x * r).round().to(torch.int8), 1.0 / r


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return (x * cos + torch.cat((-b, a), -1) * sin).bfloat16()


def rms_norm(x: Tensor, gamma: Tensor) -> Tensor:
    return F.rms_norm(x.float(), (x.shape[-1],), gamma, 1e-5).bfloat16().float()


class Mla:
    """`mla_prolog_quant`: fn(x, cos, sin, cache_index, kv_cache, kr_cache, k_scale_cache)."""

    def __init__(self, tournament: Tournament, t: int, weights: Mapping[str, Tensor]) -> None:
        self.gamma_cq, self.gamma_ckv = weights["gamma_cq"].float(), weights["gamma_ckv"].float()
        self.scale = weights["dequant_scale"].view(-1)
        down = torch.cat((weights["w_dq"], weights["w_dkv_kr"]), 1)
        self.down = tournament.pick("w_dq|w_dkv_kr", _bf16_ways(down, t), lambda r: torch.randn(r, 7168).bfloat16(), t)
        self.up = tournament.pick("w_uq_qr", _int8_ways(weights["w_uq_qr"], t), _int8_rows, t)
        self.uk = tournament.pick(
            "w_uk", _head_ways(weights["w_uk"], t), lambda r: torch.randn(r, 128, 128).bfloat16(), t
        )

    def __call__(
        self, x: Tensor, cos: Tensor, sin: Tensor, index: Tensor, kv: Tensor, kr: Tensor, ks: Tensor
    ) -> tuple[Tensor, ...]:
        t = x.shape[0]
        cos, sin = cos.float(), sin.float()
        c = self.down(x).bfloat16()
        q_norm, q_scale = quantise(rms_norm(c[:, :1536], self.gamma_cq))
        qb = (self.up(q_norm).float() * q_scale * self.scale).bfloat16().view(t, 128, 192)
        q_nope = self.uk(qb[:, :, :128])
        rotated = qb[:, :, 128:].float().view(t, 128, 32, 2).transpose(2, 3).reshape(t, 128, 64)
        q_rope = rope(rotated, cos[:, None], sin[:, None])
        k8, scale = quantise(rms_norm(c[:, 1536:2048], self.gamma_ckv).view(t, 4, 128))
        rotated = c[:, 2048:].float().view(t, 32, 2).transpose(1, 2).reshape(t, 64)
        kv.view(-1, 512).index_copy_(0, index, k8.view(t, 512))
        kr.view(-1, 64).index_copy_(0, index, rope(rotated, cos, sin))
        ks.view(-1, 4).index_copy_(0, index, scale.view(t, 4))
        return q_norm, q_scale, q_nope, q_rope


class IndexerProlog:
    """`lightning_indexer_prolog_quant`: fn(x, q_norm, q_norm_scale, cos, sin, cache_index, k_cache, k_cache_scale)."""

    def __init__(self, tournament: Tournament, t: int, weights: Mapping[str, Tensor]) -> None:
        self.gamma, self.beta = weights["ln_gamma_k"].float(), weights["ln_beta_k"].float()
        self.scale = weights["w_qb_scale"].view(-1)
        self.up = tournament.pick("w_qb", _int8_ways(weights["w_qb"], t), _int8_rows, t)
        # k must not be rounded before the LayerNorm, so this product is fp32 on every CPU.
        both = torch.cat((weights["wk"], weights["w_proj"]), 1)
        self.down = tournament.pick("wk|w_proj", _fp32_ways(both, t), lambda r: torch.randn(r, 7168).bfloat16(), t)
        row = lambda r: torch.randn(r, 128).bfloat16()  # noqa: E731
        self.turn_q = tournament.pick("hadamard_q", _bf16_ways(weights["hadamard_q"], 64 * t), row, 64 * t)
        self.turn_k = tournament.pick("hadamard_k", _bf16_ways(weights["hadamard_k"], t), row, t)

    def __call__(
        self,
        x: Tensor,
        q_norm: Tensor,
        q_norm_scale: Tensor,
        cos: Tensor,
        sin: Tensor,
        index: Tensor,
        k: Tensor,
        ks: Tensor,
    ) -> tuple[Tensor, ...]:
        t = x.shape[0]
        cos, sin = cos.float(), sin.float()
        q = (self.up(q_norm).float() * q_norm_scale * self.scale).bfloat16().view(t, 64, 128)
        q = torch.cat((rope(q[:, :, :64].float(), cos[:, None], sin[:, None]), q[:, :, 64:]), -1)
        q_int8, q_scale = quantise(self.turn_q(q.view(-1, 128)).bfloat16().float())
        c = self.down(x)
        key = F.layer_norm(c[:, :128], (128,), self.gamma, self.beta, 1e-6).bfloat16()
        key = torch.cat((rope(key[:, :64].float(), cos, sin), key[:, 64:]), -1)
        k_int8, k_scale = quantise(self.turn_k(key).bfloat16().float())
        k.view(-1, 128).index_copy_(0, index, k_int8)
        ks.view(-1, 1).index_copy_(0, index, k_scale.half())
        head_weights = (c[:, 128:].bfloat16().float() * 64**-0.5 * 128**-0.5).half()
        return q_int8.view(t, 64, 128), q_scale.half().view(t, 64, 1), head_weights


class Fused:
    """`mla_indexer_prolog_quant`. Returns the outputs that are not caches."""

    def __init__(self, tournament: Tournament, t: int, weights: Mapping[str, Tensor]) -> None:
        self.mla, self.indexer = Mla(tournament, t, weights), IndexerProlog(tournament, t, weights)

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, index: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        q_norm, q_scale, q_nope, q_rope = self.mla(x, cos, sin, index, *caches[:3])
        return (q_nope, q_rope, *self.indexer(x, q_norm, q_scale, cos, sin, index, *caches[3:]))


class Epilog:
    """`mla_epilog_quant`: fn(attention_out)."""

    def __init__(self, tournament: Tournament, t: int, weights: Mapping[str, Tensor]) -> None:
        self.scale = weights["w_o_scale"].view(-1)
        # Opaque, because at one token torch.compile would add products that are rounded to bf16, which is beyond the
        # tolerances.
        self.uv = opaque(
            tournament.pick("w_uv", _head_ways(weights["w_uv"], t), lambda r: torch.randn(r, 128, 512).bfloat16(), t)
        )
        self.o = tournament.pick("w_o", _int8_ways(weights["w_o"], t), lambda r: _int8_rows(r, 16384), t)

    def __call__(self, attention_out: Tensor) -> tuple[Tensor, ...]:
        v8, s = quantise(self.uv(attention_out).reshape(-1, 16384).float())
        return ((self.o(v8).float() * s * self.scale).bfloat16(),)


def index_scores(q: Tensor, factor: Tensor, keys: Tensor, scales: Tensor, product: Product) -> Tensor:
    """Scores [s1, keys] of one sequence's keys int8 [keys, 128] for its queries [s1 * 64, 128], factors [s1, 64].

    Each way gives the exact product, because its sums stay below 128 * 127^2 < 2^24.
    """
    dot = torch.relu(product(keys, q.t())).view(keys.shape[0], *factor.shape)
    return torch.stack([dot[:, j] @ factor[j] for j in range(factor.shape[0])]) * scales.float()


class Indexer:
    """`lightning_indexer_quant`: fn(q_int8, q_scale, weights, k_cache, k_cache_scale), one sequence at a time."""

    def __init__(self, case: Case, scores: Callable[..., Tensor]) -> None:
        paging = case.paging
        self.s1, self.kv = paging.s1, int(paging.kv_act_seqs[0])
        blocks = -(-self.kv // paging.block_size)
        self.blocks = to_torch(paging.block_table[:, :blocks].astype(np.int64))
        self.count = case.attributes.get("selected_count", SELECTED_COUNT)
        self.scores = scores

    def __call__(
        self,
        q_int8: Tensor,
        q_scale: Tensor,
        weights: Tensor,
        k: Tensor,
        ks: Tensor,
        chunk: int,
        product: Product,
        sequences: int | None = None,
    ) -> Tensor:
        """topk_indices [b * s1, count], or with `sequences` those of the first few only."""
        q = q_int8.view(-1, self.s1 * 64, 128)[:sequences]
        factor = (q_scale.view(-1, 64).float() * weights.float()).view(-1, self.s1, 64)
        out = torch.empty((q.shape[0], self.s1, self.count), dtype=torch.int32)
        for b, blocks in enumerate(self.blocks[:sequences]):
            keys, scales = k[blocks].view(-1, 128), ks[blocks].view(-1)
            parts = zip(keys.split(chunk), scales.split(chunk), strict=True)
            score = torch.cat([self.scores(q[b], factor[b], *part, product) for part in parts], 1)
            for j in range(self.s1):
                out[b, j] = score[j, : self.kv - self.s1 + 1 + j].topk(self.count, sorted=False).indices
        return out.view(-1, self.count)


def attend(
    q_nope: Tensor,
    q_rope: Tensor,
    kv: Tensor,
    kr: Tensor,
    ks: Tensor,
    rows: Tensor,
    scale: float,
    scores: Product,
    output: Product,
) -> Tensor:
    """Attention of c tokens, each over its own cache rows [c, n]. Caches come as rows. `scores` must not round."""
    c, n = rows.shape
    k = (kv[rows].view(c, n, 4, 128).float() * ks[rows].unsqueeze(-1)).bfloat16().view(c, n, 512)
    q, key = torch.cat((q_nope, q_rope), -1), torch.cat((k, kr[rows]), -1)
    p = torch.softmax(scores(q, key.mT) * scale, -1).bfloat16()
    return output(p, k).bfloat16()


class Attention:
    """`sparse_flash_attention_quant`: fn(q_nope, q_rope, kv, kr, ks, topk_indices), some tokens at a time."""

    def __init__(self, case: Case, attend: Callable[..., Tensor]) -> None:
        paging = case.paging
        if (paging.visible() < case.attributes.get("topk", SELECTED_COUNT)).any():
            raise ValueError("the torch rival wants full rows of topk_indices")
        self.block_size = paging.block_size
        self.blocks = to_torch(np.repeat(paging.block_table.astype(np.int64), paging.s1, 0))
        self.n_q = case.n_q
        self.scale = golden.softmax_scale()
        self.attend = attend

    def __call__(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        kv: Tensor,
        kr: Tensor,
        ks: Tensor,
        topk: Tensor,
        chunk: int,
        scores: Product,
        output: Product,
        tokens: int | None = None,
    ) -> Tensor:
        """attention_out [t, n_q, 512], or with `tokens` that of the first few only."""
        caches = kv.view(-1, 512), kr.view(-1, 64), ks.view(-1, 4)
        position = topk[:tokens].long()
        blocks = self.blocks[:tokens].gather(1, position // self.block_size)
        rows = blocks * self.block_size + position % self.block_size
        queries = q_nope.view(-1, self.n_q, 512)[:tokens], q_rope.view(-1, self.n_q, 64)[:tokens]
        parts = zip(*(q.split(chunk) for q in queries), rows.split(chunk), strict=True)
        return torch.cat([self.attend(*q, *caches, r, self.scale, scores, output) for *q, r in parts])


def _int8_rows(rows: int, k: int = 1536) -> Tensor:
    return torch.randint(-127, 128, (rows, k), dtype=torch.int8)


# The contenders.


@functools.cache
def _tournament(flush: Callable[[], Any]) -> Tournament:
    torch.set_num_threads(kernel_impl.thread_count())
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    torch._inductor.config.emulate_precision_casts = True  # keeps the rounding to bf16 inside fused kernels
    return Tournament(flush)


@functools.cache
def _weights() -> dict[str, Tensor]:
    return {name: to_torch(weight) for name, weight in row_major().items()}


def _compiled(function: Callable[..., Any], compiled: bool) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False) if compiled else function


def _chunked(
    function: Callable[..., tuple[Tensor, ...]], per_token: int, chunk: int
) -> Callable[..., tuple[Tensor, ...]]:
    """Runs `function`, whose first `per_token` arguments have a token axis, over chunks of tokens."""

    def call(*args: Tensor) -> tuple[Tensor, ...]:
        parts = zip(*(a.split(chunk) for a in args[:per_token]), strict=True)
        results = [function(*part, *args[per_token:]) for part in parts]
        return results[0] if len(results) == 1 else tuple(torch.cat(column) for column in zip(*results, strict=True))

    return call


def _projection(case: Case, tournament: Tournament, compiled: bool) -> Callable[[], tuple[Tensor, ...]]:
    """The prolog or epilog of a case, with the fastest size of chunks. It returns the outputs that are not caches."""
    kinds = {MLA: (Mla, 4), INDEXER_PROLOG: (IndexerProlog, 6), FUSED: (Fused, 4), EPILOG: (Epilog, 1)}
    kind, per_token = kinds[case.operator]
    names = list(activations(case))
    if case.operator == INDEXER_PROLOG:
        names.insert(5, names.pop())  # k_cache_index, to the other inputs with a token axis
    args = [to_torch(case.inputs[n]) for n in names]

    def make(chunk: int) -> Callable[[], tuple[Tensor, ...]]:
        function = _compiled(kind(tournament, chunk, _weights()), compiled)
        return functools.partial(_chunked(function, per_token, chunk), *args)

    def check(outputs: tuple[Tensor, ...]) -> None:
        checks.check_projection(case, _arrays(case, OUTPUTS[case.operator], outputs), checks.sample(t))
        checks.forget(case)  # the next one has to write its cache rows itself

    t = case.paging.t
    calls = {str(chunk): make(chunk) for chunk in sorted({min(t, 128), t})}
    checks.forget(case)
    return calls[tournament.fastest(f"{case.operator} chunk", t, calls, check)]


# Products and the size of chunks are chosen one after the other. Products are chosen in eager mode only, because
# torch.compile calls the same ones, and would take some seconds to compile each way.


def _indexer(case: Case, tournament: Tournament, compiled: bool, args: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """The indexer of a case, with the fastest choices for the first sequence of `args`."""
    eager, call = (Indexer(case, _compiled(index_scores, c)) for c in (False, compiled))
    names = ("q_int8", "q_scale", "weights", "k_cache", "k_cache_scale")
    tokens = checks.sample(call.s1)
    compare = checks.indexer_check(case, {n: to_array(a) for n, a in zip(names, args, strict=True)}, tokens)

    def fastest(what: str, choices: Mapping[str, Callable[..., Tensor]]) -> str:
        calls = {n: functools.partial(choice, *args, sequences=1) for n, choice in choices.items()}
        return tournament.fastest(f"indexer {what}", call.s1, calls, lambda topk: compare(to_array(topk)[tokens]))

    sizes = sorted({min(4096, call.kv), min(32768, call.kv)})
    products = unrounded_products() | ({"_int_mm": int8_product} if torch.cpu._is_vnni_supported() else {})
    pick = fastest(
        f"product kv={call.kv}",
        {n: functools.partial(eager, chunk=sizes[0], product=product) for n, product in products.items()},
    )
    chunks = {str(size): functools.partial(call, chunk=size, product=products[pick]) for size in sizes}
    return chunks[fastest(f"chunk kv={call.kv} compiled={compiled}", chunks)]


def _attention(case: Case, tournament: Tournament, compiled: bool, args: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """The attention of a case, with the fastest choices for the first tokens of `args`."""
    eager, call = (Attention(case, _compiled(attend, c)) for c in (False, compiled))
    few = min(case.paging.t, FEW_TOKENS)
    names = ("query_nope", "query_rope", "key_nope_2d", "key_rope_2d", "k_nope_scales", "topk_indices")
    tokens = checks.sample(few)
    compare = checks.attention_check(case, {n: to_array(a) for n, a in zip(names, args, strict=True)}, tokens)

    def fastest(what: str, choices: Mapping[str, Callable[..., Tensor]]) -> str:
        calls = {n: functools.partial(choice, *args, tokens=few) for n, choice in choices.items()}
        return tournament.fastest(f"attention {what}", few, calls, lambda out: compare(to_array(out)[tokens]))

    unrounded = unrounded_products()
    rounded = {"bf16": rounded_product} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else {}
    products = {
        f"{scores}, {output}": {"scores": unrounded[scores], "output": (unrounded | rounded)[output]}
        for scores in unrounded
        for output in unrounded | rounded
    }
    pick = fastest("products", {n: functools.partial(eager, chunk=1, **both) for n, both in products.items()})
    sizes = sorted({1, min(4, few)})
    chunks = {str(size): functools.partial(call, chunk=size, **products[pick]) for size in sizes}
    return chunks[fastest(f"chunk compiled={compiled}", chunks)]


def _outputs(shape: Shape, case: Case, tournament: Tournament, compiled: bool) -> Callable[[], tuple[Tensor, ...]]:
    """A call of the shape, which returns the outputs that are not caches."""
    if shape.op in (INDEXER, ATTENTION):
        args = tuple(to_torch(v) for n, v in case.inputs.items() if n not in ("block_table", "kv_act_seqs"))
        call = (_indexer if shape.op == INDEXER else _attention)(case, tournament, compiled, args)
        return lambda: (call(*args),)
    projection = _projection(case, tournament, compiled)
    if shape.op != STEP:
        return projection
    *mla, k, ks = (to_torch(case.inputs[n]) for n in cases.IN_PLACE[FUSED])
    outputs = projection()
    indexer = _indexer(case, tournament, compiled, (*outputs[2:], k, ks))
    topk = indexer(*outputs[2:], k, ks)
    attention = _attention(case, tournament, compiled, (*outputs[:2], *mla, topk))

    def step() -> tuple[Tensor, ...]:
        outputs = projection()
        topk = indexer(*outputs[2:], k, ks)
        return (*outputs, topk, attention(*outputs[:2], *mla, topk))

    return step


def _arrays(case: Case, names: Sequence[str], outputs: tuple[Tensor, ...]) -> dict[str, Array]:
    """Outputs by their names, without those of caches, and the caches."""
    caches = {out: case.inputs[n] for n, out in cases.IN_PLACE[case.operator].items()}
    rest = [n for n in names if n not in caches]
    return {**caches, **{n: to_array(r) for n, r in zip(rest, outputs, strict=True)}}


def contenders(shape: Shape, case: Case, flush: Callable[[], object]) -> Iterator[Contender]:
    """torch in eager mode, then with torch.compile."""
    tournament = _tournament(flush)
    names = STEP_OUTPUTS if shape.op == STEP else OUTPUTS[shape.op]
    arrays = functools.partial(_arrays, case, names)
    torch.compiler.reset()  # otherwise each call would try what was compiled for other shapes
    for name, compiled in (("torch", False), ("torch.compile", True)):
        tournament.used.clear()
        function = _outputs(shape, case, tournament, compiled)
        yield Contender(name, function, arrays, note=tournament.note())
