"""Plots of the results, as small PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.limits import describe
from benchmarks.report import TORCH, best

COLOURS = {
    "kernel": "#1b6ca8",
    "graph": "#6aaed6",
    "jit": "#92c0e0",
    "pynative": "#b5d4e9",
    "torch": "#d1495b",
    "mindspore": "#edae49",
    "golden": "#999999",
}
MARKERS = "osD^vPX"
DPI = 90


def roofline(found: Mapping[str, Any], path: Path) -> None:
    """Products a second against products per byte: our kernels and the best of torch under the machine's limits."""
    figure, axes = plt.subplots(figsize=(8, 5))
    results = found["results"]
    peak = found["peak_gmacs"]
    read = max(r["read_gbps"]["huge"]["max"] for r in results)
    intensity = [_macs(r) / r["work"]["bytes"] for r in results]
    low, high = min(intensity) / 2, max(intensity) * 2
    for kind in ("bf16", "int8"):
        ridge = peak[kind] / read
        axes.plot([low, ridge, high], [low * read, peak[kind], peak[kind]], color="black", lw=1)
        axes.annotate(f"{kind}: {peak[kind]:.0f} GMAC/s", (high, peak[kind]), ha="right", va="bottom", fontsize=8)
    axes.annotate(f"DRAM reads: {read:.0f} GB/s", (low, low * read), va="bottom", rotation=35, fontsize=8)
    for marker, op in zip(MARKERS, dict.fromkeys(r["op"] for r in results), strict=False):
        for rival, names in (("torch", TORCH), ("kernel", ("kernel",))):
            points = [
                (_macs(r) / r["work"]["bytes"], 1e-6 * _macs(r) / seconds)
                for r in results
                if r["op"] == op and (seconds := best(r["contenders"], names)) is not None
            ]
            label = op if rival == "kernel" else None
            axes.scatter(
                *zip(*points, strict=True), s=22, marker=marker, color=COLOURS[rival], label=label, alpha=0.85
            ) if points else None
    axes.set(xscale="log", yscale="log", xlabel="multiply-accumulates per byte", ylabel="GMAC/s")
    axes.legend(fontsize=8, title="blue: our kernels, red: best of torch", title_fontsize=8)
    _save(figure, path, "Roofline", found)


def bars(found: Mapping[str, Any], path: Path) -> None:
    """Time over the roofline of each shape, where 1 is what the machine allows."""
    results = found["results"]
    ops = list(dict.fromkeys(r["op"] for r in results))
    figure, panels = plt.subplots(len(ops), 1, figsize=(9, 2.1 * len(ops) + 0.6), squeeze=False)
    ours = ("kernel", "graph", "jit", "pynative")
    series = {**{name: (name,) for name in ours}, "torch": TORCH, "mindspore": ("mindspore",)}
    series = {name: of for name, of in series.items() if any(best(r["contenders"], of) for r in results)}
    width = 0.8 / len(series)
    for axes, op in zip(panels[:, 0], ops, strict=True):
        shapes = [r for r in results if r["op"] == op]
        for i, (name, contenders) in enumerate(series.items()):
            heights = [(best(r["contenders"], contenders) or 0) / r["roofline_ms"] for r in shapes]
            places = [x + (i - (len(series) - 1) / 2) * width for x in range(len(shapes))]
            axes.bar(places, heights, width, color=COLOURS[name], label=name)
        axes.axhline(1, color="black", lw=1)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
        axes.set_title(op, fontsize=9, loc="left")
        axes.set_ylabel("time / roofline", fontsize=7)
        axes.set_xticks(range(len(shapes)), [r["label"].replace(" ", "\n") for r in shapes], fontsize=7)
        axes.tick_params(axis="y", labelsize=7)
    panels[-1, 0].set_xlabel("shape of the call", fontsize=7)
    panels[0, 0].legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),  # above the bars
        fontsize=7,
        ncols=len(series),
        title="lower is better (torch: the better of eager and compile)",
        title_fontsize=7,
    )
    _save(figure, path, "", found)


def scaling(found: Mapping[str, Any], path: Path) -> None:
    """Cost against tokens, keys, sequences and threads. The roofline is dashed."""
    figure, panels = plt.subplots(2, 2, figsize=(9, 7))
    for axes, (axis, lines) in zip(panels.flat, found["sweeps"].items(), strict=True):
        for i, (name, points) in enumerate(lines.items()):
            x = [p["x"] for p in points]
            axes.plot(x, [p["min_ms"] for p in points], marker="o", ms=3, color=f"C{i}", label=name)
            axes.plot(x, [p["roofline_ms"] for p in points], ls="--", lw=0.8, color=f"C{i}")
        axes.set(xlabel=axis, ylabel="ms", yscale="log")
        if axis == "threads":
            axes.set_xticks(x)
        else:
            axes.set_xscale("log", base=2)
        axes.legend(fontsize=6)
    _save(figure, path, "Bare kernels, minima, cold; dashed: roofline", found)


def accuracy(found: Mapping[str, Any], path: Path) -> None:
    """Relative error and missed keys over the number of keys, by input, format and cause of the loss."""
    results = found["results"]
    inputs, formats = (list(dict.fromkeys(r[name] for r in results)) for name in ("input", "format"))
    told = {
        "arithmetic": "operators, after the selection",
        "operators": "operators",
        "storing": "storing alone",
        "both": "operators and storing",
    }
    figure, panels = plt.subplots(2, len(inputs), figsize=(9, 7), sharex=True, sharey="row", squeeze=False)
    for column, kind in enumerate(inputs):
        for colour, name in enumerate(told):
            for style, form in zip(("-", "--"), formats, strict=True):
                some = [r for r in results if (r["input"], r["format"]) == (kind, form)]
                keys = [r["keys"] for r in some]
                line = {"marker": "o", "ms": 3, "ls": style, "color": f"C{colour}", "label": f"{told[name]}, {form}"}
                panels[0, column].plot(keys, [r[name]["relative_error"] for r in some], **line)
                if name != "arithmetic":  # it is compared at the same selection
                    panels[1, column].plot(keys, [100 * (1 - r[name]["recall"]) for r in some], **line)
        panels[0, column].set(xscale="log", yscale="log", title=f"{kind} inputs", ylabel="relative error of hidden_out")
        panels[1, column].set(xlabel="keys", ylabel="keys not selected as in float32, %")
        panels[1, column].set_xticks(keys, [f"{k}" for k in keys], minor=False)
        panels[1, column].minorticks_off()
        for axes in panels[:, column]:
            axes.grid(alpha=0.3)
            axes.label_outer()
    panels[0, 0].legend(fontsize=6)
    _save(figure, path, f"The layer beside the model in float32, {found['heads']} heads", found)


def _macs(result: Mapping[str, Any]) -> int:
    return int(result["work"]["bf16_macs"] + result["work"]["int8_macs"])


def _save(figure: Any, path: Path, title: str, found: Mapping[str, Any]) -> None:
    figure.suptitle(title, fontsize=10)
    figure.text(0.01, 0.005, describe(found["machine"]), fontsize=6, color="#555555")
    figure.tight_layout(rect=(0, 0.015, 1, 1))
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
