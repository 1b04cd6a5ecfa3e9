"""Writes bindings/cases.json: the cases are listed here, what they expect comes from the library's fp64 oracle.

    python make_cases.py           writes the file
    python make_cases.py --check   fails if the file differs from what is made here

Needs the package dsv4mx (bindings/python) and its library. tests/bindings/reference.py, the layer in numpy, judges the
oracle's values before they are written.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/bindings"), str(ROOT / "bindings/python")]

import conformance
import numpy as np
from dsv4mx import raw
from reference import reference

ABOUT = """Conformance cases that every binding runs, on the CPU and where there is one on a GPU. Written by
bindings/generator/make_cases.py.
A case is a list of steps, each a call: "do" names it without dsv4mx_. Its other keys:
context_create: "fields" of dsv4mx_context_desc. Other cases share one context of the runner.
layer_create: takes "layer", the fields of dsv4mx_layer_desc. What is left out is 0. Values of enums are given by the end
of their names, "flags" is a list of such, "nan" and "inf" are numbers. struct_size is given only where it is wrong.
weights_create, weights_prepare, weights_reset: no keys.
layer_set_placement: "placement".
weights_set: "name", "expert" (left out: -1), "shape", "dtype", "memory" (left out: HOST) of the call; "source" says which
numbers: w1 (gate), w3 (up), w2 (down), w13 (both fused in the layer's w13_order), alone (codes) or with _scale or _bias;
"slot" takes those of one local expert, left out: of all. Scales as dtype F32 or BF16 are the numbers 2^(byte - 127).
layer_apply: fields of dsv4mx_apply_args; all pointers are memory of the context. "accumulate" sets the flag; "tokens_device"
and "counts" give those arrays; "workspace" is bytes (left out), "minimum" (minimum_bytes) or "short" (one byte less);
"null" lists pointers set to NULL, "offset" bytes added to pointers. Buffers have min(tokens, 1024) rows. The gaps of a
strided x hold the bytes FF. out begins as bytes 5A, or with the numbers of stream 13 (bf16, or the same as F32) when
accumulating; what lies beyond its rows, and rows from tokens_device on, must not change.
checkpoint_create: of a file of the given "bytes" (hexadecimal), or of one that is not there.
All steps succeed, except that where "expect" has a "status", the last one fails with it ("cuda_do" is the call that reports
it on CUDA instead).
Numbers: mix(z) is the end of splitmix64: z ^= z >> 30, z *= BF58476D1CE4E5B9, z ^= z >> 27, z *= 94D049BB133111EB,
z ^= z >> 31, modulo 2^64 (constants hexadecimal). word(stream, i) = mix(mix(seed << 8 | stream) + (i + 1) *
9E3779B97F4A7C15); byte(stream, j) = byte j % 8, from the lowest, of word(stream, j / 8). i and j count a tensor's elements
row by row, without strides, over all local experts and the channels held here.
Streams 1, 2, 3: codes of gate [E, I, H/2], up, down [E, H, I/2], as bytes, low half = even k (with HIGH_FIRST the halves are
exchanged). 4, 5, 6: their scales, scale_low + byte % scale_count. 7, 8, 9: their biases, bf16 of bits
(w & 1) << 15 | (122 + (w >> 1 & 3)) << 7 | (w >> 3 & 127) with w = word(i). 10: x "random", the same with 124 for 122, or
x "one_hot", 1.0 in column word(token) % H and 0 elsewhere. 11: ids, ids_low + word % (ids_high - ids_low); with ids_wide
2^32 is added where word >> 60 is 0. 12: router weights, bf16 of bits 3F00 | (word & 127), or the same as F32. 13: out, as
x. "poke" is a list of (part, index, byte): parts are gate_codes, up_scales, and so on.
"expect" of a case that succeeds: "probes" are (token, channel, value) within "tolerance"; "sum" and "abs_sum" are over all
rows computed, within "sum_tolerance"; "sha256" is of the bytes of those rows without gaps, where the arithmetic is exact on
every device; "same_bits_as" names an earlier case whose first rows are the same bits on the same device; "counts" are the
expert counts."""

CASES: list[dict[str, Any]] = []
SEED = 1


def sets(layer: dict[str, Any], style: str = "fused", **options: Any) -> list[dict[str, Any]]:
    """The set steps of a layer."""
    e, h = layer["experts"], layer["hidden"]
    i = layer.get("intermediate_count") or layer["intermediate"] // (layer.get("tp_size") or 1)
    code, scale = options.get("code", "U8"), options.get("scale", "U8")
    per_byte = {"E2M1": 2, "U32": 0.25}.get(code, 1)
    memory = {"memory": options["memory"]} if "memory" in options else {}
    steps: list[dict[str, Any]] = []

    def add(name: str, source: str, dtype: str, shape: list[int], **more: Any) -> None:
        steps.append(
            {"do": "weights_set", "name": name, "source": source, "dtype": dtype, "shape": shape, **more, **memory}
        )

    def matrix(name: str, scale_name: str, source: str, rows: int, k: int, lead: list[int], **more: Any) -> None:
        add(name, source, code, [*lead, rows, int(k // 2 * per_byte)], **more)
        add(scale_name, source + "_scale", scale, [*lead, rows, k // 32], **more)

    if style == "fused":
        suffix = options.get("suffix", "")
        matrix("w13_weight", "w13_weight_scale" + suffix, "w13", 2 * i, h, [e])
        matrix("w2_weight", "w2_weight_scale" + suffix, "w2", h, i, [e])
    elif style == "fused_each":
        for slot in range(e):
            matrix("w13_weight", "w13_weight_scale", "w13", 2 * i, h, [], expert=slot, slot=slot)
            matrix("w2_weight", "w2_weight_scale", "w2", h, i, [], expert=slot, slot=slot)
    elif style == "gpt_oss":
        for name, source, rows, k in (("gate_up_proj", "w13", 2 * i, h), ("down_proj", "w2", h, i)):
            add(name + "_blocks", source, code, [e, rows, k // 32, 16])
            add(name + "_scales", source + "_scale", scale, [e, rows, k // 32])
    elif style == "parts":
        for part, rows, k in (("w1", i, h), ("w3", i, h), ("w2", h, i)):
            matrix(part + ".weight", part + ".scale", part, rows, k, [e])
    else:
        projections = ("gate_proj", "up_proj", "down_proj")
        names = {"deepseek": ("w1", "w3", "w2")}.get(style, projections)
        weight_name = {"packed": ".weight_packed"}.get(style, ".weight")
        scale_name = {"deepseek": ".scale", "hf": ".weight_scale_inv", "packed": ".weight_scale", "mlx": ".scales"}[
            style
        ]
        for slot in range(e):
            number = layer.get("expert_first", 0) + slot
            for source, part, rows, k in (("w1", names[0], i, h), ("w3", names[1], i, h), ("w2", names[2], h, i)):
                prefix = f"model.layers.3.ffn.experts.{number}.{part}"
                matrix(prefix + weight_name, prefix + scale_name, source, rows, k, [], slot=slot)
    for field, source, size in (("w13_bias", "w13_bias", 2 * i), ("w2_bias", "w2_bias", h)):
        if layer.get(field):
            add(source, source, layer[field], [e, size])
    return steps


def make(
    name: str,
    hidden: int = 256,
    intermediate: int = 128,
    experts: int = 8,
    top_k: int = 2,
    tokens: int = 5,
    *,
    fields: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    apply: dict[str, Any] | None = None,
    weights: list[dict[str, Any]] | None = None,
    style: str = "fused",
    options: dict[str, Any] | None = None,
    same_bits_as: str | None = None,
    exact: bool = False,
    expect: dict[str, Any] | None = None,
) -> dict[str, Any]:
    layer = {"hidden": hidden, "intermediate": intermediate, "experts": experts, "top_k": top_k}
    layer.update({"w13_order": "GATE_UP"} | (fields or {}))
    numbers = {
        "seed": SEED, "scale_low": 120, "scale_count": 6, "x": "random", "ids_low": 0, "ids_high": experts,
    } | (data or {})  # fmt: skip
    steps = [{"do": "layer_create"}, {"do": "weights_create"}]
    steps += sets(layer, style, **(options or {})) if weights is None else weights
    steps += [{"do": "weights_prepare"}, {"do": "layer_apply", "tokens": tokens, **(apply or {})}]
    case = {"name": name, "layer": layer, "data": numbers, "steps": steps, "expect": expect or {}}
    if same_bits_as:
        case["expect"]["same_bits_as"] = same_bits_as
    if exact:
        case["expect"]["sha256"] = ""
    CASES.append(case)
    return case


def fail(name: str, do: str, status: str, *, cuda_do: str | None = None, **options: Any) -> dict[str, Any]:
    """A case whose steps end with one that fails: the last one called `do`."""
    case = make(name, expect={"do": do, "status": status}, **options)
    if cuda_do:
        case["expect"]["cuda_do"] = cuda_do
    last = max(index for index, step in enumerate(case["steps"]) if step["do"] == do)
    case["steps"] = case["steps"][: last + 1]
    if do == "layer_create":
        del case["data"]
    return case


def list_cases() -> None:
    # Shapes.
    make("base")
    make("smallest", 32, 32, 1, 1, 1)
    make("shape 96x32", 96, 32, 4)
    make("shape 288x96", 288, 96, 4, 2, 7)
    make("shape 64x288", 64, 288, 3, 3, 9)
    make("shape 736x352", 736, 352, 4, 4, 6)
    make("shape 512x256, 33 tokens, top_k 6", 512, 256, 8, 6, 33)
    make("top_k 1", top_k=1)
    make("top_k 16 of 16 experts", 64, 32, 16, 16, 3)
    make("no tokens", tokens=0)
    make("130 tokens", 64, 64, 4, 2, 130)

    # Spellings of the same experts: the same bits.
    make("w13 up_gate", fields={"w13_order": "UP_GATE"}, same_bits_as="base")
    make("w13 interleaved", fields={"w13_order": "INTERLEAVED"}, same_bits_as="base")
    make("w1 and w3 apart", fields={"w13_order": "UNSET"}, style="parts", same_bits_as="base")
    make("DeepSeek names", fields={"w13_order": "UNSET"}, style="deepseek", same_bits_as="base")
    make("gate_proj names", fields={"w13_order": "UNSET"}, style="hf", same_bits_as="base")
    make("weight_packed names", fields={"w13_order": "UNSET"}, style="packed", same_bits_as="base")
    make("MLX names", fields={"w13_order": "UNSET"}, style="mlx", options={"code": "U32"}, same_bits_as="base")
    make("GPT-OSS names", fields={"w13_order": "INTERLEAVED"}, style="gpt_oss", same_bits_as="base")
    make("expert by expert", style="fused_each", same_bits_as="base")
    make("high nibble first", fields={"nibble_order": "HIGH_FIRST"}, same_bits_as="base")
    make(
        "codes as I8, scales as E8M0, scale_inv",
        options={"code": "I8", "scale": "E8M0", "suffix": "_inv"},
        same_bits_as="base",
    )
    make("codes as E2M1, scales as F32", options={"code": "E2M1", "scale": "F32"}, same_bits_as="base")
    make("codes as U32, scales as BF16", options={"code": "U32", "scale": "BF16"}, same_bits_as="base")
    make("experts from device memory", options={"memory": "DEVICE"}, same_bits_as="base")

    # Ids and routing.
    make("ids -1", data={"ids_low": -1, "ids_high": 3}, tokens=9)
    make("all ids -1", data={"ids_low": -1, "ids_high": 0}, exact=True)
    make("foreign ids", data={"ids_low": -3, "ids_high": 12}, tokens=9)
    make("int64 ids", fields={"ids_dtype": "I64"}, same_bits_as="base")
    make("int64 ids above 2^32", fields={"ids_dtype": "I64"}, data={"ids_wide": True, "seed": 3}, tokens=33)
    make("bf16 router weights", fields={"router_weight_dtype": "BF16"}, same_bits_as="base")
    make(
        "experts 4 to 7 of 16",
        experts=4,
        fields={"expert_first": 4, "experts_global": 16},
        data={"ids_high": 16},
        tokens=9,
    )
    make(
        "placement", experts=4, fields={"placement": [5, 0, 7, 2], "experts_global": 8}, data={"ids_high": 8}, tokens=9
    )
    make(
        "placement with copies",
        experts=4,
        fields={"placement": [1, 1, 3, 0], "experts_global": 4},
        data={"ids_high": 4},
        tokens=9,
    )
    make(
        "physical ids",
        experts=4,
        fields={
            "placement": [1, 1, 3, 0], "experts_global": 4, "flags": ["PHYSICAL_IDS"], "physical_first": 4, "physical_global": 12,
        },
        data={"ids_high": 12},
        tokens=9,
    )  # fmt: skip
    make("checked ids, all legal", fields={"flags": ["CHECKED_IDS"]}, same_bits_as="base")
    make("router weight before w2", fields={"router_weight_position": "BEFORE_W2"})
    make("router weight on the input", top_k=1, fields={"router_weight_position": "ON_INPUT"})
    make("routed_scaling_factor", fields={"routed_scaling_factor": 2.5})

    # Activations and biases.
    make("clamp", fields={"clamp_limit": 1.5}, data={"scale_low": 124})
    make("gated as swiglu", fields={"activation": "GATED", "activation_alpha": 1.0}, same_bits_as="base")
    make("gated", fields={"activation": "GATED", "activation_alpha": 0.5, "activation_beta": 0.25, "clamp_limit": 4.0})
    both = {"w13_bias": "BF16", "w2_bias": "BF16"}
    make("gpt-oss", fields={"activation": "SWIGLU_GPTOSS", "clamp_limit": 7.0, "w13_order": "INTERLEAVED"} | both)
    make("gpt-oss by numbers", fields={"activation": "SWIGLU_GPTOSS", "activation_alpha": 1.25, "activation_beta": 0.5})
    make("situ", fields={"activation": "SITU", "situ_beta": 4.0, "situ_linear_beta": 25.0})
    make("biases in F32", fields={"w13_bias": "F32", "w2_bias": "F32"})
    make("w2 bias alone", fields={"w2_bias": "BF16"})
    make("w13 bias alone, up_gate", fields={"w13_bias": "BF16", "w13_order": "UP_GATE"})

    # Outputs, strides, counts.
    make("out F32", fields={"out_dtype": "F32"})
    make("slots in bf16", fields={"slot_dtype": "BF16"})
    strides = {"x_stride": 264, "topk_ids_stride": 5, "topk_weights_stride": 3, "out_stride": 272}
    make("strides", apply=strides, same_bits_as="base")
    make("accumulate", apply={"accumulate": True})
    make("accumulate in F32, strided", fields={"out_dtype": "F32"}, apply={"accumulate": True, "out_stride": 264})
    make("tokens_device 3 of 5", apply={"tokens_device": 3})
    make("tokens_device 0", apply={"tokens_device": 0})
    make("tokens_device above tokens", apply={"tokens_device": 9}, same_bits_as="base")
    make("tokens_device below 0", apply={"tokens_device": -2})
    make("smallest workspace", apply={"workspace": "minimum"}, same_bits_as="base")
    make("smallest workspace, 130 tokens", 64, 64, 4, 2, 130, apply={"workspace": "minimum"}, same_bits_as="130 tokens")
    make("few multiprocessors", apply={"multiprocessors": 3}, same_bits_as="base")
    make("expert counts", apply={"counts": True}, data={"ids_low": -1}, tokens=33)
    make("batch invariant, 33 tokens", fields={"flags": ["BATCH_INVARIANT"]}, tokens=33)
    make(
        "batch invariant, 1 token",
        fields={"flags": ["BATCH_INVARIANT"]},
        tokens=1,
        same_bits_as="batch invariant, 33 tokens",
    )

    # Parts of a layer.
    make("tensor parallel, rank 0 of 2", fields={"tp_size": 2, "w2_bias": "BF16"})
    make("tensor parallel, rank 1 of 2", fields={"tp_size": 2, "tp_rank": 1, "w2_bias": "BF16"})
    make(
        "channels 32 to 127 of 128",
        fields={"tp_size": 2, "tp_rank": 1, "intermediate_first": 32, "intermediate_count": 96},
    )

    # Scales.
    make("scales of 40 binades", data={"scale_low": 100, "scale_count": 41}, tokens=3)
    make("large scales", data={"scale_low": 140, "scale_count": 4})

    # Exact arithmetic: one-hot tokens, sigmoid(0) = 0.5, scales of 1: the same bytes on every device.
    halves = {"activation": "GATED", "activation_beta": 1.0}
    exact = {"x": "one_hot", "scale_low": 127, "scale_count": 1}
    make("exact", fields=halves, data=exact, exact=True, tokens=17)
    make("exact, out F32", 288, 96, 4, fields=halves | {"out_dtype": "F32"}, data=exact, exact=True, tokens=9)
    make(
        "exact, foreign ids, strides",
        96,
        64,
        4,
        3,
        fields=halves,
        data=exact | {"ids_low": -1, "ids_high": 6},
        apply={"x_stride": 104, "out_stride": 104},
        exact=True,
        tokens=17,
    )
    make(
        "exact, clamped, scaled",
        64,
        32,
        4,
        2,
        fields=halves | {"clamp_limit": 2.0, "routed_scaling_factor": 0.25},
        data=exact,
        exact=True,
        tokens=9,
    )

    # Activations in E4M3: about 20 times the error, judged by the truth of W4A16.
    make("w4a8", fields={"compute": "W4A8"}, tokens=33)
    make("w4a8, 1 token", fields={"compute": "W4A8"}, tokens=1, same_bits_as="w4a8")

    # Errors: layer_create.
    layer_faults: list[tuple[str, str, dict[str, Any]]] = [
        ("struct_size 7", "INVALID_STRUCT", {"struct_size": 7}),
        ("hidden 100", "UNSUPPORTED_SHAPE", {"hidden": 100}),
        ("intermediate 48", "UNSUPPORTED_SHAPE", {"intermediate": 48}),
        ("hidden 65568", "UNSUPPORTED_SHAPE", {"hidden": 65568}),
        ("no experts", "UNSUPPORTED_SHAPE", {"experts": 0}),
        ("top_k 17", "UNSUPPORTED_SHAPE", {"top_k": 17}),
        ("experts outside the layer", "INVALID_ARGUMENT", {"expert_first": 4, "experts_global": 8}),
        ("placement outside the layer", "INVALID_ARGUMENT", {"experts": 2, "placement": [0, 8], "experts_global": 8}),
        ("physical ids without a placement", "INVALID_ARGUMENT", {"flags": ["PHYSICAL_IDS"], "physical_global": 8}),
        ("tp_rank 2 of 2", "INVALID_ARGUMENT", {"tp_rank": 2, "tp_size": 2}),
        ("group_size 16", "UNSUPPORTED_DTYPE", {"group_size": 16}),
        ("x F16", "UNSUPPORTED_DTYPE", {"x_dtype": "F16"}),
        ("ids F32", "UNSUPPORTED_DTYPE", {"ids_dtype": "F32"}),
        ("activation 9", "INVALID_ARGUMENT", {"activation": 9}),
        ("clamp below 0", "INVALID_ARGUMENT", {"clamp_limit": -1.0}),
        ("clamp NaN", "INVALID_ARGUMENT", {"clamp_limit": "nan"}),
        ("situ with a clamp", "INVALID_ARGUMENT", {"activation": "SITU", "situ_beta": 1.0, "situ_linear_beta": 1.0, "clamp_limit": 1.0}),
        ("weight before w2 with a w2 bias", "INVALID_ARGUMENT", {"router_weight_position": "BEFORE_W2", "w2_bias": "F32"}),
        ("weight on the input with top_k 2", "INVALID_ARGUMENT", {"router_weight_position": "ON_INPUT"}),
        ("reserved field", "INVALID_ARGUMENT", {"reserved": 1}),
    ]  # fmt: skip
    for name, status, fields in layer_faults:
        fail(f"error: layer: {name}", "layer_create", status, fields=fields)

    # What changes after prepare.
    plain = CASES[0]
    again = [*sets(plain["layer"]), {"do": "weights_prepare"}, {"do": "weights_reset"}, *sets(plain["layer"])]
    make("reset and filled again", weights=again, same_bits_as=plain["name"])
    moved = make("placement set anew", experts=4, fields={"placement": [5, 0, 7, 2], "experts_global": 8},
                 data={"ids_high": 8}, tokens=9)  # fmt: skip
    moved["steps"][-1:-1] = [{"do": "layer_set_placement", "placement": [1, 5, 2, 6]}]

    # Errors: weights and placements.
    base = CASES[0]["layer"]
    good = sets(base)

    def changed(index: int, **changes: Any) -> list[dict[str, Any]]:
        return [*good[:index], good[index] | changes]

    fail(
        "error: set: w13_order unset",
        "weights_set",
        "INVALID_ARGUMENT",
        fields={"w13_order": "UNSET"},
        weights=good[:1],
    )
    fail("error: set: unknown name", "weights_set", "NOT_FOUND", weights=changed(0, name="w4_weight"))
    fail("error: set: wrong shape", "weights_set", "INVALID_TENSOR", weights=changed(0, shape=[8, 256, 127]))
    fail("error: set: wrong rank", "weights_set", "INVALID_TENSOR", weights=changed(0, shape=[2048, 128]))
    fail("error: set: wrong dtype", "weights_set", "INVALID_TENSOR", weights=changed(0, dtype="F32"))
    fail(
        "error: set: expert 8 of 8",
        "weights_set",
        "INVALID_ARGUMENT",
        weights=changed(0, expert=8, slot=0, shape=[256, 128]),
    )
    fail("error: set: scale byte 255", "weights_set", "INVALID_SCALE", data={"poke": [["down_scales", 77, 255]]})
    fail(
        "error: set: after prepare", "weights_set", "INVALID_STATE", weights=[*good, {"do": "weights_prepare"}, good[0]]
    )
    fail("error: prepare: w2_weight_scale is missing", "weights_prepare", "NOT_FOUND", weights=good[:3])
    fail("error: prepare: twice", "weights_prepare", "INVALID_STATE", weights=[*good, {"do": "weights_prepare"}])
    fail(
        "error: placement: of a layer without one",
        "layer_set_placement",
        "INVALID_STATE",
        weights=[{"do": "layer_set_placement", "placement": list(range(8))}],
    )
    fail(
        "error: placement: outside the layer",
        "layer_set_placement",
        "INVALID_ARGUMENT",
        fields={"placement": list(range(8)), "experts_global": 8},
        weights=[{"do": "layer_set_placement", "placement": [0, 1, 2, 3, 4, 5, 6, 8]}],
    )

    # Errors: apply.
    unprepared = fail("error: apply: not prepared", "layer_apply", "INVALID_STATE")
    unprepared["steps"] = [step for step in unprepared["steps"] if step["do"] != "weights_prepare"]
    fail("error: apply: after reset", "layer_apply", "INVALID_STATE")["steps"][-1:-1] = [{"do": "weights_reset"}]
    apply_faults: list[tuple[str, str, dict[str, Any]]] = [
        ("struct_size 8", "INVALID_STRUCT", {"struct_size": 8}),
        ("tokens -1", "INVALID_ARGUMENT", {"tokens": -1}),
        ("131073 tokens", "INVALID_ARGUMENT", {"tokens": 131073}),
        ("x is NULL", "INVALID_ARGUMENT", {"null": ["x"]}),
        ("topk_weights is NULL", "INVALID_ARGUMENT", {"null": ["topk_weights"]}),
        ("x misaligned", "MISALIGNED", {"offset": {"x": 2}}),
        ("topk_ids misaligned", "MISALIGNED", {"offset": {"topk_ids": 2}}),
        ("out_stride 260", "MISALIGNED", {"out_stride": 260}),
        ("x_stride below hidden", "INVALID_ARGUMENT", {"x_stride": 248}),
        ("topk_ids_stride below top_k", "INVALID_ARGUMENT", {"topk_ids_stride": 1}),
        ("workspace too small", "WORKSPACE_TOO_SMALL", {"workspace": "short"}),
        ("quantised x", "UNSUPPORTED", {"offset": {"x_scale": 64}}),
        ("unknown flag", "INVALID_ARGUMENT", {"flags": 1 << 30}),
    ]
    for name, status, apply in apply_faults:
        fail(f"error: apply: {name}", "layer_apply", status, apply=apply)
    checked = {"fields": {"flags": ["CHECKED_IDS"]}, "data": {"ids_low": 0, "ids_high": 9}, "tokens": 33}
    fail("error: apply: an id outside the layer", "layer_apply", "INVALID_ID", cuda_do="context_synchronize", **checked)

    # Errors: contexts and checkpoints.
    for name, status, fields in (
        ("device 9", "INVALID_ARGUMENT", {"device": 9}),
        ("threads -1", "INVALID_ARGUMENT", {"device": "CPU", "threads": -1}),
        ("struct_size 12", "INVALID_STRUCT", {"struct_size": 12}),
    ):
        case = {"name": f"error: context: {name}", "steps": [{"do": "context_create", "fields": fields}]}
        CASES.append(case | {"expect": {"do": "context_create", "status": status}})
    for name, status, step in (
        ("no such file", "IO_ERROR", {}),
        ("a file of 4 bytes", "FORMAT_ERROR", {"bytes": "00010203"}),
        ("a header that is no JSON", "FORMAT_ERROR", {"bytes": "0400000000000000" + b"nope".hex()}),
    ):
        case = {"name": f"error: checkpoint: {name}", "steps": [{"do": "checkpoint_create"} | step]}
        CASES.append(case | {"expect": {"do": "checkpoint_create", "status": status}})


def rounded(value: float) -> float:
    return float(f"{value:.9g}")


def expectations(case: dict[str, Any], runner: conformance.Runner) -> None:
    """Fills in "expect" from the oracle."""
    expect = case["expect"]
    if "status" in expect:
        try:
            runner.run(case)
        except conformance.Failed as failed:
            if (failed.operation, failed.status) != (expect["do"], expect["status"]):
                raise SystemExit(f"{case['name']}: wanted {expect}, got {failed}") from None
            return
        raise SystemExit(f"{case['name']}: wanted {expect}, but all steps succeeded")
    # In fp32 as far as out_dtype allows: the truth has out's own rounding otherwise.
    wide = json.loads(json.dumps(case))
    wide["layer"]["out_dtype"] = "F32"
    result = runner.run(wide, raw.Oracle.TRUTH)
    assert result.data is not None and result.values is not None
    apply = case["steps"][-1]
    rows = len(result.values)
    layer = case["layer"] | {k: v for step in case["steps"] for k, v in step.items() if k == "placement"}
    truth = reference(layer, result.data, bool(apply.get("accumulate")))[:rows]
    values = result.values.astype(np.float64)
    size = float(np.sqrt(np.mean(truth**2))) if truth.size else 0.0
    if truth.size and not np.all(np.abs(values - truth) <= np.abs(truth) * 2**-23 + size * 2**-22):
        raise SystemExit(
            f"{case['name']}: the oracle and tests/bindings/reference.py differ by {np.abs(values - truth).max()}"
        )
    if apply.get("counts"):
        expect["counts"] = runner.run(case).counts
        wanted = [0] * case["layer"]["experts"]
        for expert in result.data.ids[:rows].reshape(-1):
            if 0 <= expert < len(wanted):
                wanted[expert] += 1
        if expect["counts"] != wanted:
            raise SystemExit(f"{case['name']}: counts are {expect['counts']}, wanted {wanted}")
    if rows == 0:
        return
    if "sha256" in expect:
        # What is exact in fp64 is rounded once to out_dtype here, whatever the library does.
        exact = truth.astype(np.float32)
        if (exact.astype(np.float64) != truth).any():
            raise SystemExit(f"{case['name']}: is not exact in fp32")
        bits = exact.view(np.uint32)
        if case["layer"].get("out_dtype") != "F32":
            bits = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        bits[(exact == 0)] = 0
        expect["sha256"] = conformance.sha256(np.ascontiguousarray(bits))
    generator = np.random.default_rng(7)
    hidden = case["layer"]["hidden"]
    where = sorted(
        {(int(t), int(c)) for t, c in zip(generator.integers(rows, size=8), generator.integers(hidden, size=8))}
    )
    expect["probes"] = [[t, c, rounded(truth[t, c])] for t, c in where]
    # h and out are rounded to bf16 once (2^-9), the slots too if they are bf16. One large or often met h moves a whole sum.
    loose = 2 if case["layer"].get("slot_dtype") == "BF16" else 1
    if case["layer"].get("compute") == "W4A8":
        loose = 20
    largest = max((abs(truth[t, c]) for t, c in where), default=0.0)
    expect["tolerance"] = rounded(loose * (largest * 2**-8 + size * 2**-7))
    expect["sum"] = rounded(truth.sum())
    expect["abs_sum"] = rounded(np.abs(truth).sum())
    expect["sum_tolerance"] = rounded(loose * np.abs(truth).sum() * 2**-8)


def text(cases: list[dict[str, Any]]) -> str:
    """One line for each step and for each key of a case."""

    def dump(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    lines = ["{", ' "format": 1,', ' "about": [']
    lines.append(",\n".join("  " + dump(line) for line in ABOUT.splitlines()))
    lines += [" ],", ' "cases": [']
    blocks = []
    for case in cases:
        parts = [f'   "name": {dump(case["name"])}']
        parts += [f'   "{key}": {dump(case[key])}' for key in ("layer", "data") if key in case]
        parts.append('   "steps": [\n' + ",\n".join("    " + dump(step) for step in case["steps"]) + "\n   ]")
        parts.append(f'   "expect": {dump(case["expect"])}')
        blocks.append("  {\n" + ",\n".join(parts) + "\n  }")
    lines.append(",\n".join(blocks))
    lines += [" ]", "}", ""]
    return "\n".join(lines)


def same(one: Any, other: Any) -> bool:
    """Equal, numbers from fp64 sums within their last digits."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
    return type(one) is type(other) and one == other


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file differs")
    options = parser.parse_args()
    list_cases()
    names = [case["name"] for case in CASES]
    assert len(set(names)) == len(names), "names are not unique"
    runner = conformance.Runner()
    for case in CASES:
        expectations(case, runner)
    made = text(CASES)
    errors = sum("status" in case["expect"] for case in CASES)
    summary = f"{len(CASES)} cases, {errors} of them errors"
    if options.check:
        if not same(json.loads(made), conformance.load()):
            print(f"make_cases: {conformance.CASES} differs from what is made here; run make_cases.py")
            return 1
        print(f"make_cases: up to date: {summary}")
        return 0
    conformance.CASES.write_text(made, encoding="utf-8")
    print(f"make_cases: written: {summary}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
