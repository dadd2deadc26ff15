"""Compiled graphs: which one is being compiled, and how a graph that has failed is compiled again.

MindSpore never runs a graph again in which an operator has failed, but keeps it in its caches, so every later call of
the cell or of the jitted function would fail too. Therefore each node of ours carries the name of its graph, which
MindSpore calls a phase. When a node fails, the kernel library reports the name to this module, and MindSpore's caches
forget the graph. The error is raised as it is, and the next call compiles the graph again, whatever cell or function
the operator is in.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import sys
import weakref
from types import FrameType
from typing import Any

from mindspore import nn
from mindspore.graph import api as graph_api

from ms_dsv32 import kernel_impl

_cells: weakref.WeakValueDictionary[str, nn.Cell] = weakref.WeakValueDictionary()
"""The cell of each graph that has one, by the graph's name."""


def compilation() -> dict[str, Any]:
    """The variables of MindSpore's function that compiles the graph. Empty in a branch, which has its own thread."""
    return _compilation_of(sys._getframe(1))


def _compilation_of(frame: FrameType | None) -> dict[str, Any]:
    while frame is not None:
        if frame.f_code.co_name == "compile" and frame.f_code.co_filename == graph_api.__file__:
            return frame.f_locals
        frame = frame.f_back
    return {}


def name() -> str:
    """The name of the graph that is being compiled, also in a branch of it, or "" if there is none.

    MindSpore compiles one graph at a time.
    """
    _watch()
    found = next(filter(None, map(_compilation_of, (sys._getframe(1), *sys._current_frames().values()))), {})
    phase = found.get("phase", "")
    cell = found["obj"] if "obj" in found else getattr(found.get("self"), "obj", None)  # for a cell, or for a jit
    if phase and isinstance(cell, nn.Cell):
        _cells[phase] = cell
    return str(phase)


def forget_all(cell: nn.Cell) -> None:
    """Makes the next call of a cell compile its graph, whatever has failed in it."""
    cell.compile_cache.clear()
    cell.phase_cache.clear()


def _forget(graph: bytes) -> None:
    """Makes the next call of a graph compile it."""
    phase = graph.decode()
    graph_api.ms_compile_cache.discard(phase)
    cell = _cells.get(phase)
    if cell is not None:
        cell.compile_cache.discard(phase)
        for key in [key for key, value in cell.phase_cache.items() if value == phase]:
            del cell.phase_cache[key]


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_handler = _HANDLER(_forget)


@functools.cache
def _watch() -> None:
    """Makes the kernel library report failures for as long as the interpreter lives."""
    set_handler = kernel_impl.load().ms_dsv32_set_failure_handler
    set_handler(_handler)
    atexit.register(set_handler, _HANDLER())
