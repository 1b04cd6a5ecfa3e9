#!/usr/bin/env python3
"""Loads the experts of all MoE layers of a model folder, draft blocks included, and says how fast.

    model.py FOLDER [--device auto|cpu|cuda:0] [--top-k K] [--clamp L]

Each layer is applied once to see that it works. Before the first byte is read the program asks what the model needs: layers
that fit together stay loaded together, else each is freed before the next. A bar is shown where stderr is a terminal.
"""

from __future__ import annotations

import argparse
import sys
import time

import dsv4mx
import ml_dtypes
import numpy as np

TOKENS = 4


class Bar:
    """The bar over all layers: each counts the same, nine tenths of it for loading."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.index = 0
        self.name = ""
        self.shown = False

    def show(self, stage: dsv4mx.Stage, done: int, total: int) -> None:
        if not sys.stderr.isatty() or total == 0:
            return
        here = 0.9 * done / total if stage == dsv4mx.Stage.LOAD else 0.9 + 0.1 * done / total
        whole = (self.index + here) / self.count
        cells = "#" * int(40 * whole)
        print(f"\r\033[K[{cells:.<40}] {whole:4.0%} {self.name}", end="", file=sys.stderr, flush=True)
        self.shown = True

    def end(self) -> None:
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr)


def load(
    context: dsv4mx.Context, checkpoint: dsv4mx.Checkpoint, block: dsv4mx.Block, options: argparse.Namespace, bar: Bar
) -> tuple[dsv4mx.Layer, dsv4mx.Weights, float]:
    fields = checkpoint.query_layer(prefix=block.prefix)
    layer = dsv4mx.Layer(
        context, top_k=min(options.top_k, fields["experts_global"]), clamp_limit=options.clamp, **fields
    )
    weights = dsv4mx.Weights(layer)
    begin = time.perf_counter()
    weights.load(checkpoint, prefix=block.prefix, progress=bar.show)
    weights.prepare(progress=bar.show)
    context.synchronize()
    return layer, weights, time.perf_counter() - begin


def smoke_check(context: dsv4mx.Context, name: str, layer: dsv4mx.Layer, weights: dsv4mx.Weights) -> None:
    """A few random tokens through the layer: what comes out is finite and not all zero."""
    info = layer.info
    rng = np.random.default_rng(1)
    x = rng.standard_normal((TOKENS, info.hidden)).astype(ml_dtypes.bfloat16)
    ids = (np.arange(TOKENS * info.top_k, dtype=np.int32) % info.experts_global).reshape(TOKENS, info.top_k)
    router = np.full((TOKENS, info.top_k), 1 / info.top_k, np.float32)
    y = layer.apply(weights, context.array(x), context.array(ids), context.array(router)).numpy()
    total = float(np.abs(y.astype(np.float64)).sum())
    if not np.isfinite(total) or total == 0:
        sys.exit(f"model.py: {name}: the layer gives {total} for random tokens")


def row(name: str, size: int, seconds: float) -> None:
    print(f"{name:16} {size:14d} {seconds:10.3f} {1e-9 * size / seconds:8.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description="All MoE layers of a model folder, loaded and tried.")
    parser.add_argument("folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--top-k", type=int, default=6)
    parser.add_argument("--clamp", type=float, default=10.0)
    options = parser.parse_args()

    checkpoint = dsv4mx.Checkpoint(options.folder)
    context = dsv4mx.Context(options.device)
    need = checkpoint.query_model(context)
    together = need.blocks_fitting in (-1, need.blocks)
    how = "all loaded together" if together else "one loaded after the other"
    print(f"{need.blocks} layers with experts, {1e-9 * need.prepared_bytes:.3f} GB, {how}")

    blocks = checkpoint.blocks()
    bar = Bar(len(blocks))
    rows, kept = [], []
    for bar.index, block in enumerate(blocks):
        bar.name = block.name
        layer, weights, seconds = load(context, checkpoint, block, options, bar)
        rows.append((block.name, layer.info.prepared_bytes, seconds))
        if together:
            kept.append((block.name, layer, weights))
        else:
            smoke_check(context, block.name, layer, weights)
            weights.close()
            layer.close()
    bar.end()
    for name, layer, weights in kept:
        smoke_check(context, name, layer, weights)

    print(f"{'layer':16} {'bytes':>14} {'seconds':>10} {'GB/s':>8}")
    for name, size, seconds in rows:
        row(name, size, seconds)
    row("total", sum(size for _, size, _ in rows), sum(seconds for _, _, seconds in rows))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (dsv4mx.Error, dsv4mx.LibraryError) as failure:
        sys.exit(f"model.py: {failure}")
