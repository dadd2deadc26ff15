"""What Ascend needs of the bridge to MindSpore: where the ``aclnn`` functions are, and what they are called with.

MindSpore calls ``aclnn<Op>`` of the custom operator packages that ``ASCEND_CUSTOM_OPP_PATH`` lists, with the inputs,
then the attributes, then the outputs; it takes the C types from the package's ``aclnn_<stem>.h``. The reasons for what
is done here are in docs/ascend.md, "MindSpore on Ascend".
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops
from mindspore.ops.operations._custom_ops_utils import CustomInfoGenerator
from mindspore.runtime.stream import function_stream_status

from ms_dsv32 import cann, kernel_impl, op_info, opp
from ms_dsv32.ops import _target

_SEARCH_PATH = "ASCEND_CUSTOM_OPP_PATH"
_REG_TYPES = {"float": "double", "int": "int"}
"""The C types of an operator's attributes, in the words of ``CustomRegOp``."""
_PLUGIN = Path(ms.__file__).parent / "lib" / "plugin" / "libmindspore_ops_ascend.so"
_GET_FUNCTION = "_ZN9mindspore6device6ascend12GetOpApiFuncEPKc"
"""``void* mindspore::device::ascend::GetOpApiFunc(const char*)`` in `_PLUGIN`: MindSpore's search for a function."""


def _list_own_operators_first() -> None:
    """Puts the package's own operators in front of the packages that MindSpore and CANN search."""
    if opp.library(cann.VENDOR).is_file():
        os.environ[_SEARCH_PATH] = ":".join(map(str, opp.packages()))


# At import: MindSpore reads the variable once, when somebody first asks it for a function of such a package.
_list_own_operators_first()


class _DlInfo(ctypes.Structure):
    # Dl_info of <dlfcn.h>.
    _fields_ = (
        ("fname", ctypes.c_char_p),
        ("fbase", ctypes.c_void_p),
        ("sname", ctypes.c_char_p),
        ("saddr", ctypes.c_void_p),
    )


@functools.cache
def _get_function() -> Callable[[bytes], int | None]:
    """MindSpore's own search for a function by its name."""
    function = getattr(ctypes.CDLL(str(_PLUGIN)), _GET_FUNCTION)
    function.argtypes, function.restype = [ctypes.c_char_p], ctypes.c_void_p
    return cast("Callable[[bytes], int | None]", function)


def called(function: str) -> Path | None:
    """The library whose function of this name MindSpore calls; None if it finds none.

    Only MindSpore knows: it loads the libraries that are listed when somebody first asks it for a function, and leaves
    out, without a word, those that cannot be loaded.

    Raises:
        RuntimeError: it cannot be asked: its Ascend plugin does not load, or has no such search.
    """
    try:
        get_function = _get_function()
    except (OSError, AttributeError) as error:
        text = f"MindSpore {ms.__version__} cannot be asked of which library it calls {function}: {error}"
        raise RuntimeError(f"{text}; this package is made for mindspore 2.10.0") from None
    address = get_function(function.encode())
    if not address:
        return None
    info = _DlInfo()
    dladdr = ctypes.CDLL(None).dladdr
    dladdr.argtypes = [ctypes.c_void_p, ctypes.POINTER(_DlInfo)]
    if not dladdr(address, ctypes.byref(info)):
        raise RuntimeError(f"MindSpore's {function} is in no library")
    return Path(os.fsdecode(info.fname))


def library(info: op_info.OpInfo) -> Path:
    """The library of an operator. It is listed first, MindSpore calls it, and it has our interface.

    Raises:
        RuntimeError: one of these does not hold, or MindSpore cannot be asked.
    """
    listed = opp.find(info.name)
    for function in opp.entries(info.name):
        found = called(function)
        if found is None or not found.samefile(listed):
            what = f"does not find {function}" if found is None else f"calls {function} of {found}"
            text = f"MindSpore {what}, expected {listed}: {_why_not(listed)}"
            raise RuntimeError(f"{info.name}: no Ascend kernel: {text}")
    opp.require_interface(info, listed)
    return listed


def _why_not(listed: Path) -> str:
    """Why MindSpore does not call a library that is listed first, and what to do about it."""
    try:
        ctypes.CDLL(str(listed), mode=os.RTLD_LAZY)  # as MindSpore does
    except OSError as error:
        todo = "run `source <CANN>/set_env.sh`, or build the Ascend operators again with this CANN"
        return f"it cannot be loaded: {error}; {todo}"
    return (
        f"MindSpore had loaded its operator libraries before that one was in {_SEARCH_PATH}, "
        "which other packages make it do (ms_custom_ops when it is imported); import ms_dsv32.ops before them"
    )


def require(info: op_info.OpInfo, attrs: dict[str, Any]) -> None:
    """Checks what a kernel needs here.

    Raises:
        ValueError: weights that are not packed.
        RuntimeError: there is no such library or function, MindSpore calls another, it has another interface, or CANN's
            environment or g++ is missing.
    """
    name = info.name
    if attrs.get("weight_format", "PACKED") != "PACKED":
        given = attrs["weight_format"]
        text = "lay the weights out once with ms_dsv32.weights.prepare (the cells do)"
        raise ValueError(f"{name}: weight_format must be 'PACKED' on Ascend, got {given!r}: {text}")
    library(info)
    if not os.environ.get("ASCEND_OPP_PATH"):
        raise RuntimeError(f"{name}: ASCEND_OPP_PATH is not set; run `source <CANN>/set_env.sh`")
    if shutil.which("g++") is None:
        raise RuntimeError(f"{name}: no g++, with which MindSpore builds its call of aclnn{info.cann_type}; install it")
    # MindSpore takes the types of its call from the first such header that it finds, whichever library it calls.
    generator = CustomInfoGenerator(info.cann_type)
    want, got = opp.parameters(info), generator.get_aclnn_api_types()
    if got != want:
        header = f"aclnn_{info.cann_stem}.h"
        what = f"in no op_api/include of {_SEARCH_PATH}, where MindSpore looks for it"
        if got:
            folder = generator.aclnn_api_paths[-1]
            what = f"first found in {folder}, where it takes ({', '.join(got)}), expected ({', '.join(want)})"
        raise RuntimeError(f"{name}: {header} is {what}; build the Ascend operators again, see docs/ascend.md")


def require_graph(info: op_info.OpInfo, jit_config: dict[str, str]) -> None:
    """MindSpore's own backend has to run the graph, because GE gives a Custom operator its tensors only."""
    of_context = ms.context.get_jit_config() or {}
    level = jit_config.get("jit_level") or of_context.get("jit_level", "")
    backend = jit_config.get("backend") or of_context.get("backend", "")
    if level == "O2" or backend == "GE":
        raise RuntimeError(f"{info.name}: cannot run under jit_level O2 (backend GE); set jit_level to O0 or O1")


def require_cache(info: op_info.OpInfo, name: str, tensor: Tensor) -> None:
    """MindSpore would hand a copy of a tensor in host memory, or of a view, to the kernel."""
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
    """MindSpore compiles its call of the function in a folder of this process.

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
    """MindSpore looks for ``aclnn_<stem>.h`` by this name."""
    return info.cann_type


def reg_info(info: op_info.OpInfo, target: str = "Ascend") -> dict[str, Any]:
    """What MindSpore calls the ``aclnn`` function with.

    Caches are inputs alone, as in ``aclnn_<stem>.h``. The attributes have no value here, so that MindSpore passes those
    of each call. All formats are the default: weights are tensors whose bytes are in the order of FRACTAL_NZ.
    """
    registration = ops.CustomRegOp(f"aclnn{info.cann_type}")
    for i, arg in enumerate(info.inputs):
        registration.input(i, arg.name, "optional" if arg.optional else "required")
    for i, arg in enumerate(info.kernel_outputs):
        registration.output(i, arg.name, "required")
    for attr in info.ascend_attrs:
        registration.attr(attr.name, "required", _REG_TYPES[attr.type])
    registration.dtype_format(*((a.ms_dtype, "DefaultFormat") for a in (*info.inputs, *info.kernel_outputs)))
    return dict(registration.target(target).get_op_info())


def left_out() -> Tensor:
    """A tensor of two axes.

    MindSpore's aclnn calls of a Custom fail on a null pointer (2.10.0, "The pointer[acl_tensor] is null"). The host
    side of the operators knows this tensor by its two axes.
    """
    return Tensor(np.empty((0, 0), np.int32))


def constants(info: op_info.OpInfo, attrs: dict[str, Any]) -> tuple[Any, ...]:
    """The attributes of the ``aclnn`` function."""
    values = {name.replace(".", "_"): value for name, value in attrs.items()}
    return tuple(values[attr.name] for attr in info.ascend_attrs)


class Launch(_target.Launch):
    """Calls a kernel in PyNative mode, as a graph of one node: PyNative's own way takes at most 12 arguments.

    The call returns when the kernel is launched, as MindSpore's operators on Ascend do.
    """

    def _prepare(self, attrs: dict[str, Any]) -> None:
        self._make_graph = functools.partial(_graph, self._make_custom(), self._constants)
        self._graph = self._make_graph()

    def __call__(self, tensors: tuple[Tensor, ...], call: kernel_impl.BoundCall) -> Any:
        for arg, tensor in zip(self._info.inputs, tensors, strict=False):  # without the optional one, perhaps
            if arg.in_place:
                require_cache(self._info, arg.name, tensor)
        try:
            results = self._graph(*tensors)
        except BaseException:
            # A graph that has failed once fails at every call, with a text that does not name the first cause.
            self._graph = self._make_graph()
            raise
        if function_stream_status["set_cur_stream"]:
            _wait()
        return results


def _wait() -> None:
    """Lets the stream that the caller has chosen wait for the graph, which runs on the default stream.

    Only called if `function_stream_status` tells that a stream was chosen. If none was, asking for the current stream
    would make MindSpore record two events in every later call, and keep them.
    """
    stream, default = ms.runtime.current_stream(), ms.runtime.default_stream()
    if stream != default:
        stream.wait_stream(default)


def _graph(custom: ops.Custom, values: tuple[Any, ...]) -> Any:
    def call(*tensors):  # type: ignore[no-untyped-def]  # MindSpore compiles this
        return custom(*tensors, *values)

    return ms.jit(call, jit_level="O0")
