# SPDX-License-Identifier: Apache-2.0
"""The safe layer: what it takes, what it refuses and how it says so."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import re
import threading

import dsv4mx
import ml_dtypes
import numpy as np
import pytest
from conftest import SMALL
from dsv4mx import raw
from helpers import Numbers, bits, fill


def refused(kind, words, call, *arguments, **named):
    """The call raises `kind` with all words in its text."""
    with pytest.raises(kind) as failure:
        call(*arguments, **named)
    for word in words:
        assert word in str(failure.value)
    return failure.value


# --- Layers --------------------------------------------------------------------------------------------------------


def test_parameters_are_the_fields_of_the_struct():
    fields = {name for name, _ in raw.LayerDesc._fields_} - {"struct_size", "flags", "reserved", "experimental"}
    fields |= {flag.name.lower() for flag in raw.LayerFlag}
    fields |= {name for name, _ in raw.LayerExperimental._fields_} - {"struct_size"}
    assert set(inspect.signature(dsv4mx.Layer).parameters) == fields | {"context"}


@pytest.mark.parametrize(
    "tuple_of,struct",
    [
        (dsv4mx.DeviceInfo, raw.DeviceInfo),
        (dsv4mx.ContextInfo, raw.ContextInfo),
        (dsv4mx.LayerInfo, raw.LayerInfo),
        (dsv4mx.WorkspaceInfo, raw.WorkspaceInfo),
        (dsv4mx.FaultInfo, raw.FaultInfo),
        (dsv4mx.WeightsInfo, raw.WeightsInfo),
    ],
)
def test_infos_are_the_fields_of_the_structs(tuple_of, struct):
    assert list(tuple_of._fields) == [name for name, _ in struct._fields_ if name not in ("struct_size", "reserved")]


def test_layer_by_name_number_and_member(cpu):
    orders = ["gate_up", "GATE_UP", 1, dsv4mx.W13Order.GATE_UP]
    ids = {dsv4mx.Layer(cpu, **SMALL | {"w13_order": order}).info.prepared_id for order in orders}
    assert len(ids) == 1
    types = ["int64", np.int64, np.dtype("int64"), dsv4mx.Dtype.I64, "I64"]
    assert len({dsv4mx.Layer(cpu, **SMALL, ids_dtype=kind)._ids_dtype for kind in types}) == 1


def test_unknown_names(cpu):
    refused(ValueError, ["w13_order", "'sideways'", "gate_up"], dsv4mx.Layer, cpu, **SMALL | {"w13_order": "sideways"})
    refused(TypeError, ["ids_dtype", "complex64"], dsv4mx.Layer, cpu, **SMALL, ids_dtype="complex64")
    refused(
        ValueError,
        ["placement has 3", "experts = 4"],
        dsv4mx.Layer,
        cpu,
        **SMALL,
        placement=[0, 1, 2],
        experts_global=8,
    )


@pytest.mark.parametrize(
    "name,value",
    [
        ("hidden", 2**32 + 64),
        ("top_k", 2**33),
        ("tp_rank", -(2**40)),
        ("w13_order", 2**32 + 1),
        ("placement", [0, 1, 2, 2**32]),
    ],
)
def test_integers_are_never_cut(cpu, name, value):
    refused(ValueError, [name, "cannot hold"], dsv4mx.Layer, cpu, **SMALL | {name: value})


def test_integers_of_calls_are_never_cut(small):
    refused(ValueError, ["expert is", "cannot hold"], small.weights.set, "w13_weight", np.zeros(1, np.uint8), 2**32)
    refused(ValueError, ["max_tokens", "cannot hold"], small.layer.query_workspace, 2**64 + 5)
    refused(ValueError, ["tokens", "cannot hold"], small.layer.query_plan, 2**64)
    refused(ValueError, ["multiprocessors", "cannot hold"], small.apply, multiprocessors=2**32)
    refused(ValueError, ["threads", "cannot hold"], dsv4mx.Context, "cpu", threads=2**32 + 1)
    refused(
        ValueError, ["cannot hold"], small.weights.import_marlin, w13=np.zeros((4, 1, 1), np.int32), hidden_padded=2**32
    )


def test_replace_shares_weights(small):
    other = small.layer.replace(ids_dtype="int64")
    assert other.info.prepared_id == small.layer.info.prepared_id
    again = other.apply(small.weights, small.x, small.ids.astype(np.int64), small.router)
    assert (bits(again) == bits(small.apply())).all()


def test_query(small):
    assert "cpu" in small.layer.info.backend
    need = small.layer.query_workspace(5)
    assert need.bytes >= need.minimum_bytes > 0
    assert small.layer.query_plan(5, small.weights)
    assert small.layer.query_faults() == (dsv4mx.Status.OK, 0)
    assert small.weights.prepared and small.weights.query().tensors_missing == 0
    assert "hidden 64" in repr(small.layer) and "prepared" in repr(small.weights)


# --- Apply ---------------------------------------------------------------------------------------------------------


def test_out_is_made_or_filled(small):
    made = small.apply()
    assert made.dtype == ml_dtypes.bfloat16 and made.shape == small.x.shape
    given = np.zeros_like(made)
    assert small.apply(out=given) is given and (bits(given) == bits(made)).all()
    as_bits = small.apply(x=bits(small.x))
    assert as_bits.dtype == np.uint16 and (as_bits == bits(made)).all()
    wide = small.layer.replace(out_dtype="float32").apply(small.weights, small.x, small.ids, small.router)
    assert wide.dtype == np.float32


def test_ids_of_another_dtype_are_never_reinterpreted(small):
    error = refused(
        TypeError,
        ["topk_ids is int64", "made for int32", "replace(ids_dtype='int64')"],
        small.apply,
        topk_ids=small.ids.astype(np.int64),
    )
    assert error.status == dsv4mx.Status.INVALID_TENSOR and isinstance(error, dsv4mx.Error)
    for kind in (np.int16, np.uint32, np.float32, np.uint64):
        refused(TypeError, ["topk_ids"], small.apply, topk_ids=small.ids.astype(kind))


@pytest.mark.parametrize("name", ["x", "topk_weights", "out"])
def test_dtypes(small, name):
    shape = small.router.shape if name == "topk_weights" else small.x.shape
    for kind in (np.float64, np.float16, np.int32):
        refused(TypeError, [name, np.dtype(kind).name], small.apply, **{name: np.zeros(shape, kind)})
    refused(TypeError, [name], small.apply, **{name: [[1.0]]})


def test_big_endian_is_refused(small):
    refused(TypeError, ["topk_ids"], small.apply, topk_ids=small.ids.astype(">i4"))


@pytest.mark.parametrize(
    "name,shape", [("x", (5, 63)), ("x", (5, 2, 32)), ("topk_ids", (5, 3)), ("topk_ids", (10,)), ("out", (5, 65))]
)
def test_shapes(small, name, shape):
    kind = np.int32 if name == "topk_ids" else ml_dtypes.bfloat16
    refused(ValueError, [name, str(list(shape)[-1]), "[tokens, "], small.apply, **{name: np.zeros(shape, kind)})


def test_rows_must_agree(small):
    refused(ValueError, ["5, 4, 5, 5 rows"], small.apply, topk_ids=small.ids[:4])


def test_strided_rows(small):
    wide = np.zeros((5, 96), ml_dtypes.bfloat16)
    wide[:, :64] = small.x
    assert (bits(small.apply(x=wide[:, :64])) == bits(small.apply())).all()
    ids = np.asfortranarray(small.ids)
    refused(ValueError, ["topk_ids has 5 elements between neighbours"], small.apply, topk_ids=ids)
    refused(ValueError, ["-64 elements between rows"], small.apply, x=small.x[::-1])
    refused(ValueError, ["0 elements between rows"], small.apply, x=np.broadcast_to(small.x[0], small.x.shape))


def test_what_is_right_takes_the_short_way(small, monkeypatch):
    wide = np.zeros((5, 96), ml_dtypes.bfloat16)
    wide[:, :64] = small.x
    arrays = {
        name: small.context.array(value)
        for name, value in (("x", small.x), ("topk_ids", small.ids), ("topk_weights", small.router))
    }
    wanted = bits(small.apply())
    for way in ("_rows", "_checked"):
        monkeypatch.setattr(small.layer, way, None)
    assert (bits(small.apply(x=wide[:, :64])) == wanted).all()
    out = small.layer.apply(small.weights, *arrays.values())
    assert (bits(out.numpy()) == wanted).all()
    empty = np.zeros((0, 64), ml_dtypes.bfloat16)
    small.layer.apply(small.weights, empty, small.ids[:0], small.router[:0], empty)


def test_misaligned_x(small):
    memory = np.zeros(5 * 64 + 1, ml_dtypes.bfloat16)
    error = refused(dsv4mx.ResourceError, ["x"], small.apply, x=memory[1:].reshape(5, 64))
    assert error.status == dsv4mx.Status.MISALIGNED


def test_read_only_out(small):
    out = np.zeros_like(small.x)
    out.flags.writeable = False
    refused(ValueError, ["out is read-only"], small.apply, out=out)
    small.x.flags.writeable = False
    small.apply()


def test_accumulate(small):
    out = np.ones_like(small.x)
    small.apply(out=out, accumulate=True)
    assert np.allclose(out.astype(np.float32), 1 + small.apply().astype(np.float32), atol=2e-2, rtol=2e-2)
    refused(ValueError, ["out is None"], small.apply, accumulate=True)


def test_counts_and_tokens_device(small):
    counts = np.zeros(4, np.int64)
    small.apply(expert_counts=counts)
    assert counts.sum() == small.ids.size
    refused(TypeError, ["expert_counts is int32"], small.apply, expert_counts=counts.astype(np.int32))
    refused(ValueError, ["expert_counts", "wanted 4"], small.apply, expert_counts=np.zeros(8, np.int64)[::2][:3])
    refused(ValueError, ["expert_counts", "contiguous"], small.apply, expert_counts=np.zeros(8, np.int64)[::2])
    refused(ValueError, ["tokens_device"], small.apply, tokens_device=np.zeros(2, np.int32))
    out = np.zeros_like(small.x)
    small.apply(out=out, tokens_device=np.array([2], np.int32))
    assert out[:2].any() and not out[2:].any()


def test_no_tokens(small):
    assert small.apply(x=small.x[:0], topk_ids=small.ids[:0], topk_weights=small.router[:0]).shape == (0, 64)


def test_workspace(small):
    space = dsv4mx.Workspace(small.layer, 5)
    assert (bits(small.apply(workspace=space)) == bits(small.apply())).all()
    tiny = dsv4mx.Workspace(small.layer, 5, minimum=True)
    assert tiny.bytes <= space.bytes and (bits(small.apply(workspace=tiny)) == bits(small.apply())).all()


def test_checked_ids(small):
    layer = small.layer.replace(checked_ids=True)
    ids = small.ids.copy()
    ids[3, 1] = 4
    error = refused(dsv4mx.InvalidError, [], layer.apply, small.weights, small.x, ids, small.router)
    assert error.status == dsv4mx.Status.INVALID_ID and layer.query_faults().invalid_ids == 1


def test_bind(small):
    out = np.zeros_like(small.x)
    call = small.layer.bind(small.weights, small.x, small.ids, small.router, out)
    call()
    assert (bits(out) == bits(small.apply())).all()
    small.x[:] = 0
    call()
    assert not out.any()
    refused(
        TypeError,
        ["topk_ids is int64"],
        small.layer.bind,
        small.weights,
        small.x,
        small.ids.astype(np.int64),
        small.router,
        out,
    )
    refused(ValueError, ["rows"], small.layer.bind, small.weights, small.x, small.ids[:4], small.router, out)


def test_bound_calls_take_the_stream_of_each_call(small):
    call = small.layer.bind(small.weights, small.x, small.ids, small.router, np.zeros_like(small.x))
    made, seen = call._call, []

    def recorded(stream):
        seen.append(0 if stream is None else int(re.search(r"'P' \((0x[0-9a-f]+)\)", repr(stream))[1], 16))
        return made(stream)

    call._call = recorded
    for stream in (None, 0x1234, 0x1234, 2**47, None, 1, 0x1234):
        call(stream) if stream else call()
    assert seen == [0, 0x1234, 0x1234, 2**47, 0, 1, 0x1234]


class OnlyDlpack:
    def __init__(self, array, **more):
        self.array, self.more = array, more

    def __dlpack_device__(self):
        return self.more.get("device") or self.array.__dlpack_device__()

    def __dlpack__(self, **arguments):
        if self.more.get("old") and "max_version" in arguments:
            raise TypeError("no max_version")
        assert arguments.pop("stream", 1) == 1  # numpy has none
        return self.array.__dlpack__(**arguments)


@pytest.mark.parametrize("old", [False, True])
def test_dlpack(small, old):
    wanted = bits(small.apply())
    out = np.zeros_like(small.x)
    small.apply(topk_ids=OnlyDlpack(small.ids, old=old), topk_weights=OnlyDlpack(small.router, old=old), out=out)
    assert (bits(out) == wanted).all()
    refused(TypeError, ["topk_ids is int64"], small.apply, topk_ids=OnlyDlpack(small.ids.astype(np.int64), old=old))
    refused(ValueError, ["between neighbours"], small.apply, topk_ids=OnlyDlpack(np.asfortranarray(small.ids), old=old))
    refused(ValueError, ["wanted the tensor"], small.apply, accumulate=True, topk_ids=OnlyDlpack(small.ids, old=old))


def test_dlpack_weights_and_devices(small):
    weights = dsv4mx.Weights(small.layer)
    codes = np.zeros((4, 64, 32), np.uint8)
    weights.set("w13_weight", OnlyDlpack(codes))
    weights.set("w13_weight", memoryview(codes))
    refused(
        ValueError, ["CUDA device 3", "wanted host memory"], weights.set, "w13_weight", OnlyDlpack(codes, device=(2, 3))
    )
    refused(ValueError, ["type 4", "wanted cpu or cuda"], weights.set, "w13_weight", OnlyDlpack(codes, device=(4, 0)))


def test_cuda_array_on_a_cpu_context(small):
    class Cuda:
        __cuda_array_interface__ = {
            "typestr": "<i4",
            "data": (4096, False),
            "shape": (5, 2),
            "strides": None,
            "version": 3,
        }

    refused(ValueError, ["topk_ids is in CUDA memory", "wanted host memory"], small.apply, topk_ids=Cuda())


def test_cuda_array_of_another_stream():
    class Cuda:
        __cuda_array_interface__ = {
            "typestr": "<i4",
            "data": (4096, False),
            "shape": (5, 2),
            "stream": 77,
            "version": 3,
        }

    view = dsv4mx._tensors.view
    refused(ValueError, ["ready on stream 77 only"], view, Cuda(), "topk_ids", "layer_apply", device=0, stream=0)
    assert view(Cuda(), "topk_ids", "layer_apply", device=0, stream=77).strides == (2, 1)
    del Cuda.__cuda_array_interface__["stream"]
    Cuda.__cuda_array_interface__["strides"] = (16, 4)
    assert view(Cuda(), "topk_ids", "layer_apply", device=3).strides == (4, 1)
    assert view(Cuda(), "topk_ids", "layer_apply", device=3).device == 3


# --- Weights -------------------------------------------------------------------------------------------------------


def test_float4_of_ml_dtypes_is_packed(small):
    codes = np.random.default_rng(5).integers(0, 16, (4, 64, 64), np.uint8)
    one, two = dsv4mx.Weights(small.layer), dsv4mx.Weights(small.layer)
    fill(one)
    fill(two)
    one.set("w13_weight", codes.view(ml_dtypes.float4_e2m1fn))
    two.set("w13_weight", codes[..., 0::2] | codes[..., 1::2] << 4)
    arguments = (small.x, small.ids, small.router)
    results = [bits(small.layer.apply(weights.prepare(), *arguments)) for weights in (one, two)]
    assert (results[0] == results[1]).all() and results[0].any()


def test_strided_weights(small):
    whole = np.random.default_rng(6).integers(0, 256, (4, 128, 32), np.uint8)
    one, two = dsv4mx.Weights(small.layer), dsv4mx.Weights(small.layer)
    fill(one)
    fill(two)
    one.set("w13_weight", whole[:, ::2])
    two.set("w13_weight", whole[:, ::2].copy())
    arguments = (small.x, small.ids, small.router)
    results = [bits(small.layer.apply(weights.prepare(), *arguments)) for weights in (one, two)]
    assert (results[0] == results[1]).all() and results[0].any()
    refused(
        ValueError,
        ["strides of 0"],
        dsv4mx.Weights(small.layer).set,
        "w13_weight",
        np.broadcast_to(np.uint8(1), (4, 64, 32)),
    )


def test_errors_by_class(small):
    weights = dsv4mx.Weights(small.layer)
    error = refused(
        LookupError,
        ["weights_set", "NOT_FOUND", "w5_weight"],
        weights.set,
        "w5_weight",
        np.zeros((4, 64, 32), np.uint8),
    )
    assert isinstance(error, dsv4mx.NotFoundError) and error.operation == "weights_set" and error.text in str(error)
    refused(dsv4mx.NotFoundError, ["weights_prepare"], weights.prepare)
    refused(dsv4mx.InvalidError, ["INVALID_STATE"], small.weights.prepare)
    refused(TypeError, ["uint16", "ml_dtypes.bfloat16"], weights.set, "w13_bias", np.zeros((4, 64), np.uint16))
    refused(NotImplementedError, ["UNSUPPORTED_DTYPE"], dsv4mx.Layer, small.context, **SMALL, group_size=16)
    refused(OSError, ["IO_ERROR"], dsv4mx.Checkpoint, "/no/such/file")
    again = pickle.loads(pickle.dumps(error))
    assert (again.status, again.operation, again.text) == (error.status, error.operation, error.text)


def test_own_memory(small):
    size = small.layer.info.prepared_bytes
    memory = np.zeros(size + 4096, np.uint8)
    start = -memory.ctypes.data % small.layer.info.prepared_alignment
    weights = dsv4mx.Weights(small.layer, memory=memory[start : start + size])
    fill(weights)
    weights.prepare()
    assert memory.any()
    assert (bits(small.layer.apply(weights, small.x, small.ids, small.router)) == bits(small.apply())).all()
    refused(
        dsv4mx.ResourceError, ["BUFFER_TOO_SMALL"], dsv4mx.Weights, small.layer, memory=memory[start : start + size - 1]
    )
    refused(ValueError, ["contiguous writable uint8"], dsv4mx.Weights, small.layer, memory=np.zeros(size, np.int64))


def test_progress_cancels_raises_and_times_out(small):
    weights = dsv4mx.Weights(small.layer)
    fill(weights)
    seen = []
    refused(dsv4mx.CancelledError, ["CANCELLED"], weights.prepare, progress=lambda *state: seen.append(state) or True)
    assert seen and isinstance(seen[0][0], dsv4mx.Stage)

    class Stop(Exception):
        pass

    def stop(*_state):
        raise Stop

    with pytest.raises(Stop):
        weights.prepare(progress=stop)
    refused(TimeoutError, ["DEADLINE_EXCEEDED"], weights.prepare, timeout=0)
    stages = []
    weights.prepare(progress=lambda stage, done, total: stages.append((stage, done, total)), timeout=60)
    assert stages[-1] == (dsv4mx.Stage.PREPARE, 4, 4) and weights.prepared


def test_marlin_there_and_back(small):
    shapes = small.weights.marlin_shapes()
    exported = {name: np.zeros(shapes[name], np.int32) for name in ("w13", "w2")}
    exported |= {name: np.zeros(shapes[name], np.uint8) for name in ("w13_scale", "w2_scale")}
    small.weights.export_marlin(**exported)
    again = dsv4mx.Weights(small.layer)
    again.import_marlin(**exported)
    again.prepare()
    assert (bits(small.layer.apply(again, small.x, small.ids, small.router)) == bits(small.apply())).all()
    refused(ValueError, ["w13", "wanted contiguous"], again.export_marlin, w13=np.zeros((4, 1, 1), np.int32))
    refused(TypeError, ["w13", "int64"], again.export_marlin, w13=np.zeros(shapes["w13"], np.int64))
    refused(ValueError, ["no tensor"], again.export_marlin)


# --- Lives ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_any_order_of_closing(order):
    numbers = Numbers(dsv4mx.Context("cpu"), SMALL)
    array = numbers.context.array(numbers.x)
    objects = [numbers.context, numbers.layer, numbers.weights]
    for index in order:
        objects[index].close()
        objects[index].close()
    assert (bits(array.numpy()) == bits(numbers.x)).all()


def test_closed_objects_say_so(small):
    call = small.layer.bind(small.weights, small.x, small.ids, small.router, np.zeros_like(small.x))
    small.weights.close()
    for function in (small.apply, call):
        error = refused(dsv4mx.InvalidError, ["closed"], function)
        assert error.status == dsv4mx.Status.INVALID_STATE
    refused(dsv4mx.InvalidError, ["Weights is closed"], small.weights.query)
    with small.layer:
        pass
    refused(dsv4mx.InvalidError, ["Layer is closed"], small.layer.query)
    small.context.close()
    refused(dsv4mx.InvalidError, ["Context is closed"], dsv4mx.Layer, small.context, **SMALL)
    assert "closed" in repr(small.layer) and "closed" in repr(small.weights) and "closed" in repr(small.context)


def test_a_weights_object_lives_without_its_context(small):
    wanted = bits(small.apply())
    small.context.close()
    gc.collect()
    assert (bits(small.apply(workspace=None)) == wanted).all()


def test_no_copies(small):
    for value in (small.layer, small.weights, small.context):
        for function in (copy.copy, copy.deepcopy, pickle.dumps):
            refused(TypeError, ["copied"], function, value)


# --- Contexts ------------------------------------------------------------------------------------------------------


def test_devices():
    found = dsv4mx.devices()
    assert found[0].device == dsv4mx.Device.CPU and found[0].supported


def test_context_arguments():
    assert dsv4mx.Context("cpu", threads=1).info.threads == 1
    refused(ValueError, ["'one'", "cuda:1"], dsv4mx.Context, "cuda:one")
    refused(ValueError, ["device", "'tpu'"], dsv4mx.Context, "tpu")
    assert dsv4mx.Context("cpu", cpu_isa="portable").info.cpu_isa == dsv4mx.CpuIsa.PORTABLE


def test_log():
    lines = []
    context = dsv4mx.Context("cpu", log=lambda *line: lines.append(line), log_level="info")
    dsv4mx.Layer(context, **SMALL)
    assert lines and all(isinstance(level, dsv4mx.LogLevel) and text for level, text in lines)


def test_allocator():
    blocks = {}

    def alloc(size, alignment, memory, stream):
        block = np.zeros(size + alignment, np.uint8)
        address = block.ctypes.data + -block.ctypes.data % alignment
        blocks[address] = (block, size)
        return address

    def free(address, size, memory, stream):
        assert blocks.pop(address)[1] == size

    context = dsv4mx.Context("cpu", allocator=dsv4mx.Allocator(alloc, free))
    numbers = Numbers(context, SMALL)
    assert blocks
    numbers.apply()
    numbers.layer.close()
    numbers.weights.close()
    context.close()
    del numbers
    gc.collect()
    assert not blocks


def test_allocator_that_has_nothing():
    def alloc(*_arguments):
        return 0

    context = dsv4mx.Context("cpu", allocator=dsv4mx.Allocator(alloc, lambda *_: None))
    layer = dsv4mx.Layer(context, **SMALL)
    error = refused(MemoryError, [], dsv4mx.Weights, layer)
    assert error.status == dsv4mx.Status.OUT_OF_MEMORY


def test_device_arrays(context):
    for kind in (np.float32, np.int64, np.uint8, ml_dtypes.bfloat16):
        value = np.arange(12).reshape(3, 4).astype(kind)
        array = context.array(value.T)
        assert array.shape == (4, 3) and (array.numpy() == value.T).all() and array.numpy().dtype == kind
    # Where a stride says nothing numpy gives any: one row of a wider matrix, and empty ones.
    wide = np.arange(40, dtype=np.float32).reshape(4, 10)
    for value in (
        wide[:1, :5],
        wide[1:2, 2:3],
        wide[:0, :5],
        wide[:, :0],
        np.zeros((0, 4), np.float32).view(np.uint16),
    ):
        array = context.array(value)
        assert array.shape == value.shape and (array.numpy().view(value.dtype) == value).all()
    assert context.empty((0, 4), "bfloat16").numpy().shape == (0, 4)
    assert context.array(np.zeros(3, np.uint16)).numpy().dtype == ml_dtypes.bfloat16
    refused(TypeError, ["complex128"], context.array, np.zeros(3, complex))


def test_apply_on_the_device(context):
    numbers = Numbers(context, SMALL)
    on_device = [context.array(value) for value in (numbers.x, numbers.ids, numbers.router)]
    out = numbers.layer.apply(numbers.weights, *on_device)
    assert isinstance(out, dsv4mx.DeviceArray)
    host = Numbers(dsv4mx.Context("cpu"), SMALL).apply().astype(np.float32)
    assert np.abs(out.numpy().astype(np.float32) - host).max() <= np.abs(host).max() * 2**-6
    if context.is_cuda:
        refused(ValueError, ["x is in host memory", "context.array"], numbers.apply)


def test_a_stream_is_an_address():
    class Torch:
        cuda_stream = 7

    class Cupy:
        ptr = 8

    class Protocol:
        def __cuda_stream__(self):
            return (0, 9)

    assert [dsv4mx.context.stream_value(value) for value in (None, 6, Torch(), Cupy(), Protocol())] == [0, 6, 7, 8, 9]
    refused(ValueError, ["stream is a str"], dsv4mx.context.stream_value, "fast")


# --- Threads -------------------------------------------------------------------------------------------------------


def test_threads(small):
    """Applies from many threads at once, beside calls that fail: each thread gets its own results and its own text."""
    wanted = bits(small.apply())
    faults = []

    def work(number):
        for _ in range(200):
            if not (bits(small.apply()) == wanted).all():
                faults.append("another result")
            try:
                dsv4mx.Layer(small.context, **SMALL | {"hidden": 1000 + number})
            except dsv4mx.UnsupportedError as error:
                if str(1000 + number) not in error.text:
                    faults.append(error.text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
