"""dsv4mx in place of the MXFP4 experts of Hugging Face transformers (GPT-OSS), written for transformers 4.57 and 5.x.

    for decoder in model.model.layers:            # 4.57: a Mxfp4GptOssExperts with *_blocks and *_scales
        decoder.mlp.experts = Dsv4mxExperts.from_mxfp4(decoder.mlp.experts, top_k=config.num_experts_per_tok)

    # 5.x keeps no scales in the module: from the checkpoint's tensors, gate_up_proj_blocks and so on
    decoder.mlp.experts = Dsv4mxExperts.from_tensors(tensors, top_k=config.num_experts_per_tok)

Dsv4mxExperts is called as GptOssExperts is: experts(hidden_states, router_indices, routing_weights), with int64 indices
[tokens, top_k]. Weights are [tokens, num_experts] in 4.57, and [tokens, top_k] in 5.x.
"""

from __future__ import annotations

from typing import Any

import dsv4mx
import torch

_contexts: dict[str, dsv4mx.Context] = {}


def context_of(device: torch.device) -> dsv4mx.Context:
    """One context for each device of the process."""
    name = "cpu" if device.type == "cpu" else f"cuda:{device.index or 0}"
    if name not in _contexts:
        _contexts[name] = dsv4mx.Context(name)
    return _contexts[name]


class Dsv4mxExperts(torch.nn.Module):
    """The experts of one GPT-OSS layer."""

    def __init__(self, layer: dsv4mx.Layer, weights: dsv4mx.Weights, dense_weights: bool) -> None:
        super().__init__()
        # The router's weights have the model's dtype; both layers run with the same experts.
        self.layers = {torch.bfloat16: layer, torch.float32: layer.replace(router_weight_dtype="float32")}
        self.weights = weights
        self.dense_weights = dense_weights

    @classmethod
    def from_mxfp4(cls, experts: Any, top_k: int) -> Dsv4mxExperts:
        """From a Mxfp4GptOssExperts of transformers 4.57."""
        names = ("gate_up_proj_blocks", "gate_up_proj_scales", "gate_up_proj_bias")
        names += ("down_proj_blocks", "down_proj_scales", "down_proj_bias")
        tensors = {name: getattr(experts, name).data for name in names}
        return cls.from_tensors(tensors, top_k, experts.limit, alpha=experts.alpha, dense_weights=True)

    @classmethod
    def from_tensors(
        cls,
        tensors: dict[str, torch.Tensor],
        top_k: int,
        limit: float = 7.0,
        *,
        alpha: float = 1.702,
        dense_weights: bool = False,
    ) -> Dsv4mxExperts:
        """From blocks [E, rows, K/32, 16] uint8, scales [E, rows, K/32] uint8 and biases [E, rows] as GPT-OSS stores them."""
        blocks, down = tensors["gate_up_proj_blocks"], tensors["down_proj_blocks"]
        layer = dsv4mx.Layer(
            context_of(blocks.device),
            hidden=down.shape[1],
            intermediate=blocks.shape[1] // 2,
            experts=blocks.shape[0],
            top_k=top_k,
            w13_order="interleaved",
            activation="swiglu_gptoss",
            activation_alpha=alpha,
            clamp_limit=limit,
            w13_bias=tensors["gate_up_proj_bias"].dtype,
            w2_bias=tensors["down_proj_bias"].dtype,
            ids_dtype="int64",
            router_weight_dtype="bfloat16",
        )
        weights = dsv4mx.Weights(layer)
        for name in ("gate_up_proj_blocks", "gate_up_proj_scales", "gate_up_proj_bias"):
            weights.set(name, tensors[name])
        for name in ("down_proj_blocks", "down_proj_scales", "down_proj_bias"):
            weights.set(name, tensors[name])
        return cls(layer, weights.prepare(), dense_weights)

    def forward(
        self, hidden_states: torch.Tensor, router_indices: torch.Tensor, routing_weights: torch.Tensor
    ) -> torch.Tensor:
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        chosen = routing_weights.gather(1, router_indices) if self.dense_weights else routing_weights
        result: torch.Tensor = self.layers[chosen.dtype].apply(self.weights, x, router_indices, chosen)
        return result.view(hidden_states.shape)
