"""The operators as a chain: prolog, indexer, attention, step after step on one set of caches."""

from __future__ import annotations

import cases
import numpy as np
import tolerance

from ms_dsv32 import golden, paging

N_Q = 2
LENGTH = 12


class Layer:
    """One attention layer on paged caches."""

    def __init__(self, topk: int) -> None:
        self.topk = topk
        self.block_table = paging.make_block_table([LENGTH], block_num=3, rng=np.random.default_rng(1))
        self.caches = [
            np.full((3, 128, 1, width), cases.POISON[dtype], dtype)
            for width, dtype in [(512, np.int8), (64, np.uint16), (4, np.float32), (128, np.int8), (1, np.float16)]
        ]
        self.weights = golden.fused_weights(cases.mla_weights(N_Q), cases.indexer_weights())

    def step(self, x: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens x [s1, h] at positions first, first + 1, ...: (topk_indices, attention_out [s1, n_q, 512])."""
        positions = first + np.arange(x.shape[0])
        cos, sin = golden.rope_tables(positions)
        outputs = golden.mla_indexer_prolog_quant(
            token_x=x,
            cos=cos,
            sin=sin,
            cache_index=paging.cache_index_of(self.block_table, positions[None])[0],
            mla_kv_cache=self.caches[0],
            mla_kr_cache=self.caches[1],
            mla_k_scale_cache=self.caches[2],
            ip_k_cache=self.caches[3],
            ip_k_cache_scale=self.caches[4],
            **self.weights,
        )
        q_nope, q_rope, kv_cache, kr_cache, k_scale_cache, q_int8, q_scale, k_cache, k_cache_scale, weights = outputs
        kv_act_seqs = np.array([first + x.shape[0]], np.int32)
        topk_indices = golden.lightning_indexer_quant(
            q_int8, q_scale, weights, k_cache, k_cache_scale, self.block_table, kv_act_seqs, selected_count=self.topk
        )
        attention_out = golden.sparse_flash_attention_quant(
            q_nope,
            q_rope,
            kv_cache,
            kr_cache,
            k_scale_cache,
            topk_indices,
            self.block_table,
            kv_act_seqs,
            nq=N_Q,
            n_kv=1,
            softmax_scale=golden.softmax_scale(),
            topk=self.topk,
            block_size=128,
            max_blocknum_perbatch=self.block_table.shape[1],
        )
        return topk_indices, attention_out[0]


def tokens() -> np.ndarray:
    return cases.random_bf16(np.random.default_rng(11), (LENGTH, 7168))


def test_prefill_is_decoding_token_by_token() -> None:
    """Whatever the chunks, the same selections, outputs and caches, bit for bit."""
    x = tokens()
    runs = []
    for chunks in ([LENGTH], [1] * LENGTH, [5, 3, 4]):
        layer = Layer(topk=6)
        first, selections, outputs = 0, [], []
        for s1 in chunks:
            topk_indices, out = layer.step(x[first : first + s1], first)
            selections.append(topk_indices)
            outputs.append(out)
            first += s1
        runs.append((np.concatenate(selections), np.concatenate(outputs), *layer.caches))
    for other in runs[1:]:
        for n, (got, want) in enumerate(zip(other, runs[0], strict=True)):
            tolerance.assert_same_bits(f"result {n}", got, want)


def test_the_chain_is_causal_attention_when_everything_is_selected() -> None:
    """topk >= kv: the indexer selects all, and the chain is dense causal attention over the unquantised layer."""
    x = tokens()
    _, out = Layer(topk=LENGTH).step(x, 0)
    wide = {
        name: golden.bf16_to_float32(w).astype(np.float64)
        for name, w in cases.mla_weights(N_Q).items()
        if w.dtype == np.uint16
    }
    hidden = golden.bf16_to_float32(x).astype(np.float64)

    def norm(v: np.ndarray, gamma: np.ndarray) -> np.ndarray:
        return v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-5) * gamma

    def turn(v: np.ndarray) -> np.ndarray:
        angle = np.arange(LENGTH).reshape(-1, *[1] * (v.ndim - 1)) * 10000.0 ** (-np.arange(32) / 32)
        return (v[..., 0::2] + 1j * v[..., 1::2]) * np.exp(1j * angle)

    w_uq_qr = cases.mla_weights(N_Q)["w_uq_qr"] * cases.mla_weights(N_Q)["dequant_scale"][:, 0].astype(np.float64)
    q = (norm(hidden @ wide["w_dq"], wide["gamma_cq"]) @ w_uq_qr).reshape(LENGTH, N_Q, 192)
    kv = hidden @ wide["w_dkv_kr"]
    ckv = norm(kv[:, :512], wide["gamma_ckv"])
    k = np.einsum("tc,ndc->tnd", ckv, wide["w_uk"])
    score = np.einsum("ind,jnd->nij", q[..., :128], k)
    score += np.einsum("ind,jd->nij", turn(q[..., 128:]), turn(kv[:, 512:]).conj()).real
    score = np.where(np.tri(LENGTH, dtype=bool), score / np.sqrt(192), -np.inf)
    p = np.exp(score - score.max(-1, keepdims=True))
    want = np.einsum("nij,jc->inc", p / p.sum(-1, keepdims=True), ckv)
    got = golden.bf16_to_float32(out).astype(np.float64)
    # int8 keys (0.8 %) as values, and scores of standard deviation 2 that are off by 1 %
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 0.03


def test_the_selection_decides() -> None:
    """topk = 1: every output is one key, the best of the indexer's."""
    layer = Layer(topk=1)
    topk_indices, out = layer.step(tokens(), 0)
    k8, _, ks = layer.caches[:3]
    for i in range(LENGTH):
        p = int(topk_indices[i, 0])
        assert 0 <= p <= i
        row = layer.block_table[0, p // 128] * 128 + p % 128
        key = k8.reshape(-1, 512)[row] * np.repeat(ks.reshape(-1, 4)[row], 128)
        tolerance.assert_same_bits("attention_out", out[i], np.broadcast_to(golden.float32_to_bf16(key), (N_Q, 512)))
