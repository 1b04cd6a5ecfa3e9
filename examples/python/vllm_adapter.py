"""dsv4mx in place of vLLM's Mxfp4MoEMethod: the same calls, written for vLLM 0.33.

    # vllm/model_executor/layers/quantization/mxfp4.py asks this for the method of a layer; in a plugin:
    from vllm.model_executor.layers.quantization.mxfp4 import GptOssMxfp4Config, Mxfp4Config
    for config in (Mxfp4Config, GptOssMxfp4Config):
        config._make_moe_method = lambda self, moe: Dsv4mxMoEMethod(moe)

vLLM makes a RoutedExperts layer, whose constructor calls create_weights: uint8 parameters w13_weight [E, 2I, H/2],
w13_weight_scale [E, 2I, H/32], w2_weight [E, H, I/2], w2_weight_scale [E, H, I/32], and with biases w13_bias [E, 2I] and w2_bias
[E, H]. It loads them, calls process_weights_after_loading(layer), then for each step apply(layer, x, topk_weights, topk_ids,
shared_experts, shared_experts_input) with the router's choice; shared experts and the routed scaling factor stay its own
matter. dsv4mx needs no padding: sizes are the model's.
"""

from __future__ import annotations

from typing import Any

import dsv4mx
import torch
from vllm.model_executor.layers.fused_moe import FusedMoEMethodBase

_contexts: dict[str, dsv4mx.Context] = {}


def context_of(device: torch.device) -> dsv4mx.Context:
    """One context for each device of the process."""
    name = "cpu" if device.type == "cpu" else f"cuda:{device.index or 0}"
    if name not in _contexts:
        _contexts[name] = dsv4mx.Context(name)
    return _contexts[name]


def activation_of(layer: Any) -> dict[str, Any]:
    """The layer's activation in dsv4mx's words; GPT-OSS interleaves gate and up, others have one after the other."""
    name = str(getattr(layer.activation, "value", layer.activation))
    if name == "silu":
        return {"w13_order": "gate_up", "activation": "swiglu", "clamp_limit": layer.swiglu_limit or 0.0}
    if name in ("swigluoai", "swigluoai_uninterleave"):
        return {
            "w13_order": "interleaved" if name == "swigluoai" else "gate_up",
            "activation": "swiglu_gptoss",
            "activation_alpha": layer.swiglu_alpha or 1.702,
            "activation_beta": layer.swiglu_beta or 0.0,  # 0 is GPT-OSS's 1
            "clamp_limit": layer.swiglu_limit or 7.0,
        }
    raise ValueError(f"activation {name}, wanted silu, swigluoai or swigluoai_uninterleave")


class Dsv4mxMoEMethod(FusedMoEMethodBase):  # type: ignore[misc]
    """MXFP4 experts by dsv4mx."""

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
        loader = extra_weight_attrs.get("weight_loader")

        def load_scale(parameter: Any, loaded: torch.Tensor, *arguments: Any, **named: Any) -> Any:
            """Scales as bytes, whether a checkpoint calls them E8M0 or uint8."""
            raw = loaded.view(torch.uint8) if loaded.dtype == torch.float8_e8m0fnu else loaded
            return loader(parameter, raw, *arguments, **named) if loader is not None else None

        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "w13_weight": ((e, 2 * i, h // 2), torch.uint8),
            "w13_weight_scale": ((e, 2 * i, h // 32), torch.uint8),
            "w2_weight": ((e, h, i // 2), torch.uint8),
            "w2_weight_scale": ((e, h, i // 32), torch.uint8),
        }
        if self.moe.has_bias:
            shapes["w13_bias"] = ((e, 2 * i), torch.bfloat16)
            shapes["w2_bias"] = ((e, h), torch.bfloat16)
        for name, (shape, dtype) in shapes.items():
            parameter = torch.nn.Parameter(torch.zeros(shape, dtype=dtype), requires_grad=False)
            layer.register_parameter(name, parameter)
            for attribute, value in extra_weight_attrs.items():
                setattr(parameter, attribute, value)
            if name.endswith("_scale"):
                parameter.weight_loader = load_scale  # type: ignore[attr-defined]
                parameter.quant_method = "block"  # type: ignore[attr-defined]

    def process_weights_after_loading(self, layer: Any) -> None:
        w13, w2 = layer.w13_weight.data, layer.w2_weight.data
        # An expert_map [global experts] holds local numbers, -1 elsewhere: turned round it is a placement.
        placement = None
        if layer.expert_map is not None:
            held = layer.expert_map.tolist()
            placement = [held.index(local) for local in range(w13.shape[0])]
        bias = "bfloat16" if self.moe.has_bias else None
        self.layer = dsv4mx.Layer(
            context_of(w13.device),
            hidden=w2.shape[1],
            intermediate=w2.shape[2] * 2,
            experts=w13.shape[0],
            experts_global=layer.global_num_experts,
            placement=placement,
            top_k=layer.top_k,
            w13_bias=bias,
            w2_bias=bias,
            router_weight_position="on_input" if layer.apply_router_weight_on_input else "after_w2",
            ids_dtype="int32",
            **activation_of(layer),
        )
        # Routers give int32 or int64; both run with the same weights.
        self.layers = {torch.int32: self.layer, torch.int64: self.layer.replace(ids_dtype="int64")}
        self.weights = dsv4mx.Weights(self.layer)
        names = ["w13_weight", "w13_weight_scale", "w2_weight", "w2_weight_scale"]
        for name in names + (["w13_bias", "w2_bias"] if bias else []):
            self.weights.set(name, getattr(layer, name).data)
        self.weights.prepare()
        for name in names:  # the library holds the experts now
            getattr(layer, name).data = torch.empty(0, dtype=torch.uint8, device=w13.device)

    def get_fused_moe_quant_config(self, layer: Any) -> None:
        return None

    def apply(
        self,
        layer: Any,
        x: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        shared_experts: Any,
        shared_experts_input: torch.Tensor | None,
    ) -> torch.Tensor:
        result: torch.Tensor = self.layers[topk_ids.dtype].apply(self.weights, x, topk_ids, topk_weights)
        return result
