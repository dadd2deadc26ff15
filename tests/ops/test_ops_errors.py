"""Bad input of every kind is named, in every mode, before anything is written; and the operators go on working."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import mindspore as ms
import numpy as np
import pytest
import tolerance
from calls import Call, Loss, bare, forget_kernels, mode, run, tensors
from mindspore import Parameter, Tensor
from mindspore.common.initializer import Zero, initializer
from refusals import refused, set_item, small

from ms_dsv32 import kernel_impl, op_info, ops, weights
from ms_dsv32.config import MlaTileConfig, RopeTileShapeConfig, SaTileShapeConfig
from ms_dsv32.ops import _custom

INPUTS = [(name, a.name) for name in op_info.names() for a in op_info.load(name).inputs]
NUMPY = {"bf16": np.uint16, "fp16": np.float16, "fp32": np.float32, "int32": np.int32, "int64": np.int64}


def changed_shape(shape: tuple[int, ...], axis: int) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        array = weights.to_array(tensor)
        return weights.to_tensor(np.zeros((*shape[:axis], shape[axis] + 1, *shape[axis + 1 :]), array.dtype))

    return change


def changed_dtype(dtype: str) -> Callable[[Tensor], Tensor]:
    return lambda tensor: weights.to_tensor(np.zeros(tensor.shape, NUMPY[dtype]))


def dims_told(operator: str) -> list[set[str | None]]:
    """The dims that each input and each attribute of an operator tells, of a call with merged token axes."""
    info = op_info.load(operator)
    inputs = ({s for axis in a.shapes[0] for s in op_info.symbols(axis)} for a in info.inputs)
    return [*inputs, *({a.binds} for a in info.attrs)]


@pytest.mark.parametrize(("operator", "name"), INPUTS)
def test_dtype_rank_and_shape_of_every_input(operator: str, name: str) -> None:
    info = next(a for a in op_info.load(operator).inputs if a.name == name)
    case = cases.ragged(small(operator), [1, 1]) if info.optional else small(operator)
    other = cases.OTHER_DTYPE[info.dtype]
    text = f"{operator}: {name} must be {info.ms_dtype}, got {op_info.DTYPES[other][0]}"
    refused(case, "pynative", TypeError, text, set_item(name, changed_dtype(other)))

    shape = case.inputs[name].shape
    flat = (int(np.prod(shape)), 1, 1, 1, 1)
    text = f"{operator}: {name} has shape {flat}"
    refused(
        case, "pynative", ValueError, text, set_item(name, lambda t: weights.to_tensor(case.inputs[name].reshape(flat)))
    )

    dims = op_info.dims()
    axes = next(s for s in info.shapes if len(s) == len(shape))
    for axis, expression in enumerate(axes):
        symbols = op_info.symbols(expression)
        wrong = (*shape[:axis], shape[axis] + 1, *shape[axis + 1 :])
        if all(dims[s].value is not None for s in symbols):
            text = f"{operator}: {name} has shape {wrong}, expected "  # a fixed axis: this argument is wrong
        elif sum(expression in told for told in dims_told(operator)) == 1:
            continue  # no other argument tells it, so any size is right
        else:
            text = f"{operator}: "  # a free axis: it contradicts some other argument, and either may be named
        refused(case, "pynative", ValueError, text, set_item(name, changed_shape(shape, axis)))
    assert run(case, "pynative")


@pytest.mark.parametrize("how", ["pynative", "graph"])
@pytest.mark.parametrize("operator", op_info.names())
def test_what_is_no_tensor(operator: str, how: str) -> None:
    case = small(operator)
    name = list(case.inputs)[2]
    refused(case, how, TypeError, f"{operator}: {name} must be a Tensor, got ", set_item(name, None))
    refused(case, how, TypeError, f"{operator}: {name} must be a Tensor, got ", set_item(name, 3))


ONE_OF_EACH: list[tuple[str, str, type[Exception], str, Any]] = [
    (
        "mla_prolog_quant",
        "w_dq",
        ValueError,
        "w_dq has shape (7169, 1536), expected (h, q_lora_rank) = (7168, 1536)",
        0,
    ),
    ("mla_prolog_quant", "kv_cache", TypeError, "kv_cache must be int8, got float16", "fp16"),
    ("mla_prolog_quant", "cos", ValueError, "cos has shape (3, 64), expected ", 0),
    (
        "lightning_indexer_prolog_quant",
        "k_cache_scale",
        TypeError,
        "k_cache_scale must be float16, got bfloat16",
        "bf16",
    ),
    ("lightning_indexer_prolog_quant", "w_proj", ValueError, "w_proj has shape (7168, 65), expected ", 1),
    ("mla_indexer_prolog_quant", "ip_wk_in", ValueError, "ip_wk_in has shape (7169, 128), expected ", 0),
    ("sparse_flash_attention_quant", "kv_act_seqs", TypeError, "kv_act_seqs must be int32, got int64", "int64"),
    ("sparse_flash_attention_quant", "query_rope", ValueError, "query_rope has shape (2, 65), expected ", 1),
    ("lightning_indexer_quant", "k_cache", ValueError, "k_cache has shape ", 3),
    (
        "mla_epilog_quant",
        "w_o",
        ValueError,
        "w_o has shape (128, 7169), expected (n_q * v_head_dim, h) = (128, 7168)",
        1,
    ),
    ("mla_epilog_quant", "attention_out", TypeError, "attention_out must be bfloat16, got float16", "fp16"),
]


@pytest.mark.parametrize("how", ["graph", "jit"])
@pytest.mark.parametrize(("operator", "name", "error", "text", "change"), ONE_OF_EACH)
def test_dtypes_and_shapes_in_a_graph(
    operator: str, name: str, error: type[Exception], text: str, change: Any, how: str
) -> None:
    case = small(operator)
    shape = case.inputs[name].shape
    value = changed_dtype(change) if isinstance(change, str) else changed_shape(shape, change)
    refused(case, how, error, f"{operator}: {text}", set_item(name, value))


BAD_ATTRIBUTES: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("mla_prolog_quant", {"cache_mode": "BNSD"}, ValueError, "cache_mode must be 'PA_BSND', got 'BNSD'"),
    ("mla_prolog_quant", {"cache_mode": 3}, TypeError, "cache_mode must be "),
    ("mla_prolog_quant", {"epsilon_cq": "x"}, TypeError, "epsilon_cq must be float"),
    ("mla_prolog_quant", {"epsilon_ckv": -1.0}, ValueError, "epsilon_ckv must be "),
    ("mla_prolog_quant", {"epsilon_ckv": float("nan")}, ValueError, "epsilon_ckv must be "),
    ("mla_prolog_quant", {"weight_format": "NZ"}, ValueError, "weight_format must be "),
    ("mla_prolog_quant", {"weight_format": "ND\0Z"}, ValueError, "weight_format must have no NUL"),
    (
        "mla_prolog_quant",
        {"tile_config": RopeTileShapeConfig()},
        TypeError,
        "tile_config must be MlaTileConfig or None",
    ),
    ("mla_prolog_quant", {"rope_cfg": (1, 2)}, TypeError, "rope_cfg must be RopeTileShapeConfig or None"),
    ("lightning_indexer_prolog_quant", {"layout_query": "BSND"}, ValueError, "layout_query must be "),
    ("lightning_indexer_prolog_quant", {"layout_key": "TND"}, ValueError, "layout_key must be "),
    (
        "lightning_indexer_prolog_quant",
        {"configs": MlaTileConfig()},
        TypeError,
        "configs must be IndexerPrologQuantConf",
    ),
    ("mla_indexer_prolog_quant", {"mla_cache_mode": "TND"}, ValueError, "mla_cache_mode must be "),
    (
        "mla_indexer_prolog_quant",
        {"ip_attrs": SaTileShapeConfig()},
        TypeError,
        "ip_attrs must be IndexerPrologQuantAttr",
    ),
    ("sparse_flash_attention_quant", {"nq": 2}, ValueError, "topk_indices has shape"),
    ("sparse_flash_attention_quant", {"nq": 129}, ValueError, "nq "),
    ("sparse_flash_attention_quant", {"nq": 1.0}, TypeError, "nq must be int"),
    ("sparse_flash_attention_quant", {"n_kv": 2}, ValueError, "n_kv "),
    ("sparse_flash_attention_quant", {"block_size": 64}, ValueError, "block_size "),
    ("sparse_flash_attention_quant", {"topk": 2047}, ValueError, "topk_indices has shape"),
    ("sparse_flash_attention_quant", {"max_blocknum_perbatch": 1}, ValueError, "block_table has shape"),
    ("sparse_flash_attention_quant", {"return_lse": 1}, TypeError, "return_lse must be bool"),
    ("sparse_flash_attention_quant", {"softmax_scale": None}, TypeError, "softmax_scale must be "),
    ("lightning_indexer_quant", {"selected_count": 0}, ValueError, "selected_count "),
    ("lightning_indexer_quant", {"selected_count": 2049}, ValueError, "selected_count "),
    ("lightning_indexer_quant", {"selected_count": True}, TypeError, "selected_count must be int"),
    ("mla_epilog_quant", {"weight_format": "NZ"}, ValueError, "weight_format must be 'ND' or 'PACKED', got 'NZ'"),
    ("mla_epilog_quant", {"weight_format": True}, TypeError, "weight_format must be "),
]


@pytest.mark.parametrize(("operator", "attributes", "error", "text"), BAD_ATTRIBUTES)
def test_attributes(operator: str, attributes: dict[str, Any], error: type[Exception], text: str) -> None:
    case = small(operator)
    for how in ("pynative", "graph"):
        refused(case, how, error, f"{operator}: {text}", lambda given: given.update(attributes))


@pytest.mark.parametrize("operator", op_info.names())
def test_unknown_and_missing_arguments(operator: str) -> None:
    case = small(operator)
    inputs = list(tensors(case).values())
    function = getattr(ops, operator)
    with pytest.raises(TypeError, match="no_such_attribute"):
        function(*inputs, **case.attributes, no_such_attribute=1)
    with pytest.raises(TypeError, match="missing"):
        function(*inputs[:-1], **case.attributes)
    with pytest.raises(TypeError, match="positional"):
        function(*inputs, *([None] if op_info.load(operator).optional else []), 1e-5, **case.attributes)


def test_attributes_of_a_graph_must_be_constants() -> None:
    class Dynamic(ms.nn.Cell):
        def construct(self, inputs, epsilon):
            return ops.mla_prolog_quant(*inputs, epsilon_cq=epsilon)[0]

    inputs = ms.mutable(tuple(tensors(small("mla_prolog_quant")).values()))
    for epsilon in (Tensor(1e-5), ms.mutable(1e-5)):
        with mode("graph"), pytest.raises(TypeError, match="mla_prolog_quant: epsilon_cq must be a constant"):
            Dynamic()(inputs, epsilon)


BAD_VALUES: list[tuple[str, str, Any, int, str]] = [
    (
        "mla_prolog_quant",
        "cache_index",
        (1,),
        512,
        "cache_index[1] = 512 is outside [0, block_num * block_size) = [0, 512)",
    ),
    ("mla_prolog_quant", "cache_index", (0,), -2, "cache_index[0] = -2 is outside [0, block_num * block_size)"),
    ("lightning_indexer_prolog_quant", "k_cache_index", (1,), 2**40, "k_cache_index[1] = 1099511627776 is outside "),
    ("mla_indexer_prolog_quant", "cache_index", (1,), 512, "cache_index[1] = 512 is outside "),
    (
        "sparse_flash_attention_quant",
        "topk_indices",
        (1, 17),
        130,
        "topk_indices[1, 17] = 130 is outside [0, kv_act_seqs[1]",
    ),
    ("sparse_flash_attention_quant", "topk_indices", (0, 2), -2, "topk_indices[0, 2] = -2 is outside "),
    (
        "sparse_flash_attention_quant",
        "block_table",
        (1, 1),
        4,
        "block_table[1, 1] = 4 is outside [0, block_num) = [0, 4)",
    ),
    ("sparse_flash_attention_quant", "kv_act_seqs", (0,), -1, "kv_act_seqs[0] = -1 is outside "),
    ("lightning_indexer_quant", "block_table", (1, 0), -1, "block_table[1, 0] = -1 is outside [0, block_num) = [0, 4)"),
    ("lightning_indexer_quant", "kv_act_seqs", (1,), 385, "kv_act_seqs[1] = 385 is outside "),
]


def test_every_operator_is_listed() -> None:
    """The errors of all operators are stated by hand. One whose inputs hold no indices takes every value."""
    cases.assert_all_listed({operator for operator, *_ in ONE_OF_EACH})
    cases.assert_all_listed({operator for operator, *_ in BAD_ATTRIBUTES})
    with_indices = [o for o in op_info.names() if any(a.values for a in op_info.load(o).inputs)]
    cases.assert_all_listed({operator for operator, *_ in BAD_VALUES}, with_indices)


@pytest.mark.parametrize(("operator", "name", "at", "bad", "text"), BAD_VALUES)
def test_values(operator: str, name: str, at: tuple[int, ...], bad: int, text: str) -> None:
    case = small(operator)
    assert case.paging.block_num == 4
    array = case.inputs[name].copy()
    array[at] = bad
    change = set_item(name, lambda _: weights.to_tensor(array.copy()))
    refused(case, "pynative", ValueError, f"{operator}: {text}", change)
    # After an error while a graph runs MindSpore waits for three seconds, so one value of each argument has to do.
    if bad not in (-2, 2**40, 385):
        refused(case, "graph", RuntimeError, f"{operator}: {text}", change)
    # Nothing is left behind: the next call is right, in the mode in which the last one failed.
    for how in ("pynative", "graph"):
        want = bare(case)
        got = run(case, how)
        for output in want:
            tolerance.assert_same_bits(output, got[output], want[output])


def transposed(tensor: Tensor) -> Tensor:
    array = np.ascontiguousarray(weights.to_array(tensor).transpose(3, 2, 1, 0))
    return weights.to_tensor(array).permute(3, 2, 1, 0)


@pytest.mark.parametrize("how", ["pynative", "graph", "jit"])
@pytest.mark.parametrize("name", ["kv_cache", "kr_cache", "k_scale_cache"])
def test_a_cache_that_is_not_contiguous(name: str, how: str) -> None:
    text = f"mla_prolog_quant: {name} must be contiguous"
    refused(small("mla_prolog_quant"), how, ValueError, text, set_item(name, transposed))


@pytest.mark.parametrize("how", ["pynative", "graph", "jit"])
def test_plain_inputs_need_not_be_contiguous(how: str) -> None:
    case = small("mla_prolog_quant")
    want = bare(case)
    inputs = tensors(case)
    for name in ("token_x", "w_dq", "cos"):
        inputs[name] = weights.to_tensor(np.ascontiguousarray(case.inputs[name].T)).permute(1, 0)
        assert not inputs[name].is_contiguous()
    call = ops.mla_prolog_quant if how == "pynative" else Call("mla_prolog_quant", {})
    with mode(how):
        results = (ms.jit(call) if how == "jit" else call)(*inputs.values())
    for output, result in list(zip(case.outputs, results, strict=True))[:4]:
        tolerance.assert_same_bits(output, weights.to_array(result), want[output])


@pytest.mark.parametrize("name", ["w_dq", "kv_cache"])
def test_a_parameter_that_is_not_initialised(name: str) -> None:
    case = small("mla_prolog_quant")
    inputs = tensors(case)
    with ms.nn.no_init_parameters():
        value = initializer("zeros", inputs[name].shape, inputs[name].dtype)
        inputs[name] = Parameter(value, name=name, requires_grad=False)
    with pytest.raises(ValueError, match=f"mla_prolog_quant: {name} has no data yet; call {name}.init_data()"):
        ops.mla_prolog_quant(*inputs.values())
    inputs[name].init_data()
    ops.mla_prolog_quant(*inputs.values())


def test_an_input_without_elements_need_not_be_initialised() -> None:
    """MindSpore gives such a tensor no memory."""
    case = cases.mla_epilog_case(0, 1, 1)
    inputs = tensors(case)
    empty = Tensor(shape=inputs["attention_out"].shape, dtype=ms.bfloat16, init=Zero())
    assert empty.data_ptr() == 0
    assert ops.mla_epilog_quant(*{**inputs, "attention_out": empty}.values()).shape == (0, 7168)


def test_a_library_whose_path_has_a_colon(monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases.indexer_case(1, 1, 3)
    forget_kernels(monkeypatch)
    monkeypatch.setattr(kernel_impl, "library_path", lambda: Path("/a:b/library.so"))
    text = "ms_dsv32: MindSpore cannot load a library whose path has a colon: /a:b/library.so"
    with mode("graph"), pytest.raises(RuntimeError, match=text):
        Call(case.operator, case.attributes)(*tensors(case).values())


def test_another_caller_of_the_library_that_gives_it_too_few_tensors() -> None:
    kernel = f"{kernel_impl.library_path()}:MlaEpilogQuant"
    custom = ms.ops.Custom(kernel, out_shape=(1, 7168), out_dtype=ms.bfloat16, func_type="aot")
    with pytest.raises(RuntimeError, match="mla_epilog_quant: got 2 tensors, expected 5"):
        custom(next(iter(tensors(cases.mla_epilog_case(1, 1, 2)).values()))).asnumpy()


def test_an_error_is_raised_by_the_call_that_made_it() -> None:
    case = small("mla_prolog_quant")
    inputs = tensors(case)
    good = list(inputs.values())
    index = list(inputs).index("cache_index")
    bad = [*good[:index], Tensor(np.array([0, 10**6])), *good[index + 1 :]]
    for _ in range(3):
        with pytest.raises(ValueError, match=r"cache_index\[1\] = 1000000"):
            ops.mla_prolog_quant(*bad)
        ops.mla_prolog_quant(*good)[0].asnumpy()  # raises nothing


def test_an_error_of_an_earlier_operator_is_raised_by_the_next_call_and_not_again() -> None:
    case = small("mla_prolog_quant")
    want = bare(case)
    inputs = tensors(case)
    custom = ops.mla_prolog_quant.__globals__["_operator"]._custom(
        op_info.bind_attrs(op_info.load(case.operator), {}), 14
    )
    bad = {**inputs, "cache_index": Tensor(np.array([0, 10**6]))}
    custom(*bad.values())  # by MindSpore's own way: it fails later
    with pytest.raises((RuntimeError, ValueError), match=r"cache_index\[1\] = 1000000"):
        ops.mla_prolog_quant(*inputs.values())
    got = run(case, "pynative")
    for output in want:
        tolerance.assert_same_bits(output, got[output], want[output])


@pytest.mark.parametrize("how", ["pynative", "graph"])
@pytest.mark.parametrize("operator", op_info.names())
def test_gradients_are_refused(operator: str, how: str) -> None:
    case = small(operator)
    with mode(how), pytest.raises(NotImplementedError, match=f"{operator}: inference only"):
        ms.grad(Loss(operator, case.attributes))(*tensors(case).values())


@pytest.mark.parametrize("operator", op_info.names())
def test_a_result_may_be_used_beside_what_is_differentiated(operator: str) -> None:
    case = small(operator)
    want = bare(case)
    inputs = tensors(case)

    def loss(factor: Tensor) -> Tensor:
        results = getattr(ops, operator)(*inputs.values(), **case.attributes)
        first = results[0] if isinstance(results, tuple) else results
        return (ms.ops.stop_gradient(first).astype(ms.float32) * factor).sum()

    got = ms.grad(loss)(Tensor(np.float32(1.5)))
    first = weights.to_tensor(want[case.outputs[0]]).astype(ms.float32).asnumpy()
    np.testing.assert_allclose(got.asnumpy(), first.sum(), rtol=1e-4)
    for cache, output in cases.IN_PLACE[operator].items():
        tolerance.assert_same_bits(cache, weights.to_array(inputs[cache]), want[output])


def test_there_is_no_kernel_for_other_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_custom, "device_target", lambda: "GPU")
    case = cases.indexer_case(1, 1, 3)
    operator = _custom.Operator("lightning_indexer_quant", None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="lightning_indexer_quant: no kernel for device target GPU; set_device"):
        operator(*case.attributes.values(), *tensors(case).values(), None)


def test_a_tensor_whose_storage_was_given_up() -> None:
    case = cases.indexer_case(1, 1, 3)
    given = tensors(case)
    given["k_cache"] = given["k_cache"].copy()
    given["k_cache"].untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="lightning_indexer_quant: k_cache has no data"):
        ops.lightning_indexer_quant(*given.values())
