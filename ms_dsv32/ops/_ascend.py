"""What Ascend needs of the bridge to MindSpore: where the ``aclnn`` functions are, and what they are called with.

MindSpore calls ``aclnn<Op>`` of the custom operator packages that ``ASCEND_CUSTOM_OPP_PATH`` lists, with the inputs,
then the attributes, then the outputs; it takes the C types from the package's ``aclnn_<stem>.h``. The reasons for what
is done here are in docs/ascend.md, "MindSpore on Ascend".
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, ops
from mindspore.ops.operations._custom_ops_utils import CustomInfoGenerator

from ms_dsv32 import cann, kernel_impl, op_info, opp

_SEARCH_PATH = "ASCEND_CUSTOM_OPP_PATH"
_C_TYPES = {"float": "double", "int": "int64_t"}
"""An attribute in ``aclnn_<stem>.h``. CANN's generator makes a Float attribute a double."""
_REG_TYPES = {"float": "double", "int": "int"}
"""The same, in the words of ``CustomRegOp``."""


def _prepend_search_path() -> bool:
    """Lists the package's own operators first; whether that came too late, as the device was in use."""
    listed = [entry for entry in os.environ.get(_SEARCH_PATH, "").split(":") if entry]
    if str(cann.VENDOR) in listed or not opp.library(cann.VENDOR).is_file():
        return False
    os.environ[_SEARCH_PATH] = ":".join([str(cann.VENDOR), *listed])
    return ms.get_context("device_target") == "Ascend" and bool(ms.hal.is_initialized("Ascend"))


# At import: MindSpore and CANN read the variable once, when the first operator runs on the device.
_TOO_LATE = _prepend_search_path()


def require(info: op_info.OpInfo, attrs: dict[str, Any]) -> None:
    """Checks that a kernel for these attributes is there.

    Raises:
        ValueError: weights that are not packed.
        RuntimeError: there is no such library or function, it has another interface, or CANN's environment or g++ is
            missing.
    """
    name = info.name
    if attrs.get("weight_format", "PACKED") != "PACKED":
        given = attrs["weight_format"]
        text = "lay the weights out once with ms_dsv32.weights.prepare (the cells do)"
        raise ValueError(f"{name}: weight_format must be 'PACKED' on Ascend, got {given!r}: {text}")
    library = opp.find(name)
    if _TOO_LATE:
        what = f"{library} was not listed when the device was initialised"
        raise RuntimeError(f"{name}: no Ascend kernel: {what}; import ms_dsv32.ops before anything runs on it")
    if not os.environ.get("ASCEND_OPP_PATH"):
        raise RuntimeError(f"{name}: ASCEND_OPP_PATH is not set; run `source <CANN>/set_env.sh`")
    if shutil.which("g++") is None:
        raise RuntimeError(f"{name}: no g++, with which MindSpore builds its call of aclnn{info.cann_type}; install it")
    want, got = c_types(info), CustomInfoGenerator(info.cann_type).get_aclnn_api_types()
    if got != want:
        header = f"aclnn_{info.cann_stem}.h"
        what = f"takes ({', '.join(got)}), expected ({', '.join(want)})" if got else f"is not in {_SEARCH_PATH}"
        raise RuntimeError(f"{name}: {header} {what}; build the Ascend operators again, see docs/ascend.md")


def c_types(info: op_info.OpInfo) -> list[str]:
    """The parameters of ``aclnn<Op>GetWorkspaceSize``: inputs, attributes, outputs that are no cache, CANN's two."""
    inputs, outputs = (["aclTensor*"] * len(args) for args in (info.inputs, info.kernel_outputs))
    return [*inputs, *(_C_TYPES[a.type] for a in info.ascend_attrs), *outputs, "uint64_t*", "aclOpExecutor**"]


def require_graph(info: op_info.OpInfo, jit_config: dict[str, str]) -> None:
    """Checks that MindSpore's own backend will run the graph: GE gives a Custom operator its tensors only.

    Args:
        jit_config: of the compilation; what it leaves open the context decides.

    Raises:
        RuntimeError: GE will.
    """
    of_context = ms.context.get_jit_config() or {}
    level = jit_config.get("jit_level") or of_context.get("jit_level", "")
    backend = jit_config.get("backend") or of_context.get("backend", "")
    if level == "O2" or backend == "GE":
        raise RuntimeError(f"{info.name}: cannot run under jit_level O2 (backend GE); set jit_level to O0 or O1")


def require_cache(info: op_info.OpInfo, name: str, tensor: Tensor) -> None:
    """Checks that what a graph writes into an argument will be there afterwards.

    Args:
        name: of the cache. tensor: the argument of the graph.

    Raises:
        ValueError: MindSpore would hand a copy to the kernel.
    """
    if _is_on_host(tensor) and not isinstance(tensor, Parameter) and -1 not in tensor.shape:
        text = f"is in the memory of {tensor.device}, so the write would be lost: pass {name}.to('Ascend')"
        raise ValueError(f"{info.name}: {name} of shape {tuple(tensor.shape)} {text}")
    if tensor._need_contiguous():
        if not tensor.is_contiguous():
            raise ValueError(f"{info.name}: {name} must be contiguous, as it is updated in place")
        where = f"a view that begins {tensor.storage_offset()} elements into its storage"
        raise ValueError(f"{info.name}: {name} is {where}, expected a tensor with its own memory")


def _is_on_host(tensor: Tensor) -> bool:
    return not tensor.device.startswith("Ascend")


@contextmanager
def building(info: op_info.OpInfo) -> Iterator[None]:
    """What the ``Custom`` primitive is made under.

    MindSpore compiles its call of the function into ``MS_COMPILER_CACHE_PATH`` or the working directory, and may
    remember a relative path. A folder of this process survives a change of directory, and no other rank writes there.
    """
    before = os.environ.get("MS_COMPILER_CACHE_PATH")
    os.environ["MS_COMPILER_CACHE_PATH"] = _scratch().name
    try:
        yield
    finally:
        if before is None:
            del os.environ["MS_COMPILER_CACHE_PATH"]
        else:
            os.environ["MS_COMPILER_CACHE_PATH"] = before


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ms_dsv32_")


def type_name(info: op_info.OpInfo) -> str:
    """The operator's name for MindSpore, which looks for ``aclnn_<stem>.h`` by it."""
    return info.cann_type


def reg_info(info: op_info.OpInfo, target: str = "Ascend") -> dict[str, Any]:
    """MindSpore's registration of an operator.

    Caches are inputs alone, as in ``aclnn_<stem>.h``. The attributes have no value here, so that MindSpore passes those
    of each call. All formats are the default: weights are tensors whose bytes are in the order of FRACTAL_NZ.
    """
    registration = ops.CustomRegOp(f"aclnn{info.cann_type}")
    for i, arg in enumerate(info.inputs):
        registration.input(i, arg.name, "required")
    for i, arg in enumerate(info.kernel_outputs):
        registration.output(i, arg.name, "required")
    for attr in info.ascend_attrs:
        registration.attr(attr.name, "required", _REG_TYPES[attr.type])
    registration.dtype_format(*((a.ms_dtype, "DefaultFormat") for a in (*info.inputs, *info.kernel_outputs)))
    return dict(registration.target(target).get_op_info())


def constants(info: op_info.OpInfo, attrs: dict[str, Any]) -> tuple[Any, ...]:
    """What a call passes behind the tensors: the attributes of the ``aclnn`` function."""
    values = {name.replace(".", "_"): value for name, value in attrs.items()}
    return tuple(values[attr.name] for attr in info.ascend_attrs)


class Launch:
    """Calls a kernel in PyNative mode, as a graph of one node: PyNative's own way takes at most 12 arguments.

    The call returns when the kernel is launched, as MindSpore's operators on Ascend do.
    """

    def __init__(self, info: op_info.OpInfo, custom: ops.Custom, attrs: dict[str, Any]) -> None:
        self._info = info
        self._graph = _graph(custom, constants(info, attrs))

    def __call__(self, tensors: tuple[Tensor, ...], call: kernel_impl.BoundCall) -> Any:
        for arg, tensor in zip(self._info.inputs, tensors, strict=True):
            if arg.in_place:
                require_cache(self._info, arg.name, tensor)
        return self._graph(*tensors)


def _graph(custom: ops.Custom, values: tuple[Any, ...]) -> Any:
    def call(*tensors):  # type: ignore[no-untyped-def]  # MindSpore compiles this
        return custom(*tensors, *values)

    return ms.jit(call, jit_level="O0")
