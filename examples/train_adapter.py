"""Trains an adapter after a frozen layer of DeepSeek-V3.2's sparse attention.

The operators are for inference and have no gradient. A layer with ``stop_gradient=True`` ends the gradient at its
result, so that what stands after it, or beside it, can be trained. Here that is a low-rank adapter, which learns to do
what another low-rank map does to the layer's hidden states. The layer runs in every step, on a new text of random
words, and writes its caches. Layer, adapter and optimizer are one graph. The loss is printed as it falls, and the exit
status says whether it fell to a fifth.

    python examples/train_adapter.py                      graph mode
    python examples/train_adapter.py --mode pynative
    python examples/train_adapter.py --heads 2 --tokens 16 --steps 30      small
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

os.environ.setdefault("GLOG_v", "3")  # MindSpore: errors only

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ms_dsv32 import cells, golden, paging, rope
from ms_dsv32.weights import to_tensor

HIDDEN = 7168
WORDS = 32
GOAL = 0.2  # the mean of the last five losses over the first loss


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--heads", type=int, default=16, help="query heads of the layer, 1 to 128")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a step, 1 to 1024")
    parser.add_argument("--steps", type=int, default=100, help="training steps, 10 or more")
    parser.add_argument("--rank", type=int, default=8, help="rank of the adapter, 1 to 64")
    parser.add_argument("--mode", choices=("graph", "pynative"), default="graph")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    limits = {"heads": (1, 128), "tokens": (1, 1024), "steps": (10, 100000), "rank": (1, 64)}
    for name, (low, high) in limits.items():
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name} must be in [{low}, {high}], got {getattr(args, name)}")
    return args


class Adapted(nn.Cell):
    """The mean square error of an adapter after a frozen layer, relative to the map that the adapter is to learn."""

    def __init__(self, layer: cells.SparseAttentionLayer, rank: int, teacher: tuple[Any, Any]) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Dense(HIDDEN, rank, weight_init="normal", has_bias=False)
        self.up = nn.Dense(rank, HIDDEN, weight_init="zeros", has_bias=False)
        self.teach_down, self.teach_up = (
            ms.Parameter(Tensor(array), name=name, requires_grad=False)
            for name, array in zip(("teach_down", "teach_up"), teacher, strict=True)
        )

    def construct(self, *inputs):
        hidden_out = ms.ops.cast(self.layer(*inputs), ms.float32)
        want = ms.ops.matmul(ms.ops.matmul(hidden_out, self.teach_down), self.teach_up)
        error = self.up(self.down(hidden_out)) - want
        return (error * error).mean() / (want * want).mean()


def make_layer(args: argparse.Namespace, columns: int) -> cells.SparseAttentionLayer:
    layer = cells.SparseAttentionLayer(columns, args.heads, stop_gradient=True)
    mla, indexer = golden.make_weights(args.seed, n_q=args.heads)
    layer.set_weights({**mla, **indexer, **golden.make_epilog_weights(args.seed, n_q=args.heads)})
    return layer


def main() -> int:
    args = parse()
    console = Console()
    ms.set_context(mode=ms.GRAPH_MODE if args.mode == "graph" else ms.PYNATIVE_MODE)
    ms.set_seed(args.seed)
    rng = np.random.default_rng(args.seed)

    lengths = np.array([args.tokens], np.int32)
    block_table = paging.make_block_table(lengths)
    positions = paging.token_positions(lengths, args.tokens)
    cos, sin = rope.rope_tables(positions[0])
    pages = (cos, sin, paging.cache_index_of(block_table, positions)[0], block_table, lengths)
    caches = cells.make_caches(paging.block_num_of(lengths))

    teacher = tuple(rng.standard_normal(s).astype(np.float32) / np.sqrt(s[0]) for s in ((HIDDEN, 4), (4, HIDDEN)))
    model = Adapted(make_layer(args, block_table.shape[1]), args.rank, teacher)
    train = nn.TrainOneStepCell(model, nn.Adam(model.trainable_params(), learning_rate=0.003))
    train.set_train()
    console.print(f"{args.mode} mode; trained: {', '.join(p.name for p in model.trainable_params())}")

    words = rng.standard_normal((WORDS, HIDDEN), dtype=np.float32)
    losses = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("loss {task.fields[loss]:.4f}"), console=console) as progress:
        task = progress.add_task("training (steps)", total=args.steps, loss=float("nan"))
        for _ in range(args.steps):
            token_x = golden.float32_to_bf16(words[rng.integers(WORDS, size=args.tokens)])
            losses.append(float(train(*map(to_tensor, (token_x, *pages)), *caches).asnumpy()))
            progress.update(task, advance=1, loss=losses[-1])

    table = Table("step", "loss", title="relative square error of the adapter", title_justify="left")
    for step in sorted({*range(0, args.steps, max(args.steps // 8, 1)), args.steps - 1}):
        table.add_row(str(step), f"{losses[step]:.4f}")
    console.print(table)
    ratio = float(np.mean(losses[-5:])) / losses[0]
    passed = ratio <= GOAL  # false for NaN
    console.print(f"the last five losses are {ratio:.3f} of the first, goal {GOAL}: {'passed' if passed else 'FAILED'}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
