"""Runs trials in this process and writes lines of JSON: counts now and then, and every failure at once.

``python -m fuzz.worker JOB``, where JOB is JSON, see `Job`. `campaign` starts it.
"""

from __future__ import annotations

import collections
import faulthandler
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fuzz import paths

_SECONDS = 1.0  # between two lines of counts
_MOST_FAILURES = 10  # after which a worker gives up: so many have one cause, or nothing works any more


@dataclass(frozen=True)
class Job:
    """What a worker is to do.

    Attributes:
        path: a name of `PATHS`. subjects: operators, or the path's other subjects, each as often as it is listed.
        seed: of the trials. first: index of each subject's first trial. calls: trials of all subjects, or 0.
        seconds: how long, where there is no number of calls.
        good: one call in so many is good. threads: of the kernels, 0 for a number that changes.
        state: a file that names the current trial, which is read if the process dies.
    """

    path: str
    subjects: tuple[str, ...]
    seed: int
    first: int = 0
    calls: int = 0
    seconds: float = 0.0
    good: int = 4
    threads: int = 0
    state: str = os.devnull


def make(job: Job) -> paths.Path:
    """The path that a job names."""
    options = {"good": job.good, "threads": job.threads or None}
    if job.path == "library":
        return paths.Library(**options)
    if job.path == "files":
        from fuzz.files import Files

        return Files()
    if job.path == "faults":
        from fuzz.faults import Faults

        return Faults()
    if job.path == "ascend":
        return paths.Ascend("pynative", **options)
    return paths.MindSpore(job.path, **options)


def trials(job: Job) -> Iterator[tuple[str, int]]:
    """Subject and index of each trial: groups of the subjects in turn."""
    end = time.monotonic() + job.seconds
    left = job.calls or sys.maxsize
    size = paths.GROUP if not job.calls else max(1, min(paths.GROUP, job.calls // len(job.subjects)))
    following = dict.fromkeys(job.subjects, job.first)
    while left > 0:
        for subject in job.subjects:
            for _ in range(min(size, left)):
                if not job.calls and time.monotonic() > end:
                    return
                yield subject, following[subject]
                following[subject] += 1
                left -= 1


def main() -> None:
    """The process."""
    faulthandler.enable()
    job = Job(**json.loads(sys.argv[1]))
    path = make(job)
    counts: dict[tuple[str, str], int] = collections.Counter()
    failures = 0
    told = 0.0
    state = os.open(job.state, os.O_WRONLY | os.O_CREAT)
    try:
        for subject, index in trials(job):
            os.pwrite(state, f"{subject:<40} {index:<20}".encode(), 0)  # of one length, as it is overwritten
            kind = "drawing"
            what = ""
            try:
                kind, what = path.draw(subject, job.seed, index)
                path.run()
            except Exception as error:
                failures += 1
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = (
                    "" if isinstance(error, AssertionError) else f" ({os.path.basename(last.filename)}:{last.lineno})"
                )
                text = f"{'' if isinstance(error, AssertionError) else type(error).__name__ + ': '}{error}{where}"
                _write(
                    {"failure": {"subject": subject, "index": index, "what": f"{kind}: {what}", "error": text[:2000]}}
                )
            counts[subject, kind] += 1
            if time.monotonic() - told > _SECONDS:
                _tell(counts)
                told = time.monotonic()
            if failures >= _MOST_FAILURES:
                break
    except KeyboardInterrupt:
        pass
    for subject, text in path.finish():
        _write({"failure": {"subject": subject, "index": job.first, "what": "all trials together", "error": text}})
    _tell(counts)


def _tell(counts: dict[tuple[str, str], int]) -> None:
    _write({"counts": [[*key, count] for key, count in counts.items()]})


def _write(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
