"""The program that checks the parts of the CPU kernels by themselves: what it is compiled from."""

from __future__ import annotations

from checkout import ROOT

SOURCES = (
    *(ROOT / "tests" / "kernels" / f"{name}.cc" for name in ("core_check", "process_check")),
    *(ROOT / "ms_dsv32" / "kernel_impl" / "cpu" / f"{name}.cc" for name in ("amx", "threading", "scratch")),
)
