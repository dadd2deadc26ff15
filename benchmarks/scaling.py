"""How the cost of the bare kernels grows with tokens, keys, sequences and threads, with cold caches."""

from __future__ import annotations

import statistics
import time
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks import checks, ours
from benchmarks.limits import Limits, Probe, machine, roofline
from benchmarks.shapes import ATTENTION, INDEXER, PROJECTIONS, STEP, Shape, make_case, work
from ms_dsv32 import kernel_impl

K = 1024


def sweeps(quick: bool = False) -> dict[str, dict[str, list[tuple[float, Shape]]]]:
    """For each axis, lines of (place on the axis, shape)."""
    tokens = (1, 4, 16) if quick else (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    some = tokens if quick else (1, 2, 4, 8, 16, 32, 64, 128)
    keys = (1, 4, 16) if quick else (1, 2, 4, 8, 16, 32, 64, 128)
    sequences = (1, 2) if quick else (1, 2, 4, 8, 16, 32)
    return {
        "t": {
            **{op: [(t, Shape(op, 1, t, max(t, 128))) for t in tokens] for op in PROJECTIONS},
            **{f"{op} kv=4K": [(t, Shape(op, 1, t, 4 * K)) for t in some] for op in (INDEXER, ATTENTION)},
        },
        "kv": {f"{op} t=1": [(k * K, Shape(op, 1, 1, k * K)) for k in keys] for op in (INDEXER, ATTENTION, STEP)},
        "b": {f"{STEP} s1=1 kv=4K": [(b, Shape(STEP, b, 1, 4 * K)) for b in sequences]},
        "threads": {
            shape.op: [(n, shape) for n in range(1, kernel_impl.thread_count() + 1)]
            for shape in (
                *(Shape(op, 1, 4 if quick else 32, 128) for op in PROJECTIONS),
                *(Shape(op, 1, 4, 4 * K) for op in (INDEXER, ATTENTION)),
            )
        },
    }


def scaling(console: Console, quick: bool = False, repeats: int = 7) -> dict[str, Any]:
    """Times in ms, and the roofline at each place. On the threads axis it is the roofline of so many threads."""
    everyone = kernel_impl.thread_count()
    probes = {n: Probe(n) for n in range(1, everyone + 1)}
    peaks = {n: probe.throughput(20) for n, probe in probes.items()}
    found: dict[str, Any] = {"machine": machine(), "sweeps": {}}
    planned = sweeps(quick)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("", total=sum(len(line) for lines in planned.values() for line in lines.values()))
        for axis, lines in planned.items():
            found["sweeps"][axis] = {}
            for name, line in lines.items():
                points = []
                for x, shape in line:
                    progress.update(bar, description=f"{axis}: {name} {x:g}")
                    threads = int(x) if axis == "threads" else everyone
                    kernel_impl.set_thread_count(threads)
                    points.append({"x": x, **_point(shape, probes[threads], peaks[threads], repeats)})
                    progress.advance(bar)
                found["sweeps"][axis][name] = points
                console.print(
                    f"{axis:8} {name:32} " + "  ".join(f"{p['x']:g}: {p['min_ms']:.3g}" for p in points) + " ms"
                )
    kernel_impl.set_thread_count(0)
    return found


def _point(shape: Shape, probe: Probe, peak: dict[str, float], repeats: int) -> dict[str, float]:
    case = make_case(shape)
    kernel = next(ours.contenders(shape, case, probe.flush))
    checks.check(shape, case, kernel.arrays(kernel.call()), checks.sample(shape.t, 2))
    times, reads = [], []
    for _ in range(repeats):
        reads.append(probe.flush())
        start = time.perf_counter()
        kernel.call()
        times.append(time.perf_counter() - start)
    bound = roofline(work(shape), Limits(max(reads), peak["bf16"], peak["int8"]))
    return {"min_ms": 1e3 * min(times), "median_ms": 1e3 * statistics.median(times), "roofline_ms": 1e3 * bound}
