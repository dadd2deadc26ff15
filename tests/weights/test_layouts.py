"""Weights: conversions, packing, the layouts of device targets, and our own files."""

from __future__ import annotations

from pathlib import Path

import cases
import mindspore as ms
import numpy as np
import pytest
import tolerance
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from ms_dsv32 import cells, golden, op_info, weights

RNG = np.random.default_rng(5)
OPERATORS = [name for name in cases.WITH_WEIGHTS if name not in cases.FUSED]
"""The operators whose weights a layer has."""
pytestmark = pytest.mark.mindspore  # Tensors, and cells


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


@pytest.mark.parametrize("dtype", [">u2", "<u2", ">f4"])
def test_a_tensor_is_aligned_and_in_the_machines_byte_order(dtype: str) -> None:
    array = np.frombuffer(bytearray(b"\0" + np.arange(6).astype(dtype).tobytes()), dtype, 6, 1)
    tensor = weights.to_tensor(array)
    assert tensor.data_ptr() % array.itemsize == 0
    tolerance.assert_same_bits("array", weights.to_array(tensor), array.astype(array.dtype.newbyteorder("=")))


def test_a_tensor_of_no_array() -> None:
    with pytest.raises(TypeError, match="to_tensor: array must be a NumPy array, got list"):
        weights.to_tensor([1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(4, 64), (1536, 192), (2, 128, 512)])
@pytest.mark.parametrize("dtype", [np.int8, np.uint16])
def test_unpack_undoes_pack(shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    array = RNG.integers(0, 100, shape).astype(dtype)
    packed = weights.pack(array)
    assert packed.shape == array.shape
    assert (packed != array).any()
    tolerance.assert_same_bits("unpacked", weights.unpack(packed), array)


sizes = st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 100])


@settings(deadline=None)
@given(batch=st.sampled_from([(), (1,), (3,), (2, 2)]), k=sizes, n=sizes, dtype=st.sampled_from([np.int8, np.uint16]))
def test_nz_puts_every_value_where_the_format_says(
    batch: tuple[int, ...], k: int, n: int, dtype: type[np.generic]
) -> None:
    weight = np.random.default_rng(k * 1000 + n).integers(1, 120, (*batch, k, n)).astype(dtype)
    nz = weights.to_nz(weight)
    c0 = 32 // nz.itemsize
    rows = (k + 15) // 16 * 16
    assert nz.shape == (*batch, -(-n // c0), rows // 16, 16, c0)
    # Value (r, c) is in group c // c0, whose rows of 32 bytes follow each other.
    r, c = np.indices((k, n))
    index = (c // c0 * rows + r) * c0 + c % c0
    flat = nz.reshape(*batch, -1)
    tolerance.assert_same_bits("values", flat[..., index], weight)
    padding = np.delete(flat, index.reshape(-1), axis=-1)
    assert not padding.any()
    tolerance.assert_same_bits("from_nz", weights.from_nz(nz, k, n), weight)


def test_nz_refuses_what_has_no_fractals() -> None:
    with pytest.raises(TypeError, match=r"to_nz: weight must be int8 or uint16 \(bfloat16 bits\), got float32"):
        weights.to_nz(np.zeros((16, 16), np.float32))
    with pytest.raises(TypeError, match="from_nz: weight must be int8 or uint16"):
        weights.from_nz(np.zeros((1, 1, 16, 8), np.float32), 16, 8)
    with pytest.raises(ValueError, match=r"to_nz: weight has shape \(16,\), expected \(.., k, n\)"):
        weights.to_nz(np.zeros(16, np.int8))
    nz = weights.to_nz(np.zeros((17, 40), np.uint16))
    for k, n in ((16, 40), (33, 40), (17, 32), (17, 49)):
        with pytest.raises(ValueError, match=rf"from_nz: weight has shape .*, expected .* for k = {k}, n = {n}"):
            weights.from_nz(nz, k, n)


def test_a_prepared_weight_keeps_shape_and_dtype_and_is_restored() -> None:
    args = {a.name: a for operator in OPERATORS for a in op_info.load(operator).inputs}
    for name, array in cases.layer_weights(3).items():
        for target, laid_out in (("CPU", args[name].packable), ("Ascend", args[name].format == "NZ")):
            prepared = weights.prepare(name, array, target)
            assert (prepared.dtype, prepared.shape) == (array.dtype, array.shape)
            assert (prepared is array) == (not laid_out)
            restored = weights.restore(name, prepared, target)
            assert not np.shares_memory(restored, array)
            tolerance.assert_same_bits(f"{name} on {target}", restored, array)
        if args[name].format == "NZ":
            nz = weights.to_nz(array)
            tolerance.assert_same_bits(name, weights.prepare(name, array, "Ascend").reshape(nz.shape), nz)


def test_every_nz_weight_fills_whole_fractals() -> None:
    """So a prepared weight can keep its shape, for any number of heads."""
    for operator in OPERATORS:
        for arg in op_info.load(operator).inputs:
            for n_q in range(1, 129) if arg.format == "NZ" else ():
                k, n = weights.shape_of(arg.name, n_q)
                assert k % 16 == 0
                assert n % (16 if arg.dtype == "bf16" else 32) == 0


def test_prepare_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="there is no device target 'GPU'; there are 'CPU' and 'Ascend'"):
        weights.prepare("w_dq", np.zeros((16, 16), np.uint16), "GPU")
    with pytest.raises(ValueError, match="there is no weight w_dx"):
        weights.prepare("w_dx", np.zeros((16, 16), np.uint16), "Ascend")
    text = r"prepare: w_uq_qr has shape \(16, 16\), expected \(k, n\) with k % 16 == 0 and n % 32 == 0"
    with pytest.raises(ValueError, match=text):
        weights.prepare("w_uq_qr", np.zeros((16, 16), np.int8), "Ascend")


def test_a_cell_for_ascend_holds_nz_and_saves_row_major(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = cases.layer_weights(2)
    target = {"device_target": "Ascend"}
    get_context = ms.get_context
    cell = cells.SparseAttentionLayer(1, 2, softmax_scale=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(ms, "get_context", lambda key: target.get(key) or get_context(key))
        cell.set_weights(layer)
    names = [parameter.name.rpartition(".")[2] for parameter in cell.get_parameters()]
    assert sorted(names) == sorted([*layer, *["layout"] * len(OPERATORS)])
    for name, parameter in zip(names, cell.get_parameters(), strict=True):
        if name != "layout":  # which says how those of its operator are laid out
            held = weights.to_array(parameter)
            tolerance.assert_same_bits(name, held, weights.prepare(name, layer[name], "Ascend"))
    assert (weights.to_array(cell.epilog.w_o) != layer["w_o"]).any()
    cell.save(tmp_path / "layer.safetensors")  # by what the cell holds, not by the target of now
    loaded = cells.SparseAttentionLayer(1, 2, softmax_scale=0.1)
    loaded.load(tmp_path / "layer.safetensors")
    for name, array in layer.items():
        tolerance.assert_same_bits(name, cell.get_weights()[name], array)
        tolerance.assert_same_bits(name, loaded.get_weights()[name], array)


def test_hadamard_is_the_golden_one() -> None:
    tolerance.assert_same_bits("hadamard", weights.hadamard(), golden.hadamard_matrix(128))


def test_shapes_are_those_of_the_weights() -> None:
    for n_q in (1, 16):
        for name, array in cases.layer_weights(n_q).items():
            assert weights.shape_of(name, n_q) == array.shape


def test_our_own_file_makes_the_round_trip(tmp_path: Path) -> None:
    layer = cases.layer_weights(2)
    weights.save(tmp_path / "layer.safetensors", layer)
    loaded = weights.load_layer(tmp_path / "layer.safetensors")
    assert sorted(loaded) == sorted(layer)
    for name, array in layer.items():
        tolerance.assert_same_bits(name, loaded[name], array)


def test_a_file_of_the_epilog_alone(tmp_path: Path) -> None:
    """What a cell of one operator saves has the number of heads too, and nothing of the others."""
    path = tmp_path / "epilog.safetensors"
    cell = cells.MLAEpilog(3)
    cell.set_weights(cases.epilog_weights(3))
    cell.save(path)
    assert sorted(weights.Checkpoint(path).names()) == sorted(weights.EPILOG_WEIGHTS)
    part = cells.MLAEpilog(2)
    part.load(path, heads=range(1, 3))
    want = weights.of_heads(cases.epilog_weights(3), range(1, 3))
    for name in weights.EPILOG_WEIGHTS:
        tolerance.assert_same_bits(name, weights.load_epilog(path)[name], cases.epilog_weights(3)[name])
        tolerance.assert_same_bits(name, part.get_weights()[name], want[name])
    for function, name in ((weights.load_mla, "w_dq"), (weights.load_layer, "w_dq"), (weights.load_indexer, "w_qb")):
        with pytest.raises(KeyError, match=f"no tensor '{name}' in "):
            function(path)


def test_our_own_file_is_one_of_safetensors(tmp_path: Path) -> None:
    """Others can read it: the library's reader finds names, shapes, values, and the texts of the header."""
    layer = {name: array for name, array in cases.mla_weights(1).items() if array.dtype != np.uint16}
    weights.save(tmp_path / "x.safetensors", {k: v[::2] for k, v in layer.items()}, {"layer": "ä3"})
    with safe_open(str(tmp_path / "x.safetensors"), framework="np") as file:
        assert file.metadata() == {"format": "ms_dsv32", "layer": "ä3"}
        assert set(file.keys()) == set(layer)
        for name, array in layer.items():
            tolerance.assert_same_bits(name, file.get_tensor(name), array[::2])


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    weights.save(tmp_path / "x.safetensors", {"wk": np.zeros((2, 2), np.uint16)})
    before = (tmp_path / "x.safetensors").read_bytes()
    with pytest.raises(TypeError, match=r"weights: wk must be uint16 \(bfloat16 bits\), got float64"):
        weights.save(tmp_path / "x.safetensors", {"wk": np.zeros((2, 2))})
    with pytest.raises(FileNotFoundError, match="absent"):
        weights.save(tmp_path / "absent" / "x.safetensors", {"wk": np.zeros((2, 2), np.uint16)})
    with pytest.raises(IsADirectoryError):
        weights.save(tmp_path, {"wk": np.zeros((2, 2), np.uint16)})
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


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


@pytest.mark.parametrize(
    ("weight", "error"),
    [
        (np.zeros((4, 64), np.float32), TypeError),
        (np.zeros(256, np.int8), TypeError),
        (np.zeros((3, 64), np.int8), ValueError),
        (np.zeros((4, 80), np.int8), ValueError),  # whole strips, and no whole panels
    ],
)
def test_unpack_refuses_what_pack_does_not_make(weight: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error, match="unpack: weight "):
        weights.unpack(weight)


@pytest.mark.parametrize("heads", [range(2, 4), range(0), range(0, 3, 2), range(-1, 2), slice(0, 2), [0]])
def test_heads_that_the_weights_do_not_have(heads: object) -> None:
    """Each weight that belongs to heads is tried alone."""
    layer = {**cases.mla_weights(3), **cases.epilog_weights(3)}
    for name in ("w_uq_qr", "dequant_scale", "w_uk", "w_uv", "w_o"):
        with pytest.raises((TypeError, ValueError), match="weights: heads"):
            weights.of_heads({name: layer[name]}, heads)  # type: ignore[arg-type]


def test_heads_that_one_of_the_weights_does_not_have() -> None:
    for name in ("w_uk", "w_uv"):
        layer = {**cases.mla_weights(3), **cases.epilog_weights(3)}
        layer[name] = layer[name][:2]
        with pytest.raises(ValueError, match=r"weights: heads is range\(2, 3\), expected a part of range\(0, 2\)"):
            weights.of_heads(layer, range(2, 3))
