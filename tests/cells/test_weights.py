"""Weights: conversions, packing, files in both layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import mindspore as ms
import ml_dtypes
import numpy as np
import pytest
import tolerance
from safetensors.numpy import save_file

from ms_dsv32 import golden, weights

RNG = np.random.default_rng(5)
PREFIX = "model.layers.0.self_attn."


def test_every_bfloat16_makes_the_round_trip() -> None:
    bits = np.arange(2**16, dtype=np.uint32).astype(np.uint16).reshape(256, 256)
    tensor = weights.to_tensor(bits)
    assert tensor.dtype == ms.bfloat16
    tolerance.assert_same_bits("bits", weights.to_array(tensor), bits)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.float16, np.float32])
def test_other_types_make_the_round_trip(dtype: type[np.generic]) -> None:
    array = RNG.integers(-100, 100, (3, 5)).astype(dtype)
    tolerance.assert_same_bits("array", weights.to_array(weights.to_tensor(array)), array)


def test_a_tensor_shares_the_memory_of_a_writable_contiguous_array_alone() -> None:
    array = np.zeros((4, 4), np.float32)
    assert weights.to_tensor(array).data_ptr() == array.ctypes.data
    assert weights.to_tensor(array.T).data_ptr() != array.ctypes.data
    array.flags.writeable = False
    assert weights.to_tensor(array).data_ptr() != array.ctypes.data


@pytest.mark.parametrize("shape", [(4, 64), (1536, 192), (2, 128, 512)])
@pytest.mark.parametrize("dtype", [np.int8, np.uint16])
def test_unpack_undoes_pack(shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    array = RNG.integers(0, 100, shape).astype(dtype)
    packed = weights.pack(array)
    assert packed.shape == array.shape
    assert (packed != array).any()
    tolerance.assert_same_bits("unpacked", weights.unpack(packed), array)


def test_hadamard_is_the_golden_one() -> None:
    tolerance.assert_same_bits("hadamard", weights.hadamard(), golden.hadamard_matrix(128))


def test_shapes_are_those_of_the_weights() -> None:
    for n_q in (1, 16):
        for name, array in {**cases.mla_weights(n_q), **cases.indexer_weights()}.items():
            assert weights.shape_of(name, n_q) == array.shape


def test_our_own_file_makes_the_round_trip(tmp_path: Path) -> None:
    layer = {**cases.mla_weights(2), **cases.indexer_weights()}
    weights.save(tmp_path / "layer.safetensors", layer)
    loaded = {
        **weights.load_mla(tmp_path / "layer.safetensors"),
        **weights.load_indexer(tmp_path / "layer.safetensors"),
    }
    assert list(loaded) == list(layer)
    for name, array in layer.items():
        tolerance.assert_same_bits(name, loaded[name], array)


def deepseek(n_q: int) -> dict[str, Any]:
    """A layer in DeepSeek's layout, [out, in], without its prefix."""

    def matrix(*shape: int) -> Any:
        return RNG.standard_normal(shape, dtype=np.float32).astype(ml_dtypes.bfloat16)

    return {
        "q_a_proj.weight": matrix(1536, 7168),
        "q_a_layernorm.weight": matrix(1536),
        "q_b_proj.weight": matrix(n_q * 192, 1536),
        "kv_a_proj_with_mqa.weight": matrix(576, 7168),
        "kv_a_layernorm.weight": matrix(512),
        "kv_b_proj.weight": matrix(n_q * 256, 512),
        "indexer.wq_b.weight": matrix(8192, 1536),
        "indexer.wk.weight": matrix(128, 7168),
        "indexer.k_norm.weight": matrix(128),
        "indexer.k_norm.bias": matrix(128),
        "indexer.weights_proj.weight": matrix(64, 7168),
    }


@pytest.fixture(scope="module")
def layer() -> dict[str, Any]:
    return deepseek(3)


def write(path: Path, tensors: dict[str, Any]) -> Path:
    save_file({PREFIX + k: np.ascontiguousarray(v) for k, v in tensors.items()}, str(path))
    return path


def test_deepseeks_layout(tmp_path: Path, layer: dict[str, Any]) -> None:
    names = list(layer)
    first = write(tmp_path / "1.safetensors", {n: layer[n] for n in names[:4]})
    second = write(tmp_path / "2.safetensors", {n: layer[n] for n in names[4:]})
    mla = weights.load_mla([first, second], prefix=PREFIX)
    indexer = weights.load_indexer([first, second], prefix=PREFIX)
    bits = {name: array.view(np.uint16) for name, array in layer.items()}
    tolerance.assert_same_bits("w_dq", mla["w_dq"], bits["q_a_proj.weight"].T)
    tolerance.assert_same_bits("w_dkv_kr", mla["w_dkv_kr"], bits["kv_a_proj_with_mqa.weight"].T)
    tolerance.assert_same_bits("gamma_cq", mla["gamma_cq"], bits["q_a_layernorm.weight"])
    tolerance.assert_same_bits("gamma_ckv", mla["gamma_ckv"], bits["kv_a_layernorm.weight"])
    for head in range(3):  # a head of kv_b_proj is 128 key rows, then 128 value rows
        rows = bits["kv_b_proj.weight"][head * 256 : head * 256 + 128]
        tolerance.assert_same_bits("w_uk", mla["w_uk"][head], rows)
    for name, scale, loaded, source in (
        ("w_uq_qr", "dequant_scale", mla, "q_b_proj.weight"),
        ("w_qb", "w_qb_scale", indexer, "indexer.wq_b.weight"),
    ):
        q, s = golden.quantise_weight(layer[source].astype(np.float32).T)
        tolerance.assert_same_bits(name, loaded[name], q)
        tolerance.assert_same_bits(scale, loaded[scale], s)
    tolerance.assert_same_bits("wk", indexer["wk"], bits["indexer.wk.weight"].T)
    tolerance.assert_same_bits("w_proj", indexer["w_proj"], bits["indexer.weights_proj.weight"].T)
    tolerance.assert_same_bits("ln_gamma_k", indexer["ln_gamma_k"], bits["indexer.k_norm.weight"])
    tolerance.assert_same_bits("ln_beta_k", indexer["ln_beta_k"], bits["indexer.k_norm.bias"])
    tolerance.assert_same_bits("hadamard_q", indexer["hadamard_q"], golden.hadamard_matrix(128))


def test_a_rank_takes_its_heads(tmp_path: Path, layer: dict[str, Any]) -> None:
    path = write(tmp_path / "layer.safetensors", layer)
    whole = weights.load_mla(path, prefix=PREFIX)
    part = weights.load_mla(path, prefix=PREFIX, heads=range(1, 3))
    weights.check(part, weights.MLA_WEIGHTS, 2)
    tolerance.assert_same_bits("w_uq_qr", part["w_uq_qr"], whole["w_uq_qr"][:, 192:])
    tolerance.assert_same_bits("dequant_scale", part["dequant_scale"], whole["dequant_scale"][192:])
    tolerance.assert_same_bits("w_uk", part["w_uk"], whole["w_uk"][1:])
    for heads in (range(2, 4), range(0), range(0, 2, 2)):
        with pytest.raises(ValueError, match="load_mla: heads is range"):
            weights.load_mla(path, prefix=PREFIX, heads=heads)


def test_int8_projections_are_taken_as_they_are(tmp_path: Path, layer: dict[str, Any]) -> None:
    int8 = RNG.integers(-127, 128, (3 * 192, 1536), dtype=np.int8)
    scale = RNG.random(3 * 192, dtype=np.float32)
    changed = {**layer, "q_b_proj.weight": int8, "q_b_proj.weight_scale": scale}
    mla = weights.load_mla(write(tmp_path / "layer.safetensors", changed), prefix=PREFIX)
    tolerance.assert_same_bits("w_uq_qr", mla["w_uq_qr"], int8.T)
    tolerance.assert_same_bits("dequant_scale", mla["dequant_scale"], scale[:, None])


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("q_a_proj.weight", None, KeyError, f"no tensor '{PREFIX}q_a_proj.weight' in "),
        ("q_a_proj.weight", np.zeros((1536, 7168), np.int8), TypeError, "is int8; dequantise it to bfloat16 first"),
        ("q_a_proj.weight", np.zeros((1535, 7168), np.float32), ValueError, "w_dq has shape (7168, 1535), expected "),
        (
            "kv_b_proj.weight",
            np.zeros((257, 512), np.float32),
            ValueError,
            "kv_b_proj.weight has shape (257, 512), expe",
        ),
        ("q_b_proj.weight", np.zeros(5, np.float32), ValueError, "q_b_proj.weight has shape (5,), expected two axes"),
    ],
)
def test_a_file_that_does_not_fit(
    tmp_path: Path, layer: dict[str, Any], name: str, value: Any, error: type[Exception], text: str
) -> None:
    changed = {k: v for k, v in layer.items() if k != name} | ({} if value is None else {name: value})
    path = write(tmp_path / "layer.safetensors", changed)
    with pytest.raises(error) as raised:
        weights.load_mla(path, prefix=PREFIX)
    assert text in str(raised.value)


def test_check_names_what_is_wrong() -> None:
    good = dict(cases.mla_weights(1))
    weights.check(good, weights.MLA_WEIGHTS, 1)
    for change, error, text in (
        ({"w_dq": None}, ValueError, "weights: w_dq is missing"),
        ({"wk": good["w_dq"]}, ValueError, "weights: there is no weight wk"),
        ({"w_dq": good["w_dq"].view(np.int16)}, TypeError, r"w_dq must be uint16 \(bfloat16 bits\), got int16"),
        (
            {"w_uk": good["w_uk"][:, :64]},
            ValueError,
            r"w_uk has shape \(1, 64, 512\), expected \(n_q, qk_nope_head_dim",
        ),
    ):
        changed = {k: v for k, v in (good | change).items() if v is not None}
        with pytest.raises(error, match=text):
            weights.check(changed, weights.MLA_WEIGHTS, 1)
    with pytest.raises(ValueError, match="there is no weight w_dx"):
        weights.save("nowhere", {"w_dx": good["w_dq"]})
