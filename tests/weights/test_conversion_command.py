"""What is in a checkpoint, and ``python -m ms_dsv32.weights``, which tells it and converts."""

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
from conversions import ALL_WEIGHTS, hollow

from ms_dsv32 import weights
from ms_dsv32.weights import __main__ as command
from ms_dsv32.weights.conversion import (
    REPORT,
    convert,
    file_of,
    inspect,
    numbers,
    ranges,
)
from ms_dsv32.weights.files import Checkpoint

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


# What is in a checkpoint

KINDS = {
    "bf16": "FLOAT",
    "fp8": "FP8",
    "w8a8-dynamic": "W8A8_DYNAMIC",
    "w8a8-static": "W8A8",
    "w8a8-mix": "W8A8_MIX",
}


@pytest.mark.parametrize("form", KINDS)
@pytest.mark.parametrize("whose", checkpoints.NAMINGS)
def test_inspect_tells_each_format(tmp_path: Path, form: str, whose: str, capsys: pytest.CaptureFixture[str]) -> None:
    tensors: dict[str, Any] = {}
    for layer in (3, 4, 6):
        tensors |= checkpoints.renamed(checkpoints.hollow(2, KINDS[form]), layer, whose)
    source = checkpoints.write(tmp_path / "x.safetensors", tensors)
    found = inspect(source)
    assert [(f.layer, f.format, f.whose, f.n_q, f.refused) for f in found] == [
        (layer, form, whose, 2, "") for layer in (3, 4, 6)
    ]
    for layer in found:
        parts = {part.weight: part for part in layer.parts}
        assert list(parts)[:4] == ["w_dq", "w_uq_qr", "w_uk", "w_dkv_kr"]
        assert list(parts)[-2:] == ["w_uv", "w_o"]
        assert parts["w_uq_qr"].kind == parts["w_o"].kind == KINDS[form]
        assert parts["w_proj"].kind == "FLOAT"
        assert parts["w_uk"].shape == parts["w_uv"].shape == (512, 512)
        assert parts["w_uk"].name == parts["w_uv"].name
        assert parts["w_o"].shape == (7168, 256)
        assert layer.tensors == {name for name in tensors if name.startswith(layer.prefix)}
    assert command.main(["inspect", str(source)]) == 0
    output = capsys.readouterr().out
    prefix = checkpoints.prefix_of(0, whose).replace("0", "N")
    assert f"layers 3-4, 6: {form}, 2 query heads, names of {whose}, {prefix}" in output
    rows = {line.split()[0]: line.split(maxsplit=3)[1:] for line in map(str.strip, output.splitlines()) if line}
    for part in found[0].parts:
        name = part.name.removeprefix(found[0].prefix)
        assert rows[part.weight] == [name, part.kind, str(part.shape)], output


def test_inspect_of_our_own_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = hollow(tmp_path / "x.safetensors")
    convert(source, tmp_path / "out")
    assert command.main(["inspect", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert "layers 0: ms_dsv32, 1 query heads, names of ms_dsv32, without a prefix" in output
    lines = [line.strip() for line in output.splitlines() if "layers" not in line]
    rows = [line.split(maxsplit=3) for line in lines if "ms_dsv32" in line]
    shapes = [str(weights.shape_of(name, 1)) for name in ALL_WEIGHTS]
    assert rows == [[name, name, "ms_dsv32", shape] for name, shape in zip(ALL_WEIGHTS, shapes, strict=True)]


def test_inspect_of_layers_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is printed with its reason, beside those that would be loaded. The exit status is not 0."""
    layers = {i: checkpoints.hollow() for i in range(3)}
    layers[1]["q_a_proj.bias"] = np.ones(1536, np.float32)
    layers[2]["ckv_a_alpha"] = np.full(1, 0.5, np.float32)
    tensors = {k: t for i, layer in layers.items() for k, t in checkpoints.renamed(layer, i).items()}
    source = checkpoints.write(tmp_path / "x.safetensors", tensors)
    assert command.main(["inspect", str(source)]) == 1
    output = capsys.readouterr().out
    assert "layers 0: bf16, 1 query heads" in output
    name = f"{source}: model.layers"
    assert f"layer 1: refused: weights: {name}.1.self_attn.q_a_proj.bias[0] is 1, expected 0" in output
    assert f"layer 2: refused: weights: {name}.2.self_attn.ckv_a_alpha[0] is 0.5, expected 1" in output
    assert command.main(["inspect", str(source), "--layers", "0"]) == 0
    assert "refused" not in capsys.readouterr().out


def test_inspect_reads_nothing_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = hollow(tmp_path / "x.safetensors", kind="W8A8_MIX", n_q=2)
    sizes: list[int] = []
    read: Callable[..., Any] = Checkpoint.read

    def spy(*args: Any) -> Any:
        array = read(*args)
        sizes.append(array.nbytes)
        return array

    monkeypatch.setattr(Checkpoint, "read", spy)
    inspect(source)
    assert sizes
    assert max(sizes) <= 8192 * 4


# The command line


def test_convert_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = hollow(tmp_path / "x.safetensors", layers=3, n_q=2), tmp_path / "out"
    line = ["convert", str(source), str(out)]
    line += ["--layers", "0,2", "--tensor-parallel", "2", "--format", "w8a8-dynamic"]
    assert command.main(line) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert f"4 files in {out}, 0 of them kept; {out / REPORT} has the errors of each layer" in output.out
    rows = [line.split() for line in output.out.splitlines() if line.split()[:1] in (["w_uq_qr"], ["w_uv"], ["w_o"])]
    assert rows == [[name, "W8A8_DYNAMIC", "0.00e+00", "0"] for name in ("w_uq_qr", "w_uv", "w_o")]
    assert len([*out.glob("*.safetensors")]) == 4
    assert command.main(line) == 0
    assert f"4 files in {out}, 4 of them kept" in capsys.readouterr().out
    hollow(tmp_path / "x.safetensors", 5.0, layers=3, n_q=2)
    assert command.main(line) == 1
    assert capsys.readouterr().err == (
        f"convert: {file_of(out, 0, 0, 2)} is there already, and not of this source; nothing was written\n"
    )
    assert command.main([*line, "--overwrite"]) == 0


def bad_file(directory: Path) -> list[str]:
    (directory / "x.safetensors").write_bytes(b"x" * 100)
    return [str(directory)]


def empty(directory: Path) -> list[str]:
    return [str(directory)]


def absent(directory: Path) -> list[str]:
    return [str(directory / "absent.safetensors")]


def other_model(directory: Path) -> list[str]:
    checkpoints.write(directory / "x.safetensors", {"model.norm.weight": np.ones(4, np.float32)})
    return [str(directory)]


def no_layer(directory: Path) -> list[str]:
    return [str(hollow(directory / "x.safetensors")), "--layers", "7"]


def missing(directory: Path) -> list[str]:
    tensors = checkpoints.hollow()
    del tensors["indexer.wk.weight"]
    return [str(checkpoints.write(directory / "x.safetensors", checkpoints.renamed(tensors)))]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (bad_file, "x.safetensors is no safetensors file, or a part of one"),
        (empty, "is a directory without *.safetensors files"),
        (absent, "[Errno 2] No such file or directory: "),
        (other_model, "no attention of DeepSeek-V3.2 under any known names"),
        (no_layer, "weights: no layer 7 in "),
        (missing, "weights: no tensor 'model.layers.0.self_attn.indexer.wk.weight' in "),
    ],
)
@pytest.mark.parametrize("name", ["inspect", "convert"])
def test_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, make: Callable[[Path], list[str]], text: str
) -> None:
    (tmp_path / "source").mkdir()
    source, *options = make(tmp_path / "source")
    out = [str(tmp_path / "out")] if name == "convert" else []
    assert command.main([name, source, *out, *options]) == 1
    output = capsys.readouterr()
    if make is missing and name == "inspect":  # which tells of refused layers in its output
        assert f"layer 0: refused: {text}" in output.out
        return
    assert output.err.startswith(f"{name}: ")
    assert output.err.count("\n") == 1
    assert text in output.err
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = hollow(tmp_path / "x.safetensors")
    (tmp_path / "out").touch()
    assert command.main(["convert", str(source), str(tmp_path / "out")]) == 1
    assert re.fullmatch(r"convert: \[Errno \d+\] .*out'\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    "options", [["--layers", "a"], ["--layers", "3-1"], ["--format", "x"], ["--tensor-parallel", "x"]]
)
def test_options_that_cannot_be_read(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        command.main(["convert", "x", str(tmp_path / "out"), *options])
    assert exited.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "want"), [("0", [0]), ("0-2,5", [0, 1, 2, 5]), (" 3 , 1-1 ", [3, 1]), ("60-60", [60]), ("999", [999])]
)
def test_lists_of_layers(text: str, want: list[int]) -> None:
    assert numbers(text) == want
    assert numbers(ranges(sorted(want))) == sorted(want)


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "a", "-1", "1-", "1-b", "0-1-2", "1.5", "2-1", "1000", "0-99999999999", "9" * 5000]
)
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no list of layers such as 0-2,5|is no range of layers|integer string"):
        numbers(text)


def test_a_pipe_that_ends_is_no_traceback(tmp_path: Path) -> None:
    source = hollow(tmp_path / "x.safetensors")
    read, write = os.pipe()
    os.close(read)
    line = [sys.executable, "-m", "ms_dsv32.weights", "inspect", str(source)]
    done = subprocess.run(line, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(write)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_the_report_is_json_for_everybody(tmp_path: Path) -> None:
    convert(hollow(tmp_path / "x.safetensors"), tmp_path / "out")
    matrices = json.loads((tmp_path / "out" / REPORT).read_text())["matrices"]
    assert set(matrices[0]) == {"layer", "weight", "tensor", "format", "relative_error"}
