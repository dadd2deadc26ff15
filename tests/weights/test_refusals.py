"""What the operators cannot honour is refused, by the file's and the tensor's name, before anything large is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import tolerance
from checkpoints import BF16, PREFIX, Zeros
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal_cases import CASES, LEFT, POSITIVE, UNKNOWN, Case, scales, vector

from ms_dsv32 import weights
from ms_dsv32.weights.files import Checkpoint
from ms_dsv32.weights.layer import Layer

SMALL = 400_000
"""Bytes: the scales of kv_b_proj for 128 heads, in int64, are 262144. The smallest matrix is 917504."""


def load(path: Path, **options: Any) -> dict[str, Any]:
    """A layer's weights, of PREFIX if nothing else is asked for."""
    if "layer" not in options:
        options = {"prefix": PREFIX, **options}
    return weights.load_layer(path, **options)


@pytest.fixture
def largest(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each read of a tensor."""
    sizes = [0]
    read = Checkpoint.read

    def spy(self: Checkpoint, *args: Any) -> Any:
        array = read(self, *args)
        sizes.append(array.nbytes)
        return array

    monkeypatch.setattr(Checkpoint, "read", spy)
    return sizes


def functions_of(case: Case) -> list[Callable[..., Any]]:
    """What reads the first tensor that is changed: of `kv_b_proj` the values, which load_mla does not read."""
    module = case.tensor.partition(".")[0]
    if module == "indexer":
        parts = [weights.load_indexer]
    elif module == "o_proj":
        parts = [weights.load_epilog]
    elif module == "kv_b_proj":
        parts = [weights.load_mla, weights.load_epilog] if case.early else [weights.load_epilog]
    else:
        parts = [weights.load_mla]
    return [*parts, weights.load_layer]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_refusal(name: str, tmp_path: Path, largest: list[int]) -> None:
    """Both by the functions that read a part of the layer, and by those that read all of it."""
    case = CASES[name]
    path = case.write(tmp_path)
    for function in functions_of(case):
        with pytest.raises(case.error) as raised:
            function(path, prefix=PREFIX)
        text = str(raised.value.args[0])
        print(f"\n{function.__name__}: {type(raised.value).__name__}: {text}")
        assert case.text in text
        assert str(path) in text
        assert f"{PREFIX}{case.tensor}" in text
        assert "\n" not in text
        if case.early:
            assert max(largest) < SMALL


def test_rows_behind_the_first_ones_are_named_by_their_number(tmp_path: Path) -> None:
    """The matrix is read in parts of 1024 rows."""
    weight = np.zeros((1536, 7168), BF16)
    weight[1500, 3] = np.nan
    path = Case("FLOAT", {"q_a_proj.weight": weight}, "").write(tmp_path)
    with pytest.raises(ValueError, match=r"q_a_proj\.weight\[1500, 3\] is nan"):
        weights.load_mla(path, prefix=PREFIX)


@pytest.mark.parametrize("kind", ["FLOAT", "FP8", "W8A8_DYNAMIC", "W8A8", "W8A8_MIX"])
def test_the_layers_that_refusals_are_tried_on_are_loaded(kind: str, tmp_path: Path) -> None:
    """Otherwise each of the refusals might have another reason."""
    path = checkpoints.write(tmp_path / "model.safetensors", checkpoints.renamed(checkpoints.hollow(1, kind)))
    loaded = load(path)
    weights.check(loaded, [*weights.MLA_WEIGHTS, *weights.INDEXER_WEIGHTS, *weights.EPILOG_WEIGHTS], 1)
    if kind != "FLOAT":
        for scale in ("w_qb_scale", "w_o_scale"):
            assert (loaded[scale] == 0.5).all() == (kind != "FP8")  # 1 / 2, or as it is


HARMLESS: dict[str, tuple[str, dict[str, Any]]] = {
    "alphas of one": ("FLOAT", {"ckv_a_alpha": np.ones(1, np.float32), "indexer.q_alpha": np.array(1, BF16)}),
    "weight_scale of one beside FP8": ("FP8", {"q_b_proj.weight_scale": np.ones((192, 1), np.float32)}),
    "biases of zero": (
        "W8A8",
        {
            f"{module}.bias": np.zeros(size, BF16)
            for module, size in (("q_a_layernorm", 1536), ("kv_a_layernorm", 512), ("q_b_proj", 192), ("o_proj", 7168))
        },
    ),
    "an alpha of one of o_proj": ("FLOAT", {"o_proj.w_alpha": np.ones(1, np.float32)}),
    "weight_scale of one beside o_proj in FP8": ("FP8", {"o_proj.weight_scale": np.ones((7168, 1), np.float32)}),
    "no activations' offset of o_proj": ("W8A8", {"o_proj.input_offset": None, "o_proj.quant_bias": None}),
    "offsets of zero, of integers": ("W8A8_DYNAMIC", {"q_b_proj.weight_offset": np.zeros((192, 1), np.int8)}),
    "a table of transformers": ("FLOAT", {"rotary_emb.inv_freq": np.ones(32, np.float32)}),
    "no activations' offset": ("W8A8", {"q_b_proj.input_offset": None, "q_b_proj.quant_bias": None}),
    "deq_scale of U64": ("W8A8", {"q_b_proj.deq_scale": np.full(192, 0x3F800000, np.uint64)}),
    "dynamic scales of bfloat16 in a mixture": ("W8A8_MIX", {"q_b_proj.weight_scale": np.full((192, 1), 0.502, BF16)}),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_nothing_passes(name: str, tmp_path: Path) -> None:
    kind, change = HARMLESS[name]
    tensors = {name: t for name, t in {**checkpoints.hollow(1, kind), **change}.items() if t is not None}
    path = checkpoints.write(tmp_path / "model.safetensors", checkpoints.renamed(tensors))
    layer = Layer(Checkpoint(path), PREFIX)
    assert layer.check_mla() == 1
    layer.check_indexer()
    layer.check_epilog()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"o_proj.weight": None}, KeyError, f"no tensor '{PREFIX}o_proj.weight' in "),
        ({"o_proj.weight_offset": np.ones(7168, np.float32)}, ValueError, f" {LEFT} BF16"),
        ({"o_proj.more": np.ones(1, np.float32)}, ValueError, f" {UNKNOWN}"),
        ({"o_proj.weight": Zeros("F8_E8M0", (3,))}, TypeError, "o_proj.weight must be "),
    ],
    ids=["none", "left over", "unknown", "of another type"],
)
def test_o_proj_concerns_the_epilog_alone(
    tmp_path: Path, largest: list[int], change: dict[str, Any], error: type[Exception], text: str
) -> None:
    """A checkpoint whose o_proj is missing, or has any format, still serves the other loaders."""
    tensors = {name: t for name, t in {**checkpoints.hollow(1), **change}.items() if t is not None}
    path = checkpoints.write(tmp_path / "model.safetensors", checkpoints.renamed(tensors))
    for function in (weights.load_epilog, weights.load_layer):
        with pytest.raises(error) as raised:
            function(path, layer=0)
        assert text in str(raised.value.args[0])
        assert str(path) in str(raised.value.args[0])
    assert max(largest) < SMALL
    assert sorted(weights.load_prologs(path, layer=0)) == sorted([*weights.MLA_WEIGHTS, *weights.INDEXER_WEIGHTS])
    assert tuple(weights.load_mla(path, layer=0)) == weights.MLA_WEIGHTS


UNKNOWN_TENSORS = ("q_c_proj.weight", "indexer.fa_q.scale", "o_proj.scale")


@pytest.mark.parametrize("function", [weights.load_mla, weights.load_indexer, weights.load_epilog, weights.load_layer])
def test_unknown_tensors_are_passed_over_if_one_says_so(function: Callable[..., Any], tmp_path: Path) -> None:
    unknown = {name: np.zeros(1, np.float32) for name in UNKNOWN_TENSORS}
    tensors = checkpoints.renamed({**checkpoints.hollow(1), **unknown})
    path = checkpoints.write(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ValueError, match="is not known here"):
        function(path, prefix=PREFIX)
    known = checkpoints.write(tmp_path / "known.safetensors", checkpoints.renamed(checkpoints.hollow(1)))
    want = function(known, prefix=PREFIX)
    for name, array in function(path, prefix=PREFIX, allow_unknown=True).items():
        tolerance.assert_same_bits(name, array, want[name])


def test_allow_unknown_allows_nothing_else(tmp_path: Path) -> None:
    for name in (
        "bias of q_a_proj",
        "bias of o_proj",
        "an alpha of o_proj",
        "ckv_a_alpha",
        "weight_scale beside floats",
        "bias of q_a_layernorm",
    ):
        path = CASES[name].write(tmp_path)
        with pytest.raises(ValueError, match=re.escape(CASES[name].text)):
            load(path, allow_unknown=True)


# Anything at all

SUFFIXES = ["weight", "bias", "weight_scale", "weight_scale_inv", "weight_offset"]
SUFFIXES += ["input_scale", "input_offset", "deq_scale", "quant_bias"]
NAMES = [f"{module}.{suffix}" for module in checkpoints.shapes(1) for suffix in SUFFIXES]
NAMES += ["ckv_a_alpha", "indexer.hadamard_matrix", "indexer.q_rot", "indexer.k_rot", "indexer.q_alpha"]
DTYPES = [np.float32, np.float16, BF16, np.float64, checkpoints.FP8, np.int8, np.int32, np.int64, np.uint8, np.bool_]
VALUES = [0, 1, -1, 0.5, 2, 1e30, -1e30, 1e-30, np.nan, np.inf, -np.inf]


@settings(deadline=None, max_examples=150)
@given(data=st.data())
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_any_change_of_a_layer_is_loaded_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """There is no other error, and the text names the tensor to blame and its file."""
    kind = data.draw(st.sampled_from(["FLOAT", "FP8", "W8A8_DYNAMIC", "W8A8", "W8A8_MIX"]))
    layer = checkpoints.hollow(1, kind)
    for name in data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)):
        here = layer.pop(name, None)
        if data.draw(st.booleans()) and here is not None:
            continue
        shapes = [(), (0,), (1,), (1, 1), (1536,), (1536, 1), (128, 128)] + (
            [here.shape] * 7 if here is not None else []
        )
        shape = data.draw(st.sampled_from([s for s in shapes if np.prod(s) < 1e6] or [(1,)]))
        dtype = data.draw(st.sampled_from(DTYPES))
        with np.errstate(all="ignore"):  # NaN becomes some integer
            layer[name] = np.full(shape, data.draw(st.sampled_from(VALUES))).astype(dtype)
    path = checkpoints.write(tmp_path_factory.getbasetemp() / "any.safetensors", checkpoints.renamed(layer))
    tried = Layer(Checkpoint(path), PREFIX)
    for check in (tried.check_mla, tried.check_indexer, tried.check_epilog):
        try:
            check()
        except (KeyError, TypeError, ValueError) as error:
            text = str(error.args[0])
            assert re.search(rf"^weights: (no tensor '{re.escape(PREFIX)}|{re.escape(str(path))}: )", text), text
            assert any(f"{PREFIX}{name}" in text for name in {*NAMES, *layer}), text


# Arguments


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer of two heads in a file."""
    path = tmp_path_factory.mktemp("plain") / "model.safetensors"
    return checkpoints.write(path, checkpoints.renamed(checkpoints.hollow(2), 7))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"layer": 7, "heads": [0]}, TypeError, "weights: heads must be a range, got [0]"),
        ({"layer": 7, "heads": 1}, TypeError, "weights: heads must be a range, got 1"),
        ({"layer": 7, "heads": range(0)}, ValueError, "heads is range(0, 0), expected a part of range(0, 2)"),
        ({"layer": 7, "heads": range(1, 3)}, ValueError, "heads is range(1, 3), expected a part of range(0, 2)"),
        ({"layer": 7, "heads": range(-1, 1)}, ValueError, "heads is range(-1, 1), expected a part of range(0, 2)"),
        ({"layer": 7, "heads": range(0, 2, 2)}, ValueError, "heads is range(0, 2, 2), expected a part of"),
        ({"prefix": None}, TypeError, "weights: prefix must be a str, got None"),
        ({"prefix": 7}, TypeError, "weights: prefix must be a str, got 7"),
        ({"layer": 6}, KeyError, "weights: no layer 6 in {path}; there are 7"),
        ({"layer": -1}, KeyError, "weights: no layer -1 in {path}; there are 7"),
        ({"layer": "7"}, TypeError, "weights: layer must be an int, got '7'"),
        ({"layer": True}, TypeError, "weights: layer must be an int, got True"),
        ({"layer": 7, "prefix": "x"}, ValueError, "{function}: prefix is 'x' and layer is 7, expected one of them"),
        *(
            (
                {"prefix": prefix},
                KeyError,
                f"no attention under {prefix!r} in {{path}}; layers begin with 'model.layers.7.self_attn.'",
            )
            for prefix in ("", "model.layers.8.self_attn.", "model.", "model.layers.7.self_attn", "7")
        ),
    ],
)
def test_arguments_that_fit_nothing(
    plain: Path, largest: list[int], options: dict[str, Any], error: type[Exception], text: str
) -> None:
    for function in (weights.load_mla, weights.load_epilog, weights.load_prologs, weights.load_layer):
        with pytest.raises(error) as raised:
            function(plain, **options)
        assert text.format(path=plain, function=function.__name__) in str(raised.value.args[0])
    assert max(largest) < SMALL


def test_the_indexer_says_the_same_of_arguments(plain: Path) -> None:
    with pytest.raises(ValueError, match="load_indexer: prefix is 'x' and layer is 7, expected one of them"):
        weights.load_indexer(plain, layer=7, prefix="x")
    with pytest.raises(TypeError, match="weights: prefix must be a str, got None"):
        weights.load_indexer(plain, prefix=None)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match=r"no attention under '' in .*; layers begin with 'model.layers.7.self_attn.'"):
        weights.load_indexer(plain)


def test_a_wrong_prefix_needs_none_of_the_shards(tmp_path: Path) -> None:
    """With two of 163 shards and no layer given, the error lists the layers, not the missing shards."""
    names = dict.fromkeys(checkpoints.renamed(checkpoints.hollow(1), 5), "absent.safetensors")
    checkpoints.write_index(tmp_path, names)
    with pytest.raises(KeyError, match=r"no attention under '' in .*; layers begin with 'model.layers.5.self_attn.'"):
        weights.load_mla(tmp_path)


# msModelSlim's description


def describe(directory: Path, kind: str, told: Any, name: str = "quant_model_description.json") -> Path:
    """A layer whose q_b_proj is called ``told``."""
    path = checkpoints.write(directory / "model.safetensors", checkpoints.renamed(checkpoints.hollow(1, kind)))
    (directory / name).write_text(json.dumps({"model_quant_type": "W8A8", f"{PREFIX}q_b_proj.weight": told}))
    return path


@pytest.mark.parametrize(
    ("kind", "told", "text"),
    [
        *(
            ("W8A8_DYNAMIC", told, f"q_b_proj.weight {told}; read are FLOAT, FP8, W8A8_DYNAMIC, W8A8, W8A8_MIX")
            for told in ("W4A8_DYNAMIC", "W8A8_MXFP8", "W8A16", "W8A8S", "WFP8AFP8_DYNAMIC", "")
        ),
        ("W8A8_DYNAMIC", ["W8A8"], "q_b_proj.weight ['W8A8']; read are FLOAT"),
        ("W8A8_DYNAMIC", "FLOAT", "q_b_proj.weight FLOAT, but it is I8 with the tensors of W8A8_DYNAMIC"),
        ("W8A8_DYNAMIC", "W8A8", "q_b_proj.weight W8A8, but it is I8 with the tensors of W8A8_DYNAMIC"),
        ("W8A8_DYNAMIC", "W8A8_MIX", "q_b_proj.weight W8A8_MIX, but it is I8 with the tensors of W8A8_DYNAMIC"),
        ("W8A8", "W8A8_DYNAMIC", "q_b_proj.weight W8A8_DYNAMIC, but it is I8 with the tensors of W8A8"),
        ("FLOAT", "W8A8", "q_b_proj.weight W8A8, but it is BF16 with the tensors of FLOAT"),
        ("FP8", "FLOAT", "q_b_proj.weight FLOAT, but it is F8_E4M3 with the tensors of FP8"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_a_description_of_what_is_not_there(
    tmp_path: Path, largest: list[int], kind: str, told: Any, text: str, whole: bool
) -> None:
    path = describe(tmp_path, kind, told)
    with pytest.raises(ValueError, match=re.escape(text)) as raised:
        load(tmp_path if whole else path)
    assert f"{tmp_path / 'quant_model_description.json'} calls {PREFIX}" in str(raised.value)
    assert max(largest) < SMALL


@pytest.mark.parametrize("told", ["W8A8_MIX", "W8A8_DYNAMIC", "W8A8"])
def test_a_mixture_may_be_called_by_either_of_its_kinds(tmp_path: Path, told: str) -> None:
    path = describe(tmp_path, "W8A8_MIX", told, "quant_model_description_w8a8.json")
    layer = Layer(Checkpoint(path), PREFIX)
    layer.check_mla()
    assert layer.parts["w_uq_qr"].kind == "W8A8_MIX"


def test_descriptions_that_cannot_be_read(tmp_path: Path) -> None:
    path = describe(tmp_path, "W8A8", "W8A8", "quant_model_description_a.json")
    (tmp_path / "quant_model_description_b.json").write_text("{}")
    with pytest.raises(ValueError, match=r"several descriptions: quant_model_description_a.json, quant_model_desc.*_b"):
        load(path)
    (tmp_path / "quant_model_description.json").write_text("[]")  # the plain name goes first
    with pytest.raises(ValueError, match=r"quant_model_description.json is not a JSON object"):
        load(path)
    (tmp_path / "quant_model_description.json").write_text("{")
    with pytest.raises(ValueError, match=r"quant_model_description.json is not JSON: "):
        load(path)
    (tmp_path / "quant_model_description.json").unlink()
    (tmp_path / "quant_model_description.json").mkdir()
    with pytest.raises(ValueError, match=r"quant_model_description.json is not a regular file"):
        load(path)


# Our own files


def own() -> dict[str, Any]:
    """A layer in our own format, of one head."""
    tensors: dict[str, Any] = {}
    for name in (*weights.MLA_WEIGHTS, *weights.INDEXER_WEIGHTS, *weights.EPILOG_WEIGHTS):
        shape = weights.shape_of(name, 1)
        dtype = "I8" if name in ("w_uq_qr", "w_qb", "w_o") else "BF16"
        tensors[name] = np.ones(shape, np.float32) if name.endswith("_scale") else Zeros(dtype, shape)
    return tensors


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"w_dq": Zeros("BF16", (7168, 1535))}, ValueError, "w_dq has shape (7168, 1535), expected (h, q_lora_rank)"),
        ({"w_dq": Zeros("F32", (7168, 1536))}, TypeError, "w_dq must be BF16, got F32"),
        ({"w_uk": Zeros("BF16", (0, 128, 512))}, ValueError, "w_uk has shape (0, 128, 512), expected (n_q, qk_nope"),
        ({"wk": None}, KeyError, "no tensor 'wk' in "),
        ({"w_o": None}, KeyError, "no tensor 'w_o' in "),
        ({"w_uv": None}, KeyError, "no tensor 'w_uv' in "),
        ({"w_uk": None}, KeyError, "no tensor 'w_uk' in "),
        ({"w_uv": Zeros("BF16", (1, 128, 512))}, ValueError, "w_uv has shape (1, 128, 512), expected (n_q, kv_lora"),
        ({"w_uv": Zeros("BF16", (2, 512, 128))}, ValueError, "w_uv has shape (2, 512, 128), expected (n_q, kv_lora"),
        ({"w_o": Zeros("I8", (256, 7168))}, ValueError, "w_o has shape (256, 7168), expected (n_q*v_head_dim, h) ="),
        ({"w_o": Zeros("BF16", (128, 7168))}, TypeError, "w_o must be I8, got BF16"),
        ({"w_o_scale": scales(7168, -1)}, ValueError, f"w_o_scale[3, 0] is -1, {POSITIVE}"),
        ({"w_o_scale": np.ones((7168,), np.float32)}, ValueError, "w_o_scale has shape (7168,), expected (h, 1)"),
        ({"w_more": np.ones(1, np.float32)}, ValueError, f"w_more {UNKNOWN}"),
        ({"dequant_scale": scales(192, np.nan)}, ValueError, f"dequant_scale[3, 0] is nan, {POSITIVE}"),
        ({"w_qb_scale": scales(8192, 0)}, ValueError, f"w_qb_scale[3, 0] is 0, {POSITIVE}"),
        ({"ln_beta_k": vector(128, np.inf, 5, BF16)}, ValueError, "ln_beta_k[5] is inf, expected a finite number"),
    ],
)
def test_our_own_files_are_checked_too(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], text: str
) -> None:
    tensors = {name: tensor for name, tensor in {**own(), **change}.items() if tensor is not None}
    path = checkpoints.write(tmp_path / "layer.safetensors", tensors)
    with pytest.raises(error) as raised:
        load(path, prefix="")
    assert text in str(raised.value.args[0])
    assert str(path) in str(raised.value.args[0])
