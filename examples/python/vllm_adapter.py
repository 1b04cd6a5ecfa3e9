"""dsv4mx in place of vLLM's Mxfp4MoEMethod: the same calls, written for vLLM 0.11 and 0.12.

    # vllm/model_executor/layers/quantization/mxfp4.py, Mxfp4Config.get_quant_method:
    return Dsv4mxMoEMethod(layer.moe_config)

vLLM registers uint8 parameters w13_weight [E, 2I, H/2], w13_weight_scale [E, 2I, H/32], w13_bias [E, 2I], w2_weight
[E, H, I/2], w2_weight_scale [E, H, I/32], w2_bias [E, H], loads them, and calls process_weights_after_loading(layer), then
apply(layer, x, router_logits), where layer.select_experts gives the routing. dsv4mx needs no padding: sizes are the model's.
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


class Dsv4mxMoEMethod:
    """In vLLM it derives from FusedMoEMethodBase, which asks for the four methods below."""

    def __init__(self, moe: Any) -> None:
        self.moe = moe

    def create_weights(
        self,
        layer: Any,
        num_experts: int,
        hidden_size: int,
        intermediate_size_per_partition: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        e, h, i = num_experts, hidden_size, intermediate_size_per_partition
        layer.params_dtype, layer.num_experts = params_dtype, e
        layer.hidden_size, layer.intermediate_size_per_partition = h, i
        for name, shape, dtype in (
            ("w13_weight", (e, 2 * i, h // 2), torch.uint8),
            ("w13_weight_scale", (e, 2 * i, h // 32), torch.uint8),
            ("w13_bias", (e, 2 * i), torch.bfloat16),
            ("w2_weight", (e, h, i // 2), torch.uint8),
            ("w2_weight_scale", (e, h, i // 32), torch.uint8),
            ("w2_bias", (e, h), torch.bfloat16),
        ):
            parameter = torch.nn.Parameter(torch.zeros(shape, dtype=dtype), requires_grad=False)
            layer.register_parameter(name, parameter)
            for attribute, value in extra_weight_attrs.items():
                setattr(parameter, attribute, value)

    def process_weights_after_loading(self, layer: Any) -> None:
        w13 = layer.w13_weight.data
        gpt_oss = str(getattr(layer.activation, "value", layer.activation)) == "swigluoai"
        # An expert_map [global experts] holds local numbers, -1 elsewhere: turned round it is a placement.
        placement = None
        if layer.expert_map is not None:
            held = layer.expert_map.tolist()
            placement = [held.index(local) for local in range(w13.shape[0])]
        self.layer = dsv4mx.Layer(
            context_of(w13.device),
            hidden=layer.hidden_size,
            intermediate=layer.intermediate_size_per_partition,
            experts=w13.shape[0],
            experts_global=layer.global_num_experts,
            placement=placement,
            top_k=layer.top_k,
            # GPT-OSS checkpoints interleave gate and up; DeepSeek's stand one after the other.
            w13_order="interleaved" if gpt_oss else "gate_up",
            activation="swiglu_gptoss" if gpt_oss else "swiglu",
            clamp_limit=7.0 if gpt_oss else getattr(layer, "swiglu_limit", None) or 0.0,
            w13_bias="bfloat16" if gpt_oss else None,
            w2_bias="bfloat16" if gpt_oss else None,
            router_weight_position="on_input" if layer.apply_router_weight_on_input else "after_w2",
            ids_dtype="int32",
        )
        # vLLM asks select_experts for ids of the dtype its kernels want, int32 or int64; both run with the same weights.
        self.layers = {torch.int32: self.layer, torch.int64: self.layer.replace(ids_dtype="int64")}
        self.weights = dsv4mx.Weights(self.layer)
        names = ["w13_weight", "w13_weight_scale", "w2_weight", "w2_weight_scale"]
        for name in names + (["w13_bias", "w2_bias"] if gpt_oss else []):
            self.weights.set(name, getattr(layer, name).data)
        self.weights.prepare()
        for name in names:
            getattr(layer, name).data = torch.empty(0, dtype=torch.uint8, device=w13.device)

    def get_fused_moe_quant_config(self, layer: Any) -> None:
        return None

    def apply(self, layer: Any, x: torch.Tensor, router_logits: torch.Tensor) -> torch.Tensor:
        topk_weights, topk_ids = layer.select_experts(hidden_states=x, router_logits=router_logits)
        result: torch.Tensor = self.layers[topk_ids.dtype].apply(self.weights, x, topk_ids, topk_weights)
        return result
