"""Runs a prolog's AscendC kernel in the emulator on a case of `cases`."""

from __future__ import annotations

import functools
from typing import Any

import cases
from cases import CACHE_INDEX, Array, Case
from emulator import Arg, In, InOut, Out, Report, Tiling, Workspace
from launches import library
from tiling import prolog_tiling

from ms_dsv32 import op_info
from ms_dsv32.weights import to_nz

# Weights in NZ by the id of their row-major array, which is kept alive beside it: they are made once per process.
_nz: dict[int, tuple[Array, Array]] = {}


def _weight_nz(weight: Array) -> Array:
    if id(weight) not in _nz:
        _nz[id(weight)] = (weight, to_nz(weight))
    return _nz[id(weight)][1]


def _extent(expression: str, case: Case) -> int:
    values = {
        "t": case.paging.t,
        "n_q": case.n_q,
        **{name: dim.value for name, dim in op_info.dims().items() if dim.value},
    }
    return int(eval(expression, {}, values))


def run(case: Case, blocks: int = 1, own: bool = False, **options: Any) -> tuple[dict[str, Array], Report]:
    """Outputs of the kernel by name, and the launch's report, which must be clean. The case stays as it is.

    own: the kernel writes into the case's caches, which are larger than memory. options: of Library.launch.
    """
    info = op_info.load(case.operator)
    mutable = case if own else case.copy()
    paging = case.paging
    index = case.inputs[CACHE_INDEX[case.operator]]
    bound = {name.rpartition(".")[2]: value for name, value in op_info.bind_attrs(info, case.attributes).items()}
    epsilons = {
        name.removeprefix("mla_").removeprefix("layernorm_"): value
        for name, value in bound.items()
        if isinstance(value, float)
    }
    data, cores, workspace = prolog_tiling(
        case.operator, index.size, case.n_q, paging.block_num * paging.block_size, blocks, **epsilons
    )
    args: list[Arg] = []
    results: dict[str, Array] = {}
    for arg in info.inputs:
        array = mutable.inputs[arg.name]
        args.append(In(arg.name, _weight_nz(array) if arg.format == "NZ" else array, own=own and arg.in_place))
    for output in info.outputs:
        if output.in_place_of is None:
            shape = tuple(_extent(axis, case) for axis in output.shapes[0])
            args.append(Out(output.name, shape, output.np_dtype))
        else:
            args.append(InOut(output.name, mutable.inputs[output.in_place_of], own=own))
        results[output.name] = args[-1].array
    args += [Workspace(workspace), Tiling(data)]
    report = library(case.operator).launch(case.operator, args, blocks=cores, **options).check()
    return {name: results[name] for name in case.outputs}, report


@functools.lru_cache(maxsize=1)  # caches of many sequences are large
def case_of(op: str, b: int, s1: int, n_q: int) -> Case:
    # Short sequences: the caches of many long ones would take longer than the kernel.
    return cases.with_epsilons(cases.make(op, b, s1, [s1 + n * 61 % 150 for n in range(b)], n_q, seed=b))


@functools.lru_cache(maxsize=1)
def golden_of(op: str, b: int, s1: int, n_q: int) -> dict[str, Array]:
    return case_of(op, b, s1, n_q).golden()
