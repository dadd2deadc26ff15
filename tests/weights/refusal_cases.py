"""Changes of a layer in a checkpoint that have to be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
from checkpoints import BF16, Zeros


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
