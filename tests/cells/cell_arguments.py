"""Calls of every cell in which one argument is another one, and what operators in a row make of them.

Arguments of constructors and of `construct` are found from their signatures: one that is in no table here fails.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import arguments
import cases
import numpy as np
from cases import Array

from ms_dsv32 import cells
from ms_dsv32.config import BLOCK_SIZE, ModelConfig

Run = Callable[[str, Mapping[str, Array], Mapping[str, Any]], dict[str, Array]]
"""Runs an operator on row-major arrays, with its attributes; outputs by name. Caches among the inputs are updated."""
Values = Mapping[str, Any]
MODEL = ModelConfig(
    n_q=2, epsilon_cq=0.375, epsilon_ckv=0.625, layernorm_epsilon_k=1.0, selected_count=17, rope_factor=20.0
)
COLUMNS = 3
"""Columns of block_table."""
VALUES: dict[str, tuple[Any, Any]] = {
    "n_q": (arguments.HEADS, MODEL.n_q),
    "epsilon_cq": (0.25, MODEL.epsilon_cq),
    "epsilon_ckv": (0.5, MODEL.epsilon_ckv),
    "layernorm_epsilon_k": (0.75, MODEL.layernorm_epsilon_k),
    "selected_count": (arguments.SELECTED, MODEL.selected_count),
    "softmax_scale": (cases.SOFTMAX_SCALE, MODEL.softmax_scale),
    "return_lse": (True, False),
}
"""Arguments that change results: the value before and after."""
ERRORS_ONLY = {
    "topk": (arguments.ENTRIES, "the columns of topk_indices are so many"),
    "max_blocknum_perbatch": (COLUMNS, "the columns of block_table are so many"),
}
"""Arguments of which any other value is refused: the value, and why."""
GRADIENTS_ONLY = {"stop_gradient": "what a gradient does at the outputs"}
RANKS_ONLY = {"group": "adds the results of ranks; one has none"}
CACHES = ("kv_cache", "kr_cache", "k_scale_cache", "k_cache", "k_cache_scale")


def _prolog(run: Run, a: Values, i: Mapping[str, Array], w: Mapping[str, Array]) -> list[Array]:
    tokens = {name: i[name] for name in ("token_x", "cos", "sin", "cache_index")}
    caches = {name: i[name] for name in CACHES[:3]}
    mla = {name: w[name] for name in cases.mla_weights(1)}
    attributes = {name: a[name] for name in ("epsilon_cq", "epsilon_ckv")}
    out = run("mla_prolog_quant", {**tokens, **mla, **caches}, attributes)
    return [out[name] for name in ("q_norm_out", "q_norm_scale_out", "query_nope_out", "query_rope_out")]


def _indexer_prolog(run: Run, a: Values, i: Mapping[str, Array], w: Mapping[str, Array]) -> list[Array]:
    inputs = {**i, **{name: w[name] for name in cases.indexer_weights()}}
    out = run("lightning_indexer_prolog_quant", inputs, {"layernorm_epsilon_k": a["layernorm_epsilon_k"]})
    return [out[name] for name in ("q_int8_out", "q_scale_out", "weights_out")]


def _fused_prolog(run: Run, a: Values, i: Mapping[str, Array], w: Mapping[str, Array]) -> list[Array]:
    """Calls the two operators, because the fused one has the bits of the pair."""
    q_norm, q_norm_scale, *query = _prolog(run, a, i, w)
    tokens = {
        "x": i["token_x"],
        "q_norm": q_norm,
        "q_norm_scale": q_norm_scale,
        "cos_idx_rope": i["cos"],
        "sin_idx_rope": i["sin"],
        "k_cache_index": i["cache_index"],
    }
    return [*query, *_indexer_prolog(run, a, {**tokens, **{name: i[name] for name in CACHES[3:]}}, w)]


def _pages(i: Mapping[str, Array]) -> dict[str, Array]:
    names = ("block_table", "kv_act_seqs", "query_act_seqs")
    return {name: i[name] for name in names if i.get(name) is not None}


def _indexer(run: Run, a: Values, i: Mapping[str, Array], w: Mapping[str, Array]) -> list[Array]:
    query = {name: i[name] for name in ("q_int8", "q_scale", "weights", *CACHES[3:])}
    out = run("lightning_indexer_quant", {**query, **_pages(i)}, {"selected_count": a["selected_count"]})
    return [out["topk_indices"]]


def _attention(run: Run, a: Values, i: Mapping[str, Array], w: Mapping[str, Array]) -> list[Array]:
    names = ("query_nope", "query_rope", "key_nope_2d", "key_rope_2d", "k_nope_scales", "topk_indices")
    attributes = {
        "nq": a["n_q"],
        "n_kv": 1,
        "softmax_scale": a["softmax_scale"],
        "topk": a["topk"],
        "block_size": BLOCK_SIZE,
        "max_blocknum_perbatch": a["max_blocknum_perbatch"],
        "return_lse": True,
    }
    out = run("sparse_flash_attention_quant", {**{n: i[n] for n in names}, **_pages(i)}, attributes)
    return [out["attention_out"], out["lse"]][: 1 + a["return_lse"]]


def _epilog(run: Run, a: Values, i: Mapping[str, Array], w: Mapping[str, Array]) -> list[Array]:
    inputs = {"attention_out": i["attention_out"], **{name: w[name] for name in cases.epilog_weights(1)}}
    return [run("mla_epilog_quant", inputs, {})["hidden_out"]]


def _step(run: Run, a: Values, i: Mapping[str, Array], w: Mapping[str, Array]) -> list[Array]:
    q_nope, q_rope, q_int8, q_scale, head_weights = _fused_prolog(run, a, i, w)
    query = {"q_int8": q_int8, "q_scale": q_scale, "weights": head_weights}
    (topk_indices,) = _indexer(run, a, {**i, **query}, w)
    keys = dict(zip(("key_nope_2d", "key_rope_2d", "k_nope_scales"), (i[n] for n in CACHES[:3]), strict=True))
    query = {"query_nope": q_nope, "query_rope": q_rope, "topk_indices": topk_indices}
    return _attention(run, {**a, "topk": a["selected_count"]}, {**_pages(i), **keys, **query}, w)


def _layer(run: Run, a: Values, i: Mapping[str, Array], w: Mapping[str, Array]) -> list[Array]:
    attention_out, *lse = _step(run, a, i, w)
    return [*_epilog(run, a, {"attention_out": attention_out}, w), *lse]


OPERATORS: dict[type[Any], Callable[..., list[Array]]] = {
    cells.MLAProlog: _prolog,
    cells.LightningIndexerProlog: _indexer_prolog,
    cells.MLAIndexerProlog: _fused_prolog,
    cells.LightningIndexer: _indexer,
    cells.SparseFlashAttention: _attention,
    cells.MLAEpilog: _epilog,
    cells.SparseAttentionStep: _step,
    cells.SparseAttentionLayer: _layer,
}
"""What each cell does, as calls of operators in a row."""


def all_cells() -> list[type[Any]]:
    """The public cells of the module."""
    public = [getattr(cells, name) for name in cells.__all__]
    return [member for member in public if inspect.isclass(member) and hasattr(member, "construct")]


def parameters(cls: type[Any]) -> dict[str, inspect.Parameter]:
    """The arguments of a cell's constructor, with those that it hands on to `MLAIndexerProlog`."""
    found = dict(inspect.signature(cls).parameters)
    if any(p.kind is p.VAR_KEYWORD for p in found.values()):
        handed = parameters(cells.MLAIndexerProlog)
        found = {n: p for n, p in found.items() if p.kind is not p.VAR_KEYWORD}
        found = {**{n: p for n, p in handed.items() if p.kind is p.KEYWORD_ONLY}, **found}
    return found


def configuration(cls: type[Any], name: str) -> Any:
    """Another configuration than the default for an argument that takes one, else None."""
    kind = str(parameters(cls)[name].annotation).partition(" | ")[0]
    return arguments.CONFIGURATIONS.get(kind)


def changing(cls: type[Any]) -> list[str]:
    """The constructor's arguments that change results."""
    listed = (*ERRORS_ONLY, *GRADIENTS_ONLY, *RANKS_ONLY)
    return [n for n in parameters(cls) if n not in listed and configuration(cls, n) is None]


def values(cls: type[Any], *changed: str) -> dict[str, Any]:
    """A constructor's arguments that matter, those that are named with their other value."""
    result = {name: VALUES[name][name in changed] for name in changing(cls)}
    return {**result, **{n: value for n, (value, _) in ERRORS_ONLY.items() if n in parameters(cls)}}


def weights_of(cls: type[Any], n_q: int, seed: int = 0) -> dict[str, Array]:
    """Row-major weights of a cell, by `cases`' seed."""
    return {name: array for name, array in cases.layer_weights(n_q, seed).items() if name in weight_names(cls)}


@functools.cache
def weight_names(cls: type[Any]) -> tuple[str, ...]:
    cell = cls(**({"n_q": 1} if "n_q" in parameters(cls) else {}))
    return tuple(cell.get_weights()) if hasattr(cell, "get_weights") else ()


def inputs_of(cls: type[Any], n_q: int = arguments.HEADS, seed: int = 0) -> dict[str, Array | None]:
    """The inputs of a cell's `construct`, by name; arrays that are updated are copies."""
    fused, attention, indexer = (
        arguments.base(name, seed).inputs
        for name in ("mla_indexer_prolog_quant", "sparse_flash_attention_quant", "lightning_indexer_quant")
    )
    latents = arguments.base("mla_epilog_quant", seed).inputs["attention_out"]
    latent = dict(zip(CACHES, (attention[n] for n in ("key_nope_2d", "key_rope_2d", "k_nope_scales")), strict=False))
    known: dict[str, Array | None] = {
        **{cases.weight_name(name): array for name, array in fused.items()},
        **arguments.base("lightning_indexer_prolog_quant", seed).inputs,
        **attention,
        **indexer,
        **{name: array.reshape(-1, BLOCK_SIZE, 1, array.shape[-1]) for name, array in latent.items()},
        "query_nope": _first_heads(attention["query_nope"], n_q),
        "query_rope": _first_heads(attention["query_rope"], n_q),
        "attention_out": np.ascontiguousarray(latents[:, :n_q]),
        "query_act_seqs": None,
    }
    inputs = {name: known[name] for name in inspect.signature(cls.construct).parameters if name != "self"}
    return {name: array.copy() if name in CACHES and array is not None else array for name, array in inputs.items()}


def _first_heads(query: Array, n_q: int) -> Array:
    heads = query.reshape(-1, arguments.HEADS, query.shape[-1])[:, :n_q]
    return np.ascontiguousarray(heads).reshape(-1, query.shape[-1])


def changed_inputs(cls: type[Any], name: str) -> dict[str, Array | None]:
    """The inputs with one other array."""
    inputs = inputs_of(cls)
    if name == "query_act_seqs":
        return {**inputs, name: np.array(arguments.QUERIES, np.int32)}
    if name == "kv_act_seqs":
        return {**inputs, name: np.array(arguments.OTHER_LENGTHS, np.int32)}
    return {**inputs, name: inputs_of(cls, seed=1)[name]}


def expected(
    run: Run, cls: type[Any], given: Values, inputs: Mapping[str, Array | None], weights: Mapping[str, Array]
) -> list[Array]:
    """Outputs of a cell, then its caches after the call; the inputs stay as they are."""
    own = {name: array.copy() if name in CACHES and array is not None else array for name, array in inputs.items()}
    outputs = OPERATORS[cls](run, given, own, weights)
    return [*outputs, *(own[name] for name in CACHES if name in own)]  # type: ignore[list-item]


def differ(a: list[Array], b: list[Array]) -> bool:
    """Whether two calls gave something else."""
    return len(a) != len(b) or any(x.shape != y.shape or x.tobytes() != y.tobytes() for x, y in zip(a, b, strict=True))
