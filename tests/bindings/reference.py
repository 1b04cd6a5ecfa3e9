# SPDX-License-Identifier: Apache-2.0
"""The layer in numpy and fp64, from the formulas at the top of dsv4mx.h: judges the library's own oracle."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance import Array, Data, bf16_values

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def dequantised(codes: Array, scales: Array) -> Array:
    """[rows, k] from [rows, k/2] bytes and [rows, k/32] E8M0."""
    values = np.stack([E2M1[codes & 15], E2M1[codes >> 4]], axis=-1).reshape(codes.shape[0], -1)
    result: Array = values * np.repeat(np.exp2(scales.astype(np.float64) - 127), 32, axis=1)
    return result


def sigmoid(v: Array) -> Array:
    with np.errstate(over="ignore"):  # 1 / (1 + inf) is 0 all the same
        result: Array = 1 / (1 + np.exp(-v))
    return result


def activate(layer: dict[str, Any], g: Array, u: Array) -> Array:
    kind, limit = layer.get("activation", "SWIGLU"), layer.get("clamp_limit", 0.0)
    if kind == "SITU":
        b, c = layer["situ_beta"], layer["situ_linear_beta"]
        result: Array = b * np.tanh(g / b) * sigmoid(g) * c * np.tanh(u / c)
        return result
    if limit:
        g, u = np.minimum(g, limit), np.clip(u, -limit, limit)
    alpha, beta = 1.0, 0.0
    if kind == "GATED":
        alpha, beta = layer.get("activation_alpha", 0.0), layer.get("activation_beta", 0.0)
    elif kind == "SWIGLU_GPTOSS":
        alpha = layer.get("activation_alpha") or float(np.float32(1.702))
        beta = layer.get("activation_beta") or 1.0
    result = g * sigmoid(alpha * g) * (u + beta)
    return result


def slot_of(layer: dict[str, Any], expert_id: int) -> int:
    """Local expert of an id, -1 if it is not held here."""
    experts, placement = layer["experts"], layer.get("placement")
    if "PHYSICAL_IDS" in layer.get("flags", []):
        slot = expert_id - layer.get("physical_first", 0)
        return slot if 0 <= slot < experts else -1
    if placement:
        return placement.index(expert_id) if expert_id in placement else -1
    slot = expert_id - layer.get("expert_first", 0)
    return slot if 0 <= slot < experts else -1


def reference(layer: dict[str, Any], data: Data, accumulate: bool) -> Array:
    """[tokens, hidden] in fp64, without any rounding but the inputs'."""
    x = bf16_values(data.x).astype(np.float64)
    router = bf16_values(data.router).astype(np.float64)
    factor = layer.get("routed_scaling_factor", 0.0) or 1.0
    position = layer.get("router_weight_position", "AFTER_W2")
    out = np.zeros((data.tokens, data.hidden))
    for token in range(data.tokens):
        for k in range(data.top_k):
            slot = slot_of(layer, int(data.ids[token, k]))
            if slot < 0:
                continue
            part = data.parts
            w1 = dequantised(part["gate_codes"][slot], part["gate_scales"][slot])
            w3 = dequantised(part["up_codes"][slot], part["up_scales"][slot])
            w2 = dequantised(part["down_codes"][slot], part["down_scales"][slot])
            row, weight = x[token], router[token, k]
            if position == "ON_INPUT":
                row = row * weight
            g, u = w1 @ row, w3 @ row
            if layer.get("w13_bias"):
                g = g + bf16_values(part["gate_bias"][slot])
                u = u + bf16_values(part["up_bias"][slot])
            h = activate(layer, g, u)
            if position == "BEFORE_W2":
                h = h * weight
            y = w2 @ h
            if layer.get("w2_bias") and not layer.get("tp_rank"):
                y = y + bf16_values(part["down_bias"][slot])
            out[token] += y * weight if position == "AFTER_W2" else y
    out *= factor
    if accumulate:
        out += bf16_values(data.out)
    return out
