"""Matrix products through every modelled path, against NumPy; copies with gaps and padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from emulator import EmulatorError, In, InOut, Library, Out, Tiling, build

from ms_dsv32.weights import to_nz

SOURCE = Path(__file__).resolve().parent.parent / "ascendc_emulator" / "tests" / "cube_cases.cpp"
TYPES = ["bf16_float", "bf16_bf16", "half_half", "int8_int32", "int8_half"]


@pytest.fixture(scope="module")
def library() -> Library:
    return build(SOURCE, [*(f"product_{name}" for name in TYPES), "copy_forms"])


def bf16(x: np.ndarray) -> np.ndarray:
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def operands(name: str, m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Values whose products and sums float holds exactly, so that the order of adding does not matter."""
    rng = np.random.default_rng(m * 10000 + n * 100 + k)
    if name.startswith("int8"):
        return rng.integers(-128, 128, (m, k)).astype(np.int8), rng.integers(-128, 128, (k, n)).astype(np.int8)
    return tuple((rng.integers(-31, 32, shape) / 8).astype(np.float16) for shape in ((m, k), (k, n)))  # type: ignore[return-value]


def product(library: Library, name: str, m: int, n: int, k: int, *, k_step: int = 64, b_form: int = 0, a_form: int = 0,
            out_form: int = 0, relu: bool = False, scale: float = 1 / 1024, mmad_m: int | None = None, seed: int = 0,
            check: bool = True) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    a, b = operands(name, m, n, k)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    store = bf16 if name.startswith("bf16") else lambda x: x
    c0 = 32 if name.startswith("int8") else 16
    a_stored = a.T if a_form == 2 else a
    b_stored = {0: b.T, 1: b, 2: b.reshape(k, -1, c0).transpose(1, 0, 2)}[b_form]
    dtype = {"float": np.float32, "bf16": np.uint16, "half": np.float16, "int32": np.int32}[name.split("_")[1]]
    out = Out("out", (m, n), dtype)
    fields = [m, n, k, k_step, mmad_m or max(m, 2), b_form, a_form, out_form, relu]
    tiling = np.array([*fields, np.float32(scale).view(np.uint32)], np.int64).astype(np.uint32)
    args = [
        In("a", store(np.ascontiguousarray(a_stored))),
        In("b", store(np.ascontiguousarray(b_stored))),
        out,
        Tiling(tiling),
    ]
    report = library.launch(f"product_{name}", args, kernel_type="AIC_ONLY", seed=seed)
    if check:
        report.check()
    kept = np.float32(scale).view(np.uint32) & np.uint32(0xFFFFE000)  # the low 13 bits of the scale do not count
    expected = exact.astype(np.float32)
    if name == "int8_half":
        expected = expected * kept.view(np.float32)
    if relu:
        expected = np.maximum(expected, 0)
    with np.errstate(over="ignore"):
        expected = bf16(expected) if dtype == np.uint16 else expected.astype(dtype)
    got = out.array
    if out_form:
        got = got.reshape(-1, m, 16).transpose(1, 0, 2).reshape(m, n)
    return got, expected


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("m", "n", "k"), [(16, 32, 64), (24, 128, 256), (1, 64, 128), (33, 96, 192), (128, 128, 128)])
@pytest.mark.parametrize("b_form", [0, 1, 2])
@pytest.mark.parametrize("name", TYPES)
def test_product(library: Library, name: str, m: int, n: int, k: int, b_form: int, seed: int) -> None:
    got, expected = product(library, name, m, n, k, b_form=b_form, seed=seed)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", TYPES)
def test_outputs(library: Library, name: str) -> None:
    for out_form in (0, 1, 2) if name in ("bf16_bf16", "half_half", "int8_half") else (0, 1):
        for relu in (False, True):
            got, expected = product(library, name, 24, 64, 128, out_form=out_form, relu=relu)
            np.testing.assert_array_equal(got, expected)


def test_k_tail(library: Library) -> None:
    """The cube ignores what lies beyond k in the last fractal. Nd2Nz fills only the tail of D with zeros."""
    for k in (70, 72, 100):
        for b_form in (0, 1):
            got, expected = product(library, "bf16_float", 16, 32, k, k_step=112, b_form=b_form)
            np.testing.assert_array_equal(got, expected)
    got, expected = product(library, "int8_int32", 16, 32, 70, k_step=96)
    np.testing.assert_array_equal(got, expected)


def test_transposed_operands(library: Library) -> None:
    for name in ("bf16_float", "half_half"):
        got, expected = product(library, name, 32, 64, 96, a_form=2, b_form=1)
        np.testing.assert_array_equal(got, expected)
        got, expected = product(library, name, 32, 64, 96, k_step=48, b_form=1)  # LoadDataWithTranspose
        np.testing.assert_array_equal(got, expected)


def test_int8_sums_beyond_what_float_holds(library: Library) -> None:
    a, b = np.full((16, 4064), -128, np.int8), np.full((32, 4064), -127, np.int8)
    out = Out("out", (16, 32), np.int32)
    tiling = Tiling(np.array([16, 32, 4064, 2016, 16, 0, 0, 0, 0, 0], np.uint32))
    library.launch("product_int8_int32", [In("a", a), In("b", b), out, tiling], kernel_type="AIC_ONLY").check()
    np.testing.assert_array_equal(out.array, 4064 * 128 * 127)


def test_scale_has_ten_mantissa_bits(library: Library) -> None:
    scale = float(np.float32(1 / 1000))
    got, expected = product(library, "int8_half", 16, 32, 64, scale=scale)
    np.testing.assert_array_equal(got, expected)
    a, b = operands("int8_half", 16, 32, 64)
    full = ((a.astype(np.float32) @ b.astype(np.float32)) * np.float32(scale)).astype(np.float16)
    assert (got != full).any()


def test_m_of_one_is_a_row(library: Library) -> None:
    """With m = 1 the cube reads A as k consecutive values: right if they lie so, wrong if A is in fractals."""
    got, expected = product(library, "half_half", 1, 64, 256, k_step=256, a_form=1, mmad_m=1)
    np.testing.assert_array_equal(got, expected)
    got, expected = product(library, "half_half", 1, 64, 256, k_step=256, a_form=0, mmad_m=1, check=False)
    assert (got != expected).any()
    with pytest.raises(EmulatorError, match="uninitialised"):
        product(library, "half_half", 1, 64, 256, k_step=256, a_form=0, mmad_m=1)


def copy(library: Library, form: int, rows: int, columns: int, stride: int, x: np.ndarray, out: np.ndarray,
         kernel_type: str = "AIV_ONLY", misalign: int = 0) -> np.ndarray:  # fmt: skip
    args = [
        In("in", x, misalign),
        InOut("out", out, misalign),
        Tiling(np.array([form, rows, columns, stride], np.int32)),
    ]
    library.launch("copy_forms", args, kernel_type=kernel_type).check()
    return out


@pytest.mark.parametrize("misalign", [0, 2, 34])
def test_copies(library: Library, misalign: int) -> None:
    x = np.arange(2 * 30 * 64).astype(np.float16)
    nz = copy(library, 0, 30, 40, 64, x, np.zeros((2, 3, 30, 16), np.float16), "AIC_ONLY", misalign)
    want = to_nz(x.view(np.uint16).reshape(2, 30, 64)[:, :, :40]).reshape(2, 3, 32, 16)[:, :, :30]
    np.testing.assert_array_equal(nz.view(np.uint16), want)
    out = copy(library, 1, 5, 47, 50, x, np.full((5, 50), 9, np.float16), misalign=misalign)
    np.testing.assert_array_equal(out[:, 1:48], x[:250].reshape(5, 50)[:, :47])
    np.testing.assert_array_equal(out[:, 0], 0)
    np.testing.assert_array_equal(out[:, 48:], 9)
    out = copy(library, 2, 6, 32, 64, x, np.full((6, 64), 9, np.float16), misalign=misalign)
    np.testing.assert_array_equal(out[:, :32], x[: 6 * 64].reshape(6, 64)[:, :32])
    np.testing.assert_array_equal(out[:, 32:], 9)
    out = copy(library, 3, 6, 16, 4, x, np.zeros((6, 16), np.float16), misalign=misalign)
    np.testing.assert_array_equal(out, np.stack([x[r * 4 : r * 4 + 16] for r in range(6)]))
    out = copy(library, 4, 1, 40, 40, x, np.full(40, 5, np.float16), misalign=misalign)
    np.testing.assert_array_equal(out, 5 + 2 * x[:40])
