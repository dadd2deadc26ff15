"""The compiled CPU kernels: where the library is, and a direct way into it for NumPy arrays.

MindSpore loads the same library by its path (``ms_dsv32.ops``). The functions here need NumPy alone; tests and
benchmarks use them for the bare kernels, the operators for validation, and ``ms_dsv32.weights`` for packing.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_dsv32 import op_info

_MAX_RANK = 8
_MESSAGE_BYTES = 2048
_MS_DTYPES = {np.dtype(names[3]): names[0] for names in op_info.DTYPES.values()}


class _Attr(ctypes.Structure):
    # Mirrors CAttr of cpu/c_api.h.
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_int),  # op_info::AttrType
        ("number", ctypes.c_double),
        ("integer", ctypes.c_int64),
        ("text", ctypes.c_char_p),
    )


def library_path() -> Path:
    """The kernel library: ``MS_DSV32_LIBRARY``, for one that was built in another way, or the package's own.

    Raises:
        FileNotFoundError: there is none.
    """
    given = os.environ.get("MS_DSV32_LIBRARY")
    path = Path(given or Path(__file__).resolve().parent / "libms_dsv32_cpu.so")
    if not path.is_file():
        hint = "MS_DSV32_LIBRARY names no file" if given else "install the package with pip, which builds it"
        raise FileNotFoundError(f"ms_dsv32: {path} is missing; {hint}")
    return path


@functools.cache
def load() -> ctypes.CDLL:
    """The loaded kernel library.

    Raises:
        FileNotFoundError: the package was not built.
        RuntimeError: the library cannot be loaded or is another one; ``MS_DSV32_CPU_ISA`` names a path that is unknown,
            or that this CPU lacks the instructions for.
    """
    path = library_path()
    try:
        library = ctypes.CDLL(str(path))
        for name in ("ms_dsv32_isa", "ms_dsv32_isas"):
            getattr(library, name).restype = ctypes.c_char_p
        init = library.ms_dsv32_init
        _ = library.ms_dsv32_set_failure_handler  # the newest entry: an older library is refused here
    except (OSError, AttributeError) as error:
        hint = (
            "MS_DSV32_LIBRARY names it" if os.environ.get("MS_DSV32_LIBRARY") else "install the package again with pip"
        )
        raise RuntimeError(f"ms_dsv32: {path} is not the kernel library: {error}; {hint}") from None
    _checked(init)
    return library


def isa() -> str:
    """The instruction set whose kernels run: the best that the CPU has, or what ``MS_DSV32_CPU_ISA`` names."""
    return str(load().ms_dsv32_isa().decode())


def isas(*, supported: bool = True) -> list[str]:
    """The instruction sets that the library was built for, best first; by default only those that this CPU has."""
    return str(load().ms_dsv32_isas(int(supported)).decode()).split(",")


def thread_count() -> int:
    """How many threads the kernels use: ``MS_DSV32_NUM_THREADS``, or the CPUs that the process may run on.

    A control group's CPU quota counts as so many CPUs, rounded up.
    """
    return int(load().ms_dsv32_thread_count())


def set_thread_count(count: int) -> None:
    """Makes the kernels use ``count`` threads, 1..1024; 0 goes back to the default. Results do not depend on it.

    Raises:
        TypeError: ``count`` is no integer.
        ValueError: ``count`` is outside 0..1024.
    """
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)):
        raise TypeError(f"set_thread_count: count must be an int, got {type(count).__name__}")
    if not 0 <= count <= 1024:
        raise ValueError(f"set_thread_count: count must be in [0, 1024], got {count}")
    load().ms_dsv32_set_thread_count(int(count))


class BoundCall:
    """A call whose shapes, dtypes and attributes are known and have been checked: the tensors' addresses are missing.

    It may be called any number of times, by several host threads at once.

    Attributes:
        out_shapes: shapes of the kernel's outputs.

    Args:
        op: name of the operator.
        shapes: of the inputs, in the contract's order; -1 for an axis that is not known, and (-2,) for a shape of which
            nothing is known. The optional one, which is the last, may be left out.
        dtypes: of the inputs, by MindSpore's names (``"bfloat16"``).
        attrs: the kernel's attributes (``op_info.bind_attrs``).

    Raises:
        TypeError: wrong number of shapes or dtypes, wrong dtype, wrong type of an attribute.
        ValueError: wrong rank, shape or value of an attribute.
    """

    def __init__(
        self, op: str, shapes: Sequence[Sequence[int]], dtypes: Sequence[str], attrs: Mapping[str, Any]
    ) -> None:
        info = op_info.load(op)
        count, given = len(info.inputs), len(shapes)
        if given not in (count, len(info.required_inputs)) or len(dtypes) != given:
            raise TypeError(f"{op}: takes {count} tensors, got {given} shapes and {len(dtypes)} dtypes")
        if given < count:
            shapes, dtypes = [*shapes, ()], [*dtypes, "none"]  # the library knows a missing tensor by this dtype
        for arg, shape in zip(info.inputs, shapes, strict=True):
            if len(shape) > _MAX_RANK:
                raise ValueError(f"{op}: {arg.name} has {len(shape)} axes, expected {len(arg.shapes[0])}")
        self._dims = [(ctypes.c_int64 * max(len(s), 1))(*s) for s in shapes]  # kept: the arguments have the addresses
        self._arguments = (
            op.encode(),
            (ctypes.c_int * count)(*map(len, shapes)),
            (ctypes.c_void_p * count)(*map(ctypes.addressof, self._dims)),
            (ctypes.c_char_p * count)(*(d.encode() for d in dtypes)),
            len(attrs),
            (_Attr * max(len(attrs), 1))(*(_attr(op, n, v) for n, v in attrs.items())),
        )
        self._floats = [i for i, value in enumerate(attrs.values()) if isinstance(value, (float, np.floating))]
        outputs = len(info.kernel_outputs)
        out_shapes = ((ctypes.c_int64 * _MAX_RANK) * outputs)()
        out_ranks = (ctypes.c_int * outputs)()
        _checked(load().ms_dsv32_check, *self._arguments, out_shapes, out_ranks)
        self.out_shapes = tuple(tuple(out_shapes[i][: out_ranks[i]]) for i in range(outputs))
        self._pointers = ctypes.c_void_p * (count + outputs)
        self._given, self._absent = given, (None,) * (count - given)

    def __call__(self, addresses: Sequence[int], floats: Sequence[float] = ()) -> None:
        """Runs the kernel.

        Args:
            addresses: of the inputs that were given, contiguous and in the contract's order, then of the kernel's
                outputs.
            floats: values that replace the attributes of type float, in order. If empty, those that were bound count.

        Raises:
            ValueError: an index outside its cache, or a float that the operator refuses. Nothing has been written then.
            RuntimeError: the threads cannot be started.
        """
        *arguments, attrs = self._arguments
        if floats:
            attrs = type(attrs).from_buffer_copy(attrs)  # by value, as several threads may call
            for i, value in zip(self._floats, floats, strict=True):
                attrs[i].number = value
        pointers = (*addresses[: self._given], *self._absent, *addresses[self._given :])
        _checked(load().ms_dsv32_call, *arguments, attrs, self._pointers(*pointers))


def validate(
    op: str, shapes: Sequence[Sequence[int]], dtypes: Sequence[str], attrs: Mapping[str, Any]
) -> tuple[tuple[int, ...], ...]:
    """Checks a call against the operator's contract and returns the shapes of the kernel's outputs.

    Arguments and errors are those of ``BoundCall``.
    """
    return BoundCall(op, shapes, dtypes, attrs).out_shapes


def call(op: str, inputs: Mapping[str, NDArray[Any]], attrs: Mapping[str, Any]) -> tuple[NDArray[Any], ...]:
    """Runs a bare kernel on NumPy arrays, bfloat16 as the bits in ``uint16``.

    Args:
        op: name of the operator.
        inputs: C-contiguous arrays by the contract's names; caches are updated in place. The optional one may be left
            out, or None.
        attrs: attributes by the contract's names; those with defaults may be left out.

    Returns:
        All outputs in the contract's order; in-place ones are the arrays that were passed.

    Raises:
        TypeError, ValueError: as ``validate``; a missing or unknown input, an array that is not contiguous, not
            aligned, not in the machine's byte order, or read-only where it is updated; an index outside its cache.
            Nothing has been written then.
    """
    info = op_info.load(op)
    if info.optional is not None and inputs.get(info.optional.name) is None:
        inputs = {name: array for name, array in inputs.items() if name != info.optional.name}
        expected = info.required_inputs
    else:
        expected = info.inputs
    names = [a.name for a in expected]
    missing, unknown = [n for n in names if n not in inputs], [n for n in inputs if n not in names]
    if missing or unknown:
        raise TypeError(f"{op}: " + (f"{missing[0]} is missing" if missing else f"there is no input {unknown[0]}"))
    arrays = [inputs[name] for name in names]
    for arg, array in zip(expected, arrays, strict=True):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{op}: {arg.name} must be a NumPy array of {arg.ms_dtype}, got {type(array).__name__}")
        if not array.flags.c_contiguous:
            raise ValueError(f"{op}: {arg.name} must be contiguous")
        if not array.flags.aligned:
            raise ValueError(f"{op}: {arg.name} must be aligned to {array.itemsize} bytes")
        if not array.dtype.isnative:
            text = f"must be {arg.ms_dtype} in the machine's byte order, got {array.dtype.str}"
            raise TypeError(f"{op}: {arg.name} {text}")
        if arg.in_place and not array.flags.writeable:
            raise ValueError(f"{op}: {arg.name} must be writeable, as it is updated in place")
    shapes = [a.shape for a in arrays]
    dtypes = [_MS_DTYPES.get(a.dtype, a.dtype.name) for a in arrays]
    bound = BoundCall(op, shapes, dtypes, op_info.bind_attrs(info, attrs))
    outs = {o.name: np.empty(s, o.np_dtype) for o, s in zip(info.kernel_outputs, bound.out_shapes, strict=True)}
    bound([a.ctypes.data for a in (*arrays, *outs.values())])
    return tuple(inputs[o.in_place_of] if o.in_place_of else outs[o.name] for o in info.outputs)


def pack(weight: NDArray[Any]) -> NDArray[Any]:
    """Lays out a weight for the kernels (``weight_format="PACKED"``), in parallel.

    Args:
        weight: int8, or bfloat16 bits as uint16; [K, N] or [batch, K, N], row-major, N a multiple of 64, K of 4 (int8)
        or 2.

    Returns:
        An array of the same shape and dtype whose bytes are in the order of ``cpu/pack.h``.

    Raises:
        TypeError, ValueError: the weight is not one of those.
        RuntimeError: the threads cannot be started.
    """
    if not isinstance(weight, np.ndarray):
        raise TypeError(f"pack: weight must be a NumPy array, got {type(weight).__name__}")
    if weight.dtype not in (np.int8, np.uint16) or weight.ndim not in (2, 3):
        raise TypeError(
            f"pack: weight must be int8 or uint16 (bfloat16 bits) of rank 2 or 3, got {weight.dtype} {weight.shape}"
        )
    k, n = weight.shape[-2:]
    group = 4 if weight.dtype == np.int8 else 2
    if n % 64 or k % group:
        raise ValueError(
            f"pack: weight has shape {weight.shape}, expected (.., K, N) with K % {group} == 0 and N % 64 == 0"
        )
    weight = np.ascontiguousarray(weight)
    packed = np.empty_like(weight)
    batch = weight.shape[0] if weight.ndim == 3 else 1
    _checked(
        load().ms_dsv32_pack,
        *(ctypes.c_void_p(weight.ctypes.data), ctypes.c_void_p(packed.ctypes.data), weight.dtype.itemsize),
        *(ctypes.c_int64(batch), ctypes.c_int64(k), ctypes.c_int64(n)),
    )
    return packed


def _checked(function: Any, *arguments: Any) -> None:
    """Calls one of the library's functions that return a status and a text."""
    message = ctypes.create_string_buffer(_MESSAGE_BYTES)
    status = function(*arguments, message, ctypes.c_size_t(_MESSAGE_BYTES))
    if status:
        kind = {1: ValueError, 2: TypeError}.get(status, RuntimeError)
        raise kind(message.value.decode())


def _attr(op: str, name: str, value: Any) -> _Attr:
    if isinstance(value, (bool, np.bool_)):
        return _Attr(name.encode(), 3, 0.0, int(value), None)
    if isinstance(value, (float, np.floating)):
        return _Attr(name.encode(), 0, float(value), 0, None)
    if isinstance(value, (int, np.integer)):
        if not -(2**63) <= value < 2**63:
            bits = int(value).bit_length()
            got = f"{value}" if bits <= 128 else f"an int of {bits} bits"  # Python prints none of 4300 digits
            raise ValueError(f"{op}: {name} = {got} does not fit 64 bits")
        return _Attr(name.encode(), 1, 0.0, int(value), None)
    if isinstance(value, str):
        text = value.encode(errors="backslashreplace")  # lone surrogates; no choice of the contract has a backslash
        if b"\0" in text:  # where C would take it to end
            raise ValueError(f"{op}: {name} must have no NUL, got {value!r}")
        return _Attr(name.encode(), 2, 0.0, 0, text)
    raise TypeError(f"{op}: {name} must be float, int, str or bool, got {type(value).__name__}")
