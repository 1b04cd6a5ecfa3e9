# SPDX-License-Identifier: Apache-2.0
"""The layer as a torch operator: for torch.compile, export and CUDA graphs. Imports torch; the package itself does not.

moe = dsv4mx.torch_op.MoE(layer, weights)
y = moe(x, topk_ids, topk_weights)          # torch.ops.dsv4mx.moe, with a fake implementation
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import torch

from . import raw
from .errors import InvalidError
from .layer import Layer
from .weights import Weights

# Operators take numbers, not objects: each MoE is found under a number of its own.
_live: weakref.WeakValueDictionary[int, MoE] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


def _find(key: int) -> MoE:
    found = _live.get(key)
    if found is None:
        raise InvalidError(
            raw.Status.INVALID_STATE, "moe", f"the MoE of key {key} is gone; keep the object while its graphs live"
        )
    return found


class MoE:
    """A layer and its prepared weights. Keep it as long as graphs that call it."""

    def __init__(self, layer: Layer, weights: Weights) -> None:
        self.layer = layer
        self.weights = weights
        self.key = next(_numbers)
        self.out_dtype = torch.float32 if layer._out_dtype == raw.Dtype.F32 else torch.bfloat16
        _live[self.key] = self

    def __call__(self, x: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.dsv4mx.moe(x, topk_ids, topk_weights, self.key)
        return result

    def into(
        self, x: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor, out: torch.Tensor
    ) -> torch.Tensor:
        """The same into a tensor of the caller's."""
        torch.ops.dsv4mx.moe_out(x, topk_ids, topk_weights, self.key, out)
        return out


def _moe(x: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor, key: int) -> torch.Tensor:
    moe = _find(key)
    result: torch.Tensor = moe.layer.apply(moe.weights, x, topk_ids, topk_weights)
    return result


def _moe_fake(x: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor, key: int) -> torch.Tensor:
    return x.new_empty((x.shape[0], x.shape[1]), dtype=_find(key).out_dtype)


def _moe_out(x: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor, key: int, out: torch.Tensor) -> None:
    moe = _find(key)
    moe.layer.apply(moe.weights, x, topk_ids, topk_weights, out)


def _register() -> None:
    # Schemas by hand: this module's annotations are text, which torch would have to evaluate.
    operator: Any = torch.library.custom_op(
        "dsv4mx::moe", mutates_args=(), schema="(Tensor x, Tensor topk_ids, Tensor topk_weights, int key) -> Tensor"
    )(_moe)
    operator.register_fake(_moe_fake)
    into: Any = torch.library.custom_op(
        "dsv4mx::moe_out",
        mutates_args=("out",),
        schema="(Tensor x, Tensor topk_ids, Tensor topk_weights, int key, Tensor(a!) out) -> ()",
    )(_moe_out)
    into.register_fake(lambda x, topk_ids, topk_weights, key, out: None)


_register()
