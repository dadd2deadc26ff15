"""The contract files: valid, in step with what is generated from them, and the only place where a signature is
written."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ms_dsv32 import golden, kernel_impl, op_info
from ms_dsv32.config import IndexerPrologQuantAttr, MlaTileConfig
from ms_dsv32.op_info import generate
from ms_dsv32.op_info.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
# The contract's order, written here once more: op_info generates everything else, so it cannot check itself.
CONTRACT = {
    "mla_prolog_quant": (
        "token_x w_dq w_uq_qr dequant_scale w_uk w_dkv_kr gamma_cq gamma_ckv cos sin cache_index kv_cache kr_cache "
        "k_scale_cache",
        "q_norm_out q_norm_scale_out query_nope_out query_rope_out kv_cache_out kr_cache_out k_scale_cache_out",
    ),
    "lightning_indexer_prolog_quant": (
        "x q_norm q_norm_scale w_qb w_qb_scale wk w_proj ln_gamma_k ln_beta_k cos_idx_rope sin_idx_rope hadamard_q "
        "hadamard_k "
        "k_cache k_cache_scale k_cache_index",
        "q_int8_out q_scale_out k_int8_out k_scale_out weights_out",
    ),
    "sparse_flash_attention_quant": (
        "query_nope query_rope key_nope_2d key_rope_2d k_nope_scales topk_indices block_table kv_act_seqs "
        "query_act_seqs",
        "attention_out lse",
    ),
    "mla_indexer_prolog_quant": (
        "token_x mla_w_dq mla_w_uq_qr mla_dequant_scale mla_w_uk mla_w_dkv_kr mla_gamma_cq mla_gamma_ckv cos sin "
        "cache_index "
        "mla_kv_cache mla_kr_cache mla_k_scale_cache ip_w_qb_in ip_w_qb_scale_in ip_wk_in ip_w_proj_in "
        "ip_ln_gamma_k_in "
        "ip_ln_beta_k_in ip_hadamard_q_in ip_hadamard_k_in ip_k_cache ip_k_cache_scale",
        "mla_query_nope_out mla_query_rope_out mla_kv_cache_out mla_kr_cache_out mla_k_scale_cache_out ip_q_int8_out "
        "ip_q_scale_out ip_k_int8_out ip_k_scale_out ip_weights_out",
    ),
    "lightning_indexer_quant": (
        "q_int8 q_scale weights k_cache k_cache_scale block_table kv_act_seqs query_act_seqs",
        "topk_indices",
    ),
    "mla_epilog_quant": ("attention_out w_uv w_o w_o_scale", "hidden_out"),
}


def test_names_and_order_are_the_contracts() -> None:
    assert set(op_info.names()) == set(CONTRACT), "CONTRACT of this file states the names of each operator once more"
    for name, (inputs, outputs) in CONTRACT.items():
        op = op_info.load(name)
        assert [a.name for a in op.inputs] == inputs.split()
        assert [a.name for a in op.outputs] == outputs.split()


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_the_formula_has_the_steps_of_golden(name: str) -> None:
    source = (ROOT / "ms_dsv32" / "golden" / f"{name}.py").read_text(encoding="utf-8")
    steps = re.findall(r"^ *# (\(\d+\))", source, re.MULTILINE)
    assert [line.split()[0] for line in op_info.load(name).formula] == steps


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_formula_and_example_use_the_contracts_names(name: str) -> None:
    op = op_info.load(name)
    arguments = [*op.required_inputs, *(a for a in op.attrs if a.required)]
    for arg in (*arguments, *(o for o in op.outputs if not o.extension)):
        assert re.search(rf"\b{arg.name}\b", "\n".join(op.example)), arg.name
    assert f"ops.{name}(" in "\n".join(op.example)
    assert set(op.formula) | set(op.example) | {f"- {limit}" for limit in op.limits} <= set(generate.docs().split("\n"))


def test_generated_files_are_in_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def _copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of op_info/ that the reader uses."""
    folder = tmp_path / "op_info"
    shutil.copytree(ROOT / "op_info", folder)
    monkeypatch.setattr(op_info, "directory", lambda: folder)
    for cached in (op_info.dims, op_info.names, op_info.load):
        cached.cache_clear()
    return folder


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    yield _copy(tmp_path, monkeypatch)
    for cached in (op_info.dims, op_info.names, op_info.load):
        cached.cache_clear()


def _edit(path: Path, change) -> None:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def test_the_command_has_the_exit_status(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ms_dsv32.op_info.__main__")
    monkeypatch.setattr(sys, "argv", ["op_info", "--check"])
    _edit(copy / "mla_prolog_quant.json", lambda d: d.pop("summary"))
    with pytest.raises(SystemExit) as end:
        runpy.run_module("ms_dsv32.op_info", run_name="__main__")
    assert end.value.code == 1


def test_an_operator_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=f"op_info: no operator 'mla'; there are {', '.join(sorted(CONTRACT))}$"):
        op_info.load("mla")


def test_an_installation_without_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "ms_dsv32"
    monkeypatch.setattr(op_info, "__file__", str(package / "op_info" / "__init__.py"))
    text = f"ms_dsv32: no op_info files beside {package}; the installation is incomplete"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(text)}$"):
        op_info.directory.__wrapped__()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("summary"), "'summary' is a required property"),
        (lambda d: d.pop("formula"), "mla_prolog_quant has no formula"),
        (lambda d: d.pop("example"), "mla_prolog_quant has no example"),
        (lambda d: d.update(limits=[]), "[] should be non-empty"),
        (lambda d: d["inputs"][0].update(dtype="bf17"), "'bf17' is not one of"),
        (lambda d: d["inputs"][0].update(shape=[["t", "hh"]]), "hh is no dim"),
        (lambda d: d["inputs"][0].update(shape=[["t", "h"], ["b", "h"]]), "alternatives must differ in rank"),
        (lambda d: d["outputs"].pop(), "do not pair"),
        (lambda d: d["attrs"][3].pop("config"), "'config' is a required property"),
        (lambda d: d["source_functions"][0]["parameters"].remove("cos"), "mla_prolog_quant_d lacks cos"),
        (lambda d: d["source_functions"][0]["parameters"].append("y"), "has y, which is no argument and has no note"),
        (lambda d: d["source_functions"][0]["notes"].update(y="Text."), "has a note about y, which is none of its"),
        (lambda d: d["outputs"][0].update(source_name="y"), "mla_prolog_quant_d lacks y"),
        (lambda d: d["attrs"][0].update(source_name="a.b.c"), "'a.b.c' does not match"),
        (lambda d: d["inputs"][-2].update(optional=True), "kr_cache is optional and not the last input"),
    ],
)
def test_check_refuses_a_broken_file(copy: Path, capsys: pytest.CaptureFixture[str], change, message: str) -> None:
    _edit(copy / "mla_prolog_quant.json", change)
    assert main(["--check"]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["parts"][1]["names"].pop("x"), "x of lightning_indexer_prolog_quant is no argument"),
        (lambda d: d["parts"][0]["inside"].pop(), "q_norm_scale_out of mla_prolog_quant is no argument"),
        (lambda d: d["parts"][1]["inside"].append("y"), "lightning_indexer_prolog_quant has no y"),
        (lambda d: d["inputs"][14].update(name="ip_y"), "w_qb of lightning_indexer_prolog_quant is no argument"),
        (lambda d: d["inputs"][14].update(name="ip_y"), "ip_y is no argument of a part"),
        (lambda d: d["attrs"][0].update(name="mla_y"), "epsilon_cq of mla_prolog_quant is no argument"),
    ],
)
def test_check_refuses_parts_that_do_not_fit(copy: Path, capsys: pytest.CaptureFixture[str], change, message) -> None:
    _edit(copy / "mla_indexer_prolog_quant.json", change)
    assert main(["--check"]) == 1
    assert f"mla_indexer_prolog_quant: {message}" in capsys.readouterr().err


# Our names by PyPTO's, in the order of its parameters.
INDEXER_IN_PYPTO = {
    "idx_query": "q_int8",
    "idx_query_scale": "q_scale",
    "idx_key_cache": "k_cache",
    "idx_key_scale": "k_cache_scale",
    "idx_weight": "weights",
    "act_seq_key": "kv_act_seqs",
    "block_table": "block_table",
    "topk_res": "topk_indices",
}


def test_docs_say_how_a_call_of_the_source_is_written() -> None:
    sections = {s.partition("`")[0]: s.partition("### In PyPTO")[2] for s in generate.docs().split("\n## `")}
    for name in CONTRACT:
        assert bool(sections[name]) == op_info.load(name).source.startswith("PyPTO"), name
    indexer = sections["lightning_indexer_quant"]
    order = ", ".join(f"`{p}`" for p in INDEXER_IN_PYPTO)
    assert f"`lightning_indexer_decode`: the parameters are {order}, `unroll_list`, " in indexer
    for theirs, ours in INDEXER_IN_PYPTO.items():
        assert (f"| `{theirs}` | `{ours}` |" in indexer) == (theirs != ours)
    assert "| `configs` | - | " in indexer
    prolog = sections["lightning_indexer_prolog_quant"]
    assert "`lightning_indexer_prolog_quant`: the inputs come in the same order." in prolog
    for theirs, ours in (("x_in", "x"), ("k_int8_in", "k_cache"), ("attrs.eps", "layernorm_epsilon_k")):
        assert f"| `{theirs}` | `{ours}` | |" in prolog
    assert "| `nope_cache` | - | int8 [block_num * block_size, 656]" in sections["sparse_flash_attention_quant"]


def test_docs_of_a_source_with_our_names_have_no_table() -> None:
    op = op_info.load("mla_prolog_quant")
    function = replace(op.source_functions[0], names=("same",), parameters=("cos", "sin"), notes={})
    text = "`same`: the parameters are `cos`, `sin`, in this order. All names are the same."
    assert generate._source_table(op, function) == [text]


def test_check_notices_and_write_mends_drift(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--write"]) == 0
    assert main(["--check"]) == 0
    _edit(copy / "lightning_indexer_quant.json", lambda d: d.update(summary="Another text."))
    op_info.load.cache_clear()
    assert main(["--check"]) == 1
    assert "out of step" in capsys.readouterr().err
    assert main(["--write"]) == 0
    assert main(["--check"]) == 0


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_golden_has_the_signature(name: str) -> None:
    op = op_info.load(name)
    parameters = inspect.signature(getattr(golden, name)).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [a.name for a in op.inputs]
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    # Golden takes only row-major weights.
    expected = {a.name: a for a in op.attrs if a.name != "weight_format"}
    assert list(keywords) == list(expected)
    for attr, default in keywords.items():
        assert default == (inspect.Parameter.empty if expected[attr].required else expected[attr].default)


@pytest.mark.mindspore
@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_the_function_has_the_signature(name: str) -> None:
    from ms_dsv32 import ops

    op = op_info.load(name)
    function = getattr(ops, name)
    parameters = inspect.signature(function).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == [a.name for a in op.inputs]
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert keywords == {a.name: inspect.Parameter.empty if a.required else a.default for a in op.attrs}
    assert list(keywords) == [a.name for a in op.attrs]
    refusal = importlib.import_module(f"ms_dsv32.ops.{name}")._no_gradient
    assert list(inspect.signature(refusal).parameters) == [*(a.name for a in op.inputs), "out", "dout"]
    assert op.source.split(": ")[1].split(".")[0] in inspect.getdoc(function)


def test_the_fused_operator_takes_what_its_parts_take() -> None:
    fused = {a.name: a for a in op_info.load("mla_indexer_prolog_quant").inputs}
    for part, prefix, suffix in (("mla_prolog_quant", "mla_", ""), ("lightning_indexer_prolog_quant", "ip_", "_in")):
        for arg in op_info.load(part).inputs:
            names = (prefix + arg.name + suffix, prefix + arg.name, arg.name)
            twin = next((fused[n] for n in names if n in fused), None)
            if twin is None:
                assert arg.name in {"x", "q_norm", "q_norm_scale", "cos_idx_rope", "sin_idx_rope", "k_cache_index"}
                continue
            same = ("dtype", "shapes", "format", "packable", "in_place", "values")
            assert all(getattr(twin, f) == getattr(arg, f) for f in same), (part, arg.name)


def test_bind_attrs() -> None:
    op = op_info.load("mla_prolog_quant")
    bound = op_info.bind_attrs(op, {"epsilon_cq": 1})
    assert bound == {"epsilon_cq": 1.0, "epsilon_ckv": 1e-5, "cache_mode": "PA_BSND", "weight_format": "ND"}
    assert isinstance(bound["epsilon_cq"], float)
    with pytest.raises(TypeError, match="mla_prolog_quant: no attribute eps"):
        op_info.bind_attrs(op, {"eps": 1.0})
    with pytest.raises(TypeError, match="mla_prolog_quant: tile_config must be MlaTileConfig or None, got int"):
        op_info.bind_attrs(op, {"tile_config": 3})
    attention = op_info.load("sparse_flash_attention_quant")
    with pytest.raises(TypeError, match="sparse_flash_attention_quant: attribute nq is missing"):
        op_info.bind_attrs(attention, {})
    given = dict.fromkeys((a.name for a in attention.attrs if a.required), 0)
    assert op_info.bind_attrs(attention, given)["softmax_scale"] == 0.0
    assert op_info.bind_attrs(op, {"epsilon_cq": True})["epsilon_cq"] is True  # which the kernel library refuses
    changed = MlaTileConfig()
    changed.cube_qb_tile[0] = 0
    with pytest.raises(ValueError, match="MlaTileConfig: cube_qb_tile must be 6 positive ints"):
        op_info.bind_attrs(op, {"tile_config": changed})


def test_a_class_of_the_same_name_is_no_configuration() -> None:
    class MlaTileConfig:
        pass

    with pytest.raises(TypeError, match="tile_config must be MlaTileConfig or None, got that of "):
        op_info.bind_attrs(op_info.load("mla_prolog_quant"), {"tile_config": MlaTileConfig()})


def test_bind_attrs_flattens_what_an_attribute_carries() -> None:
    op = op_info.load("mla_indexer_prolog_quant")
    assert op_info.bind_attrs(op, {})["ip_attrs.layernorm_epsilon_k"] == 1e-6
    attributes = {"ip_attrs": IndexerPrologQuantAttr(layernorm_epsilon_k=1e-3)}
    assert op_info.bind_attrs(op, attributes)["ip_attrs.layernorm_epsilon_k"] == 1e-3


def _signature(name: str, **sizes: int) -> tuple[list[tuple[int, ...]], list[str]]:
    """A good call of the required inputs: shapes with the token axis merged, and dtypes."""
    values = {d.name: d.value for d in op_info.dims().values()} | {
        "b": 2, "s1": 2, "t": 4, "n_q": 16, "block_num": 10, "max_blocknum_perbatch": 3, "selected_count": 2048, **sizes
    }  # fmt: skip
    op = op_info.load(name)
    shapes = [tuple(eval(axis, {}, values) for axis in a.shapes[0]) for a in op.required_inputs]
    return shapes, [a.ms_dtype for a in op.required_inputs]


def _attrs(name: str, **given: object) -> dict[str, float | int | str | bool]:
    needed: dict[str, object] = {}
    if name == "sparse_flash_attention_quant":
        needed = {
            "nq": 16,
            "n_kv": 1,
            "softmax_scale": 0.1,
            "topk": 2048,
            "block_size": 128,
            "max_blocknum_perbatch": 3,
        }
    return op_info.bind_attrs(op_info.load(name), needed | given)


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_validate_infers_the_outputs(name: str) -> None:
    shapes, dtypes = _signature(name)
    outputs = kernel_impl.validate(name, shapes, dtypes, _attrs(name))
    expected = {
        "q_norm_out": (4, 1536), "q_norm_scale_out": (4, 1), "query_nope_out": (4, 16, 512),
        "query_rope_out": (4, 16, 64),
        "mla_query_nope_out": (4, 16, 512), "mla_query_rope_out": (4, 16, 64), "q_int8_out": (4, 64, 128),
        "q_scale_out": (4, 64, 1), "weights_out": (4, 64), "ip_q_int8_out": (4, 64, 128), "ip_q_scale_out": (4, 64, 1),
        "ip_weights_out": (4, 64), "attention_out": (2, 2, 16, 512), "lse": (2, 2, 16), "topk_indices": (4, 2048),
        "hidden_out": (4, 7168),
    }  # fmt: skip
    kernel_outputs = op_info.load(name).kernel_outputs
    assert outputs == tuple(expected[o.name] for o in kernel_outputs)
    # An axis that is not known yet stays unknown.
    unknown = kernel_impl.validate(
        name, [(-1, *s[1:]) if i == 0 else s for i, s in enumerate(shapes)], dtypes, _attrs(name)
    )
    assert len(unknown) == len(outputs)


@pytest.mark.parametrize("name", sorted(CONTRACT))
@pytest.mark.parametrize("change", ["dtype", "rank", "axis"])
def test_validate_names_each_bad_input(name: str, change: str) -> None:
    shapes, dtypes = _signature(name)
    for i, arg in enumerate(op_info.load(name).required_inputs):
        if change == "axis" and (name, arg.name) == ("lightning_indexer_quant", "block_table"):
            continue  # its columns are free
        bad_shapes, bad_dtypes = list(shapes), list(dtypes)
        if change == "dtype":
            bad_dtypes[i] = "float64"
            expected = f"{name}: {arg.name} must be {arg.ms_dtype}, got float64"
            error: type[Exception] = TypeError
        elif change == "rank":
            bad_shapes[i] = (*shapes[i], 1, 1, 1)
            expected, error = (
                f"{name}: {arg.name} has shape ({', '.join(map(str, bad_shapes[i]))}), expected (",
                ValueError,
            )
        else:
            bad_shapes[i] = (*shapes[i][:-1], shapes[i][-1] + 1)
            expected, error = f"{name}: ", ValueError
        with pytest.raises(error) as caught:
            kernel_impl.validate(name, bad_shapes, bad_dtypes, _attrs(name))
        assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("name", "argument", "shape", "message"),
    [
        ("mla_prolog_quant", "w_dq", (7168, 1535), "w_dq has shape (7168, 1535), expected (h, q_lora_rank) = (7168, "
                                                   "1536)"),
        ("mla_prolog_quant", "token_x", (4, 7167),
         "token_x has shape (4, 7167), expected (t, h) = (t, 7168) or (b, s1, h) = (b, s1, 7168)"),
        ("mla_prolog_quant", "cos", (5, 64), "cos has shape (5, 64), expected (t, rope_dim) = (4, 64) or "
         "(b, s1, rope_dim) = (b, s1, 64)"),
        ("mla_prolog_quant", "w_uq_qr", (1536, 129 * 192),
         "w_uq_qr has shape (1536, 24768), expected (q_lora_rank, n_q * q_head_dim) = (1536, n_q * 192) with n_q in "
         "[1, 128]"),
        ("mla_prolog_quant", "w_uk", (15, 128, 512),
         "w_uk has shape (15, 128, 512), expected (n_q, qk_nope_head_dim, kv_lora_rank) = (16, 128, 512)"),
        ("mla_prolog_quant", "cache_index", (3,), "cache_index has shape (3,), expected (t) = (4) or (b, s1)"),
        ("mla_prolog_quant", "kr_cache", (11, 128, 1, 64),
         "kr_cache has shape (11, 128, 1, 64), expected (block_num, block_size, n_kv, rope_dim) = (10, 128, 1, 64)"),
        ("lightning_indexer_quant", "block_table", (3, 5),
         "block_table has shape (3, 5), so b = 3; expected t = b * s1, but t = 4"),
    ],
)  # fmt: skip
def test_error_texts(name: str, argument: str, shape: tuple[int, ...], message: str) -> None:
    shapes, dtypes = _signature(name)
    index = [a.name for a in op_info.load(name).inputs].index(argument)
    shapes[index] = shape
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared whole
        kernel_impl.validate(name, shapes, dtypes, _attrs(name))
    assert str(caught.value).replace("(t,) = (4,)", "(t) = (4)") == f"{name}: {message}"


@pytest.mark.parametrize(
    ("name", "attrs", "error", "message"),
    [
        ("mla_prolog_quant", {"cache_mode": "BNSD"}, ValueError, "cache_mode must be 'PA_BSND', got 'BNSD'"),
        ("mla_prolog_quant", {"epsilon_cq": -1.0}, ValueError, "epsilon_cq must be at least 0, got -1"),
        ("mla_prolog_quant", {"epsilon_cq": float("nan")}, ValueError, "epsilon_cq must be finite, got nan"),
        ("mla_prolog_quant", {"epsilon_cq": "1e-5"}, TypeError, "epsilon_cq must be float, got str"),
        ("mla_prolog_quant", {"weight_format": "NZ"}, ValueError, "weight_format must be 'ND' or 'PACKED', got 'NZ'"),
        ("lightning_indexer_quant", {"selected_count": 4096}, ValueError,
         "selected_count must be selected_count in [1, 2048], got 4096"),
        ("sparse_flash_attention_quant", {"nq": 0}, ValueError, "nq must be n_q in [1, 128], got 0"),
        ("sparse_flash_attention_quant", {"nq": 16.0}, TypeError, "nq must be int, got float"),
        ("sparse_flash_attention_quant", {"block_size": 64}, ValueError, "block_size must be block_size = 128, got 64"),
        ("sparse_flash_attention_quant", {"topk": 1024}, ValueError,
         "topk_indices has shape (4, 2048), expected (t, n_kv * selected_count) = (4, 1024) or "
         "(b, s1, n_kv * selected_count) = (b, s1, 1024)"),
        ("mla_indexer_prolog_quant", {"mla_cache_mode": "TND"}, ValueError, "mla_cache_mode must be 'PA_BSND', got "
            "'TND'"),
    ],
)  # fmt: skip
def test_attribute_error_texts(name: str, attrs: dict[str, object], error: type[Exception], message: str) -> None:
    shapes, dtypes = _signature(name)
    with pytest.raises(error) as caught:
        kernel_impl.validate(name, shapes, dtypes, _attrs(name, **attrs))
    assert str(caught.value) == f"{name}: {message}"


def test_split_token_axis() -> None:
    name = "mla_prolog_quant"
    shapes, dtypes = _signature(name)
    index = {a.name: i for i, a in enumerate(op_info.load(name).inputs)}
    shapes[index["token_x"]] = (2, 2, 7168)
    shapes[index["cos"]] = (2, 2, 64)
    assert kernel_impl.validate(name, shapes, dtypes, _attrs(name))[0] == (4, 1536)
    shapes[index["sin"]] = (4, 1, 64)
    with pytest.raises(ValueError, match=r"sin has shape \(4, 1, 64\)"):
        kernel_impl.validate(name, shapes, dtypes, _attrs(name))


@pytest.mark.parametrize("tokens", [0, 1])
def test_empty_calls_keep_their_heads(tokens: int) -> None:
    name = "sparse_flash_attention_quant"
    shapes, dtypes = _signature(name, s1=tokens, t=2 * tokens)
    assert kernel_impl.validate(name, shapes, dtypes, _attrs(name)) == ((2, tokens, 16, 512), (2, tokens, 16))


RAGGED = ["lightning_indexer_quant", "sparse_flash_attention_quant"]


def test_which_operators_take_sequences_of_different_numbers_of_tokens() -> None:
    assert [op.name for op in map(op_info.load, op_info.names()) if op.optional] == RAGGED


@pytest.mark.parametrize("name", RAGGED)
def test_ragged_calls_have_a_merged_token_axis(name: str) -> None:
    shapes, dtypes = _signature(name, t=7)  # no multiple of b = 2
    ragged, ragged_dtypes = [*shapes, (2,)], [*dtypes, "int32"]
    expected = {"lightning_indexer_quant": ((7, 2048),), "sparse_flash_attention_quant": ((7, 16, 512), (7, 16))}
    assert kernel_impl.validate(name, ragged, ragged_dtypes, _attrs(name)) == expected[name]
    with pytest.raises(ValueError, match=r"expected t = b \* s1, but t = 7"):
        kernel_impl.validate(name, shapes, dtypes, _attrs(name))
    with pytest.raises(TypeError, match="query_act_seqs must be int32, got int64"):
        kernel_impl.validate(name, ragged, [*dtypes, "int64"], _attrs(name))
    with pytest.raises(ValueError, match=r"query_act_seqs has shape \(3,\), expected \(b,\) = \(2,\)"):
        kernel_impl.validate(name, [*shapes, (3,)], ragged_dtypes, _attrs(name))
    split = [(1, 7, *shapes[0][1:]), *ragged[1:]] if name == RAGGED[0] else [(1, 7, 16, 512), *ragged[1:]]
    with pytest.raises(ValueError, match=r"has shape \(1, 7, .* with query_act_seqs"):
        kernel_impl.validate(name, split, ragged_dtypes, _attrs(name))
