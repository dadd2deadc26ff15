"""The benchmark of the device reads its table and the profiler's files; on a device it measures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import virtual

from ms_dsv32 import cann, op_info

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `import benchmarks`, which is not installed

from benchmarks import ascend

# As MindSpore's profiler writes it at level 0, some columns left out.
CSV = """Name,Type,Accelerator Core,Start Time(us),Duration(us),Wait Time(us),Block Num
aclnnX_MsDsaMlaPrologQuant_1,MsDsaMlaPrologQuant,MIX_AIC,1\t,{a},0.1,24
aclnnAdd_AddAiCore_Add,Add,AI_VECTOR_CORE,2\t,5.5,0.1,48
aclnnX_MsDsaMlaPrologQuant_2,MsDsaMlaPrologQuant,MIX_AIC,3\t,{b},0.1,24
"""


def test_every_operator_has_a_modelled_time() -> None:
    rows = ascend.modelled()
    assert {row.op for row in rows} == set(op_info.names())
    assert all(row.modelled >= row.roofline > 0 for row in rows)
    assert len({(row.op, row.label) for row in rows}) == len(rows)


def test_times_are_those_of_the_operators_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"no kernel_details\.csv below"):
        ascend.durations(tmp_path, "mla_prolog_quant")
    rows = ascend.modelled()
    for index, row in enumerate(rows):
        folder = tmp_path / f"{index}_{row.op}" / "host_ascend_ms" / "ASCEND_PROFILER_OUTPUT"
        folder.mkdir(parents=True)
        (folder / "kernel_details.csv").write_text(CSV.format(a=row.modelled * 2, b=row.modelled * 4))
    index, time = next((i, row.modelled) for i, row in enumerate(rows) if row.op == "mla_prolog_quant")
    first = tmp_path / f"{index}_mla_prolog_quant"
    assert ascend.durations(first, "mla_prolog_quant") == [pytest.approx(2 * time), pytest.approx(4 * time)]
    assert ascend.durations(first, "lightning_indexer_quant") == []
    assert ascend.main(["--parse", str(tmp_path)]) == 0
    assert "3.00" in capsys.readouterr().out  # the median of twice and four times the modelled time


@pytest.mark.parametrize("op", op_info.names())
@pytest.mark.cpu_kernels
def test_the_call_that_is_measured(op: str) -> None:
    row = next(row for row in ascend.modelled() if row.op == op)
    result = ascend.operator(row)()
    tokens = result.shape[0] * (result.shape[1] if op == "sparse_flash_attention_quant" else 1)
    assert tokens == row.t


def test_without_operators_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", str(tmp_path))
    monkeypatch.setattr(cann, "VENDOR", tmp_path)
    assert ascend.main([]) == 1
    assert "run python -m ms_dsv32.doctor" in capsys.readouterr().err


@pytest.mark.cpu_kernels
def test_a_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On the virtual Ascend up to the profile, which CANN's profiler writes: only a real device has one."""
    if not virtual.running():
        assert ascend.main(["--repeats", "3", "--output", str(tmp_path)]) == 0
        for index, row in enumerate(ascend.modelled()):
            assert len(ascend.durations(tmp_path / f"{index}_{row.op}", row.op)) >= 3
        return
    row = next(row for row in ascend.modelled() if row.op == "lightning_indexer_quant" and row.t == 1)
    monkeypatch.setattr(ascend, "modelled", lambda: [row])
    monkeypatch.setattr(ascend, "L2_BYTES", 1 << 10)
    before = virtual.get("LAUNCHES")
    assert ascend.main(["--repeats", "3", "--output", str(tmp_path)]) == 1
    assert f"no kernel_details.csv below {tmp_path}" in capsys.readouterr().err
    assert virtual.get("LAUNCHES") - before >= 3 + 2 * 3  # three calls before, then three, each after a flush of L2
