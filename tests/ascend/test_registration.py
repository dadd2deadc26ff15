"""How the operators are registered with MindSpore on Ascend, and what of the environment they need."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import cases
import mindspore as ms
import pytest
from calls import Call, forget_kernels, mode, tensors
from mindspore.ops.operations._custom_ops_utils import CustomCodeGenerator
from runs import assert_golden, inputs_of, run

from ms_dsv32 import op_info, opp, ops
from ms_dsv32.ops import _ascend

OP = "lightning_indexer_quant"


def test_mindspore_leaves_nothing_in_the_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_kernels(monkeypatch)
    case = cases.indexer_case(1, 1, 3)
    assert_golden(case, run(case, "pynative"))
    # MindSpore makes an empty folder when it begins to use the device, whatever runs there.
    assert {path.name for path in Path.cwd().iterdir()} <= {"offload"}
    assert "MS_COMPILER_CACHE_PATH" not in os.environ


def test_the_users_compiler_cache_path_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", "the user's")
    with _ascend.building(op_info.load(OP)):
        assert os.environ["MS_COMPILER_CACHE_PATH"] == _ascend._scratch().name
    assert os.environ["MS_COMPILER_CACHE_PATH"] == "the user's"


def test_a_function_that_is_in_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ascend, "_get_function", lambda: lambda name: 1)  # an address that nothing is loaded at
    with pytest.raises(RuntimeError, match=r"^MindSpore's aclnnX is in no library$"):
        _ascend.called("aclnnX")


def test_one_graph_for_each_attribute_set(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_kernels(monkeypatch)
    operator = ops.lightning_indexer_quant.__globals__["_operator"]
    inputs = list(inputs_of(cases.indexer_case(1, 1, 3)).values())
    for count in (7, 8, 7):
        assert ops.lightning_indexer_quant(*inputs, selected_count=count).shape == (1, count)
    assert len(operator._kernels) == 2


def test_mindspore_calls_by_the_types_of_the_header() -> None:
    """Why `require` compares them: MindSpore ignores what was registered, and notices a wrong number only."""
    info = op_info.load("sparse_flash_attention_quant")
    wrong = opp.parameters(info)
    n_kv = len(info.inputs) + 1
    wrong[n_kv], wrong[n_kv + 1] = wrong[n_kv + 1], wrong[n_kv]  # n_kv and softmax_scale
    generated = CustomCodeGenerator().generate_callback_by_types("X", _ascend.reg_info(info), wrong)
    assert f"double* input{n_kv} = static_cast<double*>" in generated


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("ASCEND_OPP_PATH", "", r"ASCEND_OPP_PATH is not set; run `source <CANN>/set_env.sh`"),
        ("PATH", "/nowhere", r"no g\+\+, with which MindSpore builds its call of aclnnMsDsaLightningIndexerQuant"),
    ],
)
def test_what_is_missing_is_named(name: str, value: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match=f"{OP}: {text}"):
        _ascend.require(op_info.load(OP), {})


@pytest.mark.parametrize("how", ["pynative", "graph"])
def test_weights_must_be_packed(how: str) -> None:
    case = cases.mla_prolog_case(1, 1, 1, 3)
    call: Any = ops.mla_prolog_quant if how == "pynative" else Call("mla_prolog_quant", {})
    text = "mla_prolog_quant: weight_format must be 'PACKED' on Ascend, got 'ND': lay the weights out once with"
    with mode(how), pytest.raises(ValueError, match=text):
        call(*tensors(case).values())


@pytest.mark.parametrize("config", [{"jit_level": "O2"}, {"backend": "GE"}], ids=str)
def test_graphs_of_ge_are_refused_by_the_context_too(config: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases.indexer_case(1, 1, 3)
    monkeypatch.setattr(ms.context, "get_jit_config", lambda: config)
    text = f"{OP}: cannot run under jit_level O2 (backend GE); set jit_level to O0 or O1"
    with mode("graph"), pytest.raises(RuntimeError, match=re.escape(text)):
        Call(OP, case.attributes)(*tensors(case).values())
