"""Runs cases on the device, with weights laid out for it and caches in its memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import cases
import mindspore as ms
import tolerance
from calls import Call, arrays, mode, tensor
from cases import IN_PLACE, Array, Case, weight_name
from mindspore import Tensor

from ms_dsv32 import op_info, ops, weights

_WEIGHTS = (*weights.MLA_WEIGHTS, *weights.INDEXER_WEIGHTS, *weights.EPILOG_WEIGHTS)


def known(name: str, n_q: int) -> Array:
    """A weight of `cases`, row-major."""
    if name in weights.MLA_WEIGHTS:
        made = cases.mla_weights(n_q)
    elif name in weights.INDEXER_WEIGHTS:
        made = cases.indexer_weights()
    else:
        made = cases.epilog_weights(n_q)
    return made[name]


@functools.cache
def prepared(name: str, n_q: int) -> Array:
    """A weight of `cases`, laid out for the device; made once, read-only."""
    array = weights.prepare(name, known(name, n_q), "Ascend")
    array.flags.writeable = False
    return array


def packed(case: Case) -> Case:
    """The case with its weights laid out for the device."""
    info = op_info.load(case.operator)
    if not info.packable:
        return case
    changed = {}
    for input_name, array in case.inputs.items():
        name = weight_name(input_name)
        if name in _WEIGHTS:
            is_known = array is known(name, case.n_q)
            changed[input_name] = prepared(name, case.n_q) if is_known else weights.prepare(name, array, "Ascend")
    return case.copy(**changed).with_attributes(weight_format="PACKED")


def inputs_of(case: Case) -> dict[str, Tensor]:
    """The case's inputs as tensors, weights laid out, in-place caches copied into the device's memory."""
    given = {name: tensor(array) for name, array in packed(case.copy()).inputs.items()}
    return {n: t.to("Ascend") if n in IN_PLACE[case.operator] else t for n, t in given.items()}


def attributes_of(case: Case) -> dict[str, Any]:
    """The case's attributes, for weights that are laid out."""
    packable = op_info.load(case.operator).packable
    return {**case.attributes, **({"weight_format": "PACKED"} if packable else {})}


def results_of(case: Case, call: Callable[..., Any], inputs: dict[str, Tensor]) -> dict[str, Array]:
    """What a call gives; caches are read from the tensors that were passed."""
    named = arrays(case.outputs, call(*inputs.values()))
    return {**named, **{out: weights.to_array(inputs[cache]).copy() for cache, out in IN_PLACE[case.operator].items()}}


def run(case: Case, mode_name: str) -> dict[str, Array]:
    """The outputs of a case in one of `calls.MODES`."""
    attributes = attributes_of(case)
    call: Any = Call(case.operator, attributes)
    if mode_name == "pynative":
        call = functools.partial(getattr(ops, case.operator), **attributes)
    with mode(mode_name):
        return results_of(case, ms.jit(call) if mode_name == "jit" else call, inputs_of(case))


def assert_golden(case: Case, got: dict[str, Array], want: dict[str, Array] | None = None) -> None:
    """Within the contract's tolerances of the golden reference; cache rows that were not to be written as before.

    `want`: the golden reference's outputs, where a caller has them.
    """
    case.check(got, want, rtol=tolerance.ASCEND_TOPK_RTOL)


def calls_of(operator: str, sizes: list[tuple[int, int]]) -> list[Case]:
    """Calls of these sizes over caches and block tables of one size."""
    made = (cases.make(operator, b, s1, [*[129 + s1, *[4] * b][:b]], n_q=1) for b, s1 in sizes)
    return [cases.with_cache_size(case, block_num=20, columns=2) for case in made]


def caches_of(arrays: Sequence[Array]) -> list[Tensor]:
    """Copies of caches in the device's memory."""
    return [weights.to_tensor(a.copy()).to("Ascend") for a in arrays]
