"""Every cell takes the dtypes and widths that engines have, with the results of the operators' own."""

from __future__ import annotations

from typing import Any

import cell_arguments as given
import mindspore as ms
import numpy as np
import pytest
import tolerance
from mindspore import Tensor

from ms_dsv32 import weights
from ms_dsv32._cell import as_rope_table

CELLS = [
    cls for cls in given.all_cells() if any(name.startswith(("cos", "block_table")) for name in given.inputs_of(cls))
]
"""All but the epilog, whose input has one dtype."""


def engines(name: str, tensor: Tensor) -> Tensor:
    """An input as engines may have it: float32 tables, int32 slots, int64 lengths and block tables."""
    if name.startswith(("cos", "sin")):
        return tensor.astype(ms.float32)
    other = {"cache_index": ms.int32, "k_cache_index": ms.int32, "block_table": ms.int64, "kv_act_seqs": ms.int64}
    return tensor.astype({**other, "query_act_seqs": ms.int64}.get(name, tensor.dtype))


@pytest.mark.parametrize("cls", CELLS)
def test_every_cell(cls: type[Any]) -> None:
    arguments = given.values(cls)
    cell = cls(**arguments)
    if given.weight_names(cls):
        cell.set_weights(given.weights_of(cls, arguments.get("n_q", 1)))
    ragged = "query_act_seqs" in given.inputs_of(cls)
    results = []
    for change in (lambda name, tensor: tensor, engines):
        arrays = given.changed_inputs(cls, "query_act_seqs") if ragged else given.inputs_of(cls)
        tensors = {n: change(n, weights.to_tensor(np.array(a))) for n, a in arrays.items()}
        found = cell(*tensors.values())
        found = found if isinstance(found, tuple) else (found,)
        caches = [tensors[name] for name in given.CACHES if name in tensors]
        results.append([weights.to_array(tensor).copy() for tensor in (*found, *caches)])
    for i, (want, got) in enumerate(zip(*results, strict=True)):
        tolerance.assert_same_bits(f"result {i}", got, want)


@pytest.mark.parametrize("shape", [(3, 32), (2, 3, 32)], ids=["merged", "split"])
def test_halves_of_tables_are_joined_in_each_row(shape: tuple[int, ...]) -> None:
    half = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    table = weights.to_array(as_rope_table(weights.to_tensor(half)))
    tolerance.assert_same_bits("table", table, np.concatenate([half, half], axis=-1))
