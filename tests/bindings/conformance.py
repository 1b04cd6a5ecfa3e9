# SPDX-License-Identifier: Apache-2.0
"""Runs a case of bindings/cases.json through the raw layer: its data, its steps, and what came out.

What a case means is said in cases.json itself ("about"), which the runners of all languages follow. This one also serves
bindings/generator/make_cases.py, which writes the file.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dsv4mx import library, raw

CASES = Path(__file__).resolve().parents[2] / "bindings/cases.json"
GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1

Array = np.ndarray[Any, Any]


def load() -> dict[str, Any]:
    result: dict[str, Any] = json.loads(CASES.read_text(encoding="utf-8"))
    return result


# --- Numbers -------------------------------------------------------------------------------------------------------


def mix(z: Any) -> Any:
    """splitmix64's last step (Vigna), on a Python int or a numpy array."""
    if isinstance(z, int):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def words(seed: int, stream: int, count: int) -> Array:
    base = mix(seed << 8 | stream)
    return mix(np.uint64(base) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN))


def stream_bytes(seed: int, stream: int, count: int) -> Array:
    return words(seed, stream, (count + 7) // 8).astype("<u8").view(np.uint8)[:count].copy()


def bf16_bits(w: Array, exponent: int) -> Array:
    """Sign, one of four exponents from `exponent` on, and seven bits of mantissa."""
    sign, scale, mantissa = w & np.uint64(1), (w >> np.uint64(1)) & np.uint64(3), (w >> np.uint64(3)) & np.uint64(127)
    return (sign << np.uint64(15) | (np.uint64(exponent) + scale) << np.uint64(7) | mantissa).astype(np.uint16)


def bf16_values(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Data:
    """The tensors of a case."""

    def __init__(self, case: dict[str, Any], tokens: int) -> None:
        layer, data = case["layer"], case["data"]
        self.layer, self.data, self.tokens = layer, data, tokens
        self.hidden, self.experts, self.top_k = layer["hidden"], layer["experts"], layer["top_k"]
        whole = layer["intermediate"]
        self.intermediate = layer.get("intermediate_count") or whole // (layer.get("tp_size") or 1)
        seed, e, h, i = data["seed"], self.experts, self.hidden, self.intermediate
        self.parts: dict[str, Array] = {}
        for number, (part, rows, k) in enumerate((("gate", i, h), ("up", i, h), ("down", h, i))):
            self.parts[part + "_codes"] = stream_bytes(seed, 1 + number, e * rows * k // 2).reshape(e, rows, k // 2)
            scales = data["scale_low"] + stream_bytes(seed, 4 + number, e * rows * k // 32) % data["scale_count"]
            self.parts[part + "_scales"] = scales.astype(np.uint8).reshape(e, rows, k // 32)
            self.parts[part + "_bias"] = bf16_bits(words(seed, 7 + number, e * rows), 122).reshape(e, rows)
        for part, index, value in data.get("poke", []):
            self.parts[part].reshape(-1)[index] = value

        if data["x"] == "one_hot":
            self.x = np.zeros((tokens, h), np.uint16)
            hot = words(seed, 10, tokens) % np.uint64(h)
            self.x[np.arange(tokens), hot.astype(np.int64)] = 0x3F80
        else:
            self.x = bf16_bits(words(seed, 10, tokens * h), 124).reshape(tokens, h)
        w = words(seed, 11, tokens * self.top_k)
        low, high = data["ids_low"], data["ids_high"]
        ids = (w % np.uint64(high - low)).astype(np.int64) + low
        if data.get("ids_wide"):
            ids[(w >> np.uint64(60)) == 0] += 1 << 32
        self.ids = ids.reshape(tokens, self.top_k)
        self.router = (0x3F00 | (words(seed, 12, tokens * self.top_k) & np.uint64(127)).astype(np.uint16)).reshape(
            tokens, self.top_k
        )
        self.out = bf16_bits(words(seed, 13, tokens * h), 124).reshape(tokens, h)

    def fused(self, suffix: str) -> Array:
        gate, up = self.parts["gate" + suffix], self.parts["up" + suffix]
        order = self.layer.get("w13_order", "UNSET")
        if order == "INTERLEAVED":
            return np.stack([gate, up], axis=2).reshape(gate.shape[0], -1, *gate.shape[2:])
        return np.concatenate([up, gate] if order == "UP_GATE" else [gate, up], axis=1)

    def source(self, name: str, dtype: str, slot: int | None) -> Array:
        """A tensor's bytes as a set step wants them."""
        suffix = {"": "_codes", "scale": "_scales", "bias": "_bias"}[name.partition("_")[2]]
        part = {"w1": "gate", "w3": "up", "w2": "down"}.get(name.partition("_")[0])
        value = self.fused(suffix) if part is None else self.parts[part + suffix]
        if slot is not None:
            value = value[slot]
        if suffix == "_codes" and self.layer.get("nibble_order") == "HIGH_FIRST":
            value = value >> 4 | value << 4
        if suffix == "_scales" and dtype == "F32":
            value = value.astype(np.uint32) << 23
        elif suffix == "_scales" and dtype == "BF16":
            value = value.astype(np.uint16) << 7
        elif suffix == "_bias" and dtype == "F32":
            value = value.astype(np.uint32) << 16
        return np.ascontiguousarray(value)


# --- Running -------------------------------------------------------------------------------------------------------

# Struct fields that hold names of values.
FIELD_ENUMS = {
    "device": raw.Device, "cpu_isa": raw.CpuIsa, "weight_format": raw.WeightFormat, "w13_order": raw.W13Order,
    "nibble_order": raw.NibbleOrder, "activation": raw.Activation, "router_weight_position": raw.RouterWeightPosition,
    "compute": raw.Compute, "w13_bias": raw.Dtype, "w2_bias": raw.Dtype, "x_dtype": raw.Dtype, "out_dtype": raw.Dtype,
    "ids_dtype": raw.Dtype, "router_weight_dtype": raw.Dtype, "slot_dtype": raw.Dtype,
}  # fmt: skip


class Failed(Exception):
    def __init__(self, operation: str, status: int, text: str) -> None:
        super().__init__(f"{operation}: {raw.Status(status).name}: {text}")
        self.operation, self.status = operation, raw.Status(status).name


class Result:
    """What a run gave: the rows that were computed, and the counts."""

    def __init__(self) -> None:
        self.rows: Array | None = None
        self.values: Array | None = None
        self.counts: list[int] | None = None
        self.data: Data | None = None


class Runner:
    """Runs cases on one context; everything lies in memory of its device."""

    def __init__(self, device: str = "CPU") -> None:
        self.lib = library()
        desc = raw.ContextDesc(device=raw.Device[device])
        handle = ctypes.c_void_p()
        self.must("context_create", self.lib.dsv4mx_context_create(ctypes.byref(desc), ctypes.byref(handle)))
        self.context = handle.value
        self.cuda = device == "CUDA"
        self.cleanup: list[Any] = []

    def close(self) -> None:
        self.lib.dsv4mx_context_destroy(self.context)

    def must(self, operation: str, status: int) -> None:
        if status:
            raise Failed(operation, status, self.lib.dsv4mx_last_error().decode())

    def allocate(self, size: int) -> int:
        pointer = ctypes.c_void_p()
        self.must("context_alloc", self.lib.dsv4mx_context_alloc(self.context, max(size, 1), ctypes.byref(pointer)))
        self.cleanup.append((self.lib.dsv4mx_context_free, self.context, pointer.value))
        assert pointer.value
        return pointer.value

    def upload(self, value: Array) -> int:
        address = self.allocate(value.nbytes)
        self.must(
            "context_copy", self.lib.dsv4mx_context_copy(self.context, address, value.ctypes.data, value.nbytes, None)
        )
        self.must("context_synchronize", self.lib.dsv4mx_context_synchronize(self.context, None))
        return address

    def download(self, address: int, value: Array) -> None:
        self.must(
            "context_copy", self.lib.dsv4mx_context_copy(self.context, value.ctypes.data, address, value.nbytes, None)
        )
        self.must("context_synchronize", self.lib.dsv4mx_context_synchronize(self.context, None))

    def fill(self, struct: raw.Struct, fields: dict[str, Any]) -> None:
        for name, value in fields.items():
            if name == "flags" and isinstance(value, list):
                value = sum(raw.LayerFlag[flag] for flag in value)
            elif name == "placement":
                held = (ctypes.c_int32 * len(value))(*value)
                self.cleanup.append((id, held))
                value = ctypes.addressof(held)
            elif isinstance(value, str):
                value = float(value) if value in ("nan", "inf") else FIELD_ENUMS[name][value]
            setattr(struct, name, value)

    def run(self, case: dict[str, Any], oracle: raw.Oracle = raw.Oracle.NONE) -> Result:
        """Runs all steps. Raises Failed at the first one that fails."""
        self.layer: int | None = None
        self.weights: int | None = None
        try:
            return self.steps(case, oracle)
        finally:
            for function, *arguments in reversed(self.cleanup):
                function(*arguments)
            self.cleanup = []

    def steps(self, case: dict[str, Any], oracle: raw.Oracle) -> Result:
        lib, result = self.lib, Result()
        tokens = max([step.get("tokens", 0) for step in case["steps"]] + [0])
        if "layer" in case and "data" in case:
            result.data = Data(case, min(tokens, 1024))
        for step in case["steps"]:
            do = step["do"]
            if do == "context_create":
                desc = raw.ContextDesc()
                self.fill(desc, step["fields"])
                handle = ctypes.c_void_p()
                self.must(do, lib.dsv4mx_context_create(ctypes.byref(desc), ctypes.byref(handle)))
                lib.dsv4mx_context_destroy(handle)
            elif do == "checkpoint_create":
                self.checkpoint(step)
            elif do == "layer_create":
                layer = raw.LayerDesc()
                self.fill(layer, case["layer"])
                experimental = raw.LayerExperimental(oracle=oracle)
                if oracle:
                    layer.experimental = ctypes.addressof(experimental)
                handle = ctypes.c_void_p()
                self.must(do, lib.dsv4mx_layer_create(self.context, ctypes.byref(layer), ctypes.byref(handle)))
                self.layer = handle.value
                self.cleanup.append((lib.dsv4mx_layer_destroy, self.layer))
            elif do == "weights_create":
                handle = ctypes.c_void_p()
                self.must(do, lib.dsv4mx_weights_create(self.layer, None, ctypes.byref(handle)))
                self.weights = handle.value
                self.cleanup.append((lib.dsv4mx_weights_destroy, self.weights))
            elif do == "weights_set":
                assert result.data
                self.set(step, result.data)
            elif do == "weights_prepare":
                self.must(do, lib.dsv4mx_weights_prepare(self.weights, None, None))
            elif do == "weights_reset":
                self.must(do, lib.dsv4mx_weights_reset(self.weights))
            elif do == "layer_set_placement":
                placement = (ctypes.c_int32 * len(step["placement"]))(*step["placement"])
                self.must(do, lib.dsv4mx_layer_set_placement(self.layer, placement, None))
            elif do == "layer_apply":
                assert result.data
                self.apply(case, step, result)
            else:
                raise ValueError(f"unknown step {do}")
        return result

    def checkpoint(self, step: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            if "bytes" in step:
                path.write_bytes(bytes.fromhex(step["bytes"]))
            handle = ctypes.c_void_p()
            status = self.lib.dsv4mx_checkpoint_create(str(path).encode(), None, ctypes.byref(handle))
            self.must("checkpoint_create", status)
            self.lib.dsv4mx_checkpoint_destroy(handle)

    def set(self, step: dict[str, Any], data: Data) -> None:
        value = data.source(step["source"], step["dtype"], step.get("slot"))
        tensor = raw.Tensor(dtype=raw.Dtype[step["dtype"]], rank=len(step["shape"]))
        for index, size in enumerate(step["shape"]):
            tensor.shape[index] = size
        if step.get("memory") == "DEVICE":
            tensor.memory = raw.Memory.DEVICE
            tensor.data = self.upload(value)
        else:
            tensor.data = value.ctypes.data
        status = self.lib.dsv4mx_weights_set(
            self.weights, step["name"].encode(), step.get("expert", -1), ctypes.byref(tensor), None, None
        )
        self.must("weights_set", status)

    def apply(self, case: dict[str, Any], step: dict[str, Any], result: Result) -> None:
        lib, data = self.lib, result.data
        assert data
        layer, tokens, hidden = case["layer"], step.get("tokens", 0), data.hidden
        rows = data.tokens
        f32 = layer.get("out_dtype") == "F32"
        item = 4 if f32 else 2

        def strided(value: Array, stride: int, fill: int) -> Array:
            padded = np.full((rows, max(stride, value.shape[1])), fill, value.dtype)
            padded[:, : value.shape[1]] = value
            return padded

        x = strided(data.x, step.get("x_stride", 0), 0xFFFF)
        ids: Array = data.ids if layer.get("ids_dtype") == "I64" else data.ids.astype(np.int32)
        ids = strided(ids, step.get("topk_ids_stride", 0), 0)
        router: Array = data.router if layer.get("router_weight_dtype") == "BF16" else bf16_values(data.router)
        router = strided(router, step.get("topk_weights_stride", 0), 0)
        out_type = np.uint32 if f32 else np.uint16
        begin = np.full((rows, max(step.get("out_stride", 0), hidden)), 0x5A5A5A5A & (2 ** (8 * item) - 1), out_type)
        if step.get("accumulate"):
            begin[:, :hidden] = data.out.astype(np.uint32) << 16 if f32 else data.out

        need = raw.WorkspaceInfo()
        size = 0
        if 0 <= tokens <= 131072:
            self.must(
                "layer_query_workspace", lib.dsv4mx_layer_query_workspace(self.layer, tokens, None, ctypes.byref(need))
            )
            size = need.bytes
            if step.get("workspace") in ("minimum", "short"):
                size = need.minimum_bytes
        args = raw.ApplyArgs(
            x=self.upload(x),
            topk_ids=self.upload(ids),
            topk_weights=self.upload(router),
            out=self.upload(begin),
            workspace=self.allocate(size),
            workspace_bytes=size - (1 if step.get("workspace") == "short" else 0),
            tokens=tokens,
        )
        out_address = args.out
        if "tokens_device" in step:
            args.tokens_device = self.upload(np.array([step["tokens_device"]], np.int32))
        counts = np.zeros(data.experts, np.int64)
        if step.get("counts"):
            args.expert_counts = self.upload(counts)
        for name in (
            "x_stride",
            "topk_ids_stride",
            "topk_weights_stride",
            "out_stride",
            "multiprocessors",
            "struct_size",
        ):
            if name in step:
                setattr(args, name, step[name])
        if step.get("accumulate"):
            args.flags |= raw.ApplyFlag.ACCUMULATE
        args.flags |= step.get("flags", 0)
        for name in step.get("null", []):
            setattr(args, name, None)
        for name, offset in step.get("offset", {}).items():
            setattr(args, name, (getattr(args, name) or 0) + offset)
        self.must("layer_apply", lib.dsv4mx_layer_apply(self.layer, self.weights, ctypes.byref(args), None))
        self.must("context_synchronize", lib.dsv4mx_context_synchronize(self.context, None))

        end = np.empty_like(begin)
        self.download(out_address, end)
        computed = min(max(step.get("tokens_device", rows), 0), rows)
        if (end[:, hidden:] != begin[:, hidden:]).any() or (end[computed:] != begin[computed:]).any():
            raise AssertionError("apply wrote outside its rows")
        result.rows = np.ascontiguousarray(end[:computed, :hidden])
        result.values = result.rows.view(np.float32) if f32 else bf16_values(result.rows)
        if step.get("counts"):
            self.download(args.expert_counts, counts)
            result.counts = counts.tolist()


def sha256(rows: Array) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()


def judge(case: dict[str, Any], result: Result, others: dict[str, Array]) -> list[str]:
    """What is wrong with a result; `others` holds the rows of earlier cases."""
    expect, faults = case["expect"], []
    assert result.rows is not None and result.values is not None
    values = result.values.astype(np.float64)
    for token, channel, wanted in expect.get("probes", []):
        got = float(values[token, channel])
        if not abs(got - wanted) <= expect["tolerance"]:
            faults.append(f"out[{token}][{channel}] is {got}, wanted {wanted} within {expect['tolerance']}")
    if "sum" in expect:
        for name, got in (("sum", values.sum()), ("abs_sum", np.abs(values).sum())):
            if not abs(got - expect[name]) <= expect["sum_tolerance"]:
                faults.append(f"{name} is {got}, wanted {expect[name]} within {expect['sum_tolerance']}")
    if "sha256" in expect and sha256(result.rows) != expect["sha256"]:
        faults.append(f"sha256 is {sha256(result.rows)}, wanted {expect['sha256']}")
    if "same_bits_as" in expect:
        other = others[expect["same_bits_as"]]
        if not np.array_equal(result.rows, other[: len(result.rows)]):
            faults.append(
                f"differs from {expect['same_bits_as']} in {(result.rows != other[: len(result.rows)]).sum()} values"
            )
    if "counts" in expect and result.counts != expect["counts"]:
        faults.append(f"counts are {result.counts}, wanted {expect['counts']}")
    return faults
