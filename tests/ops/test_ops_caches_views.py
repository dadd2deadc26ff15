"""Writes into views and copies of caches reach what they should, or they are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tolerance
from cache_steps import (
    CACHES,
    FIXED,
    QUERY,
    SELECTION,
    STEPS,
    TOKENS,
    Base,
    Ignored,
    assert_caches,
    graph_or_jit,
    read,
    write,
)
from calls import mode
from mindspore import Parameter, Tensor, ops

from ms_dsv32 import weights


class Copied(Base):
    def construct(self, x, a, b, c):
        write(x, self.fixed, a + 0, b, c)
        return x


@pytest.mark.parametrize("how", ["pynative", "graph", "jit"])
def test_a_copy_is_another_tensor_in_every_mode(how: str) -> None:
    caches = STEPS.caches()
    with mode(how):
        call = Copied()
        (call if how == "pynative" else graph_or_jit(call, how))(TOKENS[0], *caches)
    assert_caches(caches, [STEPS.expected()[0], *STEPS.expected(0)[1:]])


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "slice": lambda t: ops.concat((t, t))[: t.shape[0]],
    "second half": lambda t: ops.concat((t, t))[t.shape[0] :],
    "reshape": lambda t: t.reshape(-1).reshape(t.shape),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_views_are_written_through_in_pynative(kind: str) -> None:
    views = [VIEWS[kind](c) for c in STEPS.caches()]
    for step in (0, 1):
        write(TOKENS[step], FIXED, *views)
        want_caches, want = STEPS.expected_reads(step)
        assert_caches(views, want_caches)
        tolerance.assert_same_bits("read", weights.to_array(read(QUERY, SELECTION, *views)), want[-1])


def test_a_view_and_its_base_are_one_memory() -> None:
    bases = [ops.concat((c, c)) for c in STEPS.caches()]
    half = bases[0].shape[0] // 2
    write(TOKENS[0], FIXED, *(base[half:] for base in bases))
    for name, base, want in zip(CACHES, bases, STEPS.expected(0), strict=True):
        got = weights.to_array(base)
        tolerance.assert_same_bits(name, got[half:], want)
        tolerance.assert_same_bits(name, got[:half], STEPS.case.inputs[name])


@pytest.mark.parametrize("how", ["graph", "jit"])
def test_views_are_refused_by_graphs_or_written_through(how: str) -> None:
    """A slice is refused; a reshaped view shares its memory with the graph and works."""
    reshaped = [VIEWS["reshape"](c) for c in STEPS.caches()]
    with mode(how):
        graph_or_jit(Ignored(), how)(TOKENS[0], *reshaped)
    assert_caches(reshaped, STEPS.expected(0))
    halves = [VIEWS["second half"](c) for c in STEPS.caches()]
    with mode(how), pytest.raises(ValueError, match="kv_cache must be contiguous and begin its storage"):
        graph_or_jit(Ignored(), how)(TOKENS[0], *halves)
    assert_caches(halves, STEPS.expected())
    # A graph that is compiled already is not asked again: MindSpore refuses it, when the kernel has run on copies.
    call = graph_or_jit(Ignored(), how)
    with mode(how):
        call(TOKENS[0], *STEPS.caches())
    with mode(how), pytest.raises(RuntimeError, match="does not support view input"):
        weights.to_array(call(TOKENS[0], *halves))


class Pools(Base):
    """Caches of two layers in one tensor each."""

    def construct(self, x, a, b, c):
        write(x, self.fixed, a[1], b[1], c[1])
        return x


@pytest.mark.parametrize("parameter", [False, True])
@pytest.mark.parametrize("how", ["pynative", "graph", "jit"])
def test_a_layer_of_a_pool_of_caches(how: str, parameter: bool) -> None:
    """In a graph indexing makes a new tensor: refused. In PyNative it is a view: written through."""
    arrays_ = [np.stack([STEPS.case.inputs[name]] * 2) for name in CACHES]
    pools: list[Any] = [weights.to_tensor(a.copy()) for a in arrays_]
    if parameter:
        pools = [Parameter(p, name=f"pool{i}", requires_grad=False) for i, p in enumerate(pools)]
    call = graph_or_jit(Pools(), how)
    with mode(how):
        if how == "pynative":
            call(TOKENS[0], *pools)
        else:
            with pytest.raises(
                ValueError, match=r"mla_prolog_quant: kv_cache of shape .* is computed inside the graph"
            ):
                call(TOKENS[0], *pools)
    layer = STEPS.expected(0) if how == "pynative" else STEPS.expected()
    for name, pool, before, want in zip(CACHES, pools, arrays_, layer, strict=True):
        tolerance.assert_same_bits(name, weights.to_array(pool)[0], before[0])
        tolerance.assert_same_bits(name, weights.to_array(pool)[1], want)
