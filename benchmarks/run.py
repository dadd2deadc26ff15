"""Times all contenders at all shapes, interleaved, beside the limits of the machine at the same time."""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks import report
from benchmarks.limits import Limits, Probe, compute_seconds, l3_bytes, machine, memory_seconds, roofline
from benchmarks.shapes import Shape, Work, shapes, work
from benchmarks.worker import FAMILIES, PAGES, Worker

LONGEST_BURST = 0.05
"""Seconds of products in a row by which a core has shown how fast it is over a long call."""


@dataclass(frozen=True)
class Settings:
    """Options of a run.

    Attributes:
        ops, quick: which shapes. contenders: names of `worker.FAMILIES`. cold: weights and caches from DRAM.
        repeats: timed calls of each contender. seconds: budget of a shape; a contender gets its share, and 3 calls in
            any case. limit: a rival that would take longer for a call is left out. timeout: of preparing a contender.
    """

    ops: tuple[str, ...]
    contenders: tuple[str, ...]
    quick: bool = False
    cold: bool = True
    repeats: int = 15
    seconds: float = 4.0
    limit: float = 3.0
    timeout: float = 240.0


def run(settings: Settings, console: Console, save: Callable[[dict[str, Any]], None]) -> None:
    """Saves all results whenever a shape is done, and prints a table whenever an operator is."""
    probe = Probe()
    wanted = {f: [n for n in names if n in settings.contenders] for f, names in FAMILIES.items()}
    workers = {f: Worker(f, settings.cold, settings.timeout) for f, names in wanted.items() if names}
    peak = probe.throughput(20)
    found: dict[str, Any] = {"machine": machine(), "settings": asdict(settings), "results": []}
    console.print(found["machine"])
    todo = {op: shapes(op, settings.quick) for op in settings.ops}
    try:
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("", total=sum(map(len, todo.values())))
            for op, op_shapes in todo.items():
                slowness: dict[str, float] = {}
                results = []
                for shape in op_shapes:
                    progress.update(bar, description=f"{op} {shape.label}")
                    peak = {kind: max(rate, peak[kind]) for kind, rate in probe.throughput().items()}
                    results.append(_shape(shape, settings, probe, peak, workers, wanted, slowness))
                    found["results"].append(results[-1])
                    found["peak_gmacs"] = peak
                    for result in found["results"]:
                        _set_bounds(result, peak, settings.cold)
                    save(found)
                    progress.advance(bar)
                report.table(op, results, console)
    finally:
        for worker in workers.values():
            worker.close()


def _shape(
    shape: Shape,
    settings: Settings,
    probe: Probe,
    peak: dict[str, float],
    workers: dict[str, Worker],
    wanted: dict[str, list[str]],
    slowness: dict[str, float],
) -> dict[str, Any]:
    """One shape. `slowness`: of each contender, its time over the roofline at the shape before."""
    reads: dict[str, list[float]] = {pages: [probe.flush(pages) for _ in range(3)] for pages in PAGES}
    needed = work(shape)
    bound = roofline(needed, Limits(max(reads["huge"]), peak["bf16"], peak["int8"]))
    contenders: dict[str, dict[str, Any]] = {}
    owner = {name: family for family, names in wanted.items() for name in names}
    for family, names in wanted.items():
        fit = [n for n in names if family == "ours" or slowness.get(n, 0.0) * bound <= settings.limit]
        late = {n: {"skipped": f"about {slowness[n] * bound:.0f} s a call"} for n in names if n not in fit}
        contenders |= late | (_request(workers[family], "prepare", shape, fit) if fit else {})
    ready = {n: c["seconds"] for n, c in contenders.items() if "seconds" in c}
    flush = probe_seconds(probe, reads["huge"]) if settings.cold else 0.0
    share = settings.seconds / max(len(ready), 1)
    runs = {
        n: max(3, min(settings.repeats, int(share / (s * (1 if settings.cold else 2) + flush))))
        for n, s in ready.items()
    }
    times: dict[str, list[float]] = defaultdict(list)
    peaks: dict[str, list[float]] = defaultdict(list)
    burst = min(ready.get("kernel", 0.0), LONGEST_BURST)
    for i in range(max(runs.values(), default=0)):
        for name in random.Random(i).sample(list(ready), len(ready)):  # another order in each round
            if i >= runs[name]:
                continue
            pages = PAGES[i % 2]
            answer = _request(workers[owner[name]], "measure", name, pages)
            if isinstance(answer, dict):
                contenders |= answer
                runs[name] = 0
                continue
            times[name].append(answer[0])
            if settings.cold:
                reads[pages].append(answer[1])
            if name == "kernel":
                for kind, rate in probe.throughput(1, burst).items():
                    peaks[kind].append(rate)
    for name, values in times.items():
        contenders[name] |= {
            "min_ms": 1e3 * min(values),
            "median_ms": 1e3 * statistics.median(values),
            "runs": len(values),
        }
        contenders[name].pop("seconds")
        slowness[name] = min(values) / bound
    return {
        **asdict(shape),
        "t": shape.t,
        "label": shape.label,
        "work": asdict(needed),
        "read_gbps": {pages: {"max": max(r), "median": statistics.median(r)} for pages, r in reads.items()},
        "sustained_gmacs": {kind: statistics.median(peaks.get(kind, [rate])) for kind, rate in peak.items()},
        "contenders": contenders,
    }


def _set_bounds(result: dict[str, Any], peak: dict[str, float], cold: bool) -> None:
    """Adds what the machine allows at a shape: at its best, for minima, and usually, for medians.

    Peaks are the best of the run: the last one serves all shapes.
    """
    needed = Work(**result["work"])
    read, sustained = result["read_gbps"]["huge"], result["sustained_gmacs"]
    best = Limits(read["max"], peak["bf16"], peak["int8"])
    typical = Limits(read["median"], sustained["bf16"], sustained["int8"])
    cached = not cold and needed.bytes <= l3_bytes()
    result |= {
        "memory_ms": 1e3 * memory_seconds(needed, best),
        "compute_ms": 1e3 * compute_seconds(needed, best),
        "roofline_ms": 1e3 * roofline(needed, best, cached=cached),
        "roofline_median_ms": 1e3 * roofline(needed, typical, cached=cached),
    }


def probe_seconds(probe: Probe, reads: Sequence[float]) -> float:
    """What one flush takes."""
    return probe.bytes / (1e9 * min(reads))


def _request(worker: Worker, method: str, *args: Any) -> Any:
    """The worker's answer, or the error as that of every contender of the request."""
    try:
        return worker.request(method, *args)
    except RuntimeError as error:
        names = args[1] if method == "prepare" else [args[0]]
        return {name: {"error": str(error)} for name in names}
