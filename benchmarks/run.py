"""Times all contenders at all shapes, interleaved, beside the limits of the machine at the same time."""

from __future__ import annotations

import json
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks import report
from benchmarks.limits import Limits, Probe, compute_seconds, l3_bytes, machine, memory_seconds, roofline
from benchmarks.shapes import Shape, Work, shapes, work
from benchmarks.worker import FAMILIES, PAGES, Worker

LONGEST_BURST = 0.05
"""Seconds of products in a row, after which a core has its speed of a long call."""

READS = 3
"""Reads of a buffer in a row, the best of which is the bandwidth of the moment."""

ATTEMPTS = 3
"""The most measurements of a shape. One is enough if the machine is the same before and after it."""

ALLOWED_CHANGE = 1.25
"""The factor by which the round trip and the bandwidth may differ before and after a measurement.

On a quiet machine both vary less. The bandwidths of neighbouring shapes in results/avx2 differ by up to 1.20, and nine
of ten by up to 1.10. Round trips seconds apart differed by up to 1.20 in nine of ten cases on a Sapphire Rapids beside
other work. The changes that this finds are larger: two vCPUs of a Zen 4 are 50 ns apart in one L3 and 310 ns in two.
"""


@dataclass(frozen=True)
class Settings:
    """Options of a run.

    Attributes:
        ops, quick: which shapes. contenders: names of `worker.FAMILIES`. cold: weights and caches come from DRAM.
        repeats: timed calls of each contender. seconds: budget of a measurement of a shape. A contender gets its share,
            and at least 3 calls. limit: a rival that takes longer for a call is left out. timeout: the most seconds for
            preparing a contender.
    """

    ops: tuple[str, ...]
    contenders: tuple[str, ...]
    quick: bool = False
    cold: bool = True
    repeats: int = 15
    seconds: float = 4.0
    limit: float = 3.0
    timeout: float = 240.0


def run(
    settings: Settings,
    console: Console,
    save: Callable[[dict[str, Any]], None],
    interrupted: Mapping[str, Any] | None = None,
) -> None:
    """Saves all results whenever a shape is done, and prints a table whenever an operator is.

    Args:
        settings: which shapes, and how. console: for the tables. save: called with all results so far.
        interrupted: results of a run that ended early. Its shapes are not measured again.

    Raises:
        ValueError: the interrupted run was on another machine, or had other settings.
    """
    probe = Probe()
    wanted = {f: [n for n in names if n in settings.contenders] for f, names in FAMILIES.items()}
    workers = {f: Worker(f, settings.cold, settings.timeout) for f, names in wanted.items() if names}
    peak = probe.throughput(20)
    found: dict[str, Any] = {"machine": machine(), "settings": asdict(settings), "results": []}
    console.print(found["machine"])
    done = {}
    if interrupted is not None:
        done = _done(found, interrupted)
        peak = {kind: max(rate, interrupted["peak_gmacs"][kind]) for kind, rate in peak.items()}
    todo = {op: shapes(op, settings.quick) for op in settings.ops}
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("", total=sum(map(len, todo.values())))
        for op, op_shapes in todo.items():
            slowness: dict[str, float] = {}
            results = []
            try:
                for shape in op_shapes:
                    progress.update(bar, description=f"{op} {shape.label}")
                    result = done.get((op, shape.label))
                    if result is None:
                        peak = {kind: max(rate, peak[kind]) for kind, rate in probe.throughput().items()}
                        result = _shape(shape, settings, probe, peak, workers, wanted, slowness)
                    else:
                        times = {n: c["min_ms"] for n, c in result["contenders"].items() if "min_ms" in c}
                        slowness |= {name: time / result["roofline_ms"] for name, time in times.items()}
                    results.append(result)
                    found["results"].append(result)
                    found["peak_gmacs"] = peak
                    for one in found["results"]:
                        _set_bounds(one, peak, settings.cold)
                    save(found)
                    progress.advance(bar)
            finally:  # frameworks keep what they compiled and allocated for each shape, gigabytes after some shapes
                for worker in workers.values():
                    worker.close()
            report.table(op, results, console)


def _done(found: Mapping[str, Any], interrupted: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """The results of an interrupted run by operator and shape, if its machine and settings are the same."""
    mine, theirs = json.loads(json.dumps(found)), dict(interrupted)
    for name in ("cpu", "isa", "threads", "versions"):
        if mine["machine"][name] != theirs["machine"][name]:
            raise ValueError(f"benchmarks: the interrupted run had {name} {theirs['machine'][name]}")
    for name, value in mine["settings"].items():
        if name != "ops" and theirs["settings"].get(name) != value:
            raise ValueError(
                f"benchmarks: the interrupted run had {name} = {theirs['settings'].get(name)}, not {value}"
            )
    return {(result["op"], result["label"]): result for result in theirs["results"]}


def _shape(
    shape: Shape,
    settings: Settings,
    probe: Probe,
    peak: dict[str, float],
    workers: dict[str, Worker],
    wanted: dict[str, list[str]],
    slowness: dict[str, float],
) -> dict[str, Any]:
    """Measures one shape until the machine stays the same during a measurement, at most `ATTEMPTS` times.

    Args:
        slowness: the time of each contender over the roofline at the shape before.
    """
    needed = work(shape)
    read = max(probe.flush() for _ in range(READS))
    bound = roofline(needed, Limits(read, peak["bf16"], peak["int8"]))
    contenders: dict[str, dict[str, Any]] = {}
    for family, names in wanted.items():
        fit = [n for n in names if family == "ours" or slowness.get(n, 0.0) * bound <= settings.limit]
        late = {n: {"skipped": f"about {slowness[n] * bound:.0f} s a call"} for n in names if n not in fit}
        contenders |= late | (_request(workers[family], "prepare", shape, fit) if fit else {})
    owner = {name: workers[family] for family, names in wanted.items() for name in names}
    attempts: list[_Attempt] = []
    while len(attempts) < ATTEMPTS and not (attempts and attempts[-1].change <= ALLOWED_CHANGE):
        ready = {n: c["seconds"] for n, c in contenders.items() if "seconds" in c}
        attempts.append(_attempt(ready, settings, probe, owner, probe.bytes / (1e9 * read)))
        contenders |= attempts[-1].errors
    kept = min(attempts, key=lambda attempt: attempt.change)
    for name, contender in contenders.items():
        if contender.pop("seconds", None) is None:
            continue
        values = kept.times[name]
        contender |= {"min_ms": 1e3 * min(values), "median_ms": 1e3 * statistics.median(values), "runs": len(values)}
        slowness[name] = min(values) / bound
    return {
        **asdict(shape),
        "t": shape.t,
        "label": shape.label,
        "work": asdict(needed),
        "read_gbps": {pages: {"max": max(r), "median": statistics.median(r)} for pages, r in kept.reads.items()},
        "sustained_gmacs": {kind: statistics.median(kept.peaks.get(kind, [rate])) for kind, rate in peak.items()},
        "before": kept.before,
        "after": kept.after,
        "quiet": kept.change <= ALLOWED_CHANGE,
        "attempts": len(attempts),
        "contenders": contenders,
    }


@dataclass(frozen=True)
class _Attempt:
    """One measurement of a shape.

    Attributes:
        before, after: `_conditions`. reads: GB/s by type of pages. times: seconds of calls by contender. peaks: GMAC/s
            by type of product, after calls of the kernel. errors: texts of contenders that died.
    """

    before: dict[str, float | None]
    after: dict[str, float | None]
    reads: dict[str, list[float]]
    times: dict[str, list[float]]
    peaks: dict[str, list[float]]
    errors: dict[str, dict[str, str]]

    @property
    def change(self) -> float:
        """The largest factor between `before` and `after`, in either direction."""
        pairs = ((self.before[name], self.after[name]) for name in self.before)
        return max(max(a / b, b / a) for a, b in pairs if a is not None and b is not None)


def _attempt(
    ready: dict[str, float], settings: Settings, probe: Probe, owner: dict[str, Worker], flush: float
) -> _Attempt:
    """Times prepared contenders. `ready` has the seconds of their calls, `flush` those of a flush."""
    reads: dict[str, list[float]] = defaultdict(list)
    times: dict[str, list[float]] = defaultdict(list)
    peaks: dict[str, list[float]] = defaultdict(list)
    errors: dict[str, dict[str, str]] = {}
    share = settings.seconds / max(len(ready), 1)
    runs = {
        n: max(3, min(settings.repeats, int(share / (s + flush if settings.cold else 2 * s)))) for n, s in ready.items()
    }
    burst = min(ready.get("kernel", 0.0), LONGEST_BURST)
    before = _conditions(probe, reads)
    for i in range(max(runs.values(), default=0)):
        for name in random.Random(i).sample(list(ready), len(ready)):  # another order in each round
            if i >= runs[name]:
                continue
            pages = PAGES[i % 2]
            answer = _request(owner[name], "measure", name, pages)
            if isinstance(answer, dict):
                errors |= answer
                runs[name] = 0
                continue
            times[name].append(answer[0])
            if settings.cold:
                reads[pages].append(answer[1])
            if name == "kernel":
                for kind, rate in probe.throughput(1, burst).items():
                    peaks[kind].append(rate)
    return _Attempt(before, _conditions(probe, reads), reads, times, peaks, errors)


def _conditions(probe: Probe, reads: dict[str, list[float]]) -> dict[str, float | None]:
    """Round trip between cores and best bandwidth of some reads, which are added to `reads`."""
    found = {pages: [probe.flush(pages) for _ in range(READS)] for pages in PAGES}
    for pages, rates in found.items():
        reads[pages] += rates
    return {"round_trip_ns": probe.round_trip(), "read_gbps": max(found["huge"])}


def _set_bounds(result: dict[str, Any], peak: dict[str, float], cold: bool) -> None:
    """Adds what the machine allows at a shape: at its best, for minima, and usually, for medians.

    Peaks are the best of the run, so the last ones serve all shapes.
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


def _request(worker: Worker, method: str, *args: Any) -> Any:
    """The worker's answer, or its error as the error of every contender of the request."""
    try:
        return worker.request(method, *args)
    except RuntimeError as error:
        names = args[1] if method == "prepare" else [args[0]]
        return {name: {"error": str(error)} for name in names}
