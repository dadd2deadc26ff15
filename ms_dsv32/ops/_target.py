"""What the bridge to MindSpore asks of a device target. ``_cpu`` and ``_ascend`` answer, each for its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from mindspore import Tensor, ops

from ms_dsv32 import kernel_impl, op_info


class Launch(ABC):
    """Calls a kernel in PyNative mode: ``launch(tensors, call)`` returns its outputs.

    Args:
        info: the operator.
        make_custom: makes its ``Custom`` primitive.
        constants: what a call of the primitive passes after the tensors.
        attrs: the kernel's attributes.
    """

    def __init__(
        self,
        info: op_info.OpInfo,
        make_custom: Callable[[], ops.Custom],
        constants: tuple[Any, ...],
        attrs: dict[str, Any],
    ) -> None:
        self._info = info
        self._make_custom = make_custom
        self._constants = constants
        self._prepare(attrs)

    @abstractmethod
    def _prepare(self, attrs: dict[str, Any]) -> None:
        """Makes what all calls share."""

    @abstractmethod
    def __call__(self, tensors: tuple[Tensor, ...], call: kernel_impl.BoundCall) -> Any:
        """Runs one call.

        Args:
            tensors: the inputs, without the optional one where it is left out.
            call: the same call for the kernel library, which has checked its shapes, dtypes and attributes.

        Returns:
            The kernel's output, or a tuple of several.
        """


class Target(Protocol):
    """A device target. `mypy` checks that each module has these functions."""

    @property
    def Launch(self) -> type[Launch]:  # noqa: N802 - a class
        """How a kernel is called in PyNative mode."""

    def require(self, info: op_info.OpInfo, attrs: dict[str, Any]) -> None:
        """Checks that a kernel for these attributes is there.

        Raises:
            ValueError: an attribute has a value that the contract allows and the target lacks.
            RuntimeError: what the kernel needs is not installed.
        """

    def require_graph(self, info: op_info.OpInfo, jit_config: dict[str, str]) -> None:
        """Checks that an operator can run in the graph that is being compiled.

        Args:
            info: the operator.
            jit_config: of the compilation; what it leaves open the context decides.

        Raises:
            RuntimeError: it cannot.
        """

    def require_cache(self, info: op_info.OpInfo, name: str, tensor: Tensor) -> None:
        """Checks that what a graph writes into an argument will be there afterwards.

        Args:
            info: the operator.
            name: of the cache.
            tensor: the argument of the graph.

        Raises:
            ValueError: MindSpore would hand a copy to the kernel.
        """

    def building(self, info: op_info.OpInfo) -> AbstractContextManager[None]:
        """What the ``Custom`` primitive is made under."""

    def type_name(self, info: op_info.OpInfo) -> str:
        """The operator's name for MindSpore, which finds the kernel by it."""

    def reg_info(self, info: op_info.OpInfo) -> dict[str, Any] | None:
        """MindSpore's registration of the operator; None if the primitive's attributes say all."""

    def left_out(self) -> Tensor | None:
        """Stands for an optional tensor that is left out; one for each primitive, as a graph owns its constants."""

    def constants(self, info: op_info.OpInfo, attrs: dict[str, Any]) -> tuple[Any, ...]:
        """What a call of the primitive passes after the tensors."""
