"""dsv4mx in place of SGLang's Mxfp4MarlinMoEMethod: the same calls, written for SGLang 0.5.16 to 0.5.19.

    # python/sglang/srt/layers/quantization/fp8.py makes the method of a layer; there:
    return Dsv4mxMoEMethod(fp8_method, prefix)

What it takes from SGLang are calling conventions alone: create_weights(layer, num_experts, hidden_size,
intermediate_size_per_partition, params_dtype, **attributes), process_weights_after_loading(layer),
create_moe_runner(layer, moe_runner_config) and apply(layer, dispatch_output) -> combine input. Experts come as the checkpoint
has them (int8 codes [E, 2I, H/2], scales of any kind), or already in Marlin form (int32 tiles).
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


def first_of(layer: Any, *names: str) -> torch.Tensor | None:
    return next((getattr(layer, name).data for name in names if getattr(layer, name, None) is not None), None)


def scale_bytes(scale: torch.Tensor) -> torch.Tensor:
    """int8 holds raw E8M0 bytes; everything else says itself what it is."""
    return scale.view(torch.uint8) if scale.dtype == torch.int8 else scale


class Dsv4mxMoEMethod:
    """MXFP4 experts by dsv4mx."""

    def __init__(self, fp8_method: Any, prefix: str) -> None:
        self._fp8 = fp8_method
        self.prefix = prefix

    def create_moe_runner(self, layer: Any, moe_runner_config: Any) -> None:
        self.config = moe_runner_config

    def create_weights(
        self,
        layer: Any,
        num_experts: int,
        hidden_size: int,
        intermediate_size_per_partition: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        # The loader of the checkpoint fills the parameters that SGLang's own method registers.
        self._fp8.create_weights(
            layer, num_experts, hidden_size, intermediate_size_per_partition, params_dtype, **extra_weight_attrs
        )

    def process_weights_after_loading(self, layer: Any) -> None:
        w13, w2 = layer.w13_weight.data, layer.w2_weight.data
        w13_scale = first_of(layer, "w13_weight_scale", "w13_weight_scale_inv")
        w2_scale = first_of(layer, "w2_weight_scale", "w2_weight_scale_inv")
        if w13_scale is None or w2_scale is None:
            raise ValueError(f"{self.prefix}: no w13_weight_scale or w13_weight_scale_inv")
        config = self.config
        marlin = w13.dtype == torch.int32
        limit = getattr(config, "swiglu_limit", None) or getattr(config, "gemm1_clamp_limit", None) or 0.0
        self.layer = dsv4mx.Layer(
            context_of(w13.device),
            hidden=config.hidden_size if marlin else w2.shape[1],
            intermediate=config.intermediate_size_per_partition if marlin else w2.shape[2] * 2,
            experts=w13.shape[0],
            top_k=config.top_k,
            w13_order="gate_up",
            clamp_limit=limit,
            router_weight_position="on_input" if config.apply_router_weight_on_input else "after_w2",
            # Applied once, in fp32, where the Marlin method multiplies its bf16 output.
            routed_scaling_factor=self.scaling_factor(),
        )
        self.weights = dsv4mx.Weights(self.layer)
        if marlin:
            self.weights.import_marlin(w13=w13, w13_scale=scale_bytes(w13_scale), w2=w2, w2_scale=scale_bytes(w2_scale))
        else:
            self.weights.set("w13_weight", w13)
            self.weights.set("w13_weight_scale", scale_bytes(w13_scale))
            self.weights.set("w2_weight", w2)
            self.weights.set("w2_weight_scale", scale_bytes(w2_scale))
        self.weights.prepare()
        # The library holds the experts now.
        for name in (
            "w13_weight",
            "w2_weight",
            "w13_weight_scale",
            "w13_weight_scale_inv",
            "w2_weight_scale",
            "w2_weight_scale_inv",
        ):
            if getattr(layer, name, None) is not None:
                getattr(layer, name).data = torch.empty(0, dtype=getattr(layer, name).dtype, device=w13.device)
        layer._dsv4_mxfp4_backend = "dsv4mx"

    def scaling_factor(self) -> float:
        """SGLang multiplies by it later where it fuses the factor with the shared experts' sum."""
        from sglang.srt.utils import envs

        if envs.SGLANG_OPT_MXFP4_FUSE_RSF_SHARED_ADD.get():
            return 1.0
        return self.config.routed_scaling_factor or 1.0

    def apply(self, layer: Any, dispatch_output: Any) -> Any:
        from sglang.srt.layers.moe.token_dispatcher.standard import StandardCombineInput
        from sglang.srt.layers.moe.topk import TopKOutputChecker

        topk_output = dispatch_output.topk_output
        if not TopKOutputChecker.format_is_standard(topk_output):
            raise ValueError(f"Unsupported topk output format: {topk_output.format}")
        # The dispatcher has made ids local, -1 where the expert is another rank's.
        out = self.layer.apply(
            self.weights, dispatch_output.hidden_states, topk_output.topk_ids, topk_output.topk_weights
        )
        return StandardCombineInput(hidden_states=out)
