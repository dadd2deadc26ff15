"""The virtual Ascend: the environment of a process that runs on it, and a test's way to the device. See README.md."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import stand_in
from package import build as package
from stand_in import build as cann_home

__all__ = [
    *("CPU", "EMULATOR", "OPTIONS"),
    *("cann_home", "environment", "get", "live", "option", "package", "put", "running"),
]

OPTIONS = ("CORES", "DELAY_US", "KERNELS", "MEMORY_MB", "SEED", "TRACE")
"""Options, integers, that ``ASCEND_VIRTUAL_<option>`` sets for a process, and `option` for a block."""
EMULATOR, CPU = 0, 1
"""Values of the option KERNELS: what runs on the device."""


def environment(*, packages: Sequence[Path] | None = None, **options: int) -> dict[str, str]:
    """The variables of a process that runs on the virtual Ascend. They must be set when its Python starts.

    Builds what is not built yet, which takes a minute or two, once for each content.

    Args:
        packages: the folders of ASCEND_CUSTOM_OPP_PATH, by default our operators.
        options: any of `OPTIONS`.
    """
    unknown = set(options) - set(OPTIONS)
    if unknown:
        raise ValueError(f"virtual Ascend: no option {', '.join(sorted(unknown))}; there are {', '.join(OPTIONS)}")
    listed = [package()] if packages is None else packages  # with the stand-in, which is then there
    home = cann_home()
    before = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    folders = [home / "lib64", home / "lib64" / "driver", *before]
    # Removes a real CANN's Python packages, which must not be mixed with a stand-in for its libraries.
    cann = os.environ.get("ASCEND_HOME_PATH", "")
    python = [p for p in os.environ.get("PYTHONPATH", "").split(":") if p and not (cann and p.startswith(cann))]
    return {
        "GLOG_v": "3",  # MindSpore: errors only
        **os.environ,
        "PYTHONPATH": ":".join(python),
        **{f"ASCEND_VIRTUAL_{name}": str(value) for name, value in options.items()},
        "ASCEND_HOME_PATH": str(home),
        "ASCEND_OPP_PATH": str(home / "opp"),
        "ASCEND_CUSTOM_OPP_PATH": ":".join(map(str, listed)),
        "LD_LIBRARY_PATH": ":".join(map(str, folders)),
    }


def running() -> bool:
    """Whether this process runs on the virtual Ascend."""
    home = os.environ.get("ASCEND_HOME_PATH")
    return home is not None and Path(home, stand_in.MARKER).is_file()


@functools.cache
def _device() -> ctypes.CDLL:
    library = ctypes.CDLL("libascendcl.so")
    for name in ("virtual_ascend_get", "virtual_ascend_live"):
        getattr(library, name).restype = ctypes.c_int64
    return library


def get(name: str) -> int:
    """An option, or a counter: LAUNCHES of operators, FAILURES that a synchronisation has told."""
    return int(_device().virtual_ascend_get(name.encode()))


def put(name: str, value: int) -> None:
    """Sets an option."""
    if _device().virtual_ascend_set(name.encode(), ctypes.c_int64(value)):
        raise ValueError(f"virtual Ascend: no option {name}")


@contextmanager
def option(name: str, value: int) -> Iterator[None]:
    """Sets an option during a block."""
    before = get(name)
    put(name, value)
    try:
        yield
    finally:
        put(name, before)


def live(kind: str) -> int:
    """How many are alive of "allocations", "events", "executors", "host allocations", "lists", "memory blocks",
    "scalars", "streams" or "tensors"."""
    return int(_device().virtual_ascend_live(kind.encode()))
