"""Every fault of tests/ascendc_emulator/tests/*_faults.h is found, as the right kind, in words, at its line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from emulator import HERE, Arg, In, Library, Out, Report, Tiling, Workspace, build, syntax_check

SOURCE = HERE / "tests" / "faults.cpp"
INCLUDED = re.findall(r'"(\w+_faults\.h)"', SOURCE.read_text(encoding="utf-8"))
TEXTS = {name: (SOURCE.parent / name).read_text(encoding="utf-8") for name in INCLUDED}
NAMES = [name for text in TEXTS.values() for name in re.findall(r"^ +FAULT\((\w+)\)", text, re.MULTILINE)]
SET_AGAIN = r"nothing orders it after the WaitFlag of its earlier set at \w+_faults\.h:\d+;"
# name: kind of the finding, and what its message says
VECTOR = {
    "missing_flag_in": ("hazard", "read after write in UB .* no flag MTE2_V"),
    "missing_flag_out": ("hazard", "read after write in UB .* no flag V_MTE3"),
    "missing_flag_reuse": ("hazard", "write after read in UB .* no flag MTE3_MTE2"),
    "missing_barrier": ("hazard", "read after write in UB .* no PipeBarrier<PIPE_V>"),
    "missing_barrier_in_place": ("hazard", "write after read in UB .* no PipeBarrier<PIPE_V>"),
    "missing_barrier_dma": ("hazard", "write after write in UB .* no PipeBarrier<PIPE_MTE2>"),
    "flag_of_another_id": ("flag", r"WaitFlag<HardEvent::MTE2_V>\(1\): nobody set it"),
    "flag_of_another_pipe": ("hazard", "no flag MTE2_V"),
    "flag_set_too_early": ("hazard", "no flag MTE2_V"),
    "event_set_again": (
        "flag",
        rf"SetFlag<HardEvent::S_MTE3>\(5\): {SET_AGAIN}.* after DataCopy at",
    ),
    "event_set_again_before_the_wait_is_known": (
        "flag",
        rf"SetFlag<HardEvent::MTE2_V>\(2\): {SET_AGAIN}",
    ),
    "double_set": ("flag", "while it is already set"),
    "leftover_flag": ("flag", r"ends with HardEvent::MTE2_V\(2\) set"),
    "event_id": ("flag", "ids are 0-7"),
    "event_of_the_other_core": ("core_type", "AIV0 block 0 has no pipe MTE1"),
    "count_no_multiple_of_32_bytes": ("argument", "28 bytes, no multiple of 32"),
    "block_count": ("argument", "blockCount is 4096, allowed are 0 to 4095"),
    "block_len": ("argument", "blockLen .* is 2097152"),
    "repeat": ("argument", "repeatTime is 256, allowed are 0 to 255"),
    "repeat_stride": ("argument", "repeat stride of dst .* is 256"),
    "mask": ("argument", "mask is 65"),
    "stride_in_bytes": ("redzone", "of GM tensor in, which has 16384"),
    "stride_as_distance": ("overflow", r"dst writes bytes \[0, 14592\) of a tensor of 8192"),
    "buffer_overflow": ("overflow", r"src reads bytes \[0, 2052\) of a tensor of 2048 bytes"),
    "misaligned": ("alignment", "dst is at UB address 4100, which is no multiple of 32"),
    "uninitialised_operand": ("uninitialised", "no value of src1 was ever defined"),
    "uninitialised_padding": ("uninitialised", "byte 12 of output out"),
    "uninitialised_tail_of_a_sum": ("uninitialised", "byte 0 of output out"),
    "uninitialised_workspace": ("uninitialised", "no value of src was ever defined"),
    "uninitialised_scalar": ("uninitialised", "GetValue reads a value that nothing defined"),
    "redzone_behind": ("redzone", r"reads bytes \[15872, 16896\) of GM tensor in, which has 16384"),
    "redzone_before": ("redzone", r"writes bytes \[-32, 224\) of GM tensor out"),
    "raw_pointer": ("redzone", "a raw pointer wrote byte 16387 of out"),
    "announced_size": ("gm_bounds", "SetGlobalBuffer announced 400"),
    "write_to_input": ("gm_bounds", "writes to input in"),
    "workspace_of_the_system": ("gm_bounds", "points to no GM tensor"),
    "partial_overlap": ("overlap", "overlap in part"),
    "overlap_between_repeats": ("overlap", "repeat 1 reads from src what repeat 0 writes"),
    "brcb_in_place": ("overlap", "dst and src overlap"),
    "narrowed_in_place": ("overlap", "overlap in part"),
    "deq_scale_not_set": ("argument", "DEQSCALE, which nobody set"),
    "cast_mode": ("argument", "float to bfloat16_t does not exist with RoundMode 0"),
    "integer_overflow": ("argument", "int32_t overflows"),
    "scalar_read_without_flag": ("hazard", "no flag MTE2_S"),
    "index_without_flag": ("hazard", "write after write in UB .* no flag V_S"),
    "scalar_write_without_flag": ("hazard", "no flag S_V"),
    "stale_cache_line": ("dcache", "stale cache line of out"),
    "cache_line_not_written_back": ("dcache", "no DataCacheCleanAndInvalid wrote back"),
    "cache_line_address": ("alignment", "byte 12 of out is no multiple of 64"),
    "scalar_address": ("alignment", "byte 4 of in is no multiple of 8"),
    "second_pipe": ("resource", "a second TPipe"),
    "unified_buffer_full": ("overflow", "190016 bytes of UB on top of 14336, a kernel has 196352"),
    "cube_memory_on_aiv": ("core_type", "AIV0 block 0 has no L1"),
    "no_path_to_l1": ("position", "no path from UB to L1"),
    "merge_valid_bit": ("argument", "validBit is 5"),
    "merge_result_without_flag": ("hazard", "no V_S flag"),
    "merge_result_of_a_whole_merge": ("argument", "without ifExhaustedSuspension"),
    "gather_count_of_a_mask_without_flag": ("hazard", "GetGatherMaskRemainCount: no V_S flag"),
    "gathered_more_than_there_is_room": ("overflow", "keeps 64 elements, dst has room for 32"),
    "reduce_result_without_flag": ("hazard", "read after write in UB .* no flag V_S"),
    "mask_without_flag": ("hazard", "read after write in UB .* no flag V_S"),
    "gather_count_without_flag": ("hazard", "GetGatherMaskRemainCount: no V_S flag"),
    "gather_count_by_reference": ("argument", "count is -1"),
    "merge_repeat": ("argument", "repeatTimes > 1 needs four lists"),
    "sort_alignment": ("alignment", "no multiple of 256"),
    "gather_offset": ("argument", r"srcOffset\[0\] \+ base is 2048 in a source of 2048 bytes"),
    "reduce_alignment": ("alignment", "no multiple of 8"),
    "atomic_type": ("argument", "SetAtomicAdd was set for another type"),
}
CUBE = {
    "tpipe_event": ("flag", "TPipe sets ids 0-2"),
    "missing_flag_l1": ("hazard", "in L1 .* no flag MTE2_MTE1"),
    "missing_flag_l0": ("hazard", "in L0A .* no flag MTE1_M"),
    "missing_flag_l0c": ("hazard", "in L0C .* no flag M_FIX"),
    "missing_flag_l0_reuse": ("hazard", "write after read in L0A .* no flag M_MTE1"),
    "event_set_again_by_the_cube": (
        "flag",
        rf"SetFlag<HardEvent::M_MTE1>\(5\): {SET_AGAIN}.* after Mmad at",
    ),
    "missing_barrier_between_products": ("hazard", "in L0C .* no PipeBarrier<PIPE_M>"),
    "k_padding": ("uninitialised", "column of B 0 is defined in part, not at k = 56: K is padded"),
    "row_nobody_wrote": ("uninitialised", "row of A 31 of 32 was never defined"),
    "fractal_not_loaded": ("overflow", "fm reads bytes"),
    "column_distance": ("argument", "32 rows do not fit between columns that are 16 rows apart"),
    "l0_alignment": ("alignment", "L0A address 256, which is no multiple of 512"),
    "l0c_alignment": ("alignment", "L0C address 64, which is no multiple of 1024"),
    "load_repeat": ("argument", "repeatTimes is 256"),
    "load_past_l1": ("overflow", r"src reads bytes \[2560, 6144\) of a tensor of 4096"),
    "product_size": ("argument", "m is 4096, allowed are 0 to 4095"),
    "product_past_l0c": ("overflow", "filter reads bytes"),
    "transposed_squares_collide": ("overlap", "lands on the first one of the next"),
    "fixpipe_n": ("argument", "nSize is 40, it must be a multiple of 16"),
    "fixpipe_mode": ("argument", "quantPre is 0, float to bfloat16_t needs 2"),
    "fixpipe_stride": ("argument", "dstStride is 128 bytes, parts of 256 bytes overlap"),
    "fixpipe_source_stride": ("argument", "srcStride is 16 rows, less than mSize 32"),
    "fixpipe_past_the_output": ("redzone", "of GM tensor out, which has 16384"),
    "fixpipe_rows_nobody_computed": ("uninitialised", "byte 128 of output out"),
    "l1_full": ("overflow", "a kernel has 524032"),
    "vector_on_aic": ("core_type", "must be in UB, which AIC block 0 does not have"),
    "vector_barrier_on_aic": ("core_type", "AIC block 0 has no pipe V"),
}
CROSS = {
    "race_on_one_range": ("hazard", "write after write in GM tensor out .* no cross-core flag"),
    "read_without_cross_core_flag": (
        "hazard",
        "(read after write|write after read) in GM tensor workspace .* no cross-core flag",
    ),
    "cross_core_flag_of_another_pipe": ("hazard", "read after write in GM tensor workspace .* no cross-core flag"),
    "cross_core_flag_not_waited": ("cross_core", "ends with cross-core flag 5 not waited for"),
    "cross_core_wait_for_nothing": ("deadlock", r"AIC block 1 waits in CrossCoreWaitFlag\(6\)"),
    "barrier_without_one_core": ("deadlock", r"AIV0 block 0 waits in CrossCoreWaitFlag\(7\).* its partners did not"),
    "circular_wait": (
        "deadlock",
        r"AIC block 0 waits in CrossCoreWaitFlag\(1\).*AIV0 block 0 waits in CrossCoreWaitFlag\(2\)",
    ),
    "sync_all_without_aic": ("deadlock", r"AIV0 block 0 waits in CrossCoreWaitFlag\(13\)"),
    "counter_overflow": ("cross_core", "counter of cross-core flag 3 .* passes 15"),
    "two_modes_on_one_id": ("cross_core", "while sets of mode 0 with this id are outstanding"),
    "cross_core_id": ("cross_core", "ids are 0-15"),
    "id_of_sync_all": ("cross_core", "SyncAll uses ids 11-14"),
    "mode_1_on_aic": ("cross_core", "mode 1 is for AIVs"),
    "credit_given_too_early": ("hazard", "write after read in GM tensor workspace .* no cross-core flag"),
}
BARE = {"atomic_mode_of_another_kernel": ("argument", "nobody set the atomic mode")}
GROUPS = (VECTOR, CUBE, CROSS, BARE)
FAULTS = {name: fault for group in GROUPS for name, fault in group.items()}


@pytest.fixture(scope="module")
def library() -> Library:
    return build(SOURCE, ["fault"])


def launch(library: Library, name: str, seed: int, flags: str = "bits", out: Arg | None = None) -> Report:
    values = np.linspace(1, 2, 4096, dtype=np.float32)
    key = [name in group for group in GROUPS].index(True)
    tiling = Tiling(np.array([NAMES.index(name), 0], np.int32))
    args = [In("in", values), out or Out("out", 4096, np.float32), Workspace(8192), tiling]
    return library.launch("fault", args, blocks=2, tiling_key=key, seed=seed, workers=1, timeout=20, flags=flags)


def place_of(name: str) -> tuple[Path, int]:
    """The file and the marked line of a fault; line 0 if it has none, because the fault is in what a core leaves."""
    file, text = next((file, text) for file, text in TEXTS.items() if f"FAULT({name})" in text)
    start = text.index(f"FAULT({name})")
    end = text.find("FAULT(", start + 6)
    mark = text.find("// here", start, end if end > 0 else len(text))
    return SOURCE.parent / file, text.count("\n", 0, mark) + 1 if mark > 0 else 0


@pytest.mark.parametrize("seed", [0, 4])
@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found(library: Library, name: str, seed: int) -> None:
    kind, message = FAULTS[name]
    errors = launch(library, name, seed).errors
    found = [error for error in errors if error.kind == kind and re.search(message, error.message)]
    assert found, "\n".join(map(str, errors)) or "nothing reported"
    # Which of two unordered accesses comes second, and is reported, depends on the order.
    path, line = place_of(name)
    if line and (seed == 0 or "GM tensor" not in message):
        assert (Path(found[0].file), found[0].line) == (path, line), str(found[0])


def test_every_fault_is_in_the_table() -> None:
    assert sorted(FAULTS) == sorted(NAMES)
    assert len(NAMES) >= 30
    assert sum(place_of(name)[1] == 0 for name in NAMES) == 2


@pytest.mark.parametrize(
    "name", ["missing_flag_in", "missing_barrier", "flag_set_too_early", "read_without_cross_core_flag"]
)
def test_a_missing_flag_changes_what_is_executed(library: Library, name: str) -> None:
    """In random order an instruction can run before what it needs, and then reads undefined memory."""
    assert not [error for error in launch(library, name, 0).errors if error.kind == "uninitialised"]
    kinds = [{error.kind for error in launch(library, name, seed).errors} for seed in range(1, 17)]
    if name == "read_without_cross_core_flag":
        assert all("hazard" in kind for kind in kinds)
    else:
        assert any("uninitialised" in kind for kind in kinds)


@pytest.mark.parametrize("name", ["event_set_again", "event_set_again_by_the_cube"])
def test_a_second_set_is_lost_or_counts(library: Library, name: str) -> None:
    """With late pipes and flags that are bits, an event that is set again is a deadlock. If flags count, the results
    are right, and only the clocks show the fault."""
    want, got = (Out("out", 4096, np.float32) for _ in range(2))
    launch(library, name, 0, out=want)
    event = "S_MTE3" if name == "event_set_again" else "M_MTE1"
    path, line = place_of(name)
    waits = rf"waits for HardEvent::{event}\(5\) at {path.name}:\d+, whose set at {path.name}:{line} was lost"
    deadlocks = 0
    for seed in range(1, 17):
        kinds = {error.kind: error for error in launch(library, name, seed).errors}
        assert set(kinds) <= {"flag", "deadlock"}
        assert "flag" in kinds
        if "deadlock" in kinds:
            deadlocks += 1
            assert re.search(waits, kinds["deadlock"].message), kinds["deadlock"]
        assert [error.kind for error in launch(library, name, seed, "counts", got).errors] == ["flag"]
        np.testing.assert_array_equal(got.array.view(np.uint32), want.array.view(np.uint32))
    assert deadlocks >= 3


@pytest.mark.parametrize(
    ("name", "early", "late"),
    [
        ("gather_count_without_flag", 64, 32),  # that of the GatherMask before it
        ("gather_count_of_a_mask_without_flag", 64, -1),  # rubbish: there was none
        ("merge_result_without_flag", 8, 65535),
        ("reduce_result_without_flag", None, np.nan),  # what UB held
        ("mask_without_flag", 0, 255),
    ],
)
def test_what_is_read_too_early_is_what_was_there(
    library: Library, name: str, early: float | None, late: float
) -> None:
    """Special registers and UB are read when the scalar unit asks, not when the instruction that fills them is done."""
    told = []
    for seed in range(17):
        out = Out("out", 4096, np.float32)
        assert "hazard" in {error.kind for error in launch(library, name, seed, out=out).errors}
        told.append(out.array[0])
    if early is not None:
        assert told[0] == early
        assert set(told) <= {early, late}
    assert any(np.array_equal(value, late, equal_nan=True) for value in told), told


# What must not compile.
HEAD = """#include "kernel_operator.h"
using namespace AscendC;
LocalTensor<float> f32; LocalTensor<half> f16; LocalTensor<bfloat16_t> bf16;
LocalTensor<int8_t> s8; LocalTensor<uint8_t> u8; LocalTensor<int32_t> s32; LocalTensor<uint32_t> u32;
GlobalTensor<float> gm_f32; GlobalTensor<bfloat16_t> gm_bf16;
FixpipeParamsV220 fix; MmadParams mm; uint64_t kept;
constexpr RoundMode kNone = RoundMode::CAST_NONE, kRint = RoundMode::CAST_RINT, kTrunc = RoundMode::CAST_TRUNC;
"""
LEGAL = {
    "bfloat16 is filled": "Duplicate(bf16, bfloat16_t(), 16);",
    "bfloat16 is cast": "Cast(f32, bf16, kNone, 16);",
    "int8 comes from half": "Cast(s8, f16, kTrunc, 16);",
    "Fixpipe to L1 converts": "Fixpipe<half, int32_t, CFG_NZ>(f16, s32, fix);",
    "Fixpipe to rows": "Fixpipe<bfloat16_t, float, CFG_ROW_MAJOR>(gm_bf16, f32, fix);",
    "product": "Mmad(s32, s8, s8, mm);",
}
ILLEGAL = {
    "bfloat16 addition": "Add(bf16, bf16, bf16, 16);",
    "bfloat16 exponential": "Exp(bf16, bf16, 16);",
    "bfloat16 reduction": "WholeReduceMax(bf16, bf16, 64, 1, 1, 1, 8);",
    "bfloat16 scalars": "bfloat16_t() + bfloat16_t();",
    "division of integers": "Div(s32, s32, s32, 16);",
    "int8 addition": "Add(s8, s8, s8, 32);",
    "int8 fill": "Duplicate(s8, int8_t{0}, 32);",
    "cast of float to int8": "Cast(s8, f32, kRint, 32);",
    "cast of int8 to float": "Cast(f32, s8, kNone, 32);",
    "cast of int8 to int32": "Cast(s32, s8, kNone, 32);",
    "cast of int8 to bfloat16": "Cast(bf16, s8, kNone, 32);",
    "cast of int32 to bfloat16": "Cast(bf16, s32, kRint, 32);",
    "cast of int32 to int8": "Cast(s8, s32, kNone, 32);",
    "cast of half to bfloat16": "Cast(bf16, f16, kRint, 32);",
    "cast of bfloat16 to half": "Cast(f16, bf16, kRint, 32);",
    "operands of different types": "Add(f32, f32, f16, 16);",
    "scalar of another type": "Muls(f32, f32, 2, 16);",
    "product of int8 to float": "Mmad(f32, s8, s8, mm);",
    "product of half to half": "Mmad(f16, f16, f16, mm);",
    "product of different types": "Mmad(f32, f16, bf16, mm);",
    "disableGemv": "mm.disableGemv = true;",
    "Fixpipe of int32 to bfloat16": "Fixpipe<bfloat16_t, int32_t, CFG_ROW_MAJOR>(gm_bf16, s32, fix);",
    "Fixpipe of int32 to float": "Fixpipe<float, int32_t, CFG_ROW_MAJOR>(gm_f32, s32, fix);",
    "Fixpipe to L1 without conversion": "Fixpipe<float, float, CFG_NZ>(f32, f32, fix);",
    "vector quantisation in Fixpipe": "fix.quantPre = QuantMode_t::VDEQF16;",
    "transposing load of float": "LoadDataWithTranspose(f32, f32, LoadData2dTransposeParams());",
    "barrier of the scalar pipe": "PipeBarrier<PIPE_S>();",
    "cross-core flag of all pipes": "CrossCoreSetFlag<0, PIPE_ALL>(0);",
    "cross-core mode 4": "CrossCoreSetFlag<4, PIPE_MTE3>(0);",
    "an event that does not exist": "SetFlag<HardEvent::V_FIX>(0);",
    "gather mask of bytes": "GatherMask(u8, u8, uint8_t{1}, false, 0, GatherMaskParams(), kept);",
    "sort of integers": "Sort32(s32, s32, u32, 1);",
    "atomic addition of uint32": "SetAtomicAdd<uint32_t>();",
    "comparison, not modelled": "Compare(u8, f32, f32, CMPMODE::LT, 64);",
    "selection, not modelled": "Select(f32, u8, f32, f32, 0, 64);",
    "queues, not modelled": "TQue<TPosition::VECIN, 1> queue;",
    "double": "LocalTensor<double> x;",
}


def unit(bodies: list[str]) -> str:
    return HEAD + "".join(f"void f{i}() {{ {body} }}\n" for i, body in enumerate(bodies))


def test_what_must_and_must_not_compile() -> None:
    """Illegal calls share a unit, and the compiler must complain about each line; one that it does not name, alone."""
    result = syntax_check(unit(list(LEGAL.values())))
    assert result.returncode == 0, result.stderr
    result = syntax_check(unit(list(ILLEGAL.values())))
    named = {int(line) for line in re.findall(r"<stdin>:(\d+):", result.stderr)}
    first = HEAD.count("\n") + 1
    for i, (name, body) in enumerate(ILLEGAL.items()):
        assert first + i in named or syntax_check(unit([body])).returncode != 0, name
