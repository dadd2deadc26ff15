"""Streams, several graphs over one set of caches, and many steps: on Ascend everything runs late and in its own order.

A graph runs on the default stream, and so do our operators. It waits for all other streams first. A user's stream
does not wait for a graph: that takes `Stream.wait_stream(default_stream())` or an event. PyNative calls do it by
themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cases
import mindspore as ms
import pytest
import tolerance
import virtual
from calls import mode
from mindspore import Tensor
from mindspore.runtime import Event, Stream, StreamCtx, default_stream
from runs import attributes_of, caches_of, inputs_of, run
from sequences import CACHES, SCALE, Sequences, step_weights

from ms_dsv32 import cells, golden, ops, weights


def attention() -> tuple[cases.Case, list[Tensor], Callable[..., Tensor]]:
    """A call of the attention: case, inputs on the device, and the function of its inputs."""
    case = cases.attention_case(2, 2, 2, [5, 130], topk=16)
    attributes = attributes_of(case)

    def call(*inputs: Tensor) -> Tensor:
        return ops.sparse_flash_attention_quant(*inputs, **attributes)

    return case, [t.to("Ascend") for t in inputs_of(case).values()], call


def by_wait_stream(stream: Stream) -> None:
    stream.wait_stream(default_stream())


def by_event(stream: Stream) -> None:
    event = Event()
    event.record(default_stream())
    event.wait(stream)


def by_synchronising(stream: Stream) -> None:
    default_stream().synchronize()


# A kernel in the emulator takes a hundred times as long as the longest delay of the reading stream, so a wait that is
# missing shows each time.
@pytest.mark.parametrize("wait", [by_wait_stream, by_event, by_synchronising], ids=lambda f: f.__name__)
@pytest.mark.parametrize("how", ["pynative", "jit", "graph"])
def test_a_users_stream_that_waits_reads_the_result(how: str, wait: Callable[[Stream], None]) -> None:
    case, inputs, call = attention()
    want = 2 * golden.bf16_to_float32(run(case, "pynative")["attention_out"])
    stream = Stream()
    function = ms.jit(call) if how == "jit" else call
    cell = cells.SparseFlashAttention(
        case.paging.block_table.shape[1], 2, softmax_scale=case.attributes["softmax_scale"], topk=16
    )
    for _ in range(2):
        with StreamCtx(stream):
            if how == "graph":
                with mode("graph"):
                    result = cell(*inputs)
            else:
                result = function(*inputs)
            wait(stream)
            twice = result.astype(ms.float32) + result.astype(ms.float32)
        stream.synchronize()
        tolerance.assert_same_bits("attention_out", twice.asnumpy(), want)


def test_a_users_stream_keeps_the_order_of_its_calls() -> None:
    case, inputs, call = attention()
    want = 2 * golden.bf16_to_float32(run(case, "pynative")["attention_out"])
    stream, kept = Stream(), []
    for _ in range(4):
        with StreamCtx(stream):
            result = call(*inputs)
            twice = result.astype(ms.float32) + result.astype(ms.float32)
        kept.append(result)  # memory that is used again would hold the right values already
        stream.synchronize()
        tolerance.assert_same_bits("attention_out", twice.asnumpy(), want)


@pytest.mark.parametrize("how", ["pynative", "jit"])
def test_an_operator_waits_for_what_streams_made(how: str) -> None:
    """The query is made on one stream; its caches on another."""
    case, inputs, call = attention()
    want = run(case, "pynative")["attention_out"]
    first, second = Stream(), Stream()
    function = ms.jit(call) if how == "jit" else call
    zero = ms.ops.zeros(inputs[0].shape, ms.bfloat16)
    nothing = ms.ops.zeros(inputs[2].shape, ms.int8)
    kept = []
    ms.runtime.synchronize()  # the zeros are made on the default stream, for which the others do not wait
    for _ in range(8):
        with StreamCtx(first):
            query = inputs[0] + zero
        with StreamCtx(second):
            keys = inputs[2] + nothing
        kept.append((query, keys))  # memory that is used again would hold the right values already
        result = function(query, inputs[1], keys, *inputs[3:])
        tolerance.assert_same_bits("attention_out", weights.to_array(result), want)


def test_a_write_on_one_stream_is_read_on_another() -> None:
    writer, reader = cases.mla_prolog_case(1, 1, 1, 5), cases.attention_case(1, 1, 1, 5, topk=8)
    written = run(writer, "pynative")
    names = list(cases.IN_PLACE["mla_prolog_quant"])
    keys = list(reader.inputs)[2:5]
    seen = {k: written[f"{n}_out"].reshape(reader.inputs[k].shape) for k, n in zip(keys, names, strict=True)}
    want = run(reader.copy(**seen), "pynative")["attention_out"]
    one, other = Stream(), Stream()
    for _ in range(4):
        given, read = ({n: t.to("Ascend") for n, t in inputs_of(case).items()} for case in (writer, reader))
        caches = [given[n] for n in names]
        kept = list(read.values())
        nothing = ms.ops.zeros(caches[0].shape, ms.int8)
        ms.runtime.synchronize()
        with StreamCtx(one):
            ops.mla_prolog_quant(*given.values(), **attributes_of(writer))
            one.wait_stream(default_stream())
        event = one.record_event()
        other.wait_event(event)
        with StreamCtx(other):
            copied = caches[0] + nothing
            result = ops.sparse_flash_attention_quant(*kept[:2], *caches, *kept[5:], **attributes_of(reader))
        other.synchronize()
        tolerance.assert_same_bits("kv_cache", weights.to_array(copied), written["kv_cache_out"])
        tolerance.assert_same_bits("attention_out", weights.to_array(result), want)


def step_of(n_q: int, how: str) -> Callable[..., Tensor]:
    step = cells.SparseAttentionStep(3, n_q, softmax_scale=SCALE)
    step.prolog.set_weights(step_weights(n_q))
    if how == "dynamic":
        step.set_dynamic_tokens(6)
    return ms.jit(step) if how == "jit" else step  # type: ignore[no-any-return]


def assert_caches(caches: list[Tensor], sequences: Sequences) -> None:
    """All rows, so those that no step has written too."""
    for name, cache, want in zip(CACHES, caches, sequences.caches, strict=True):
        tolerance.assert_same_bits(name, weights.to_array(cache), want)


def poisoned(sequences: Sequences) -> Sequences:
    for array in sequences.caches:
        array[:] = cases.POISON[array.dtype.type]
    return sequences


@pytest.mark.cpu_kernels
def test_two_cells_and_four_ways_over_one_set_of_caches() -> None:
    """In turn, each with its own graph; no call is waited for but at the end of a round."""
    ways = {f"{how} {i}": step_of(2, how) for i in range(2) for how in ("pynative", "graph", "dynamic", "jit")}
    sequences = poisoned(Sequences(2, 2, 6, seed=3))
    caches = caches_of(sequences.caches)
    for round_ in range(3):
        pending = []
        for name, step in ways.items():
            inputs = sequences.advance(1 + round_ % 2)
            want = sequences.bare(inputs)
            with mode("graph" if name.startswith(("graph", "dynamic")) else "pynative"):
                pending.append((f"{name} at {sequences.lengths}", step(*map(weights.to_tensor, inputs), *caches), want))
        for name, got, want in pending:
            tolerance.assert_same_bits(name, weights.to_array(got), want)
    assert_caches(caches, sequences)


@pytest.fixture(params=[1, 2, 3])
def delays(request: pytest.FixtureRequest, only_virtual: None) -> Iterator[None]:
    """Other and longer delays."""
    with virtual.option("SEED", request.param), virtual.option("DELAY_US", 1000):
        yield


def decode(how: str, steps: int, stream: Stream | None = None) -> None:
    """Steps of one token each, over block boundaries; the bits of the bare kernels."""
    step = step_of(2, how)
    sequences = poisoned(Sequences(2, 2, 6, seed=5))
    caches = caches_of(sequences.caches)
    pending = []
    for i in range(steps):
        arrays = sequences.advance(100 if i == 0 else 1)
        want = sequences.bare(arrays)
        inputs = [weights.to_tensor(array) for array in arrays]
        with mode("pynative" if how in ("pynative", "jit") else "graph"):
            if stream is None:
                got = step(*inputs, *caches)
            else:
                with StreamCtx(stream):
                    got = step(*inputs, *caches)
        pending.append((sequences.lengths.tolist(), got, want))
        if len(pending) == 8 or i == steps - 1:  # steps are under way while the next are given
            for lengths, result, expected in pending:
                tolerance.assert_same_bits(f"attention_out at {lengths}", weights.to_array(result), expected)
            pending = []
    assert_caches(caches, sequences)


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("how", ["pynative", "dynamic"])
def test_200_decode_steps(how: str) -> None:
    decode(how, 200)


@pytest.mark.cpu_kernels
def test_decoding_under_other_delays(delays: None) -> None:
    decode("jit", 30, Stream())
