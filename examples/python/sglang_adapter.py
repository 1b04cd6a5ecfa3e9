"""dsv4mx in place of SGLang's Mxfp4MarlinMoEMethod: the same calls, written for SGLang 0.5.16 to 0.5.23.

    # python/sglang/srt/layers/quantization/fp8.py makes the method of a layer; there, or in a plugin that is imported first:
    from sglang.srt.layers.quantization import mxfp4_marlin_moe
    mxfp4_marlin_moe.Mxfp4MarlinMoEMethod = Dsv4mxMoEMethod          # --moe-runner-backend marlin

It is derived from that method: parameters, loaders (create_weights) and the runner's configuration (create_moe_runner) stay
SGLang's, in whatever form a release has them, and what asks for Mxfp4MarlinMoEMethod finds one. Two methods are other ones:
process_weights_after_loading(layer) gives the experts to dsv4mx, and apply(layer, dispatch_output) -> combine input computes
them. Experts come as the checkpoint has them (int8 codes [E, 2I, H/2], with SGLang's padding, and scales of any kind), or
already in Marlin form (int32 tiles).
"""

from __future__ import annotations

from typing import Any

import dsv4mx
import torch
from sglang.srt.layers.quantization.mxfp4_marlin_moe import Mxfp4MarlinMoEMethod

_contexts: dict[str, dsv4mx.Context] = {}
_NAMES = (
    "w13_weight",
    "w2_weight",
    "w13_weight_scale",
    "w13_weight_scale_inv",
    "w2_weight_scale",
    "w2_weight_scale_inv",
)


def context_of(device: torch.device) -> dsv4mx.Context:
    """One context for each device of the process."""
    name = "cpu" if device.type == "cpu" else f"cuda:{device.index or 0}"
    if name not in _contexts:
        _contexts[name] = dsv4mx.Context(name)
    return _contexts[name]


def scale_of(layer: Any, name: str) -> torch.Tensor:
    for suffix in ("_scale", "_scale_inv"):
        scale = getattr(layer, name + suffix, None)
        if scale is not None:
            # int8 holds raw E8M0 bytes; everything else says itself what it is.
            return scale.data.view(torch.uint8) if scale.dtype == torch.int8 else scale.data
    raise ValueError(f"no {name}_scale or {name}_scale_inv")


def unpadded(tensor: torch.Tensor, parts: int, rows: int, columns: int) -> torch.Tensor:
    """[E, parts * rows, columns] out of rows and columns that SGLang rounded up; the same memory where it did not."""
    experts, _, width = tensor.shape
    return tensor.view(experts, parts, -1, width)[:, :, :rows, :columns].reshape(experts, parts * rows, columns)


class Dsv4mxMoEMethod(Mxfp4MarlinMoEMethod):  # type: ignore[misc]
    """MXFP4 experts by dsv4mx."""

    def process_weights_after_loading(self, layer: Any) -> None:
        config = self.runner.config
        if config.activation != "silu" or config.gemm1_alpha is not None:
            raise ValueError(
                f"{self.prefix}: activation {config.activation!r} with alpha {config.gemm1_alpha}, wanted silu"
            )
        w13, w2 = layer.w13_weight.data, layer.w2_weight.data
        hidden, intermediate = config.hidden_size, config.intermediate_size_per_partition
        marlin = w13.dtype == torch.int32
        if not marlin:  # a release may have rounded the configuration up too, and left the parameters as they are
            hidden, intermediate = min(hidden, w2.shape[1]), min(intermediate, w2.shape[2] * 2)
        self.layer = dsv4mx.Layer(
            context_of(w13.device),
            hidden=hidden,
            intermediate=intermediate,
            experts=w13.shape[0],
            top_k=config.top_k,
            w13_order="gate_up",
            clamp_limit=config.swiglu_limit or config.gemm1_clamp_limit or 0.0,
            router_weight_position="on_input" if config.apply_router_weight_on_input else "after_w2",
            # What the Marlin runner multiplies its output by; None where the release has done so in the router.
            routed_scaling_factor=config.routed_scaling_factor or 1.0,
        )
        self.weights = dsv4mx.Weights(self.layer)
        w13_scale, w2_scale = scale_of(layer, "w13_weight"), scale_of(layer, "w2_weight")
        if marlin:
            self.weights.import_marlin(w13=w13, w13_scale=w13_scale, w2=w2, w2_scale=w2_scale)
        else:
            self.weights.set("w13_weight", unpadded(w13, 2, intermediate, hidden // 2))
            self.weights.set("w13_weight_scale", unpadded(w13_scale, 2, intermediate, hidden // 32))
            self.weights.set("w2_weight", unpadded(w2, 1, hidden, intermediate // 2))
            self.weights.set("w2_weight_scale", unpadded(w2_scale, 1, hidden, intermediate // 32))
        self.weights.prepare()
        for name in _NAMES:  # the library holds the experts now
            if getattr(layer, name, None) is not None:
                getattr(layer, name).data = torch.empty(0, dtype=getattr(layer, name).dtype, device=w13.device)
        layer._dsv4_mxfp4_backend = "dsv4mx"

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
