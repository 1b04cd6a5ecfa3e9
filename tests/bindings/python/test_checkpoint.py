# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the file is written here by hand, so that no other package's reading of the format comes in."""

from __future__ import annotations

import json
import struct

import dsv4mx
import numpy as np
import pytest
from helpers import TOKENS, Numbers, bits

H, I, E = 64, 32, 4


def write(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture
def parts():
    rng = np.random.default_rng(3)
    result = {}
    for expert in range(E):
        for name, rows, k in (("w1", I, H), ("w3", I, H), ("w2", H, I)):
            prefix = f"layers.3.ffn.experts.{expert}.{name}"
            result[prefix + ".weight"] = rng.integers(0, 256, (rows, k // 2), np.uint8)
            result[prefix + ".scale"] = rng.integers(118, 124, (rows, k // 32), np.uint8)
    return result


@pytest.fixture
def path(tmp_path, parts):
    path = tmp_path / "model.safetensors"
    kinds = {"weight": "I8", "scale": "F8_E8M0"}
    tensors = {name: (kinds[name.rpartition(".")[2]], value.shape, value.tobytes()) for name, value in parts.items()}
    write(path, tensors | {"layers.3.ffn.gate.weight": ("BF16", (E, H), b"\x80\x3f" * (E * H))})
    return path


def test_load(cpu, path, parts):
    with dsv4mx.Checkpoint(path) as checkpoint:
        assert len(checkpoint) == 6 * E + 1 and sorted(checkpoint.names()) == list(checkpoint)
        assert "layers.3.ffn.gate.weight" in checkpoint and "none" not in checkpoint
        fields = checkpoint.query_layer(3)
        assert (fields["hidden"], fields["intermediate"], fields["experts"]) == (H, I, E)
        layer = dsv4mx.Layer(cpu, **fields, top_k=2)
        weights = dsv4mx.Weights(layer)
        seen = []
        weights.load(checkpoint, 3, progress=lambda *state: seen.append(state[0]))
        assert dsv4mx.Stage.LOAD in seen
        with pytest.raises(dsv4mx.CancelledError):
            dsv4mx.Weights(layer).load(checkpoint, 3, progress=lambda *_: True)
        weights.prepare()
        assert str(path) in repr(checkpoint)
    by_hand = dsv4mx.Weights(layer)
    for name, value in parts.items():
        by_hand.set(name, value)
    by_hand.prepare()
    numbers = Numbers(cpu, {"hidden": H, "intermediate": I, "experts": E, "top_k": 2, "w13_order": "gate_up"})
    results = [bits(layer.apply(w, numbers.x, numbers.ids, numbers.router)) for w in (weights, by_hand)]
    assert results[0].shape == (TOKENS, H) and results[0].any() and (results[0] == results[1]).all()


def test_read(path, parts):
    checkpoint = dsv4mx.Checkpoint(path)
    name = "layers.3.ffn.experts.2.w1.weight"
    assert (checkpoint.read(name).view(np.uint8) == parts[name]).all()
    assert checkpoint.dtype("layers.3.ffn.experts.2.w1.scale") == "float8_e8m0fnu"
    gate = checkpoint.read("layers.3.ffn.gate.weight")
    assert gate.shape == (E, H) and (gate.astype(np.float32) == 1).all()
    with pytest.raises(dsv4mx.NotFoundError):
        checkpoint.read("layers.4.ffn.gate.weight")


def test_faults(tmp_path, path):
    with pytest.raises(OSError, match="IO_ERROR"):
        dsv4mx.Checkpoint(tmp_path / "none")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-1])
    with pytest.raises(dsv4mx.FileError, match="FORMAT_ERROR"):
        dsv4mx.Checkpoint(tmp_path / "cut.safetensors")
    checkpoint = dsv4mx.Checkpoint(path)
    with pytest.raises(dsv4mx.NotFoundError):
        checkpoint.query_layer(7)
    for arguments in ({}, {"layer": 3, "mtp": 0}, {"layer": 3, "prefix": "x"}):
        with pytest.raises(ValueError, match="exactly one of"):
            checkpoint.query_layer(**arguments)
    checkpoint.close()
    with pytest.raises(dsv4mx.InvalidError, match="closed"):
        checkpoint.names()


def test_blocks_and_model(cpu, path, parts):
    checkpoint = dsv4mx.Checkpoint(path)
    (block,) = checkpoint.blocks()
    assert block == dsv4mx.Block(dsv4mx.raw.BlockKind.LAYER, 3, "layers.3.ffn.") and block.name == "layers.3"
    assert checkpoint.query_layer(prefix=block.prefix) == checkpoint.query_layer(3)
    layer = dsv4mx.Layer(cpu, **checkpoint.query_layer(3), top_k=2)
    options = dsv4mx.raw.LayerDesc(top_k=2)
    info = checkpoint.query_model(cpu, layer=options, max_tokens=64)
    assert (info.blocks, info.blocks_fitting) == (1, 1)
    assert info.source_bytes == sum(value.nbytes for value in parts.values())
    assert info.prepared_bytes == info.largest_block_bytes == layer.info.prepared_bytes
    assert info.peak_extra_bytes == layer.info.peak_extra_bytes
    assert info.workspace_bytes == layer.query_workspace(64).bytes
    assert 0 < info.free_bytes <= info.total_bytes
    assert checkpoint.query_model(cpu, ep_size=4, layer=options).prepared_bytes < info.prepared_bytes
    with pytest.raises(dsv4mx.UnsupportedError, match="tp_size is 2"):
        checkpoint.query_model(cpu, tp_size=2)
    with pytest.raises(dsv4mx.InvalidError):
        checkpoint.query_model(cpu, tp_size=1 << 40)
