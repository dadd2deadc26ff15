"""The CPU kernels of the best instruction set here, and the host side on Ascend, run as a whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cover import page, targets
from cover.command import Reason, reasons, unexplained
from cover.counters import ROOT, Counts, Coverage, Missed
from ms_dsv32 import kernel_impl


def _check(target: targets.Target, lines: int, branches: int) -> None:
    """Every line and branch runs, of so many at least, or has a reason."""
    if shutil.which("gcov") is None or shutil.which(targets.CXX[0]) is None:
        pytest.skip("needs g++ and its gcov")
    coverage = target.measure(workers=1)
    assert coverage.total.lines > lines
    assert coverage.total.branches > branches
    assert not unexplained(coverage), "\n".join(map(str, unexplained(coverage)))


@pytest.mark.isa
@pytest.mark.slow
def test_all_of_the_cpu_kernels_runs() -> None:
    target = targets.Isa(kernel_impl.isas()[0])
    if not target.fast:
        pytest.skip(f"the kernels of {target.name} take a quarter of an hour with counters")
    _check(target, 1000, 400)


@pytest.mark.slow
def test_all_of_the_host_side_runs() -> None:
    _check(targets.OpHost("op_host"), 200, 100)


@pytest.mark.parametrize("reason", reasons(), ids=lambda reason: f"{reason.file.rpartition('/')[2]}-{reason.text[:20]}")
def test_a_reason_is_about_a_line_that_is_there(reason: Reason) -> None:
    lines = (ROOT / reason.file).read_text(encoding="utf-8").splitlines()
    assert any(line.strip().startswith(reason.text) for line in lines)
    assert len(reason.why.split()) > 3


def test_what_has_no_reason_is_told() -> None:
    reason = reasons()[0]
    known = Missed(reason.file, 1, reason.text + " more", True)
    other = Missed(reason.file, 2, "x = 1;", False)
    assert unexplained(Coverage({}, [known, other])) == [other]


def test_the_page_has_a_row_for_each_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PAGE", Path(shutil.copy(page.PAGE, tmp_path)))
    for target in targets.every():
        page.write(target.name, Counts(4, 3, 2, 1))
        assert f"| `{target.name}` | 3 of 4 | 75.0 % | 1 of 2 | 50.0 % |" in page.PAGE.read_text(encoding="utf-8")
