"""Every loader with one argument after the other changed, from our own files and from a checkpoint's.

Parameters are found from the signatures: one that is not listed here fails.
"""

from __future__ import annotations

import inspect

import pytest
from layer_files import FORMS, LAYERS, PARTS, Files, own, same

from ms_dsv32 import weights


@pytest.fixture(scope="module", params=FORMS)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("arguments"), FORMS[request.param])


def test_our_own_files_hold_what_they_were_made_of(files: Files) -> None:
    """`Files` takes whole layers from the loader itself, which test_formats.py checks for checkpoints."""
    first, second = (files.layers[path, LAYERS[0]] for path in files.paths)
    for name in PARTS["load_layer"]:
        assert first[name].shape == second[name].shape
        assert first[name].tobytes() != second[name].tobytes(), name
    expected = own(0)
    if first["w_dq"].tobytes() == expected["w_dq"].tobytes():
        for name, array in expected.items():
            assert first[name].tobytes() == array.tobytes(), name


def test_every_loader_is_here() -> None:
    assert set(PARTS) == {name for name in weights.__all__ if name.startswith("load_")}


@pytest.mark.parametrize("function", PARTS)
def test_every_argument_counts(files: Files, function: str) -> None:
    load = getattr(weights, function)
    for path, layer, arguments in files.loads(load, [range(2), range(2, 3), None]):
        same(load(**arguments), files.want(function, path, layer, arguments.get("heads")))
    files.check_refusals(load)


def test_heads_of_weights(files: Files) -> None:
    layer = files.layers[files.paths[0], 2]
    assert list(inspect.signature(weights.of_heads).parameters) == ["weights", "heads"]
    for heads in (range(3), range(1, 3), range(1)):
        same(weights.of_heads(layer, heads), files.want("load_layer", files.paths[0], 2, heads))
