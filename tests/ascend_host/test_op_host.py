"""CANN's host side of the operators, compiled and run against stubs: definitions, kernel entries, tiling, inference."""

from __future__ import annotations

import ctypes
import dataclasses
import re

import cases
import op_host
import pytest
from op_host import ASCENDC, Device, definition, infer_dtypes, infer_shapes, tile, withheld
from tiling import PROLOGS, prolog_tiling
from tiling import library as tiling_library

from ms_dsv32 import kernel_impl, op_info

# CANN's numbers (graph/types.h), written here independently of the code.
DTYPES = {"fp32": 0, "fp16": 1, "int8": 2, "int32": 3, "int64": 9, "bf16": 27}
FORMAT_ND = 2  # of NZ weights too: MindSpore marks every tensor ND
OPTIONAL, REQUIRED = "1", "2"
SYSTEM_WORKSPACE = 16 * 1024 * 1024  # GetLibApiWorkSpaceSize on arch 2201
OPERATORS = op_info.names()
RAGGED = [name for name in OPERATORS if op_info.load(name).optional]


def _shapes(name: str, alternative: int = 0, **sizes: int) -> list[tuple[int, ...]]:
    """Shapes of a call's inputs, without the optional one unless `t` is given."""
    values = {d.name: d.value for d in op_info.dims().values()} | {
        "b": 3, "s1": 2, "t": 6, "n_q": 16, "block_num": 10, "max_blocknum_perbatch": 5, "selected_count": 2048, **sizes
    }  # fmt: skip
    values["t"] = sizes.get("t", values["b"] * values["s1"])
    inputs = [a for a in op_info.load(name).inputs if "t" in sizes or not a.optional]
    shapes = [a.shapes[min(alternative, len(a.shapes) - 1)] for a in inputs]
    return [tuple(eval(axis, {}, values) for axis in shape) for shape in shapes]


def _attrs(name: str, **given: float | int) -> dict[str, float | int]:
    """Attributes of the OpDef, in its order; floats distinct, so that mixing them up shows."""
    chosen: dict[str, float | int] = {
        "nq": 16, "n_kv": 1, "topk": 2048, "block_size": 128, "max_blocknum_perbatch": 5, "selected_count": 2048,
    }  # fmt: skip
    attrs = op_info.load(name).ascend_attrs
    return {
        a.name: given.get(a.name, chosen.get(a.name, 0.125 * (i + 1) if a.type == "float" else 0))
        for i, a in enumerate(attrs)
    }


def _cpu_attrs(name: str, attrs: dict[str, float | int]) -> dict[str, object]:
    """The same call's attributes as the CPU's check takes them."""
    info = op_info.load(name)
    dotted = {a.name.replace(".", "_"): a.name for a in info.kernel_attrs}
    required = {a.name: 0 for a in info.attrs if a.required}
    return op_info.bind_attrs(info, required) | {dotted[k]: v for k, v in attrs.items()}


@pytest.mark.parametrize("name", OPERATORS)
def test_definition(name: str) -> None:
    info = op_info.load(name)
    lines = definition(info.cann_type)
    nd = f"{FORMAT_ND},"
    need = {"query_act_seqs": OPTIONAL}
    want = [["input", a.name, need.get(a.name, REQUIRED), f"{DTYPES[a.dtype]},", nd, "1"] for a in info.inputs]
    want += [["output", a.in_place_of or a.name, REQUIRED, f"{DTYPES[a.dtype]},", nd, "0"] for a in info.outputs]
    assert [line for line in lines if line[0] in ("input", "output")] == want
    attrs = [line for line in lines if line[0] == "attr"]
    assert [line[1:4] for line in attrs] == [
        [a.name, REQUIRED if a.required else OPTIONAL, a.type] for a in info.ascend_attrs
    ]
    for line, attr in zip(attrs, info.ascend_attrs, strict=True):
        assert float(line[4]) == pytest.approx(attr.default or 0, rel=1e-6)
    flags = "dynamicCompileStatic dynamicFormat dynamicRankSupport dynamicShapeSupport"
    config = sorted([
        *(f"{flag}.flag=true" for flag in flags.split()), "needCheckSupport.flag=false", "precision_reduce.flag=true",
        f"opFile.value={name}", f"opInterface.value={name}",
    ])  # fmt: skip
    units = {line[1]: sorted(line[2:]) for line in lines if line[0] == "unit"}
    assert units == {"ascend910b": config, "ascend910_93": config}


def test_every_operator_is_listed() -> None:
    cases.assert_all_listed(ATTRIBUTES)
    cases.assert_all_listed({*PROLOGS, *_ARGUMENTS})


def test_all_operators_are_registered() -> None:
    assert op_host.library().host_operator_count() == len(OPERATORS)


# The attributes that reach CANN, written here independently of the code. The kernels know the others from layouts and
# tile configurations.
ATTRIBUTES = {
    "mla_prolog_quant": "epsilon_cq epsilon_ckv",
    "lightning_indexer_prolog_quant": "layernorm_epsilon_k",
    "mla_indexer_prolog_quant": "mla_epsilon_cq mla_epsilon_ckv ip_attrs_layernorm_epsilon_k",
    "sparse_flash_attention_quant": "nq n_kv softmax_scale topk block_size",
    "lightning_indexer_quant": "selected_count",
    "mla_epilog_quant": "",
}


@pytest.mark.parametrize("name", OPERATORS)
def test_attributes(name: str) -> None:
    assert [line[1] for line in definition(op_info.load(name).cann_type) if line[0] == "attr"] == ATTRIBUTES[
        name
    ].split()


def _cann_name(op_type: str) -> str:
    """CANN's file and kernel name of an operator (asc-devkit, "命名转换规则对照表")."""
    before_word = re.sub(r"(?<=[A-Z])([A-Z])(?=[a-z])", r"_\1", op_type)
    return re.sub(r"(?<=[^A-Z_])([A-Z])", r"_\1", before_word).lower()


@pytest.mark.parametrize("name", OPERATORS)
def test_entry_of_the_kernel(name: str) -> None:
    """CANN calls it with inputs, outputs, workspace and tiling, and finds it by the name in the definition."""
    info = op_info.load(name)
    (kernel,) = {
        word.partition("=")[2]
        for line in definition(info.cann_type)
        if line[0] == "unit"
        for word in line
        if word.startswith(("opFile.value=", "opInterface.value="))
    }
    assert kernel == name
    source = (ASCENDC / "op_kernel" / f"{name}.cpp").read_text(encoding="utf-8")
    found = re.findall(r'extern "C" __global__ __aicore__ void (\w+)\(([^)]*)\)', source)
    assert len(found) == 1
    entry, parameters = found[0]
    assert entry == name
    operands = [a.name for a in (*info.inputs, *info.outputs)]
    assert [p.split() for p in parameters.split(",")] == [["GM_ADDR", p] for p in [*operands, "workspace", "tiling"]]
    registered = re.findall(r"REGISTER_TILING_DEFAULT\(ms_dsv32::ascendc::(\w+)\);", source)
    adapter = (ASCENDC / "op_host" / f"{name}_tiling.cpp").read_text(encoding="utf-8")
    assert registered == re.findall(r"\bTile<(\w+)>", adapter)


# A function at the margin, in a class or in a namespace: specifiers, type, name, parameters, and a body.
_FUNCTION = re.compile(r"^ *(?:template <.*>\s+)?((?:[\w:<>,*&]+ )+)(?:\w+::)?\w+\([^;{}]*\)[^;{}()]*\{", re.MULTILINE)


def test_a_kernels_translation_unit_has_no_host_function() -> None:
    """CANN compiles op_kernel for the device, where a function that is not marked ``__aicore__`` has no place."""
    found = 0
    for path in sorted((ASCENDC / "op_kernel").iterdir()):
        text = re.sub("//.*", "", path.read_text(encoding="utf-8"))
        assert '"' not in re.sub(r'#include ".*"|extern "C"|static_assert\([^;]*;', "", text), (
            f"{path.name} has a string"
        )
        for match in _FUNCTION.finditer(text):
            found += 1
            words = match[1].split()
            if words[0] in ("if", "else", "for", "while", "return", "switch"):
                continue
            assert "__aicore__" in words, f"{path.name}: {match[0].strip()}"
    assert found > 200


@pytest.mark.parametrize("name", OPERATORS)
def test_names_of_an_operator_in_cann(name: str) -> None:
    info = op_info.load(name)
    assert info.cann_type == f"MsDsa{info.entry}"
    assert re.fullmatch("[A-Za-z]+", info.cann_type)
    assert info.cann_stem == _cann_name(info.cann_type) == f"ms_dsa_{name}"


def test_names_in_cann() -> None:
    # The document's own examples.
    for op_type, name in (("AddCustom", "add_custom"), ("Conv2DCustom", "conv2_d_custom"), ("GRUCell", "gru_cell"),
                          ("GatherV2Custom", "gather_v2_custom"), ("AbcAAc", "abc_a_ac"),
                          ("HTTPServerCustom", "http_server_custom")):  # fmt: skip
        assert _cann_name(op_type) == name


_REFERENCE = """
#include <cstring>
#include "ms_dsv32/kernel_impl/ascendc/op_host/{header}_make_tiling.h"
using namespace ms_dsv32::ascendc;
extern "C" const char* reference({parameters}, uint32_t cores, void* bytes, uint64_t* facts) {{
  {tiling} out{{}};
  const char* no = {function}({{{arguments}}}, Arch2201(cores), out);
  std::memcpy(bytes, &out, sizeof(out));
  facts[0] = out.cores;
  facts[1] = out.workspace_bytes;
  return no;
}}
"""
_ARGUMENTS = {
    "lightning_indexer_quant": (
        "indexer",
        "MakeIndexerTiling",
        "IndexerTiling",
        "t b selected_count block_num block_size max_blocknum ragged",
    ),
    "sparse_flash_attention_quant": (
        "attention",
        "MakeAttentionTiling",
        "AttentionTiling",
        "t b n_q topk block_num block_size max_blocknum softmax_scale ragged",
    ),
    "mla_epilog_quant": ("epilog", "MakeEpilogTiling", "EpilogTiling", "t n_q"),
}
"""The header of each operator's tiling function, the function, its result, and what it takes."""


def _reference(name: str, cores: int, **values: float | int) -> tuple[bytes, int, int]:
    """Tiling data, cores and workspace of the kernel's tiling function, called with these very values."""
    if name in PROLOGS:
        return prolog_tiling(
            name, values["t"], values["n_q"], values["block_num"] * values["block_size"], cores,
            **{k: v for k, v in values.items() if k.startswith("epsilon")},
        )  # fmt: skip
    header, maker, struct, words = _ARGUMENTS[name]
    names = words.split()
    kinds = [{"softmax_scale": "float", "ragged": "bool"}.get(n, "uint32_t") for n in names]
    parameters = ", ".join(f"{k} {n}" for k, n in zip(kinds, names, strict=True))
    source = _REFERENCE.format(
        header=header, function=maker, parameters=parameters, tiling=struct, arguments=", ".join(names)
    )
    function = tiling_library(source).reference
    function.restype = ctypes.c_char_p
    data = ctypes.create_string_buffer(4096)
    facts = (ctypes.c_uint64 * 2)()
    given = [
        {"float": ctypes.c_float, "bool": ctypes.c_bool, "uint32_t": ctypes.c_uint32}[k](values[n])
        for k, n in zip(kinds, names, strict=True)
    ]
    assert function(*given, ctypes.c_uint32(cores), data, facts) is None
    return data.raw, facts[0], facts[1]


EPSILONS = {
    "mla_prolog_quant": {"epsilon_cq": 0.125, "epsilon_ckv": 0.25, "epsilon_k": 0.0},
    "lightning_indexer_prolog_quant": {"epsilon_cq": 0.0, "epsilon_ckv": 0.0, "epsilon_k": 0.125},
    "mla_indexer_prolog_quant": {"epsilon_cq": 0.125, "epsilon_ckv": 0.25, "epsilon_k": 0.375},
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(
    ("b", "s1", "cores", "alternative"), [(3, 2, 24, 0), (3, 2, 20, 1), (0, 0, 24, 0), (128, 4, 1, 1)]
)
def test_tiling(name: str, b: int, s1: int, cores: int, alternative: int) -> None:
    """The launch is what the kernel's own tiling function says for the dims of the call."""
    if name == "sparse_flash_attention_quant" and b == 0:
        alternative = 2  # (t * n_q, 512) does not tell n_q of an empty call; nq does
    _check_tiling(name, _shapes(name, alternative, b=b, s1=s1), cores, t=b * s1, b=b, ragged=False)


@pytest.mark.parametrize("name", RAGGED)
@pytest.mark.parametrize(("t", "b", "cores"), [(7, 3, 24), (2, 5, 20), (300, 128, 1), (4, 0, 24)])
def test_tiling_with_query_act_seqs(name: str, t: int, b: int, cores: int) -> None:
    """Any number of tokens and of sequences."""
    _check_tiling(name, _shapes(name, b=b, t=t), cores, t=t, b=b, ragged=True)


@pytest.mark.parametrize("name", RAGGED)
def test_an_empty_tensor_of_two_axes_stands_for_one_that_is_left_out(name: str) -> None:
    op_type, attrs, without = op_info.load(name).cann_type, _attrs(name), _shapes(name)
    assert tile(op_type, [*without, (0, 0)], attrs, Device()) == tile(op_type, without, attrs, Device())
    count = len(op_info.load(name).outputs)
    assert infer_shapes(op_type, count, [*without, (0, 0)], attrs) == infer_shapes(op_type, count, without, attrs)


@pytest.mark.parametrize("name", PROLOGS)
def test_large_caches(name: str) -> None:
    """Rows that 32 bits do not count."""
    shapes = _shapes(name, block_num=2**26)
    _check_tiling(name, shapes, 24, t=6, b=3, ragged=False, block_num=2**26)


def _check_tiling(name: str, shapes: list[tuple[int, ...]], cores: int, **values: int) -> None:
    launch = tile(op_info.load(name).cann_type, shapes, _attrs(name), Device(cores, 2 * cores))
    assert launch is not None
    data, blocks, workspace = _reference(
        name, cores, n_q=0 if name == "lightning_indexer_prolog_quant" else 16, selected_count=2048,
        topk=2048, block_size=128, max_blocknum=5, softmax_scale=0.375, **EPSILONS.get(name, {}),
        **{"block_num": 10, **values},
    )  # fmt: skip
    assert launch.tiling == data[: len(launch.tiling)]
    assert len(launch.tiling) % 8 == 0
    assert launch.block_dim == blocks
    assert launch.workspace == workspace + SYSTEM_WORKSPACE
    assert launch.tiling_key == 0
    assert launch.schedule_mode == 1  # all cores start together


def test_tiling_uses_the_cores_that_there_are() -> None:
    name = "mla_prolog_quant"
    op_type, shapes, attrs = op_info.load(name).cann_type, _shapes(name), _attrs(name)
    for device, blocks in ((Device(24, 48), 24), (Device(24, 16), 8), (Device(5, 48), 5)):
        launch = tile(op_type, shapes, attrs, device)
        assert launch is not None
        assert launch.block_dim == blocks


def _refused(capfd: pytest.CaptureFixture[str], name: str, shapes, attrs=None, device=None, capacity=2048) -> str:
    capfd.readouterr()
    assert tile(op_info.load(name).cann_type, shapes, attrs or _attrs(name), device, capacity) is None
    return capfd.readouterr().err


@pytest.mark.parametrize("name", cases.WITH_WEIGHTS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ub": 196000}, "UB must hold 196352 bytes"),
        ({"l1": 400000}, "L1 must hold 491520 bytes: left operands and slots of weights"),
        ({"l0a": 32768}, "L0A and L0B must hold 65536 bytes each"),
        ({"l0b": 32768}, "L0A and L0B must hold 65536 bytes each"),
        ({"l0c": 65536}, "L0C must hold 131072 bytes: two halves"),
    ],
)
def test_a_device_that_does_not_fit(
    capfd: pytest.CaptureFixture[str], change: dict[str, int], message: str, name: str
) -> None:
    device = dataclasses.replace(Device(), **change)
    text = _refused(capfd, name, _shapes(name), device=device)
    assert text == f"ms_dsv32: {name}: {message}\n"


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("b", [3, 0])
@pytest.mark.parametrize("device", [Device(0, 48), Device(24, 0), Device(24, 1), Device(0, 0)])
def test_a_device_without_cores(capfd: pytest.CaptureFixture[str], name: str, b: int, device: Device) -> None:
    """An AI core is one AIC and two AIVs, so a device that lacks either has no AI core."""
    alternative = 2 if name == "sparse_flash_attention_quant" and b == 0 else 0  # as in test_tiling
    text = _refused(capfd, name, _shapes(name, alternative, b=b), device=device)
    assert text == f"ms_dsv32: {name}: the device has no AI core\n"


def test_refusals_name_the_argument(capfd: pytest.CaptureFixture[str]) -> None:
    name = "mla_prolog_quant"
    shapes = _shapes(name)
    shapes[1] = (7168, 1535)
    with pytest.raises(ValueError, match="w_dq has shape") as on_cpu:
        kernel_impl.validate(
            name, shapes, [a.ms_dtype for a in op_info.load(name).inputs], _cpu_attrs(name, _attrs(name))
        )
    assert _refused(capfd, name, shapes) == f"ms_dsv32: {on_cpu.value}\n"
    text = _refused(capfd, name, _shapes(name)[:-1])
    assert text == "ms_dsv32: mla_prolog_quant: k_scale_cache is missing\n"
    text = _refused(capfd, name, _shapes(name), {"epsilon_cq": -1.0, "epsilon_ckv": 0.5})
    assert text == "ms_dsv32: mla_prolog_quant: epsilon_cq must be at least 0, got -1\n"
    text = _refused(capfd, name, _shapes(name), {"epsilon_cq": 1, "epsilon_ckv": 0.5})
    assert text == "ms_dsv32: mla_prolog_quant: attribute epsilon_cq is missing\n"
    text = _refused(capfd, name, _shapes(name, block_num=2**32))
    assert text == "ms_dsv32: mla_prolog_quant: block_num must be in [0, 4294967295], got 4294967296\n"
    text = _refused(capfd, name, _shapes(name), capacity=64)
    assert re.fullmatch(r"ms_dsv32: mla_prolog_quant: CANN gives no room for \d+ bytes of tiling\n", text)
    text = _refused(capfd, "lightning_indexer_quant", _shapes("lightning_indexer_quant"), {"selected_count": 4096})
    assert text == ("ms_dsv32: lightning_indexer_quant: selected_count must be selected_count in [1, 2048], got 4096\n")
    text = _refused(
        capfd, "sparse_flash_attention_quant", _shapes("sparse_flash_attention_quant", max_blocknum_perbatch=8193),
        _attrs("sparse_flash_attention_quant", max_blocknum_perbatch=8193),
    )  # fmt: skip
    assert "max_blocknum_perbatch must be at most 8192" in text


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(
    ("alternative", "sizes"), [(0, {}), (1, {"b": 4, "s1": 3}), (2, {"n_q": 16}), (1, {"b": 0, "s1": 0})]
)
def test_inference(name: str, alternative: int, sizes: dict[str, int]) -> None:
    """Shapes as the CPU's inference gives them; a cache's output is the cache."""
    _check_inference(name, _shapes(name, alternative, **sizes))


@pytest.mark.parametrize("t", [7, 2, 0])
def test_inference_with_query_act_seqs(t: int) -> None:
    """t need not be a multiple of b, and the token axis of the outputs is merged."""
    name = "lightning_indexer_quant"
    assert _check_inference(name, _shapes(name, b=3, t=t)) == [(t, 2048)]
    name = "sparse_flash_attention_quant"
    assert _check_inference(name, _shapes(name, b=3, t=t)) == [(t, 16, 512), (t, 16)]


def _check_inference(name: str, shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    info, attrs = op_info.load(name), _attrs(name)
    got = infer_shapes(info.cann_type, len(info.outputs), shapes, attrs)
    assert got is not None
    dtypes = [a.ms_dtype for a in info.inputs[: len(shapes)]]
    inferred = dict(
        zip((o.name for o in info.kernel_outputs),
            kernel_impl.validate(name, shapes, dtypes, _cpu_attrs(name, attrs)), strict=True)
    )  # fmt: skip
    index = {a.name: i for i, a in enumerate(info.inputs)}
    assert got == [shapes[index[o.in_place_of]] if o.in_place_of else inferred[o.name] for o in info.outputs]
    assert infer_dtypes(info.cann_type, len(info.outputs)) == [DTYPES[o.dtype] for o in info.outputs]
    return got


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("unknown", ["axis", "rank"])
@pytest.mark.parametrize("sizes", [{}, {"t": 7}])  # with the optional input, where an operator has one
def test_inference_of_what_is_not_known_yet(name: str, unknown: str, sizes: dict[str, int]) -> None:
    info = op_info.load(name)
    shapes = [(-2,) if unknown == "rank" else (-1, *s[1:]) for s in _shapes(name, **sizes)]
    got = infer_shapes(info.cann_type, len(info.outputs), shapes, _attrs(name))
    assert got is not None
    for output, shape in zip(info.outputs, got, strict=True):
        if output.in_place_of is None:
            assert len(shape) == len(output.shapes[-1 if sizes else 0])
            assert shape[0] == -1  # t or b
            assert all(size == -1 or size > 0 for size in shape)


def test_inference_refuses_what_the_contract_refuses(capfd: pytest.CaptureFixture[str]) -> None:
    name = "lightning_indexer_quant"
    shapes = _shapes(name)
    shapes[0] = (6, 64, 127)
    assert infer_shapes(op_info.load(name).cann_type, 1, shapes, {"selected_count": 2048}) is None
    assert capfd.readouterr().err.startswith(
        "ms_dsv32: lightning_indexer_quant: q_int8 has shape (6, 64, 127), expected (t, idx_n_heads, idx_head_dim)"
    )


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(
    ("what", "message"),
    [("tiling data", r"CANN gives no room for \d+ bytes of tiling"), ("workspace", "CANN gives no workspace")],
)
def test_tiling_where_cann_gives_too_little(
    capfd: pytest.CaptureFixture[str], name: str, what: str, message: str
) -> None:
    with withheld(what):
        text = _refused(capfd, name, _shapes(name))
    assert re.fullmatch(f"ms_dsv32: {name}: {message}\n", text)
    assert tile(op_info.load(name).cann_type, _shapes(name), _attrs(name)) is not None


@pytest.mark.parametrize("name", [name for name in OPERATORS if op_info.load(name).ascend_attrs])
def test_tiling_without_attributes(capfd: pytest.CaptureFixture[str], name: str) -> None:
    with withheld("attributes"):
        text = _refused(capfd, name, _shapes(name))
    assert text == f"ms_dsv32: {name}: attribute {next(iter(_attrs(name)))} is missing\n"


@pytest.mark.parametrize("name", OPERATORS)
def test_inference_where_cann_gives_too_little(capfd: pytest.CaptureFixture[str], name: str) -> None:
    info, attrs = op_info.load(name), _attrs(name)
    with withheld("output shape"):
        assert infer_shapes(info.cann_type, len(info.outputs), _shapes(name), attrs) is None
    assert capfd.readouterr().err == f"ms_dsv32: {name}: an output is missing\n"
    with withheld("output dtype"):
        assert infer_dtypes(info.cann_type, len(info.outputs)) is None


@pytest.mark.parametrize(
    "name", [name for name in OPERATORS if any(a.type == "int" for a in op_info.load(name).ascend_attrs)]
)
def test_an_attribute_of_another_type_is_missing(capfd: pytest.CaptureFixture[str], name: str) -> None:
    attrs = _attrs(name)
    key = next(key for key, value in attrs.items() if isinstance(value, int))
    text = _refused(capfd, name, _shapes(name), attrs | {key: float(attrs[key])})
    assert text == f"ms_dsv32: {name}: attribute {key} is missing\n"


@pytest.mark.parametrize("name", PROLOGS)
def test_rows_of_a_cache_beyond_what_counts_them(capfd: pytest.CaptureFixture[str], name: str) -> None:
    """A size is unknown (-1) only while shapes are inferred, never where a launch is made."""
    shapes = [(-1, *shape[1:]) if len(shape) == 4 else shape for shape in _shapes(name)]
    text = _refused(capfd, name, shapes)
    assert text == f"ms_dsv32: {name}: block_num must be in [0, 4294967295], got -1\n"
