#!/usr/bin/env python3
"""Writes small checkpoints of every family with the safetensors package, and what their layer gives, in float64 by NumPy.

Nothing here is shared with the library: the files, the meaning of codes, scales and activations, and the layer itself are
written from the models' descriptions. dsv4mx-tests reads them back ([.foreign]).

usage: foreign_checkpoints.py FOLDER
"""
import json
import struct
import sys
from pathlib import Path

import numpy as np
from safetensors import TensorSpec, serialize_file

HIDDEN, INTERMEDIATE, EXPERTS, TOP_K, TOKENS = 96, 64, 6, 3, 9
VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
NAMES = {"gate": ("w1", "gate_proj", INTERMEDIATE, HIDDEN), "up": ("w3", "up_proj", INTERMEDIATE, HIDDEN),
         "down": ("w2", "down_proj", HIDDEN, INTERMEDIATE)}
random = np.random.default_rng(20261128)


def bf16(values):
    """Rounded to bfloat16 and back: ties do not occur, so adding half of the last place is enough."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64) + 0x8000
    return (bits & 0xffff0000).astype(np.uint32).view(np.float32).astype(np.float64)


def bf16_bytes(values):
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()


class Expert:
    """Codes of four bits, scale bytes and biases of the three matrices."""

    def __init__(self):
        self.codes, self.scales, self.bias = {}, {}, {}
        for m, (_, _, rows, k) in NAMES.items():
            self.codes[m] = random.integers(0, 16, (rows, k), dtype=np.uint8)
            self.scales[m] = random.integers(117, 124, (rows, k // 32), dtype=np.uint8)
            self.bias[m] = bf16(random.normal(0, 0.5, rows))

    def matrix(self, m):
        return VALUES[self.codes[m]] * np.repeat(2.0 ** (self.scales[m].astype(int) - 127), 32, axis=1)

    def packed(self, m):
        return self.codes[m][:, 0::2] | self.codes[m][:, 1::2] << 4


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "silu": lambda g, u: g * sigmoid(g) * u,
    "clamped": lambda g, u: (lambda a, b: a * sigmoid(a) * b)(np.minimum(g, 2), np.clip(u, -2, 2)),
    "gpt_oss": lambda g, u: (lambda a, b: a * sigmoid(float(np.float32(1.702)) * a) * (b + 1))(np.minimum(g, 7), np.clip(u, -7, 7)),
    "situ": lambda g, u: 4 * np.tanh(g / 4) * sigmoid(g) * 25 * np.tanh(u / 25),
}
CONFIGS = {
    "silu": {"hidden_act": "silu"},
    "clamped": {"hidden_act": "silu", "swiglu_limit": 2.0},
    "gpt_oss": {"model_type": "gpt_oss", "hidden_act": "silu", "swiglu_limit": 7.0},
    "situ": {"hidden_act": "situ", "activation_situ_beta": 4.0, "activation_situ_linear_beta": 25.0},
}


def save(path, tensors):
    """tensors: name -> (dtype of the package, shape, bytes)."""
    keep = {name: np.frombuffer(data, np.uint8).copy() for name, (_, _, data) in tensors.items()}
    specs = {name: TensorSpec(dtype=dtype, shape=list(shape), data_ptr=keep[name].ctypes.data, data_len=keep[name].size)
             for name, (dtype, shape, _) in tensors.items()}
    serialize_file(specs, str(path), {"format": "pt"})


def array(values, dtype="uint8"):
    return dtype, values.shape, np.ascontiguousarray(values).tobytes()


def deepseek(stem, experts, codes="int8"):
    tensors = {}
    for e, expert in experts:
        for m, (name, _, _, _) in NAMES.items():
            tensors[f"{stem}experts.{e}.{name}.weight"] = array(expert.packed(m), codes)
            tensors[f"{stem}experts.{e}.{name}.scale"] = array(expert.scales[m], "float8_e8m0fnu")
    return tensors


def hugging_face(stem, experts):
    tensors = {}
    for e, expert in enumerate(experts):
        for m, (_, name, _, _) in NAMES.items():
            tensors[f"{stem}experts.{e}.{name}.weight"] = array(expert.packed(m))
            numbers = (2.0 ** (expert.scales[m].astype(int) - 127)).astype(np.float32)
            tensors[f"{stem}experts.{e}.{name}.weight_scale_inv"] = array(numbers, "float32")
    return tensors


def fused(stem, experts, bias=False):
    """SGLang's and vLLM's; the latter has biases too."""
    def stack(of):
        return np.stack([of(expert) for expert in experts])
    biases = {"w13_bias": stack(lambda x: np.concatenate([x.bias["gate"], x.bias["up"]])), "w2_bias": stack(lambda x: x.bias["down"])}
    return {
        **({f"{stem}experts.{name}": ("bfloat16", values.shape, bf16_bytes(values)) for name, values in biases.items()} if bias else {}),
        f"{stem}experts.w13_weight": array(stack(lambda x: np.concatenate([x.packed("gate"), x.packed("up")]))),
        f"{stem}experts.w13_weight_scale": array(stack(lambda x: np.concatenate([x.scales["gate"], x.scales["up"]]))),
        f"{stem}experts.w2_weight": array(stack(lambda x: x.packed("down"))),
        f"{stem}experts.w2_weight_scale": array(stack(lambda x: x.scales["down"])),
    }


def interleave(gate, up):
    return np.stack([gate, up], axis=1).reshape(2 * gate.shape[0], *gate.shape[1:])


def gpt_oss(stem, experts):
    def stack(of):
        return np.stack([of(expert) for expert in experts])
    up = stack(lambda x: interleave(x.packed("gate"), x.packed("up")))
    down = stack(lambda x: x.packed("down"))
    up_bias = stack(lambda x: interleave(x.bias["gate"], x.bias["up"]))
    down_bias = stack(lambda x: x.bias["down"])
    return {
        f"{stem}experts.gate_up_proj_blocks": array(up.reshape(*up.shape[:2], -1, 16)),
        f"{stem}experts.gate_up_proj_scales": array(stack(lambda x: interleave(x.scales["gate"], x.scales["up"]))),
        f"{stem}experts.gate_up_proj_bias": ("bfloat16", up_bias.shape, bf16_bytes(up_bias)),
        f"{stem}experts.down_proj_blocks": array(down.reshape(*down.shape[:2], -1, 16)),
        f"{stem}experts.down_proj_scales": array(stack(lambda x: x.scales["down"])),
        f"{stem}experts.down_proj_bias": ("bfloat16", down_bias.shape, bf16_bytes(down_bias)),
    }


def openai(stem, experts):
    """The same experts as gpt_oss, under the names that OpenAI gave them."""
    names = {"gate_up_proj": "mlp1", "down_proj": "mlp2"}
    tensors = {}
    for name, tensor in gpt_oss("", experts).items():
        old, kind = name.removeprefix("experts.").rsplit("_", 1)
        tensors[f"{stem}{names[old]}_" + ("bias" if kind == "bias" else f"weight.{kind}")] = tensor
    return tensors


def compressed(stem, experts):
    tensors = {}
    for e, expert in enumerate(experts):
        for m, (name, _, _, _) in NAMES.items():
            tensors[f"{stem}experts.{e}.{name}.weight_packed"] = array(expert.packed(m))
            tensors[f"{stem}experts.{e}.{name}.weight_scale"] = array(expert.scales[m])
    return tensors


def mlx(stem, experts, container, bias=False):
    tensors = {}
    for m, (_, name, _, _) in NAMES.items():
        words = np.stack([expert.packed(m) for expert in experts]).view("<u4")
        tensors[f"{stem}{container}.{name}.weight"] = array(words, "uint32")
        tensors[f"{stem}{container}.{name}.scales"] = array(np.stack([expert.scales[m] for expert in experts]))
        if bias:
            values = np.stack([expert.bias[m] for expert in experts])
            tensors[f"{stem}{container}.{name}.bias"] = ("bfloat16", values.shape, bf16_bytes(values))
    return tensors


def gguf_blocks(codes, scales):
    """Rows of blocks of 17 bytes: the scale, then value j beside value j + 16."""
    grouped = codes.reshape(codes.shape[0], -1, 32)
    halves = grouped[:, :, :16] | grouped[:, :, 16:] << 4
    return np.concatenate([scales[:, :, None], halves], axis=2)


def save_gguf(path, tensors):
    """tensors: name -> (GGML type, sizes innermost first, bytes)."""
    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 2)
    head += text("general.architecture") + struct.pack("<I", 8) + text("gpt-oss")
    head += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("") + text("bc")
    data = b""
    for name, (kind, sizes, content) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, len(data))
        data += content + bytes(-len(content) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + data)


def gguf(layer, experts):
    tensors = {}
    for m, (_, name, rows, k) in NAMES.items():
        blocks = np.stack([gguf_blocks(expert.codes[m], expert.scales[m]) for expert in experts])
        bias = np.stack([expert.bias[m] for expert in experts]).astype(np.float32)
        stem = f"blk.{layer}.ffn_{name.split('_')[0]}_exps"
        tensors[stem + ".weight"] = (39, (k, rows, EXPERTS), blocks.tobytes())
        tensors[stem + ".bias"] = (0, (rows, EXPERTS), bias.tobytes())
    return tensors


def gguf_fused(layer, experts):
    """Gate and up of an expert in one tensor, gate first."""
    tensors = gguf(layer, experts)
    stem = f"blk.{layer}.ffn_"
    for part, size in (("weight", (HIDDEN, 2 * INTERMEDIATE, EXPERTS)), ("bias", (2 * INTERMEDIATE, EXPERTS))):
        gate, up = (tensors.pop(f"{stem}{half}_exps.{part}") for half in ("gate", "up"))
        halves = [np.frombuffer(data, np.uint8).reshape(EXPERTS, -1) for _, _, data in (gate, up)]
        tensors[f"{stem}gate_up_exps.{part}"] = (gate[0], size, np.concatenate(halves, axis=1).tobytes())
    return tensors


def write(folder, name, activation, block, files, experts, bias=False, index=False, nested=False):
    """A folder with files {file: tensors}, config.json, the block's name, inputs and the right outputs."""
    path = folder / name
    path.mkdir(parents=True)
    for file, tensors in files.items():
        (save_gguf if file.endswith(".gguf") else save)(path / file, tensors)
    if index:
        where = {tensor: file for file, tensors in files.items() for tensor in tensors}
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    # Where experts are narrower than the model, the nested config of Kimi K3 says so.
    hidden = {"hidden_size": 2 * HIDDEN, "routed_expert_hidden_size": HIDDEN} if nested else {"hidden_size": HIDDEN}
    config = {**hidden, "moe_intermediate_size": INTERMEDIATE, "n_routed_experts": EXPERTS,
              "num_experts_per_tok": TOP_K, **CONFIGS[activation]}
    (path / "config.json").write_text(json.dumps({"text_config": config} if nested else config))
    (path / "block.txt").write_text(block)

    x = bf16(random.normal(0, 1, (TOKENS, HIDDEN)))
    ids = np.stack([random.permutation(EXPERTS)[:TOP_K] for _ in range(TOKENS)]).astype(np.int32)
    weights = random.random((TOKENS, TOP_K)).astype(np.float32)
    y = np.zeros((TOKENS, HIDDEN))
    for t in range(TOKENS):
        for j in range(TOP_K):
            expert = experts[ids[t, j]]
            biases = expert.bias if bias else {m: 0 for m in NAMES}
            gate = expert.matrix("gate") @ x[t] + biases["gate"]
            up = expert.matrix("up") @ x[t] + biases["up"]
            h = ACTIVATIONS[activation](gate, up)
            y[t] += float(weights[t, j]) * (expert.matrix("down") @ h + biases["down"])
    (path / "io.bin").write_bytes(np.array([TOKENS], np.int64).tobytes() + bf16_bytes(x) + ids.tobytes() +
                                  weights.tobytes() + y.tobytes())


def main():
    folder = Path(sys.argv[1])
    experts = [Expert() for _ in range(EXPERTS)]
    numbered = list(enumerate(experts))
    router = {"layers.3.ffn.gate.weight": array(np.zeros((EXPERTS, HIDDEN), np.float32), "float32")}
    write(folder, "deepseek", "clamped", "layer 3", {
        "model-00001-of-00002.safetensors": {**deepseek("layers.3.ffn.", numbered[:2]), **router},
        "model-00002-of-00002.safetensors": deepseek("layers.3.ffn.", numbered[2:])}, experts, index=True)
    write(folder, "shards-without-index", "silu", "layer 3", {
        "model-00001-of-00002.safetensors": deepseek("layers.3.ffn.", numbered[3:]),
        "model-00002-of-00002.safetensors": deepseek("layers.3.ffn.", numbered[:3])}, experts)
    write(folder, "values", "silu", "layer 3",
          {"model.safetensors": deepseek("layers.3.ffn.", numbered, "float4_e2m1fn_x2")}, experts)
    write(folder, "ranks", "clamped", "layer 3", {
        f"model{rank}-mp2.safetensors": {**deepseek("layers.3.ffn.", numbered[3 * rank:3 * rank + 3]),
                                         "layers.3.attn.wq_b.weight": array(np.full(8, rank, np.uint8))}
        for rank in range(2)}, experts)
    write(folder, "draft", "silu", "mtp 1", {"model.safetensors": deepseek("model.mtp.layers.1.ffn.", numbered)}, experts)
    write(folder, "draft-of-deepseek", "clamped", "mtp 0", {"model.safetensors": deepseek("mtp.0.ffn.", numbered)}, experts)
    write(folder, "prefix", "silu", "prefix draft_model.block", {
        "model.safetensors": {**deepseek("draft_model.block.", numbered), **deepseek("other.block.", numbered[:2])}}, experts)
    write(folder, "hugging-face", "silu", "layer 7",
          {"model.safetensors": hugging_face("model.layers.7.mlp.", experts)}, experts)
    write(folder, "fused", "clamped", "layer 7", {"model.safetensors": fused("model.layers.7.mlp.", experts)}, experts)
    write(folder, "fused-bias", "gpt_oss", "layer 7", {"model.safetensors": fused("model.layers.7.mlp.", experts, bias=True)},
          experts, bias=True)
    write(folder, "openai", "gpt_oss", "prefix block.0.mlp.", {"model.safetensors": openai("block.0.mlp.", experts)}, experts,
          bias=True)
    write(folder, "gpt-oss", "gpt_oss", "layer 0", {"model.safetensors": gpt_oss("model.layers.0.mlp.", experts)}, experts,
          bias=True)
    write(folder, "compressed-tensors", "situ", "layer 1", {
        "model.safetensors": compressed("language_model.model.layers.1.block_sparse_moe.", experts)}, experts, nested=True)
    write(folder, "mlx", "silu", "layer 2",
          {"model.safetensors": mlx("language_model.model.layers.2.mlp.", experts, "switch_mlp")}, experts)
    write(folder, "mlx-gpt-oss", "gpt_oss", "layer 2",
          {"model.safetensors": mlx("model.layers.2.mlp.", experts, "experts", bias=True)}, experts, bias=True)
    blocks = list(gguf(4, experts).items())
    write(folder, "gguf", "gpt_oss", "layer 4", {"model.gguf": dict(blocks)}, experts, bias=True)
    write(folder, "gguf-split", "gpt_oss", "layer 4", {
        "model-00001-of-00002.gguf": dict(blocks[:3]), "model-00002-of-00002.gguf": dict(blocks[3:])}, experts, bias=True)
    write(folder, "gguf-fused", "gpt_oss", "layer 4", {"model.gguf": gguf_fused(4, experts)}, experts, bias=True)
    print(sum(1 for _ in folder.iterdir()), "checkpoints")


if __name__ == "__main__":
    main()
