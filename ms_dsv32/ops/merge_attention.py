"""The merge of attention over several sets of keys, in MindSpore's own operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import Tensor
from mindspore.common import dtype as mstype
from mindspore.ops.primitive import PrimitiveWithInfer

from ms_dsv32.config import KV_LORA_RANK

_NAME = "merge_attention"


class _Parts(PrimitiveWithInfer):  # type: ignore[misc]
    """Returns the number of parts after checking them, at each call or when a graph is compiled."""

    def __init__(self) -> None:
        super().__init__("MergeAttentionParts")
        self.set_const_prim(True)  # the arguments of a compiled call are needed for their types only

    def __call__(self, attention_outs: Any, lses: Any) -> int:
        _require_sequence("attention_outs", attention_outs, type(attention_outs).__name__)
        _require_sequence("lses", lses, type(lses).__name__)
        for name, parts in (("attention_outs", attention_outs), ("lses", lses)):
            for i, part in enumerate(parts):
                if not isinstance(part, Tensor):
                    raise TypeError(f"{_NAME}: {name}[{i}] must be a Tensor, got {type(part).__name__}")
        return _check(
            [part.shape for part in attention_outs],
            [part.dtype for part in attention_outs],
            [part.shape for part in lses],
            [part.dtype for part in lses],
        )

    def __infer__(self, attention_outs: dict[str, Any], lses: dict[str, Any]) -> dict[str, Any]:
        dtypes = []
        for name, parts in (("attention_outs", attention_outs), ("lses", lses)):
            _require_sequence(name, parts["dtype"], str(parts["dtype"]))
            for i, dtype in enumerate(parts["dtype"]):
                if not isinstance(dtype, (mstype.TensorType, mstype.RefType)):
                    raise TypeError(f"{_NAME}: {name}[{i}] must be a Tensor, got {dtype}")
            dtypes.append([dtype.element_type() for dtype in parts["dtype"]])
        count = _check(attention_outs["shape"], dtypes[0], lses["shape"], dtypes[1])
        return {"shape": None, "dtype": None, "value": count}


def _require_sequence(name: str, parts: Any, kind: str) -> None:
    if not isinstance(parts, (tuple, list)):
        raise TypeError(f"{_NAME}: {name} must be a tuple or list of Tensors, got {kind}")


def _check(
    out_shapes: Sequence[Sequence[int]],
    out_dtypes: Sequence[Any],
    lse_shapes: Sequence[Sequence[int]],
    lse_dtypes: Sequence[Any],
) -> int:
    """Returns the number of parts. In a graph an axis may be unknown, -1, and then any size fits.

    Raises:
        TypeError, ValueError: as `merge_attention`.
    """
    count = len(out_shapes)
    if count == 0:
        raise ValueError(f"{_NAME}: attention_outs has no part, expected at least one")
    if len(lse_shapes) != count:
        raise ValueError(f"{_NAME}: lses has {len(lse_shapes)} parts, expected {count}, as attention_outs")
    symbols = ("b", "s1", "n_q") if len(out_shapes[0]) == 4 else ("t", "n_q")
    known = [-1] * len(symbols)
    for i in range(count):
        _require(f"attention_outs[{i}]", out_shapes[i], out_dtypes[i], ms.bfloat16, (*symbols, "kv_lora_rank"), known)
    for i in range(count):
        _require(f"lses[{i}]", lse_shapes[i], lse_dtypes[i], ms.float32, symbols, known)
    return count


def _require(
    name: str, shape: Sequence[int], dtype: Any, wanted: Any, symbols: tuple[str, ...], known: list[int]
) -> None:
    """Checks one part, and adds the sizes of its axes to those known from the parts before it."""
    if dtype != wanted:
        raise TypeError(f"{_NAME}: {name} must be {str(wanted).lower()}, got {str(dtype).lower()}")
    sizes = [*known, KV_LORA_RANK][: len(symbols)]
    if len(shape) != len(sizes) or any(a != b and -1 not in (a, b) for a, b in zip(shape, sizes, strict=True)):
        values = ", ".join(s if n == -1 else str(n) for s, n in zip(symbols, sizes, strict=True))
        raise ValueError(f"{_NAME}: {name} has shape {tuple(shape)}, expected ({', '.join(symbols)}) = ({values})")
    known[:] = [b if a == -1 else a for a, b in zip(known, shape, strict=False)]


_parts = _Parts()


def merge_attention(
    attention_outs: tuple[Tensor, ...] | list[Tensor], lses: tuple[Tensor, ...] | list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Attention over all keys, from attention over parts of them that have no key in common.

    Each part is what `sparse_flash_attention_quant` returns with ``return_lse``, for the same queries: over the keys
    that one rank holds (context parallel), or over one cache of several. The result equals that of one call over all
    keys, except for the rounding of each part to bfloat16.

    The parts are separate tensors instead of one tensor with one more axis, because MindSpore's CPU backend can neither
    stack nor index bfloat16 in a graph. A tuple that is an argument of the outermost cell must be a
    ``mindspore.mutable``, or a graph takes its tensors for constants.

    Args:
        attention_outs: one tensor for each part, bf16 [t, n_q, 512] or [b, s1, n_q, 512].
        lses: one tensor for each part, fp32 [t, n_q] or [b, s1, n_q]: the natural-log log-sum-exp of its scaled scores,
            or -inf if it has no key.

    Returns:
        attention_out bf16 and lse fp32, in the shapes of one part. The parts are weighed with
        ``exp(lse_i - lse)`` in float32, and their sum is rounded once. A token that has no key in any part gives zeros
        and -inf.

    Raises:
        TypeError, ValueError: a wrong dtype or shape, no part, a wrong number of lses, or mixed precision of the cell
            around. When a graph is compiled, shapes are checked as far as they are known.
    """
    count = _parts(attention_outs, lses)
    # (1) the largest lse of a row. If all are -inf, it is a finite number below every lse of a key, because
    # exp(-inf - -inf) is NaN and exp(-inf + 1e30) is 0. The least float32 will not do: MindSpore passes it into a graph
    # as -inf.
    largest: Any = -1e30
    for i in range(count):
        largest = ms.ops.maximum(lses[i], largest)
    if largest.dtype != ms.float32:
        text = "computes in 16 bits (to_float, or amp's O2 and O3), expected float32: call it outside of such a cell"
        raise TypeError("merge_attention: the cell around " + text)
    # (2) each part's share of the row's sum, relative to the largest. The sum is 0 if all are -inf, else 1 or more.
    shares = []
    for i in range(count):
        shares.append(ms.ops.exp(lses[i] - largest))
    total = _sum(shares)
    # (3) the parts in these proportions, rounded once
    divisor = ms.ops.maximum(total, 1.0)
    parts = []
    for i in range(count):
        parts.append(ms.ops.cast(attention_outs[i], ms.float32) * ms.ops.expand_dims(shares[i] / divisor, -1))
    attention_out = ms.ops.cast(_sum(parts), ms.bfloat16)
    # (4) log-sum-exp of all keys
    return attention_out, largest + ms.ops.log(total)


def _sum(tensors: list[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
