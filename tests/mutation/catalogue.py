"""The list of faults: one file of YAML a layer, in ``faults/``."""

from __future__ import annotations

import datetime
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FAULTS = HERE / "faults"
CHEAP = 8
CHEAP_ASCENDC = 12
"""Seconds that a fault of the day may take. A dozen of them, whose tests also run without the fault, and the first
build of the kernels stay within three minutes. The emulator compiles a kernel for about nine seconds."""


@dataclass(frozen=True)
class Fault:
    """One fault; ``schema.json`` says what its members are."""

    layer: str
    id: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...] = ()
    isas: tuple[str, ...] = ()
    hangs: bool = False
    crashes: bool = False
    seconds: int | None = None
    equivalent: str = ""

    def applied(self, text: str) -> str:
        """The text of the file with the fault.

        Raises:
            ValueError: `before` is not there exactly once, or `after` is the same.
        """
        if (count := text.count(self.before)) != 1:
            raise ValueError(f"{self.id}: {self.file} has the text `before` {count} times, expected once")
        if self.before == self.after:
            raise ValueError(f"{self.id}: `before` and `after` are the same")
        return text.replace(self.before, self.after)


def load(folder: Path = FAULTS) -> list[Fault]:
    """All faults, layer by layer.

    Raises:
        ValueError: a file breaks the schema, or two faults have one id.
    """
    schema = json.loads((HERE / "schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    faults: list[Fault] = []
    for path in sorted(folder.glob("*.yaml")):
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        if error := jsonschema.exceptions.best_match(validator.iter_errors(entries)):
            entry = entries[error.absolute_path[0]] if error.absolute_path else None
            name = entry.get("id") if isinstance(entry, dict) else None
            raise ValueError(f"{path.name}: {name}: {error.json_path}: {error.message}")
        faults += [_fault(path.stem, entry) for entry in entries]
    ids = [fault.id for fault in faults]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise ValueError(f"several faults have the id {', '.join(twice)}")
    return faults


def of_the_day(faults: Sequence[Fault], day: datetime.date, count: int) -> list[Fault]:
    """`count` cheap faults, from all layers equally while they have some; the same for the same day.

    Faults that want an instruction set of their own are left out, as not every machine has it, and so are those whose
    tests want the virtual Ascend, which takes minutes to compile in a new copy.
    """
    chance = random.Random(day.isoformat())
    layers: dict[str, list[Fault]] = {}
    for fault in sorted(faults, key=lambda fault: fault.id):
        anywhere = not fault.isas and not any(tests.startswith("tests/ascend/") for tests in fault.tests)
        limit = CHEAP_ASCENDC if fault.layer == "ascendc" else CHEAP
        if not fault.equivalent and anywhere and fault.seconds is not None and fault.seconds <= limit:
            layers.setdefault(fault.layer, []).append(fault)
    queues = [chance.sample(layer, len(layer)) for layer in layers.values()]
    chance.shuffle(queues)
    chosen = [queue[i] for i in range(max(map(len, queues), default=0)) for queue in queues if i < len(queue)]
    return chosen[:count]


def write_seconds(seconds: Mapping[str, int], folder: Path = FAULTS) -> None:
    """Writes the seconds that faults took into the list, by id, and leaves every other line as it is."""
    for path in folder.glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        blocks = re.split(r"(?m)^(?=- id: )", text)
        changed = "".join(_with_seconds(block, seconds) for block in blocks)
        if changed != text:
            path.write_text(changed, encoding="utf-8")


def _with_seconds(block: str, seconds: Mapping[str, int]) -> str:
    name = re.match(r"- id: (\S+)", block)
    if name is None or name[1] not in seconds:
        return block
    line = f"  seconds: {seconds[name[1]]}\n"
    if re.search(r"(?m)^  seconds: .*\n", block):
        return re.sub(r"(?m)^  seconds: .*\n", line, block)
    body = block.rstrip("\n")
    return f"{body}\n{line}{block[len(body) + 1 :]}"


def _fault(layer: str, entry: Mapping[str, Any]) -> Fault:
    lists = {name: tuple(entry[name]) for name in ("tests", "isas") if name in entry}
    return Fault(layer, **{**entry, **lists})
