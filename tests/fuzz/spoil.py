"""Bad calls: a good one with something wrong in it, and the arguments of which the error must name one.

Kinds: "dtype", "shape", "layout" (strides, byte order, read-only), "object" (no array), "attribute", "value" (an index
outside of what it points into), "names" (an argument is missing or unknown), "memory" (arrays that overlap).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from cases import IN_PLACE, Case

from fuzz.draw import Group, Rng, Trial, chance, index_input, pick, tokens_of
from ms_dsv32 import config, op_info

ANY_INT64 = (-(2**63), -(2**32), -(2**31) - 1, -2, 2**31, 2**32, 2**63 - 1)
_LARGE = 1 << 20  # bytes from which an array counts as a weight and is not copied
_MOST_AXES = 32  # of a NumPy array
_PLAIN_DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
_PLAIN_DTYPES += ("float16", "float32", "float64")
_ODD_DTYPES = ("complex64", "U1", "S4", "O", "M8[s]", "V2", "g", ">i4", ">f4", "i4,f4")

Draft = tuple[str, frozenset[str], dict[str, Any], dict[str, Any]]
"""What is wrong, the arguments of which an error must name one, inputs and attributes."""


def bad(group: Group, rng: Rng, kinds: Sequence[str]) -> Trial:
    """A bad call of one of the kinds."""
    while True:
        kind = pick(rng, kinds)
        made = _MAKERS[kind](rng, group.case)
        if made is not None:
            what, blamed, inputs, attributes = made
            case = Case(group.operator, inputs, attributes, group.case.paging, group.case.n_q, group.case.outputs)
            return Trial(case, what, kind, blamed, may_pass=kind == "memory", threads=group.threads)


def fresh(case: Case) -> dict[str, Any]:
    """The inputs of a case, with caches of its own."""
    return dict(case.copy().inputs)


def related(info: op_info.OpInfo, name: str) -> frozenset[str]:
    """The argument and those that share a dim with it. An error of a wrong shape may blame any of them."""

    def dims_of(axes: Sequence[str]) -> set[str]:
        found = {s for axis in axes for s in op_info.symbols(axis) if op_info.dims()[s].value is None}
        return {"t" if s in ("b", "s1") else s for s in found}

    dims = {a.name: dims_of([axis for shape in a.shapes for axis in shape]) for a in info.inputs}
    dims |= {a.name: dims_of([a.binds]) for a in info.attrs if a.binds}
    return frozenset({name} | {other for other, theirs in dims.items() if theirs & dims.get(name, set())})


def fits(info: op_info.OpInfo, shapes: Mapping[str, Sequence[int]], attributes: Mapping[str, Any]) -> bool:
    """Whether sizes of the contract's dims exist that give these shapes."""
    values = {d.name: d.value for d in op_info.dims().values() if d.value is not None}
    for attr in info.attrs:
        if (attr.binds and attr.name in attributes) or (attr.binds and not attr.required):
            value = attributes.get(attr.name, attr.default)
            if values.get(attr.binds, value) != value:
                return False
            values[attr.binds] = value
    sums: list[tuple[list[str], int]] = []
    ragged = info.optional is not None and info.optional.name in shapes  # then no tensor has an axis s1
    equations: list[tuple[list[str], int | str]] = [] if ragged else [(["b", "s1"], "t")]
    for arg in info.inputs:
        if arg.optional and not ragged:
            continue
        shape = shapes[arg.name]
        axes = next((axes for axes in arg.shapes if len(axes) == len(shape) and not (ragged and "s1" in axes)), None)
        if axes is None:
            return False
        for axis, size in zip(axes, shape, strict=True):
            (sums if "+" in axis else equations).append((axis.replace("+", "*").split("*"), size))
    if any(sum(values[term] for term in terms) != size for terms, size in sums):  # the terms of sums are fixed
        return False
    for _ in op_info.dims():  # a pass finds a size as long as one can be found, so these are enough
        for terms, right in equations:
            size = values.get(right) if isinstance(right, str) else right
            known = [int(term) if term.isdigit() else values.get(term) for term in terms]
            if size is None and None not in known:
                values["t"] = math.prod(n for n in known if n is not None)
            if size is None or known.count(None) != 1:
                if size is not None and None not in known and math.prod(n for n in known if n is not None) != size:
                    return False
                continue
            factor = math.prod(n for n in known if n is not None)
            if (size % factor if factor else size) != 0:
                return False
            if factor:
                values[terms[known.index(None)]] = size // factor
    dims = op_info.dims()
    return all(dims[n].min <= v and (dims[n].max is None or v <= dims[n].max) for n, v in values.items())


def _given(info: op_info.OpInfo, inputs: Mapping[str, Any]) -> list[op_info.Arg]:
    return [arg for arg in info.inputs if arg.name in inputs]


def brief(value: Any) -> str:
    """A value in a few words, also of an int of more than 4300 digits, which Python does not print."""
    return f"{value!r:.40}" if type(value) is not int or abs(value) < 10**40 else f"an int of {value.bit_length()} bits"


def _dtype(rng: Rng, case: Case) -> Draft | None:
    info, inputs = op_info.load(case.operator), fresh(case)
    arg = pick(rng, _given(info, inputs))
    large = inputs[arg.name].nbytes > _LARGE
    dtype = np.dtype(pick(rng, _PLAIN_DTYPES if large or chance(rng, 0.7) else _ODD_DTYPES))
    if dtype.newbyteorder("=") == np.dtype(arg.np_dtype):
        return None
    inputs[arg.name] = np.zeros(inputs[arg.name].shape, dtype)
    return f"{arg.name} is {dtype.str}", frozenset({arg.name}), inputs, case.attributes


def _shape(rng: Rng, case: Case) -> Draft | None:
    info, inputs = op_info.load(case.operator), fresh(case)
    blamed: frozenset[str] = frozenset()
    what = []
    for _ in range(int(pick(rng, (1, 1, 1, 2, 3)))):
        arg = pick(rng, _given(info, inputs))
        shape = _other_shape(rng, inputs[arg.name].shape)
        if math.prod(shape) * inputs[arg.name].itemsize > 4 * max(_LARGE, inputs[arg.name].nbytes):
            return None
        if math.prod(shape) == inputs[arg.name].size:
            inputs[arg.name] = inputs[arg.name].reshape(shape)
        else:
            inputs[arg.name] = np.zeros(shape, inputs[arg.name].dtype)
        blamed |= related(info, arg.name)
        what.append(f"{arg.name} has shape {shape}")
    if fits(info, {n: a.shape for n, a in inputs.items()}, case.attributes):
        return None
    return ", ".join(what), blamed, inputs, case.attributes


def _other_shape(rng: Rng, shape: tuple[int, ...]) -> tuple[int, ...]:
    axes = list(shape)
    how = int(rng.integers(6))
    i = int(rng.integers(len(axes))) if axes else 0
    if how == 0 or not axes:
        axes.insert(i, int(pick(rng, (0, 1, 2))))
    elif how == 1:
        del axes[i]
    elif how == 2 and len(axes) > 1:
        axes[i], axes[i - 1] = axes[i - 1], axes[i]
    elif how == 3:
        axes = axes[:i] + [1] * int(pick(rng, (5, 8, 20))) + axes[i:]
    else:
        axes[i] = max(0, int(pick(rng, (0, 1, axes[i] - 1, axes[i] + 1, 2 * axes[i], axes[i] // 2, axes[i] + 64))))
    return tuple(axes[:_MOST_AXES])


def _layout(rng: Rng, case: Case) -> Draft | None:
    info, inputs = op_info.load(case.operator), fresh(case)
    arg = pick(rng, _given(info, inputs))
    array = inputs[arg.name]
    how = pick(rng, ("reversed", "transposed", "broadcast", "strided", "read-only", "swapped", "unaligned"))
    small = array.nbytes <= _LARGE
    if how == "reversed":
        changed = array[::-1]
    elif how == "transposed" and array.ndim > 1 and small:
        changed = np.ascontiguousarray(array.swapaxes(0, -1)).swapaxes(0, -1)
    elif how == "broadcast":
        changed = np.broadcast_to(
            array.reshape(-1)[:1].reshape((1,) * array.ndim) if array.size else array, array.shape
        )
    elif how == "strided" and small:
        changed = np.repeat(array, 2, -1)[..., ::2]
    elif how == "read-only" and arg.in_place:
        changed = array.view()
        changed.flags.writeable = False
    elif how == "swapped" and array.itemsize > 1 and small:
        changed = array.astype(array.dtype.newbyteorder())
    elif how == "unaligned" and array.itemsize > 1 and array.size and small:
        changed = np.frombuffer(bytearray(array.nbytes + 1), array.dtype, array.size, 1).reshape(array.shape)
        changed[...] = array
    else:
        return None
    if changed.flags.c_contiguous and how in ("reversed", "transposed", "broadcast", "strided"):
        return None  # an array with one value, or none
    inputs[arg.name] = changed
    return f"{arg.name} is {how}", frozenset({arg.name}), inputs, case.attributes


def _object(rng: Rng, case: Case) -> Draft | None:
    info, inputs = op_info.load(case.operator), fresh(case)
    name = pick(rng, _given(info, inputs)).name
    inputs[name] = pick(
        rng, (None, [], [1, 2], "x", "", b"", 1, 1.5, True, {}, (), object(), np.float32(1), Ellipsis, type)
    )
    if inputs[name] is None and name == "query_act_seqs":
        return None  # as if it were left out
    return f"{name} is {brief(inputs[name])}", frozenset({name}), inputs, case.attributes


def _names(rng: Rng, case: Case) -> Draft | None:
    info, inputs, attributes = op_info.load(case.operator), fresh(case), dict(case.attributes)
    name = pick(rng, (*info.required_inputs, *(a for a in info.attrs if a.required))).name
    if chance(rng, 0.5):
        (inputs if name in inputs else attributes).pop(name)
        return f"{name} is missing", frozenset({name}), inputs, attributes
    other = pick(rng, (f"{name}_", name.upper(), "", "self", "stream", "x" * 300, "bias", "out", "中"))
    if chance(rng, 0.5):
        inputs[other] = np.zeros(1)
    else:
        attributes[other] = 1
    return f"there is an argument {other:.20}", frozenset({other}), inputs, attributes


_NOT_FLOATS = (
    "1e-5",
    None,
    [1.0],
    1j,
    True,
    (),
    b"",
    np.zeros(1),
    math.nan,
    math.inf,
    -math.inf,
    1e39,
    -1e300,
    10**400,
    10**5000,
)
_NOT_INTS = (
    0.5,
    128.0,
    "128",
    None,
    True,
    [1],
    (),
    -1,
    0,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    -(10**5000),
    math.nan,
    np.zeros(1, int),
)
_NOT_TEXTS = (
    "",
    " ",
    "PA_BSND\0",
    "\0",
    "\ud800",
    "TND\udcff",
    "中文",
    "x" * 100_000,
    1,
    None,
    b"TND",
    ["ND"],
    True,
    "nd",
)
_NOT_BOOLS = (1, 0, "True", None, 1.0, [], math.nan, np.zeros(1, bool))


def _not_a_config(attr: op_info.Attr) -> Sequence[Any]:
    kind = getattr(config, str(attr.config))
    others = [getattr(config, name) for name in ("MlaTileConfig", "RopeTileShapeConfig", "SaTileShapeConfig")]
    return (*(other() for other in others if other is not kind), kind, 1, "x", {}, [], True, object(), 1.5)


def _attribute(rng: Rng, case: Case) -> Draft | None:
    info, attributes = op_info.load(case.operator), dict(case.attributes)
    if not info.attrs:
        return None
    attr = pick(rng, info.attrs)
    blamed = frozenset({attr.name})
    if attr.type == "float":
        value = pick(rng, (*_NOT_FLOATS, *((-1e-30, -1) if attr.min == 0 else ())))
    elif attr.type == "int":
        value = pick(rng, _NOT_INTS)
        if attr.name == "selected_count" and value not in (0, -1) and chance(rng, 0.5):
            value = 2049
        blamed = related(info, attr.name)
    elif attr.type == "str":
        value = pick(rng, _NOT_TEXTS)
    elif attr.type == "bool":
        value = pick(rng, _NOT_BOOLS)
    else:
        value = pick(rng, _not_a_config(attr))
    if attr.name == "max_blocknum_perbatch" and value is None:
        return None
    if type(value) is type(attr.default) and value == attr.default:
        return None
    if attr.type == "int" and type(value) is int and value == attributes.get(attr.name):
        return None
    attributes[attr.name] = value
    return f"{attr.name} is {brief(value)}", blamed, fresh(case), attributes


def _value(rng: Rng, case: Case) -> Draft | None:
    if IN_PLACE.get(case.operator):
        return _cache_row(rng, case)
    if not any(a.values for a in op_info.load(case.operator).inputs):
        return None  # every value is right
    return _reader_value(rng, case)


def _cache_row(rng: Rng, case: Case) -> Draft | None:
    inputs, name = fresh(case), index_input(case.operator)
    index = inputs[name].copy()
    if index.size == 0:
        return None
    rows = case.paging.block_num * case.paging.block_size
    i, value = int(rng.integers(index.size)), pick(rng, (*ANY_INT64, rows, rows + 1))
    index.reshape(-1)[i] = value
    inputs[name] = index
    return f"{name}[{i}] is {value}", frozenset({name}), inputs, case.attributes


def _reader_value(rng: Rng, case: Case) -> Draft | None:
    """A length, a block or a position outside of what it may be."""
    inputs, paging = fresh(case), case.paging
    if "query_act_seqs" in inputs:
        return _query_count(rng, case)
    if paging.t == 0:
        return None
    name = pick(rng, ("kv_act_seqs", "block_table", "topk_indices"))
    if name not in inputs:
        return None
    changed = inputs[name].copy()
    b = int(rng.integers(paging.b))
    length = int(paging.kv_act_seqs[b])
    if name == "kv_act_seqs":
        columns = paging.block_table.shape[1]
        changed[b] = pick(rng, (-(2**31), -1, columns * paging.block_size + 1, 2**31 - 1))
        what = f"kv_act_seqs[{b}] is {changed[b]}"
    elif name == "block_table":
        read = _columns_read(case, b)
        if not read:
            return None
        column = pick(rng, sorted(read))
        changed[b, column] = pick(rng, (-1, -2, -(2**31), paging.block_num, paging.block_num + 1, 2**31 - 1))
        what = f"block_table[{b}, {column}] is {changed[b, column]}"
    else:
        i = b * paging.s1 + int(rng.integers(paging.s1))
        rows = changed.reshape(paging.t, -1)
        read_count = min(int(paging.visible()[i]), rows.shape[1])
        if read_count == 0:
            return None
        k = int(rng.integers(read_count))
        rows[i, k] = pick(rng, (-(2**31), -2, length, length + 1, 2**31 - 1))
        what = f"topk_indices[{i}, {k}] is {rows[i, k]}"
    inputs[name] = changed
    return what, frozenset({name}), inputs, case.attributes


def _query_count(rng: Rng, case: Case) -> Draft | None:
    """More query tokens than there are, or fewer than none."""
    inputs, t = fresh(case), tokens_of(case)
    counts = inputs["query_act_seqs"].copy()
    if counts.size == 0:
        return None
    b = int(rng.integers(counts.size))
    counts[b] = pick(rng, (-1, -(2**31), t + 1, 2**31 - 1))
    inputs["query_act_seqs"] = counts
    return f"query_act_seqs[{b}] is {counts[b]}", frozenset({"query_act_seqs"}), inputs, case.attributes


def _columns_read(case: Case, b: int) -> set[int]:
    """The columns of block_table that a sequence's tokens read."""
    paging = case.paging
    if case.operator == "lightning_indexer_quant":
        return set(range(-(-int(paging.kv_act_seqs[b]) // paging.block_size)))
    indices = case.inputs["topk_indices"].reshape(paging.t, case.attributes["topk"])
    tokens = range(b * paging.s1, (b + 1) * paging.s1)
    read = (p for i in tokens for p in indices[i, : max(int(paging.visible()[i]), 0)] if p >= 0)
    return {int(p) // paging.block_size for p in read}


def _memory(rng: Rng, case: Case) -> Draft | None:
    """Two caches in one piece of memory: some of their bytes, or all of them."""
    inputs, caches = fresh(case), [*IN_PLACE[case.operator]]
    if len(caches) < 2:
        return None
    first, second = (caches[i] for i in rng.permutation(len(caches))[:2])
    offset = int(pick(rng, (0, 64, 1024)))
    arrays = [inputs[first], inputs[second]]
    memory = np.zeros(max(a.nbytes for a in arrays) + offset + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    for name, array, start in zip((first, second), arrays, (begin, begin + offset), strict=True):
        if start + array.nbytes > memory.size:
            return None
        inputs[name] = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    return f"{first} and {second} overlap", frozenset({first, second}), inputs, case.attributes


_MAKERS: dict[str, Callable[[Rng, Case], Draft | None]] = {
    "dtype": _dtype,
    "shape": _shape,
    "layout": _layout,
    "object": _object,
    "names": _names,
    "attribute": _attribute,
    "value": _value,
    "memory": _memory,
}
KINDS = tuple(_MAKERS)
