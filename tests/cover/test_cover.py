"""The CPU kernels of the best instruction set here, and the host side on Ascend, run as a whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cover import page, targets
from cover.command import Reason, main, reasons, unexplained
from cover.counters import Counts, Coverage, Missed
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
def test_a_reason_is_about_lines_that_are_there(reason: Reason) -> None:
    assert len(reason.lines()) == reason.count
    assert len(reason.why.split()) > 3


def test_a_reason_explains_no_other_line_that_begins_alike(tmp_path: Path) -> None:
    source = tmp_path / "two.cc"
    source.write_text("  if (a) {\n    b();\n  }\n  if (a) {\n    c();\n  }\n", encoding="utf-8")
    one, both = (Reason(str(source), text, "") for text in ("if (a) {\nc(", "if (a) {"))
    missed = [Missed(str(source), line, "if (a) {", True) for line in (1, 4)]
    assert [one.explains(line) for line in missed] == [False, True]
    assert [both.explains(line) for line in missed] == [True, True]


def test_what_has_no_reason_is_told() -> None:
    known, other = _of_a_reason()
    assert unexplained(Coverage({}, [known, other])) == [other]


def test_a_reason_that_is_not_needed_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no failure, as another target may need it, and a target knows nothing of files that are not its own."""
    known, _ = _of_a_reason()
    told = f"  {known.file}:{known.line}: reason not needed: "
    for files, missed, is_told in (([known.file], [], True), ([known.file], [known], False), ([], [], False)):
        target = targets.OpHost("a_target")
        coverage = Coverage(dict.fromkeys(files, Counts()), missed)
        monkeypatch.setattr(target, "measure", lambda coverage=coverage, **_: coverage)
        monkeypatch.setattr(targets, "every", lambda target=target: [target])
        assert main(["a_target"]) == 0
        assert (told in capsys.readouterr().out) == is_told


def _of_a_reason() -> tuple[Missed, Missed]:
    """The line of the first reason, as a missed one, and another line of its file."""
    reason = reasons()[0]
    (line,) = reason.lines()
    return Missed(reason.file, line, reason.text, True), Missed(reason.file, line + 1, "", False)


def test_the_page_has_a_row_for_each_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PAGE", Path(shutil.copy(page.PAGE, tmp_path)))
    for target in targets.every():
        page.write(target.name, Counts(4, 3, 2, 1))
        assert f"| `{target.name}` | 3 of 4 | 75.0 % | 1 of 2 | 50.0 % |" in page.PAGE.read_text(encoding="utf-8")
