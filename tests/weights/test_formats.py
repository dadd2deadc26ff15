"""Every format in use loads: bit for bit if it is int8 or bfloat16 already, else with one rounding.

The values are compared with those that the file means, dequantised in float64 by tests/weights/checkpoints.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoints
import ml_dtypes
import numpy as np
import pytest
import tolerance
from checkpoints import Array, Made
from hypothesis import given, settings
from hypothesis import strategies as st
from measures import relative

from ms_dsv32 import golden, weights
from ms_dsv32.weights import layer
from ms_dsv32.weights.files import Checkpoint
from ms_dsv32.weights.matrix import Matrix, quantise

HF, DEEPSEEK, MINDSPORE = checkpoints.NAMINGS
# The weight, its scale if it is int8, and the module that it comes from.
MATRICES = (
    ("w_dq", None, "q_a_proj"),
    ("w_uq_qr", "dequant_scale", "q_b_proj"),
    ("w_uk", None, "kv_b_proj"),
    ("w_dkv_kr", None, "kv_a_proj_with_mqa"),
    ("w_qb", "w_qb_scale", "indexer.wq_b"),
    ("wk", None, "indexer.wk"),
    ("w_proj", None, "indexer.weights_proj"),
    ("w_uv", None, "kv_b_proj"),
    ("w_o", "w_o_scale", "o_proj"),
)
VECTORS = (
    ("gamma_cq", "q_a_layernorm.weight"),
    ("gamma_ckv", "kv_a_layernorm.weight"),
    ("ln_gamma_k", "indexer.k_norm.weight"),
    ("ln_beta_k", "indexer.k_norm.bias"),
)
BF16_STEP = 2.0**-8
"""Rounding to bfloat16, of 8 significant bits, changes a value by at most so much of itself."""
BF16_ERROR = 2.0**-9
"""And a matrix by less: the mean square of the rounding is that of half a step at most, over the square root of 3."""
INT8_ERROR = 0.01
"""A matrix of normal values in int8 by channel: a step is amax / 127, the error step / sqrt(12), amax about 4 sigma."""


@dataclass(frozen=True)
class Format:
    """A format of the table in docs/checkpoints.md."""

    make: Callable[[], Made]
    whose: str = HF
    described: bool = False
    """Whether msModelSlim's description stands beside it."""


FORMATS = {
    "official FP8": Format(lambda: checkpoints.fp8(3)),
    "bf16": Format(lambda: checkpoints.bf16(1)),
    "float32": Format(lambda: checkpoints.bf16(1, np.float32)),
    "compressed-tensors W8A8C16": Format(lambda: checkpoints.compressed_tensors(3)),
    "compressed-tensors W8A8C8": Format(lambda: checkpoints.compressed_tensors(2, c8=True)),
    "msModelSlim W8A8, deq_scale F32": Format(lambda: checkpoints.static(5), described=True),
    "msModelSlim W8A8, deq_scale I64": Format(lambda: checkpoints.static(2, bits=True, symmetric=True)),
    "msModelSlim W8A8_DYNAMIC": Format(lambda: checkpoints.dynamic(2), described=True),
    "msModelSlim W8A8_DYNAMIC everywhere": Format(lambda: checkpoints.dynamic(7, everywhere=True), described=True),
    "msModelSlim W8A8_MIX": Format(lambda: checkpoints.static(6, mix=True), described=True),
    "msModelSlim with q_rot and k_rot": Format(lambda: checkpoints.rotated(1), described=True),
    "DeepSeek's convert.py": Format(lambda: checkpoints.fp8(2), DEEPSEEK),
    "MindSpore Transformers": Format(lambda: checkpoints.bf16(2), MINDSPORE),
}


@dataclass
class Loaded:
    """A checkpoint and what was loaded from it."""

    name: str
    made: Made
    path: Path
    prefix: str
    mla: dict[str, Array]
    indexer: dict[str, Array]
    epilog: dict[str, Array]

    @property
    def weights(self) -> dict[str, Array]:
        """All of them."""
        return {**self.mla, **self.indexer, **self.epilog}


def save(directory: Path, name: str) -> tuple[Made, Path, str]:
    """Writes a checkpoint of two shards with an index; returns it, its directory and its prefix."""
    form = FORMATS[name]
    made = form.make()
    checkpoints.write_shards(directory, checkpoints.renamed(made.tensors, 0, form.whose), 2)
    prefix = checkpoints.prefix_of(0, form.whose)
    if form.described:
        (directory / "quant_model_description.json").write_text(json.dumps(made.description(prefix)))
    return made, directory, prefix


@pytest.fixture(scope="module", params=FORMATS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    made, path, prefix = save(tmp_path_factory.mktemp("format"), request.param)
    yield Loaded(
        request.param,
        made,
        path,
        prefix,
        weights.load_mla(path, layer=0),
        weights.load_indexer(path, prefix=prefix),
        weights.load_epilog(path, layer=0),
    )
    for file in path.iterdir():  # 13 formats of 70 MB each would stay
        file.unlink()


def rows_of(name: str, array: Array) -> Array:
    """A loaded weight as its matrix [out, in]; w_uk and w_uv one head after another."""
    if name == "w_uk":  # [n_q, key, latent], as it is in the file
        return array.reshape(-1, 512)
    if name == "w_uv":  # [n_q, latent, value]
        return np.concatenate([head.T for head in array])
    return array.T


def meaning_of(made: Made, name: str, module: str, rows: slice) -> Array:
    """The float64 values that the file means, of the rows that are loaded."""
    if module != "kv_b_proj":
        return made.meaning(module, rows.start, rows.stop)
    # A head is 128 rows that make keys, and 128 that make values.
    first = {"w_uk": 0, "w_uv": 128}[name]
    heads = range(rows.start // 128, rows.stop // 128)
    return np.concatenate([made.meaning(module, h * 256 + first, h * 256 + first + 128) for h in heads])


def assert_rounded_once(name: str, q: Array, scale: Array, want: Array) -> None:
    """int8 rows [out, in] are the nearest steps, and the step is the channel's largest value / 127."""
    amax = np.abs(want).max(axis=1, keepdims=True)
    np.testing.assert_allclose(scale, amax / 127, rtol=1e-6, err_msg=name)
    assert (np.abs(q.astype(np.int32)).max(axis=1) == 127).all(), name
    # Half a step, and the rounding of float32 arithmetic: 127 steps times a few times 2^-24.
    off = np.abs(q * scale.astype(np.float64) - want) / scale
    assert off.max() <= 0.5 + 127 * 2.0**-22, f"{name}: {off.max()} steps"


def assert_rounded_to_bf16(name: str, got: Array, want: Array) -> None:
    """Every value is next to what is meant; float32 in between may take the other of two that are equally near."""
    off = np.abs(got - want) / np.maximum(np.abs(want), 1e-30)
    assert off.max() <= BF16_STEP * (1 + 2.0**-12), f"{name}: {off.max()}"


def compare(made: Made, all_weights: dict[str, Array], name: str, scale_name: str | None, module: str) -> float:
    """Compares a matrix, value by value, with what the file means; returns its relative error.

    Bits where the file has the operators' format already; else every single value is rounded once.
    """
    array = rows_of(name, all_weights[name])
    squares = differences = 0.0
    for start in range(0, len(array), 256):  # 14 MB of float64 at a time
        rows = slice(start, min(start + 256, len(array)))
        want, part = meaning_of(made, name, module, rows), array[rows]
        stored = made.tensors[f"{module}.weight"]
        if scale_name is None:
            got = checkpoints.from_bits(part)
            if stored.dtype == checkpoints.BF16:
                tolerance.assert_same_bits(name, part, want.astype(stored.dtype).view(np.uint16))
            else:
                assert_rounded_to_bf16(name, got, want)
        else:
            scale = all_weights[scale_name][rows]
            got = part * scale.astype(np.float64)
            if module in made.int8:
                q, meant = made.int8[module]
                tolerance.assert_same_bits(name, part, q[rows])
                tolerance.assert_same_bits(scale_name, scale, meant[rows].astype(np.float32))
            else:
                assert_rounded_once(name, part, scale, want)
        squares += float((want * want).sum())
        differences += float(((got - want) ** 2).sum())
    return (differences / squares) ** 0.5


def test_every_matrix_is_what_the_file_means(loaded: Loaded) -> None:
    """Prints the table of relative errors (-s)."""
    made = loaded.made
    errors = {name: compare(made, loaded.weights, name, scale, module) for name, scale, module in MATRICES}
    print(f"\n{loaded.name}: " + ", ".join(f"{name} {error:.2e}" for name, error in errors.items()))
    for name, scale, module in MATRICES:
        if scale is None:
            bound = 0.0 if made.tensors[f"{module}.weight"].dtype == checkpoints.BF16 else BF16_ERROR
        else:
            bound = 1e-7 if module in made.int8 else INT8_ERROR
        assert errors[name] <= bound, f"{name}: {errors[name]}"


def test_vectors_and_what_turns_query_and_key(loaded: Loaded) -> None:
    for name, tensor in VECTORS:
        want = loaded.made.tensors[tensor].astype(ml_dtypes.bfloat16).view(np.uint16)
        tolerance.assert_same_bits(name, loaded.weights[name], want)
    rotations = loaded.made.rotations
    for i, name in enumerate(("hadamard_q", "hadamard_k")):
        want = weights.hadamard() if rotations is None else rotations[i].view(np.uint16)
        tolerance.assert_same_bits(name, loaded.weights[name], want)


def test_heads_are_the_same_bits_as_in_the_whole(loaded: Loaded) -> None:
    n_q = loaded.made.n_q
    heads = range(n_q // 3, n_q - n_q // 4)  # without the first from 3 heads on, without the last from 4 on
    mla, epilog = weights.load_mla(loaded.path, layer=0, heads=heads), dict(loaded.epilog)
    rows = slice(heads.start * 192, heads.stop * 192)
    want = {
        **loaded.mla,
        "w_uq_qr": loaded.mla["w_uq_qr"][:, rows],
        "dequant_scale": loaded.mla["dequant_scale"][rows],
        "w_uk": loaded.mla["w_uk"][heads.start : heads.stop],
    }
    # Ranks have one w_o_scale, that of the whole o_proj, or their results could not be added as those of one matrix.
    epilog["w_uv"] = loaded.epilog["w_uv"][heads.start : heads.stop]
    epilog["w_o"] = loaded.epilog["w_o"][heads.start * 128 : heads.stop * 128]
    same(mla, want)
    same(weights.load_epilog(loaded.path, layer=0, heads=heads), epilog)
    if loaded.name in ("official FP8", "msModelSlim W8A8, deq_scale F32"):
        same(weights.load_layer(loaded.path, layer=0, heads=heads), {**loaded.indexer, **want, **epilog})
        same(weights.of_heads(loaded.weights, heads), {**want, **loaded.indexer, **epilog})


@pytest.mark.parametrize("loaded", ["official FP8", "msModelSlim W8A8, deq_scale I64"], indirect=True)
def test_several_parts_are_the_parts(loaded: Loaded) -> None:
    same(weights.load_prologs(loaded.path, layer=0), {**loaded.indexer, **loaded.mla})
    same(weights.load_layer(loaded.path, layer=0), {**loaded.indexer, **loaded.mla, **loaded.epilog})


@pytest.mark.parametrize("loaded", ["official FP8", "msModelSlim W8A8, deq_scale F32"], indirect=True)
def test_a_matrix_that_is_read_in_parts_is_the_whole(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """o_proj of 128 heads is read in parts too. Here parts begin within a block of FP8."""
    monkeypatch.setattr(layer, "_CHUNK", 448 * 384)
    same(weights.load_epilog(loaded.path, layer=0), loaded.epilog)
    same(weights.load_mla(loaded.path, layer=0), loaded.mla)


def same(got: dict[str, Array], want: dict[str, Array]) -> None:
    """Names, in any order, and bits; no array keeps a larger one alive."""
    assert sorted(got) == sorted(want)
    for name, array in want.items():
        tolerance.assert_same_bits(name, got[name], array)
        assert got[name].flags.c_contiguous, name
        assert got[name].base is None or got[name].base.nbytes == got[name].nbytes, name


def project(made: Made, x: Array) -> tuple[Array, Array, Array, Array]:
    """What the file's values make of tokens, in float64: query without and with position, key's part with position, and
    the indexer's head weights."""

    def norm(v: Array, gamma: str) -> Array:
        return v / np.sqrt((v * v).mean(axis=-1, keepdims=True) + 1e-5) * made.tensors[gamma].astype(np.float64)

    latent = norm(x @ made.meaning("q_a_proj").T, "q_a_layernorm.weight")
    query = (latent @ made.meaning("q_b_proj").T).reshape(len(x), made.n_q, 192)
    keys = made.meaning("kv_b_proj").reshape(made.n_q, 256, 512)[:, :128]
    nope = np.einsum("tnd,ndl->tnl", query[..., :128], keys)
    key = (x @ made.meaning("kv_a_proj_with_mqa").T)[:, 512:]
    halves = [*range(0, 64, 2), *range(1, 64, 2)]  # the two of a pair are neighbours before RoPE, and apart after it
    return nope, query[..., 128:][..., halves], key[:, halves], x @ made.meaning("indexer.weights_proj").T


FAMILIES = (
    "official FP8",
    "compressed-tensors W8A8C8",
    "msModelSlim W8A8, deq_scale I64",
    "msModelSlim W8A8_MIX",
    "MindSpore Transformers",
)


@pytest.mark.parametrize("loaded", FAMILIES, indirect=True)
def test_an_operators_query_is_that_of_the_files_values(loaded: Loaded) -> None:
    """Weights in their places: what the operator makes of them is W8A8's error away from what the file means."""
    tokens = 4
    x = np.random.default_rng(3).standard_normal((tokens, 7168)).astype(ml_dtypes.bfloat16)
    cos, sin = (np.full((tokens, 64), v, ml_dtypes.bfloat16).view(np.uint16) for v in (1, 0))  # position 0
    caches = (
        np.zeros((1, 128, 1, 512), np.int8),
        np.zeros((1, 128, 1, 64), np.uint16),
        np.zeros((1, 128, 1, 4), np.float32),
    )
    q_norm, q_scale, nope, rope, _, kr, _ = golden.mla_prolog_quant(
        x.view(np.uint16), *loaded.mla.values(), cos, sin, np.arange(tokens), *caches
    )
    want_nope, want_rope, want_key, want_heads = project(loaded.made, x.astype(np.float64))
    errors = {
        "q_nope": relative(checkpoints.from_bits(nope), want_nope),
        "q_rope": relative(checkpoints.from_bits(rope), want_rope),
        "kr": relative(checkpoints.from_bits(kr.reshape(-1, 64)[:tokens]), want_key),
        "w_proj": relative(x.astype(np.float64) @ checkpoints.from_bits(loaded.indexer["w_proj"]), want_heads),
    }
    indexer = (q_norm * q_scale.astype(np.float64)) @ (
        loaded.indexer["w_qb"] * loaded.indexer["w_qb_scale"].astype(np.float64).T
    )
    latent = q_norm * q_scale.astype(np.float64)
    errors["indexer's query"] = relative(indexer, latent @ loaded.made.meaning("indexer.wq_b").T)
    print(f"\n{loaded.name}: " + ", ".join(f"{name} {error:.2e}" for name, error in errors.items()))
    # The latent and the weights are int8, each a percent off; the key has bfloat16's roundings alone.
    bounds = {"q_nope": 0.03, "q_rope": 0.03, "kr": 0.005, "w_proj": 1e-12, "indexer's query": INT8_ERROR}
    for name, error in errors.items():
        assert error <= bounds[name], f"{name}: {error}"


@pytest.mark.parametrize("loaded", FAMILIES, indirect=True)
def test_an_operators_output_is_that_of_the_files_values(loaded: Loaded) -> None:
    """The same of the layer's end: each head's values of its latent, then the output projection of all heads."""
    tokens, n_q = 4, loaded.made.n_q
    latent = np.random.default_rng(4).standard_normal((tokens, n_q, 512)).astype(ml_dtypes.bfloat16)
    hidden_out = golden.mla_epilog_quant(latent.view(np.uint16), **loaded.epilog)
    values = loaded.made.meaning("kv_b_proj").reshape(n_q, 256, 512)[:, 128:]
    heads = [latent[:, n].astype(np.float64) @ values[n].T for n in range(n_q)]
    error = relative(checkpoints.from_bits(hidden_out), np.concatenate(heads, axis=1) @ loaded.made.meaning("o_proj").T)
    print(f"\n{loaded.name}: hidden_out {error:.2e}")
    # The values are quantised by token and o_proj by channel, each a percent off at most.
    assert 1e-4 < error <= 2 * INT8_ERROR


@pytest.mark.parametrize("loaded", ["official FP8"], indirect=True)
def test_the_page_lists_what_is_loaded(loaded: Loaded) -> None:
    """docs/checkpoints.md has a row for each function: a list of weights, or their number."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|.*\| `weights\.(load_\w+)` \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) == 5
    for function, told in rows:
        names = [*getattr(weights, function)(loaded.path, layer=0)]
        assert re.findall(r"`(\w+)`", told) in (names, [])
        assert "`" in told or str(len(names)) in told.split()


# Small matrices of any shape, which no layer has


def matrix_of(path: Path, stored: dict[str, Array], shape: tuple[int, int]) -> Matrix:
    checkpoints.write(path, {f"m.{name}": array for name, array in stored.items()})
    return Matrix(Checkpoint(path), "m", shape, ("out", "in"), "weight_scale_inv")


edges = st.sampled_from([1, 2, 64, 127, 128, 129, 192, 255, 256, 257, 576])


@settings(deadline=None, max_examples=60)
@given(rows=edges, columns=edges, data=st.data())
def test_fp8_of_any_shape_and_any_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, data: st.DataObject
) -> None:
    """Every value has the scale of its own block, also where the last blocks are smaller, and a part starts within."""
    rng = np.random.default_rng(rows * 1000 + columns)
    q = rng.standard_normal((rows, columns)).astype(checkpoints.FP8)
    scale = np.exp(rng.standard_normal((-(-rows // 128), -(-columns // 128)))).astype(np.float32)
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    path = tmp_path_factory.getbasetemp() / "fp8.safetensors"
    matrix = matrix_of(path, {"weight": q, "weight_scale_inv": scale}, (rows, columns))
    want = checkpoints.block_meaning(q, scale)[start:stop]
    tolerance.assert_same_bits("values", matrix.float32(start, stop), want.astype(np.float32))
    values, step = matrix.int8(start, stop)
    off = np.abs(values * step.astype(np.float64) - want)
    assert (off <= step * (0.5 + 127 * 2.0**-22)).all()


def test_fp8_is_not_rounded_to_bfloat16_before_it_is_quantised(tmp_path: Path) -> None:
    """A scale whose products fall between bfloat16 values: int8 from rounded ones is up to three quarters of a step
    off, and more often than one time in fifty beyond a half."""
    rng = np.random.default_rng(0)
    q = rng.uniform(-448, 448, (128, 256)).astype(checkpoints.FP8)
    scale = np.array([[1 + 2.0**-8, 1 + 2.0**-8]], np.float32)
    want = checkpoints.block_meaning(q, scale)
    values, step = matrix_of(tmp_path / "m.safetensors", {"weight": q, "weight_scale_inv": scale}, q.shape).int8(0, 128)

    def beyond(values: Array, step: Array) -> float:
        return float((np.abs(values * step.astype(np.float64) - want) > step * (0.5 + 1e-4)).mean())

    twice = want.astype(ml_dtypes.bfloat16).astype(np.float64)
    twice_step = np.abs(twice).max(axis=1, keepdims=True) / 127
    assert beyond(np.rint(twice / twice_step), twice_step) > 0.02
    assert beyond(values, step) == 0


@pytest.mark.parametrize("bits", [False, True])
@pytest.mark.parametrize("rank", [1, 2])
def test_static_scales_of_either_type_and_rank(tmp_path: Path, bits: bool, rank: int) -> None:
    rng = np.random.default_rng(1)
    q = rng.integers(-127, 128, (5, 8), dtype=np.int8)
    deq_scale, input_scale = rng.random(5, dtype=np.float32), np.array([0.3], np.float32)
    stored: dict[str, Any] = {"weight": q, "input_scale": input_scale if rank == 2 else input_scale.reshape(())}
    stored["deq_scale"] = deq_scale.view(np.int32).astype(np.int64) if bits else deq_scale
    if rank == 2:
        stored["deq_scale"] = stored["deq_scale"][:, None]
    values, scale = matrix_of(tmp_path / "m.safetensors", stored, q.shape).int8(1, 4)
    want = deq_scale.astype(np.float64)[1:4, None] / float(input_scale[0])
    tolerance.assert_same_bits("values", values, q[1:4])
    tolerance.assert_same_bits("scale", scale, want.astype(np.float32))


@settings(deadline=None, max_examples=40)
@given(
    offset=st.integers(-128, 127),
    bias=st.sampled_from([0.0, 0.49, -0.49]),
    extreme=st.booleans(),
    columns=st.sampled_from([1, 100, 7168]),
)
def test_a_quant_bias_that_only_cancels_the_offset_passes(
    tmp_path_factory: pytest.TempPathFactory, offset: int, bias: float, extreme: bool, columns: int
) -> None:
    """As msModelSlim rounds it, in float32; also where sums are too large for float32's 24 bits (7168 * 127 * 127)."""
    rng = np.random.default_rng(offset + 200)
    q = np.full((4, columns), 127, np.int8) if extreme else rng.integers(-127, 128, (4, columns), dtype=np.int8)
    q[:, 0] -= extreme  # 7168 * 127 is a multiple of 1024, which would be exact
    sums = q.astype(np.float32).sum(axis=1)
    quant_bias = np.round(np.float32(bias) - sums * np.float32(offset)).astype(np.int32)
    stored = {
        "weight": q,
        "deq_scale": np.ones(4, np.float32),
        "input_scale": np.ones(1, np.float32),
        "input_offset": np.array([offset], np.float32),
        "quant_bias": quant_bias,
    }
    path = tmp_path_factory.getbasetemp() / "static.safetensors"
    values, _ = matrix_of(path, stored, q.shape).int8(0, 4)
    tolerance.assert_same_bits("values", values, q)
    quant_bias[2] += 3 if abs(int(quant_bias[2])) < 2**22 else 100
    with pytest.raises(ValueError, match=r"m\.quant_bias\[2\] is -?\d+, expected -?\d+"):
        matrix_of(path, stored, q.shape).int8(0, 4)


def test_channels_on_either_side_of_the_floor_of_quantisation() -> None:
    """The largest value of a channel counts as 1e-30 where it is smaller, as in the contract's Quant."""
    values = np.array([[0, 0], [1e-31, -4e-31], [2e-30, -1.5e-30]], np.float32)
    q, scale = quantise(values)
    np.testing.assert_array_equal(q, np.array([[0, 0], [13, -51], [127, -95]], np.int8))
    amax = np.array([[1e-30], [1e-30], [2e-30]], np.float32)
    tolerance.assert_same_bits("scale", scale, amax / np.float32(127))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_floats_of_any_width_are_quantised_from_themselves(tmp_path: Path, dtype: Any) -> None:
    want = np.random.default_rng(2).standard_normal((130, 40)).astype(dtype)
    values, step = matrix_of(tmp_path / "m.safetensors", {"weight": want}, want.shape).int8(0, 130)
    assert_rounded_once("m", values, step, want.astype(np.float64))


def test_ties_are_rounded_to_even(tmp_path: Path) -> None:
    stored = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]], np.float32)
    values, step = matrix_of(tmp_path / "m.safetensors", {"weight": stored}, stored.shape).int8(0, 1)
    assert values.tolist() == [[127, 0, 2, 2, 0, -2, -2]]
    assert step.tolist() == [[1.0]]


def test_a_channel_of_zeros_gives_zeros(tmp_path: Path) -> None:
    stored = np.zeros((2, 8), np.float32)
    stored[0] = 1e-20
    values, step = matrix_of(tmp_path / "m.safetensors", {"weight": stored}, stored.shape).int8(0, 2)
    assert (values[0] == 127).all()
    assert not values[1].any()
    assert (step > 0).all()
