"""The rivals compute what the operators compute, and the roofline is what its formula says. Nothing here is timed."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cases
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # `import benchmarks`, which is not installed

from benchmarks import checks, limits, report, run, shapes, worker  # noqa: E402
from benchmarks.contender import Contender  # noqa: E402
from benchmarks.shapes import (  # noqa: E402
    ATTENTION,
    EPILOG,
    FUSED,
    INDEXER,
    INDEXER_PROLOG,
    MLA,
    OPS,
    PROJECTIONS,
    STEP,
    Shape,
    Work,
)

RESULTS = ROOT / "benchmarks" / "results"
COMMITTED = sorted(RESULTS.glob("*/benchmarks*.json"))
SMALL = {
    **{op: Shape(op, 2, 1, 128) for op in PROJECTIONS},
    **{op: Shape(op, 1, 2, 4096) for op in (INDEXER, ATTENTION, STEP)},
}


def test_every_operator_is_timed() -> None:
    cases.assert_all_listed(OPS)


def _check_contenders(family: str, shape: Shape, names: list[str]) -> None:
    """All contenders of a family, or those named, against golden at every token."""
    case = shapes.make_case(shape)
    contenders = importlib.import_module(f"benchmarks.{family}").contenders(shape, case, lambda: None)
    seen = []
    for contender in contenders:
        seen.append(contender.name)
        checks.forget(case)
        contender.before()
        checks.check(shape, case, contender.arrays(contender.call()), range(shape.t))
        if seen == names:  # the next one, torch.compile, takes a C++ compiler some ten seconds
            break
    assert seen == names


@pytest.fixture
def rivals_torch() -> ModuleType:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'ms_dsv32[bench]'")
    return importlib.import_module("benchmarks.rivals_torch")


COMPILED = (ATTENTION, EPILOG, STEP)
"""Operators that hold every function that is compiled: the step has both prologs, the indexer and the attention."""


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_torch_is_right(rivals_torch: ModuleType, op: str) -> None:
    _check_contenders("rivals_torch", SMALL[op], ["torch", "torch.compile"] if op in COMPILED else ["torch"])


@pytest.mark.slow
def test_a_wrong_way_is_no_choice(rivals_torch: ModuleType) -> None:
    def check(value: int) -> None:
        assert value == 1, f"{value} is not 1"

    def slow() -> int:
        time.sleep(0.02)
        return 1

    tournament = rivals_torch.Tournament(lambda: None)
    ways = {"wrong": lambda: 2, "slow": slow, "right": lambda: 1}
    assert tournament.fastest("sum", 4, ways, check) == "right"
    assert tournament.fastest("sum", 5, {"wrong": ways["wrong"], "slow": slow}, check) == "slow"
    with pytest.raises(AssertionError, match=r"sum \(6 rows\): no way of torch is right: a: 2 is not 1; b: 3 is not 1"):
        tournament.fastest("sum", 6, {"a": lambda: 2, "b": lambda: 3}, check)
    assert tournament.note() == "sum (4 rows): right; sum (5 rows): slow"


@pytest.mark.slow
def test_scores_rounded_to_bf16_are_no_way_of_attention(
    rivals_torch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = shapes.make_case(SMALL[ATTENTION])
    args = tuple(rivals_torch.to_torch(v) for n, v in case.inputs.items() if n not in ("block_table", "kv_act_seqs"))
    rounded = {"rounded": lambda a, b: rivals_torch.rounded_product(a, b).float()}
    both = {**rounded, "fp32": rivals_torch.fp32_product}
    monkeypatch.setattr(rivals_torch, "unrounded_products", lambda: both)
    # What is fast does not count here: the wrong way would win by the clock.
    monkeypatch.setattr(rivals_torch, "_seconds", lambda call, flush, runs: 0.0)
    tournament = rivals_torch.Tournament(lambda: None)
    rivals_torch._attention(case, tournament, False, args)
    assert "attention products (2 rows): fp32, " in tournament.note()
    monkeypatch.setattr(rivals_torch, "unrounded_products", lambda: rounded)
    with pytest.raises(AssertionError, match="no way of torch is right: rounded, rounded: attention_out"):
        rivals_torch._attention(case, rivals_torch.Tournament(lambda: None), False, args)


@pytest.mark.slow
@pytest.mark.mindspore
@pytest.mark.parametrize("op", OPS)
def test_mindspores_own_operators_are_right(op: str) -> None:
    _check_contenders("rivals_mindspore", SMALL[op], ["mindspore"])


@pytest.mark.slow
@pytest.mark.mindspore
@pytest.mark.parametrize("op", OPS)
def test_our_contenders_are_right(op: str) -> None:
    _check_contenders("ours", SMALL[op], ["kernel", "pynative", "graph", "jit"])


@pytest.mark.slow
@pytest.mark.mindspore
@pytest.mark.parametrize("op", [MLA, INDEXER])
def test_overhead_times_the_operator_and_an_empty_one(op: str) -> None:
    overhead = importlib.import_module("benchmarks.overhead")
    times = overhead._interleaved(overhead._calls(SMALL[op]), repeats=3)
    assert set(times) == {"kernel", "pynative", "graph", "jit", "empty pynative", "empty graph"}
    for name, time_of in times.items():
        assert 0 < time_of["min"] <= time_of["median"], name


@pytest.mark.parametrize(
    "op", [pytest.param(MLA, marks=pytest.mark.slow), INDEXER, pytest.param(STEP, marks=pytest.mark.slow)]
)
def test_a_wrong_rival_is_found_out(op: str) -> None:
    case = shapes.make_case(SMALL[op])
    (golden,) = importlib.import_module("benchmarks.rivals_numpy").contenders(SMALL[op], case, lambda: None)
    outputs = {name: value.copy() for name, value in golden.arrays(golden.call()).items()}
    checks.check(SMALL[op], case, outputs, [1])
    name = {MLA: "kv_cache_out", INDEXER: "topk_indices", STEP: "attention_out"}[op]
    wrong = outputs[name].reshape(-1, outputs[name].shape[-1])
    wrong[:] = wrong[:, ::-1].copy() if op != INDEXER else 0
    with pytest.raises(AssertionError, match=name):
        checks.check(SMALL[op], case, outputs, [1])


@pytest.mark.parametrize("wrong", ["output", "making"])
def test_a_contender_that_fails_is_reported_and_the_others_are_timed(wrong: str) -> None:
    shape = SMALL[INDEXER]
    case = shapes.make_case(shape)
    (right,) = importlib.import_module("benchmarks.rivals_numpy").contenders(shape, case, lambda: None)

    def contenders(*_: Any) -> Iterator[Contender]:
        yield replace(right, name="first")
        if wrong == "making":
            raise RuntimeError("no compiler")
        yield replace(right, name="second", arrays=lambda result: {"topk_indices": 0 * result[0]})
        yield replace(right, name="third")

    hall = worker.Hall("rivals_numpy", cold=False)
    hall._contenders = contenders
    report = hall.prepare(shape, ["first", "second", "third"])
    assert list(report) == ["first", "second", "third"]
    assert report["first"]["seconds"] > 0
    assert ("AssertionError: topk_indices" if wrong == "output" else "RuntimeError: no compiler") in report["second"][
        "error"
    ]
    assert ("seconds" in report["third"]) == (wrong == "output")


class _Machine:
    """A probe and a worker. The distance of their cores at each measurement is the next of a given list."""

    bytes = 1 << 20

    def __init__(self, trips: Iterable[float | None]) -> None:
        self.trips = iter(trips)

    def flush(self, pages: str = "huge") -> float:
        return 20.0

    def throughput(self, repeats: int, seconds: float) -> dict[str, float]:
        return {"bf16": 100.0, "int8": 200.0}

    def round_trip(self) -> float | None:
        return next(self.trips)

    def request(self, method: str, *args: Any) -> Any:
        return {"kernel": {"seconds": 1e-3, "note": ""}} if method == "prepare" else (1e-3, 20.0)


@pytest.mark.parametrize(
    ("trips", "attempts", "quiet", "cell"),
    [
        ([50, 55], 1, True, "50, 55"),
        ([50, 310, 300, 310], 2, True, "300, 310"),
        ([50, 310, 310, 50, 100, 130], 3, False, "100, 130"),
        ([None, None], 1, True, "one thread"),
    ],
    ids=["quiet", "quiet at last", "never quiet", "one thread"],
)
def test_a_shape_is_measured_until_the_machine_is_quiet(
    trips: list[float | None], attempts: int, quiet: bool, cell: str
) -> None:
    settings, machine = run.Settings((INDEXER,), ("kernel",)), _Machine(trips)
    peak = {"bf16": 100.0, "int8": 200.0}
    result = run._shape(SMALL[INDEXER], settings, machine, peak, {"ours": machine}, {"ours": ["kernel"]}, {})
    assert (result["attempts"], result["quiet"]) == (attempts, quiet)
    run._set_bounds(result, peak, cold=True)
    heading, line = report.rows([result])
    column = heading.index("cores, ns")
    assert line[column : column + 2] == [cell, "20.0, 20.0"]
    assert line[0] == f"t=2 kv=4K{'' if quiet else ' *'}"
    assert any("changed during each measurement" in note for note in report.notes([result])) != quiet
    old = {name: value for name, value in result.items() if name not in ("before", "after", "quiet", "attempts")}
    assert report.rows([old])[1][column : column + 2] == ["-", "-"]


def test_an_interrupted_run_is_gone_on_with_if_it_was_a_run_as_this_one() -> None:
    settings = {**dataclasses.asdict(run.Settings((INDEXER,), ("kernel",))), "ops": [MLA]}
    machine = {"cpu": "a CPU", "isa": "avx2", "threads": 2, "versions": {"numpy": "1"}, "load": [0.1]}
    result = {"op": MLA, "label": "t=1"}
    before = {"machine": machine, "settings": json.loads(json.dumps(settings)), "results": [result]}
    mine = {"machine": {**machine, "load": [0.2]}, "settings": {**settings, "ops": (INDEXER,)}, "results": []}
    assert run._done(mine, before) == {(MLA, "t=1"): result}
    for name, value in (("cpu", "another"), ("isa", "amx"), ("threads", 1), ("versions", {"numpy": "2"})):
        with pytest.raises(ValueError, match=f"the interrupted run had {name} "):
            run._done({**mine, "machine": {**mine["machine"], name: value}}, before)
    with pytest.raises(ValueError, match="the interrupted run had repeats = 15, not 3"):
        run._done({**mine, "settings": {**mine["settings"], "repeats": 3}}, before)


def test_roofline_is_the_larger_of_memory_and_compute() -> None:
    machine = limits.Limits(read_gbps=30.0, bf16_gmacs=200.0, int8_gmacs=400.0)
    work = Work(bytes=30_000_000, bf16_macs=20_000_000, int8_macs=40_000_000)
    assert limits.memory_seconds(work, machine) == pytest.approx(1e-3)
    assert limits.compute_seconds(work, machine) == pytest.approx(0.2e-3)
    assert limits.roofline(work, machine) == pytest.approx(1e-3)
    assert limits.roofline(work, machine, cached=True) == pytest.approx(0.2e-3)
    tenfold = Work(work.bytes, 10 * work.bf16_macs, 10 * work.int8_macs)
    assert limits.roofline(tenfold, machine) == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("shape", "megabytes", "bf16", "int8"),
    [
        # Weights and products of one token from the shapes of the contract, in 10^6; activations add less than 1 %.
        (Shape(MLA, 1, 1, 128), 84.8, 7168 * 2112 + 128 * 128 * 512, 1536 * 24576),
        (Shape(INDEXER_PROLOG, 1, 1, 128), 15.4, 7168 * 192 + 65 * 128 * 128, 1536 * 8192),
        (Shape(FUSED, 1, 1, 128), 100.2, 7168 * 2304 + 128 * 128 * 512 + 65 * 128 * 128, 1536 * 32768),
        (Shape(EPILOG, 1, 1, 128), 134.4, 128 * 512 * 128, 16384 * 7168),
        (Shape(ATTENTION, 1, 1, 65536), 1.62, 2048 * 128 * 1088, 0),
        (Shape(INDEXER, 1, 1, 65536), 8.54, 0, 65536 * 8192),
    ],
)
def test_work_of_one_token(shape: Shape, megabytes: float, bf16: int, int8: int) -> None:
    work = shapes.work(shape)
    assert work.bytes == pytest.approx(megabytes * 1e6, rel=0.01)
    assert (work.bf16_macs, work.int8_macs) == (bf16, int8)


def test_work_counts_shared_keys_once_and_causal_keys_only() -> None:
    one, two = shapes.work(Shape(INDEXER, 1, 1, 4096)), shapes.work(Shape(INDEXER, 1, 2, 4096))
    assert two.int8_macs == (4095 + 4096) * 8192
    assert two.bytes - one.bytes < 4096 * shapes.INDEX_KEY_BYTES
    prefill = shapes.work(Shape(ATTENTION, 1, 256, 4096))
    keys = 4096 * shapes.KEY_BYTES
    assert keys <= prefill.bytes < keys + 256 * 300_000
    parts = [shapes.work(Shape(op, 4, 2, 4096)) for op in (FUSED, INDEXER, ATTENTION)]
    assert shapes.work(Shape(STEP, 4, 2, 4096)) == parts[0] + parts[1] + parts[2]


@pytest.mark.slow
@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_committed_tables_are_those_of_the_committed_results(path: Path) -> None:
    found = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == report.markdown(found), "run `python -m benchmarks plot`"
    assert path.parent.name == found["machine"]["isa"]


def test_the_page_of_the_accuracy_is_that_of_the_committed_results() -> None:
    paths = sorted(RESULTS.glob("*/accuracy.json"))
    runs = [json.loads(path.read_text()) for path in paths]
    assert [path.parent.name for path in paths] == [found["machine"]["isa"] for found in runs] != []
    page = report.ACCURACY_PAGE.read_text()
    assert page == report.accuracy_page(page, runs), "run `python -m benchmarks plot`"
    for found in runs:
        assert [r["keys"] for r in found["results"]] == [300, 3000, 8192, 65536] * 4
        changed = {**found, "results": [{**r, "both": {**r["both"], "recall": 0.5}} for r in found["results"]]}
        assert page != report.accuracy_page(page, [changed if other is found else other for other in runs])


@pytest.mark.slow
def test_a_process_that_dies_between_requests_is_reported_and_replaced() -> None:
    """As the system ends one when memory is short. The next request finds a broken pipe."""
    hall = worker.Worker("rivals_numpy", False, 60.0)
    try:
        for _ in range(2):
            prepared = hall.request("prepare", SMALL[MLA], ["golden"])
            assert set(prepared["golden"]) == {"seconds", "note"}
            assert hall._process is not None
            hall._process.kill()
            hall._process.join()
            with pytest.raises(RuntimeError, match="the process died"):
                hall.request("measure", "golden")
    finally:
        hall.close()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")
def test_cores_are_apart() -> None:
    # From one core's L1 to another's it takes tens of cycles; a microsecond is more than between two sockets.
    assert 5 < limits.Probe(2).round_trip() < 2000


def test_probe_measures_something() -> None:
    probe = limits.Probe(1)
    assert probe.round_trip() is None
    rates = probe.throughput(2)
    assert all(rate > 0.1 for rate in (*rates.values(), probe.flush("huge"), probe.flush("4K")))
