"""What the operators cannot honour is refused, by the file's and the tensor's name, before anything large is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import tolerance
from checkpoints import BF16, PREFIX, Zeros
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_dsv32 import weights
from ms_dsv32.weights.files import Checkpoint
from ms_dsv32.weights.layer import Layer

SMALL = 400_000
"""Bytes: the scales of kv_b_proj for 128 heads, in int64, are 262144. The smallest matrix is 917504."""


def load(path: Path, **options: Any) -> dict[str, Any]:
    """A layer's weights, of PREFIX if nothing else is asked for."""
    if "layer" not in options:
        options = {"prefix": PREFIX, **options}
    return weights.load_layer(path, **options)


def vector(n: int, value: float, at: int = 0, dtype: Any = np.float32) -> Any:
    """Zeros but for one."""
    array = np.zeros(n, dtype)
    array[at] = value
    return array


def scales(n: int, value: Any, dtype: Any = np.float32) -> Any:
    """Halves but for the fourth of them."""
    array = np.full((n, 1), 0.5, dtype)
    array[3] = value
    return array


class Case:
    """A change of a hollow layer that has to be refused.

    ``change`` maps a tensor's name to what it becomes, or None to leave it out. The error has to name the file and the
    first of these tensors. ``early`` is whether nothing large is read before.
    """

    def __init__(
        self,
        kind: str,
        change: dict[str, Any],
        text: str,
        error: type[Exception] = ValueError,
        *,
        early: bool = True,
    ) -> None:
        self.kind = kind
        self.change = change
        self.text = text
        self.error = error
        self.tensor = next(iter(change))
        self.early = early

    def write(self, directory: Path) -> Path:
        """Makes the file."""
        tensors = {**checkpoints.hollow(1, self.kind), **self.change}
        named = checkpoints.renamed({name: t for name, t in tensors.items() if t is not None})
        return checkpoints.write(directory / "model.safetensors", named)


NO_TERM = "expected 0: the operators have no such term"
NO_CLIP = "expected 1: the operators do not clip what they quantise"
POSITIVE = "expected a finite positive number"
UNKNOWN = "is not known here; allow_unknown=True passes it over"
LEFT = "is left over: the weight is"
WANTED = "must be F32 or F16 or BF16"

CASES: dict[str, Case] = {
    # Further terms
    "weight_offset": Case(
        "W8A8_DYNAMIC", {"q_b_proj.weight_offset": vector(192, 1, 5)[:, None]}, f"[5, 0] is 1, {NO_TERM}"
    ),
    "weight_offset that is no number": Case(
        "W8A8_DYNAMIC", {"indexer.wk.weight_offset": vector(128, np.nan)[:, None]}, f"[0, 0] is nan, {NO_TERM}"
    ),
    "weight_offset of int8": Case(
        "W8A8_MIX", {"q_a_proj.weight_offset": vector(1536, -3, 1535, np.int8)}, f"[1535] is -3, {NO_TERM}"
    ),
    **{
        f"bias of {module}": Case("FLOAT", {f"{module}.bias": vector(n, 0.5, 7)}, f"[7] is 0.5, {NO_TERM}")
        for module, n in {
            "q_a_proj": 1536,
            "q_b_proj": 192,
            "kv_a_proj_with_mqa": 576,
            "kv_b_proj": 256,
            "o_proj": 7168,
            "indexer.wq_b": 8192,
            "indexer.wk": 128,
            "indexer.weights_proj": 64,
            "q_a_layernorm": 1536,
            "kv_a_layernorm": 512,
        }.items()
    },
    "bias beside int8": Case("W8A8", {"q_b_proj.bias": vector(192, -1, 0, BF16)}, f"[0] is -1, {NO_TERM}"),
    "bias that is no number": Case("FLOAT", {"q_a_proj.bias": vector(1536, np.nan)}, f"[0] is nan, {NO_TERM}"),
    "quant_bias without an offset": Case(
        "W8A8",
        {"q_b_proj.quant_bias": vector(192, 1, 2, np.int32), "q_b_proj.input_offset": np.zeros(1, np.float32)},
        f"[2] is 1, {NO_TERM}",
    ),
    "quant_bias without any offset": Case(
        "W8A8",
        {"q_b_proj.quant_bias": vector(192, 1, 2, np.int32), "q_b_proj.input_offset": None},
        f"[2] is 1, {NO_TERM}",
    ),
    "quant_bias beside an offset": Case(
        "W8A8",
        {"q_b_proj.quant_bias": vector(192, 50, 100, np.int32)},
        "[100] is 50, expected 0, which cancels input_offset = 3; the operators have no bias",
        early=False,
    ),
    "quant_bias of a mixture": Case(
        "W8A8_MIX",
        {"kv_a_proj_with_mqa.quant_bias": vector(576, -4, 575, np.int32)},
        "[575] is -4, expected 0, which cancels input_offset = 3; the operators have no bias",
        early=False,
    ),
    "weight_offset of o_proj": Case(
        "W8A8_DYNAMIC", {"o_proj.weight_offset": vector(7168, 2, 7167)[:, None]}, f"[7167, 0] is 2, {NO_TERM}"
    ),
    "quant_bias of o_proj without an offset": Case(
        "W8A8",
        {"o_proj.quant_bias": vector(7168, 1, 2, np.int32), "o_proj.input_offset": np.zeros(1, np.float32)},
        f"[2] is 1, {NO_TERM}",
    ),
    "quant_bias of o_proj beside an offset": Case(
        "W8A8_MIX",
        {"o_proj.quant_bias": vector(7168, 9, 7100, np.int32)},
        "[7100] is 9, expected 0, which cancels input_offset = 3; the operators have no bias",
        early=False,
    ),
    "input_offset without a quant_bias": Case(
        "W8A8",
        {"q_a_proj.input_offset": np.full(1, -7, np.float32), "q_a_proj.quant_bias": None},
        " is -7, expected 0 or a quant_bias that cancels it",
    ),
    "input_offset that is no number": Case(
        "W8A8", {"q_a_proj.input_offset": np.full(1, np.nan, np.float32)}, "[0] is nan, expected a finite number"
    ),
    # Clipping
    "ckv_a_alpha": Case("FLOAT", {"ckv_a_alpha": np.full(1, 0.9, np.float32)}, f"[0] is 0.9, {NO_CLIP}"),
    "an alpha of the query": Case("FLOAT", {"q_b_proj.a_alpha": np.array(0.5, np.float32)}, f" is 0.5, {NO_CLIP}"),
    "an alpha of o_proj": Case("FLOAT", {"o_proj.w_alpha": np.full(1, 0.9, np.float32)}, f"[0] is 0.9, {NO_CLIP}"),
    "an alpha of the indexer": Case("FLOAT", {"indexer.q_alpha": np.full(1, np.nan, BF16)}, f"[0] is nan, {NO_CLIP}"),
    # Left over
    "weight_scale_inv beside floats": Case(
        "FLOAT", {"q_a_proj.weight_scale_inv": np.ones((12, 56), np.float32)}, f" {LEFT} BF16 (FLOAT)"
    ),
    "weight_scale beside floats": Case(
        "FLOAT", {"kv_b_proj.weight_scale": np.ones((256, 1), np.float32)}, f" {LEFT} BF16 (FLOAT)"
    ),
    "weight_scale beside FP8": Case(
        "FP8",
        {"q_b_proj.weight_scale": np.full((192, 1), 2, np.float32)},
        "[0, 0] is 2, expected 1: the blocks have their scales",
    ),
    "weight_scale_inv beside int8": Case(
        "W8A8_DYNAMIC", {"q_b_proj.weight_scale_inv": np.ones((2, 12), np.float32)}, f" {LEFT} I8 (W8A8_DYNAMIC)"
    ),
    "weight_scale_inv beside a float o_proj": Case(
        "FLOAT", {"o_proj.weight_scale_inv": np.ones((56, 1), np.float32)}, f" {LEFT} BF16 (FLOAT)"
    ),
    "weight_scale beside o_proj in FP8": Case(
        "FP8", {"o_proj.weight_scale": np.full((7168, 1), 2, np.float32)}, "[0, 0] is 2, expected 1: the blocks have"
    ),
    "weight_scale_inv beside o_proj in int8": Case(
        "W8A8_DYNAMIC", {"o_proj.weight_scale_inv": np.ones((56, 1), np.float32)}, f" {LEFT} I8 (W8A8_DYNAMIC)"
    ),
    "input_scale beside floats": Case(
        "FLOAT", {"indexer.wk.input_scale": np.ones(1, np.float32)}, f" {LEFT} BF16 (FLOAT)"
    ),
    "weight_offset beside static": Case(
        "W8A8", {"q_b_proj.weight_offset": np.zeros((192, 1), np.float32)}, f" {LEFT} I8 (W8A8)"
    ),
    # Scales
    **{
        f"{suffix} of {module} that is {value:g}": Case(
            kind, {f"{module}.{suffix}": make(value)}, f"{at} is {value:g}, {POSITIVE}"
        )
        for value in (np.nan, np.inf, -0.5, 0.0)
        for kind, module, suffix, make, at in (
            ("W8A8_DYNAMIC", "q_b_proj", "weight_scale", lambda v: scales(192, v), "[3, 0]"),
            ("W8A8_MIX", "indexer.wq_b", "weight_scale", lambda v: scales(8192, v)[:, 0], "[3]"),
            ("W8A8", "q_a_proj", "deq_scale", lambda v: scales(1536, v)[:, 0], "[3]"),
            ("W8A8", "q_a_proj", "input_scale", lambda v: np.full(1, v, np.float32), "[0]"),
            ("FP8", "kv_a_proj_with_mqa", "weight_scale_inv", lambda v: np.full((5, 56), v, np.float32), "[0, 0]"),
            ("W8A8_DYNAMIC", "o_proj", "weight_scale", lambda v: scales(7168, v), "[3, 0]"),
            ("W8A8", "o_proj", "deq_scale", lambda v: scales(7168, v)[:, 0], "[3]"),
            ("FP8", "o_proj", "weight_scale_inv", lambda v: scales(56, v), "[3, 0]"),
            ("FP8", "kv_b_proj", "weight_scale_inv", lambda v: np.full((2, 4), v, np.float32), "[0, 0]"),
        )
    },
    "a half's weight_scale_inv": Case(
        "FP8", {"indexer.wk.weight_scale_inv": np.full((1, 56), -1, np.float16)}, f"[0, 0] is -1, {POSITIVE}"
    ),
    "deq_scale of int64 that is no bits of a float32": Case(
        "W8A8", {"q_b_proj.deq_scale": np.full(192, 2**40, np.int64)}, " does not hold the bits of positive float32"
    ),
    "deq_scale of negative int64": Case(
        "W8A8", {"q_b_proj.deq_scale": np.full(192, -1, np.int64)}, " does not hold the bits of positive float32"
    ),
    "deq_scale with the bits of NaN": Case(
        "W8A8", {"q_b_proj.deq_scale": np.full(192, 0x7FC00000, np.int64)}, f"[0] is nan, {POSITIVE}"
    ),
    "deq_scale that is too large for input_scale": Case(
        "W8A8",
        {"q_b_proj.deq_scale": np.full(192, 1e30, np.float32), "q_b_proj.input_scale": np.full(1, 1e-30, np.float32)},
        "[0] is 1e+30, expected 1e-30 (input_scale) times a float32",
    ),
    "deq_scale that is too small for input_scale": Case(
        "W8A8",
        {"q_b_proj.deq_scale": np.full(192, 1e-30, np.float32), "q_b_proj.input_scale": np.full(1, 1e30, np.float32)},
        "[0] is 1e-30, expected 1e+30 (input_scale) times a float32",
    ),
    "deq_scale that contradicts weight_scale": Case(
        "W8A8_MIX", {"q_b_proj.deq_scale": np.full(192, 1.1, np.float32)}, " is not input_scale * weight_scale"
    ),
    "tiny deq_scale that contradicts weight_scale": Case(
        "W8A8_MIX",
        {
            "q_b_proj.deq_scale": np.full(192, 6e-9, np.float32),
            "q_b_proj.weight_scale": np.full(192, 1e-9, np.float32),
        },
        " is not input_scale * weight_scale",
    ),
    **{
        f"weight_scale of {name}": Case(
            "W8A8_DYNAMIC",
            {"q_b_proj.weight_scale": np.ones((192, 1), dtype)},
            f" {WANTED}, got {name}",
            TypeError,
        )
        for name, dtype in (("I32", np.int32), ("BOOL", np.bool_), ("I64", np.int64), ("F64", np.float64))
    },
    "weight_scale_inv of I32": Case(
        "FP8", {"q_b_proj.weight_scale_inv": np.ones((2, 12), np.int32)}, f" {WANTED}, got I32", TypeError
    ),
    "weight_scale_inv of F8_E8M0": Case(
        "FP8", {"q_b_proj.weight_scale_inv": Zeros("F8_E8M0", (2, 12))}, f" {WANTED}, got F8_E8M0", TypeError
    ),
    "input_scale of I32": Case(
        "W8A8", {"q_b_proj.input_scale": np.ones(1, np.int32)}, f" {WANTED}, got I32", TypeError
    ),
    "deq_scale of BOOL": Case(
        "W8A8", {"q_b_proj.deq_scale": np.ones(192, np.bool_)}, f" {WANTED} or I64 or U64, got BOOL", TypeError
    ),
    "quant_bias of F32": Case(
        "W8A8", {"q_b_proj.quant_bias": np.zeros(192, np.float32)}, " must be I32, got F32", TypeError
    ),
    # What belongs together is not there
    "no weight": Case("FLOAT", {"q_a_proj.weight": None}, "no tensor '", KeyError),
    "no kv_b_proj": Case("FLOAT", {"kv_b_proj.weight": None}, "no tensor '", KeyError),
    "no o_proj": Case("FLOAT", {"o_proj.weight": None}, "no tensor '", KeyError),
    "the scales of o_proj alone": Case("FP8", {"o_proj.weight": None}, "no tensor '", KeyError),
    "no weight_scale_inv of o_proj": Case("FP8", {"o_proj.weight_scale_inv": None}, "no tensor '", KeyError),
    "no input_scale of o_proj": Case("W8A8", {"o_proj.input_scale": None}, "no tensor '", KeyError),
    "no weight of the indexer": Case("FLOAT", {"indexer.wq_b.weight": None}, "no tensor '", KeyError),
    "no norm": Case("FLOAT", {"kv_a_layernorm.weight": None}, "no tensor '", KeyError),
    "no bias of the key's norm": Case("FLOAT", {"indexer.k_norm.bias": None}, "no tensor '", KeyError),
    "no weight_scale_inv": Case("FP8", {"q_b_proj.weight_scale_inv": None}, "no tensor '", KeyError),
    "no weight_scale": Case(
        "W8A8_DYNAMIC",
        {"q_b_proj.weight_scale": None, "q_b_proj.weight_offset": None},
        "no tensor '",
        KeyError,
    ),
    "no deq_scale": Case("W8A8", {"q_b_proj.deq_scale": None}, "no tensor '", KeyError),
    "no input_scale": Case("W8A8", {"q_b_proj.input_scale": None}, "no tensor '", KeyError),
    "k_rot without q_rot": Case(
        "FLOAT", {"indexer.q_rot": None, "indexer.k_rot": np.eye(128, dtype=BF16)}, "no tensor '", KeyError
    ),
    "q_rot without k_rot": Case(
        "FLOAT", {"indexer.k_rot": None, "indexer.q_rot": np.eye(128, dtype=BF16)}, "no tensor '", KeyError
    ),
    "both ways to turn query and key": Case(
        "FLOAT",
        {
            "indexer.hadamard_matrix": np.eye(128, dtype=BF16),
            "indexer.q_rot": np.eye(128, dtype=BF16),
            "indexer.k_rot": np.eye(128, dtype=BF16),
        },
        " stands beside q_rot or k_rot, expected one way to turn query and key",
    ),
    # Values
    **{
        f"{name} with {value:g}": Case(
            "FLOAT", {name: vector(n, value, 4, dtype)}, f"[4] is {value:g}, expected a finite number"
        )
        for name, n, value, dtype in (
            ("q_a_layernorm.weight", 1536, np.nan, BF16),
            ("kv_a_layernorm.weight", 512, -np.inf, BF16),
            ("indexer.k_norm.weight", 128, np.inf, np.float32),
            ("indexer.k_norm.bias", 128, np.nan, np.float32),
        )
    },
    "a float32 that bfloat16 cannot hold": Case(
        "FLOAT", {"indexer.k_norm.bias": vector(128, 3.4e38, 9)}, "[9] is 3.4e+38, expected a finite number that bf"
    ),
    "hadamard_matrix with NaN": Case(
        "FLOAT",
        {"indexer.hadamard_matrix": vector(128 * 128, np.nan, 129, BF16).reshape(128, 128)},
        "[1, 1] is nan, expected a finite number",
    ),
    "NaN in a matrix": Case(
        "FLOAT",
        {"q_a_proj.weight": vector(1536 * 7168, np.nan, 1500 * 7168 + 9, BF16).reshape(1536, 7168)},
        "[1500, 9] is nan, expected a finite number",
        early=False,
    ),
    "NaN in o_proj": Case(
        "FLOAT",
        {"o_proj.weight": vector(7168 * 128, np.nan, 7167 * 128 + 5, BF16).reshape(7168, 128)},
        "[7167, 5] is nan, expected a finite number",
        early=False,
    ),
    "FP8's NaN in o_proj": Case(
        "FP8",
        {"o_proj.weight": vector(7168 * 128, np.nan, 600 * 128, checkpoints.FP8).reshape(7168, 128)},
        "[600, 0] is nan, expected a finite number",
        early=False,
    ),
    "infinity in a head's values": Case(
        "FLOAT",
        {"kv_b_proj.weight": vector(256 * 512, -np.inf, 200 * 512 + 3, BF16).reshape(256, 512)},
        "[200, 3] is -inf, expected a finite number",
        early=False,
    ),
    "infinity in a matrix to be quantised": Case(
        "FLOAT",
        {"q_b_proj.weight": vector(192 * 1536, np.inf, 1536, np.float32).reshape(192, 1536)},
        "[1, 0] is inf, expected a finite number",
        early=False,
    ),
    "a matrix's float32 that bfloat16 cannot hold": Case(
        "FLOAT",
        {"indexer.wk.weight": vector(128 * 7168, 3.4e38, 7168 + 2).reshape(128, 7168)},
        "[1, 2] is 3.4e+38, expected a finite number that bfloat16 holds",
        early=False,
    ),
    "FP8's NaN": Case(
        "FP8",
        {"indexer.wk.weight": vector(128 * 7168, np.nan, 2, checkpoints.FP8).reshape(128, 7168)},
        "[0, 2] is nan, expected a finite number",
        early=False,
    ),
    "FP8 times its scale beyond float32": Case(
        "FP8",
        {
            "indexer.wk.weight": vector(128 * 7168, 448, 2, checkpoints.FP8).reshape(128, 7168),
            "indexer.wk.weight_scale_inv": np.full((1, 56), 1e38, np.float32),
        },
        "[0, 2] is inf, expected a finite number",
        early=False,
    ),
    "int8 times its scale beyond float32": Case(
        "W8A8_DYNAMIC",
        {
            "q_a_proj.weight": vector(1536 * 7168, 127, 2, np.int8).reshape(1536, 7168),
            "q_a_proj.weight_scale": np.full((1536, 1), 1e38, np.float32),
        },
        "[0, 2] is inf, expected a finite number",
        early=False,
    ),
    # Shapes and dtypes
    "another width": Case(
        "FLOAT",
        {"q_a_proj.weight": Zeros("BF16", (1536, 7167))},
        "7167), expected (q_lora_rank, h) = (1536, 7168)",
    ),
    "3 GB": Case(
        "FLOAT", {"q_a_proj.weight": Zeros("F32", (107520, 7168))}, "(107520, 7168), expected (q_lora_rank, h) ="
    ),
    "3 GB of bias": Case("FLOAT", {"q_a_proj.bias": Zeros("F32", (750_000_000,))}, "expected (out) = (1536,)"),
    "3 GB of a norm's bias": Case("FLOAT", {"q_a_layernorm.bias": Zeros("F32", (750_000_000,))}, "expected (q_lora"),
    "3 GB of alpha": Case("FLOAT", {"ckv_a_alpha": Zeros("F32", (750_000_000,))}, "expected (1) = (1,)"),
    "3 GB of scale": Case("FP8", {"q_b_proj.weight_scale_inv": Zeros("F32", (750_000_000, 1))}, "expected (ceil(out"),
    "a matrix that is flat": Case("FLOAT", {"indexer.wk.weight": Zeros("BF16", (917504,))}, "has shape (917504,)"),
    "a matrix of no axes": Case("FLOAT", {"kv_b_proj.weight": np.zeros((), BF16)}, " has shape (), expected (n_q * "),
    "no heads": Case("FLOAT", {"kv_b_proj.weight": Zeros("BF16", (0, 512))}, "(0, 512), expected (n_q * (qk_nope"),
    "a part of a head": Case("FLOAT", {"kv_b_proj.weight": Zeros("BF16", (257, 512))}, "with n_q from 1 to 128"),
    "too many heads": Case("FLOAT", {"kv_b_proj.weight": Zeros("BF16", (129 * 256, 512))}, "with n_q from 1 to 128"),
    "other heads of the query": Case(
        "FLOAT",
        {"q_b_proj.weight": Zeros("BF16", (384, 1536))},
        "1536), expected (n_q * q_head_dim, q_lora_rank)",
    ),
    "other heads of the output": Case(
        "FLOAT", {"o_proj.weight": Zeros("BF16", (7168, 256))}, "256), expected (h, n_q * v_head_dim) = (7168, 128)"
    ),
    "o_proj that is turned over": Case(
        "FLOAT", {"o_proj.weight": Zeros("BF16", (128, 7168))}, "has shape (128, 7168), expected (h, n_q * v_head_dim)"
    ),
    "3 GB of o_proj": Case("FLOAT", {"o_proj.weight": Zeros("F32", (7168, 107520))}, "expected (h, n_q * v_head_dim)"),
    "blocks of another size of o_proj": Case(
        "FP8", {"o_proj.weight_scale_inv": np.ones((1, 56), np.float32)}, "= (56, 1)"
    ),
    "scales of o_proj's columns": Case(
        "W8A8_DYNAMIC", {"o_proj.weight_scale": np.ones((1, 128), np.float32)}, "expected (out, 1) = (7168, 1)"
    ),
    "o_proj of float64": Case(
        "FLOAT", {"o_proj.weight": Zeros("F64", (7168, 128))}, f" {WANTED} or F8_E4M3 or I8, got F64", TypeError
    ),
    "a norm of another size": Case("FLOAT", {"q_a_layernorm.weight": np.ones(1535, BF16)}, "expected (q_lora_rank) ="),
    "a smaller rotation": Case(
        "FLOAT", {"indexer.hadamard_matrix": np.eye(64, dtype=BF16)}, "has shape (64, 64), expected (idx_head_dim"
    ),
    "blocks of another size": Case(
        "FP8", {"kv_a_proj_with_mqa.weight_scale_inv": np.ones((4, 56), np.float32)}, "= (5, 56)"
    ),
    "scales of rows that are not there": Case(
        "W8A8_DYNAMIC", {"q_b_proj.weight_scale": np.ones((193, 1), np.float32)}, "expected (out, 1) = (192, 1)"
    ),
    "a scale for the whole matrix": Case(
        "W8A8_DYNAMIC", {"q_b_proj.weight_scale": np.ones(1, np.float32)}, "expected (out, 1) = (192, 1)"
    ),
    "two input_scale": Case("W8A8", {"q_a_proj.input_scale": np.ones(2, np.float32)}, "expected (1) = (1,)"),
    "int32 weights": Case(
        "FLOAT", {"q_a_proj.weight": Zeros("I32", (1536, 7168))}, f" {WANTED} or F8_E4M3 or I8, got I32", TypeError
    ),
    "another FP8": Case(
        "FP8", {"q_a_proj.weight": Zeros("F8_E5M2", (1536, 7168))}, f" {WANTED} or F8_E4M3 or I8, got F8", TypeError
    ),
    "an int8 norm": Case("FLOAT", {"q_a_layernorm.weight": np.ones(1536, np.int8)}, f" {WANTED}, got I8", TypeError),
    "an int8 bias": Case("FLOAT", {"q_a_proj.bias": np.zeros(1536, np.int8)}, f" {WANTED}, got I8", TypeError),
    # Unknown
    "an unknown tensor": Case("FLOAT", {"q_c_proj.weight": np.zeros(1, np.float32)}, f" {UNKNOWN}"),
    "an unknown tensor of o_proj": Case("FP8", {"o_proj.scale": np.ones((56, 1), np.float32)}, f" {UNKNOWN}"),
    "an unknown tensor of kv_b_proj": Case("FLOAT", {"kv_b_proj.scale": np.ones((2, 4), np.float32)}, f" {UNKNOWN}"),
    "an unknown tensor of the indexer": Case("FLOAT", {"indexer.fa_q.scale": np.zeros(1, np.float32)}, f" {UNKNOWN}"),
    "a tensor of other formats beside a weight": Case("FLOAT", {"q_b_proj.scale": np.zeros(1, np.float32)}, UNKNOWN),
    "a key's rotation under another name": Case(
        "FLOAT", {"indexer.k_rot.weight": np.eye(128, dtype=BF16)}, f" {UNKNOWN}"
    ),
}


@pytest.fixture
def largest(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each read of a tensor."""
    sizes = [0]
    read = Checkpoint.read

    def spy(self: Checkpoint, *args: Any) -> Any:
        array = read(self, *args)
        sizes.append(array.nbytes)
        return array

    monkeypatch.setattr(Checkpoint, "read", spy)
    return sizes


def functions_of(case: Case) -> list[Callable[..., Any]]:
    """What reads the first tensor that is changed. Of kv_b_proj values are changed, which load_mla does not read."""
    module = case.tensor.partition(".")[0]
    if module == "indexer":
        parts = [weights.load_indexer]
    elif module == "o_proj":
        parts = [weights.load_epilog]
    elif module == "kv_b_proj":
        parts = [weights.load_mla, weights.load_epilog] if case.early else [weights.load_epilog]
    else:
        parts = [weights.load_mla]
    return [*parts, weights.load_layer]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_refusal(name: str, tmp_path: Path, largest: list[int]) -> None:
    """By what reads a part of the layer, and by what reads all of it."""
    case = CASES[name]
    path = case.write(tmp_path)
    for function in functions_of(case):
        with pytest.raises(case.error) as raised:
            function(path, prefix=PREFIX)
        text = str(raised.value.args[0])
        print(f"\n{function.__name__}: {type(raised.value).__name__}: {text}")
        assert case.text in text
        assert str(path) in text
        assert f"{PREFIX}{case.tensor}" in text
        assert "\n" not in text
        if case.early:
            assert max(largest) < SMALL


def test_rows_behind_the_first_ones_are_named_by_their_number(tmp_path: Path) -> None:
    """Of a matrix that is read in parts of 1024 rows."""
    weight = np.zeros((1536, 7168), BF16)
    weight[1500, 3] = np.nan
    path = Case("FLOAT", {"q_a_proj.weight": weight}, "").write(tmp_path)
    with pytest.raises(ValueError, match=r"q_a_proj\.weight\[1500, 3\] is nan"):
        weights.load_mla(path, prefix=PREFIX)


@pytest.mark.parametrize("kind", ["FLOAT", "FP8", "W8A8_DYNAMIC", "W8A8", "W8A8_MIX"])
def test_the_layers_that_refusals_are_tried_on_are_loaded(kind: str, tmp_path: Path) -> None:
    """Or each of the refusals might have another reason."""
    path = checkpoints.write(tmp_path / "model.safetensors", checkpoints.renamed(checkpoints.hollow(1, kind)))
    loaded = load(path)
    weights.check(loaded, [*weights.MLA_WEIGHTS, *weights.INDEXER_WEIGHTS, *weights.EPILOG_WEIGHTS], 1)
    if kind != "FLOAT":
        for scale in ("w_qb_scale", "w_o_scale"):
            assert (loaded[scale] == 0.5).all() == (kind != "FP8")  # 1 / 2, or as it is


HARMLESS: dict[str, tuple[str, dict[str, Any]]] = {
    "alphas of one": ("FLOAT", {"ckv_a_alpha": np.ones(1, np.float32), "indexer.q_alpha": np.array(1, BF16)}),
    "weight_scale of one beside FP8": ("FP8", {"q_b_proj.weight_scale": np.ones((192, 1), np.float32)}),
    "biases of zero": (
        "W8A8",
        {f"{m}.bias": np.zeros(n, BF16) for m, n in (("q_a_layernorm", 1536), ("q_b_proj", 192), ("o_proj", 7168))},
    ),
    "an alpha of one of o_proj": ("FLOAT", {"o_proj.w_alpha": np.ones(1, np.float32)}),
    "weight_scale of one beside o_proj in FP8": ("FP8", {"o_proj.weight_scale": np.ones((7168, 1), np.float32)}),
    "no activations' offset of o_proj": ("W8A8", {"o_proj.input_offset": None, "o_proj.quant_bias": None}),
    "offsets of zero, of integers": ("W8A8_DYNAMIC", {"q_b_proj.weight_offset": np.zeros((192, 1), np.int8)}),
    "a table of transformers": ("FLOAT", {"rotary_emb.inv_freq": np.ones(32, np.float32)}),
    "no activations' offset": ("W8A8", {"q_b_proj.input_offset": None, "q_b_proj.quant_bias": None}),
    "deq_scale of U64": ("W8A8", {"q_b_proj.deq_scale": np.full(192, 0x3F800000, np.uint64)}),
    "dynamic scales of bfloat16 in a mixture": ("W8A8_MIX", {"q_b_proj.weight_scale": np.full((192, 1), 0.502, BF16)}),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_nothing_passes(name: str, tmp_path: Path) -> None:
    kind, change = HARMLESS[name]
    tensors = {name: t for name, t in {**checkpoints.hollow(1, kind), **change}.items() if t is not None}
    path = checkpoints.write(tmp_path / "model.safetensors", checkpoints.renamed(tensors))
    layer = Layer(Checkpoint(path), PREFIX)
    assert layer.check_mla() == 1
    layer.check_indexer()
    layer.check_epilog()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"o_proj.weight": None}, KeyError, f"no tensor '{PREFIX}o_proj.weight' in "),
        ({"o_proj.weight_offset": np.ones(7168, np.float32)}, ValueError, f" {LEFT} BF16"),
        ({"o_proj.more": np.ones(1, np.float32)}, ValueError, f" {UNKNOWN}"),
        ({"o_proj.weight": Zeros("F8_E8M0", (3,))}, TypeError, "o_proj.weight must be "),
    ],
    ids=["none", "left over", "unknown", "of another type"],
)
def test_o_proj_concerns_the_epilog_alone(
    tmp_path: Path, largest: list[int], change: dict[str, Any], error: type[Exception], text: str
) -> None:
    """What a checkpoint of a prolog alone lacks, or has in any format, keeps nobody from the others."""
    tensors = {name: t for name, t in {**checkpoints.hollow(1), **change}.items() if t is not None}
    path = checkpoints.write(tmp_path / "model.safetensors", checkpoints.renamed(tensors))
    for function in (weights.load_epilog, weights.load_layer):
        with pytest.raises(error) as raised:
            function(path, layer=0)
        assert text in str(raised.value.args[0])
        assert str(path) in str(raised.value.args[0])
    assert max(largest) < SMALL
    assert sorted(weights.load_prologs(path, layer=0)) == sorted([*weights.MLA_WEIGHTS, *weights.INDEXER_WEIGHTS])
    assert tuple(weights.load_mla(path, layer=0)) == weights.MLA_WEIGHTS


UNKNOWN_TENSORS = ("q_c_proj.weight", "indexer.fa_q.scale", "o_proj.scale")


@pytest.mark.parametrize("function", [weights.load_mla, weights.load_indexer, weights.load_epilog, weights.load_layer])
def test_unknown_tensors_are_passed_over_if_one_says_so(function: Callable[..., Any], tmp_path: Path) -> None:
    unknown = {name: np.zeros(1, np.float32) for name in UNKNOWN_TENSORS}
    tensors = checkpoints.renamed({**checkpoints.hollow(1), **unknown})
    path = checkpoints.write(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ValueError, match="is not known here"):
        function(path, prefix=PREFIX)
    known = checkpoints.write(tmp_path / "known.safetensors", checkpoints.renamed(checkpoints.hollow(1)))
    want = function(known, prefix=PREFIX)
    for name, array in function(path, prefix=PREFIX, allow_unknown=True).items():
        tolerance.assert_same_bits(name, array, want[name])


def test_allow_unknown_allows_nothing_else(tmp_path: Path) -> None:
    for name in (
        "bias of q_a_proj",
        "bias of o_proj",
        "an alpha of o_proj",
        "ckv_a_alpha",
        "weight_scale beside floats",
        "bias of q_a_layernorm",
    ):
        path = CASES[name].write(tmp_path)
        with pytest.raises(ValueError, match=re.escape(CASES[name].text)):
            load(path, allow_unknown=True)


# Anything at all ------------------------------------------------------------------------------------------------------

SUFFIXES = ["weight", "bias", "weight_scale", "weight_scale_inv", "weight_offset"]
SUFFIXES += ["input_scale", "input_offset", "deq_scale", "quant_bias"]
NAMES = [f"{module}.{suffix}" for module in checkpoints.shapes(1) for suffix in SUFFIXES]
NAMES += ["ckv_a_alpha", "indexer.hadamard_matrix", "indexer.q_rot", "indexer.k_rot", "indexer.q_alpha"]
DTYPES = [np.float32, np.float16, BF16, np.float64, checkpoints.FP8, np.int8, np.int32, np.int64, np.uint8, np.bool_]
VALUES = [0, 1, -1, 0.5, 2, 1e30, -1e30, 1e-30, np.nan, np.inf, -np.inf]


@settings(deadline=None, max_examples=150)
@given(data=st.data())
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_any_change_of_a_layer_is_loaded_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Never another error, and whichever tensor is to blame stands in the text with its file."""
    kind = data.draw(st.sampled_from(["FLOAT", "FP8", "W8A8_DYNAMIC", "W8A8", "W8A8_MIX"]))
    layer = checkpoints.hollow(1, kind)
    for name in data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)):
        here = layer.pop(name, None)
        if data.draw(st.booleans()) and here is not None:
            continue
        shapes = [(), (0,), (1,), (1, 1), (1536,), (1536, 1), (128, 128)] + (
            [here.shape] * 7 if here is not None else []
        )
        shape = data.draw(st.sampled_from([s for s in shapes if np.prod(s) < 1e6] or [(1,)]))
        dtype = data.draw(st.sampled_from(DTYPES))
        with np.errstate(all="ignore"):  # NaN becomes some integer
            layer[name] = np.full(shape, data.draw(st.sampled_from(VALUES))).astype(dtype)
    path = checkpoints.write(tmp_path_factory.getbasetemp() / "any.safetensors", checkpoints.renamed(layer))
    tried = Layer(Checkpoint(path), PREFIX)
    for check in (tried.check_mla, tried.check_indexer, tried.check_epilog):
        try:
            check()
        except (KeyError, TypeError, ValueError) as error:
            text = str(error.args[0])
            assert re.search(rf"^weights: (no tensor '{re.escape(PREFIX)}|{re.escape(str(path))}: )", text), text
            assert any(f"{PREFIX}{name}" in text for name in {*NAMES, *layer}), text


# Arguments ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer of two heads in a file."""
    path = tmp_path_factory.mktemp("plain") / "model.safetensors"
    return checkpoints.write(path, checkpoints.renamed(checkpoints.hollow(2), 7))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"layer": 7, "heads": [0]}, TypeError, "weights: heads must be a range, got [0]"),
        ({"layer": 7, "heads": 1}, TypeError, "weights: heads must be a range, got 1"),
        ({"layer": 7, "heads": range(0)}, ValueError, "heads is range(0, 0), expected a part of range(0, 2)"),
        ({"layer": 7, "heads": range(1, 3)}, ValueError, "heads is range(1, 3), expected a part of range(0, 2)"),
        ({"layer": 7, "heads": range(-1, 1)}, ValueError, "heads is range(-1, 1), expected a part of range(0, 2)"),
        ({"layer": 7, "heads": range(0, 2, 2)}, ValueError, "heads is range(0, 2, 2), expected a part of"),
        ({"prefix": None}, TypeError, "weights: prefix must be a str, got None"),
        ({"prefix": 7}, TypeError, "weights: prefix must be a str, got 7"),
        ({"layer": 6}, KeyError, "weights: no layer 6 in {path}; there are 7"),
        ({"layer": -1}, KeyError, "weights: no layer -1 in {path}; there are 7"),
        ({"layer": "7"}, TypeError, "weights: layer must be an int, got '7'"),
        ({"layer": True}, TypeError, "weights: layer must be an int, got True"),
        ({"layer": 7, "prefix": "x"}, ValueError, "{function}: prefix is 'x' and layer is 7, expected one of them"),
        *(
            (
                {"prefix": prefix},
                KeyError,
                f"no attention under {prefix!r} in {{path}}; layers begin with 'model.layers.7.self_attn.'",
            )
            for prefix in ("", "model.layers.8.self_attn.", "model.", "model.layers.7.self_attn", "7")
        ),
    ],
)
def test_arguments_that_fit_nothing(
    plain: Path, largest: list[int], options: dict[str, Any], error: type[Exception], text: str
) -> None:
    for function in (weights.load_mla, weights.load_epilog, weights.load_prologs, weights.load_layer):
        with pytest.raises(error) as raised:
            function(plain, **options)
        assert text.format(path=plain, function=function.__name__) in str(raised.value.args[0])
    assert max(largest) < SMALL


def test_the_indexer_says_the_same_of_arguments(plain: Path) -> None:
    with pytest.raises(ValueError, match="load_indexer: prefix is 'x' and layer is 7, expected one of them"):
        weights.load_indexer(plain, layer=7, prefix="x")
    with pytest.raises(TypeError, match="weights: prefix must be a str, got None"):
        weights.load_indexer(plain, prefix=None)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match=r"no attention under '' in .*; layers begin with 'model.layers.7.self_attn.'"):
        weights.load_indexer(plain)


def test_a_wrong_prefix_needs_none_of_the_shards(tmp_path: Path) -> None:
    """Somebody who has two of 163 shards, and forgets the layer, is told the layers, not which shard is missing."""
    names = dict.fromkeys(checkpoints.renamed(checkpoints.hollow(1), 5), "absent.safetensors")
    checkpoints.write_index(tmp_path, names)
    with pytest.raises(KeyError, match=r"no attention under '' in .*; layers begin with 'model.layers.5.self_attn.'"):
        weights.load_mla(tmp_path)


# msModelSlim's description --------------------------------------------------------------------------------------------


def describe(directory: Path, kind: str, told: Any, name: str = "quant_model_description.json") -> Path:
    """A layer whose q_b_proj is called ``told``."""
    path = checkpoints.write(directory / "model.safetensors", checkpoints.renamed(checkpoints.hollow(1, kind)))
    (directory / name).write_text(json.dumps({"model_quant_type": "W8A8", f"{PREFIX}q_b_proj.weight": told}))
    return path


@pytest.mark.parametrize(
    ("kind", "told", "text"),
    [
        *(
            ("W8A8_DYNAMIC", told, f"q_b_proj.weight {told}; read are FLOAT, FP8, W8A8_DYNAMIC, W8A8, W8A8_MIX")
            for told in ("W4A8_DYNAMIC", "W8A8_MXFP8", "W8A16", "W8A8S", "WFP8AFP8_DYNAMIC", "")
        ),
        ("W8A8_DYNAMIC", ["W8A8"], "q_b_proj.weight ['W8A8']; read are FLOAT"),
        ("W8A8_DYNAMIC", "FLOAT", "q_b_proj.weight FLOAT, but it is I8 with the tensors of W8A8_DYNAMIC"),
        ("W8A8_DYNAMIC", "W8A8", "q_b_proj.weight W8A8, but it is I8 with the tensors of W8A8_DYNAMIC"),
        ("W8A8_DYNAMIC", "W8A8_MIX", "q_b_proj.weight W8A8_MIX, but it is I8 with the tensors of W8A8_DYNAMIC"),
        ("W8A8", "W8A8_DYNAMIC", "q_b_proj.weight W8A8_DYNAMIC, but it is I8 with the tensors of W8A8"),
        ("FLOAT", "W8A8", "q_b_proj.weight W8A8, but it is BF16 with the tensors of FLOAT"),
        ("FP8", "FLOAT", "q_b_proj.weight FLOAT, but it is F8_E4M3 with the tensors of FP8"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_a_description_of_what_is_not_there(
    tmp_path: Path, largest: list[int], kind: str, told: Any, text: str, whole: bool
) -> None:
    path = describe(tmp_path, kind, told)
    with pytest.raises(ValueError, match=re.escape(text)) as raised:
        load(tmp_path if whole else path)
    assert f"{tmp_path / 'quant_model_description.json'} calls {PREFIX}" in str(raised.value)
    assert max(largest) < SMALL


@pytest.mark.parametrize("told", ["W8A8_MIX", "W8A8_DYNAMIC", "W8A8"])
def test_a_mixture_may_be_called_by_either_of_its_kinds(tmp_path: Path, told: str) -> None:
    path = describe(tmp_path, "W8A8_MIX", told, "quant_model_description_w8a8.json")
    layer = Layer(Checkpoint(path), PREFIX)
    layer.check_mla()
    assert layer.parts["w_uq_qr"].kind == "W8A8_MIX"


def test_descriptions_that_cannot_be_read(tmp_path: Path) -> None:
    path = describe(tmp_path, "W8A8", "W8A8", "quant_model_description_a.json")
    (tmp_path / "quant_model_description_b.json").write_text("{}")
    with pytest.raises(ValueError, match=r"several descriptions: quant_model_description_a.json, quant_model_desc.*_b"):
        load(path)
    (tmp_path / "quant_model_description.json").write_text("[]")  # the plain name goes first
    with pytest.raises(ValueError, match=r"quant_model_description.json is not a JSON object"):
        load(path)
    (tmp_path / "quant_model_description.json").write_text("{")
    with pytest.raises(ValueError, match=r"quant_model_description.json is not JSON: "):
        load(path)
    (tmp_path / "quant_model_description.json").unlink()
    (tmp_path / "quant_model_description.json").mkdir()
    with pytest.raises(ValueError, match=r"quant_model_description.json is not a regular file"):
        load(path)


# Our own files --------------------------------------------------------------------------------------------------------


def own() -> dict[str, Any]:
    """A layer in our own format, of one head."""
    tensors: dict[str, Any] = {}
    for name in (*weights.MLA_WEIGHTS, *weights.INDEXER_WEIGHTS, *weights.EPILOG_WEIGHTS):
        shape = weights.shape_of(name, 1)
        dtype = "I8" if name in ("w_uq_qr", "w_qb", "w_o") else "BF16"
        tensors[name] = np.ones(shape, np.float32) if name.endswith("_scale") else Zeros(dtype, shape)
    return tensors


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"w_dq": Zeros("BF16", (7168, 1535))}, ValueError, "w_dq has shape (7168, 1535), expected (h, q_lora_rank)"),
        ({"w_dq": Zeros("F32", (7168, 1536))}, TypeError, "w_dq must be BF16, got F32"),
        ({"w_uk": Zeros("BF16", (0, 128, 512))}, ValueError, "w_uk has shape (0, 128, 512), expected (n_q, qk_nope"),
        ({"wk": None}, KeyError, "no tensor 'wk' in "),
        ({"w_o": None}, KeyError, "no tensor 'w_o' in "),
        ({"w_uv": None}, KeyError, "no tensor 'w_uv' in "),
        ({"w_uk": None}, KeyError, "no tensor 'w_uk' in "),
        ({"w_uv": Zeros("BF16", (1, 128, 512))}, ValueError, "w_uv has shape (1, 128, 512), expected (n_q, kv_lora"),
        ({"w_uv": Zeros("BF16", (2, 512, 128))}, ValueError, "w_uv has shape (2, 512, 128), expected (n_q, kv_lora"),
        ({"w_o": Zeros("I8", (256, 7168))}, ValueError, "w_o has shape (256, 7168), expected (n_q*v_head_dim, h) ="),
        ({"w_o": Zeros("BF16", (128, 7168))}, TypeError, "w_o must be I8, got BF16"),
        ({"w_o_scale": scales(7168, -1)}, ValueError, f"w_o_scale[3, 0] is -1, {POSITIVE}"),
        ({"w_o_scale": np.ones((7168,), np.float32)}, ValueError, "w_o_scale has shape (7168,), expected (h, 1)"),
        ({"w_more": np.ones(1, np.float32)}, ValueError, f"w_more {UNKNOWN}"),
        ({"dequant_scale": scales(192, np.nan)}, ValueError, f"dequant_scale[3, 0] is nan, {POSITIVE}"),
        ({"w_qb_scale": scales(8192, 0)}, ValueError, f"w_qb_scale[3, 0] is 0, {POSITIVE}"),
        ({"ln_beta_k": vector(128, np.inf, 5, BF16)}, ValueError, "ln_beta_k[5] is inf, expected a finite number"),
    ],
)
def test_our_own_files_are_checked_too(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], text: str
) -> None:
    tensors = {name: tensor for name, tensor in {**own(), **change}.items() if tensor is not None}
    path = checkpoints.write(tmp_path / "layer.safetensors", tensors)
    with pytest.raises(error) as raised:
        load(path, prefix="")
    assert text in str(raised.value.args[0])
    assert str(path) in str(raised.value.args[0])
