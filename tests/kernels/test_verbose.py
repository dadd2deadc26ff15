"""MS_DSV32_VERBOSE: the library and the plans of kernels, each told once on standard error, and nothing without it."""

from __future__ import annotations

import re
import subprocess
import sys

import driver
import pytest

from ms_dsv32 import kernel_impl, op_info

# Twice the same calls of a few tokens, then more rows of each product than AVX-512 takes from AMX, then other threads.
CALLS = """
import cases
from ms_dsv32 import kernel_impl, op_info

def run(tokens):
    calls = [cases.mla_prolog_case(1, tokens, 2), cases.indexer_prolog_case(1, tokens)]
    calls += [cases.fused_prolog_case(1, tokens, 2)]
    calls += [cases.indexer_case(1, tokens, 300, selected_count=128), cases.attention_case(1, tokens, 16, 300)]
    calls += [cases.mla_epilog_case(1, tokens, 2)]
    cases.assert_all_listed({case.operator for case in calls})
    for case in calls:
        kernel_impl.call(case.operator, case.inputs, case.attributes)
"""
ISA = "amx" if "amx" in kernel_impl.isas() else kernel_impl.isas()[0]


def tell(code: str, **environment: str) -> list[str]:
    """What a process that makes the calls says on standard error."""
    tests = str(driver.HERE.parent)
    result: subprocess.CompletedProcess[str] = driver.run(
        *(sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r}){CALLS}{code}"),
        **{"MS_DSV32_CPU_ISA": ISA, "MS_DSV32_NUM_THREADS": "2", **environment},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    return result.stderr.splitlines()


def plans(lines: list[str]) -> dict[str, list[dict[str, int]]]:
    """The plans that were told for each operator, in order."""
    found: dict[str, list[dict[str, int]]] = {}
    for line in lines:
        if match := re.fullmatch(r"ms_dsv32: (\w+):((?: \w+=\d+)+)", line):
            items = dict(item.split("=") for item in match[2].split())
            found.setdefault(match[1], []).append({name: int(value) for name, value in items.items()})
    return found


@pytest.mark.parametrize("value", [None, "", "0"])
def test_nothing_is_told_unless_asked_for(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MS_DSV32_VERBOSE", raising=False)
    assert tell("run(1)", **({} if value is None else {"MS_DSV32_VERBOSE": value})) == []


def test_the_library_and_each_plan_are_told_once() -> None:
    lines = tell("run(1); run(1)", MS_DSV32_VERBOSE="1")
    library = f"instruction set {ISA}; threads 2, from MS_DSV32_NUM_THREADS; library {kernel_impl.library_path()}"
    assert lines[0] == f"ms_dsv32: {library}"
    told = plans(lines)
    assert set(told) == set(op_info.names())
    assert [len(plan) for plan in told.values()] == [1] * len(told)
    assert len(lines) == 1 + len(told)
    for name in ("mla_prolog_quant", "lightning_indexer_prolog_quant", "mla_indexer_prolog_quant"):
        assert told[name][0]["depth_parts"] == 7
    assert {plan[0].get("int8_tiles", 0) for plan in told.values()} == {0}
    (attention,) = told["sparse_flash_attention_quant"]
    assert attention["heads_as_columns"] == (ISA in ("amx", "avx512_bf16"))
    if attention["heads_as_columns"]:
        assert attention["token_threads"] == 2


def test_another_plan_is_told_too() -> None:
    """65 tokens are past the few that cut the depth of the first products, and of AMX's rows of int8."""
    for name, told in plans(tell("run(1); run(65)", MS_DSV32_VERBOSE="1")).items():
        if "depth_parts" in told[0]:
            assert [plan["depth_parts"] for plan in told] == [7, 1], name
        if "int8_tiles" in told[0]:
            assert [plan["int8_tiles"] for plan in told] == [0, int(ISA == "amx")][: len(told)], name
            assert len(told) == 2 or ISA != "amx", name


@pytest.mark.parametrize(
    ("environment", "code", "threads"),
    [
        ({"MS_DSV32_NUM_THREADS": "3"}, "", ["3, from MS_DSV32_NUM_THREADS"]),
        (
            {},
            "kernel_impl.set_thread_count(1); run(1)",
            ["2, from MS_DSV32_NUM_THREADS", "1, from set_thread_count"],
        ),
        (
            {"MS_DSV32_NUM_THREADS": ""},
            "",
            [r"\d+, from the (CPUs that the process may run on|control group's CPU quota)"],
        ),
    ],
    ids=["environment", "call", "machine"],
)
def test_where_the_number_of_threads_is_from(environment: dict[str, str], code: str, threads: list[str]) -> None:
    lines = [line for line in tell(f"run(1); {code}", MS_DSV32_VERBOSE="1", **environment) if "; threads " in line]
    assert len(lines) == len(threads)
    for line, text in zip(lines, threads, strict=True):
        assert re.search(f"; threads {text}; ", line)
