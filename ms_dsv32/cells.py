"""Layers: the operators as ``nn.Cell`` with their weights, and one step of sparse attention made of them.

Weights are Parameters under the contract's names, laid out for the device target when they are set. ``save`` writes
them row-major, for any target; a MindSpore checkpoint holds them as they are laid out, for the same target only.

Caches belong to the caller and are inputs, Tensors in the device's memory (``mindspore.ops.zeros``) or Parameters; they
are updated in place and never returned (MindSpore would copy what the outermost cell of a graph returns). All operators
of a graph run in program order, so a later layer sees what an earlier one wrote. Inside a branch or loop whose
condition is known only at run time caches must be Parameters.

``from_config`` makes a cell with the epsilons, softmax scale, heads and selected keys of a model's ``config.json``;
their defaults are DeepSeek-V3.2-Exp's. Tile configurations are copied when a cell is made.

Every call of a cell from Python checks that its weights are laid out for the device target and that a graph can write
its caches; what is wrong is a ValueError before anything runs.

A layer is `SparseAttentionStep`, whose prolog absorbs ``kv_b_proj``'s key half, and then `MLAEpilog` with the value
half and ``o_proj``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from numpy.typing import NDArray

from ms_dsv32 import op_info, ops, weights
from ms_dsv32.config import (
    BLOCK_SIZE,
    IDX_HEAD_DIM,
    K_SCALE_GROUPS,
    KV_LORA_RANK,
    LAYERNORM_EPSILON_K,
    N_Q,
    RMS_NORM_EPS,
    ROPE_DIM,
    SELECTED_COUNT,
    SOFTMAX_SCALE,
    Configuration,
    H,
    IndexerPrologQuantAttr,
    IndexerPrologQuantConfigs,
    MlaTileConfig,
    ModelConfig,
    RopeTileShapeConfig,
    SaTileShapeConfig,
)
from ms_dsv32.ops._custom import CacheCheck, device_target

Array = NDArray[Any]
_Cell = TypeVar("_Cell", bound="_Configured")


def _copy(config: Any) -> Any:
    """A copy of a configuration that the caller cannot change; what is none, the operator refuses."""
    return config.frozen() if isinstance(config, Configuration) else config


class _Configured(nn.Cell):  # type: ignore[misc]
    """A cell that can be made from a model's configuration."""

    _model_arguments: ClassVar[tuple[str, ...]]
    """The arguments that a model's configuration gives."""

    @classmethod
    def from_config(cls: type[_Cell], config: ModelConfig, **arguments: Any) -> _Cell:
        """Makes the cell for a model: epsilons, softmax scale, heads and selected keys are those of `config`.

        Args:
            config: the model's, see `ModelConfig.from_json`.
            arguments: the cell's other arguments, by name. One that `config` gives may be among them and then counts,
                as ``n_q`` on a tensor-parallel rank, which holds a part of the heads.

        Raises:
            TypeError: `config` is no `ModelConfig`, or an argument is missing or unknown.
        """
        if not isinstance(config, ModelConfig):
            raise TypeError(f"{cls.__name__}: config must be a ModelConfig, got {type(config).__name__}")
        fields = {"topk": "selected_count"}
        given = {name: getattr(config, fields.get(name, name)) for name in cls._model_arguments}
        return cls(**{**given, **arguments})


class _Checked(_Configured):
    """A cell that checks its weights and caches at each call from Python.

    MindSpore lets an operator check them only when it compiles a graph, and `set_inputs` hides them even then. A cell
    inside another one's graph, or under ``mindspore.jit``, is not called: MindSpore compiles its `construct`.

    Args:
        operator: that writes the caches.
    """

    def __init__(self, operator: str) -> None:
        super().__init__()
        self._operator = operator
        self._require_caches = CacheCheck(operator, list(inspect.signature(self.construct).parameters))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        target = device_target()
        self._require_layout(target)
        self._require_caches(target, args, kwargs)
        return super().__call__(*args, **kwargs)

    def _require_layout(self, target: str) -> None:
        """Raises ValueError if a weight is not laid out for the device target."""
        for cell in self._cells.values():
            if isinstance(cell, _Checked):
                cell._require_layout(target)


class _Weighted(_Checked):
    """A cell that owns the weights of one operator: Parameters, zero until they are set."""

    def __init__(self, operator: str, names: tuple[str, ...], n_q: int) -> None:
        super().__init__(operator)
        self._names = names
        self._n_q = n_q
        self._target = ms.get_context("device_target")
        for arg in op_info.load(operator).inputs:
            if arg.name in names:
                zeros = np.zeros(weights.shape_of(arg.name, n_q), arg.np_dtype)
                self.insert_param_to_cell(
                    arg.name, Parameter(weights.to_tensor(zeros), name=arg.name, requires_grad=False)
                )

    def set_weights(self, arrays: Mapping[str, Array]) -> None:
        """Sets all weights, laid out for the device target (`weights.prepare`).

        Args:
            arrays: the weights under the contract's names, row-major, bfloat16 as bits in uint16. They are copied.

        Raises:
            TypeError, ValueError: a weight is missing or unknown, or its dtype or shape is wrong; nothing is set then.
        """
        weights.check(arrays, self._names, self._n_q)
        self._target = ms.get_context("device_target")
        for name in self._names:
            array = weights.prepare(name, arrays[name], self._target)
            if array is arrays[name]:
                array = array.copy()  # the Parameter would live on the caller's memory
            getattr(self, name).set_data(weights.to_tensor(array))

    def get_weights(self) -> dict[str, Array]:
        """The weights as `set_weights` takes them; copies."""
        arrays = {name: weights.to_array(getattr(self, name)) for name in self._names}
        return {name: weights.restore(name, array, self._target) for name, array in arrays.items()}

    def save(self, path: str | Path) -> None:
        """Writes the weights to a safetensors file, row-major, under the contract's names."""
        weights.save(path, self.get_weights())

    def _require_layout(self, target: str) -> None:
        if self._target != target:
            name = op_info.load(self._operator).packable[0]
            text = f"is laid out for {self._target}, and the device target is {target} now"
            hint = "make the cell, or set its weights, after mindspore.set_device"
            raise ValueError(f"{self._operator}: {name} {text}: {hint}")


class MLAProlog(_Weighted):
    """`ops.mla_prolog_quant` with its weights.

    Args:
        n_q: query heads, 1..128.
        epsilon_cq, epsilon_ckv: the operator's attributes; the default is the model's.
        tile_config, rope_cfg: the operator's attributes, copied.

    Inputs:
        token_x, cos, sin, cache_index, kv_cache, kr_cache, k_scale_cache: as of the operator. The caches are updated in
        place.

    Outputs:
        q_norm int8 [t, 1536], q_norm_scale fp32 [t, 1], q_nope bf16 [t, n_q, 512], q_rope bf16 [t, n_q, 64].
    """

    _model_arguments = ("n_q", "epsilon_cq", "epsilon_ckv")

    def __init__(
        self,
        n_q: int = N_Q,
        *,
        epsilon_cq: float = RMS_NORM_EPS,
        epsilon_ckv: float = RMS_NORM_EPS,
        tile_config: MlaTileConfig | None = None,
        rope_cfg: RopeTileShapeConfig | None = None,
    ) -> None:
        super().__init__("mla_prolog_quant", weights.MLA_WEIGHTS, n_q)
        self.epsilon_cq = epsilon_cq
        self.epsilon_ckv = epsilon_ckv
        self.tile_config = _copy(tile_config)
        self.rope_cfg = _copy(rope_cfg)

    def load(
        self,
        paths: weights.Paths | weights.Checkpoint,
        *,
        prefix: str = "",
        layer: int | None = None,
        heads: range | None = None,
        allow_unknown: bool = False,
    ) -> None:
        """Reads the weights from a checkpoint; arguments and errors as `weights.load_mla`."""
        self.set_weights(weights.load_mla(paths, prefix=prefix, layer=layer, heads=heads, allow_unknown=allow_unknown))

    def construct(
        self,
        token_x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache_index: Tensor,
        kv_cache: Tensor,
        kr_cache: Tensor,
        k_scale_cache: Tensor,
    ) -> tuple[Tensor, ...]:
        q_norm, q_norm_scale, q_nope, q_rope, _, _, _ = ops.mla_prolog_quant(
            token_x,
            self.w_dq,
            self.w_uq_qr,
            self.dequant_scale,
            self.w_uk,
            self.w_dkv_kr,
            self.gamma_cq,
            self.gamma_ckv,
            cos,
            sin,
            cache_index,
            kv_cache,
            kr_cache,
            k_scale_cache,
            epsilon_cq=self.epsilon_cq,
            epsilon_ckv=self.epsilon_ckv,
            tile_config=self.tile_config,
            rope_cfg=self.rope_cfg,
            weight_format="PACKED",
        )
        return q_norm, q_norm_scale, q_nope, q_rope


class LightningIndexerProlog(_Weighted):
    """`ops.lightning_indexer_prolog_quant` with its weights.

    Args:
        layernorm_epsilon_k: the operator's attribute.
        configs: the operator's attribute, copied.

    Inputs:
        x, q_norm, q_norm_scale, cos_idx_rope, sin_idx_rope, k_cache, k_cache_scale, k_cache_index: as of the operator.
        The caches are updated in place.

    Outputs:
        q_int8 int8 [t, 64, 128], q_scale fp16 [t, 64, 1], weights fp16 [t, 64].
    """

    _model_arguments = ("layernorm_epsilon_k",)

    def __init__(
        self, *, layernorm_epsilon_k: float = LAYERNORM_EPSILON_K, configs: IndexerPrologQuantConfigs | None = None
    ) -> None:
        super().__init__("lightning_indexer_prolog_quant", weights.INDEXER_WEIGHTS, N_Q)
        self.layernorm_epsilon_k = layernorm_epsilon_k
        self.configs = _copy(configs)

    def load(
        self,
        paths: weights.Paths | weights.Checkpoint,
        *,
        prefix: str = "",
        layer: int | None = None,
        allow_unknown: bool = False,
    ) -> None:
        """Reads the weights from a checkpoint; arguments and errors as `weights.load_indexer`."""
        self.set_weights(weights.load_indexer(paths, prefix=prefix, layer=layer, allow_unknown=allow_unknown))

    def construct(
        self,
        x: Tensor,
        q_norm: Tensor,
        q_norm_scale: Tensor,
        cos_idx_rope: Tensor,
        sin_idx_rope: Tensor,
        k_cache: Tensor,
        k_cache_scale: Tensor,
        k_cache_index: Tensor,
    ) -> tuple[Tensor, ...]:
        q_int8, q_scale, _, _, head_weights = ops.lightning_indexer_prolog_quant(
            x,
            q_norm,
            q_norm_scale,
            self.w_qb,
            self.w_qb_scale,
            self.wk,
            self.w_proj,
            self.ln_gamma_k,
            self.ln_beta_k,
            cos_idx_rope,
            sin_idx_rope,
            self.hadamard_q,
            self.hadamard_k,
            k_cache,
            k_cache_scale,
            k_cache_index,
            layernorm_epsilon_k=self.layernorm_epsilon_k,
            configs=self.configs,
            weight_format="PACKED",
        )
        return q_int8, q_scale, head_weights


class MLAIndexerProlog(_Checked):
    """`ops.mla_indexer_prolog_quant` with its weights, those of the cells ``mla`` and ``indexer``.

    Args:
        n_q: query heads, 1..128.
        epsilon_cq, epsilon_ckv, tile_config, rope_cfg: attributes of the MLA half, as of `MLAProlog`.
        layernorm_epsilon_k, configs: attributes of the indexer's half, as of `LightningIndexerProlog`.

    Inputs:
        token_x, cos, sin, cache_index, kv_cache, kr_cache, k_scale_cache, k_cache, k_cache_scale: as of the operator.
        The caches are updated in place.

    Outputs:
        q_nope bf16 [t, n_q, 512], q_rope bf16 [t, n_q, 64], q_int8 int8 [t, 64, 128], q_scale fp16 [t, 64, 1],
        weights fp16 [t, 64].
    """

    _model_arguments = ("n_q", "epsilon_cq", "epsilon_ckv", "layernorm_epsilon_k")

    def __init__(
        self,
        n_q: int = N_Q,
        *,
        epsilon_cq: float = RMS_NORM_EPS,
        epsilon_ckv: float = RMS_NORM_EPS,
        tile_config: MlaTileConfig | None = None,
        rope_cfg: RopeTileShapeConfig | None = None,
        layernorm_epsilon_k: float = LAYERNORM_EPSILON_K,
        configs: IndexerPrologQuantConfigs | None = None,
    ) -> None:
        super().__init__("mla_indexer_prolog_quant")
        self.mla = MLAProlog(
            n_q, epsilon_cq=epsilon_cq, epsilon_ckv=epsilon_ckv, tile_config=tile_config, rope_cfg=rope_cfg
        )
        self.indexer = LightningIndexerProlog(layernorm_epsilon_k=layernorm_epsilon_k, configs=configs)
        self.ip_attrs = IndexerPrologQuantAttr(layernorm_epsilon_k=layernorm_epsilon_k).frozen()

    def set_weights(self, arrays: Mapping[str, Array]) -> None:
        """Sets all weights, laid out for the device target; see `MLAProlog.set_weights`."""
        indexer = {name: arrays[name] for name in weights.INDEXER_WEIGHTS if name in arrays}
        mla = {name: array for name, array in arrays.items() if name not in indexer}
        weights.check(indexer, weights.INDEXER_WEIGHTS)  # before anything is set
        self.mla.set_weights(mla)
        self.indexer.set_weights(indexer)

    def get_weights(self) -> dict[str, Array]:
        """The weights as `set_weights` takes them; copies."""
        return {**self.mla.get_weights(), **self.indexer.get_weights()}

    def save(self, path: str | Path) -> None:
        """Writes the weights to a safetensors file, row-major, under the contract's names."""
        weights.save(path, self.get_weights())

    def load(
        self,
        paths: weights.Paths | weights.Checkpoint,
        *,
        prefix: str = "",
        layer: int | None = None,
        heads: range | None = None,
        allow_unknown: bool = False,
    ) -> None:
        """Reads the weights from a checkpoint; arguments and errors as `weights.load_mla`."""
        checkpoint = paths if isinstance(paths, weights.Checkpoint) else weights.Checkpoint(paths)
        # The indexer's weights are few: what is wrong with them is told before the large ones are read.
        indexer = weights.load_indexer(checkpoint, prefix=prefix, layer=layer, allow_unknown=allow_unknown)
        mla = weights.load_mla(checkpoint, prefix=prefix, layer=layer, heads=heads, allow_unknown=allow_unknown)
        self.set_weights({**mla, **indexer})

    def construct(
        self,
        token_x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache_index: Tensor,
        kv_cache: Tensor,
        kr_cache: Tensor,
        k_scale_cache: Tensor,
        k_cache: Tensor,
        k_cache_scale: Tensor,
    ) -> tuple[Tensor, ...]:
        q_nope, q_rope, _, _, _, q_int8, q_scale, _, _, head_weights = ops.mla_indexer_prolog_quant(
            token_x,
            self.mla.w_dq,
            self.mla.w_uq_qr,
            self.mla.dequant_scale,
            self.mla.w_uk,
            self.mla.w_dkv_kr,
            self.mla.gamma_cq,
            self.mla.gamma_ckv,
            cos,
            sin,
            cache_index,
            kv_cache,
            kr_cache,
            k_scale_cache,
            self.indexer.w_qb,
            self.indexer.w_qb_scale,
            self.indexer.wk,
            self.indexer.w_proj,
            self.indexer.ln_gamma_k,
            self.indexer.ln_beta_k,
            self.indexer.hadamard_q,
            self.indexer.hadamard_k,
            k_cache,
            k_cache_scale,
            mla_epsilon_cq=self.mla.epsilon_cq,
            mla_epsilon_ckv=self.mla.epsilon_ckv,
            mla_tile_config=self.mla.tile_config,
            ip_attrs=self.ip_attrs,
            ip_configs=self.indexer.configs,
            rope_cfg=self.mla.rope_cfg,
            weight_format="PACKED",
        )
        return q_nope, q_rope, q_int8, q_scale, head_weights


class LightningIndexer(_Configured):
    """`ops.lightning_indexer_quant`.

    Args:
        selected_count: keys to select for each token, 1..2048.

    Inputs:
        q_int8, q_scale, weights, k_cache, k_cache_scale, block_table, kv_act_seqs: as of the operator.

    Outputs:
        topk_indices int32 [t, selected_count].
    """

    _model_arguments = ("selected_count",)

    def __init__(self, selected_count: int = SELECTED_COUNT) -> None:
        super().__init__()
        self.selected_count = selected_count

    def construct(
        self,
        q_int8: Tensor,
        q_scale: Tensor,
        weights: Tensor,
        k_cache: Tensor,
        k_cache_scale: Tensor,
        block_table: Tensor,
        kv_act_seqs: Tensor,
    ) -> Tensor:
        return ops.lightning_indexer_quant(
            q_int8,
            q_scale,
            weights,
            k_cache,
            k_cache_scale,
            block_table,
            kv_act_seqs,
            selected_count=self.selected_count,
        )


class SparseFlashAttention(_Configured):
    """`ops.sparse_flash_attention_quant`.

    Args:
        max_blocknum_perbatch: columns of block_table.
        n_q: query heads, 1..128.
        softmax_scale: factor on the scores; the default is the model's, with YaRN.
        topk: columns of topk_indices, 1..2048.
        return_lse: the operator's attribute.
        tile_config: the operator's attribute, copied.

    Inputs:
        query_nope, query_rope, key_nope_2d, key_rope_2d, k_nope_scales, topk_indices, block_table, kv_act_seqs: as of
        the operator; the three keys are the caches of `MLAProlog`.

    Outputs:
        attention_out bf16 [b, s1, n_q, 512]; with return_lse also lse fp32 [b, s1, n_q].
    """

    _model_arguments = ("n_q", "softmax_scale", "topk")

    def __init__(
        self,
        max_blocknum_perbatch: int,
        n_q: int = N_Q,
        *,
        softmax_scale: float = SOFTMAX_SCALE,
        topk: int = SELECTED_COUNT,
        return_lse: bool = False,
        tile_config: SaTileShapeConfig | None = None,
    ) -> None:
        super().__init__()
        self.max_blocknum_perbatch = max_blocknum_perbatch
        self.n_q = n_q
        self.softmax_scale = softmax_scale
        self.topk = topk
        self.return_lse = return_lse
        self.tile_config = _copy(tile_config)

    def construct(
        self,
        query_nope: Tensor,
        query_rope: Tensor,
        key_nope_2d: Tensor,
        key_rope_2d: Tensor,
        k_nope_scales: Tensor,
        topk_indices: Tensor,
        block_table: Tensor,
        kv_act_seqs: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]:
        return ops.sparse_flash_attention_quant(
            query_nope,
            query_rope,
            key_nope_2d,
            key_rope_2d,
            k_nope_scales,
            topk_indices,
            block_table,
            kv_act_seqs,
            nq=self.n_q,
            n_kv=1,
            softmax_scale=self.softmax_scale,
            topk=self.topk,
            block_size=BLOCK_SIZE,
            max_blocknum_perbatch=self.max_blocknum_perbatch,
            tile_config=self.tile_config,
            return_lse=self.return_lse,
        )


class MLAEpilog(_Weighted):
    """`ops.mla_epilog_quant` with its weights.

    Args:
        n_q: query heads, 1..128; a tensor-parallel rank has its own, and the ranks' results are to be added.

    Inputs:
        attention_out: bf16 [t, n_q, 512] or [b, s1, n_q, 512], as `SparseFlashAttention` returns it.

    Outputs:
        hidden_out bf16 [t, 7168].
    """

    def __init__(self, n_q: int = N_Q) -> None:
        super().__init__("mla_epilog_quant", weights.EPILOG_WEIGHTS, n_q)

    def construct(self, attention_out: Tensor) -> Tensor:
        return ops.mla_epilog_quant(attention_out, self.w_uv, self.w_o, self.w_o_scale, weight_format="PACKED")


class SparseAttentionStep(_Checked):
    """One step of DeepSeek sparse attention over a paged cache: prolog, indexer, attention.

    Serves decoding (b sequences of s1 = 1..4 tokens) and a prompt in chunks (one sequence, s1 up to 1024); what differs
    is in the inputs' shapes. `MLAEpilog` takes attention_out from the latent space to the layer's result.

    Args:
        max_blocknum_perbatch: columns of block_table.
        n_q: query heads, 1..128.
        softmax_scale, selected_count, return_lse, attention_tile_config: as of `SparseFlashAttention` (topk,
            tile_config).
        prolog: further arguments of `MLAIndexerProlog`.

    Inputs:
        token_x: bf16 [t, 7168] or [b, s1, 7168]. cos, sin: bf16 [t, 64] or [b, s1, 64].
        cache_index: int64 [t] or [b, s1], the cache row of each token.
        block_table: int32 [b, max_blocknum_perbatch]. kv_act_seqs: int32 [b], this call's tokens included.
        kv_cache, kr_cache, k_scale_cache, k_cache, k_cache_scale: the five paged caches, updated in place.

    Outputs:
        attention_out bf16 [b, s1, n_q, 512]; with return_lse also lse fp32 [b, s1, n_q].
    """

    _model_arguments = (*MLAIndexerProlog._model_arguments, "softmax_scale", "selected_count")

    def __init__(
        self,
        max_blocknum_perbatch: int,
        n_q: int = N_Q,
        *,
        softmax_scale: float = SOFTMAX_SCALE,
        selected_count: int = SELECTED_COUNT,
        return_lse: bool = False,
        attention_tile_config: SaTileShapeConfig | None = None,
        **prolog: Any,
    ) -> None:
        super().__init__("mla_indexer_prolog_quant")
        self.prolog = MLAIndexerProlog(n_q, **prolog)
        self.indexer = LightningIndexer(selected_count)
        self.attention = SparseFlashAttention(
            max_blocknum_perbatch,
            n_q,
            softmax_scale=softmax_scale,
            topk=selected_count,
            return_lse=return_lse,
            tile_config=attention_tile_config,
        )

    def set_dynamic_tokens(self, block_num: int) -> None:
        """Lets one compiled graph serve every b and s1 (graph mode): merged token axes, b and t unknown.

        Args:
            block_num: blocks of the caches, which stay as they are from step to step.
        """
        columns = self.attention.max_blocknum_perbatch
        page = (block_num, BLOCK_SIZE, 1)
        shapes = (
            ((None, H), ms.bfloat16),
            ((None, ROPE_DIM), ms.bfloat16),
            ((None, ROPE_DIM), ms.bfloat16),
            ((None,), ms.int64),
            ((None, columns), ms.int32),
            ((None,), ms.int32),
            ((*page, KV_LORA_RANK), ms.int8),
            ((*page, ROPE_DIM), ms.bfloat16),
            ((*page, K_SCALE_GROUPS), ms.float32),
            ((*page, IDX_HEAD_DIM), ms.int8),
            ((*page, 1), ms.float16),
        )
        self.set_inputs(*(Tensor(shape=list(shape), dtype=dtype) for shape, dtype in shapes))

    def construct(
        self,
        token_x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache_index: Tensor,
        block_table: Tensor,
        kv_act_seqs: Tensor,
        kv_cache: Tensor,
        kr_cache: Tensor,
        k_scale_cache: Tensor,
        k_cache: Tensor,
        k_cache_scale: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]:
        q_nope, q_rope, q_int8, q_scale, head_weights = self.prolog(
            token_x, cos, sin, cache_index, kv_cache, kr_cache, k_scale_cache, k_cache, k_cache_scale
        )
        topk_indices = self.indexer(q_int8, q_scale, head_weights, k_cache, k_cache_scale, block_table, kv_act_seqs)
        return self.attention(q_nope, q_rope, kv_cache, kr_cache, k_scale_cache, topk_indices, block_table, kv_act_seqs)
