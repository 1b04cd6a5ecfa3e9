# SPDX-License-Identifier: Apache-2.0
"""Prepared experts: replaced, read back, moved, saved and restored; placements."""

from __future__ import annotations

import pickle

import dsv4mx
import ml_dtypes
import numpy as np
import pytest
from conftest import SMALL
from dsv4mx import raw
from helpers import Numbers, bits, fill

H, I, E = 64, 32, 4
NAMES = [f"{matrix}.{kind}" for matrix in ("w1", "w2", "w3") for kind in ("weight", "scale")]


def tensors(seed):
    """The tensors of one expert, by the names of a checkpoint."""
    rng = np.random.default_rng(seed)
    result = {}
    for name in NAMES:
        rows, k = (H, I) if name.startswith("w2") else (I, H)
        shape, low, high = ((rows, k // 2), 0, 256) if name.endswith("weight") else ((rows, k // 32), 118, 124)
        result[name] = rng.integers(low, high, shape, np.uint8)
    return result


def made_of(layer, seeds):
    """Prepared weights of which expert e has the numbers of seeds[e]."""
    weights = dsv4mx.Weights(layer)
    for expert, seed in enumerate(seeds):
        for name, value in tensors(seed).items():
            weights.set(name, value, expert)
    return weights.prepare()


def one_expert(layer, seed):
    return made_of(
        dsv4mx.Layer(layer.context, **layer.fields | {"experts": 1, "experts_global": 1, "top_k": 1}), [seed]
    )


class Setting:
    def __init__(self, context):
        numbers = Numbers(context, SMALL)
        self.layer = numbers.layer
        self.arguments = [context.array(value) for value in (numbers.x, numbers.ids, numbers.router)]
        self.weights = made_of(self.layer, [0, 1, 2, 3])

    def apply(self, weights=None, layer=None):
        return bits((layer or self.layer).apply(weights or self.weights, *self.arguments).numpy())

    def made_of(self, *seeds):
        return self.apply(made_of(self.layer, seeds))


@pytest.fixture
def s(context):
    return Setting(context)


def refused(kind, words, call, *arguments, **named):
    with pytest.raises(kind) as failure:
        call(*arguments, **named)
    for word in words:
        assert word in str(failure.value)
    return failure.value


# --- Copies --------------------------------------------------------------------------------------------------------


def test_a_replaced_expert_is_as_if_set_anew(s):
    before = s.apply()
    s.weights.replace(2, one_expert(s.layer, 7))
    after = s.apply()
    assert (after == s.made_of(0, 1, 7, 3)).all() and (after != before).any()
    assert s.weights.prepared


def test_copies_between_and_within(s):
    source = made_of(s.layer, [10, 11, 12, 13])
    s.weights.copy_experts(source, [3, 0], np.array([1, 2]))
    s.weights.copy_experts(s.weights, [1], [3])
    assert (s.apply() == s.made_of(12, 11, 2, 11)).all()
    s.weights.copy_experts(source, [], [])


def test_copies_into_weights_that_are_filled(s):
    weights = dsv4mx.Weights(s.layer)
    weights.copy_experts(s.weights, [0, 1, 2], [0, 1, 2])
    assert weights.query().tensors_missing > 0
    weights.replace(3, one_expert(s.layer, 9))
    assert (s.apply(weights.prepare()) == s.made_of(0, 1, 2, 9)).all()


def test_what_a_copy_refuses(s):
    before = s.apply()
    copy = s.weights.copy_experts
    other = dsv4mx.Weights(s.layer)
    refused(ValueError, ["to_experts", "2 entries", "1, wanted the same"], copy, other, [0, 1], [0])
    refused(ValueError, ["cannot hold"], copy, s.weights, [2**32], [0])
    error = refused(dsv4mx.InvalidError, ["prepare"], copy, other, [0], [0])
    assert error.status == dsv4mx.Status.INVALID_STATE and error.operation == "weights_copy_experts"
    refused(dsv4mx.InvalidError, ["4", "0..3"], copy, s.weights, [4], [0])
    refused(dsv4mx.InvalidError, ["either read or written"], copy, s.weights, [1], [1])
    wide = dsv4mx.Layer(s.layer.context, **SMALL | {"hidden": 96})
    fill(foreign := dsv4mx.Weights(wide))
    refused(dsv4mx.UnsupportedError, ["hidden 96", "hidden 64"], copy, foreign.prepare(), [0], [0])
    refused(dsv4mx.CancelledError, [], copy, foreign_source(s), [0], [0], progress=lambda *_: True)
    refused(dsv4mx.DeadlineError, [], copy, foreign_source(s), [0], [0], timeout=0)
    other.close()
    refused(dsv4mx.InvalidError, ["closed"], copy, other, [0], [0])
    assert (s.apply() == before).all()


def foreign_source(s):
    return made_of(s.layer, [20, 21, 22, 23])


def test_progress_of_a_copy(s):
    seen = []
    source = foreign_source(s)
    s.weights.copy_experts(source, [0, 1], [0, 1], progress=lambda *state: seen.append(state), timeout=60)
    assert seen[-1] == (dsv4mx.Stage.CONVERT, 2, 2)

    def fails(*_):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        s.weights.copy_experts(source, [0], [0], progress=fails)


def test_reset(s):
    s.weights.reset()
    assert s.weights.query().state == dsv4mx.WeightsState.EMPTY
    refused(dsv4mx.InvalidError, [], s.apply)
    for expert in range(E):
        for name, value in tensors(30 + expert).items():
            s.weights.set(name, value, expert)
    s.weights.prepare()
    assert (s.apply() == s.made_of(30, 31, 32, 33)).all()


# --- Reading back --------------------------------------------------------------------------------------------------


def test_get_gives_what_was_set(s):
    for expert in range(E):
        for name, value in tensors(expert).items():
            found = s.weights.get(name, expert)
            assert found.dtype == np.uint8 and found.shape == value.shape and (found == value).all()
    names = {"w1.weight_scale_inv": "w1.scale", "model.up_proj.weight_packed": "w3.weight", "w2_weight": "w2.weight"}
    for name, same in (names | {"down_proj.scales": "w2.scale", "w2_weight_scale": "w2.scale"}).items():
        assert (s.weights.get(name, 1) == tensors(1)[same]).all()
    assert (s.weights.get("layers.3.experts.2.w2.weight") == tensors(2)["w2.weight"]).all()


def test_get_dtypes_and_out(s):
    given = tensors(1)
    assert s.weights.get("w1.weight", 1, dtype="int8").dtype == np.int8
    scales = s.weights.get("w1.scale", 1, dtype=ml_dtypes.float8_e8m0fnu)
    assert (scales.view(np.uint8) == given["w1.scale"]).all()
    numbers = s.weights.get("w1.weight", 1, dtype="bfloat16")
    codes = np.stack([given["w1.weight"] & 15, given["w1.weight"] >> 4], -1).reshape(I, H)
    values = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    exact = values * np.exp2(np.repeat(given["w1.scale"].astype(np.float32) - 127, 32, 1))
    assert numbers.shape == (I, H) and (numbers.astype(np.float32) == exact).all()
    as_bits = np.zeros((I, H), np.uint16)
    assert s.weights.get("w1.weight", 1, out=as_bits) is as_bits and (as_bits == bits(numbers)).all()
    wide = np.full((I, H), 99, np.uint8)
    s.weights.get("w1.weight", 1, out=wide[:, ::2])
    assert (wide[:, ::2] == given["w1.weight"]).all() and (wide[:, 1::2] == 99).all()
    there = s.layer.context.empty((I, H // 2), "uint8")
    s.weights.get("w1.weight", 1, out=there)
    assert (there.numpy() == given["w1.weight"]).all()


def test_get_biases(context):
    layer = dsv4mx.Layer(context, **SMALL | {"experts": 1, "top_k": 1}, w13_bias="float32", w2_bias="bfloat16")
    weights = dsv4mx.Weights(layer)
    fill(weights)
    w2 = np.arange(H, dtype=np.float32).astype(ml_dtypes.bfloat16)
    weights.set("w13_bias", np.arange(2 * I, dtype=np.float32)[None])
    weights.set("w2_bias", w2[None])
    weights.prepare()
    assert (weights.get("gate_proj.bias", 0) == np.arange(I)).all()
    assert (weights.get("up_proj.bias", 0) == np.arange(I, 2 * I)).all()
    assert (weights.get("w2_bias", 0) == w2.astype(np.float32)).all()


def test_what_get_refuses(s):
    get = s.weights.get
    refused(dsv4mx.InvalidError, ["4", "0..3"], get, "w1.weight", 4)
    refused(dsv4mx.NotFoundError, ["nonsense"], get, "nonsense", 0)
    refused(dsv4mx.NotFoundError, ["w13_weight", "gate and up"], get, "w13_weight", 0)
    refused(dsv4mx.NotFoundError, ["no w13 bias"], get, "gate_proj.bias", 0)
    refused(dsv4mx.NotFoundError, ["not held"], get, "experts.9.w1.weight")
    refused(TypeError, ["float32", "bfloat16"], get, "w1.weight", 0, dtype="float32")
    refused(ValueError, ["not for out"], get, "w1.weight", 0, dtype="int8", out=np.empty((I, H // 2), np.int8))
    error = refused(dsv4mx.InvalidError, ["w1.weight"], get, "w1.weight", 0, out=np.empty((I, H), np.uint8))
    assert error.status == dsv4mx.Status.INVALID_TENSOR
    fixed = np.empty((I, H // 2), np.uint8)
    fixed.flags.writeable = False
    refused(ValueError, ["read-only"], get, "w1.weight", 0, out=fixed)
    error = refused(dsv4mx.InvalidError, [], dsv4mx.Weights(s.layer).get, "w1.weight", 0)
    assert error.status == dsv4mx.Status.INVALID_STATE


def test_query_expert(s):
    for expert in range(E):
        scales = np.concatenate([value.ravel() for name, value in tensors(expert).items() if "scale" in name])
        assert s.weights.query_expert(expert) == (scales.min(), scales.max())
    refused(dsv4mx.InvalidError, ["-1"], s.weights.query_expert, -1)
    assert list(dsv4mx.ExpertInfo._fields) == [name for name, _ in raw.ExpertInfo._fields_ if name != "struct_size"]


# --- Slabs ---------------------------------------------------------------------------------------------------------


def test_slabs_move_experts(s):
    borrowed = foreign_source(s).get_slab(1)  # keeps the weights
    assert borrowed.borrowed and "borrowed" in repr(borrowed)
    s.weights.set_slab(0, borrowed)
    s.weights.set_slab(3, borrowed.copy())
    assert (s.apply() == s.made_of(21, 1, 2, 21)).all()
    again = s.weights.get_slab(3)
    assert again.id == borrowed.id and (again.numpy() == borrowed.numpy()).all()


def test_slabs_travel(s):
    owned = foreign_source(s).get_slab(2).copy()
    sent = pickle.loads(pickle.dumps(owned))
    assert not sent.borrowed and (sent.numpy() == owned.numpy()).all()
    on_device = s.layer.context.array(owned.numpy())
    for data in (sent.data, sent.data.tobytes(), bytearray(sent.data), on_device):
        target = made_of(s.layer, [0, 1, 2, 3])
        target.set_slab(1, dsv4mx.Slab(sent.id, data))
        assert (target.get("w2.weight", 1) == tensors(22)["w2.weight"]).all()
        assert (dsv4mx.Slab(sent.id, data).numpy() == owned.numpy()).all()


def test_borrowed_slabs_on_the_host_are_arrays(cpu):
    s = Setting(cpu)
    slab = s.weights.get_slab(1)
    array = np.asarray(slab.data)
    assert not array.flags.writeable and array.dtype == np.uint8 and array.nbytes == slab.data.nbytes
    assert (array == slab.numpy()).all() and not hasattr(slab.data, "__cuda_array_interface__")


def test_slabs_end_with_their_weights(s):
    slab = s.weights.get_slab(1)
    with pytest.raises(TypeError, match="copy"):
        pickle.dumps(slab)
    s.weights.reset()
    refused(dsv4mx.InvalidError, ["reset"], slab.numpy)
    weights = foreign_source(s)
    slab = weights.get_slab(0)
    weights.close()
    refused(dsv4mx.InvalidError, ["closed"], slab.numpy)
    refused(dsv4mx.InvalidError, ["closed"], s.weights.set_slab, 0, slab)


def test_what_slabs_refuse(s):
    before = s.apply()
    good = foreign_source(s).get_slab(0).copy()
    put = s.weights.set_slab
    refused(dsv4mx.UnsupportedError, ["id"], put, 0, dsv4mx.Slab(good.id ^ 1, good.data))
    error = refused(dsv4mx.ResourceError, [], put, 0, dsv4mx.Slab(good.id, good.data[:-1]))
    assert error.status == dsv4mx.Status.BUFFER_TOO_SMALL
    refused(ValueError, ["bytes"], put, 0, dsv4mx.Slab(good.id, np.append(good.data, np.uint8(0))))
    refused(ValueError, ["contiguous uint8"], put, 0, dsv4mx.Slab(good.id, np.repeat(good.data, 2)[::2]))
    refused(ValueError, ["float32"], put, 0, dsv4mx.Slab(good.id, np.zeros(4, np.float32)))
    refused(TypeError, ["list"], put, 0, dsv4mx.Slab(good.id, [1]))
    refused(ValueError, ["2^64"], dsv4mx.Slab, -1, b"")
    refused(ValueError, ["4", "0..3"], put, 4, good)
    refused(ValueError, ["4", "0..3"], s.weights.get_slab, 4)
    error = refused(dsv4mx.InvalidError, [], put, 0, dsv4mx.Slab(good.id, np.full_like(good.data, 255)))
    assert error.status == dsv4mx.Status.INVALID_SCALE
    error = refused(dsv4mx.InvalidError, [], dsv4mx.Weights(s.layer).get_slab, 0)
    assert error.status == dsv4mx.Status.INVALID_STATE
    assert (s.apply() == before).all()


# --- Placements ----------------------------------------------------------------------------------------------------


def test_a_change_of_placement(s):
    layer = dsv4mx.Layer(s.layer.context, **SMALL | {"placement": [0, 1, 2, 3], "experts_global": E})
    weights = made_of(layer, [0, 1, 2, 3])
    before = s.apply(weights, layer)
    turned = [3, 1, 0, 2]
    copy = made_of(layer, [0, 1, 2, 3])
    weights.copy_experts(copy, range(E), turned)
    layer.set_placement(turned)
    assert (s.apply(weights, layer) == before).all()
    assert layer.fields["placement"] == turned and (s.apply(weights, layer.replace()) == before).all()
    layer.set_placement([3, 3, 0, 2], stream=0)  # expert 1 is here no more
    assert (s.apply(weights, layer) != before).any()


def test_what_a_placement_refuses(s):
    layer = dsv4mx.Layer(s.layer.context, **SMALL | {"placement": [0, 1, 2, 3], "experts_global": E})
    refused(ValueError, ["3 entries", "experts = 4"], layer.set_placement, [0, 1, 2])
    error = refused(dsv4mx.InvalidError, ["placement[2]", "4"], layer.set_placement, [0, 1, 4, 2])
    assert error.status == dsv4mx.Status.INVALID_ARGUMENT and error.operation == "layer_set_placement"
    refused(ValueError, ["cannot hold"], layer.set_placement, [0, 1, 2, 2**32])
    assert layer.fields["placement"] == [0, 1, 2, 3]
    error = refused(dsv4mx.InvalidError, ["without a placement"], s.layer.set_placement, [0, 1, 2, 3])
    assert error.status == dsv4mx.Status.INVALID_STATE


# --- Snapshots -----------------------------------------------------------------------------------------------------


def test_save_and_restore(s, tmp_path):
    path, stages = tmp_path / "layer.snapshot", []
    s.weights.save(path, threads=2, level=3, progress=lambda *state: stages.append(state[0]), timeout=600)
    again = dsv4mx.Weights(s.layer)
    restored = again.restore(path, progress=lambda *state: stages.append(state[0]))
    assert restored is again and again.prepared and (s.apply(again) == s.apply()).all()
    assert stages[0] == dsv4mx.Stage.SAVE and stages[-1] in (dsv4mx.Stage.LOAD, dsv4mx.Stage.PREPARE)
    s.weights.save(str(tmp_path / "plain"), level=-1)
    assert (s.apply(dsv4mx.Weights(s.layer).restore(tmp_path / "plain")) == s.apply()).all()


def test_a_snapshot_says_what_it_holds(s, tmp_path):
    path = tmp_path / "layer.snapshot"
    s.weights.save(path)
    snapshot = dsv4mx.Snapshot.query(path)
    info = snapshot.info
    assert (info.experts, info.expert_first, info.experts_global) == (E, 0, E)
    slab = s.weights.get_slab(0)
    assert info.slab_id == slab.id and info.slab_bytes == slab.data.nbytes
    assert info.file_bytes == path.stat().st_size and info.layout
    assert (info.scale_min, info.scale_max) == (118, 123)
    assert list(info._fields) == [name for name, _ in raw.SnapshotInfo._fields_ if name != "struct_size"]
    assert snapshot.layer["w13_order"] is dsv4mx.W13Order.GATE_UP and snapshot.layer["compute"] is raw.Compute.W4A16
    layer = dsv4mx.Layer(s.layer.context, **snapshot.layer)
    assert layer.info == s.layer.info
    assert (s.apply(dsv4mx.Weights(layer).restore(path), layer) == s.apply()).all()


def test_what_snapshots_refuse(s, tmp_path):
    path = tmp_path / "layer.snapshot"
    save = s.weights.save
    refused(OSError, ["IO_ERROR"], save, tmp_path / "none" / "layer.snapshot")
    refused(dsv4mx.CancelledError, [], save, path, progress=lambda *_: True)
    refused(dsv4mx.DeadlineError, [], save, path, timeout=0)
    refused(ValueError, ["threads", "65"], save, path, threads=65)
    refused(ValueError, ["cannot hold"], save, path, level=2**32)
    empty = dsv4mx.Weights(s.layer)
    error = refused(dsv4mx.InvalidError, [], empty.save, path)
    assert error.status == dsv4mx.Status.INVALID_STATE and not list(tmp_path.iterdir())
    save(path)
    refused(dsv4mx.InvalidError, ["empty"], s.weights.restore, path)
    refused(dsv4mx.CancelledError, [], empty.restore, path, progress=lambda *_: True)
    wide = dsv4mx.Layer(s.layer.context, **SMALL | {"hidden": 96})
    error = refused(dsv4mx.InvalidError, ["64", "96"], dsv4mx.Weights(wide).restore, path)
    assert error.status == dsv4mx.Status.INVALID_TENSOR
    more = dsv4mx.Layer(s.layer.context, **SMALL | {"experts": 6})
    refused(dsv4mx.InvalidError, [], dsv4mx.Weights(more).restore, path)
    refused(OSError, ["IO_ERROR"], dsv4mx.Snapshot.query, tmp_path / "none")
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    error = refused(dsv4mx.FileError, [], empty.restore, path)
    assert error.status == dsv4mx.Status.FORMAT_ERROR and empty.query().state == dsv4mx.WeightsState.EMPTY
    path.write_bytes(damaged[:20])
    refused(dsv4mx.FileError, ["FORMAT_ERROR"], dsv4mx.Snapshot.query, path)
