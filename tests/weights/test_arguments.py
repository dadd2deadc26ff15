"""Every loader with one argument after the other changed, from our own files and from a checkpoint's.

Parameters are found from the signatures: one that is not told of here fails.
"""

from __future__ import annotations

import inspect

import pytest
from layer_files import FORMS, LAYERS, PARTS, Files, Weights, own, same

from ms_dsv32 import weights


@pytest.fixture(scope="module", params=FORMS)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("arguments"), FORMS[request.param])


def test_our_own_files_hold_what_they_were_made_of(files: Files) -> None:
    """`Files` takes whole layers from the loader itself: of a checkpoint test_formats.py tells that they are right."""
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
    first, second = files.paths
    usual: Weights = {"prefix": files.prefix(5), "heads": range(1, 3), "allow_unknown": True}
    changes: dict[str, list[Weights]] = {
        "paths": [{"paths": second}, {"paths": weights.Checkpoint(second)}],
        "prefix": [{"prefix": files.prefix(2)}],
        "layer": [{"prefix": "", "layer": 5}, {"prefix": "", "layer": 2}],
        "heads": [{"heads": range(2)}, {"heads": range(2, 3)}, {"heads": None}],
        "allow_unknown": [],
    }
    parameters = inspect.signature(load).parameters
    assert set(parameters) - {"heads"} == set(changes) - {"heads"}
    if "heads" not in parameters:
        del usual["heads"]
    for change in [{}, *(c for name in parameters for c in changes[name])]:
        arguments = {"paths": first, **usual, **change}
        layer = arguments.get("layer") or int(arguments["prefix"].split(".")[2])
        path = second if "paths" in change else first
        same(load(**arguments), files.want(function, path, layer, arguments.get("heads")))
    for unknown in ({"allow_unknown": False}, {}):
        with pytest.raises(ValueError, match=r"more(\.weight)? is not known here"):
            load(first, **{n: v for n, v in usual.items() if n != "allow_unknown"}, **unknown)


def test_heads_of_weights(files: Files) -> None:
    layer = files.layers[files.paths[0], 2]
    assert list(inspect.signature(weights.of_heads).parameters) == ["weights", "heads"]
    for heads in (range(3), range(1, 3), range(1)):
        same(weights.of_heads(layer, heads), files.want("load_layer", files.paths[0], 2, heads))
