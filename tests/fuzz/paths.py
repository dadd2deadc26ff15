"""The ways into the operators: each runs one trial and raises AssertionError if the contract is broken."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import tolerance
from cases import IN_PLACE, Array, Case, weight_name

from fuzz import judge
from fuzz.draw import GROUP, Trial, generator, group
from fuzz.spoil import KINDS, bad
from ms_dsv32 import kernel_impl, op_info

_MARGIN = 64  # bytes before and after an array that a kernel writes
_POISON = 0xA5
REFUSALS = (TypeError, ValueError)


class Path(Protocol):
    """A way into what is tried: an operator's name, a seed and an index tell a trial."""

    subjects: tuple[str, ...]

    def draw(self, subject: str, seed: int, index: int) -> tuple[str, str]:
        """Makes a trial ready; its kind, and the trial in words."""

    def run(self) -> None:
        """Runs it. Raises AssertionError if something is wrong."""

    def finish(self) -> Iterator[tuple[str, str]]:
        """What is wrong with all trials together: subject and error."""


class Operators:
    """What the ways into the operators share.

    Args:
        good: by operator, one call in so many is good. It differs because the cost of a good call does.
        threads: of the kernels; by default each group of trials has a number of its own.
    """

    subjects = op_info.names()
    kinds: Sequence[str] = KINDS
    refusals: tuple[type[BaseException], ...] = REFUSALS
    topk_rtol = tolerance.CPU_TOPK_RTOL

    def __init__(self, good: int = 4, threads: int | None = None) -> None:
        self._good = good
        self._threads = threads
        self._trial: Trial | None = None
        self._pools: dict[str, tolerance.Pool] = {}

    def draw(self, subject: str, seed: int, index: int) -> tuple[str, str]:
        shared = group(subject, seed, index // GROUP)
        rng = generator(subject, seed, index // GROUP, index % GROUP)
        # The last trial of a group is a good one, which must be right after the bad ones before it.
        good = index % GROUP == GROUP - 1 or rng.integers(self._good) == 0
        trial = shared.good(rng) if good else bad(shared, rng, self.kinds)
        while not self.takes(trial):
            trial = bad(shared, rng, self.kinds)
        self._trial = dataclasses.replace(trial, threads=self._threads or trial.threads)
        return trial.kind, trial.what

    def run(self) -> None:
        trial = self._trial
        assert trial is not None
        self._set_threads(trial.threads)
        if trial.kind == "good":
            got = self.call(trial.case)
            with tolerance.pooled(self._pools.setdefault(trial.case.operator, tolerance.Pool())):
                judge.good(trial, got, self.topk_rtol)
            return
        before, given, call = self.refused(trial)
        try:
            call()
        except Exception as error:
            judge.refusal(trial, error, self.refusals)
        else:
            assert trial.may_pass, "the call was accepted"
            return
        judge.unchanged(before, judge.contents(given()))

    def finish(self) -> Iterator[tuple[str, str]]:
        for subject, pool in self._pools.items():
            try:
                pool.check(beside=GROUP)  # a token whose rounding flips may be in all trials of its group
            except AssertionError as error:
                yield subject, str(error)

    def _set_threads(self, count: int) -> None:
        if kernel_impl.thread_count() != count:
            kernel_impl.set_thread_count(count)

    def takes(self, trial: Trial) -> bool:
        """Whether a trial reaches the operators this way."""
        return True

    def call(self, case: Case) -> dict[str, Array]:
        """The outputs of a good call."""
        raise NotImplementedError

    def refused(self, trial: Trial) -> tuple[dict[str, bytes], Callable[[], dict[str, Any]], Callable[[], Any]]:
        """The contents of a bad call's inputs, a function that returns the inputs as arrays, and the call."""
        raise NotImplementedError


class Library(Operators):
    """The bare kernels, by NumPy arrays, or by the addresses of arrays that have a margin of poison around them."""

    def call(self, case: Case) -> dict[str, Array]:
        by_address = case.paging.t % 2 == 1
        return poisoned_call(case) if by_address else self._by_name(case)

    def _by_name(self, case: Case) -> dict[str, Array]:
        inputs = case.copy().inputs
        before = judge.contents({n: a for n, a in inputs.items() if n not in IN_PLACE[case.operator]})
        outputs = kernel_impl.call(case.operator, inputs, case.attributes)
        judge.unchanged(before, judge.contents(inputs))
        return dict(zip(case.outputs, outputs, strict=False))  # lse is always there, but only some cases name it

    def refused(self, trial: Trial) -> tuple[dict[str, bytes], Callable[[], dict[str, Any]], Callable[[], Any]]:
        case = trial.case
        call = functools.partial(kernel_impl.call, case.operator, case.inputs, case.attributes)
        return judge.contents(case.inputs), lambda: case.inputs, call


def poisoned_call(case: Case) -> dict[str, Array]:
    """The outputs of a case by a `BoundCall` whose outputs and caches have margins of poison, which must stay."""
    info = op_info.load(case.operator)
    attrs = op_info.bind_attrs(info, case.attributes)
    dtypes = [a.ms_dtype for a in info.inputs if a.name in case.inputs]
    bound = kernel_impl.BoundCall(info.name, [a.shape for a in case.inputs.values()], dtypes, attrs)
    margins: list[tuple[str, Array]] = []

    def with_margins(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = np.full(size + 2 * _MARGIN, _POISON, np.uint8)
        margins.append((name, memory[:_MARGIN]))
        margins.append((name, memory[_MARGIN + size :]))
        return memory[_MARGIN : _MARGIN + size].view(dtype).reshape(shape)

    inputs = {}
    for name, array in case.inputs.items():
        inputs[name] = array
        if name in IN_PLACE[case.operator]:
            inputs[name] = with_margins(name, array.shape, array.dtype)
            inputs[name][...] = array
    outputs = {
        o.name: with_margins(o.name, s, o.np_dtype) for o, s in zip(info.kernel_outputs, bound.out_shapes, strict=True)
    }
    bound([a.ctypes.data for a in (*inputs.values(), *outputs.values())])
    for name, margin in margins:
        assert (margin == _POISON).all(), f"{name}: a kernel wrote beside it"
    outputs |= {output: inputs[cache] for cache, output in IN_PLACE[case.operator].items()}
    return {name: outputs[name] for name in case.outputs}


class MindSpore(Operators):
    """The operators through MindSpore.

    Args:
        mode: "pynative", "graph" or "jit". good, threads: see `Operators`.
    """

    kinds = ("dtype", "shape", "object", "attribute", "value")
    refusals = (*REFUSALS, RuntimeError)  # an error that only a running graph can find is a RuntimeError

    def __init__(self, mode: str, good: int = 3, threads: int | None = None) -> None:
        super().__init__(good, threads)
        self._mode = mode
        if mode == "pynative":
            self.kinds = (*self.kinds, "names")
            self.refusals = REFUSALS

    def takes(self, trial: Trial) -> bool:
        """In a graph, MindSpore itself refuses an int of more than 64 bits, before it asks an operator."""
        ints = (value for value in trial.case.attributes.values() if type(value) is int)
        return self._mode == "pynative" or all(-(2**63) <= value < 2**63 for value in ints)

    def call(self, case: Case) -> dict[str, Array]:
        import calls

        return calls.run(case, self._mode)

    def refused(self, trial: Trial) -> tuple[dict[str, bytes], Callable[[], dict[str, Any]], Callable[[], Any]]:
        import calls
        import mindspore as ms

        from ms_dsv32 import ops, weights

        case = trial.case
        given = {name: _tensor(value) for name, value in case.inputs.items()}

        def call() -> None:
            with calls.mode(self._mode):
                if self._mode == "pynative":
                    getattr(ops, case.operator)(**given, **case.attributes)
                    return
                cell = calls.Call(case.operator, case.attributes)
                results = (cell if self._mode == "graph" else ms.jit(cell))(*given.values())
                for result in results if isinstance(results, tuple) else (results,):
                    result.asnumpy()

        def arrays() -> dict[str, Any]:
            return {n: weights.to_array(t) if isinstance(t, ms.Tensor) else t for n, t in given.items()}

        return judge.contents(arrays()), arrays, call


def _tensor(value: Any) -> Any:
    """A Tensor of an array, or the value itself if MindSpore cannot make a Tensor of it."""
    import calls

    try:
        return calls.tensor(value) if isinstance(value, np.ndarray) else value
    except Exception:  # MindSpore raises several types here
        return value


class Ascend(MindSpore):
    """The operators on device target Ascend. The process must run on a device, or on the virtual one."""

    kinds = (
        "dtype",
        "shape",
        "object",
        "attribute",
    )  # a value outside of its range is skipped there
    topk_rtol = tolerance.ASCEND_TOPK_RTOL

    def __init__(self, mode: str, good: int = 3, threads: int | None = None) -> None:
        import mindspore as ms
        import virtual

        super().__init__(mode, good, threads)
        ms.set_device("Ascend")
        if virtual.running():
            virtual.put("KERNELS", virtual.EMULATOR)

    def call(self, case: Case) -> dict[str, Array]:
        import runs

        # A trial's weights may be packed for the CPU's kernels; the device's layout is made from row-major ones.
        weights = op_info.load(case.operator).packable
        rows = {name: runs.known(weight_name(name), case.n_q) for name in weights}
        return runs.run(case.copy(**rows), self._mode)
