"""Which device the tests run on: the machine's, or the virtual Ascend. Without MindSpore."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import virtual

from ms_dsv32 import cann, op_info, opp

DEVICES = Path("/dev")
"""Where the driver shows davinci0, davinci1, ..."""


@functools.cache
def missing() -> str:
    """Why the tests cannot run on a device of this machine, and what to do about it; empty if they can."""
    if not list(DEVICES.glob("davinci[0-9]*")):
        return "no Ascend device: run on an Atlas A2 or A3 machine with the driver (in a container, pass /dev/davinci*)"
    try:
        cann.find()
    except cann.CannError as error:
        return f"no CANN: {error}"
    try:
        for name in op_info.names():
            opp.find(name)
    except RuntimeError as error:
        return f"the Ascend operators are not built: {error}; build them as docs/ascend.md says"
    return ""


def chosen() -> str:
    """The device in words."""
    reason = missing()
    return f"on the virtual Ascend ({reason})" if reason else "on this machine's device"


def environment() -> dict[str, str]:
    """The variables of the process that runs the tests."""
    return virtual.environment() if missing() else dict(os.environ)
