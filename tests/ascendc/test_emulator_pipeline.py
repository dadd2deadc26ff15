"""Kernels over several cores, in order and in random order: the same results, and nothing to report."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from emulator import FLAGS_ARE, HERE, In, Library, Out, Report, Tiling, Workspace, build

from ms_dsv32 import op_info

SOURCE = HERE / "tests" / "pipeline.cpp"
SEEDS = [0, 1, 2, 3]


@pytest.fixture(scope="module")
def library() -> Library:
    return build(SOURCE, ["add_vectors", "scaled_product", "exchange", "back_edges"])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("blocks", [1, 2, 20, 24])
def test_elementwise_on_all_aivs(library: Library, blocks: int, seed: int) -> None:
    rng = np.random.default_rng(blocks)
    x, y = rng.standard_normal((2, blocks * 512), np.float32)
    z = Out("z", x.shape, np.float32)
    library.launch("add_vectors", [In("x", x), In("y", y), z], blocks=blocks, seed=seed).check()
    np.testing.assert_array_equal(z.array, x + y)


def product(library: Library, blocks: int, tiles: int, m: int, **options: object) -> Report:
    rng = np.random.default_rng(tiles * 100 + m)
    a, b = (rng.integers(-8, 9, shape).astype(np.float16) for shape in ((tiles, m, 64), (64, 128)))
    c = Out("c", (tiles, m, 128), np.float32)
    rows = -(-m // 16) * 16
    tiling = Tiling(np.array([tiles, m], np.int32))
    args = [In("a", a), In("b", b), c, Workspace(blocks * 2 * rows * 128 * 4), tiling]
    report = library.launch("scaled_product", args, blocks=blocks, **options).check()  # type: ignore[arg-type]
    np.testing.assert_array_equal(c.array, 0.5 * (a.astype(np.float32) @ b.astype(np.float32)))
    return report


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("blocks", "tiles", "m"), [(1, 1, 16), (1, 5, 24), (2, 7, 17), (24, 50, 1), (20, 3, 32)])
def test_cube_hands_over_to_vector(library: Library, blocks: int, tiles: int, m: int, seed: int) -> None:
    product(library, blocks, tiles, m, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("key", [0, 1, 2, 3])
@pytest.mark.parametrize("blocks", [1, 3, 24])
def test_barriers_between_cores(library: Library, blocks: int, key: int, seed: int) -> None:
    out = Out("out", (2 * blocks, 8), np.float32)
    library.launch("exchange", [out, Workspace(2 * blocks * 32)], blocks=blocks, tiling_key=key, seed=seed).check()
    numbers = np.arange(1, 2 * blocks + 1, dtype=np.float32)
    expected = numbers.reshape(-1, 2).sum(1).repeat(2) if key == 3 else np.full(2 * blocks, numbers.sum())
    np.testing.assert_array_equal(out.array, np.repeat(expected, 8).reshape(-1, 8))


@pytest.mark.parametrize("flags", FLAGS_ARE)
def test_events_that_are_set_behind_the_wait_for_the_set_before(library: Library, flags: str) -> None:
    """Nothing to report and nothing lost, however late the pipes are; what the scalar unit has waited for is there."""
    rounds = 9
    rng = np.random.default_rng(0)
    x = rng.integers(-16, 17, (rounds, 64)).astype(np.float32)
    a, b = (rng.integers(-8, 9, shape).astype(np.float16) for shape in ((16 * rounds, 64), (64, 128)))
    want = np.zeros((rounds, 8), np.float32)
    for i, row in enumerate(x):
        first, second = -np.sort(-row[:32]), -np.sort(-row[32:])
        # A merge that stops with the first list that is used up; of equal scores the first list's come first.
        ends = first[-1] >= second[-1]
        want[i, :3] = (row > i).sum(), row[row > i].sum(), 32 if ends else (first >= second[-1]).sum()
    for seed in range(17):
        out, product = Out("out", want.shape, np.float32), Out("product", (16 * rounds, 128), np.float32)
        args = [In("x", x), In("a", a), In("b", b), out, product, Tiling(np.array([rounds, 0], np.int32))]
        library.launch("back_edges", args, seed=seed, flags=flags).check()
        np.testing.assert_array_equal(out.array, want)
        np.testing.assert_array_equal(product.array, a.astype(np.float32) @ b.astype(np.float32))


@pytest.mark.parametrize("seed", range(4, 12))
def test_flags_that_count_change_nothing_where_none_is_set_twice(library: Library, seed: int) -> None:
    product(library, 2, 9, 24, seed=seed, flags="counts")


def test_the_same_seed_gives_the_same_run(library: Library) -> None:
    first, again = (product(library, 2, 9, 24, seed=5) for _ in range(2))
    assert first.modelled == again.modelled
    assert first.instructions == again.instructions


def test_modelled_time_follows_the_work(library: Library, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    one, four = (product(library, 1, tiles, 32, workers=1, trace=trace).modelled for tiles in (1, 4))
    assert four["busy_cycles_max"]["AIC.M"] == 4 * one["busy_cycles_max"]["AIC.M"] == 4 * (2 * 8 * 4)
    assert four["macs"] == 4 * 32 * 128 * 64
    assert one["cycles"] < four["cycles"] < 4 * one["cycles"]  # tiles overlap
    assert four["bytes"]["hbm_read"] == 4 * 32 * 64 * 2 + 64 * 128 * 2
    assert four["roofline_us"] <= four["us"]
    assert sum(four["critical_path_cycles"].values()) == pytest.approx(four["cycles"], rel=0.01)
    events = json.loads(trace.read_text())["traceEvents"]
    bars = [event for event in events if event["ph"] == "X" and event["name"] == "Mmad"]
    assert len(bars) == 4
    assert all(early["ts"] + early["dur"] <= late["ts"] + 1e-2 for early, late in pairwise(bars))


def test_the_emulator_and_the_kernels_do_not_know_each_other() -> None:
    names = re.compile("|".join(op_info.names()))
    for path in HERE.rglob("*"):
        if path.suffix in (".h", ".py", ".cpp", ".md"):
            assert not names.search(path.read_text(encoding="utf-8")), path
    kernels = HERE.parent.parent / "ms_dsv32" / "kernel_impl" / "ascendc"
    for path in kernels.rglob("*"):
        if path.suffix in (".h", ".cpp"):
            assert "emulator" not in path.read_text(encoding="utf-8").lower(), path
