"""Groups of operators that have tests in common, found from the contract: a new operator is in its groups by itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ms_dsv32 import op_info

_INFOS = tuple(op_info.load(name) for name in op_info.names())

PROLOGS = tuple(op.name for op in _INFOS if any(o.in_place_of for o in op.outputs))
"""The operators that write caches."""

WITH_WEIGHTS = tuple(op.name for op in _INFOS if op.packable)
"""The operators that have weights, and work on tokens that know nothing of each other: prologs and epilog."""

READERS = tuple(op.name for op in _INFOS if any(a.name == "block_table" for a in op.inputs))
"""The operators that read the caches of whole sequences."""

PARTS = frozenset(part.operator for op in _INFOS for part in op.parts)
"""The operators that a fused one contains."""

FUSED = tuple(op.name for op in _INFOS if op.parts)
"""The operators that contain others."""


def assert_all_listed(listed: Collection[str], operators: Iterable[str] | None = None) -> None:
    """A list of a test file that is written by hand must have each of these operators, all if left out."""
    expected = op_info.names() if operators is None else operators
    missing = [name for name in expected if name not in listed]
    assert not missing, f"the list of this file has no entry for {', '.join(missing)}"
