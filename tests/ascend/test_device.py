"""What a run without a device says."""

from __future__ import annotations

from pathlib import Path

import device
import pytest

from ms_dsv32 import cann, opp


def test_each_missing_thing_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = device.missing.__wrapped__
    monkeypatch.setattr(device, "DEVICES", tmp_path)
    assert missing().startswith("no Ascend device: run on an Atlas A2 or A3 machine")
    (tmp_path / "davinci_manager").touch()  # the driver's, there without a device too
    assert missing().startswith("no Ascend device")
    (tmp_path / "davinci0").touch()
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    assert missing().startswith("no CANN: ASCEND_HOME_PATH is not set")
    monkeypatch.setattr(cann, "find", lambda: None)
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", "")
    monkeypatch.setattr(cann, "VENDOR", tmp_path)
    assert missing().startswith("the Ascend operators are not built: lightning_indexer_prolog_quant: no Ascend kernel")
    monkeypatch.setattr(opp, "find", lambda name: tmp_path)
    assert missing() == ""
