"""No write into a cache is lost in a branch or a loop, or it is refused."""

from __future__ import annotations

import mindspore as ms
import pytest
from cache_steps import (
    FIXED,
    STEPS,
    TOKENS,
    Base,
    Ignored,
    assert_caches,
    graph_or_jit,
    write,
)
from calls import mode
from mindspore import Tensor, nn

from ms_dsv32 import weights

ONE = Tensor(1, ms.int32)


class Branch(Base):
    def construct(self, x, flag, a, b, c):
        if flag > 0:
            write(x, self.fixed, a, b, c)
        return x


class Ternary(Base):
    def construct(self, x, flag, a, b, c):
        return write(x, self.fixed, a, b, c)[0] if flag > 0 else write(x, self.fixed, a, b, c)[0] + 0


class AfterBranch(Base):
    def construct(self, x, flag, a, b, c):
        if flag > 0:
            x = x + 0
        write(x, self.fixed, a, b, c)
        return x


class AfterReturn(Base):
    def construct(self, x, flag, a, b, c):
        if flag > 1:
            return x
        write(x, self.fixed, a, b, c)
        return x + 0


class While(Base):
    def construct(self, x, flag, a, b, c):
        i = flag * 0
        while i < flag:
            write(x, self.fixed, a, b, c)
            i = i + 1
        return x


class AfterWhile(Base):
    def construct(self, x, flag, a, b, c):
        i = flag * 0
        while i < flag:
            i = i + 1
        write(x, self.fixed, a, b, c)
        return x


class InnerInBranch(Base):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Ignored()

    def construct(self, x, flag, a, b, c):
        if flag > 0:
            x = self.inner(x, a, b, c)
        return x


class TopThenBranch(Base):
    """The function was evaluated at the top first, with other caches of the same types."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Ignored()

    def construct(self, x, flag, a, b, c, d, e, f):
        self.inner(x, d, e, f)
        if flag > 0:
            x = self.inner(x, a, b, c)
        return x


CONTROL_FLOW = [Branch, Ternary, AfterBranch, AfterReturn, While, AfterWhile, InnerInBranch, TopThenBranch]


@pytest.mark.parametrize("how", ["graph", "jit"])
@pytest.mark.parametrize("cell", CONTROL_FLOW)
def test_control_flow_at_run_time(cell: type[Base], how: str) -> None:
    """Parameters work; where MindSpore copies a plain tensor it is refused, when the graph is compiled."""
    more = STEPS.caches() if cell is TopThenBranch else []
    parameters = STEPS.parameters()
    with mode(how):
        graph_or_jit(cell(), how)(TOKENS[0], ONE, *parameters, *more)
    assert_caches(parameters, STEPS.expected(0))

    plain = STEPS.caches()
    raised = ""
    with mode(how):
        try:
            weights.to_array(graph_or_jit(cell(), how)(TOKENS[0], ONE, *plain, *more))
        except RuntimeError as error:
            raised = str(error)
    if raised:
        text = "mla_prolog_quant: kv_cache, kr_cache, k_scale_cache must be a Parameter inside a branch or loop"
        assert text in raised
        assert_caches(plain, STEPS.expected())
    else:
        assert cell is AfterBranch  # MindSpore runs what follows a branch at the top again
        assert_caches(plain, STEPS.expected(0))


class Chosen(Base):
    def construct(self, x, flag, a, b, c, other):
        write(x, self.fixed, a if flag > 0 else other, b, c)
        return x


@pytest.mark.parametrize("how", ["graph", "jit"])
def test_a_parameter_chosen_at_run_time(how: str) -> None:
    parameters, others = STEPS.parameters(), STEPS.parameters("other")
    with mode(how):
        graph_or_jit(Chosen(), how)(TOKENS[0], ONE, *parameters, others[0])
    assert_caches(parameters, STEPS.expected(0))
    assert_caches(others, STEPS.expected())


@pytest.mark.xfail(strict=True, reason="MindSpore passes a copy and nothing tells the operator: docs/mindspore.md")
@pytest.mark.parametrize("how", ["graph", "jit"])
def test_a_plain_tensor_chosen_at_run_time(how: str) -> None:
    caches, others = STEPS.caches(), STEPS.caches()
    with mode(how):
        graph_or_jit(Chosen(), how)(TOKENS[0], ONE, *caches, others[0])
    assert_caches(caches, STEPS.expected(0))


class Arguments(nn.Cell):
    def construct(self, x, fixed, a, b, c):
        write(x, fixed, a, b, c)
        return x


@pytest.mark.parametrize("dynamic", [False, True])
def test_shapes_inferred_at_run_time_are_not_taken_for_control_flow(dynamic: bool) -> None:
    cell, caches, fixed = Arguments(), STEPS.caches(), list(FIXED)
    if dynamic:
        tokens = (7, 8, 9)  # cos, sin, cache_index
        shapes = [[None, *t.shape[1:]] if i in tokens else list(t.shape) for i, t in enumerate(fixed)]
        placeholders = [Tensor(shape=s, dtype=t.dtype) for s, t in zip(shapes, fixed, strict=True)]
        cell.set_inputs(Tensor(shape=[None, 7168], dtype=ms.bfloat16), ms.mutable(placeholders), *caches)
    with mode("graph"):
        for step in (0, 1, 0):
            cell(TOKENS[step], ms.mutable(fixed), *caches)
            assert_caches(caches, STEPS.expected(step))


class ConstantControlFlow(Base):
    def construct(self, x, y, a, b, c):
        if x.shape[0] == 1:
            write(y, self.fixed, a, b, c)
        for value in (y, x):
            write(value, self.fixed, a, b, c)
        return x


@pytest.mark.parametrize("how", ["graph", "jit"])
def test_control_flow_at_compile_time_takes_plain_caches(how: str) -> None:
    caches = STEPS.caches()
    with mode(how):
        graph_or_jit(ConstantControlFlow(), how)(TOKENS[0], TOKENS[1], *caches)
    assert_caches(caches, STEPS.expected(1, 1, 0))
