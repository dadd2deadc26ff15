"""What the cells share: weights and their layout, checks of a call, and casts of what engines pass."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore._c_expression import MixedPrecisionType
from mindspore.graph.api import _pynative_executor
from mindspore.rewrite.common import namespace

from ms_dsv32 import op_info, weights
from ms_dsv32.config import N_Q, ROPE_DIM, Configuration, ModelConfig
from ms_dsv32.ops._custom import MIXED_PRECISION, CacheCheck, device_target
from ms_dsv32.ops._graphs import forget_all
from ms_dsv32.weights.contract import Array

_Cell = TypeVar("_Cell", bound="Configured")
_Outputs = TypeVar("_Outputs")
# The values of a checkpoint's mark. A layout that changes gets a new number, so that older checkpoints are refused.
_LAYOUTS = {"CPU": 1, "Ascend": 2}


def frozen(config: Any) -> Any:
    """A copy of a configuration that the caller cannot change. Other objects pass, and the operator refuses them."""
    return config.frozen() if isinstance(config, Configuration) else config


def as_rope_table(table: Tensor) -> Tensor:
    """cos or sin as the operators take it: bf16 [.., 64], from float32 or float16 and from half a row [.., 32].

    The two halves of a row are alike, so many engines keep only one of them.
    """
    if isinstance(table, Tensor) and table.ndim > 0:  # the operator refuses anything else, by name
        if table.dtype == ms.float32 or table.dtype == ms.float16:
            table = ms.ops.cast(table, ms.bfloat16)
        if table.shape[-1] * 2 == ROPE_DIM:
            table = ms.ops.concat((table, table), -1)
    return table


def as_slots(cache_index: Tensor) -> Tensor:
    """Cache rows as the operators take them: int64, from int32."""
    if isinstance(cache_index, Tensor) and cache_index.dtype == ms.int32:
        cache_index = ms.ops.cast(cache_index, ms.int64)
    return cache_index


def as_int32(tensor: Tensor) -> Tensor:
    """Lengths or block tables as the operators take them: int32, from int64.

    A value that int32 cannot hold does not wrap around. It becomes the nearest value of int32, which the operators
    refuse.
    """
    if isinstance(tensor, Tensor) and tensor.dtype == ms.int64:
        tensor = ms.ops.maximum(ms.ops.minimum(tensor, 2**31 - 1), -(2**31))
        tensor = ms.ops.cast(tensor, ms.int32)
    return tensor


class _OwnPrecision:
    """A context in which MindSpore's own operators keep the dtypes of their inputs.

    In PyNative mode the mixed precision of a cell around would apply to them, and after an error in such a cell it
    would apply for ever. It is a class, because every call of every cell enters it and a generator would take three
    times as long. After an error it resets nothing, as `nn.Cell` does: MindSpore may have cleared its stack, and would
    end the process.
    """

    def __enter__(self) -> None:
        _pynative_executor.set_mixed_precision_type(MixedPrecisionType.NOTSET)

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            _pynative_executor.set_mixed_precision_type(MixedPrecisionType.NOTSET, False)


_own_precision = _OwnPrecision()


class Configured(nn.Cell):  # type: ignore[misc]
    """A cell that can be made from a model's configuration.

    Mixed precision (``mindspore.amp``, ``to_float``) does not change it: its operators have the dtypes of their
    contract.

    Args:
        stop_gradient: whether a gradient ends at the cell's outputs. Otherwise it raises NotImplementedError, because
            the operators have no gradient.

    Raises:
        TypeError: stop_gradient is not a bool.
    """

    _model_arguments: ClassVar[tuple[str, ...]] = ()
    """The arguments that a model's configuration gives."""

    def __init__(self, stop_gradient: bool) -> None:
        super().__init__()
        if not isinstance(stop_gradient, bool):
            raise TypeError(f"{type(self).__name__}: stop_gradient must be a bool, got {stop_gradient!r}")
        self.stop_gradient = stop_gradient

    @classmethod
    def from_config(cls: type[_Cell], config: ModelConfig, **arguments: Any) -> _Cell:
        """Makes the cell for a model: epsilons, softmax scale, heads and selected keys are those of `config`.

        Args:
            config: the model's, see `ModelConfig.from_json`.
            arguments: the cell's other arguments, by name. They may override one that `config` gives, such as ``n_q``
                on a tensor-parallel rank, which holds a part of the heads.

        Raises:
            TypeError: `config` is not a `ModelConfig`, or an argument is missing or unknown.
        """
        if not isinstance(config, ModelConfig):
            raise TypeError(f"{cls.__name__}: config must be a ModelConfig, got {type(config).__name__}")
        fields = {"topk": "selected_count"}
        given = {name: getattr(config, fields.get(name, name)) for name in cls._model_arguments}
        return cls(**{**given, **arguments})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _own_precision:
            try:
                return super().__call__(*args, **kwargs)
            except RuntimeError:
                forget_all(self)  # the kernel library hears of no failure on Ascend, nor of MindSpore's own operators
                raise

    def add_flags(self, **flags: Any) -> Any:
        """`nn.Cell.add_flags` without the flags of mixed precision, which make a graph cast weights and scales."""
        return super().add_flags(**{name: flag for name, flag in flags.items() if name not in MIXED_PRECISION})

    def outputs(self, tensors: _Outputs) -> _Outputs:
        """The tensors that `construct` returns, without a gradient if `stop_gradient` is set."""
        if self.stop_gradient:
            tensors = ms.ops.stop_gradient(tensors)
        return tensors


# Keeps mindspore.amp's O1, which rewrites the source of a network's cells, away from these.
namespace._subtree_black_list.append(Configured)


class Checked(Configured):
    """A cell that checks its weights and caches at each call from Python.

    MindSpore lets an operator check them only when it compiles a graph, and `set_inputs` hides them even then. A cell
    inside another one's graph, or under ``mindspore.jit``, is not called: MindSpore compiles its `construct`.

    Args:
        operator: the operator that writes the caches.
        stop_gradient: see `Configured`.
    """

    def __init__(self, operator: str, stop_gradient: bool) -> None:
        super().__init__(stop_gradient)
        self._operator = operator
        self._require_caches = CacheCheck(operator, list(inspect.signature(self.construct).parameters))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        target = device_target()
        for holder in self._holders():
            holder.require_layout(target)
        self._require_caches(target, args, kwargs)
        return super().__call__(*args, **kwargs)

    def _holders(self) -> list[Weighted]:
        """The cells with weights of their own: this one, or those in it, in order."""
        return [holder for cell in self._cells.values() if isinstance(cell, Checked) for holder in cell._holders()]

    def set_weights(self, arrays: Mapping[str, Array]) -> None:
        """Sets all weights, laid out for the device target (`weights.prepare`).

        Args:
            arrays: the weights under the contract's names, row-major, bfloat16 as bits in uint16. They are copied.

        Raises:
            TypeError, ValueError: a weight is missing or unknown, or its dtype or shape is wrong. Nothing is set then.
        """
        holders = self._holders()
        weights.check(arrays, [name for holder in holders for name in holder.names], holders[0].n_q)
        for holder in holders:
            holder.set_own_weights(arrays)

    def get_weights(self) -> dict[str, Array]:
        """Copies of the weights, as `set_weights` takes them."""
        return {name: array for holder in self._holders() for name, array in holder.own_weights().items()}

    def save(self, path: str | Path) -> None:
        """Writes the weights to a safetensors file, row-major, under the contract's names."""
        weights.save(path, self.get_weights())


class Loaded(Checked):
    """A cell that takes its weights from checkpoints of a whole model."""

    _load: ClassVar[Callable[..., dict[str, Array]]]
    """The function of `weights` that reads them."""

    def load(
        self,
        paths: weights.Paths | weights.Checkpoint,
        *,
        prefix: str = "",
        layer: int | None = None,
        heads: range | None = None,
        allow_unknown: bool = False,
    ) -> None:
        """Reads the weights from a checkpoint, in any format of docs/checkpoints.md, or from a file of `save`.

        Args:
            paths, prefix, layer, heads, allow_unknown: see `weights.load_layer`.

        Raises:
            KeyError, TypeError, ValueError, OSError: as `weights.load_layer`, or the checkpoint's number of heads
                differs from the cell's. Nothing is set then.
        """
        arguments = {"prefix": prefix, "layer": layer, "heads": heads, "allow_unknown": allow_unknown}
        self.set_weights(type(self)._load(paths, **arguments))


class Weighted(Checked):
    """A cell that owns the weights of one operator: Parameters, zero until they are set.

    Args:
        operator: the operator that takes them.
        names: the names of the weights, in order.
        n_q: query heads.
        stop_gradient: see `Configured`.

    Raises:
        TypeError, ValueError: n_q is not an int of 1..128.
    """

    def __init__(self, operator: str, names: tuple[str, ...], n_q: int = N_Q, stop_gradient: bool = False) -> None:
        super().__init__(operator, stop_gradient)
        if not isinstance(n_q, int) or isinstance(n_q, bool):
            raise TypeError(f"{type(self).__name__}: n_q must be an int, got {n_q!r}")
        if not 1 <= n_q <= N_Q:
            raise ValueError(f"{type(self).__name__}: n_q must be in [1, {N_Q}], got {n_q}")
        self.names = names
        self.n_q = n_q
        self._layout = _Layout(operator, names, ms.get_context("device_target"))
        code = _LAYOUTS.get(self._layout.target, 0)  # the operators refuse other targets
        mark = Parameter(Tensor([code], ms.int32), name="layout", requires_grad=False)
        self.insert_param_to_cell("layout", _guarded(mark, _Mark, self._layout, "layout"))
        for arg in op_info.load(operator).inputs:
            if arg.name in names:
                zeros = np.zeros(weights.shape_of(arg.name, n_q), arg.np_dtype)
                weight = Parameter(weights.to_tensor(zeros), name=arg.name, requires_grad=False)
                self.insert_param_to_cell(arg.name, _guarded(weight, _Weight, self._layout, arg.name))

    def _holders(self) -> list[Weighted]:
        return [self]

    def set_own_weights(self, arrays: Mapping[str, Array]) -> None:
        """Sets this cell's weights from `arrays`, which have been checked."""
        target = ms.get_context("device_target")
        self.layout.set_data(Tensor([_LAYOUTS[target]], ms.int32))
        for name in self.names:
            getattr(self, name).set_data(weights.to_tensor(weights.prepare(name, arrays[name], target)))

    def own_weights(self) -> dict[str, Array]:
        """Row-major copies of this cell's weights."""
        arrays = {name: weights.to_array(getattr(self, name)) for name in self.names}
        return {name: weights.restore(name, array, self._layout.target) for name, array in arrays.items()}

    def require_layout(self, target: str) -> None:
        """Raises ValueError if the weights are not laid out for a device target. Ends the loading of a checkpoint."""
        self._layout.settle()
        if self._layout.target != target:
            name = op_info.load(self._operator).packable[0]
            text = f"is laid out for {self._layout.target}, and the device target is {target} now"
            hint = "make the cell, or set its weights, after mindspore.set_device"
            raise ValueError(f"{self._operator}: {name} {text}: {hint}")


class _Layout:
    """What the weights of a cell are laid out for, and which of them a checkpoint may set.

    A MindSpore checkpoint holds Parameters as they are, and sets them one by one in the order in which the cell has
    them. The mark, which tells their layout, comes first. If it is right, each weight may be set once, in that order.
    The layout of a weight that comes without a mark is unknown, and its numbers would be misread.
    """

    def __init__(self, operator: str, names: tuple[str, ...], target: str) -> None:
        self.target = target
        self._operator = operator
        self._names = names
        self._expected: list[str] = []
        self._set: set[str] = set()
        self._next_target = target

    def expect(self, code: int) -> None:
        """Takes a checkpoint's mark, before its weights. Raises ValueError if they are laid out for another target."""
        target = ms.get_context("device_target")
        if code != _LAYOUTS.get(target):
            whose = next((name for name, known in _LAYOUTS.items() if known == code), None)
            text = f"laid out for {whose}" if whose else f"of an unknown layout ({code})"
            hint = "load them where they were saved, and use the cell's save and load, whose files fit every target"
            raise ValueError(f"{self._operator}: layout says that the weights are {text}, expected {target}: {hint}")
        self._expected = list(self._names)
        self._set = set()
        self._next_target = target

    def settle(self) -> None:
        """Ends a checkpoint: weights that it has not set need a new mark."""
        self._expected.clear()

    def admit(self, name: str) -> None:
        """Takes note of a weight that is set from outside. Raises ValueError if no mark has announced it."""
        if name not in self._expected:
            text = "is set without a mark of its layout"
            hint = (
                "use the cell's set_weights or load, or a checkpoint that mindspore.save_checkpoint wrote of the cell"
            )
            raise ValueError(f"{self._operator}: {name} {text}, which differs from row-major: {hint}")
        del self._expected[: self._expected.index(name) + 1]
        self._set.add(name)
        if len(self._set) == len(self._names):
            self.target = self._next_target


class _Guarded(Parameter, Tensor):  # type: ignore[misc]
    """A Parameter of `Weighted`, made by `_guarded`. MindSpore's constructor makes a class with the same two bases.

    Whatever loads a checkpoint (``load_param_into_net``, ``load_state_dict``, ``set_data``) ends in ``assign_value``.
    ``copy_`` and ``ops.assign``, which write into the memory, do not. A clone is a Parameter like any other.
    """

    def __copy__(self) -> Parameter:
        make, arguments = super().__reduce_ex__(4)
        return make(*arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        parameter = super().__deepcopy__(memo)
        return _guarded(parameter, type(self), copy.deepcopy(self.guard, memo), self.guarded_name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        make, arguments = super().__reduce_ex__(protocol)
        return _unpickled, (make, arguments, type(self), self.guard, self.guarded_name)


class _Mark(_Guarded):
    """The mark of the weights' layout."""

    def assign_value(self, value: Tensor) -> Any:
        self.guard.expect(int(value.asnumpy().reshape(-1)[0]))
        return super().assign_value(value)


class _Weight(_Guarded):
    """A weight as it is laid out."""

    def assign_value(self, value: Tensor) -> Any:
        self.guard.admit(self.guarded_name)
        if value.shape != self.shape or value.dtype != self.dtype:
            return super().assign_value(value)  # the operator refuses the weight
        # Copies into the Parameter's memory, because what mindspore.jit has compiled would not see a new one.
        with _own_precision:
            return self.copy_(value)


def _guarded(parameter: Parameter, kind: type[_Guarded], guard: _Layout, name: str) -> Parameter:
    parameter.__class__ = kind
    parameter.guard = guard
    parameter.guarded_name = name
    return parameter


def _unpickled(make: Any, arguments: Any, kind: type[_Guarded], guard: _Layout, name: str) -> Parameter:
    return _guarded(make(*arguments), kind, guard, name)
