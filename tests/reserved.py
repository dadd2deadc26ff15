"""Arrays that are larger than the machine's memory, for tests of offsets that 32 bits do not hold.

Memory of `reserved` takes pages only where it is written. Memory of `repeated` is the same few pages again and again.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FAR_ROW = 2**32
"""The offset of this row has 33 bits or more in a cache of any width. Cut to 32 bits, signed or not, it is the offset
of row 0, which exists, so that a wrong read shows as wrong values."""

_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000  # of Linux on x86-64 and AArch64; Python has the second one from 3.13 on
_MAP_FAILED = ctypes.c_void_p(-1).value
_PAGES = 64 << 20  # bytes of `repeated` that are memory

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def _map(address: int | None, size: int, flags: int, file: int = -1) -> int:
    place = _libc.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, file, 0)
    if place == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), f"the system reserves no {size} bytes of addresses")
    return int(place)


def _array(place: int, mapped: int, shape: tuple[int, ...], dtype: Any) -> Array:
    """The array at `place`, whose mapping ends with it."""
    memory = (ctypes.c_byte * mapped).from_address(place)
    weakref.finalize(memory, _libc.munmap, place, mapped)
    return np.frombuffer(memory, dtype, int(np.prod(shape, dtype=object))).reshape(shape)


def _bytes(shape: tuple[int, ...], dtype: Any) -> int:
    """In whole pages, one at least."""
    size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    return max(-(-size // mmap.PAGESIZE), 1) * mmap.PAGESIZE


def reserved(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros. Pages that are only read are all the system's page of zeros.

    Raises:
        OSError: the system counts addresses as memory (vm.overcommit_memory is 2), or limits them.
    """
    size = _bytes(shape, dtype)
    return _array(_map(None, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE), size, shape, dtype)


def repeated(shape: tuple[int, ...], dtype: Any) -> Array:
    """What is written to the first and to the last 64 MiB remains; in between the same 64 MiB come again and again.

    Raises:
        OSError: see `reserved`.
    """
    size = _bytes(shape, dtype)
    place = _map(None, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    file = os.memfd_create("repeated")
    try:
        os.ftruncate(file, _PAGES)
        for offset in range(_PAGES, size - 2 * _PAGES, _PAGES):
            _map(place + offset, _PAGES, mmap.MAP_SHARED | _MAP_FIXED | _MAP_NORESERVE, file)
    finally:
        os.close(file)
    return _array(place, size, shape, dtype)
