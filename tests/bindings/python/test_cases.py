# SPDX-License-Identifier: Apache-2.0
"""bindings/cases.json, through the raw layer and, where it can say them, through the safe one."""

from __future__ import annotations

import math
from typing import Any

import conformance
import dsv4mx
import ml_dtypes
import numpy as np
import pytest
from conftest import HAVE_CUDA

CASES = conformance.load()["cases"]


def test_there_are_enough():
    errors = [case for case in CASES if "status" in case["expect"]]
    assert len(CASES) >= 60 and len(errors) >= 20


@pytest.fixture(scope="module")
def runners():
    """Runners and the rows of earlier cases, by device."""
    return {}


def test_cuda_took_part():
    if not HAVE_CUDA:
        pytest.skip("needs a CUDA device that this build supports: all cases ran on the CPU alone")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_raw(case, device, runners):
    runner, rows = runners.setdefault(device, (conformance.Runner(device.upper()), {}))
    expect = case["expect"]
    try:
        result = runner.run(case)
    except conformance.Failed as failed:
        do = expect.get("cuda_do", expect.get("do")) if runner.cuda else expect.get("do")
        assert (failed.operation, failed.status) == (do, expect.get("status")), failed
        return
    assert "status" not in expect
    if result.rows is not None:
        assert conformance.judge(case, result, rows) == []
        rows[case["name"]] = result.rows


# --- The safe layer ------------------------------------------------------------------------------------------------


class OnDevice:
    """A strided matrix in memory of a context."""

    def __init__(self, context: dsv4mx.Context, padded: Any, columns: int) -> None:
        self.array = context.array(padded)
        self.columns, self.strides = columns, (padded.shape[1], 1)

    def __dsv4mx_view__(self) -> Any:
        view = self.array.__dsv4mx_view__()
        return view._replace(shape=(view.shape[0], self.columns), strides=self.strides, owner=self)

    def numpy(self) -> Any:
        return self.array.numpy()[:, : self.columns]


def matrix(context: dsv4mx.Context, value: Any, stride: int, dtype: Any) -> Any:
    """`value` as the binding's users have it: a numpy view on the CPU, device memory on CUDA."""
    padded = np.zeros((len(value), max(stride, value.shape[1])), value.dtype)
    padded[:, : value.shape[1]] = value
    padded = padded.view(dtype)
    return OnDevice(context, padded, value.shape[1]) if context.is_cuda else padded[:, : value.shape[1]]


def run_safe(case: dict[str, Any], context: dsv4mx.Context) -> conformance.Result:
    result = conformance.Result()
    fields = dict(case["layer"])
    for flag in fields.pop("flags", []):
        fields[flag.lower()] = True
    for name, value in fields.items():
        if value == "nan":
            fields[name] = float("nan")
    layer = dsv4mx.Layer(context, **fields)
    if case["steps"][-1]["do"] == "layer_create":
        return result
    weights = dsv4mx.Weights(layer)
    apply = case["steps"][-1]
    data = conformance.Data(case, apply.get("tokens", 0))
    types = {
        "I8": np.int8, "U8": np.uint8, "E8M0": ml_dtypes.float8_e8m0fnu, "F32": np.float32,
        "BF16": ml_dtypes.bfloat16, "U32": np.uint32,
    }  # fmt: skip
    for step in case["steps"]:
        if step["do"] == "weights_set":
            value = data.source(step["source"], step["dtype"], step.get("slot"))
            if step["dtype"] == "E2M1":
                # Unpacked, as ml_dtypes has it: the binding packs it.
                value = np.stack([value & 15, value >> 4], axis=-1).reshape(step["shape"]).view(ml_dtypes.float4_e2m1fn)
            else:
                kind = np.dtype(types[step["dtype"]])
                if value.nbytes == math.prod(step["shape"]) * kind.itemsize:
                    value = value.reshape(-1).view(kind).reshape(step["shape"])
                else:
                    value = np.zeros(step["shape"], kind)  # of a case that gives a wrong shape
            if step.get("memory") == "DEVICE":
                value = context.array(value)
            weights.set(step["name"], value, step.get("expert", -1))
        elif step["do"] == "weights_prepare":
            weights.prepare()
        elif step["do"] == "weights_reset":
            weights.reset()
        elif step["do"] == "layer_set_placement":
            layer.set_placement(step["placement"])
        elif step["do"] not in ("layer_create", "weights_create", "layer_apply"):
            raise ValueError(f"unknown step {step['do']}")
    if apply["do"] != "layer_apply":
        return result
    f32 = fields.get("out_dtype") == "F32"
    out_type = np.float32 if f32 else ml_dtypes.bfloat16
    begin = data.out.astype(np.uint32) << 16 if f32 else data.out
    ids = data.ids if fields.get("ids_dtype") == "I64" else data.ids.astype(np.int32)
    if fields.get("router_weight_dtype") == "BF16":
        router = matrix(context, data.router, apply.get("topk_weights_stride", 0), ml_dtypes.bfloat16)
    else:
        router = matrix(context, conformance.bf16_values(data.router), apply.get("topk_weights_stride", 0), np.float32)
    counts = None
    if apply.get("counts"):
        counts = np.zeros(data.experts, np.int64)
        counts = context.array(counts) if context.is_cuda else counts
    limit = None
    if "tokens_device" in apply:
        limit = np.array([apply["tokens_device"]], np.int32)
        limit = context.array(limit) if context.is_cuda else limit
    out = matrix(context, begin, apply.get("out_stride", 0), out_type)
    space = dsv4mx.Workspace(layer, data.tokens, minimum=True) if apply.get("workspace") == "minimum" else None
    layer.apply(
        weights,
        matrix(context, data.x, apply.get("x_stride", 0), ml_dtypes.bfloat16),
        matrix(context, ids, apply.get("topk_ids_stride", 0), ids.dtype),
        router,
        out,
        accumulate=apply.get("accumulate", False),
        tokens_device=limit,
        expert_counts=counts,
        multiprocessors=apply.get("multiprocessors", 0),
        workspace=space,
    )
    context.synchronize()
    end = out.numpy() if context.is_cuda else out
    computed = min(max(apply.get("tokens_device", data.tokens), 0), data.tokens)
    result.rows = np.ascontiguousarray(end[:computed]).view(np.uint32 if f32 else np.uint16)
    result.values = end[:computed].astype(np.float32)
    if counts is not None:
        result.counts = (counts.numpy() if context.is_cuda else counts).tolist()
    return result


SAFE = [
    case
    for case in CASES
    if "layer" in case
    and not (case["expect"].get("do") == "layer_apply" and case["name"] != "error: apply: an id outside the layer")
    and not any(name in case["layer"] for name in ("struct_size", "reserved"))
]


@pytest.mark.parametrize("case", SAFE, ids=lambda case: case["name"])
def test_safe(case, device, runners):
    context, rows = runners.setdefault("safe " + device, (dsv4mx.Context(device), {}))
    expect = case["expect"]
    if "status" in expect:
        with pytest.raises(dsv4mx.Error) as failure:
            run_safe(case, context)
        assert failure.value.status == dsv4mx.Status[expect["status"]]
        return
    result = run_safe(case, context)
    assert conformance.judge(case, result, rows) == []
    rows[case["name"]] = result.rows
