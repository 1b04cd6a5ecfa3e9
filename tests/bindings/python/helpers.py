# SPDX-License-Identifier: Apache-2.0
"""A layer with weights and tokens, for tests that are not about the numbers."""

from __future__ import annotations

from typing import Any

import dsv4mx
import ml_dtypes
import numpy as np

TOKENS = 5


def fill(weights: dsv4mx.Weights, seed: int = 1) -> None:
    info = weights.layer.info
    e, h, i = info.experts, info.hidden, info.intermediate_count
    rng = np.random.default_rng(seed)
    weights.set("w13_weight", rng.integers(0, 256, (e, 2 * i, h // 2), np.uint8))
    weights.set("w13_weight_scale", rng.integers(118, 124, (e, 2 * i, h // 32), np.uint8))
    weights.set("w2_weight", rng.integers(0, 256, (e, h, i // 2), np.uint8))
    weights.set("w2_weight_scale", rng.integers(118, 124, (e, h, i // 32), np.uint8))


class Numbers:
    def __init__(self, context: dsv4mx.Context, fields: dict[str, Any]) -> None:
        self.context = context
        self.layer = dsv4mx.Layer(context, **fields)
        self.weights = dsv4mx.Weights(self.layer)
        fill(self.weights)
        self.weights.prepare()
        rng = np.random.default_rng(2)
        hidden, experts, top_k = self.layer.info.hidden, self.layer.info.experts, self.layer.info.top_k
        self.x = rng.standard_normal((TOKENS, hidden)).astype(ml_dtypes.bfloat16)
        self.ids = rng.integers(0, experts, (TOKENS, top_k)).astype(np.int32)
        self.router = rng.random((TOKENS, top_k)).astype(np.float32)

    def apply(self, **changes: Any) -> Any:
        arguments = {"x": self.x, "topk_ids": self.ids, "topk_weights": self.router} | changes
        return self.layer.apply(self.weights, **arguments)


def bits(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.view(np.uint16)
