#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints what a call of apply costs in Python beyond the library, in ns: zero tokens, the best of many rounds. On a GPU also
what the host spends on a call with one token, and both while a stream is captured into a CUDA graph.

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


class Driver:
    """The driver's streams and graphs, without torch."""

    def __init__(self) -> None:
        self.cuda = ctypes.CDLL("libcuda.so.1")
        context, self.stream = ctypes.c_void_p(), ctypes.c_void_p()
        self("cuInit", 0)
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self("cuCtxSetCurrent", context)
        self("cuStreamCreate", ctypes.byref(self.stream), 1)

    def __call__(self, name: str, *arguments: Any) -> None:
        result = getattr(self.cuda, name)(*arguments)
        if result:
            raise RuntimeError(f"{name}: {result}")

    def best(self, calls: Any, count: int, captured: bool) -> float:
        """ns of one of the `count` calls that `calls` makes, on the stream or while it is captured."""
        graph, best = ctypes.c_void_p(), float("inf")
        for _ in range(400):
            if captured:
                self("cuStreamBeginCapture_v2", self.stream, 0)
            best = min(best, timeit.timeit(calls, number=1))
            if captured:
                self("cuStreamEndCapture", self.stream, ctypes.byref(graph))
                self("cuGraphDestroy", graph)
            else:
                self("cuStreamSynchronize", self.stream)
        return best / count * 1e9


def on_cuda(layer: Any, weights: Any, workspace: Any, context: dsv4mx.Context) -> None:
    driver = Driver()
    for tokens in (0, 1):
        arguments = [
            context.array(np.zeros((tokens, 256), ml_dtypes.bfloat16)),
            context.array(np.zeros((tokens, 2), np.int32)),
            context.array(np.zeros((tokens, 2), np.float32)),
            context.array(np.zeros((tokens, 256), ml_dtypes.bfloat16)),
        ]
        bound = layer.bind(weights, *arguments, workspace=workspace)

        count = (
            50 if tokens else 1000
        )  # what a stream takes without a wait; what makes a look at the clock count for nothing

        def calls(bound: Any = bound, stream: Any = driver.stream.value, count: int = count) -> None:
            for _ in range(count):
                bound(stream)

        what = "one token, the host's part" if tokens else "no tokens"
        print(f"{driver.best(calls, count, False):6.0f} ns  bound, {what}, on a stream")
        print(f"{driver.best(calls, count, True):6.0f} ns  bound, {what}, while a graph is captured")


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
    raw, handles = layer._lib.dsv4mx_layer_apply, (layer.handle, weights.handle, ctypes.addressof(bound._args), None)
    nothing = ctypes.CDLL(None).getpid
    print(f"{layer.info.backend}, Python {sys.version.split()[0]}")
    print(f"{cost(nothing):6.0f} ns  a ctypes call of getpid, for comparison")
    print(f"{cost(lambda: raw(*handles)):6.0f} ns  raw.Functions.dsv4mx_layer_apply")
    print(f"{cost(bound):6.0f} ns  bound")
    if context.is_cuda and "torch" in kinds:
        bound = layer.bind(weights, *kinds["torch"].values(), workspace=workspace)
        print(f"{cost(bound):6.0f} ns  bound torch tensors, on torch's current stream")
    for name, tensors in kinds.items():
        x, ids, router, out = tensors.values()
        call = call_of(layer.apply, weights, x, ids, router, out, workspace)
        print(f"{cost(call):6.0f} ns  apply with {name} tensors and all checks")
    if context.is_cuda:
        on_cuda(layer, weights, workspace, context)
    return 0


def call_of(apply: Any, weights: Any, x: Any, ids: Any, router: Any, out: Any, workspace: Any) -> Any:
    return lambda: apply(weights, x, ids, router, out, workspace=workspace)


if __name__ == "__main__":
    sys.exit(main())
