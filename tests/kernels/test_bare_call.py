"""The bare call refuses what NumPy allows and a kernel cannot take; nothing is written then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import arguments
import cases
import guarded
import numpy as np
import pytest

from ms_dsv32 import kernel_impl, op_info

Inputs = dict[str, Any]


def without(name: str) -> Callable[[Inputs], Inputs]:
    return lambda inputs: {n: a for n, a in inputs.items() if n != name}


def with_(name: str, change: Callable[[Any], Any]) -> Callable[[Inputs], Inputs]:
    return lambda inputs: {**inputs, name: change(inputs.get(name))}


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


def unaligned(array: Any) -> Any:
    moved = np.frombuffer(bytearray(array.nbytes + 1), array.dtype, array.size, 1).reshape(array.shape)
    moved[...] = array
    return moved


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (without("cos"), TypeError, "cos is missing"),
        (with_("bias", lambda _: np.zeros(1)), TypeError, "there is no input bias"),
        (with_("w_uk", lambda _: None), TypeError, "w_uk must be a NumPy array of bfloat16, got NoneType"),
        (with_("cache_index", lambda a: a.tolist()), TypeError, "cache_index must be a NumPy array of int64, got list"),
        (with_("kv_cache", lambda _: "x"), TypeError, "kv_cache must be a NumPy array of int8, got str"),
        (with_("token_x", lambda a: [[*row] for row in a]), TypeError, "token_x must be a NumPy array"),
        (with_("cos", lambda a: a.astype("U1")), TypeError, "cos must be bfloat16, got str"),
        (with_("sin", lambda a: a.astype(object)), TypeError, "sin must be bfloat16, got object"),
        (with_("cache_index", lambda a: a.astype(">i8")), TypeError, "cache_index must be int64 in the machine's byte"),
        (with_("cache_index", unaligned), ValueError, "cache_index must be aligned to 8 bytes"),
        (with_("kr_cache", read_only), ValueError, "kr_cache must be writeable"),
        (
            with_("token_x", lambda a: np.asfortranarray(np.repeat(a, 2, 0))[:2]),
            ValueError,
            "token_x must be contiguous",
        ),
    ],
)
def test_inputs(change: Callable[[Inputs], Inputs], error: type[Exception], text: str) -> None:
    case = cases.mla_prolog_case(2, 1, 1).copy()
    before = {name: case.inputs[name].copy() for name in ("kv_cache", "kr_cache", "k_scale_cache")}
    with pytest.raises(error, match=f"mla_prolog_quant: {text}"):
        kernel_impl.call("mla_prolog_quant", change(case.inputs), case.attributes)
    for name, array in before.items():
        np.testing.assert_array_equal(case.inputs[name].view(np.uint8), array.view(np.uint8))


@pytest.mark.parametrize("operator", op_info.names())
def test_an_attribute_is_missing(operator: str) -> None:
    """The library itself reports it, because Python only fills in defaults."""
    info = op_info.load(operator)
    case = arguments.base(operator)
    arrays = [case.inputs[arg.name] for arg in info.required_inputs]
    call = (operator, [a.shape for a in arrays], [arg.ms_dtype for arg in info.required_inputs])
    attrs = op_info.bind_attrs(info, case.attributes)
    needed = {attr.name for attr in info.kernel_attrs if not attr.optional}
    for name in attrs:
        others = {n: v for n, v in attrs.items() if n != name}
        if name in needed:
            with pytest.raises(TypeError, match=f"^{operator}: attribute {name} is missing$"):
                kernel_impl.validate(*call, others)
        else:
            kernel_impl.validate(*call, others)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 2**64 + 16])
def test_an_attribute_does_not_wrap(value: int) -> None:
    case = cases.indexer_case(1, 1, kv_lens=130)
    with pytest.raises(ValueError, match=rf"selected_count = {value} does not fit 64 bits"):
        kernel_impl.call("lightning_indexer_quant", case.inputs, {"selected_count": value})


@pytest.mark.parametrize("value", [10**5000, -(10**400)], ids=["long", "negative"])
def test_an_int_that_python_does_not_print(value: int) -> None:
    attention = cases.attention_case(1, 1, 1, 5, topk=8)
    for name, text in (("topk", "does not fit 64 bits"), ("softmax_scale", "must be finite, got an int of")):
        with pytest.raises(ValueError, match=rf"sparse_flash_attention_quant: {name}.* {text}"):
            kernel_impl.call(attention.operator, attention.inputs, {**attention.attributes, name: value})


@pytest.mark.parametrize("text", ["PA_BSND\0x", "\0", "PA_BSND\0"])
def test_a_text_does_not_end_at_nul(text: str) -> None:
    case = cases.mla_prolog_case(1, 1, 1)
    with pytest.raises(ValueError, match=r"mla_prolog_quant: cache_mode must have no NUL, got '.*\\x00"):
        kernel_impl.call("mla_prolog_quant", case.inputs, {**case.attributes, "cache_mode": text})


@pytest.mark.parametrize("text", ["\ud800", "PA_BSND\udcff", "\u4e2d"])
def test_a_text_may_be_what_utf8_cannot_encode(text: str) -> None:
    case = cases.mla_prolog_case(1, 1, 1)
    with pytest.raises(ValueError, match=r"mla_prolog_quant: cache_mode must be 'PA_BSND', got '"):
        kernel_impl.call("mla_prolog_quant", case.inputs, {**case.attributes, "cache_mode": text})


@pytest.mark.parametrize("count", [True, 2.0, "2", None])
def test_the_number_of_threads_is_an_integer(count: Any) -> None:
    before = kernel_impl.thread_count()
    with pytest.raises(TypeError, match="set_thread_count: count must be an int, got "):
        kernel_impl.set_thread_count(count)
    assert kernel_impl.thread_count() == before


def test_the_largest_number_of_threads() -> None:
    try:
        kernel_impl.set_thread_count(1024)
        assert kernel_impl.thread_count() == 1024
    finally:
        kernel_impl.set_thread_count(0)
    with pytest.raises(ValueError, match=r"count must be in \[0, 1024\], got 1025"):
        kernel_impl.set_thread_count(1025)


def test_floats_of_a_call_are_its_own() -> None:
    """Those that were bound count again in the next call."""
    case = cases.mla_prolog_case(1, 1, 1).with_attributes(epsilon_cq=0.25, epsilon_ckv=0.5)
    info, bound = op_info.load(case.operator), guarded.bind(case)
    arrays = list(case.copy().inputs.values())
    results = []
    for floats in ((), (0.5, 0.25), ()):
        outs = [np.zeros(s, o.np_dtype) for s, o in zip(bound.out_shapes, info.kernel_outputs, strict=True)]
        bound([a.ctypes.data for a in (*arrays, *outs)], floats)
        results.append([array.tobytes() for array in (*outs, *arrays[-3:])])
    assert results[0] == results[2]
    assert results[0] != results[1]


def test_a_transposed_weight_is_packed_as_its_copy() -> None:
    weight = np.arange(64 * 128, dtype=np.int64).astype(np.int8).reshape(64, 128).T
    assert kernel_impl.pack(weight).tobytes() == kernel_impl.pack(np.ascontiguousarray(weight)).tobytes()


def test_a_weight_to_pack_is_an_array() -> None:
    with pytest.raises(TypeError, match="pack: weight must be a NumPy array, got list"):
        kernel_impl.pack([[1, 2], [3, 4]])  # type: ignore[arg-type]


@pytest.mark.parametrize("axis", [2**32, 2**62, 2**63 - 1])
def test_sizes_that_64_bits_do_not_hold(axis: int) -> None:
    """Products of axes are not computed modulo 2^64: 2^32 sequences of 2^32 tokens are not 0 tokens."""
    info = op_info.load("lightning_indexer_quant")
    shapes = {
        "q_int8": (axis, axis, 64, 128),
        "q_scale": (axis * axis % 2**64 % 2**63, 64, 1),
        "weights": (axis, axis, 64),
        "k_cache": (4, 128, 1, 128),
        "k_cache_scale": (4, 128, 1, 1),
        "block_table": (axis, 1),
        "kv_act_seqs": (axis,),
    }
    with pytest.raises(ValueError, match="lightning_indexer_quant: q_scale has shape"):
        kernel_impl.validate(
            info.name,
            [shapes[arg.name] for arg in info.required_inputs],
            [arg.ms_dtype for arg in info.required_inputs],
            op_info.bind_attrs(info, {}),
        )


@pytest.mark.parametrize(("shapes", "dtypes"), [(3, 3), (3, 4), (4, 3), (5, 5)])
def test_the_number_of_tensors(shapes: int, dtypes: int) -> None:
    text = f"mla_epilog_quant: takes 4 tensors, got {shapes} shapes and {dtypes} dtypes"
    with pytest.raises(TypeError, match=f"^{text}$"):
        kernel_impl.BoundCall("mla_epilog_quant", [(1, 2, 512)] * shapes, ["bfloat16"] * dtypes, {})


def test_the_optional_tensor_may_be_left_out_with_its_dtype_alone() -> None:
    info = op_info.load("lightning_indexer_quant")
    text = "takes 8 tensors, got 7 shapes and 8 dtypes"
    with pytest.raises(TypeError, match=f"^{info.name}: {text}$"):
        kernel_impl.BoundCall(info.name, [(1,)] * 7, [arg.ms_dtype for arg in info.inputs], {})


def test_more_axes_than_any_tensor_has() -> None:
    case = cases.mla_prolog_case(2, 1, 1).copy()
    case.inputs["token_x"] = case.inputs["token_x"].reshape(2, *[1] * 7, 7168)
    with pytest.raises(ValueError, match=r"^mla_prolog_quant: token_x has 9 axes, expected 2$"):
        kernel_impl.call(case.operator, case.inputs, case.attributes)


def test_numbers_of_numpy_are_attributes() -> None:
    case = cases.with_lse(cases.attention_case(1, 1, 1, 3, topk=8))
    kinds = {bool: np.bool_, int: np.int64, float: np.float64}
    attributes = {n: kinds[type(v)](v) if type(v) in kinds else v for n, v in case.attributes.items()}
    assert {type(value) for value in attributes.values()} >= {np.bool_, np.int64, np.float64}
    for got, want in zip(
        kernel_impl.call(case.operator, case.inputs, attributes),
        kernel_impl.call(case.operator, case.inputs, case.attributes),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)


def test_a_dimension_without_a_maximum() -> None:
    case = cases.attention_case(1, 1, 1, 3, topk=8).with_attributes(max_blocknum_perbatch=-1)
    text = r"max_blocknum_perbatch must be max_blocknum_perbatch in \[0, inf\), got -1"
    with pytest.raises(ValueError, match=f"^sparse_flash_attention_quant: {text}$"):
        kernel_impl.call(case.operator, case.inputs, case.attributes)


def test_the_library_does_not_know_the_operator() -> None:
    """Python asks op_info before it."""
    with pytest.raises(ValueError, match=r"^there is no operator mla$"):
        kernel_impl._checked(kernel_impl.load().ms_dsv32_check, b"mla", None, None, None, 0, None, None, None)
