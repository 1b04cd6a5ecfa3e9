# SPDX-License-Identifier: Apache-2.0
"""torch tensors, the operator, torch.compile and CUDA graphs: where torch is."""

from __future__ import annotations

import types

import dsv4mx
import numpy as np
import pytest
from conftest import SMALL
from helpers import Numbers, bits

torch = pytest.importorskip("torch", reason="needs torch")


def tensors(numbers, device):
    x = torch.from_numpy(bits(numbers.x).copy()).view(torch.bfloat16)
    return [value.to(device) for value in (x, torch.from_numpy(numbers.ids), torch.from_numpy(numbers.router))]


def to_bits(tensor):
    return tensor.cpu().view(torch.uint16).numpy()


@pytest.fixture
def numbers(device):
    return Numbers(dsv4mx.Context(device), SMALL)


def test_tensors(numbers, device):
    x, ids, router = tensors(numbers, device)
    out = numbers.layer.apply(numbers.weights, x, ids, router)
    assert out.dtype == torch.bfloat16 and out.device == x.device and out.shape == x.shape
    again = torch.zeros_like(out)
    assert numbers.layer.apply(numbers.weights, x, ids, router, again) is again and torch.equal(out, again)
    if device == "cpu":
        assert (to_bits(out) == bits(numbers.apply())).all()
    with pytest.raises(TypeError, match="topk_ids is int64"):
        numbers.layer.apply(numbers.weights, x, ids.long(), router)
    with pytest.raises(TypeError, match="x is float32"):
        numbers.layer.apply(numbers.weights, x.float(), ids, router)
    with pytest.raises(ValueError, match="between neighbours"):
        numbers.layer.apply(numbers.weights, x, ids.t().contiguous().t(), router)
    with pytest.raises(ValueError, match=r"\[tokens, 64\]"):
        numbers.layer.apply(numbers.weights, x[:, :32], ids, router)
    wide = torch.zeros((5, 96), dtype=torch.bfloat16, device=device)
    wide[:, :64] = x
    assert torch.equal(numbers.layer.apply(numbers.weights, wide[:, :64], ids, router), out)


def test_the_current_stream(monkeypatch):
    from dsv4mx._tensors import torch_stream, torch_stream_of

    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 0x100 + device, raising=False)
    current = torch_stream_of(2)
    assert (current(), torch_stream(3)) == (0x102, 0x103)
    monkeypatch.delattr(torch._C, "_cuda_getCurrentRawStream")  # a torch without it
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=0x200 + device))
    assert (torch_stream_of(2)(), torch_stream(3)) == (0x202, 0x203)


def test_wrong_device(numbers, device):
    if device == "cpu":
        meta = torch.empty((5, 64), dtype=torch.bfloat16, device="meta")
        with pytest.raises(ValueError, match="device meta"):
            numbers.layer.apply(numbers.weights, meta, *tensors(numbers, "cpu")[1:])
    else:
        with pytest.raises(ValueError, match="x is in host memory"):
            numbers.layer.apply(numbers.weights, *tensors(numbers, "cpu"))


def test_the_short_way_takes_only_what_is_right(numbers, device, monkeypatch):
    layer, right = numbers.layer, dict(zip(("x", "topk_ids", "topk_weights"), tensors(numbers, device), strict=True))
    right["out"] = torch.zeros_like(right["x"])
    with monkeypatch.context() as patch:
        for way in ("_rows", "_checked"):
            patch.setattr(layer, way, None)
        layer.apply(numbers.weights, **right)
        layer.apply(numbers.weights, **{name: value[:0] for name, value in right.items()})
    for name, value in right.items():
        transposed = value.t().contiguous().t()
        wrong = [value.double(), value[:, :1], value[0], value[None], transposed, value[:1].expand(5, -1), value[:4]]
        wrong += [value.to("meta"), value.cpu() if device != "cpu" else value.to("meta").int(), value.tolist()]
        for tensor in wrong:
            with pytest.raises((TypeError, ValueError), match=name):
                layer.apply(numbers.weights, **right | {name: tensor})


def test_weights_from_tensors(numbers, device):
    rng = np.random.default_rng(1)
    weights = dsv4mx.Weights(numbers.layer)
    for name, shape in (("w13_weight", (4, 64, 32)), ("w2_weight", (4, 64, 16))):
        codes = torch.from_numpy(rng.integers(0, 256, shape, np.uint8)).to(device)
        if hasattr(torch, "float4_e2m1fn_x2"):
            codes = codes.view(torch.float4_e2m1fn_x2)
        weights.set(name, codes)
        low, high = 118, 124
        scales = rng.integers(low, high, (shape[0], shape[1], shape[2] // 16), np.uint8)
        if name == "w13_weight":  # numbers, as SGLang holds them
            weights.set(name + "_scale_inv", torch.from_numpy(np.exp2(scales.astype(np.float32) - 127)).to(device))
        else:
            weights.set(name + "_scale", torch.from_numpy(scales).view(torch.float8_e8m0fnu).to(device))
    weights.prepare()
    other = dsv4mx.Weights(numbers.layer)
    rng = np.random.default_rng(1)
    for name, shape in (("w13_weight", (4, 64, 32)), ("w2_weight", (4, 64, 16))):
        other.set(name, rng.integers(0, 256, shape, np.uint8))
        other.set(name + "_scale", rng.integers(118, 124, (shape[0], shape[1], shape[2] // 16), np.uint8))
    other.prepare()
    arguments = tensors(numbers, device)
    assert torch.equal(numbers.layer.apply(weights, *arguments), numbers.layer.apply(other, *arguments))


def test_operator(numbers, device):
    from dsv4mx.torch_op import MoE

    moe = MoE(numbers.layer, numbers.weights)
    arguments = tensors(numbers, device)
    wanted = numbers.layer.apply(numbers.weights, *arguments)
    assert torch.equal(moe(*arguments), wanted)
    out = torch.zeros_like(wanted)
    assert moe.into(*arguments, out) is out and torch.equal(out, wanted)
    torch.library.opcheck(torch.ops.dsv4mx.moe, (*arguments, moe.key), test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(
        torch.ops.dsv4mx.moe_out, (*arguments, moe.key, out), test_utils=("test_schema", "test_faketensor")
    )
    key = moe.key
    del moe
    with pytest.raises(dsv4mx.InvalidError, match="is gone"):
        torch.ops.dsv4mx.moe(*arguments, key)


def test_compile(numbers, device):
    from dsv4mx.torch_op import MoE

    moe = MoE(numbers.layer, numbers.weights)
    arguments = tensors(numbers, device)
    # On the CPU without a C++ compiler for inductor: tracing and the fake implementation are what is tested.
    compiled = torch.compile(
        lambda *a: moe(*a) * 2, fullgraph=True, backend="inductor" if device == "cuda" else "aot_eager"
    )
    assert torch.equal(compiled(*arguments), numbers.layer.apply(numbers.weights, *arguments) * 2)


def test_cuda_graph_and_streams(numbers, device):
    if device == "cpu":
        pytest.skip("needs a CUDA device: CUDA graphs")
    arguments = tensors(numbers, device)
    wanted = numbers.layer.apply(numbers.weights, *arguments).clone()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        out = numbers.layer.apply(numbers.weights, *arguments)
    stream.synchronize()
    assert torch.equal(out, wanted)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = numbers.layer.apply(numbers.weights, *arguments)
    out.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, wanted)


def test_no_tokens(numbers, device):
    x, ids, router = tensors(numbers, device)
    assert numbers.layer.apply(numbers.weights, x[:0], ids[:0], router[:0]).shape == (0, 64)
