"""The bridge to MindSpore: the only file that knows ``mindspore.ops.Custom`` and the in-place rule.

What differs between targets is in ``_cpu.py`` and ``_ascend.py``, which have the functions of ``_target.Target``.

MindSpore has several ways to lose a write into an input tensor, and reports none of them. Each has its remedy here:

- PyNative copies a view before a kernel sees it, and reports a kernel's error at some later statement. On CPU kernels
  are called directly (``_cpu.Launch``). On Ascend such a view is refused.
- A compiled graph prunes and merges calls and turns tensor attributes into constants. ``side_effect_mem``, and
  ``RW_WRITE`` on the caches, prevent it. Because of ``RW_WRITE`` MindSpore refuses views that are passed into a graph.
- A compiled graph runs nodes in the order of their data. Every operator, the readers too, has ``side_effect_mem``, so
  that all of them run in program order, whichever handle of a cache they are given.
- ``jit(capture_mode="bytecode")`` drops calls whose results are unused, and passes copies to code that it does not
  capture. ``capture_mode="trace"`` goes on with the caches of the first call. Operators that write are refused under
  both.
- What a compiled graph computes, even a slice of a larger tensor, has memory of its own. A cache must therefore be an
  argument of the graph, as it came.
- On Ascend a graph works on a copy of a plain tensor in host memory (a Parameter is moved). Such a cache is refused.
- All this is checked only when a graph is compiled, and `nn.Cell.set_inputs` hides even the tensors of that call. With
  `CacheCheck` a cell checks each call.
- A branch or loop of a compiled graph whose condition is known only at run time gets a copy of a plain tensor
  (a Parameter is passed as itself). The library's shape inference refuses such a cache, see ``plain_caches`` in
  ``kernel_impl/cpu/mindspore_entry.cc``.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, TypeVar, cast

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from mindspore._c_expression import MSContext, ms_ctx_param
from mindspore.common import dtype as mstype
from mindspore.graph import api as graph_api
from mindspore.graph.jit_context import jit_context, set_jit_context
from mindspore.ops import signature
from mindspore.ops.primitive import PrimitiveWithInfer

from ms_dsv32 import kernel_impl, op_info
from ms_dsv32.config import Configuration
from ms_dsv32.ops import _ascend, _cpu, _graphs
from ms_dsv32.ops._target import Launch, Target

_TARGETS: dict[str, Target] = {"CPU": _cpu, "Ascend": _ascend}
_Function = TypeVar("_Function", bound=Callable[..., Any])
_UNKNOWN_RANK = -2
_MAX_CALLS = 1024
"""Calls of an operator whose checks are kept: as many numbers of tokens as a server is likely to meet."""
_MAX_KERNELS = 64
"""Sets of attributes of an operator that are kept: those of a model's layers, and some that change at each call."""
_BYTECODE_CAPTURE = graph_api.PIJitCaptureContext.__call__.__code__.co_filename
MIXED_PRECISION = ("fp16", "fp32", "bf16")
"""The flags that `nn.Cell.to_float` sets."""
_LAUNCH = threading.RLock()
"""Held during a PyNative call, because MindSpore's executor does not take calls from several threads at a time.

A thread that holds it may take it again, because a signal handler may run between two statements of a call. fork()
waits for it. So a child inherits neither a lock that a thread of its parent holds, nor MindSpore in the middle of a
call.
"""
os.register_at_fork(before=_LAUNCH.acquire, after_in_parent=_LAUNCH.release, after_in_child=_LAUNCH.release)


def _ends_trace(function: _Function) -> _Function:
    """Ends MindSpore's trace if an exception leaves the function. Otherwise later calls would be a part of it."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        try:
            return function(*args)
        except BaseException:
            if jit_context() is not None:
                set_jit_context(None)
            raise

    return cast(_Function, wrapper)


class Operator(PrimitiveWithInfer):  # type: ignore[misc]
    """Chooses the kernel of a call.

    ``operator(*attributes, *tensors)`` returns a callable, and the constants that it takes after the tensors. Called
    with both, the callable returns the kernel's outputs. An optional tensor that is left out is None here, and the
    callable does not take it. In Python the callable is an object that calls the kernel. When a graph is compiled, it
    is a constant, the ``Custom`` primitive. So a public function has one path for both, and attributes and dtypes are
    checked when a graph is compiled.

    Args:
        name: name of the operator in op_info.
        bprop: the function that MindSpore calls for a gradient, with the inputs, ``out`` and ``dout``.
    """

    def __init__(self, name: str, bprop: Callable[..., Any]) -> None:
        super().__init__(f"Choose{op_info.load(name).entry}")
        self.set_const_prim(True)  # the arguments of a compiled call are needed for their types only
        self._info = op_info.load(name)
        self._configs = tuple(i for i, attr in enumerate(self._info.attrs) if attr.type == "config")
        self._bprop = bprop
        self._graph = ""
        self._customs: dict[tuple[Any, ...], ops.Custom] = {}  # those of `_graph`, the last that was compiled
        self._kernels: dict[tuple[Any, ...], _Kernel] = {}  # the oldest first
        self._calls = functools.lru_cache(maxsize=_MAX_CALLS)(functools.partial(_bind_call, name))

    @_ends_trace
    def __call__(self, *args: Any) -> tuple[_Kernel, tuple[()]]:
        count = len(self._info.attrs)
        attrs, tensors = self._by_value(args[:count]), args[count:]
        try:
            # The key includes types, because 1 == True. It has no device target, because a process has only one.
            key = (attrs, tuple(map(type, attrs)), tensors[-1] is None)
            kernel = self._kernels.get(key)
        except TypeError:  # an attribute that is not hashable; `_bind` names it
            kernel = None
        if kernel is None:
            given = _given(self._info, tensors)
            for arg, tensor in zip(self._info.inputs, given, strict=len(given) == len(tensors)):
                _require_tensor(self._owner(arg.name), arg.name, tensor)
            bound = self._bind(attrs, [t.shape for t in given], [_dtype_name(t.dtype) for t in given])
            make_custom = functools.partial(self._custom, bound, len(given))
            launch = _target(self._info).Launch(self._info, make_custom, self._constants(len(given), bound), bound)
            kernel = _Kernel(self._info, bound, launch, self._calls, self._owner)
            with _LAUNCH:
                if len(self._kernels) >= _MAX_KERNELS:
                    del self._kernels[next(iter(self._kernels))]
                self._kernels[key] = kernel
        return kernel, ()

    @_ends_trace
    def __infer__(self, *args: dict[str, Any]) -> dict[str, Any]:
        name, count = self._info.name, len(self._info.attrs)
        if _writes(self._info):
            _refuse_capture(name)
        compilation = _graphs.compilation()
        target = _target(self._info)
        target.require_graph(self._info, compilation.get("jit_config_dict") or {})
        for attr, value in zip(self._info.attrs, args[:count], strict=True):
            if value["value"] is None and value["dtype"] is not None:
                raise TypeError(f"{name}: {attr.name} must be a constant where a graph is compiled")
        shapes, dtypes, plain_caches, arguments = [], [], [], []
        passed = {id(tensor) for tensor in _passed(compilation)}
        for arg, tensor in zip(self._info.inputs, args[count:], strict=True):
            if arg.optional and tensor["dtype"] is None:
                continue
            if not isinstance(tensor["dtype"], (mstype.TensorType, mstype.RefType)):
                raise TypeError(f"{self._owner(arg.name)}: {arg.name} must be a Tensor, got {tensor['dtype']}")
            if _UNKNOWN_RANK in tensor["shape"]:
                text = f"{arg.name} has an unknown rank, expected {len(arg.shapes[0])} axes"
                raise ValueError(f"{self._owner(arg.name)}: {text}")
            shapes.append(tensor["shape"])
            dtypes.append(_dtype_name(tensor["dtype"].element_type()))
            if arg.in_place and not isinstance(tensor["dtype"], mstype.RefType):
                plain_caches.append(arg.name)
                candidates = _arguments(compilation, dtypes[-1], tensor["shape"])
                if tensor["value"] is None and compilation and not candidates:
                    text = "is computed inside the graph, so the write would be lost: pass the cache itself"
                    hint = _mixed_precision_hint(compilation)
                    raise ValueError(f"{name}: {arg.name} of shape {tuple(tensor['shape'])} {text}{hint}")
                arguments += [(arg.name, candidate) for candidate in candidates if id(candidate) in passed]
        bound = self._bind([value["value"] for value in args[:count]], shapes, dtypes)
        for cache, candidate in arguments:
            target.require_cache(self._info, cache, candidate)
        graph = _graphs.name()
        if graph != self._graph:
            self._graph, self._customs = graph, {}
        key = (len(shapes), *bound.items(), *map(type, bound.values()), *plain_caches)
        custom = self._customs.get(key)
        if custom is None:  # equal calls share one, so that MindSpore compiles a function that makes them only once
            custom = self._customs[key] = self._custom(bound, len(shapes), ", ".join(plain_caches), graph)
        return {"shape": None, "dtype": None, "value": (custom, self._constants(len(shapes), bound))}

    def _owner(self, argument: str) -> str:
        """The operator that an error about this argument names."""
        return self._info.name

    def _by_value(self, attrs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The attributes, with a copy of each configuration, because the caller may change it after the call."""
        for i in self._configs:
            config = attrs[i]
            if isinstance(config, Configuration):
                attrs = (*attrs[:i], config.frozen(), *attrs[i + 1 :])
        return attrs

    def _bind(self, attrs: Sequence[Any], shapes: Sequence[Sequence[int]], dtypes: Sequence[str]) -> dict[str, Any]:
        """Checks a call and returns the kernel's attributes."""
        given = {attr.name: value for attr, value in zip(self._info.attrs, attrs, strict=True)}
        bound = op_info.bind_attrs(self._info, given)
        kernel_impl.validate(self._info.name, shapes, dtypes, bound)
        _target(self._info).require(self._info, bound)
        return bound

    def _constants(self, given: int, attrs: dict[str, Any]) -> tuple[Any, ...]:
        """What a call of the primitive passes after the `given` tensors."""
        target = _target(self._info)
        left_out = () if given == len(self._info.inputs) else (target.left_out(),)
        return (*left_out, *target.constants(self._info, attrs))

    def _custom(self, attrs: dict[str, Any], given: int, plain_caches: str = "", graph: str = "") -> ops.Custom:
        """A primitive for these attributes and so many inputs in a graph of this name. It sees no later change."""
        info, target = self._info, _target(self._info)
        kernel_impl.load()  # so that a bad MS_DSV32_CPU_ISA is an error here, and the library outlives a primitive
        path = str(kernel_impl.library_path())
        if ":" in path:
            raise RuntimeError(f"ms_dsv32: MindSpore cannot load a library whose path has a colon: {path}")
        dtypes = tuple(getattr(ms, o.ms_dtype) for o in info.kernel_outputs)
        several = len(dtypes) > 1
        constants, registration = target.constants(info, attrs), target.reg_info(info)
        # MindSpore wants a bprop with a parameter for each argument. Without a bprop it refuses a gradient itself.
        bprop = None if constants else self._bprop
        with target.building(info):
            custom = ops.Custom(
                f"{path}:{target.type_name(info)}",
                None,
                dtypes if several else dtypes[0],
                "aot",
                bprop=bprop,
                reg_info=registration,
            )
        prim_attrs = {"multi_output": several, "side_effect_mem": True, **attrs}
        # On every target the shapes come from the library's <entry>InferShape.
        prim_attrs["func_name"] = f"{path}:{info.entry}"
        if registration is None:  # else it tells the name
            prim_attrs["reg_op_name"] = info.entry
        if info.optional is not None and given == len(info.inputs):
            prim_attrs[info.optional.name] = True  # shape inference is not told which inputs are None
        if plain_caches:
            prim_attrs["plain_caches"] = plain_caches
        if graph:
            prim_attrs["graph"] = graph
        for name, value in prim_attrs.items():
            custom.add_prim_attr(name, value)
        write, read = signature.sig_rw.RW_WRITE, signature.sig_rw.RW_READ
        signatures = [signature.make_sig(a.name, write if a.in_place else read) for a in info.inputs]
        signatures += [signature.make_sig(f"constant{i}") for i in range(len(constants))]
        custom.set_signatures(tuple(signatures))
        return custom


class _Kernel:
    """Calls a kernel from Python, with the attributes of its first call. Every call's tensors are checked."""

    def __init__(
        self,
        info: op_info.OpInfo,
        attrs: dict[str, Any],
        launch: Launch,
        calls: Callable[..., kernel_impl.BoundCall],
        owner: Callable[[str], str],
    ) -> None:
        self._info = info
        self._launch = launch
        self._writes = _writes(info)
        self._calls = calls
        self._owner = owner
        # The key includes types, as in `Operator`, but no float values, because the launch passes its own.
        self._key = tuple((n, float, 0.0) if _is_float(v) else (n, type(v), v) for n, v in attrs.items())

    @_ends_trace
    def __call__(self, *tensors: Tensor) -> Any:
        if self._writes:
            _refuse_capture(self._info.name)
        for i, tensor in enumerate(tensors):
            if not isinstance(tensor, Tensor) or tensor.init is not None:
                argument = self._info.inputs[i].name
                _require_data(self._owner(argument), argument, tensor)
        call = self._calls(self._key, *[t.shape for t in tensors], *[t.dtype for t in tensors])
        with _LAUNCH:
            return self._launch(tensors, call)


def require_attributes(operator: str, **attrs: Any) -> None:
    """Raises the TypeError or ValueError with which an operator would refuse these attributes, before any call of it.

    Args:
        operator: name of the operator in op_info.
        attrs: its attributes; those with defaults may be left out.
    """
    info = op_info.load(operator)
    shapes = [(_UNKNOWN_RANK,)] * len(info.inputs)
    kernel_impl.validate(operator, shapes, [arg.ms_dtype for arg in info.inputs], op_info.bind_attrs(info, attrs))


def _is_float(value: Any) -> bool:
    return isinstance(value, (float, np.floating))


def _given(info: op_info.OpInfo, tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    """The tensors without the optional one, if that is None."""
    return tensors[:-1] if info.inputs[-1].optional and tensors[-1] is None else tensors


def _bind_call(op: str, attrs: tuple[tuple[str, type, Any], ...], *shapes_and_dtypes: Any) -> kernel_impl.BoundCall:
    count = len(shapes_and_dtypes) // 2
    dtypes = [*map(_dtype_name, shapes_and_dtypes[count:])]
    return kernel_impl.BoundCall(op, shapes_and_dtypes[:count], dtypes, {name: value for name, _, value in attrs})


class CacheCheck:
    """Refuses the caches that a graph cannot write, at each call of a cell.

    The operator refuses them when the graph is compiled, but MindSpore lets a later call through. On Ascend the write
    into host memory is then lost in silence, and a strided view fails with an error that names no argument. On CPU a
    view is refused only after the kernel has written a copy. After such an error the graph fails at every call.

    Args:
        operator: the operator that writes the caches.
        parameters: the names of the call's arguments, in order. A cache has its name in the operator, or that name
            without the prefix ("mla_", "ip_") that tells the two halves of a fused operator apart.
    """

    def __init__(self, operator: str, parameters: Sequence[str]) -> None:
        self._info = op_info.load(operator)
        caches = [arg.name for arg in self._info.inputs if arg.in_place]
        self.caches = tuple(
            (index, parameter, name)
            for index, parameter in enumerate(parameters)
            for name in caches
            if name == parameter or name.endswith(f"_{parameter}")
        )
        """For each cache, index and name among the call's arguments, and name in the operator."""

    def __call__(self, target_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raises ValueError with the operator's own text. The operator itself refuses what is not a Tensor."""
        target = _TARGETS.get(target_name)
        if target is None:
            return  # the operator says so
        count = len(args)
        try:
            for index, parameter, name in self.caches:
                cache = args[index] if index < count else kwargs.get(parameter)
                if isinstance(cache, Tensor):
                    target.require_cache(self._info, name, cache)
        except ValueError:
            # In PyNative mode the operator checks each call itself, and on CPU it can write a view that a graph cannot.
            if ms.get_context("mode") == ms.GRAPH_MODE:
                raise


_CONTEXT = MSContext.get_instance()
_DEVICE_TARGET = ms_ctx_param.device_target


def device_target() -> str:
    """`mindspore.get_context("device_target")` in 1 us instead of 16."""
    return str(_CONTEXT.get_param(_DEVICE_TARGET))


def _target(info: op_info.OpInfo) -> Target:
    """The device target."""
    name = device_target()
    if name not in _TARGETS:
        names = " or ".join(f"set_device({n!r})" for n in _TARGETS)
        raise RuntimeError(f"{info.name}: no kernel for device target {name}; {names}")
    return _TARGETS[name]


def _writes(info: op_info.OpInfo) -> bool:
    return any(a.in_place for a in info.inputs)


def _refuse_capture(op: str) -> None:
    """Raises if an operator that writes is called under one of mindspore.jit's capture modes that lose writes."""
    frame: FrameType | None = sys._getframe(1)
    lossy = ""
    while frame is not None and not lossy:
        lossy = "bytecode" if frame.f_code.co_filename == _BYTECODE_CAPTURE else ""
        frame = frame.f_back
    if jit_context() is not None:
        lossy = "trace"
    if lossy:
        text = f"mindspore.jit(capture_mode='{lossy}') loses writes into caches; use capture_mode='ast'"
        raise RuntimeError(f"{op}: {text}")


def _arguments(compilation: dict[str, Any], dtype: str, shape: Sequence[int]) -> list[Tensor]:
    """The tensors of this dtype and shape among the arguments of the graph that is being compiled."""
    found = []
    for tensor in _tensors([compilation.get(name) for name in ("args", "kwargs", "compile_args")]):
        if _dtype_name(tensor.dtype) == dtype and len(tensor.shape) == len(shape):
            same = all(a == b or -1 in (a, b) for a, b in zip(tensor.shape, shape, strict=True))
            found += [tensor] if same else []
    return found


def _passed(compilation: dict[str, Any]) -> list[Tensor]:
    """The tensors of the call itself, without those that `nn.Cell.set_inputs` declares in their place.

    A cell is compiled with the declared tensors as its arguments. Under ``mindspore.jit`` the declared tensors are
    ``compile_args``, and ``args`` are those of the call.
    """
    cell = compilation.get("obj")
    declared = {id(tensor) for tensor in _tensors(cell.get_inputs() if isinstance(cell, ms.nn.Cell) else None)}
    given = _tensors([compilation.get("args"), compilation.get("kwargs")])
    return [tensor for tensor in given if id(tensor) not in declared]


def _mixed_precision_hint(compilation: dict[str, Any]) -> str:
    """What to add to an error about a cache if a cell of the graph casts whatever it passes on."""
    cell = compilation.get("obj")
    cells = [found for _, found in cell.cells_and_names()] if isinstance(cell, ms.nn.Cell) else []
    if not any(getattr(found, "_func_graph_flags", {}).get(name) for found in cells for name in MIXED_PRECISION):
        return ""
    text = "mixed precision (to_float, or amp's O2 and O3) of the cell around casts what it passes on"
    return f"; {text}; give it to the cells that want it, or use amp's O1 or auto"


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a value and in the containers that it holds."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _dtype_name(dtype: Any) -> str:
    return str(dtype).lower()  # MindSpore prints its types in capitals: BFloat16


def _require_tensor(op: str, name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a Tensor, got {type(value).__name__}")


def _require_data(op: str, name: str, value: Any) -> None:
    _require_tensor(op, name, value)
    if value.size > 0 and value.data_ptr() == 0:
        raise ValueError(f"{op}: {name} has no data yet; call {name}.init_data()")
