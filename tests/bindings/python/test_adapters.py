# SPDX-License-Identifier: Apache-2.0
"""The engines' adapters in examples/python, against small stand-ins of the calling conventions they are written for, and a
plain torch computation of the layer. The transformers module is the real one, where transformers is installed."""

from __future__ import annotations

import enum
import inspect
import sys
import types
from pathlib import Path
from typing import NamedTuple

import dsv4mx
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples/python"))

E, H, I, K, M = 4, 64, 32, 2, 7
VALUES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def dequantised(codes, scales):
    codes = torch.from_numpy(codes).long()
    values = torch.stack([VALUES[codes & 15], VALUES[codes >> 4]], dim=-1).flatten(-2)
    return values * torch.exp2(torch.from_numpy(scales).float() - 127).repeat_interleave(32, dim=-1)


class Experts:
    """Random experts, and the layer in fp32 torch."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.w13 = rng.integers(0, 256, (E, 2 * I, H // 2), np.uint8)
        self.w13_scale = rng.integers(118, 122, (E, 2 * I, H // 32), np.uint8)
        self.w2 = rng.integers(0, 256, (E, H, I // 2), np.uint8)
        self.w2_scale = rng.integers(118, 122, (E, H, I // 32), np.uint8)
        self.w13_bias = rng.standard_normal((E, 2 * I)).astype(np.float32)
        self.w2_bias = rng.standard_normal((E, H)).astype(np.float32)
        self.x = torch.from_numpy(rng.standard_normal((M, H)).astype(np.float32)).bfloat16()
        self.ids = torch.from_numpy(np.array([rng.permutation(E)[:K] for _ in range(M)], np.int32))
        self.router = torch.from_numpy(rng.random((M, K)).astype(np.float32))

    def expert(self, number, x, gpt_oss=False, limit=0.0, bias=False):
        w13, w2 = (
            dequantised(self.w13[number], self.w13_scale[number]),
            dequantised(self.w2[number], self.w2_scale[number]),
        )
        both = x @ w13.T
        if bias:
            both = both + torch.from_numpy(self.w13_bias[number])
        gate, up = (both[..., 0::2], both[..., 1::2]) if gpt_oss else both.chunk(2, dim=-1)
        if limit:
            gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        h = gate * torch.sigmoid(1.702 * gate) * (up + 1) if gpt_oss else torch.nn.functional.silu(gate) * up
        out = h @ w2.T
        return out + torch.from_numpy(self.w2_bias[number]) if bias else out

    def layer(self, ids=None, **options):
        ids = self.ids if ids is None else ids
        out = torch.zeros((M, H))
        for token in range(M):
            for slot in range(K):
                if ids[token, slot] >= 0:
                    number = int(ids[token, slot])
                    out[token] += self.router[token, slot] * self.expert(number, self.x[token].float(), **options)
        return out


def close(out, wanted, limit=6e-3):
    error = (out.float().cpu() - wanted).norm() / wanted.norm()
    assert error < limit, float(error)


# --- SGLang --------------------------------------------------------------------------------------------------------


class Format(enum.Enum):
    STANDARD = 1
    BYPASSED = 2


class StandardTopKOutput(NamedTuple):
    topk_weights: torch.Tensor
    topk_ids: torch.Tensor
    router_logits: torch.Tensor
    format: Format = Format.STANDARD


class StandardDispatchOutput(NamedTuple):
    hidden_states: torch.Tensor
    hidden_states_scale: torch.Tensor | None
    topk_output: StandardTopKOutput
    hidden_states_pre_quant: tuple[torch.Tensor, ...] | None = None


class StandardCombineInput(NamedTuple):
    hidden_states: torch.Tensor


class TopKOutputChecker:
    @staticmethod
    def format_is_standard(output):
        return output.format == Format.STANDARD


class Mxfp4MarlinMoEMethod:
    """What SGLang 0.5.16 to 0.5.23 have under this name: the signatures, and parameters with the padding of 0.5.16 to 0.5.22."""

    def __init__(self, fp8_method, prefix: str):
        self._fp8 = fp8_method
        self.prefix = prefix

    def create_moe_runner(self, layer, moe_runner_config):
        self.runner = types.SimpleNamespace(config=moe_runner_config)

    def create_weights(
        self, layer, num_experts, hidden_size, intermediate_size_per_partition, params_dtype, **extra_weight_attrs
    ):
        layer._dsv4_mxfp4_backend = None
        e, h, i = num_experts, -(-hidden_size // 256) * 256, -(-intermediate_size_per_partition // 128) * 128
        for name, rows, columns in (("w13", 2 * i, h), ("w2", h, i)):
            codes = torch.empty((e, rows, columns // 2), dtype=torch.int8)
            layer.register_parameter(name + "_weight", torch.nn.Parameter(codes, requires_grad=False))
            ones = torch.full((e, rows, columns // 32), 127, dtype=torch.uint8).view(torch.float8_e8m0fnu)
            layer.register_parameter(name + "_weight_scale_inv", torch.nn.Parameter(ones, requires_grad=False))

    def process_weights_after_loading(self, layer) -> None:
        raise AssertionError("this would make Marlin's form")

    def apply(self, layer, dispatch_output):
        raise AssertionError("this would run Marlin")


@pytest.fixture
def sglang(monkeypatch):
    layers = "sglang.srt.layers"
    modules = {
        "sglang": {},
        "sglang.srt": {},
        layers: {},
        layers + ".quantization": {},
        layers + ".quantization.mxfp4_marlin_moe": {"Mxfp4MarlinMoEMethod": Mxfp4MarlinMoEMethod},
        layers + ".moe": {},
        layers + ".moe.token_dispatcher": {},
        layers + ".moe.token_dispatcher.standard": {"StandardCombineInput": StandardCombineInput},
        layers + ".moe.topk": {"TopKOutputChecker": TopKOutputChecker},
    }
    put(monkeypatch, modules)


def put(monkeypatch, modules):
    for name, members in modules.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)


def same_signatures(ours, theirs, names):
    for name in names:
        wanted = list(inspect.signature(getattr(theirs, name)).parameters.values())
        got = list(inspect.signature(getattr(ours, name)).parameters.values())
        assert [(p.name, p.kind) for p in got] == [(p.name, p.kind) for p in wanted], name


def sglang_method(device, experts, config, form="checkpoint"):
    from sglang_adapter import Dsv4mxMoEMethod

    method, layer = Dsv4mxMoEMethod(None, "model.layers.3.mlp.experts"), torch.nn.Module()
    method.create_moe_runner(layer, config)
    if form == "checkpoint":
        method.create_weights(layer, E, H, I, torch.bfloat16)
        for name, rows, columns in (("w13", (slice(0, I), slice(128, 128 + I)), H), ("w2", (slice(0, H),), I)):
            codes, scales = (
                torch.from_numpy(getattr(experts, name)),
                torch.from_numpy(getattr(experts, name + "_scale")),
            )
            for part, place in enumerate(rows):  # as the loader of padded parameters does
                size = place.stop - place.start
                own = slice(part * size, (part + 1) * size)
                layer._parameters[name + "_weight"][:, place, : columns // 2] = codes[:, own].view(torch.int8)
                layer._parameters[name + "_weight_scale_inv"].view(torch.uint8)[:, place, : columns // 32] = scales[
                    :, own
                ]
    else:
        made = dsv4mx.Layer(dsv4mx.Context("cpu"), hidden=H, intermediate=I, experts=E, top_k=K, w13_order="gate_up")
        weights = dsv4mx.Weights(made)
        for name in ("w13", "w2"):
            weights.set(name + "_weight", getattr(experts, name))
            weights.set(name + "_weight_scale", getattr(experts, name + "_scale"))
        weights.prepare()
        shapes = weights.marlin_shapes()
        tensors = {name: torch.zeros(shapes[name], dtype=torch.int32) for name in ("w13", "w2")}
        tensors |= {name: torch.zeros(shapes[name], dtype=torch.uint8) for name in ("w13_scale", "w2_scale")}
        weights.export_marlin(**tensors)
        for name in ("w13", "w2"):
            layer.register_parameter(name + "_weight", torch.nn.Parameter(tensors[name], requires_grad=False))
            scale = tensors[name + "_scale"].view(torch.float8_e8m0fnu)
            layer.register_parameter(name + "_weight_scale", torch.nn.Parameter(scale, requires_grad=False))
    layer.to(device)
    method.process_weights_after_loading(layer)
    return method, layer


def config(**changes):
    return types.SimpleNamespace(
        **{
            "num_experts": E, "num_local_experts": E, "hidden_size": H, "intermediate_size_per_partition": I, "top_k": K,
            "activation": "silu", "apply_router_weight_on_input": False, "routed_scaling_factor": None,
            "gemm1_alpha": None, "gemm1_clamp_limit": None, "swiglu_limit": 10.0,
        }
        | changes
    )  # fmt: skip


@pytest.mark.parametrize("form", ["checkpoint", "marlin"])
def test_sglang(device, sglang, form):
    experts = Experts()
    method, layer = sglang_method(device, experts, config(), form)
    assert isinstance(method, Mxfp4MarlinMoEMethod)  # as SGLang's own code asks
    topk = StandardTopKOutput(experts.router.to(device), experts.ids.to(device), torch.empty(0))
    result = method.apply(layer, StandardDispatchOutput(experts.x.to(device), None, topk))
    assert isinstance(result, StandardCombineInput)
    close(result.hidden_states, experts.layer(limit=10.0))
    assert layer._dsv4_mxfp4_backend == "dsv4mx" and layer.w13_weight.numel() == 0


def test_sglang_expert_parallel_and_scaling(device, sglang):
    experts = Experts(1)
    method, layer = sglang_method(device, experts, config(routed_scaling_factor=2.5, swiglu_limit=None))
    ids = experts.ids.clone()
    ids[::2, 1] = -1
    topk = StandardTopKOutput(experts.router.to(device), ids.to(device), torch.empty(0))
    dispatch = StandardDispatchOutput(experts.x.to(device), None, topk)
    close(method.apply(layer, dispatch).hidden_states, 2.5 * experts.layer(ids))
    with pytest.raises(ValueError, match="Unsupported topk output format"):
        method.apply(layer, dispatch._replace(topk_output=topk._replace(format=Format.BYPASSED)))
    with pytest.raises(ValueError, match=r"model\.layers\.3\.mlp\.experts: activation 'gelu'"):
        sglang_method(device, experts, config(activation="gelu"))


def test_sglang_signatures(sglang):
    from sglang_adapter import Dsv4mxMoEMethod

    methods = ("__init__", "create_moe_runner", "create_weights", "process_weights_after_loading", "apply")
    same_signatures(Dsv4mxMoEMethod, Mxfp4MarlinMoEMethod, methods)


# --- vLLM ----------------------------------------------------------------------------------------------------------


class FusedMoEMethodBase:
    """The signatures of vLLM 0.33.0's class of this name that a method has to have."""

    def __init__(self, moe):
        self.moe, self.moe_quant_config, self.moe_kernel = moe, None, None

    def create_weights(
        self, layer, num_experts, hidden_size, intermediate_size_per_partition, params_dtype, **extra_weight_attrs
    ):
        raise NotImplementedError

    def process_weights_after_loading(self, layer):
        raise NotImplementedError

    def get_fused_moe_quant_config(self, layer):
        raise NotImplementedError

    def apply(self, layer, x, topk_weights, topk_ids, shared_experts, shared_experts_input):
        raise NotImplementedError


@pytest.fixture
def vllm(monkeypatch):
    names = ["vllm", "vllm.model_executor", "vllm.model_executor.layers"]
    modules = {name: {} for name in names}
    put(monkeypatch, modules | {names[-1] + ".fused_moe": {"FusedMoEMethodBase": FusedMoEMethodBase}})


class RoutedExperts(torch.nn.Module):
    """What vLLM's layer of this name offers a method, and how it calls it, as of 0.33.0."""

    def __init__(self, experts, activation="silu", has_bias=False, expert_map=None, held=range(E)):
        from vllm_adapter import Dsv4mxMoEMethod

        super().__init__()
        self.activation, self.top_k, self.global_num_experts = activation, K, E
        self.expert_map, self.apply_router_weight_on_input = expert_map, False
        self.swiglu_limit = self.swiglu_alpha = self.swiglu_beta = None
        self.quant_method = Dsv4mxMoEMethod(types.SimpleNamespace(has_bias=has_bias))
        parameters = {
            "num_experts": len(held), "hidden_size": H, "unpadded_hidden_size": H, "intermediate_size_per_partition": I,
            "params_dtype": torch.bfloat16, "weight_loader": self.weight_loader, "global_num_experts": E,
        }  # fmt: skip
        self.quant_method.create_weights(layer=self, **parameters)
        for name in ("w13", "w2"):
            self.load(name + "_weight", torch.from_numpy(getattr(experts, name)[held]))
            scale = torch.from_numpy(getattr(experts, name + "_scale")[held])
            self.load(name + "_weight_scale", scale.view(torch.float8_e8m0fnu))
            if has_bias:
                self.load(name + "_bias", torch.from_numpy(getattr(experts, name + "_bias")[held]).bfloat16())

    def load(self, name, tensor):
        parameter = getattr(self, name)
        for number, part in enumerate(tensor):
            parameter.weight_loader(parameter, part, name, "w13", number, return_success=True)

    def weight_loader(self, param, loaded_weight, weight_name, shard_id, expert_id, return_success=False):
        assert loaded_weight.dtype == param.dtype, weight_name
        param.data[expert_id] = loaded_weight
        return True if return_success else None

    def forward_modular(self, x, topk_weights, topk_ids):
        return self.quant_method.apply(
            layer=self,
            x=x,
            topk_weights=topk_weights,
            topk_ids=topk_ids,
            shared_experts=None,
            shared_experts_input=None,
        )


def vllm_apply(device, experts, ids_dtype=torch.int32, **options):
    layer = RoutedExperts(experts, **options).to(device)
    layer.quant_method.process_weights_after_loading(layer)
    assert layer.w13_weight.numel() == 0 and layer.quant_method.get_fused_moe_quant_config(layer) is None
    return layer.forward_modular(experts.x.to(device), experts.router.to(device), experts.ids.to(device, ids_dtype))


@pytest.mark.parametrize("ids_dtype", [torch.int32, torch.int64])
def test_vllm(device, vllm, ids_dtype):
    experts = Experts(2)
    close(vllm_apply(device, experts, ids_dtype), experts.layer())


def test_vllm_gpt_oss(device, vllm):
    experts = Experts(3)
    out = vllm_apply(device, experts, activation="swigluoai", has_bias=True)
    close(out, experts.layer(gpt_oss=True, limit=7.0, bias=True))
    with pytest.raises(ValueError, match="activation gelu"):
        vllm_apply(device, experts, activation="gelu")


def test_vllm_expert_parallel(device, vllm):
    experts = Experts(4)
    out = vllm_apply(device, experts, expert_map=torch.tensor([-1, 1, -1, 0]), held=[3, 1])
    ids = torch.where((experts.ids == 1) | (experts.ids == 3), experts.ids, -1)
    close(out, experts.layer(ids))


def test_vllm_signatures(vllm):
    from vllm_adapter import Dsv4mxMoEMethod

    methods = ("create_weights", "process_weights_after_loading", "get_fused_moe_quant_config", "apply")
    same_signatures(Dsv4mxMoEMethod, FusedMoEMethodBase, methods)


# --- transformers --------------------------------------------------------------------------------------------------


def stored(experts):
    """The tensors of a GPT-OSS checkpoint."""
    return {
        "gate_up_proj_blocks": torch.from_numpy(experts.w13).view(E, 2 * I, H // 32, 16),
        "gate_up_proj_scales": torch.from_numpy(experts.w13_scale),
        "gate_up_proj_bias": torch.from_numpy(experts.w13_bias),
        "down_proj_blocks": torch.from_numpy(experts.w2).view(E, H, I // 32, 16),
        "down_proj_scales": torch.from_numpy(experts.w2_scale),
        "down_proj_bias": torch.from_numpy(experts.w2_bias),
    }


def routing(experts, dense, dtype=torch.bfloat16):
    """As GptOssTopKRouter gives it: scattered over all experts in transformers 4.57, [tokens, top_k] in 5.x."""
    weights = torch.zeros((M, E)).scatter_(1, experts.ids.long(), experts.router) if dense else experts.router
    return {"router_indices": experts.ids.long(), "routing_weights": weights.to(dtype)}


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_transformers_stand_in(device, dense, dtype):
    from transformers_adapter import Dsv4mxExperts

    experts = Experts(5)
    experts.router = experts.router.bfloat16().float()
    tensors = {name: value.to(device) for name, value in stored(experts).items()}
    if dense:
        module = torch.nn.Module()
        module.alpha, module.limit = 1.702, 7.0
        for name, value in tensors.items():
            module.register_parameter(name, torch.nn.Parameter(value, requires_grad=False))
        module = Dsv4mxExperts.from_mxfp4(module, top_k=K)
    else:
        module = Dsv4mxExperts.from_tensors(tensors, K, 7.0)
    given = {name: value.to(device) for name, value in routing(experts, dense, dtype).items()}
    out = module(experts.x.view(1, M, H).to(device), **given)
    assert out.shape == (1, M, H)
    close(out[0], experts.layer(gpt_oss=True, limit=7.0, bias=True))


def test_transformers(device):
    """The real modules: GptOssExperts, with the weights that transformers itself dequantises, against the adapter."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4", reason="needs transformers with MXFP4")
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
    from transformers_adapter import Dsv4mxExperts

    experts = Experts(6)
    experts.router = experts.router.bfloat16().float()
    tensors = stored(experts)
    settings = transformers.GptOssConfig(num_local_experts=E, hidden_size=H, intermediate_size=I, num_experts_per_tok=K)
    dense = int(transformers.__version__.split(".")[0]) < 5
    if dense:
        module = mxfp4.Mxfp4GptOssExperts(settings)
        for name, value in tensors.items():
            own = getattr(module, name)
            assert own.shape == value.shape and own.dtype == value.dtype, name
            own.data = value
        module = Dsv4mxExperts.from_mxfp4(module.to(device), top_k=settings.num_experts_per_tok)
    else:
        on_device = {name: value.to(device) for name, value in tensors.items()}
        module = Dsv4mxExperts.from_tensors(on_device, settings.num_experts_per_tok)
    plain = GptOssExperts(settings).eval()
    with torch.no_grad():
        for name in ("gate_up_proj", "down_proj"):
            blocks, scales = tensors[name + "_blocks"], tensors[name + "_scales"]
            getattr(plain, name).data = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).cpu()
            getattr(plain, name + "_bias").data = tensors[name + "_bias"]
        given = routing(experts, dense, torch.float32)
        x = experts.x.float()
        wanted = plain(x.view(1, M, H) if dense else x, given["router_indices"], given["routing_weights"]).view(M, H)
    given = {name: value.to(device) for name, value in routing(experts, dense).items()}
    close(module(experts.x.to(device), **given), wanted)
