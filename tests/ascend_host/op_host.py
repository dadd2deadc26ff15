"""Compiles kernel_impl/ascendc/op_host against the stubs and calls what it registers."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator import building, cache_directory, compiler, last_flags

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ASCENDC = ROOT / "ms_dsv32" / "kernel_impl" / "ascendc"
CONTRACT = ASCENDC.with_name("contract")
SOURCES = [
    *sorted((ASCENDC / "op_host").glob("*.cpp")),
    CONTRACT / "op_check.cc",
    HERE / "driver.cpp",
]
HEADERS = [
    *HERE.glob("stubs/**/*.h"),
    *ASCENDC.glob("*/*.h"),
    *CONTRACT.rglob("*.h"),
]
FAILED = 0xFFFFFFFF  # ge::GRAPH_FAILED
TILING_CAPACITY = 2048  # bytes that CANN has for tiling data by default

Shapes = Sequence[Sequence[int]]


class _Shape(ctypes.Structure):
    _fields_ = (("rank", ctypes.c_int), ("dims", ctypes.POINTER(ctypes.c_int64)))


@dataclass(frozen=True)
class Device:
    """What CANN says of a device: cores, and bytes of the memories of one (Ascend910B1)."""

    aic: int = 24
    aiv: int = 48
    ub: int = 196608
    l1: int = 524288
    l0a: int = 65536
    l0b: int = 65536
    l0c: int = 131072


@dataclass(frozen=True)
class Launch:
    """What a tiling function sets."""

    block_dim: int
    tiling_key: int
    schedule_mode: int
    workspace: int
    tiling: bytes


@functools.cache
def library() -> ctypes.CDLL:
    """The host side as a library: compiled once for each content, every warning an error."""
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", f"-I{ROOT}", f"-I{HERE / 'stubs'}"]
    flags += last_flags()
    digest = hashlib.sha256("\0".join([*compiler(), *flags]).encode())
    for path in sorted([*SOURCES, *HEADERS]):
        digest.update(str(path).encode() + b"\0" + path.read_bytes())
    target = cache_directory() / f"op_host-{digest.hexdigest()[:20]}.so"
    with building(target):
        if not target.exists():
            made = target.with_suffix(".tmp")
            command = [*compiler(), *flags, "-shared", "-Wl,--no-undefined", *map(str, SOURCES), "-o", str(made)]
            subprocess.run(command, check=True)
            made.replace(target)
    loaded = ctypes.CDLL(str(target))
    loaded.host_definition.restype = ctypes.c_char_p
    for name in ("host_tile", "host_infer_shape", "host_infer_dtype"):
        getattr(loaded, name).restype = ctypes.c_uint32
    return loaded


def _inputs(shapes: Shapes, attrs: Mapping[str, float | int]) -> list[object]:
    """The arguments that say what a call was given; attributes in the OpDef's order."""
    dims = [(ctypes.c_int64 * max(len(s), 1))(*s) for s in shapes]
    given = (_Shape * max(len(shapes), 1))(*(_Shape(len(s), d) for s, d in zip(shapes, dims, strict=True)))
    given._keep = dims  # type: ignore[attr-defined]
    count = len(attrs)
    is_float = (ctypes.c_int * max(count, 1))(*(isinstance(v, float) for v in attrs.values()))
    values = (ctypes.c_double * max(count, 1))(*attrs.values())
    return [len(shapes), given, count, is_float, values]


def definition(op_type: str) -> list[list[str]]:
    """The OpDef of an operator: a list of words for each tensor, attribute and device."""
    return [line.split() for line in library().host_definition(op_type.encode()).decode().splitlines()]


def tile(
    op_type: str,
    shapes: Shapes,
    attrs: Mapping[str, float | int],
    device: Device | None = None,
    capacity: int = TILING_CAPACITY,
) -> Launch | None:
    """Runs the tiling function that CANN would call; None if it fails."""
    device = device or Device()
    platform = (ctypes.c_uint64 * 7)(*(getattr(device, f) for f in ("aic", "aiv", "ub", "l1", "l0a", "l0b", "l0c")))
    data = ctypes.create_string_buffer(max(capacity, 1))
    launch = (ctypes.c_uint64 * 5)()
    arguments = [*_inputs(shapes, attrs), platform, ctypes.c_uint64(capacity), data, launch]
    status = library().host_tile(op_type.encode(), *arguments)
    assert status in (0, FAILED)
    return None if status else Launch(*launch[:4], data.raw[: launch[4]])


def infer_shapes(
    op_type: str, outputs: int, shapes: Shapes, attrs: Mapping[str, float | int]
) -> list[tuple[int, ...]] | None:
    """Shapes of all outputs of the OpDef; None if the inference fails."""
    out = (ctypes.c_int64 * (9 * outputs))()
    status = library().host_infer_shape(op_type.encode(), *_inputs(shapes, attrs), out)
    assert status in (0, FAILED)
    return None if status else [tuple(out[i * 9 + 1 : i * 9 + 1 + out[i * 9]]) for i in range(outputs)]


def infer_dtypes(op_type: str, outputs: int) -> list[int] | None:
    """CANN's numbers of the outputs' dtypes; None if the inference fails."""
    out = (ctypes.c_int * outputs)()
    status = library().host_infer_dtype(op_type.encode(), outputs, out)
    assert status in (0, FAILED)
    return None if status else list(out)


@contextlib.contextmanager
def withheld(what: str) -> Iterator[None]:
    """For the time of a block CANN does not give this: one of the names in stubs/register/op_def_registry.h."""
    library().host_withhold(what.encode())
    try:
        yield
    finally:
        library().host_withhold(b"")
