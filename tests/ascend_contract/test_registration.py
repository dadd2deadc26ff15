"""MindSpore's own Ascend path, as far as it runs without a device, calls a library made from op_info as it is declared.

What runs here is MindSpore's: the search for the library's header, its parser, the registration, and the generator and
build of the function that calls ``aclnn<Op>GetWorkspaceSize``. What does not run is its device backend; a small driver
calls that function as the backend does.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cases
import fake_opapi
import mindspore as ms
import pytest
from calls import Call, forget_kernels, mode, tensors
from fake_opapi import FakeCann, Parameter
from mindspore.ops.operations._custom_ops_utils import CustomCodeGenerator

from ms_dsv32 import cann, kernel_impl, op_info, opp, ops
from ms_dsv32.ops import _ascend, _custom

ATTRIBUTES: dict[str, dict[str, Any]] = {
    "mla_prolog_quant": {"epsilon_cq": 0.5, "epsilon_ckv": 0.25},
    "lightning_indexer_prolog_quant": {"layernorm_epsilon_k": 0.125},
    "mla_indexer_prolog_quant": {
        "mla_epsilon_cq": 0.5,
        "mla_epsilon_ckv": 0.25,
        "ip_attrs_layernorm_epsilon_k": 0.125,
    },
    "sparse_flash_attention_quant": {
        "nq": 16,
        "n_kv": 1,
        "softmax_scale": 0.0625,
        "topk": 2048,
        "block_size": 128,
        "max_blocknum_perbatch": 3,
    },
    "lightning_indexer_quant": {"selected_count": 2048},
}
"""Attributes of CANN's operators, no two float ones of a call alike, and exact in float32."""


@pytest.fixture(scope="module")
def cann_folder(tmp_path_factory: pytest.TempPathFactory) -> FakeCann:
    return fake_opapi.make(tmp_path_factory.mktemp("cann"))


@pytest.fixture(autouse=True)
def on_ascend(cann_folder: FakeCann, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device target is said to be Ascend, with the package of `cann_folder`, and no operator has been made yet."""
    real = ms.get_context

    def get_context(key: str) -> Any:
        return "Ascend" if key == "device_target" else real(key)

    monkeypatch.setattr(ms, "get_context", get_context)
    monkeypatch.setattr(ms.context, "get_context", get_context)
    monkeypatch.setenv("ASCEND_OPP_PATH", str(cann_folder.opp))
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", str(cann_folder.package))

    def called(function: str) -> Path | None:
        """As MindSpore, whose own search needs its device backend."""
        libraries = [path for path in map(opp.library, opp.packages()) if path.is_file()]
        return next((path for path in libraries if function in opp.dynamic_symbols(path)), None)

    monkeypatch.setattr(_ascend, "called", called)
    forget_kernels(monkeypatch)


@pytest.fixture
def header(cann_folder: FakeCann) -> Iterator[Callable[[op_info.OpInfo, fake_opapi.Change], None]]:
    """Replaces the header of an operator for one test."""
    changed: list[op_info.OpInfo] = []

    def replace(info: op_info.OpInfo, change: fake_opapi.Change) -> None:
        changed.append(info)
        cann_folder.write_header(info, change)

    yield replace
    for info in changed:
        cann_folder.write_header(info, lambda found: found)


def operator(name: str) -> _custom.Operator:
    return _custom.Operator(name, None)  # type: ignore[arg-type]


def kernel_attributes(name: str) -> dict[str, Any]:
    """The attributes by the kernel library's names, the layouts included."""
    info = op_info.load(name)
    layouts = {a.name: "PACKED" if a.name == "weight_format" else a.default for a in info.kernel_attrs}
    numbers = {a.name: ATTRIBUTES[name].get(a.name.replace(".", "_")) for a in info.kernel_attrs}
    return {n: layouts[n] if numbers[n] is None else numbers[n] for n in numbers}


@pytest.mark.parametrize("name", op_info.names())
def test_mindspore_passes_every_argument_to_its_parameter(name: str, cann_folder: FakeCann) -> None:
    info, attrs = op_info.load(name), kernel_attributes(name)
    _ascend.require(info, attrs)
    custom = operator(name)._custom(attrs)
    prim = custom.get_attr_dict()
    values = dict(zip([a.name for a in info.ascend_attrs], _ascend.constants(info, attrs), strict=True))
    assert values == ATTRIBUTES[name]

    # As the backend: it takes the types in order, and converts each input and attribute, then each output, by its type.
    types = prim["custom_inputs_type"]
    names = [*(a.name for a in info.inputs), *values, *(o.name for o in info.kernel_outputs)]
    assert len(types) == len(names)
    addresses = {n: 0x1000 + i for i, n in enumerate(names)}
    boxes = {"double": ctypes.c_double, "int64_t": ctypes.c_int64}
    held: dict[str, Any] = {}
    arguments = []
    for type_, n in zip(types, names, strict=True):
        if n in values:
            held[n] = boxes[type_](values[n])
            arguments.append(ctypes.addressof(held[n]))
        else:
            assert type_ == "aclTensor*"
            arguments.append(addresses[n])
    split = len(arguments) - len(info.kernel_outputs)

    path, _, function = prim["custom_callback_func"].partition(":")
    assert Path(path).is_absolute()
    library = ctypes.CDLL(str(cann_folder.library))
    callback = getattr(ctypes.CDLL(path), f"{function}GetWorkSpaceSize")
    size, executor = ctypes.c_uint64(), ctypes.c_void_p()
    status = ctypes.CDLL(str(cann_folder.driver)).CallBack(
        ctypes.cast(callback, ctypes.c_void_p),
        ctypes.cast(getattr(library, f"{prim['reg_op_name']}GetWorkspaceSize"), ctypes.c_void_p),
        (ctypes.c_void_p * split)(*arguments[:split]),
        split,
        (ctypes.c_void_p * (len(arguments) - split))(*arguments[split:]),
        len(arguments) - split,
        ctypes.byref(size),
        ctypes.byref(executor),
    )
    assert (status, size.value, executor.value) == (0, 512, 0x77)

    library.Calls.restype = ctypes.c_char_p
    noted = [line.split() for line in library.Calls().decode().splitlines()]
    assert [n for n, _ in noted] == [p.name for p in fake_opapi.parameters(info)]
    for n, (_, text) in zip(names, noted, strict=True):
        if n in values:
            assert (float.fromhex(text) if "x" in text else int(text)) == values[n], n
        else:
            assert int(text, 16) == addresses[n], n


@pytest.mark.parametrize("name", op_info.names())
def test_the_primitive_is_what_a_graph_needs(name: str) -> None:
    info = op_info.load(name)
    prim = operator(name)._custom(kernel_attributes(name)).get_attr_dict()
    assert prim["reg_op_name"] == f"aclnn{info.cann_type}"
    assert prim["func_name"] == f"{kernel_impl.library_path()}:{info.entry}"  # whose InferShape the library has
    assert prim["input_names"] == [*(a.name for a in info.inputs), *(a.name for a in info.ascend_attrs)]
    assert prim["output_names"] == [o.name for o in info.kernel_outputs]
    assert prim["side_effect_mem"] is True
    assert prim["cpp_infer_shape"] is True
    assert prim["multi_output"] == (len(info.kernel_outputs) > 1)
    assert {n: prim[n] for n in kernel_attributes(name)} == kernel_attributes(name)  # for the library's InferShape


def test_mindspore_leaves_nothing_in_the_working_directory() -> None:
    operator("lightning_indexer_quant")._custom(kernel_attributes("lightning_indexer_quant"))
    assert not list(Path.cwd().iterdir())
    assert "MS_COMPILER_CACHE_PATH" not in os.environ


def test_one_primitive_for_each_attribute_set() -> None:
    op = operator("mla_prolog_quant")
    attrs = kernel_attributes("mla_prolog_quant")
    customs = [op._custom({**attrs, "epsilon_cq": value}) for value in (0.5, 0.25, 0.5)]
    assert customs[0] is customs[2]
    assert customs[0] is not customs[1]
    assert {c.get_attr_dict()["reg_op_name"] for c in customs} == {"aclnnMsDsaMlaPrologQuant"}


def swapped(first: int, second: int) -> fake_opapi.Change:
    def change(found: list[Parameter]) -> list[Parameter]:
        found[first], found[second] = found[second], found[first]
        return found

    return change


WRONG = [
    ("mla_prolog_quant", lambda found: found[:-1]),
    ("mla_prolog_quant", lambda found: [*found, found[-1]]),
    ("mla_prolog_quant", swapped(13, 14)),  # the last cache and epsilon_cq
    ("sparse_flash_attention_quant", swapped(9, 10)),  # n_kv and softmax_scale: the number of arguments is right
    ("sparse_flash_attention_quant", swapped(13, 14)),  # max_blocknum_perbatch and attention_out
    (
        "lightning_indexer_quant",
        lambda found: [Parameter("float", p.name) if p.type == "int64_t" else p for p in found],
    ),
]


@pytest.mark.parametrize(("name", "change"), WRONG)
def test_a_library_with_another_interface_is_refused(name: str, change: fake_opapi.Change, header: Any) -> None:
    info = op_info.load(name)
    header(info, change)
    text = f"{name}: no Ascend kernel: {opp.entries(name)[1]} of {opp.find(name)} takes (aclTensor*, "
    with pytest.raises(RuntimeError, match=re.escape(text) + ".*; build the Ascend operators again"):
        _ascend.require(info, kernel_attributes(name))


def test_mindspore_itself_tells_only_a_wrong_number_of_arguments(header: Any) -> None:
    """Why `require` compares the types: MindSpore takes the header's, whatever was registered."""
    info = op_info.load("sparse_flash_attention_quant")
    header(info, lambda found: found[:-1])
    with pytest.raises(RuntimeError, match="is not equal to aclnn api input size"):
        operator(info.name)._custom(kernel_attributes(info.name))
    wrong = opp.parameters(info)
    wrong[9], wrong[10] = wrong[10], wrong[9]
    generated = CustomCodeGenerator().generate_callback_by_types("X", _ascend.reg_info(info), wrong)
    assert "double* input9 = static_cast<double*>" in generated


def test_an_operator_of_the_same_name_in_another_package_does_not_matter(
    cann_folder: FakeCann, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As vllm-ascend's package, which stands first in the search path and has other parameters."""
    info = op_info.load("lightning_indexer_quant")
    include = tmp_path / "op_api" / "include"
    include.mkdir(parents=True)
    theirs = fake_opapi.header(info, lambda found: found[1:]).replace("MsDsa", "")
    (include / f"aclnn_{info.name}.h").write_text(theirs)
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", f"{tmp_path}:{cann_folder.package}")
    attrs = kernel_attributes(info.name)
    _ascend.require(info, attrs)
    prim = operator(info.name)._custom(attrs).get_attr_dict()
    assert [*prim["custom_inputs_type"], "uint64_t*", "aclOpExecutor**"] == opp.parameters(info)


def test_what_is_missing_is_named(cann_folder: FakeCann, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = op_info.load("lightning_indexer_quant")
    attrs = kernel_attributes(info.name)
    header_file = cann_folder.package / "op_api" / "include" / f"aclnn_{info.cann_stem}.h"

    other = fake_opapi.make(tmp_path / "other", ["mla_prolog_quant"])
    with monkeypatch.context() as patch:
        patch.setenv("ASCEND_CUSTOM_OPP_PATH", str(other.package))
        text = f"lightning_indexer_quant: no Ascend kernel: {other.library} has no symbol aclnn{info.cann_type}"
        with pytest.raises(RuntimeError, match=f"{re.escape(text)}; run python -m ms_dsv32.doctor"):
            _ascend.require(info, attrs)
        patch.delenv("ASCEND_CUSTOM_OPP_PATH")
        patch.setattr(cann, "VENDOR", tmp_path / "nowhere")
        with pytest.raises(RuntimeError, match=r"no Ascend kernel: there is no .*; run python -m ms_dsv32.doctor"):
            _ascend.require(info, attrs)
    with monkeypatch.context() as patch:
        patch.delenv("ASCEND_OPP_PATH")
        with pytest.raises(RuntimeError, match=r"ASCEND_OPP_PATH is not set; run `source <CANN>/set_env.sh`"):
            _ascend.require(info, attrs)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(RuntimeError, match=r"lightning_indexer_quant: no g\+\+"):
            _ascend.require(info, attrs)
    kept = header_file.rename(tmp_path / "kept.h")
    with pytest.raises(RuntimeError, match=f"but there is no {re.escape(str(header_file))}; build"):
        _ascend.require(info, attrs)
    kept.rename(header_file)
    _ascend.require(info, attrs)


def test_weights_must_be_packed() -> None:
    case = cases.mla_prolog_case(1, 1, 1, 3)
    for how in ("pynative", "graph"):
        call = ops.mla_prolog_quant if how == "pynative" else Call("mla_prolog_quant", {})
        text = "mla_prolog_quant: weight_format must be 'PACKED' on Ascend, got 'ND': lay the weights out once with"
        with mode(how), pytest.raises(ValueError, match=text):
            call(*tensors(case).values())


@pytest.mark.parametrize("where", ["cell", "context"])
def test_graphs_of_ge_are_refused(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases.indexer_case(1, 1, 3)
    call = Call("lightning_indexer_quant", case.attributes)
    if where == "cell":
        call.set_jit_config(ms.JitConfig(jit_level="O2"))
    else:
        monkeypatch.setattr(ms.context, "get_jit_config", lambda: {"jit_level": "O2"})
    text = r"lightning_indexer_quant: cannot run under jit_level O2 \(backend GE\); set jit_level to O0 or O1"
    with mode("graph"), pytest.raises(RuntimeError, match=text):
        call(*tensors(case).values())


def test_there_is_no_kernel_for_other_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ms, "get_context", lambda key: "GPU")
    case = cases.indexer_case(1, 1, 3)
    with pytest.raises(RuntimeError, match="lightning_indexer_quant: no kernel for device target GPU; set_device"):
        operator("lightning_indexer_quant")(*case.attributes.values(), *tensors(case).values())
