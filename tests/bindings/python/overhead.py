#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints what a call of apply costs in Python beyond the library, in ns: zero tokens, the best of many rounds.

PYTHONPATH=bindings/python DSV4MX_LIBRARY=build/lib/libdsv4mx.so.0 tests/bindings/python/overhead.py [cpu|cuda]
"""

from __future__ import annotations

import ctypes
import sys
import timeit
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import dsv4mx

sys.path.insert(0, str(Path(__file__).resolve().parent))
from helpers import Numbers

NUMBER, ROUNDS = 200, 2000  # rounds shorter than a time slice: the best of them had the core to itself


def cost(function: Any) -> float:
    """ns of one call."""
    timer = timeit.Timer(function)
    return min(timer.repeat(ROUNDS, NUMBER)) / NUMBER * 1e9


def main() -> int:
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    context = dsv4mx.Context(device)
    fields = {"hidden": 256, "intermediate": 128, "experts": 8, "top_k": 2, "w13_order": "gate_up"}
    numbers = Numbers(context, fields)
    layer, weights = numbers.layer, numbers.weights
    workspace = dsv4mx.Workspace(layer, 1)
    host = {
        "x": np.zeros((0, 256), ml_dtypes.bfloat16),
        "topk_ids": np.zeros((0, 2), np.int32),
        "topk_weights": np.zeros((0, 2), np.float32),
        "out": np.zeros((0, 256), ml_dtypes.bfloat16),
    }
    kinds = {"numpy" if device == "cpu" else "DeviceArray": host}
    if device != "cpu":
        kinds = {"DeviceArray": {name: context.array(value) for name, value in host.items()}}
    try:
        import torch

        kinds["torch"] = {
            "x": torch.zeros((0, 256), dtype=torch.bfloat16, device=device),
            "topk_ids": torch.zeros((0, 2), dtype=torch.int32, device=device),
            "topk_weights": torch.zeros((0, 2), dtype=torch.float32, device=device),
            "out": torch.zeros((0, 256), dtype=torch.bfloat16, device=device),
        }
    except ImportError:
        pass

    first = next(iter(kinds.values()))
    bound = layer.bind(weights, *first.values(), workspace=workspace)
    raw, handles = layer._apply, (layer.handle, weights.handle, ctypes.addressof(bound._args), None)
    nothing = ctypes.CDLL(None).getpid
    print(f"{layer.info.backend}, Python {sys.version.split()[0]}")
    print(f"{cost(nothing):6.0f} ns  a ctypes call of getpid, for comparison")
    print(f"{cost(lambda: raw(*handles)):6.0f} ns  raw.Functions.dsv4mx_layer_apply")
    print(f"{cost(bound):6.0f} ns  bound")
    for name, tensors in kinds.items():
        x, ids, router, out = tensors.values()
        call = call_of(layer.apply, weights, x, ids, router, out, workspace)
        print(f"{cost(call):6.0f} ns  apply with {name} tensors and all checks")
    return 0


def call_of(apply: Any, weights: Any, x: Any, ids: Any, router: Any, out: Any, workspace: Any) -> Any:
    return lambda: apply(weights, x, ids, router, out, workspace=workspace)


if __name__ == "__main__":
    sys.exit(main())
