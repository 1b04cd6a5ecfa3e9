#!/usr/bin/env python3
"""Opens a checkpoint, loads the experts of one layer, applies tokens to them, and compares rows with the fp64 oracle.

    checkpoint.py FOLDER [--layer N] [--top-k K] [--tokens M] [--device cpu|cuda:0] [--limit 10]

FOLDER may also be a .safetensors file or an index. Progress is shown where stderr is a terminal.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import Any

import dsv4mx
import ml_dtypes
import numpy as np

ERROR_LIMIT = 3e-3  # what the library promises against the truth with bf16 output


def first_layer(checkpoint: dsv4mx.Checkpoint) -> int:
    for name in checkpoint:
        found = re.search(r"(?:^|\.)layers\.(\d+)\..*experts\.0\.", name)
        if found and ".mtp." not in name and not name.startswith("mtp."):
            return int(found[1])
    sys.exit("checkpoint.py: no layer with experts in this checkpoint")


def show(stage: dsv4mx.Stage, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(
            f"\r{stage.name.lower():8} {done / max(total, 1):5.0%}", end="\n" if done == total else "", file=sys.stderr
        )


def load(
    context: dsv4mx.Context, checkpoint: dsv4mx.Checkpoint, number: int, **fields: Any
) -> tuple[dsv4mx.Layer, dsv4mx.Weights]:
    layer = dsv4mx.Layer(context, **{**checkpoint.query_layer(number), **fields})
    weights = dsv4mx.Weights(layer)
    weights.load(checkpoint, number, progress=show)
    return layer, weights.prepare(progress=show)


def main() -> int:
    parser = argparse.ArgumentParser(description="One layer of a checkpoint, applied and judged.")
    parser.add_argument("checkpoint")
    parser.add_argument("--layer", type=int)
    parser.add_argument("--top-k", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=float, default=10.0, help="clamp_limit of the activation")
    options = parser.parse_args()

    checkpoint = dsv4mx.Checkpoint(options.checkpoint)
    number = first_layer(checkpoint) if options.layer is None else options.layer
    fields = {"top_k": options.top_k, "clamp_limit": options.limit}
    context = dsv4mx.Context(options.device)
    begin = time.perf_counter()
    layer, weights = load(context, checkpoint, number, **fields)
    info = layer.info
    print(
        f"layer {number}: hidden {info.hidden}, intermediate {info.intermediate}, {info.experts} experts, {info.backend}"
    )
    print(f"loaded {info.prepared_bytes >> 20} MiB in {time.perf_counter() - begin:.2f} s")

    rng = np.random.default_rng(1)
    x = rng.standard_normal((options.tokens, info.hidden)).astype(ml_dtypes.bfloat16)
    ids = np.array([rng.permutation(info.experts)[: options.top_k] for _ in range(options.tokens)], np.int32)
    router = rng.random((options.tokens, options.top_k)).astype(np.float32)
    router /= router.sum(axis=1, keepdims=True)
    y = layer.apply(weights, context.array(x), context.array(ids), context.array(router)).numpy()

    # The oracle holds only the experts that two of the tokens need.
    rows = sorted({0, options.tokens - 1})
    needed = sorted({int(number) for number in ids[rows].reshape(-1)})
    cpu = dsv4mx.Context("cpu")
    oracle, truth_weights = load(
        cpu, checkpoint, number, **fields, oracle="truth", out_dtype="float32",
        expert_first=0, experts=len(needed), placement=needed, experts_global=info.experts,
    )  # fmt: skip
    truth = oracle.apply(truth_weights, x[rows], ids[rows], router[rows]).astype(np.float64)
    error = np.linalg.norm(y[rows].astype(np.float64) - truth) / np.linalg.norm(truth)
    print(f"error of rows {rows} against the fp64 oracle: {error:.2e} relative L2, limit {ERROR_LIMIT:.0e}")
    return 0 if error <= ERROR_LIMIT else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (dsv4mx.Error, dsv4mx.LibraryError) as failure:
        sys.exit(f"checkpoint.py: {failure}")
