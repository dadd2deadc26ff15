"""Decodes with DeepSeek-V3.2's sparse attention at full size, on the CPU or on an Atlas A2/A3.

It runs layers of attention from hidden states to hidden states, each with its residual, without a model's layernorms
and experts. Weights are made from a seed, or come from a checkpoint in any format of docs/checkpoints.md. Sequences of
different lengths share paged int8 caches. Each is prefilled in chunks, then all are decoded together, `--s1` tokens of
each a step (s1 > 1 is multi-token prediction). The input hidden states are random. At the end the golden reference in
NumPy computes the last step and some tokens of the prompts again, layer by layer. The exit status says whether the two
agree and no other row of a cache has changed.

    python examples/decode.py                                   4 sequences of up to 4096 keys, mindspore.jit
    python examples/decode.py --layers 4 --heads 32             four layers of a tensor-parallel rank
    python examples/decode.py --checkpoint DeepSeek-V3.2-Exp --layer 10 --layers 2
    python examples/decode.py --mode pynative --kv-len 131072 --batch 1
    python examples/decode.py --steps 0                         prefill alone
    python examples/decode.py --device Ascend                   needs CANN and the built operators, see docs/ascend.md
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")  # MindSpore: errors only

import mindspore as ms
import numpy as np
from mindspore import nn
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ms_dsv32 import cells, golden, kernel_impl, op_info, paging, rope, weights
from ms_dsv32.config import ModelConfig

Array = NDArray[Any]
# The largest relative RMS error to the golden reference. Some roundings of bfloat16 (2^-8) or int8 (1/127) differ, each
# for a small part of the values. A single lost row is an error of 1 over the root of the rows compared.
LIMIT = 0.01
CHECKED_TOKENS = 4  # tokens of each sequence, the last ones of the last step
CHECKED_PROMPT_TOKENS = 16  # tokens of all prompts: a lost row would be an error of 0.25


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4, help="sequences")
    parser.add_argument(
        "--kv-len", type=int, default=4096, help="keys of the longest sequence at the end, up to 131072"
    )
    parser.add_argument("--s1", type=int, default=2, help="tokens of each sequence in a step, 1 to 4")
    parser.add_argument("--steps", type=int, default=16, help="decode steps")
    parser.add_argument("--chunk", type=int, default=512, help="tokens of a prefill chunk, 1 to 1024")
    parser.add_argument("--heads", type=int, default=128, help="query heads of this rank, 1 to 128: the first ones")
    parser.add_argument("--layers", type=int, default=1, help="layers, 1 to 64")
    parser.add_argument("--checkpoint", type=Path, help="a directory or file of weights; its config.json counts")
    parser.add_argument("--layer", type=int, default=0, help="the first layer of the checkpoint")
    parser.add_argument("--mode", choices=("jit", "graph", "pynative"), default="jit")
    parser.add_argument("--device", choices=("CPU", "Ascend"), default="CPU")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    limits = {"batch": (1, 128), "kv_len": (1, 131072), "s1": (1, 4), "chunk": (1, 1024), "heads": (1, 128)}
    limits |= {"layers": (1, 64), "steps": (0, args.kv_len // max(args.s1, 1))}
    for name, (low, high) in limits.items():
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name.replace('_', '-')} must be in [{low}, {high}], got {getattr(args, name)}")
    if args.layer and args.checkpoint is None:
        parser.error("--layer is of a --checkpoint, and there is none")
    return args


class Decoder(nn.Cell):
    """Layers one after the other: each adds its result to the hidden states."""

    def __init__(self, layers: list[cells.SparseAttentionLayer]) -> None:
        super().__init__()
        self.layers = nn.CellList(layers)

    def construct(self, token_x, cos, sin, cache_index, block_table, kv_act_seqs, *caches):
        """hidden_out of each layer. `caches` are the five of the first layer, then those of the next."""
        results = ()
        for i, layer in enumerate(self.layers):
            if i > 0:
                token_x = token_x + results[-1]
            own = caches[5 * i : 5 * i + 5]
            results = (*results, layer(token_x, cos, sin, cache_index, block_table, kv_act_seqs, *own))
        return results


def make_layers(args: argparse.Namespace, config: ModelConfig, columns: int) -> Decoder:
    """The layers with their weights, for block tables of so many columns."""
    layers = []
    for i in range(args.layers):
        layer = cells.SparseAttentionLayer.from_config(config, max_blocknum_perbatch=columns, n_q=args.heads)
        if args.checkpoint is None:
            mla, indexer = golden.make_weights(args.seed + i, n_q=args.heads)
            layer.set_weights({**mla, **indexer, **golden.make_epilog_weights(args.seed + i, n_q=args.heads)})
        else:
            layer.load(args.checkpoint, layer=args.layer + i, heads=range(args.heads))
        layers.append(layer)
    return Decoder(layers)


@dataclass
class Batch:
    """The sequences and their caches. `lengths` are the keys that each holds at the end.

    `caches`, one set for each layer, are in the device's memory and are updated in place.
    """

    config: ModelConfig
    lengths: Array
    block_table: Array
    caches: list[cells.Caches]

    @classmethod
    def make(cls, args: argparse.Namespace, config: ModelConfig) -> Batch:
        decoded = args.steps * args.s1
        # Every sequence is 7 % shorter than the one before it, so that their ends fall on different places of a block.
        lengths = np.maximum(args.kv_len * 0.93 ** np.arange(args.batch), decoded).astype(np.int32)
        table = paging.make_block_table(lengths, rng=np.random.default_rng(args.seed))
        block_num = paging.block_num_of(lengths)
        return cls(config, lengths, table, [cells.make_caches(block_num) for _ in range(args.layers)])

    def call(self, rng: np.random.Generator, rows: slice, lengths: Array, s1: int) -> dict[str, Array]:
        """One call's inputs: the last `s1` tokens of the sequences `rows`, which then hold `lengths` keys."""
        table = self.block_table[rows]
        positions = paging.token_positions(lengths, s1)
        cos, sin = rope.rope_tables(positions.reshape(-1), self.config)
        return {
            "token_x": golden.float32_to_bf16(rng.standard_normal((positions.size, 7168), dtype=np.float32)),
            "cos": cos,
            "sin": sin,
            "cache_index": paging.cache_index_of(table, positions).reshape(-1),
            "block_table": table,
            "kv_act_seqs": lengths.astype(np.int32),
        }


def on_device(call: dict[str, Array]) -> list[ms.Tensor]:
    """A call's inputs in the device's memory. On CPU they share the memory of the arrays."""
    return [weights.to_tensor(a).to(ms.get_context("device_target")) for a in call.values()]


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Waits for the result of a function of the operators, and returns it with the seconds that it took."""
    start = time.perf_counter()
    result = function()
    if ms.get_context("device_target") == "CPU":
        (result[-1] if isinstance(result, tuple) else result).asnumpy()  # waits, and copies nothing
    else:
        ms.runtime.synchronize()  # does not wait on CPU
    return result, time.perf_counter() - start


def run(decoder: Callable[..., Any], call: dict[str, Array], caches: list[cells.Caches]) -> tuple[list[Array], float]:
    """One step of a `Decoder`: the hidden_out of each layer, and the seconds that it took."""
    inputs = on_device(call)
    flat = [cache for own in caches for cache in own]
    results, seconds = timed(lambda: decoder(*inputs, *flat))
    return [weights.to_array(hidden_out) for hidden_out in results], seconds


def copies(caches: list[cells.Caches]) -> list[dict[str, Array]]:
    """Copies of the caches."""
    return [{name: weights.to_array(cache).copy() for name, cache in own._asdict().items()} for own in caches]


class Reference:
    """A layer by the golden reference, with the weights of one of the layers."""

    def __init__(self, config: ModelConfig, layer: cells.SparseAttentionLayer) -> None:
        self.weights = layer.get_weights()
        self._config = config
        self._heads = len(self.weights["w_uk"])

    def prolog(self, call: dict[str, Array], caches: dict[str, Array]) -> tuple[Array, ...]:
        """The fused prolog. It updates `caches`."""
        given = {**self.weights, **caches, **call}
        names = [arg.name for arg in op_info.load("mla_indexer_prolog_quant").inputs]
        plain = [name.removeprefix("mla_").removeprefix("ip_").removesuffix("_in") for name in names]
        epsilons = {"mla_epsilon_cq": self._config.epsilon_cq, "mla_epsilon_ckv": self._config.epsilon_ckv}
        return golden.mla_indexer_prolog_quant(*(given[name] for name in plain), **epsilons)

    def layer(self, call: dict[str, Array], caches: dict[str, Array]) -> Array:
        """hidden_out of the layer. It updates `caches`."""
        q_nope, q_rope, *latent, q_int8, q_scale, k_cache, k_cache_scale, head_weights = self.prolog(call, caches)
        pages = (call["block_table"], call["kv_act_seqs"])
        topk_indices = golden.lightning_indexer_quant(
            q_int8, q_scale, head_weights, k_cache, k_cache_scale, *pages, selected_count=self._config.selected_count
        )
        attributes = {
            "nq": self._heads,
            "n_kv": 1,
            "softmax_scale": self._config.softmax_scale,
            "topk": topk_indices.shape[1],
            "block_size": paging.BLOCK_SIZE,
            "max_blocknum_perbatch": pages[0].shape[1],
        }
        out = golden.sparse_flash_attention_quant(q_nope, q_rope, *latent, topk_indices, *pages, **attributes)
        return golden.mla_epilog_quant(out, *(self.weights[name] for name in weights.EPILOG_WEIGHTS))


def tokens_of(call: dict[str, Array], chosen: Array) -> dict[str, Array]:
    """The inputs of some tokens of a call."""
    return {n: a[chosen] if n in ("token_x", "cos", "sin", "cache_index") else a for n, a in call.items()}


def after_layer(call: dict[str, Array], hidden_out: Array) -> dict[str, Array]:
    """The next layer's inputs: the hidden states plus the result of the layer before."""
    x = golden.bf16_to_float32(call["token_x"]) + golden.bf16_to_float32(hidden_out)
    return {**call, "token_x": golden.float32_to_bf16(x)}


def cache_errors(got: dict[str, Array], want: dict[str, Array], index: Array) -> dict[str, float]:
    """The relative error of each cache in the rows `index`."""

    def rows(cache: Array) -> Array:
        return cache.reshape(-1, cache.shape[-1])[index]

    return {name: relative_error(rows(got[name]), rows(want[name])) for name in want}


def changed_rows(before: dict[str, Array], after: dict[str, Array], index: Array) -> int:
    """The number of rows of all caches that differ, without those in `index`."""
    count = 0
    for name, old in before.items():
        differs = (
            (old.view(np.uint8) != after[name].view(np.uint8)).reshape(-1, old.shape[-1] * old.itemsize).any(axis=1)
        )
        differs[index] = False
        count += int(differs.sum())
    return count


def check_step(
    reference: Reference,
    call: dict[str, Array],
    hidden_out: Array,
    before: dict[str, Array],
    after: dict[str, Array],
) -> tuple[dict[str, float], int]:
    """The errors of a step's last tokens in one layer, and how many rows of the caches changed that should not have.

    The rows of those tokens are removed from the caches before the golden reference writes them, to find a row that the
    step did not write.
    """
    batch, s1 = len(call["kv_act_seqs"]), len(call["token_x"]) // len(call["kv_act_seqs"])
    tail = np.arange(batch * s1).reshape(batch, s1)[:, -CHECKED_TOKENS:].reshape(-1)
    checked = tokens_of(call, tail)
    want_caches = {name: cache.copy() for name, cache in after.items()}
    for cache in want_caches.values():
        cache.reshape(-1, cache.shape[-1])[checked["cache_index"]] = 0
    want = reference.layer(checked, want_caches)
    errors = {"hidden_out": relative_error(hidden_out[tail], want)}
    errors |= cache_errors(after, want_caches, checked["cache_index"])
    return errors, changed_rows(before, after, call["cache_index"])


def check_prompt(reference: Reference, samples: list[dict[str, Array]], after: dict[str, Array]) -> dict[str, float]:
    """The errors of the cache rows of some tokens of the prompts. A row depends on its own token only."""
    call = {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}
    want = {name: np.zeros_like(cache) for name, cache in after.items()}
    reference.prolog(call, want)
    return cache_errors(after, want, call["cache_index"])


def relative_error(got: Array, want: Array) -> float:
    """RMS of the difference over the RMS of the reference."""
    a, b = (golden.bf16_to_float32(x) if x.dtype == np.uint16 else x.astype(np.float32) for x in (got, want))
    return float(np.sqrt(np.mean((a - b) ** 2) / max(np.mean(b**2), 1e-30)))


def operator_times(
    layer: cells.SparseAttentionLayer, call: dict[str, Array], caches: cells.Caches
) -> dict[str, list[float]]:
    """Seconds of each operator, called alone with the inputs of the last step. It writes the same rows again."""
    x, cos, sin, index, table, lengths = on_device(call)
    kv, kr, scale, k, k_scale = caches
    step = layer.step
    times: dict[str, list[float]] = {}

    def repeated(name: str, function: Callable[[], Any]) -> Any:
        runs = [timed(function) for _ in range(6)]
        times[name] = [seconds for _, seconds in runs[1:]]  # the first one compiles
        return runs[-1][0]

    q_nope, q_rope, q_int8, q_scale, head_weights = repeated(
        "mla_indexer_prolog_quant", lambda: step.prolog(x, cos, sin, index, kv, kr, scale, k, k_scale)
    )
    topk_indices = repeated(
        "lightning_indexer_quant", lambda: step.indexer(q_int8, q_scale, head_weights, k, k_scale, table, lengths)
    )
    attention_out = repeated(
        "sparse_flash_attention_quant",
        lambda: step.attention(q_nope, q_rope, kv, kr, scale, topk_indices, table, lengths),
    )
    repeated("mla_epilog_quant", lambda: layer.epilog(attention_out))
    return times


def peak_memory(device: str) -> float:
    """The most MiB of the process's memory, or of the device's, since `forget_peak_memory`."""
    if device == "CPU":
        try:
            status = Path("/proc/self/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0]) / 2**10
        except (OSError, IndexError):
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return float(ms.runtime.max_memory_allocated() / 2**20)


def forget_peak_memory(device: str) -> None:
    """Makes `peak_memory` count from here, if the system allows it."""
    if device != "CPU":
        ms.runtime.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def main() -> int:
    args = parse()
    console = Console()
    if ms.get_context("device_target") != args.device:
        ms.set_device(args.device)  # before the weights are laid out for it, and the caches are made in its memory
    ms.set_context(mode=ms.GRAPH_MODE if args.mode == "graph" else ms.PYNATIVE_MODE)
    rng = np.random.default_rng(args.seed)
    kernels = f"{kernel_impl.isa()}, {kernel_impl.thread_count()} threads" if args.device == "CPU" else "AscendC"
    mode = "mindspore.jit" if args.mode == "jit" else f"{args.mode} mode"
    console.print(f"device: {args.device}; kernels: {kernels}; {mode}")

    start = time.perf_counter()
    has_config = args.checkpoint is not None and (args.checkpoint / "config.json").is_file()
    config = ModelConfig.from_json(args.checkpoint / "config.json") if has_config else ModelConfig()
    batch = Batch.make(args, config)
    decoder = make_layers(args, config, batch.block_table.shape[1])
    layers = list(decoder.layers)
    if args.mode != "pynative":
        block_num = batch.caches[0].kv_cache.shape[0]
        inputs = layers[0].dynamic_inputs(block_num)
        decoder.set_inputs(*inputs, *inputs[-5:] * (args.layers - 1))
    step = ms.jit(decoder) if args.mode == "jit" else decoder
    console.print(
        f"weights laid out in {time.perf_counter() - start:.1f} s; sequences hold {batch.lengths.tolist()} keys"
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    prompts = batch.lengths - args.steps * args.s1
    prefill_seconds, decode_seconds = 0.0, list[float]()
    samples = []  # one token of each chunk, and what its layers made of it
    forget_peak_memory(args.device)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("prefill (tokens)", total=int(prompts.sum()))
        for n, prompt in enumerate(prompts):
            for begin in range(0, int(prompt), args.chunk):
                end = min(begin + args.chunk, int(prompt))
                call = batch.call(rng, slice(n, n + 1), np.array([end]), end - begin)
                if args.steps == 0 and n == args.batch - 1 and end == prompt:
                    before = copies(batch.caches)
                hidden, seconds = run(step, call, batch.caches)
                prefill_seconds += seconds
                token = rng.integers(end - begin, size=1)
                sample = tokens_of(call, token)
                kept = {name: sample[name] for name in ("token_x", "cos", "sin", "cache_index")}
                samples.append((kept, [hidden_out[token] for hidden_out in hidden]))
                progress.advance(task, end - begin)
        prefill_peak = peak_memory(args.device)
        task = progress.add_task("decode (steps)", total=args.steps)
        for i in range(args.steps):
            call = batch.call(rng, slice(None), prompts + (i + 1) * args.s1, args.s1)
            if i == args.steps - 1:
                before = copies(batch.caches)
            elif i == 0:
                forget_peak_memory(args.device)
            hidden, seconds = run(step, call, batch.caches)
            if i < max(args.steps - 1, 1):  # the memory of the copies is not the step's
                decode_peak = peak_memory(args.device)
            decode_seconds.append(seconds)
            progress.advance(task)
    after = copies(batch.caches)

    table = Table(title="time", title_justify="left")
    for heading, justify in (("", "left"), ("median ms", "right"), ("min ms", "right"), ("tokens/s", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    if prompts.sum():
        table.add_row("prefill", "", "", f"{prompts.sum() / prefill_seconds:.0f}")
    if args.steps:
        tokens = args.batch * args.s1
        rows = {f"decode step, {tokens} tokens, {args.layers} layers": decode_seconds[1:] or decode_seconds}
        times = operator_times(layers[0], call, batch.caches[0])
        rows |= {f"  {name}": seconds for name, seconds in times.items()}
        for name, seconds in rows.items():
            median = float(np.median(seconds))
            rate = "" if name.startswith(" ") else f"{tokens / median:.0f}"
            table.add_row(name, f"{1e3 * median:.2f}", f"{1e3 * min(seconds):.2f}", rate)
    console.print(table)
    memory = "memory" if args.device == "CPU" else "device memory"
    cache_mib = sum(array.nbytes for own in after for array in own.values()) / 2**20
    weight_mib = sum(p.nbytes for p in decoder.get_parameters()) / 2**20
    peaks = f"peak {prefill_peak:.0f} MiB in prefill" + (f", {decode_peak:.0f} MiB in decoding" if args.steps else "")
    console.print(f"{memory}: {peaks}, of it caches {cache_mib:.0f} MiB and weights {weight_mib:.0f} MiB")

    changed, worst = 0, dict[str, Array]()  # for each result, the largest error in the last step, and in prompts
    chosen = np.unique(np.linspace(0, len(samples) - 1, CHECKED_PROMPT_TOKENS).astype(int)) if samples else ()
    tokens_in = [samples[i][0] for i in chosen]
    for i, layer in enumerate(layers):
        reference = Reference(config, layer)
        errors, strays = check_step(reference, call, hidden[i], before[i], after[i])
        prompt_errors = check_prompt(reference, tokens_in, after[i]) if tokens_in else {}
        changed += strays
        for name, error in errors.items():
            both = np.array([error, prompt_errors.get(name, 0.0)])
            worst[name] = np.maximum(both, worst.get(name, 0.0))  # keeps a NaN
        call = after_layer(call, hidden[i])
        tokens_in = [after_layer(token, samples[n][1][i]) for token, n in zip(tokens_in, chosen, strict=True)]
    table = Table(title=f"largest relative error of a layer against golden (limit {LIMIT})", title_justify="left")
    for heading in ("", "last step", "prompts"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, (step_error, prompt_error) in worst.items():
        table.add_row(name, f"{step_error:.1e}", f"{prompt_error:.1e}" if samples and name != "hidden_out" else "")
    console.print(table)
    console.print(f"cache rows that the last step changed and should not have: {changed}")
    passed = changed == 0 and all(error <= LIMIT for errors in worst.values() for error in errors)
    console.print("check passed" if passed else "[bold]check FAILED[/]")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
