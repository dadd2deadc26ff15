"""Files: what is wrong with one is an error with its name, before anything large is read, and never a hang."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import safetensors.numpy
import tolerance
from checkpoints import Zeros
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_dsv32 import weights
from ms_dsv32.weights import files
from ms_dsv32.weights.files import Checkpoint

SMALL = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.arange(5, dtype=np.int8),
    "c": np.array(7, np.int32),
    "d": np.zeros((0, 3), np.float32),
    "e": np.arange(4).astype(checkpoints.BF16),
    "f": np.arange(6).reshape(2, 3).astype(checkpoints.FP8),
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return checkpoints.write(tmp_path / "small.safetensors", SMALL)


def test_tensors_come_as_they_were_written(small: Path) -> None:
    """Whole, by rows, of no rows, of no axes; in every dtype that checkpoints have."""
    checkpoint = Checkpoint(small)
    assert sorted(checkpoint.names()) == sorted(SMALL)
    for name, array in SMALL.items():
        tolerance.assert_same_bits(name, checkpoint.read(name), array)
        assert checkpoint.info(name).shape == array.shape
        assert checkpoint.where(name) == f"{small}: {name}"
    tolerance.assert_same_bits("rows", checkpoint.read("a", 1, 3), SMALL["a"][1:])
    tolerance.assert_same_bits("rows", checkpoint.read("f", 1), SMALL["f"][1:])
    assert checkpoint.read("a", 2, 2).shape == (0, 4)
    with pytest.raises(KeyError, match=re.escape(f"weights: no tensor 'g' in {small}")):
        checkpoint.read("g")


def test_files_of_other_writers(tmp_path: Path) -> None:
    """safetensors itself, with metadata."""
    arrays = {name: SMALL[name] for name in "abc"}
    safetensors.numpy.save_file(arrays, str(tmp_path / "x.safetensors"), {"format": "pt"})
    checkpoint = Checkpoint(tmp_path / "x.safetensors")
    for name, array in arrays.items():
        tolerance.assert_same_bits(name, checkpoint.read(name), array)


def test_a_tensor_of_a_dtype_that_nobody_reads(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path / "x.safetensors", {"a": Zeros("F8_E5M2", (4,)), "b": np.ones(2, np.float32)})
    checkpoint = Checkpoint(path)
    with pytest.raises(TypeError, match=re.escape(f"weights: {path}: a has dtype F8_E5M2, which is not read")):
        checkpoint.read("a")
    assert checkpoint.read("b").all()


# Broken files


def refused(path: Path, text: str = "no safetensors file, or a part of one") -> None:
    with pytest.raises(ValueError, match=re.escape(str(path))) as raised:
        Checkpoint(path)
    assert text in str(raised.value)


def test_a_tensor_of_more_axes_than_numpy_has(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path / "x.safetensors", {"x": checkpoints.Zeros("F32", (1,) * 70)})
    with pytest.raises(ValueError, match=re.escape(f"{path}: x has 70 axes, expected at most 32")):
        Checkpoint(path).read("x")


def test_a_file_that_ends_anywhere_too_early(small: Path) -> None:
    whole = small.read_bytes()
    for size in range(len(whole)):
        small.write_bytes(whole[:size])
        refused(small)
    small.write_bytes(whole)
    Checkpoint(small)


def test_a_file_that_goes_on(small: Path) -> None:
    with small.open("ab") as file:
        file.write(b"\0")
    refused(small)


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b"", "a header"),
        (b"{", "invalid"),
        (b"[]", "invalid"),
        (b"null", "invalid"),
        (b"{" * 100_000, "header"),
        (b'{"a": 1}', "invalid"),
        (b'{"a": {}}', "invalid"),
        (b'{"a": {"dtype": "F32", "shape": [2]}}', "invalid"),
        (b'{"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}', "invalid"),
        (b'{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}', "invalid"),
        (b'{"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}', "invalid"),
        (b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}', "invalid"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}', "invalid"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}', "invalid"),
        (b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 8]}}', "Overflow"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F32", "shape": [2], '
         b'"data_offsets": [0, 8]}}', "invalid"),
        (b'{"a\xff": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', "utf-8"),
    ],
)  # fmt: skip
def test_a_header_that_is_none(tmp_path: Path, header: bytes, text: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    refused(path)
    with pytest.raises(ValueError, match="weights: ") as raised:
        Checkpoint(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100_000_001, 4096])
def test_a_header_longer_than_the_file_or_than_any(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(200_000_000 if length == 100_000_001 else 4000)
    refused(path, f"a header of {length} bytes, and the file has {path.stat().st_size}")


def test_a_file_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.touch()
    refused(path, "0 bytes")


names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6)
tensors = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F8_E4M3", "BOOL", "F4", "X", 3]),
        "shape": st.lists(st.integers(-1, 5) | st.just(2**62), max_size=3),
        "data_offsets": st.lists(st.integers(0, 24), min_size=1, max_size=3),
    },
    optional={"more": st.integers()},
)
headers = st.dictionaries(names | st.just("__metadata__"), tensors | st.integers() | st.none(), max_size=3)


@settings(deadline=None, max_examples=300)
@given(header=headers, size=st.integers(0, 24), garbage=st.booleans())
def test_any_header_gives_tensors_or_an_error_that_names_the_file(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], size: int, garbage: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    raw = checkpoints.with_length(json.dumps(header).encode())
    if garbage:
        raw = raw[:12] + b"\xff" + raw[13:]
    path.write_bytes(raw + bytes(size))
    try:
        checkpoint = Checkpoint(path)
    except ValueError as error:
        assert str(error).startswith(f"weights: {path} is no safetensors file, or a part of one: ")  # noqa: PT017
        return
    for name in checkpoint.names():
        info = checkpoint.info(name)
        if info.dtype in ("F32", "BF16", "I8", "F8_E4M3", "BOOL"):
            assert checkpoint.read(name).shape == info.shape == tuple(header[name]["shape"])


@settings(deadline=None, max_examples=200)
@given(content=st.binary(max_size=64))
def test_random_bytes_are_no_file(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    path.write_bytes(content)
    try:
        assert not [*Checkpoint(path).names()]  # what is {} by chance
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017


def test_a_file_that_becomes_shorter(small: Path) -> None:
    checkpoint = Checkpoint(small)
    os.truncate(small, small.stat().st_size - 30)
    text = rf"weights: {re.escape(str(small))} ends within tensor \w; it was whole when it was opened"
    with pytest.raises(ValueError, match=text):
        [checkpoint.read(name) for name in SMALL]


# No files


@pytest.mark.parametrize("name", ["x.safetensors", "model.safetensors.index.json"])
def test_what_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=name):
        Checkpoint(tmp_path / name)
    (tmp_path / name).symlink_to(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=name):
        Checkpoint(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=name):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["x.safetensors", "model.safetensors.index.json", "quant_model_description.json"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    """In a process of its own, which can be ended if it waits."""
    tensors = checkpoints.renamed(checkpoints.hollow())
    if name.startswith("quant"):
        checkpoints.write(tmp_path / "x.safetensors", tensors)
    os.mkfifo(tmp_path / name)
    code = (
        f"from ms_dsv32 import weights\n"
        f"try: weights.load_mla({str(tmp_path)!r}, prefix={checkpoints.PREFIX!r})\n"
        f"except ValueError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"weights: {tmp_path / name} is not a regular file\n"


def test_a_directory_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"x\.safetensors is not a regular file"):
        Checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"x\.safetensors is a directory without \*\.safetensors files"):
        Checkpoint(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="/dev/null is not a regular file"):
        Checkpoint("/dev/null")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_one_may_not_read(small: Path) -> None:
    small.chmod(0)
    with pytest.raises(PermissionError, match=r"small\.safetensors"):
        Checkpoint(small)


@pytest.mark.parametrize("paths", [3, None, [3], b"x.safetensors", {"x.safetensors"}, [b"x"], [None]])
def test_what_is_no_path(paths: Any) -> None:
    with pytest.raises(TypeError, match="weights: paths must be a path or a list of paths, got "):
        Checkpoint(paths)


def test_an_empty_list() -> None:
    with pytest.raises(ValueError, match="weights: paths is empty, expected at least one file"):
        Checkpoint([])


# Several files


def shards(directory: Path, **options: Any) -> list[Path]:
    """A hollow layer in three shards."""
    return checkpoints.write_shards(directory, checkpoints.renamed(checkpoints.hollow(2)), 3, **options)


def same(*sources: Any) -> None:
    """All of them hold the same layer."""
    first, *others = (weights.load_indexer(source, prefix=checkpoints.PREFIX) for source in sources)
    for other in others:
        for name, array in first.items():
            tolerance.assert_same_bits(name, other[name], array)


def test_every_way_to_name_shards(tmp_path: Path) -> None:
    paths = shards(tmp_path / "with")
    index = tmp_path / "with" / "model.safetensors.index.json"
    without = shards(tmp_path / "without", index=False)
    checkpoint = Checkpoint(str(tmp_path / "with"))
    same(tmp_path / "with", index, paths, tuple(map(str, paths[::-1])), without, tmp_path / "without", checkpoint)


def test_a_file_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    paths = shards(tmp_path / "x", index=False)
    link = tmp_path / "link.safetensors"
    link.symlink_to(paths[0])
    same(paths, [*paths, paths[0], link, tmp_path / "x", tmp_path / "x" / ".." / "x" / paths[1].name])


def test_hugging_faces_cache(tmp_path: Path) -> None:
    """All files, the index too, are links to files that are named by their hashes."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots").mkdir()
    shards(tmp_path / "plain")
    for i, file in enumerate(sorted((tmp_path / "plain").iterdir())):
        (tmp_path / "blobs" / f"{i:x}").write_bytes(file.read_bytes())
        (tmp_path / "snapshots" / file.name).symlink_to(Path("..", "blobs", f"{i:x}"))
    snapshot = tmp_path / "snapshots"
    files = sorted(snapshot.glob("*.safetensors"))
    same(tmp_path / "plain", snapshot, files, snapshot / "model.safetensors.index.json")
    checkpoint = Checkpoint(files)
    assert checkpoint.where(next(iter(checkpoint.names()))).startswith(str(snapshot))


def copy_into(path: Path, name: str, **more: Any) -> None:
    """Writes a shard anew with a tensor of another one in it."""
    here = {n: Checkpoint(path).read(n) for n in Checkpoint(path).names()}
    checkpoints.write(path, {**here, name: np.ones(1536, checkpoints.BF16), **more})


@pytest.mark.parametrize("how", ["list", "directory", "index"])
def test_a_tensor_in_two_files(tmp_path: Path, how: str) -> None:
    paths = shards(tmp_path, index=how == "index")
    name = f"{checkpoints.PREFIX}q_a_layernorm.weight"
    (there,) = (path for path in paths if name in Checkpoint(path).names())
    (other, *_) = (path for path in paths if path != there)
    copy_into(other, name)
    source = paths if how == "list" else tmp_path
    with pytest.raises(ValueError, match=f"weights: tensor {re.escape(name)} is in two files, ") as raised:
        weights.load_mla(source, prefix=checkpoints.PREFIX)
    assert str(there) in str(raised.value)
    assert str(other) in str(raised.value)


def test_a_tensor_in_two_files_of_another_layer_disturbs_nobody(tmp_path: Path) -> None:
    paths = shards(tmp_path, index=False)
    for path in paths[:2]:
        copy_into(path, "model.layers.1.self_attn.q_a_layernorm.weight")
    same(paths, tmp_path)


def test_an_index_that_lies(tmp_path: Path) -> None:
    paths = shards(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    right = json.loads(index.read_text())["weight_map"]
    name = f"{checkpoints.PREFIX}q_a_proj.weight"
    elsewhere = next(path for path in paths if path.name != right[name])

    def load(**changed: Any) -> Any:
        checkpoints.write_index(tmp_path, {k: v for k, v in {**right, **changed}.items() if v is not None})
        return weights.load_mla(tmp_path, layer=0)

    with pytest.raises(ValueError, match=r"is in two files|which has no such tensor"):
        load(**{name: elsewhere.name})
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        load(**{name: "absent.safetensors"})
    with pytest.raises(
        ValueError, match=re.escape(f"{index} says that {name[:-6]}bias is in {paths[0]}, which has no")
    ):
        load(**{f"{name[:-6]}bias": paths[0].name})
    gone = f"{checkpoints.PREFIX}kv_a_layernorm.weight"
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / right[gone]}: {gone} is not in {index}")):
        load(**{gone: None})


@pytest.mark.parametrize("shard", ["/etc/passwd", "../x.safetensors", "a/../../x.safetensors"])
def test_an_index_that_leads_outside(tmp_path: Path, shard: str) -> None:
    index = checkpoints.write_index(tmp_path, {"a": shard})
    with pytest.raises(ValueError, match=re.escape(f"weights: {index} places a outside of its directory, in {shard}")):
        Checkpoint(tmp_path)


def test_shards_in_a_directory_below_the_index(tmp_path: Path) -> None:
    shards(tmp_path / "deep", index=False)
    tensors = {n: p.name for p in (tmp_path / "deep").iterdir() for n in Checkpoint(p).names()}
    checkpoints.write_index(tmp_path, {name: f"deep/{shard}" for name, shard in tensors.items()})
    same(tmp_path, tmp_path / "deep")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is not JSON: "),
        (b"{", "is not JSON: "),
        (b"\xff\xfe", "is not JSON: "),
        (b"[" * 100_000, "is not JSON: "),
        (b"[]", "is not a JSON object"),
        (b"{}", "has no weight_map from names of tensors to names of files"),
        (b'{"weight_map": []}', "has no weight_map from"),
        (b'{"weight_map": {"a": 1}}', "has no weight_map from"),
        (b'{"weight_map": {"a": null}}', "has no weight_map from"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_an_index_that_is_none(tmp_path: Path, content: bytes, text: str, whole: bool) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(index))) as raised:
        Checkpoint(tmp_path if whole else index)
    assert text in str(raised.value)


def test_an_index_larger_than_any(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    with index.open("wb") as file:
        file.truncate(100_000_001)
    with pytest.raises(ValueError, match=r"index\.json has 100000001 bytes, expected at most 100000000"):
        Checkpoint(index)


def test_two_indices(tmp_path: Path) -> None:
    shards(tmp_path)
    other = checkpoints.write_index(tmp_path, {}, "consolidated")
    text = "has several indices: consolidated.safetensors.index.json, model.safetensors.index.json; pass one"
    with pytest.raises(ValueError, match=re.escape(text)):
        Checkpoint(tmp_path)
    same(tmp_path / "model.safetensors.index.json")
    with pytest.raises(KeyError, match="layers begin with none"):
        weights.load_mla(other, prefix=checkpoints.PREFIX)


def test_only_the_shards_of_a_layer_have_to_be_there(tmp_path: Path) -> None:
    """A rank of a pipeline may have downloaded its own; headers of the others are not read."""
    shards(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    weight_map |= {f"model.layers.1.{name}": "absent.safetensors" for name in ("self_attn.q_a_proj.weight", "x")}
    checkpoints.write_index(tmp_path, weight_map)
    assert weights.load_indexer(tmp_path, layer=0)
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        weights.load_indexer(tmp_path, layer=1)


# Layers


def test_layers_are_told_by_their_numbers(tmp_path: Path) -> None:
    prefixes = ("stage.1.layers.{}.self_attn.", "layers.{}.attn.", "decoder.layers.{}.self_attention.")
    first = ("q_a_proj", "wq_a", "linear_q_down_proj")
    for prefix, module in zip(prefixes, first, strict=True):
        names = [f"{prefix.format(n)}{module}.weight" for n in (10, 9, 0, 61)]
        others = ["model.embed_tokens.weight", "x.q_a_proj.weight_scale", "q_b_proj.weight", "xq_a_proj.weight"]
        checkpoints.write_index(tmp_path, dict.fromkeys([*names, *others], "x.safetensors"))
        layers = weights.layers_of(Checkpoint(tmp_path))
        assert list(layers.items()) == [(n, prefix.format(n)) for n in (0, 9, 10, 61)]
        assert weights.prefix_of(Checkpoint(tmp_path), 10) == prefix.format(10)


def test_the_fingerprint_is_of_dtypes_and_of_all_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_HASHED_VALUES", 8)  # two rows at a time
    values = np.arange(20, dtype=np.int8).reshape(5, 4)
    changed = values.copy()
    changed[4, 3] += 1
    arrays = (values, values.view(np.uint8), values.reshape(4, 5), changed)
    written = [checkpoints.write(tmp_path / f"{i}.safetensors", {"a": a}) for i, a in enumerate(arrays)]
    assert len({Checkpoint(path).fingerprint(["a"]) for path in written}) == len(arrays)


def test_two_layers_of_one_number(tmp_path: Path) -> None:
    names = [f"{p}.0.self_attn.q_a_proj.weight" for p in ("model.layers", "mtp.layers")]
    checkpoints.write_index(tmp_path, dict.fromkeys(names, "x.safetensors"))
    text = "model.layers.0.self_attn. and mtp.layers.0.self_attn. are both layer 0"
    with pytest.raises(ValueError, match=re.escape(text)):
        weights.load_mla(tmp_path, layer=0)


def test_a_layer_without_a_number_is_layer_0(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path / "x.safetensors", checkpoints.hollow())
    same_as: Callable[..., Any] = weights.load_indexer
    for name, array in same_as(path, layer=0).items():
        tolerance.assert_same_bits(name, same_as(path)[name], array)
