"""Compiled graphs: unknown token counts, ways to compile, attributes and configurations as constants, threads."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cases
import mindspore as ms
import pytest
import tolerance
from calls import Call, arrays, bare, mode, placeholders, run, tensors
from cases import make
from mindspore import Tensor, nn

from ms_dsv32 import op_info, ops, weights
from ms_dsv32.config import MlaTileConfig


def same_cache_sizes(operator: str, split: bool) -> list[cases.Case]:
    """Cases of different b and s1 over caches and block tables of one size."""
    sizes = ((1, 1), (2, 2), (1, 4), (3, 1), (0, 1), (2, 2))
    made = [make(operator, b, s1, [129 + s1, *[4] * (b - 1)][:b], n_q=2, split=split) for b, s1 in sizes]
    blocks = max(c.paging.block_num for c in made)
    return [cases.with_cache_size(case, blocks, columns=3) for case in made]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("operator", op_info.names())
def test_one_graph_serves_every_number_of_tokens(operator: str, split: bool) -> None:
    several = same_cache_sizes(operator, split)
    call = Call(operator, several[0].attributes)
    call.set_inputs(*placeholders(several[0]))
    with mode("graph"):
        for case in several:
            if split and case.paging.b == 0:
                continue  # [0, s1] with an unknown s1 is no shape that MindSpore infers
            got, want = arrays(case.outputs, call(*tensors(case).values())), bare(case)
            for name in want:
                tolerance.assert_same_bits(name, got[name], want[name])


def test_contradictions_of_unknown_axes_are_found_at_run_time() -> None:
    case = make("mla_prolog_quant", 2, 1, 5, n_q=1)
    call = Call("mla_prolog_quant", {})
    call.set_inputs(*placeholders(case))
    inputs = tensors(case)
    inputs["cos"] = Tensor(shape=(3, 64), dtype=ms.bfloat16, init=ms.common.initializer.Zero()).init_data()
    with mode("graph"), pytest.raises(RuntimeError, match=r"mla_prolog_quant: cos has shape \(3, 64\)"):
        weights.to_array(call(*inputs.values())[0])


@pytest.mark.parametrize(
    "options",
    [{"capture_mode": "ast"}, {"jit_level": "O0"}, {"jit_level": "O1"}, {"dynamic": 1}],
    ids=str,
)
@pytest.mark.parametrize("operator", ["mla_prolog_quant", "sparse_flash_attention_quant"])
def test_ways_to_compile(operator: str, options: dict[str, Any]) -> None:
    case = make(operator, 2, 2, n_q=2)
    want = bare(case)
    compiled = ms.jit(Call(operator, case.attributes), **options)
    for _ in range(2):
        inputs = tensors(case)
        got = arrays(case.outputs, compiled(*inputs.values()))
        for name in want:
            tolerance.assert_same_bits(name, got[name], want[name])
        for cache, output in cases.IN_PLACE[operator].items():
            tolerance.assert_same_bits(cache, weights.to_array(inputs[cache]), want[output])


class TwiceUnused(nn.Cell):
    def construct(self, *inputs):
        ops.mla_prolog_quant(*inputs)
        return ops.mla_prolog_quant(*inputs)[0]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="MindSpore captures bytecode up to Python 3.11 only")
def test_bytecode_capture_loses_writes_and_is_refused() -> None:
    case = make("mla_prolog_quant", 1, 1, 3, n_q=1)
    inputs = tensors(case)
    call = ms.jit(TwiceUnused(), capture_mode="bytecode")
    text = re.escape("mla_prolog_quant: mindspore.jit(capture_mode='bytecode') loses writes into caches")
    for _ in range(2):
        with pytest.raises(RuntimeError, match=text):
            call(*inputs.values())
    for cache in cases.IN_PLACE["mla_prolog_quant"]:
        tolerance.assert_same_bits(cache, weights.to_array(inputs[cache]), case.inputs[cache])


TRACE = """
import sys
sys.path[:0] = {path}
import cases
import mindspore as ms
import numpy as np
from calls import bare, tensors
from cases import make
from ms_dsv32 import ops
def read(*inputs):
    return ops.lightning_indexer_quant(*inputs)
reader = ms.jit(read, capture_mode="trace")
for seed in (0, 0, 1, 2):
    case = make("lightning_indexer_quant", 1, 2, seed=seed)
    got = reader(*tensors(case).values()).asnumpy()
    print("read", np.array_equal(got, bare(case)["topk_indices"]), flush=True)
def read_ragged(*inputs):
    return ops.lightning_indexer_quant(*inputs)
case = cases.ragged(case, [2])
got = ms.jit(read_ragged, capture_mode="trace")(*tensors(case).values()).asnumpy()
print("read", np.array_equal(got, bare(case)["topk_indices"]), flush=True)
case = make("mla_prolog_quant", 1, 1, 3, n_q=1)
inputs = list(tensors(case).values())
def call(*inputs):
    return ops.mla_prolog_quant(*inputs)[0]
try:
    ms.jit(call, capture_mode="trace")(*inputs)
except RuntimeError as error:
    print(error, flush=True)
print(ops.mla_prolog_quant(*inputs)[0].asnumpy().shape, flush=True)
"""
TRACE_ERROR = """
import sys
sys.path[:0] = {path}
import mindspore as ms
import numpy as np
from calls import tensors
from cases import make
from ms_dsv32 import ops
def read(*inputs):
    return ops.lightning_indexer_quant(*inputs)
inputs = list(tensors(make("lightning_indexer_quant", 1, 2)).values())
try:
    ms.jit(read, capture_mode="trace")(*inputs[:3], ms.Tensor(np.zeros((1, 2), np.int8)), *inputs[4:])
except ValueError as error:
    print(error, flush=True)
case = make("mla_prolog_quant", 1, 1, 3, n_q=1)
print(ops.mla_prolog_quant(*tensors(case).values())[0].asnumpy().shape, flush=True)
"""


@pytest.mark.slow
def test_trace_capture_reads_but_goes_on_with_the_first_caches_and_is_refused(tmp_path: Path) -> None:
    # In a process of its own: MindSpore does not recover from an exception under this capture mode.
    script = tmp_path / "trace.py"
    script.write_text(TRACE.format(path=[p for p in sys.path if p]), encoding="utf-8")
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert result.stdout.count("read True") == 5, result.stdout + result.stderr
    assert "mla_prolog_quant: mindspore.jit(capture_mode='trace') loses writes into caches" in result.stdout
    assert "(1, 1536)" in result.stdout, result.stderr


@pytest.mark.slow
def test_an_error_ends_the_trace_in_which_it_comes(tmp_path: Path) -> None:
    """MindSpore leaves it open, and the next operator that writes would be refused as a part of it."""
    script = tmp_path / "trace.py"
    script.write_text(TRACE_ERROR.format(path=[p for p in sys.path if p]), encoding="utf-8")
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert result.stdout.startswith("lightning_indexer_quant: k_cache has shape (1, 2), expected "), result.stderr
    assert result.stdout.endswith("\n(1, 1536)\n"), result.stdout + result.stderr


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="MindSpore captures bytecode up to Python 3.11 only")
def test_bytecode_capture_of_an_operator_that_only_reads() -> None:
    case = make("lightning_indexer_quant", 1, 2)
    call = ms.jit(Call(case.operator, case.attributes), capture_mode="bytecode")
    for _ in range(2):
        got = weights.to_array(call(*tensors(case).values()))
        tolerance.assert_same_bits("topk_indices", got, bare(case)["topk_indices"])


def test_a_direct_call_while_the_mode_is_graph() -> None:
    case = make("mla_prolog_quant", 2, 2, n_q=2)
    inputs = tensors(case)
    want = bare(case)
    with mode("graph"):
        results = ops.mla_prolog_quant(*inputs.values())
        assert all(r is inputs[c] for r, c in zip(results[4:], ("kv_cache", "kr_cache", "k_scale_cache"), strict=True))
        for name, array in arrays(case.outputs, results).items():
            tolerance.assert_same_bits(name, array, want[name])
        bad = [*inputs.values()]
        bad[0] = bad[0][:1]
        with pytest.raises(ValueError, match="mla_prolog_quant: cos has shape"):
            ops.mla_prolog_quant(*bad)


MODULE_CONFIG = MlaTileConfig(tile_bs=4)


class Configurations(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.tile_config = MlaTileConfig(tile_bs=16)

    def construct(self, *inputs):
        a = ops.mla_prolog_quant(*inputs, tile_config=self.tile_config)
        b = ops.mla_prolog_quant(*inputs, tile_config=MODULE_CONFIG)
        c = ops.mla_prolog_quant(*inputs, tile_config=MlaTileConfig(tile_bs=2))
        d = ops.mla_prolog_quant(*inputs, tile_config=None, cache_mode="PA_BSND")
        return a[0], b[0], c[0], d[0]


@pytest.mark.parametrize("how", ["pynative", "graph", "jit"])
def test_configurations_in_a_graph(how: str) -> None:
    case = make("mla_prolog_quant", 1, 1, 3, n_q=1)
    want = bare(case)["q_norm_out"]
    cell = Configurations()
    with mode(how):
        results = (ms.jit(cell) if how == "jit" else cell)(*tensors(case).values())
    for result in results:
        tolerance.assert_same_bits("q_norm_out", weights.to_array(result), want)


class Keywords(nn.Cell):
    def construct(self, q_int8, q_scale, weights, **cache):
        return ops.lightning_indexer_quant(q_int8, q_scale, weights=weights, **cache)


@pytest.mark.parametrize("how", ["pynative", "graph"])
def test_tensors_may_be_given_by_name(how: str) -> None:
    case = make("lightning_indexer_quant", 1, 2)
    inputs = tensors(case)
    names = list(inputs)
    with mode(how):
        result = Keywords()(*(inputs[n] for n in names[:3]), **{n: inputs[n] for n in names[3:]})
    tolerance.assert_same_bits("topk_indices", weights.to_array(result), bare(case)["topk_indices"])


class Branch(nn.Cell):
    def construct(self, flag, *inputs):
        if flag > 0:
            return ops.mla_prolog_quant(*inputs)[0]
        return ops.mla_prolog_quant(*inputs)[0]


def test_compilation_on_another_python_thread() -> None:
    """The guard against lost writes tells the compiler's threads from Python's."""
    case = make("mla_prolog_quant", 1, 1, 3, n_q=1)
    want = bare(case)["q_norm_out"]
    done: dict[str, Any] = {}

    def work() -> None:
        ms.set_context(mode=ms.GRAPH_MODE)
        done["result"] = weights.to_array(Call("mla_prolog_quant", {})(*tensors(case).values())[0]).copy()
        try:
            Branch()(Tensor(1, ms.int32), *tensors(case).values())
        except RuntimeError as error:
            done["error"] = str(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    tolerance.assert_same_bits("q_norm_out", done["result"], want)
    assert "must be a Parameter inside a branch or loop" in done["error"]


def test_calls_from_several_threads() -> None:
    made = [make("mla_prolog_quant", 2, 1, 5, n_q=1, seed=seed) for seed in range(4)]
    wants = [bare(case) for case in made]
    problems: list[Exception] = []

    def work(case: cases.Case, want: dict[str, Any]) -> None:
        try:
            for _ in range(5):
                got = run(case, "pynative")
                for name in want:
                    tolerance.assert_same_bits(name, got[name], want[name])
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(made, wants, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


BUSY = """
import os, signal, sys, time
sys.path[:0] = {path}
import busy
from calls import tensors
from cases import make
from ms_dsv32 import ops
case = make("lightning_indexer_quant", 1, 1)
inputs = list(tensors(case).values())
def call():
    return ops.lightning_indexer_quant(*inputs, **case.attributes).asnumpy()
want = call()
"""
FORK = """
failed = 0
with busy.calling(call, threads=2):
    for _ in range(20):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(not (call() == want).all())
        failed += os.waitpid(child, 0)[1] != 0
print("failed", failed)
"""
SIGNAL = """
handled = []
signal.signal(signal.SIGALRM, lambda *_: handled.append((call() == want).all()))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
end = time.monotonic() + 3
while time.monotonic() < end:
    assert (call() == want).all()
signal.setitimer(signal.ITIMER_REAL, 0)
print("handled", len(handled) > 100 and all(handled))
"""


@pytest.mark.parametrize(("code", "told"), [(FORK, "failed 0"), (SIGNAL, "handled True")], ids=["fork", "signal"])
def test_what_interrupts_a_call_may_call(code: str, told: str) -> None:
    path = [str(folder) for folder in (Path(__file__).parents[1], Path(__file__).parent)]
    process = subprocess.run(
        [sys.executable, "-c", BUSY.format(path=path) + code], capture_output=True, text=True, timeout=120, check=False
    )
    assert process.stdout.splitlines()[-1:] == [told], process.stdout + process.stderr


def test_an_axis_count_that_is_unknown_is_refused() -> None:
    case = make("lightning_indexer_quant", 1, 1)
    call = Call("lightning_indexer_quant", case.attributes)
    call.set_inputs(Tensor(shape=None, dtype=ms.int8), *placeholders(case)[1:])
    with (
        mode("graph"),
        pytest.raises(ValueError, match="q_int8 has an unknown rank, expected 3 axes"),
    ):
        call(*tensors(case).values())


def test_the_kernel_for_an_attribute_set_is_made_once() -> None:
    case = make("mla_prolog_quant", 1, 1, 3, n_q=1)
    inputs = list(tensors(case).values())
    from ms_dsv32.ops.mla_prolog_quant import _operator

    kernels = [_operator(1e-5, 1e-5, "PA_BSND", config, None, "ND", *inputs)[0] for config in (None, MlaTileConfig())]
    again = [_operator(1e-5, 1e-5, "PA_BSND", config, None, "ND", *inputs)[0] for config in (None, MlaTileConfig())]
    assert all(a is b for a, b in zip(kernels, again, strict=True))
