#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets into corpus/TARGET/, beside what is there: inputs that once failed stay.

usage: make_corpus.py FOLDER
"""
import json
import struct
import sys
from pathlib import Path

# As in checkpoint_fuzz.cc.
FILES = ["model.safetensors", "model.safetensors.index.json", "config.json", "model-00001-of-00002.safetensors",
         "model-00002-of-00002.safetensors", "model0-mp2.safetensors", "model1-mp2.safetensors", "m.gguf",
         "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
BYTES = {"I8": 1, "U8": 1, "F8_E8M0": 1, "F8_E4M3": 1, "BF16": 2, "F32": 4, "U32": 4, "I32": 4, "F4": 0.5}


def header(tensors, **metadata):
    """(JSON of a safetensors header, bytes of data) of [(name, dtype, shape)]."""
    entries, at = {}, 0
    if metadata:
        entries["__metadata__"] = metadata
    for name, dtype, shape in tensors:
        size = BYTES[dtype]
        for n in shape:
            size *= n
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + int(size)]}
        at += int(size)
    return json.dumps(entries, separators=(",", ":")).encode(), at


def separate(stem, experts, hidden=32, inter=32, first=0, codes="I8", scales="F8_E8M0"):
    tensors = []
    for e in range(first, first + experts):
        for w, rows, k in (("w1", inter, hidden), ("w2", hidden, inter), ("w3", inter, hidden)):
            pack = 1 if codes in ("F4", "F8_E4M3") else 2
            tensors.append((f"{stem}experts.{e}.{w}.weight", codes, [rows, k // pack]))
            tensors.append((f"{stem}experts.{e}.{w}.scale", scales, [rows, k // 32]))
    return tensors


def fused(stem, e=2, h=32, i=32):
    return [(f"{stem}experts.w13_weight", "U8", [e, 2 * i, h // 2]), (f"{stem}experts.w13_weight_scale", "U8", [e, 2 * i, h // 32]),
            (f"{stem}experts.w2_weight", "U8", [e, h, i // 2]), (f"{stem}experts.w2_weight_scale", "U8", [e, h, i // 32]),
            (f"{stem}experts.w13_bias", "BF16", [e, 2 * i]), (f"{stem}experts.w2_bias", "BF16", [e, h])]


def gpt_oss(stem, e=2, h=32, i=32):
    return [(f"{stem}experts.gate_up_proj_blocks", "U8", [e, 2 * i, h // 32, 16]),
            (f"{stem}experts.gate_up_proj_scales", "U8", [e, 2 * i, h // 32]),
            (f"{stem}experts.gate_up_proj_bias", "BF16", [e, 2 * i]),
            (f"{stem}experts.down_proj_blocks", "U8", [e, h, i // 32, 16]),
            (f"{stem}experts.down_proj_scales", "U8", [e, h, i // 32]), (f"{stem}experts.down_proj_bias", "BF16", [e, h])]


def mlx(stem, e=2, h=32, i=32):
    tensors = []
    for name, rows, k in (("gate_proj", i, h), ("up_proj", i, h), ("down_proj", h, i)):
        tensors += [(f"{stem}switch_mlp.{name}.weight", "U32", [e, rows, k // 8]),
                    (f"{stem}switch_mlp.{name}.scales", "U8", [e, rows, k // 32])]
    return tensors


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(tensors, block="blk.1.", version=3):
    """tensors: [(name, sizes innermost first, type, bytes)]."""
    keys = (text("general.architecture") + struct.pack("<I", 8) + text("gpt-oss") + text("general.alignment") +
            struct.pack("<II", 4, 32) + text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("x") + text("yz"))
    infos, at = b"", 0
    for name, sizes, kind, size in tensors:
        infos += text(block + name) + struct.pack("<I", len(sizes)) + b"".join(struct.pack("<Q", n) for n in sizes)
        infos += struct.pack("<IQ", kind, at)
        at += (size + 31) // 32 * 32
    file = b"GGUF" + struct.pack("<IQQ", version, len(tensors), 3) + keys + infos
    return file + b"\0" * (-len(file) % 32) + b"\x70" * at


GGUF_EXPERTS = [("ffn_gate_exps.weight", [32, 32, 2], 39, 1088), ("ffn_up_exps.weight", [32, 32, 2], 39, 1088),
                ("ffn_down_exps.weight", [32, 32, 2], 39, 1088), ("ffn_down_exps.bias", [32, 2], 0, 256)]

CONFIGS = {
    "deepseek": {"hidden_size": 7168, "moe_intermediate_size": 3072, "n_routed_experts": 384, "num_experts_per_tok": 6,
                 "routed_scaling_factor": 2.5, "swiglu_limit": 10.0, "hidden_act": "silu",
                 "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
    "gpt-oss": {"model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_local_experts": 128,
                "experts_per_token": 4, "swiglu_limit": 7.0, "swiglu_alpha": 1.702, "hidden_act": "silu"},
    "k3": {"text_config": {"hidden_size": 7168, "routed_expert_hidden_size": 4096, "moe_intermediate_size": 2048,
                           "hidden_act": "situ", "activation_situ_beta": 4.0, "activation_situ_linear_beta": 8.0,
                           "num_experts_per_token": 8, "n_routed_experts": 896}, "hidden_size": None},
    "limits": {"swiglu_limits": [1, 2], "hidden_act": "gelu", "hidden_size": 1e3, "num_experts": -1},
    "small": {"hidden_size": 32, "moe_intermediate_size": 32, "n_routed_experts": 2, "num_experts_per_tok": 1,
              "hidden_act": "silu", "swiglu_limit": 1},
}

NAMES = ["layers.3.ffn.experts.12.w1.weight", "model.layers.0.mlp.experts.w13_weight_scale_inv", "experts.w2_bias",
         "model.language_model.layers.7.mlp.experts.3.down_proj.weight_packed", "mtp.0.ffn.experts.1.w3.scale",
         "model.layers.1.mlp.experts.gate_up_proj_blocks", "layers.2.mlp.switch_mlp.up_proj.scales",
         "blk.4.ffn_down_exps.weight", "layers.1.ffn.shared_experts.w1.weight", "layers.1.ffn.experts.99999999999999999999.w1.weight",
         "layers.1.ffn.experts.0.w1.weight_scale_2", "layers.1.ffn.experts.0.qweight", "caf\u00e9\x07.experts..w1.weight"]


def archive(*files):
    """The form of checkpoint_fuzz.cc: (name, bytes) or (name, tensors) each."""
    out = b""
    for name, content in files:
        form = FILES.index(name)
        if isinstance(content, list):
            head, size = header(content)
            content, form = struct.pack("<H", size) + head, form | 0x80
        out += struct.pack("<BH", form, len(content)) + content
    return out


def index(shards):
    names = {t[0]: file for file, tensors in shards for t in tensors}
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": names}).encode()


def seeds():
    layer, draft = separate("layers.1.ffn.", 2), separate("mtp.0.ffn.", 1)
    router = [("layers.1.ffn.gate.weight", "BF16", [2, 32])]
    for name, tensors in (("separate", layer[:6]), ("gpt-oss", gpt_oss("model.layers.0.mlp.", 1)),
                          ("fused", fused("model.layers.0.mlp.", 1)), ("mlx", mlx("a.layers.2.mlp.", 1))):
        head, size = header(tensors, format="pt")
        yield "safetensors", name, struct.pack("<I", size)[:3] + head
    head, size = header([("x", "F32", [2]), ("y", "F4", [3, 2])])
    yield "safetensors", "file", struct.pack("<Q", len(head)) + head + b"\0" * size
    yield "safetensors", "pickle", b"PK\x03\x04" + b"0" * 60
    yield "safetensors", "pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    yield "index", "two", index([(FILES[3], layer), (FILES[4], draft)])
    yield "index", "outside", b'{"weight_map":{"a":"../b.safetensors","a":"c"}}'
    yield "index", "odd", b'{"metadata":{"x":[1,{"y":null}]},"weight_map":{"\\u0000":"x","\\ud83d\\ude00":"y"},"z":1}'
    for name, config in CONFIGS.items():
        yield "config", name, json.dumps(config).encode()
    yield "gguf", "experts", gguf(GGUF_EXPERTS)
    yield "gguf", "plain", gguf([("b", [64, 2], 0, 512), ("q", [32], 12, 18)], version=2)
    for number, name in enumerate(NAMES):
        yield "names", f"name{number:02}", name.encode()
    small = json.dumps(CONFIGS["small"]).encode()
    yield "checkpoint", "one", archive((FILES[0], layer + draft + router), (FILES[2], small))
    yield "checkpoint", "index", archive((FILES[1], index([(FILES[3], layer), (FILES[4], draft)])), (FILES[3], layer), (FILES[4], draft))
    yield "checkpoint", "missing-shard", archive((FILES[1], index([(FILES[3], layer), (FILES[4], draft)])), (FILES[3], layer))
    yield "checkpoint", "shards", archive((FILES[3], layer), (FILES[4], draft))
    yield "checkpoint", "ranks", archive((FILES[5], separate("layers.1.ffn.", 1)), (FILES[6], separate("layers.1.ffn.", 1, first=1)))
    yield "checkpoint", "fused", archive((FILES[0], fused("model.layers.0.mlp.") + gpt_oss("model.layers.1.mlp.") + mlx("model.layers.2.mlp.")))
    yield "checkpoint", "foreign", archive((FILES[0], separate("layers.0.ffn.", 1, codes="F8_E4M3", scales="F32") +
                                            [("layers.1.ffn.experts.0.qweight", "I32", [4, 4]),
                                             ("layers.2.ffn.experts.0.w1.weight_scale_2", "F32", [])]))
    yield "checkpoint", "gguf", archive((FILES[7], gguf(GGUF_EXPERTS)))
    yield "checkpoint", "split-gguf", archive((FILES[8], gguf(GGUF_EXPERTS[:2])), (FILES[9], gguf(GGUF_EXPERTS[2:])))
    yield "snapshot", "zeros", snapshot(0)
    yield "snapshot", "ones", snapshot(0x21)
    yield "snapshot", "raw", snapshot(0x21, packed=False)
    yield "snapshot", "one-expert", snapshot(0x21, ids=(1,))
    yield "snapshot", "other-layout", snapshot(0x21, layout="sm90 1")


def slab_id(layout, *numbers):
    """FNV-1a, as lib/base/hash.h."""
    total = 0xCBF29CE484222325
    for value in [*layout.encode(), len(layout), *numbers]:
        for byte in value.to_bytes(8, "little"):
            total = (total ^ byte) * 0x100000001B3 % 2**64
    return total


def snapshot(code, packed=True, ids=(0, 1), layout="cpu 1"):
    """A snapshot of snapshot_fuzz.cc's layer in its short form, by other means than lib/io: all codes and scales alike."""
    h = i = 32
    codes, scales, biases = bytes([code]) * (3 * h * i // 2), bytes([120]) * (3 * h * i // 32), bytes(2 * i * 4)
    # One frame of zstd: magic, one segment with its length in a byte, a last block that repeats a byte.
    frame = bytes.fromhex("28b52ffd20") + bytes([len(scales)]) + (len(scales) << 3 | 3).to_bytes(3, "little") + scales[:1]
    stored = [(0, codes), (1, frame) if packed else (0, scales), (0, biases)]
    census = struct.pack("<4i", 120, 120, 0, 1) if code & 0x77 else struct.pack("<4i", 255, 0, 0, 0)
    layer = struct.pack("<24iI6f", h, i, len(ids), 1, ids[0], 2, 0, 1, 0, i, 0, 32, 0, 0, 0, 2, 0, 0, 0, 1, 10, 2, 2, 0, 0,
                        0, 0, 0, 0, 0, 1)
    fixed = struct.pack("<8sII3Q32s3QIIi", b"\x89DSV4MX\n", 1, 4096, 0, 0, 0, layout.encode(), slab_id(layout, h, i, 1, 0),
                        1920, 2 << 20, len(ids), 3, 1) + census + layer
    out = fixed.ljust(320, b"\0")
    for kind, section in enumerate((codes, scales, biases)):
        out += struct.pack("<IIQ", kind, 0, len(section))
    for expert in ids:
        out += struct.pack("<i", expert) + census + bytes(4)
    for _ in ids:
        for codec, section in stored:
            out += struct.pack("<3QII", 0, len(section), 0, codec, 0)
    return bytes([7]) + out + b"".join(section for _ in ids for _, section in stored)


def main():
    folder = Path(sys.argv[1])
    for target, name, data in seeds():
        (folder / target).mkdir(parents=True, exist_ok=True)
        (folder / target / f"seed-{name}").write_bytes(data)


if __name__ == "__main__":
    main()
