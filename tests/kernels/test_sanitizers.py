"""The kernel library under AddressSanitizer with UndefinedBehaviorSanitizer, and under ThreadSanitizer.

NumPy's buffers and the driver's are of exactly the arrays' sizes, so that a read beyond one shows.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import cases
import driver
import pytest
import tolerance
from bare_kernels import pack, prolog
from fuzz import campaign, draw, judge
from fuzz.worker import Job

from ms_dsv32 import kernel_impl

HERE = Path(__file__).resolve().parent
COMPILER = os.environ.get("CXX", "g++").split()[0]
ALL_FILES = ("operators", "values", "topk", "attention_rows")
PAIR = ("mla_prolog_quant", "lightning_indexer_prolog_quant")
LARGEST = (
    *("operators.py::test_prolog[b=1-s1=33-", "operators.py::test_packed_weights_give_the_same_bits[t=40-"),
    *(
        "operators.py::test_the_later_of_two_tokens_wins[t=70-",
        "operators.py::test_a_tokens_bits_do_not_depend_on_blocks",
    ),
    *(f"operators.py::test_prolog_heads[{name}-n_q=128]" for name in ("mla_prolog_quant", "mla_indexer_prolog_quant")),
    "operators.py::test_a_tokens_hidden_state_does_not_depend_on_threads_or_batch_mates[t=130]",
    # Two cases of as many keys, but with few heads, are left.
    *(f"operators.py::test_attention[b=1-s1={s1}-n_q=128-kv={kv}]" for s1, kv in ((4, 2049), (1, 2047))),
    *(f"operators.py::test_epilog[n_q=16-t={t}]" for t in (5, 6, 7, 31, 32, 33, 127, 128, 129)),
    *(f"operators.py::test_epilog[n_q={n_q}-t={t}]" for n_q, t in ((1, 127), (1, 128), (1, 129), (3, 127), (3, 128))),
    *(
        f"attention_rows.py::test_any_width_and_heads[n_q={n_q}-topk={topk}]"
        for n_q in (37, 128)
        for topk in (1000, 2048)
    ),
)
REPEATED = (
    # The fused prolog, whose tests are kept, runs the same stages.
    *(f"operators.py::test_a_tokens_bits_do_not_depend_on_threads_or_batch_mates[{name}]" for name in PAIR),
    *(f"operators.py::test_padding_tokens_write_no_row_and_still_compute[{name}]" for name in PAIR),
    *("operators.py::test_prolog_takes_a_split_token_axis", "operators.py::test_the_fused_prolog_is_the_pair"),
    # Other tests run the same shapes. Special values change no address.
    *("operators.py::test_every_nan_that_is_made_is_the_same_one", "operators.py::test_subnormals"),
    "operators.py::test_nan_and_inf_stay_with_their_token[bad=32640-",
    *(f"operators.py::test_nan_and_inf_stay_with_their_token[bad=32704-{name}]" for name in PAIR),
    "operators.py::test_epilogs_sums",
    *(
        f"topk.py::test_random_scores[selected_count={count}-seed={seed}]"
        for count in (1, 100, 2048)
        for seed in (1, 2, 3)
    ),
    *(f"topk.py::test_{name}" for name in ("every_int8_value", "every_pair_of_signs", "one_lowest_value")),
    # Threads share tokens: one number of threads of each kind is left, as many as tokens are left over, and more.
    *(f"attention_rows.py::test_threads_and_batch_mates_change_no_bit[t={t}-" for t in (2, 4)),
    *(
        f"attention_rows.py::test_threads_and_batch_mates_change_no_bit[t={t}-threads={threads}]"
        for t in (1, 7)
        for threads in (1, 2)
    ),
)
"""Tests without a path of their own and the largest cases are left out: instrumented kernels are ten times slower."""

pytestmark = [pytest.mark.isa, pytest.mark.slow]


def runtime(name: str) -> str:
    """The path of a sanitizer's run-time library; skips the test if the compiler has none."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"there is no compiler {COMPILER}")
    path = driver.run(COMPILER, f"-print-file-name={name}").stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip(f"{COMPILER} has no {name}")
    return path


ISAS = kernel_impl.isas()
# The checks of arguments are compiled once. The wide sets also share the source of the indexer. Apart from it, the
# sources of avx512_bf16 are those of amx, except for products on tiles (gemm_amx.h) and the products of attention
# (attention_tiles.h).
FILES = dict.fromkeys(ISAS, ("operators", "topk", "attention_rows")) | {ISAS[0]: ALL_FILES}
if "amx" in ISAS:
    FILES |= {"avx512": ("operators", "attention_rows"), "avx512_bf16": ("attention_rows",)}


@pytest.fixture(scope="module")
def address_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runtime("libasan.so")
    runtime("libubsan.so")
    folder = tmp_path_factory.mktemp("address")
    flags = "-Og -g1 -w -fno-sanitize-recover=all"  # -O1 costs more time to compile than it saves in the tests
    isas = ",".join(ISAS)
    return driver.build_library(folder, MS_DSV32_SANITIZE="address,undefined", MS_DSV32_ISAS=isas, CXXFLAGS=flags)


def sanitized(library: Path) -> dict[str, str]:
    """The variables of a Python whose kernel library is one with AddressSanitizer."""
    return {
        "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps what it allocates
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "MS_DSV32_LIBRARY": str(library),
    }


@pytest.mark.parametrize("isa", ISAS)
def test_addresses_and_undefined_behaviour(isa: str, address_library: Path) -> None:
    folder = HERE.relative_to(driver.ROOT)
    result = driver.run(
        *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow"),
        *(f"--deselect={folder}/test_{case}" for case in (*LARGEST, *REPEATED)),
        *(folder / f"test_{name}.py" for name in FILES[isa]),
        cwd=driver.ROOT,
        MS_DSV32_CPU_ISA=isa,
        **sanitized(address_library),
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-5000:]


@pytest.mark.parametrize("isa", ISAS[:1])
def test_fuzz(isa: str, address_library: Path) -> None:
    """Random calls, bad ones too: what refuses them reads their shapes, dtypes, attributes and indices."""
    job = Job("library", campaign.OPERATORS, seed=18, calls=240, good=8, threads=2)
    result = campaign.run(job, {**sanitized(address_library), "MS_DSV32_CPU_ISA": isa})
    assert not result.failures, "\n".join(map(str, result.failures))


@pytest.fixture(scope="module")
def thread_programs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The driver and the library. Python itself is left out: its allocator and NumPy's threads are not instrumented."""
    runtime("libtsan.so")
    folder = tmp_path_factory.mktemp("thread")
    best = kernel_impl.isas()[0]
    library = driver.build_library(folder, MS_DSV32_SANITIZE="thread", MS_DSV32_ISAS=best, CXXFLAGS="-O1 -g1 -w")
    return driver.build_driver(folder, COMPILER, "-fsanitize=thread", "-g"), library


def random_calls(operator: str) -> list[draw.Trial]:
    """Good calls of the fuzz."""
    shared = draw.group(operator, 18, 0)
    drawn = (shared.good(draw.generator(operator, 18, 0, i)) for i in range(6))
    return [trial for trial in drawn if trial.compared.size][:3]


@pytest.mark.parametrize("hosts", ["in-turn", "together"])
def test_threads(hosts: str, thread_programs: tuple[Path, Path], tmp_path: Path) -> None:
    """Every operator on four threads, called from one host thread after the other, and from all of them at once."""
    weighted = [
        prolog("mla_prolog_quant", 1, 5, n_q=4),
        prolog("lightning_indexer_prolog_quant", 1, 5),
        prolog("mla_indexer_prolog_quant", 1, 3, n_q=1),
        cases.mla_epilog_case(1, 7, 3),
    ]
    made = [
        *weighted,
        *map(pack, weighted),
        cases.with_lse(cases.attention_case(2, 2, 16, [300, 2100])),
        cases.attention_case(3, 1, 16, 129),
        cases.indexer_case(3, 2, [5, 4000, 2100]),
    ]
    random = [trial for operator in campaign.OPERATORS for trial in random_calls(operator)]
    made += [trial.case for trial in random]
    calls = driver.Calls(tmp_path)
    paths = [calls.write(case) for case in made]
    result = driver.run(*thread_programs, hosts, *paths, MS_DSV32_NUM_THREADS="4", TSAN_OPTIONS="halt_on_error=1")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-5000:]
    got = [calls.results(case, path) for case, path in zip(made, paths, strict=True)]
    for case, outputs in zip(made[: -len(random)], got[: -len(random)], strict=True):
        if case.attributes.get("weight_format") != "PACKED":  # unknown to the golden reference
            case.check(outputs)
    for trial, outputs in zip(random, got[-len(random) :], strict=True):
        with tolerance.pooled(tolerance.Pool()):
            judge.good(trial, {name: outputs[name] for name in trial.case.outputs})
    for row_major, packed in zip(got[:4], got[4:8], strict=True):
        tolerance.assert_same_outputs(packed, row_major)
