"""A whole model to our own files: what is written, what goes on after an interruption, what is refused."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import checkpoints
import ml_dtypes
import numpy as np
import pytest
import tolerance
from conversions import ALL_WEIGHTS, WITHOUT_EPILOG, hollow

from ms_dsv32 import weights
from ms_dsv32.weights import __main__ as command
from ms_dsv32.weights.conversion import (
    FORMATS,
    REPORT,
    Lost,
    Written,
    convert,
    file_of,
    inspect,
    metadata_of,
    read_report,
)
from ms_dsv32.weights.files import Checkpoint

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

N_Q = 4
MATRICES = {
    "w_dq": ("q_a_proj", None),
    "w_uq_qr": ("q_b_proj", "dequant_scale"),
    "w_uk": ("kv_b_proj", None),
    "w_dkv_kr": ("kv_a_proj_with_mqa", None),
    "w_qb": ("indexer.wq_b", "w_qb_scale"),
    "wk": ("indexer.wk", None),
    "w_proj": ("indexer.weights_proj", None),
    "w_uv": ("kv_b_proj", None),
    "w_o": ("o_proj", "w_o_scale"),
}


def same(name: str, got: dict[str, Any], want: dict[str, Any]) -> None:
    """Weights in any order, and their bits."""
    assert sorted(got) == sorted(want)
    for weight, array in want.items():
        tolerance.assert_same_bits(f"{name}: {weight}", got[weight], array)


# The result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[checkpoints.Made]]:
    """Two layers, FP8 and msModelSlim's dynamic W8A8, among three shards with an index."""
    made = [checkpoints.fp8(N_Q), checkpoints.dynamic(N_Q)]
    directory = tmp_path_factory.mktemp("model")
    tensors = {k: t for i, layer in enumerate(made) for k, t in checkpoints.renamed(layer.tensors, i).items()}
    checkpoints.write_shards(directory, {**tensors, "model.norm.weight": np.ones(7168, checkpoints.BF16)}, 3)
    return directory, made


@pytest.fixture(scope="module", params=[1, 2])
def converted(
    request: pytest.FixtureRequest,
    model: tuple[Path, list[checkpoints.Made]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[int, Path, list[Lost], list[Written]]:
    """The ranks, the directory, the losses and the report."""
    told: list[Written] = []
    out = tmp_path_factory.mktemp("out") / "deep" / "er"
    lost = convert(model[0], out, tensor_parallel=request.param, tell=told.append)
    return request.param, out, lost, told


@pytest.fixture(scope="module")
def whole(model: Any) -> list[dict[str, Any]]:
    """What is loaded of each layer."""
    return [weights.load_layer(model[0], layer=i) for i in (0, 1)]


def test_files_hold_the_bits_that_are_loaded(model: Any, converted: Any, whole: list[dict[str, Any]]) -> None:
    ranks, out, _, told = converted
    places = [(layer, rank) for layer in (0, 1) for rank in range(ranks)]
    paths = [out / f"layer-00{layer}-rank-{rank}-of-{ranks}.safetensors" for layer, rank in places]
    assert sorted(out.iterdir()) == [*paths, out / REPORT]
    assert told == [Written(p, *place, False, 2 * ranks) for p, place in zip(paths, places, strict=True)]
    for path, (layer, rank) in zip(paths, places, strict=True):
        want = whole[layer]
        heads = N_Q // ranks
        if ranks > 1:
            part: dict[str, Any] = {"layer": layer, "heads": range(rank * heads, (rank + 1) * heads)}
            want = {**want, **weights.load_mla(model[0], **part), **weights.load_epilog(model[0], **part)}
        assert sorted(Checkpoint(path).names()) == sorted(ALL_WEIGHTS)
        assert Checkpoint(path).info("w_uv").shape == (heads, 512, 128)
        assert Checkpoint(path).info("w_o").shape == (heads * 128, 7168)
        assert Checkpoint(path).info("w_o_scale").shape == (7168, 1)
        same(path.name, weights.load_layer(path), want)
        assert path == file_of(out, layer, rank, ranks)
        metadata = metadata_of(path)
        assert (metadata["layer"], metadata["rank"]) == (str(layer), f"{rank} of {ranks}")


def error_of(made: checkpoints.Made, all_weights: dict[str, Any], name: str) -> float:
    """The relative error of a matrix, against the file's values in float64."""
    module, scale = MATRICES[name]
    array = all_weights[name]
    if module == "kv_b_proj":  # a head is 128 rows of keys, then those of values, which w_uv has as columns
        both = made.meaning(module).reshape(made.n_q, 256, 512)
        want = both[:, :128] if name == "w_uk" else both[:, 128:].swapaxes(1, 2)
        return float(np.linalg.norm(checkpoints.from_bits(array) - want) / np.linalg.norm(want))
    array = array.T
    squares = differences = 0.0
    for start in range(0, len(array), 256):
        rows = slice(start, start + 256)
        want = made.meaning(module, start, start + 256)
        got = (
            array[rows] * all_weights[scale][rows].astype(np.float64) if scale else array[rows].view(ml_dtypes.bfloat16)
        )
        squares += float((want * want).sum())
        differences += float(((got - want) ** 2).sum())
    return float(np.sqrt(differences / squares))


def test_the_report_tells_what_each_matrix_lost(model: Any, converted: Any, whole: list[dict[str, Any]]) -> None:
    made = model[1]
    ranks, out, lost, _ = converted
    assert read_report(out / REPORT) == lost
    assert [(m.layer, m.weight) for m in lost] == [(layer, name) for layer in (0, 1) for name in MATRICES]
    for matrix in lost:
        module = MATRICES[matrix.weight][0]
        assert matrix.tensor == f"model.layers.{matrix.layer}.self_attn.{module}.weight"
        assert matrix.format == made[matrix.layer].kinds[module]
        if ranks == 1:
            want = error_of(made[matrix.layer], whole[matrix.layer], matrix.weight)
            # The report has float32's differences, whose own error is some 2^-24 of a value, of a loss of 2^-9.
            assert matrix.relative_error == pytest.approx(want, rel=1e-3, abs=1e-7), matrix
    errors = {(m.layer, m.weight): m.relative_error for m in lost}
    assert errors[1, "w_dq"] == errors[1, "w_uq_qr"] == 0 < errors[0, "w_dq"] < errors[0, "w_uq_qr"] < 0.01
    assert errors[1, "w_uv"] == errors[1, "w_o"] == 0 < errors[0, "w_uv"] < errors[0, "w_o"] < 0.01
    assert errors[0, "w_uv"] != errors[0, "w_uk"]


@pytest.mark.parametrize("converted", [2], indirect=True)
def test_a_converted_layer_converts_to_itself(converted: Any, tmp_path: Path) -> None:
    """Our own files are a format too, and lose nothing."""
    path = file_of(converted[1], 1, 1, 2)
    assert convert(path, tmp_path, format="ms_dsv32") == []
    same("again", weights.load_layer(file_of(tmp_path, 0)), weights.load_layer(path))


@pytest.mark.parametrize("converted", [1], indirect=True)
def test_own_files_are_cut_for_ranks(converted: Any, tmp_path: Path, whole: list[dict[str, Any]]) -> None:
    """After a conversion for one rank, four ranks need no checkpoint."""
    path = file_of(converted[1], 0)
    assert convert(path, tmp_path, tensor_parallel=N_Q) == []
    for rank in range(N_Q):
        got = weights.load_layer(file_of(tmp_path, 0, rank, N_Q))
        same(f"rank {rank}", got, weights.of_heads(whole[0], range(rank, rank + 1)))


def test_a_source_without_o_proj(tmp_path: Path) -> None:
    """Files have both prologs; they are not taken for those of a source with an o_proj."""
    change = {f"o_proj.{suffix}": None for suffix in ("weight", "weight_scale", "weight_offset")}
    source, out = hollow(tmp_path / "x.safetensors", change=change), tmp_path / "out"
    assert "w_o" not in {part.weight for part in inspect(source)[0].parts}
    lost = convert(source, out)
    assert [matrix.weight for matrix in lost] == [*MATRICES][:7]
    path = file_of(out, 0)
    assert sorted(Checkpoint(path).names()) == sorted(WITHOUT_EPILOG)
    same("prologs", weights.load_prologs(path), weights.load_prologs(source, layer=0))
    for function in (weights.load_layer, weights.load_epilog):
        with pytest.raises(KeyError, match=f"no tensor 'w_uv' in {re.escape(str(path))}"):
            function(path)
        with pytest.raises(KeyError, match=r"no tensor 'model.layers.0.self_attn.o_proj.weight' in "):
            function(source, layer=0)
    assert convert(path, tmp_path / "again") == []
    assert sorted(Checkpoint(file_of(tmp_path / "again", 0)).names()) == sorted(WITHOUT_EPILOG)
    hollow(source)
    with pytest.raises(ValueError, match="is there already, and not of this source"):
        convert(source, out)
    convert(source, out, overwrite=True)
    assert sorted(Checkpoint(path).names()) == sorted(ALL_WEIGHTS)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"o_proj.weight": None}, "no tensor 'model.layers.0.self_attn.o_proj.weight' in "),
        ({"o_proj.bias": np.ones(7168, np.float32)}, "o_proj.bias[0] is 1, expected 0"),
        ({"o_proj.scale": np.ones(1, np.float32)}, "o_proj.scale is not known here"),
    ],
    ids=["a half", "bias", "unknown"],
)
def test_an_o_proj_that_cannot_be_honoured_is_not_left_out(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    """Otherwise the files would lack it, which would show only where they are loaded."""
    source = hollow(tmp_path / "x.safetensors", change=change)
    assert text in inspect(source)[0].refused
    with pytest.raises(ValueError, match=re.escape(text)):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Interruption and resumption


class Stop:
    """Interrupts a conversion after some files."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.told: list[Written] = []

    def __call__(self, written: Written) -> None:
        self.told.append(written)
        if len(self.told) == self.after:
            raise KeyboardInterrupt


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def test_an_interrupted_conversion_goes_on(tmp_path: Path) -> None:
    source, out = hollow(tmp_path / "x.safetensors", layers=2, n_q=2), tmp_path / "out"
    whole = convert(source, tmp_path / "whole", tensor_parallel=2)
    with pytest.raises(KeyboardInterrupt):
        convert(source, out, tensor_parallel=2, tell=Stop(3))
    before = times(out)
    assert len(before) == 3
    told: list[Written] = []
    lost = convert(source, out, tensor_parallel=2, tell=told.append)
    assert [w.kept for w in told] == [True, True, True, False]
    assert lost == whole == read_report(out / REPORT)
    assert {name: when for name, when in times(out).items() if name in before} == before
    for path in sorted((tmp_path / "whole").glob("*.safetensors")):
        same(path.name, weights.load_layer(out / path.name), weights.load_layer(path))


def test_an_interruption_within_a_file_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = hollow(tmp_path / "x.safetensors"), tmp_path / "out"

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(source, out)
    assert [*out.iterdir()] == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit of a file's size, in a process of its own, stands for it."""
    source, out = hollow(tmp_path / "x.safetensors"), tmp_path / "out"
    code = (
        "import resource, sys\n"
        "from ms_dsv32.weights.__main__ import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))\n"
        f"sys.exit(main(['convert', {str(source)!r}, {str(out)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"convert: \[Errno \d+\] File too large.*\n", done.stderr)
    assert [*out.iterdir()] == []


def test_what_a_killed_conversion_left_is_written_over(tmp_path: Path) -> None:
    source, out = hollow(tmp_path / "x.safetensors"), tmp_path / "out"
    out.mkdir()
    part = file_of(out, 0).with_name(f"{file_of(out, 0).name}.part")
    part.write_bytes(b"half")
    convert(source, out)
    assert sorted(path.name for path in out.iterdir()) == [file_of(out, 0).name, REPORT]


def run(*args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "ms_dsv32.weights", *map(str, args)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, **options)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_ended_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    layers = 3
    source, out = hollow(tmp_path / "x.safetensors", layers=layers), tmp_path / "out"
    line = [sys.executable, "-m", "ms_dsv32.weights", "convert", str(source), str(out)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300  # a machine that is busy with others is slow
    while not file_of(out, 0).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    there = file_of(out, 0).exists()
    process.send_signal(how)
    _, errors = process.communicate(timeout=300)
    assert there, errors
    if how == signal.SIGINT:
        text = "convert: interrupted; the same command goes on where this one was\n"
        assert (errors, process.returncode) == (text, 130)
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert 1 <= len(done) < layers
    for name in done:  # each of them is whole
        weights.load_layer(out / name)
    again = run("convert", source, out)
    assert again.returncode == 0, again.stderr
    assert f"{layers} files in {out}, {len(done)} of them kept" in again.stdout
    assert sorted(path.name for path in out.iterdir()) == [*(file_of(out, i).name for i in range(layers)), REPORT]
    assert {name: when for name, when in times(out).items() if name in done} == done


# What is in the way


def test_another_source_is_refused_unless_one_says_so(tmp_path: Path) -> None:
    """A model of the same sizes in files of the same names, as two versions of DeepSeek-V3.2 are."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = hollow(tmp_path / "a" / "x.safetensors"), hollow(tmp_path / "b" / "x.safetensors", 2.0)
    out = tmp_path / "out"
    convert(one, out)
    before = times(out)
    with pytest.raises(ValueError, match=re.escape(f"{file_of(out, 0)} is there already, and not of this source")):
        convert(other, out)
    assert times(out) == before
    convert(other, out, overwrite=True)
    assert weights.load_mla(file_of(out, 0))["gamma_cq"][0] == np.array(2, checkpoints.BF16).view(np.uint16)
    told: list[Written] = []
    convert(other, out, overwrite=True, tell=told.append)
    assert told[0].kept


def test_a_source_that_moved_is_the_same(tmp_path: Path) -> None:
    """In other files of other names: what counts is what it holds."""
    source, out = hollow(tmp_path / "x.safetensors", kind="FLOAT"), tmp_path / "out"
    convert(source, out)
    checkpoint = Checkpoint(source)
    tensors = {name: checkpoint.read(name) for name in checkpoint.names()}
    told: list[Written] = []
    convert(checkpoints.write_shards(tmp_path / "moved", tensors, 2), out, tell=told.append)
    assert [written.kept for written in told] == [True]


def test_a_matrix_that_changed_in_a_single_value_is_another_source(tmp_path: Path) -> None:
    source, out = hollow(tmp_path / "x.safetensors"), tmp_path / "out"
    convert(source, out)
    for module in ("q_a_proj", "o_proj"):
        offset = Checkpoint(source).info(f"model.layers.0.self_attn.{module}.weight").offset + 100_005
        with source.open("r+b") as file:
            for value in (b"\1", b"\0"):
                file.seek(offset)
                file.write(value)
                file.flush()
                if value == b"\1":
                    with pytest.raises(ValueError, match="is there already, and not of this source"):
                        convert(source, out)
    told: list[Written] = []
    convert(source, out, tell=told.append)
    assert [written.kept for written in told] == [True]


@pytest.mark.parametrize(
    "content", [b"", b"no file", "no losses", "losses that are none", "a directory"], ids=lambda c: str(c)
)
def test_a_file_that_is_none_of_ours_is_in_the_way(tmp_path: Path, content: Any) -> None:
    source, out = hollow(tmp_path / "x.safetensors"), tmp_path / "out"
    path = file_of(out, 0)
    out.mkdir()
    if content == "a directory":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        mark = Checkpoint(source).fingerprint(inspect(source)[0].tensors)
        weights.save(path, {}, {"source": mark, **({"losses": "[1]"} if content == "losses that are none" else {})})
    with pytest.raises(ValueError, match=re.escape(f"{path} is there already, and not of this source")):
        convert(source, out)
    assert [*out.iterdir()] == [path]


def test_nothing_is_written_if_any_layer_is_refused(tmp_path: Path) -> None:
    """The bad scale is in the last layer, and the first file is not written either."""
    layers = {0: checkpoints.hollow(), 1: checkpoints.hollow(kind="FP8")}
    layers[1]["indexer.wk.weight_scale_inv"][0, 55] = np.nan
    tensors = {k: t for i, layer in layers.items() for k, t in checkpoints.renamed(layer, i).items()}
    source = checkpoints.write(tmp_path / "x.safetensors", tensors)
    with pytest.raises(ValueError, match=r"layer 1: weights: .*x\.safetensors: .*wk\.weight_scale_inv\[0, 55\] is nan"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert(source, tmp_path / "out", layers=[0])
    assert file_of(tmp_path / "out", 0).exists()


def test_the_report_keeps_what_it_had_of_other_layers(tmp_path: Path) -> None:
    source, out = hollow(tmp_path / "x.safetensors", layers=3), tmp_path / "out"
    convert(source, out, layers=[2])
    for _ in range(2):
        lost = convert(source, out, layers=iter([0, 0]))
        assert {matrix.layer for matrix in lost} == {0}
    assert [m.layer for m in read_report(out / REPORT)] == [0] * 9 + [2] * 9
    assert not file_of(out, 1).exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"matrices": [{}]}', '{"matrices": 1}'])
def test_a_report_that_is_none(tmp_path: Path, content: str) -> None:
    source, out = hollow(tmp_path / "x.safetensors"), tmp_path / "out"
    out.mkdir()
    (out / REPORT).write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"convert: {out / REPORT} is no report of a conversion")):
        convert(source, out)
    assert not file_of(out, 0).exists()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"tensor_parallel": 0}, ValueError, "convert: tensor_parallel must be a positive int, got 0"),
        ({"tensor_parallel": True}, ValueError, "convert: tensor_parallel must be a positive int, got True"),
        ({"tensor_parallel": 2.0}, ValueError, "convert: tensor_parallel must be a positive int, got 2.0"),
        ({"tensor_parallel": 2}, ValueError, "convert: layer 0 has 3 query heads, which 2 ranks do not divide"),
        ({"format": "int4"}, ValueError, f"convert: format must be one of {', '.join(FORMATS)}, got 'int4'"),
        ({"format": "fp8"}, ValueError, "convert: layer 0 has format w8a8-dynamic, expected fp8"),
        ({"layers": [0, 5]}, KeyError, "weights: no layer 5 in "),
        ({"layers": ["0"]}, TypeError, "weights: layer must be an int, got '0'"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path: Path, options: dict[str, Any], error: type[Exception], text: str) -> None:
    source = hollow(tmp_path / "x.safetensors", n_q=3)
    with pytest.raises(error) as raised:
        convert(source, tmp_path / "out", **options)
    assert text in str(raised.value.args[0])
    assert not (tmp_path / "out").exists()


def test_the_sources_own_directory_is_refused(tmp_path: Path) -> None:
    """Without an index a second look at the directory would find both."""
    source = hollow(tmp_path / "x.safetensors", layers=1)
    for given, overwrite in itertools.product((source, tmp_path), (False, True)):
        with pytest.raises(ValueError, match=r"convert: .* is the source's own directory"):
            convert(given, tmp_path, overwrite=overwrite)
    assert [*tmp_path.iterdir()] == [source]


def test_allow_unknown_is_passed_on(tmp_path: Path) -> None:
    tensors = checkpoints.renamed({**checkpoints.hollow(), "q_c_proj.weight": np.zeros(1, np.float32)})
    source = checkpoints.write(tmp_path / "x.safetensors", tensors)
    with pytest.raises(ValueError, match=r"q_c_proj\.weight is not known here"):
        convert(source, tmp_path / "out")
    convert(source, tmp_path / "out", allow_unknown=True)
    line = ["inspect", str(source)]
    assert command.main(line) == 1
    assert command.main([*line, "--allow-unknown"]) == 0
    assert command.main(["convert", str(source), str(tmp_path / "cli"), "--allow-unknown"]) == 0


def test_memory_does_not_grow_with_the_layers(tmp_path: Path) -> None:
    """The peak of a process of its own: layers are of 50 MB, so one that stayed would show."""
    source = hollow(tmp_path / "x.safetensors", layers=3)
    code = (
        "import resource, sys\n"
        "from ms_dsv32.weights.conversion import convert\n"
        f"convert({str(source)!r}, sys.argv[1], layers=range(int(sys.argv[2])))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )

    def peak(layers: int) -> int:
        line = [sys.executable, "-c", code, str(tmp_path / str(layers)), str(layers)]
        return int(subprocess.run(line, capture_output=True, text=True, check=True, timeout=300).stdout)

    one, three = peak(1), peak(3)
    layer = file_of(tmp_path / "1", 0).stat().st_size // 1024
    assert three < one + layer / 2
