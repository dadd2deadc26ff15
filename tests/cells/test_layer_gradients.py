"""Training around the whole layer, which has no gradient."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from calls import MODES, mode
from layers import Step, make_layer
from mindspore import Tensor, nn
from sequences import CACHES, same, tensors

from ms_dsv32 import weights


class Adapter(nn.Cell):
    """A layer that is frozen, and what is trained beside and after it."""

    def __init__(self, attention: nn.Cell) -> None:
        super().__init__()
        self.attention = attention
        self.before = ms.Parameter(Tensor(np.full((1, 7168), 1.0, np.float32)), name="before")
        self.after = nn.Dense(7168, 3)

    def construct(self, token_x: Tensor, *inputs: Tensor) -> Tensor:
        x = token_x * self.before
        hidden_out = self.attention(ms.ops.cast(x, ms.bfloat16), *inputs)
        if isinstance(hidden_out, tuple):
            hidden_out = hidden_out[0]
        y = x + ms.ops.cast(hidden_out, ms.float32)
        return self.after(y).pow(2).mean()


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("lse", [False, True])
def test_a_gradient_ends_at_a_frozen_layer(how: str, lse: bool) -> None:
    """The gradients are those of a model whose layer is a constant."""
    step = Step()
    model = Adapter(make_layer(stop_gradient=True, return_lse=lse))
    token_x = weights.to_tensor(step.inputs[0]).astype(ms.float32)
    inputs = [*tensors(*step.inputs[1:]), *step.caches]
    assert [p.name for p in model.trainable_params()] == ["before", "after.weight", "after.bias"]
    with mode(how):
        function = ms.value_and_grad(model, None, model.trainable_params())
        loss, gradients = (ms.jit(function) if how == "jit" else function)(token_x, *inputs)
    x = token_x.asnumpy()
    hidden = weights.to_tensor(step.hidden_out).astype(ms.float32).asnumpy()
    w, bias = model.after.weight.asnumpy(), model.after.bias.asnumpy()
    out = (x + hidden) @ w.T + bias
    d_out = 2 * out / out.size
    np.testing.assert_allclose(loss.asnumpy(), (out**2).mean(), rtol=1e-4)
    np.testing.assert_allclose(gradients[0].asnumpy(), (d_out @ w * x).sum(axis=0, keepdims=True), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(gradients[1].asnumpy(), d_out.T @ (x + hidden), rtol=1e-3, atol=1e-5)
    for name, cache, want in zip(CACHES, step.caches, step.after, strict=True):
        same(name, cache, want)


def test_a_gradient_ends_at_lse_too() -> None:
    step, layer = Step(), make_layer(stop_gradient=True, return_lse=True)
    inputs = [*tensors(*step.inputs[1:]), *step.caches]

    def loss(token_x: Tensor) -> Tensor:
        return layer(token_x, *inputs)[1].sum() + token_x.astype(ms.float32).sum()

    gradient = ms.grad(loss)(weights.to_tensor(step.inputs[0]))
    assert (gradient.astype(ms.float32).asnumpy() == 1).all()


@pytest.mark.parametrize("how", MODES)
def test_a_gradient_through_a_layer_is_refused(how: str) -> None:
    step = Step()
    model = Adapter(make_layer())
    token_x = weights.to_tensor(step.inputs[0]).astype(ms.float32)

    def train() -> Any:
        function = ms.value_and_grad(model, None, model.trainable_params())
        loss, _ = (ms.jit(function) if how == "jit" else function)(token_x, *tensors(*step.inputs[1:]), *step.caches)
        return loss.asnumpy()

    with mode(how), pytest.raises(Exception, match="inference only, there is no gradient"):
        train()
