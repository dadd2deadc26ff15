"""ModelConfig: what is read from a model's files, and that every other model is refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from model_configs import DEEPSEEK, DIMENSIONS, HF, NO_YARN, YARN

from ms_dsv32 import config, golden
from ms_dsv32.config import ModelConfig


def without(keys: dict[str, Any], *names: str, **more: Any) -> dict[str, Any]:
    return {**{k: v for k, v in keys.items() if k not in names}, **more}


def yarn(**more: Any) -> dict[str, Any]:
    return {**HF, "rope_scaling": {k: v for k, v in {**YARN, **more}.items() if v is not ...}}


def test_defaults_are_the_models() -> None:
    assert ModelConfig.from_dict(HF) == ModelConfig()
    made = ModelConfig()
    assert (made.n_q, made.selected_count, made.num_hidden_layers) == (128, 2048, 61)
    assert made.epsilon_cq == made.epsilon_ckv == made.layernorm_epsilon_k == config.RMS_NORM_EPS == 1e-6
    assert (made.rope_theta, made.rope_factor, made.original_seq_len, made.max_position_embeddings) == (
        10000.0,
        40.0,
        4096,
        163840,
    )
    assert made.yarn
    assert made.softmax_scale == config.SOFTMAX_SCALE
    assert made.softmax_scale == pytest.approx(192**-0.5 * (0.1 * math.log(40) + 1) ** 2, rel=1e-15)
    assert made.softmax_scale == pytest.approx(golden.softmax_scale(yarn=True), rel=1e-15)
    hash(made)


def test_every_value_is_read() -> None:
    other = without(
        HF,
        num_attention_heads=64,
        rms_norm_eps=1e-4,
        index_topk=1024,
        num_hidden_layers=3,
        max_position_embeddings=65536,
        rope_theta=5e5,
    )
    scaling = without(YARN, "type", rope_type="yarn", factor=16, beta_fast=16, beta_slow=2)
    other["rope_scaling"] = {**scaling, "original_max_position_embeddings": 8192, "mscale": 0.5, "mscale_all_dim": 0.5}
    made = ModelConfig.from_dict(other)
    assert made == ModelConfig(
        n_q=64,
        epsilon_cq=1e-4,
        epsilon_ckv=1e-4,
        selected_count=1024,
        rope_theta=5e5,
        rope_factor=16.0,
        original_seq_len=8192,
        beta_fast=16.0,
        beta_slow=2.0,
        mscale=0.5,
        num_hidden_layers=3,
        max_position_embeddings=65536,
    )
    assert made.softmax_scale == pytest.approx(192**-0.5 * (0.05 * math.log(16) + 1) ** 2, rel=1e-15)


def test_the_smallest_values_are_taken() -> None:
    made = ModelConfig.from_dict({**yarn(factor=1, mscale=0, mscale_all_dim=0), "rms_norm_eps": 0})
    assert (made.epsilon_cq, made.epsilon_ckv, made.rope_factor, made.mscale) == (0.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    "keys",
    [
        {**HF, "rope_scaling": None},
        {**HF, "rope_scaling": {"type": "default"}},
        without(HF, "rope_scaling", rope_parameters=None),
        without(HF, "rope_scaling", "rope_theta", rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        without(HF, "rope_scaling", "rope_theta", rope_parameters={"rope_theta": 10000.0}),
        {**DEEPSEEK, "max_seq_len": 4096},
    ],
    ids=["no scaling", "default scaling", "no parameters", "default parameters", "theta alone", "DeepSeek's own"],
)
def test_no_yarn(keys: dict[str, Any]) -> None:
    made = ModelConfig.from_dict(keys)
    context = made.max_position_embeddings
    assert made == dataclasses.replace(ModelConfig(**NO_YARN), max_position_embeddings=context)
    assert not made.yarn
    assert made.softmax_scale == pytest.approx(192**-0.5, rel=1e-15)


def test_transformers_5() -> None:
    parameters = without(YARN, "type", rope_type="yarn", rope_theta=10000.0, attention_factor=None)
    assert ModelConfig.from_dict(without(HF, "rope_scaling", "rope_theta", rope_parameters=parameters)) == ModelConfig()
    assert ModelConfig.from_dict(without(HF, "rope_scaling", rope_parameters=parameters)) == ModelConfig()
    assert ModelConfig.from_dict({**HF, "rope_scaling": None, "rope_parameters": parameters}) == ModelConfig()


def test_deepseeks_own_file() -> None:
    """It has no epsilon, no RoPE and no context: those are the defaults of inference/model.py."""
    made = ModelConfig.from_dict(DEEPSEEK)
    assert made == ModelConfig(max_position_embeddings=16384)
    assert ModelConfig.from_dict({**DEEPSEEK, "max_seq_len": 163840}) == ModelConfig()
    assert ModelConfig.from_dict({**DEEPSEEK, "max_seq_len": 4097}).yarn
    other = {"original_seq_len": 8192, "rope_theta": 1e6, "rope_factor": 8, "beta_fast": 16, "beta_slow": 2}
    want = ModelConfig(rope_theta=1e6, rope_factor=8, original_seq_len=8192, beta_fast=16, beta_slow=2)
    made = ModelConfig.from_dict({**DEEPSEEK, **other, "n_heads": 32, "n_layers": 2, "index_topk": 64, "mscale": 0.7})
    assert made == dataclasses.replace(
        want, n_q=32, num_hidden_layers=2, selected_count=64, mscale=0.7, max_position_embeddings=16384
    )
    # DeepSeek-V3's file has no indexer, and is no file of this model, whatever the defaults.
    with pytest.raises(ValueError, match="index_n_heads is missing, expected 64"):
        ModelConfig.from_dict(without(DEEPSEEK, "index_n_heads", "index_head_dim", "index_topk"))


def test_a_file_or_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**HF, "_name_or_path": "模型"}, ensure_ascii=False), encoding="utf-8")
    assert ModelConfig.from_json(path) == ModelConfig.from_json(str(tmp_path)) == ModelConfig()


@pytest.mark.parametrize(
    ("keys", "error", "text"),
    [
        ({**HF, "hidden_size": 5120}, ValueError, "hidden_size must be 7168, got 5120"),
        ({**HF, "hidden_size": 7168.0}, TypeError, "hidden_size must be 7168, got 7168.0"),
        ({**HF, "hidden_size": "7168"}, TypeError, "hidden_size must be 7168, got '7168'"),
        ({**HF, "hidden_size": None}, TypeError, "hidden_size must be 7168, got None"),
        *(
            ({**HF, key: value + 1}, ValueError, f"{key} must be {value}, got {value + 1}")
            for key, value in DIMENSIONS.items()
            if key != "index_topk"
        ),
        *((without(HF, key), ValueError, f"{key} is missing, expected {DIMENSIONS[key]}") for key in ("v_head_dim",)),
        (without(HF, "index_topk"), ValueError, "index_topk is missing, expected an int from 1 to 2048"),
        ({**HF, "index_topk": 4096}, ValueError, "index_topk must be an int from 1 to 2048, got 4096"),
        ({**HF, "num_attention_heads": 0}, ValueError, "num_attention_heads must be an int from 1 to 128, got 0"),
        ({**HF, "num_attention_heads": True}, TypeError, "num_attention_heads must be an int from 1 to 128, got True"),
        ({**HF, "num_hidden_layers": 0}, ValueError, "num_hidden_layers must be a positive int, got 0"),
        ({**HF, "max_position_embeddings": 1e5}, TypeError, "max_position_embeddings must be a positive int, got 1"),
        (without(HF, "rms_norm_eps"), ValueError, "rms_norm_eps is missing, expected a finite number >= 0"),
        ({**HF, "rms_norm_eps": "1e-6"}, TypeError, "rms_norm_eps must be a finite number >= 0, got '1e-6'"),
        ({**HF, "rms_norm_eps": math.nan}, ValueError, "rms_norm_eps must be a finite number >= 0, got nan"),
        ({**HF, "rms_norm_eps": -1e-6}, ValueError, "rms_norm_eps must be a finite number >= 0, got -1e-06"),
        ({**HF, "rms_norm_eps": False}, TypeError, "rms_norm_eps must be a finite number >= 0, got False"),
        ({**HF, "rope_theta": math.inf}, ValueError, "rope_theta must be a finite number > 1, got inf"),
        ({**HF, "rope_theta": 10**400}, ValueError, "rope_theta must be a finite number > 1, got 1000"),
        (without(HF, "rope_theta"), ValueError, "rope_theta is missing"),
        (without(HF, "rope_scaling"), ValueError, "rope_scaling is missing, expected an object, or null for no YaRN"),
        ({**HF, "rope_scaling": "yarn"}, TypeError, "rope_scaling must be an object or null, got 'yarn'"),
        ({**HF, "rope_scaling": []}, TypeError, r"rope_scaling must be an object or null, got \[\]"),
        ({**HF, "rope_parameters": YARN}, ValueError, "rope_scaling and rope_parameters are both there"),
        (yarn(type="linear"), ValueError, "rope_scaling.type must be 'yarn' or 'default' .no YaRN., got 'linear'"),
        (yarn(type=["yarn"]), ValueError, "rope_scaling.type must be 'yarn' or 'default'"),
        (yarn(rope_type="default"), ValueError, "rope_scaling.type must be 'yarn' or 'default' .* got 'yarn'"),
        (yarn(type=...), ValueError, "rope_scaling.type is missing"),
        (yarn(factor=...), ValueError, "rope_scaling.factor is missing, expected a finite number >= 1"),
        (yarn(factor=0.5), ValueError, "rope_scaling.factor must be a finite number >= 1, got 0.5"),
        (yarn(beta_fast=0), ValueError, "rope_scaling.beta_fast must be a finite number > 0, got 0"),
        (yarn(beta_slow=32), ValueError, "rope_scaling.beta_fast must be above beta_slow = 32, got 32"),
        (yarn(mscale_all_dim=...), ValueError, "rope_scaling.mscale_all_dim is missing"),
        (yarn(mscale=0.5), ValueError, "rope_scaling.mscale must be mscale_all_dim = 1, got 0.5"),
        (yarn(rope_theta=5000), ValueError, "rope_scaling.rope_theta must be rope_theta = 10000, got 5000"),
        (yarn(attention_factor=2.0), ValueError, "rope_scaling.attention_factor must be 1.0 or absent, got 2.0"),
        (yarn(attention_factor=True), ValueError, "rope_scaling.attention_factor must be 1.0 or absent, got True"),
        (yarn(truncate=1), ValueError, "rope_scaling.truncate must be True or absent, got 1"),
        (yarn(truncate=False), ValueError, "rope_scaling.truncate must be True or absent, got False"),
        (
            yarn(original_max_position_embeddings=4096.0),
            TypeError,
            "rope_scaling.original_max_position_embeddings must be a positive int, got 4096.0",
        ),
        ({**HF, "attention_bias": True}, ValueError, "attention_bias must be False or absent, got True"),
        ({**HF, "rope_interleave": False}, ValueError, "rope_interleave must be True or absent, got False"),
        ({**HF, "rope_scaling": {}}, ValueError, "rope_scaling.type is missing, expected 'yarn' or 'default'"),
        ({**DEEPSEEK, "beta_fast": 1}, ValueError, "beta_fast must be above beta_slow = 1, got 1"),
        (
            {**DEEPSEEK, "max_seq_len": 1, "rope_factor": 0},
            ValueError,
            "rope_factor must be a finite number >= 1, got 0",
        ),
        (without(DEEPSEEK, "kv_lora_rank"), ValueError, "kv_lora_rank is missing, expected 512"),
        ({**DEEPSEEK, "dim": 2048}, ValueError, "dim must be 7168, got 2048"),
        ({**DEEPSEEK, "n_heads": 129}, ValueError, "n_heads must be an int from 1 to 128, got 129"),
        ({**DEEPSEEK, "max_seq_len": "16k"}, TypeError, "max_seq_len must be a positive int, got '16k'"),
        (without(DEEPSEEK, "n_layers"), ValueError, "n_layers is missing, expected a positive int"),
        ({**DEEPSEEK, **HF}, ValueError, r"has both hidden_size \(config.json\) and dim"),
        (
            {"model_type": "gpt2"},
            ValueError,
            r"has neither hidden_size \(config.json\) nor dim \(inference/config_671B",
        ),
    ],
)
def test_another_model_is_refused_by_name(
    keys: dict[str, Any], error: type[Exception], text: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=f"ModelConfig: {text}"):
        ModelConfig.from_dict(keys)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(keys), encoding="utf-8")
    if "rope_theta" in keys and keys["rope_theta"] == 10**400:
        return  # the same through a file, whose reader has a limit of its own on digits in newer Pythons
    with pytest.raises(error, match=f"^{path}: {text}"):
        ModelConfig.from_json(path)


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (b"", ValueError, "not a JSON file"),
        (b"{'a': 1}", ValueError, "not a JSON file"),
        (b"\xff\xfe{}", ValueError, "not a JSON file"),
        (b"[" * 100000, ValueError, "not a JSON file"),
        (b'{"dim": 7168, "dim": 7168}', ValueError, "not a JSON file of unique keys: dim is there twice"),
        (b"[1]", TypeError, "must be a JSON object, got list"),
        (b"null", TypeError, "must be a JSON object, got NoneType"),
    ],
)
def test_a_file_that_is_no_configuration(content: bytes, error: type[Exception], text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(error, match=f"model.json: {text}"):
        ModelConfig.from_json(path)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: not a regular file"):
        ModelConfig.from_json(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        ModelConfig.from_json(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        ModelConfig.from_json(tmp_path / "none.json")
    with pytest.raises(TypeError, match="ModelConfig: must be a JSON object, got list"):
        ModelConfig.from_dict([])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"n_q": 129}, ValueError, "n_q must be an int from 1 to 128, got 129"),
        ({"selected_count": True}, TypeError, "selected_count must be an int from 1 to 2048, got True"),
        ({"epsilon_ckv": math.nan}, ValueError, "epsilon_ckv must be a finite number >= 0, got nan"),
        ({"rope_factor": 0}, ValueError, "rope_factor must be a finite number >= 1, got 0"),
        ({"beta_slow": "1"}, TypeError, "beta_slow must be a finite number > 0, got '1'"),
        ({"mscale": -0.5}, ValueError, "mscale must be a finite number >= 0, got -0.5"),
        ({"original_seq_len": 0}, ValueError, "original_seq_len must be a positive int, got 0"),
    ],
)
def test_fields_are_checked(fields: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"ModelConfig: {text}"):
        ModelConfig(**fields)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().n_q = 1  # type: ignore[misc]
