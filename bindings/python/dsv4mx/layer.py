# SPDX-License-Identifier: Apache-2.0
"""Layer: one MoE layer. Workspace and BoundApply: what repeated calls keep."""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from . import raw
from ._handle import Handle, pointer
from ._rows import Reader, Rows, array_reader, no_reader, numpy_reader, torch_reader
from ._tensors import (
    BITS16,
    HOST,
    View,
    describe,
    is_torch,
    packer,
    place,
    torch_stream_of,
    view,
)
from ._values import dtype_name, dtype_value, enum_value, int32, int64, make
from .context import Context, DeviceArray, stream_value
from .errors import InvalidError, InvalidTypeError
from .info import FaultInfo, LayerInfo, WorkspaceInfo, from_struct

if TYPE_CHECKING:
    from .comm import Comm
    from .weights import Weights

_UNUSED = ("x_scale", "x_scale_stride", "reserved")
_RARE = ("tokens_device", "expert_counts", "comm", "comm_tokens", "comm_tag", "multiprocessors", "flags")
_ARGS = packer(raw.ApplyArgs, _UNUSED)
_ARGS_SIZE = _ARGS.size
_pack_args = _ARGS.pack
_pack_plain_args = packer(raw.ApplyArgs, _UNUSED + _RARE).pack
_ACCUMULATE = raw.ApplyFlag.ACCUMULATE.value


_Readers = tuple[Reader, Reader, Reader, Reader, Callable[[], int] | None]
"""Of x, topk_ids, topk_weights and out of one kind, and what gives the current stream of its package."""

_NO_READERS: _Readers = (no_reader, no_reader, no_reader, no_reader, None)


def _wrong(what: str, text: str) -> NoReturn:
    raise InvalidError(raw.Status.INVALID_TENSOR, "layer_apply", f"{what} {text}")


def _placed(placement: Sequence[int], experts: int, operation: str) -> ctypes.Array[ctypes.c_int32]:
    if len(placement) != experts:
        raise InvalidError(
            raw.Status.INVALID_ARGUMENT,
            operation,
            f"placement has {len(placement)} entries, wanted experts = {experts}",
        )
    return (ctypes.c_int32 * experts)(*[int32(int(expert), "placement", operation) for expert in placement])


class Workspace:
    """Scratch memory of applies: of one call at a time, or of many on one stream, which run in order."""

    def __init__(self, layer: Layer, max_tokens: int, *, minimum: bool = False, comm: Comm | None = None) -> None:
        need = layer.query_workspace(max_tokens, comm)
        self.max_tokens = max_tokens
        self.bytes = need.minimum_bytes if minimum else need.bytes
        self._memory = DeviceArray(layer.context, self.bytes, raw.Dtype.U8)
        self.address = self._memory.address

    def __repr__(self) -> str:
        return f"<dsv4mx.Workspace {self.bytes} bytes, up to {self.max_tokens} tokens>"


class Layer(Handle):
    """One MoE layer, or the part of it that one rank holds: checked when it is made. Only its placement can change.

    The parameters are the fields of dsv4mx_layer_desc; raw.LayerDesc documents each. Zeros are defaults. Enums are given as
    members (raw.W13Order.GATE_UP) or by name ("gate_up"), dtypes as names, numpy or torch dtypes.
    """

    def __init__(
        self,
        context: Context,
        *,
        hidden: int,
        intermediate: int,
        experts: int,
        top_k: int,
        expert_first: int = 0,
        experts_global: int = 0,
        placement: Sequence[int] | None = None,
        physical_first: int = 0,
        physical_global: int = 0,
        tp_rank: int = 0,
        tp_size: int = 0,
        intermediate_first: int = 0,
        intermediate_count: int = 0,
        weight_format: str | raw.WeightFormat = raw.WeightFormat.MXFP4,
        group_size: int = 0,
        w13_order: str | raw.W13Order = raw.W13Order.UNSET,
        nibble_order: str | raw.NibbleOrder = raw.NibbleOrder.LOW_FIRST,
        activation: str | raw.Activation = raw.Activation.SWIGLU,
        clamp_limit: float = 0.0,
        activation_alpha: float = 0.0,
        activation_beta: float = 0.0,
        situ_beta: float = 0.0,
        situ_linear_beta: float = 0.0,
        w13_bias: Any = None,
        w2_bias: Any = None,
        router_weight_position: str | raw.RouterWeightPosition = raw.RouterWeightPosition.AFTER_W2,
        routed_scaling_factor: float = 0.0,
        x_dtype: Any = None,
        out_dtype: Any = None,
        ids_dtype: Any = None,
        router_weight_dtype: Any = None,
        slot_dtype: Any = None,
        compute: str | raw.Compute = raw.Compute.W4A16,
        batch_invariant: bool = False,
        checked_ids: bool = False,
        physical_ids: bool = False,
        number_path: str | raw.NumberPath = raw.NumberPath.AUTO,
        oracle: str | raw.Oracle = raw.Oracle.NONE,
    ) -> None:
        given = locals()
        self.fields: dict[str, Any] = {name: value for name, value in given.items() if name not in ("self", "context")}
        """What the layer was made from: Layer(context, **layer.fields) makes it again."""
        lib = context._lib
        operation = "layer_create"

        def number(kind: Any, name: str) -> int:
            return enum_value(kind, given[name], name, operation)

        def dtype(name: str) -> int:
            return dtype_value(given[name], name, operation)

        flags = (
            batch_invariant * raw.LayerFlag.BATCH_INVARIANT
            | checked_ids * raw.LayerFlag.CHECKED_IDS
            | physical_ids * raw.LayerFlag.PHYSICAL_IDS
        )
        desc = make(
            raw.LayerDesc,
            operation,
            hidden=hidden,
            intermediate=intermediate,
            experts=experts,
            top_k=top_k,
            expert_first=expert_first,
            experts_global=experts_global,
            physical_first=physical_first,
            physical_global=physical_global,
            tp_rank=tp_rank,
            tp_size=tp_size,
            intermediate_first=intermediate_first,
            intermediate_count=intermediate_count,
            weight_format=number(raw.WeightFormat, "weight_format"),
            group_size=group_size,
            w13_order=number(raw.W13Order, "w13_order"),
            nibble_order=number(raw.NibbleOrder, "nibble_order"),
            activation=number(raw.Activation, "activation"),
            clamp_limit=clamp_limit,
            activation_alpha=activation_alpha,
            activation_beta=activation_beta,
            situ_beta=situ_beta,
            situ_linear_beta=situ_linear_beta,
            w13_bias=dtype("w13_bias"),
            w2_bias=dtype("w2_bias"),
            router_weight_position=number(raw.RouterWeightPosition, "router_weight_position"),
            routed_scaling_factor=routed_scaling_factor,
            x_dtype=dtype("x_dtype"),
            out_dtype=dtype("out_dtype"),
            ids_dtype=dtype("ids_dtype"),
            router_weight_dtype=dtype("router_weight_dtype"),
            slot_dtype=dtype("slot_dtype"),
            compute=number(raw.Compute, "compute"),
            flags=int(flags),
        )
        if placement is not None:
            held = _placed(placement, experts, operation)
            desc.placement = ctypes.addressof(held)
        experimental = raw.LayerExperimental(
            number_path=number(raw.NumberPath, "number_path"), oracle=number(raw.Oracle, "oracle")
        )
        if experimental.number_path or experimental.oracle:
            desc.experimental = ctypes.addressof(experimental)
        handle = ctypes.c_void_p()
        status = lib.dsv4mx_layer_create(context.handle, ctypes.byref(desc), ctypes.byref(handle))
        lib.check(status, operation)
        self._own(lib, handle.value, lib.dsv4mx_layer_destroy)
        self.context = context
        self.info: LayerInfo = self.query()
        """What runs and how much memory it takes."""
        self._apply: Callable[..., int] = lib.bare_apply
        self._device = context._device
        self._hidden = self.info.hidden
        self._top_k = self.info.top_k
        self._x_dtype = desc.x_dtype or raw.Dtype.BF16.value
        self._out_dtype = desc.out_dtype or raw.Dtype.BF16.value
        self._ids_dtype = desc.ids_dtype or raw.Dtype.I32.value
        self._weight_dtype = desc.router_weight_dtype or raw.Dtype.F32.value
        self._experts = self.info.experts
        self._matrices = {
            "x": (self._x_dtype, self._hidden, False),
            "topk_ids": (self._ids_dtype, self._top_k, False),
            "topk_weights": (self._weight_dtype, self._top_k, False),
            "out": (self._out_dtype, self._hidden, True),
        }
        device = self._device
        self._readers: dict[type, _Readers] = {
            DeviceArray: self._make_readers(lambda dtype, columns, _written: array_reader(dtype, columns, device))
        }
        if device == HOST:
            self._readers[np.ndarray] = self._make_readers(numpy_reader)
        self._local = threading.local()
        self._workspaces: dict[int, Workspace] = {}
        self._outgrown: list[Workspace] = []
        self._bound: weakref.WeakSet[BoundApply] = weakref.WeakSet()

    def replace(self, **changes: Any) -> Layer:
        """The same layer with some fields changed, e.g. replace(ids_dtype="int64") for ids of another dtype.

        Weights go on to serve it where its info.prepared_id is the same.
        """
        return Layer(self.context, **{**self.fields, **changes})

    def set_placement(self, placement: Sequence[int], *, stream: Any = None) -> None:
        """Changes which experts the slots hold, from this point of the stream on: local expert s is placement[s].

        Applies enqueued before on the stream go by the old placement, those after, replays of captured graphs included, by
        the new one, and so does what is set or loaded from now on. With weights.copy_experts on the same stream this moves
        experts under load. The layer was made with a placement and without physical_ids. One thread at a time, and no other
        call of this layer beside it. `fields` and replace() follow.

        Raises InvalidError (an entry, their number, a layer without a placement, a captured stream), OutOfMemoryError,
        CudaError.
        """
        operation = "layer_set_placement"
        held = _placed(placement, self._experts, operation)
        status = self._lib.dsv4mx_layer_set_placement(self.handle, ctypes.addressof(held), stream_value(stream))
        self._lib.check(status, operation)
        self.fields["placement"] = list(held)

    def close(self) -> None:
        for bound in list(getattr(self, "_bound", ())):
            bound._close()
        super().close()
        self._workspaces = {}
        self._outgrown = []

    def query(self) -> LayerInfo:
        info = raw.LayerInfo()
        self._lib.check(self._lib.dsv4mx_layer_query(self.handle, ctypes.byref(info)), "layer_query")
        return from_struct(LayerInfo, info)

    def query_workspace(self, max_tokens: int, comm: Comm | None = None) -> WorkspaceInfo:
        """The workspace of calls up to max_tokens tokens; over a group the other ranks' rows count too."""
        info = raw.WorkspaceInfo()
        int64(max_tokens, "max_tokens", "layer_query_workspace")
        args = raw.WorkspaceArgs(comm=None if comm is None else comm.handle)
        status = self._lib.dsv4mx_layer_query_workspace(self.handle, max_tokens, ctypes.byref(args), ctypes.byref(info))
        self._lib.check(status, "layer_query_workspace")
        return from_struct(WorkspaceInfo, info)

    def query_faults(self) -> FaultInfo:
        """Ids that a layer with checked_ids refused so far, without a CUDA call."""
        info = raw.FaultInfo()
        self._lib.check(self._lib.dsv4mx_layer_query_faults(self.handle, ctypes.byref(info)), "layer_query_faults")
        return from_struct(FaultInfo, info)

    def query_plan(self, tokens: int, weights: Weights | None = None) -> str:
        """One line on how a call of so many tokens runs, and why."""
        int64(tokens, "tokens", "layer_query_plan")
        text = ctypes.create_string_buffer(4096)
        status = self._lib.dsv4mx_layer_query_plan(
            self.handle, None if weights is None else weights.handle, tokens, text, len(text)
        )
        self._lib.check(status, "layer_query_plan")
        return text.value.decode("utf-8", "replace")

    # --- apply -----------------------------------------------------------------------------------------------------

    def apply(
        self,
        weights: Weights,
        x: Any,
        topk_ids: Any,
        topk_weights: Any,
        out: Any = None,
        *,
        workspace: Workspace | None = None,
        stream: Any = None,
        accumulate: bool = False,
        tokens_device: Any = None,
        expert_counts: Any = None,
        multiprocessors: int = 0,
        comm: Comm | None = None,
        comm_tokens: int = 0,
        comm_tag: int = 0,
    ) -> Any:
        """y = the layer applied to x, into `out`, or into a new array of x's kind; returns it.

        x             [tokens, hidden] bfloat16, or its bits as uint16
        topk_ids      [tokens, top_k] of the layer's ids_dtype; ids that are not held here are skipped
        topk_weights  [tokens, top_k] of the layer's router_weight_dtype
        out           [tokens, hidden] of the layer's out_dtype; rows may be strided in all four
        workspace     None: the layer keeps one for each thread (CPU) or stream (CUDA), or takes it from torch
        stream        None: torch's current stream if the tensors are torch's, else the legacy default stream
        tokens_device one int32 in device memory: how many of the tokens count
        expert_counts [experts] int64 in device memory; the pairs of each local expert are added
        comm          a group that this layer was prepared for: every rank calls, with tokens of its own (also none)
        comm_tokens   with comm: the most tokens of any rank, the same on every rank; 0 = the group's max_tokens
        comm_tag      with comm: a number that all ranks give alike, e.g. the layer's index

        Only enqueues on CUDA. Every tensor is in memory of the context's device; nothing is copied or converted.
        """
        read_x, read_ids, read_weights, read_out, current = self._readers.get(type(x)) or self._readers_of(x)
        if self._device == HOST:
            stream_address = 0
        elif stream is None and current is not None:
            stream_address = current()
        else:
            stream_address = stream_value(stream)
        x_address, x_stride, tokens = read_x(x) or self._rows(x, "x", stream_address)
        ids_address, ids_stride, ids_rows = read_ids(topk_ids) or self._rows(topk_ids, "topk_ids", stream_address)
        weight_address, weight_stride, weight_rows = read_weights(topk_weights) or self._rows(
            topk_weights, "topk_weights", stream_address
        )
        if out is None:
            if accumulate:
                _wrong("out", "is None, wanted the tensor to accumulate into")
            out = self._new_out(x, tokens)
        out_address, out_stride, out_rows = read_out(out) or self._rows(out, "out", stream_address)
        if not tokens == ids_rows == weight_rows == out_rows:
            raise self._different_rows(tokens, ids_rows, weight_rows, out_rows)
        if workspace is not None:
            space, space_bytes = workspace.address, workspace.bytes
        elif comm is not None:
            workspace = comm.workspace(self)
            space, space_bytes = workspace.address, workspace.bytes
        else:
            space, space_bytes, workspace = self._find_workspace(x, tokens, stream_address)
        # A bytes object in place of the struct: made in one call, and this call's own.
        if comm is tokens_device is expert_counts is None and not (
            multiprocessors or accumulate or comm_tokens or comm_tag
        ):
            args = _pack_plain_args(
                _ARGS_SIZE, x_address, x_stride, ids_address, ids_stride, weight_address, weight_stride, out_address,
                out_stride, tokens, space, space_bytes,
            )  # fmt: skip
        else:
            count = counts = group = 0
            if comm is not None:
                group = comm.handle
                int64(comm_tokens, "comm_tokens", "layer_apply")
                comm_tag &= 0xFFFFFFFF
            if tokens_device is not None:
                count = self._vector(tokens_device, "tokens_device", raw.Dtype.I32, 1, stream_address)
            if expert_counts is not None:
                counts = self._vector(
                    expert_counts, "expert_counts", raw.Dtype.I64, self._experts, stream_address, True
                )
            int32(multiprocessors, "multiprocessors", "layer_apply")
            args = _pack_args(
                _ARGS_SIZE, x_address, x_stride, ids_address, ids_stride, weight_address, weight_stride, out_address,
                out_stride, tokens, count, space, space_bytes, counts, group, comm_tokens, comm_tag, multiprocessors,
                _ACCUMULATE if accumulate else 0,
            )  # fmt: skip
        # What is closed has no argument, and its handle says so.
        status = self._apply(
            self._argument or self.handle,
            weights._argument or weights.handle,
            args,
            pointer(stream_address) if stream_address else None,
        )
        if status:
            if comm is not None:
                comm._check(status, "layer_apply")
            raise self._lib.error(status, "layer_apply")
        return out

    def bind(
        self,
        weights: Weights,
        x: Any,
        topk_ids: Any,
        topk_weights: Any,
        out: Any,
        *,
        workspace: Workspace | None = None,
        accumulate: bool = False,
        tokens_device: Any = None,
        expert_counts: Any = None,
        multiprocessors: int = 0,
        comm: Comm | None = None,
        comm_tokens: int = 0,
        comm_tag: int = 0,
    ) -> BoundApply:
        """One apply whose tensors stay where they are: all checks are made here, and calling it costs least."""
        current = self._readers_of(x)[-1]
        stream = 0 if current is None else current()
        x_rows = self._rows(x, "x", stream)
        tokens = x_rows[2]
        ids_rows = self._rows(topk_ids, "topk_ids", stream)
        weight_rows = self._rows(topk_weights, "topk_weights", stream)
        out_rows = self._rows(out, "out", stream)
        if not tokens == ids_rows[2] == weight_rows[2] == out_rows[2]:
            raise self._different_rows(tokens, ids_rows[2], weight_rows[2], out_rows[2])
        if workspace is None:
            workspace = Workspace(self, tokens) if comm is None else comm.workspace(self)
        args = make(
            raw.ApplyArgs,
            "layer_apply",
            x=x_rows[0],
            x_stride=x_rows[1],
            topk_ids=ids_rows[0],
            topk_ids_stride=ids_rows[1],
            topk_weights=weight_rows[0],
            topk_weights_stride=weight_rows[1],
            out=out_rows[0],
            out_stride=out_rows[1],
            tokens=tokens,
            workspace=workspace.address,
            workspace_bytes=workspace.bytes,
            multiprocessors=multiprocessors,
            flags=_ACCUMULATE if accumulate else 0,
            comm=None if comm is None else comm.handle,
            comm_tokens=comm_tokens,
            comm_tag=comm_tag & 0xFFFFFFFF,
        )
        if tokens_device is not None:
            args.tokens_device = self._vector(tokens_device, "tokens_device", raw.Dtype.I32, 1, stream)
        if expert_counts is not None:
            args.expert_counts = self._vector(
                expert_counts, "expert_counts", raw.Dtype.I64, self._experts, stream, True
            )
        kept = (x, topk_ids, topk_weights, out, workspace, tokens_device, expert_counts)
        return BoundApply(self, weights, args, kept, current, comm)

    def _different_rows(self, *rows: int) -> InvalidError:
        text = ", ".join(map(str, rows))
        return InvalidError(
            raw.Status.INVALID_TENSOR,
            "layer_apply",
            f"x, topk_ids, topk_weights, out have {text} rows, wanted the same number of tokens",
        )

    def _make_readers(
        self, make_reader: Callable[[int, int, bool], Reader], current: Callable[[], int] | None = None
    ) -> _Readers:
        x, ids, weights, out = [make_reader(*matrix) for matrix in self._matrices.values()]
        return x, ids, weights, out, current

    def _readers_of(self, x: Any) -> _Readers:
        """What reads tensors of x's kind: the short ways, where there are any, and torch's current stream."""
        known = self._readers.get(type(x))
        if known is not None:
            return known
        if not is_torch(x):
            return _NO_READERS
        device = self._device
        found = self._make_readers(
            lambda dtype, columns, _written: torch_reader(dtype, columns, device),
            None if device == HOST else torch_stream_of(device),
        )
        self._readers[type(x)] = found
        return found

    def _rows(self, value: Any, what: str, stream: int) -> Rows:
        """A matrix of any kind that the library takes, or what is wrong with it."""
        dtype, columns, written = self._matrices[what]
        v = self._checked(value, what, dtype, stream, written)
        if len(v.shape) != 2 or v.shape[1] != columns:
            _wrong(what, f"is {describe(v)}, wanted [tokens, {columns}]")
        rows = v.shape[0]
        stride, step = v.strides if rows else (columns, 1)
        if step != 1 and columns > 1:
            _wrong(what, f"has {step} elements between neighbours of a row, wanted 1: make its rows contiguous")
        if rows <= 1:
            stride = columns
        if stride < columns:
            _wrong(what, f"has {stride} elements between rows, wanted at least {columns}")
        return v.address, stride, rows

    def _checked(self, value: Any, what: str, dtype: int, stream: int, written: bool) -> View:
        v = view(value, what, "layer_apply", device=self._device, stream=stream)
        if v.device != self._device:
            hint = ""
            if v.device == HOST:
                hint = ": move it there, e.g. with context.array(...) or tensor.to('cuda')"
            _wrong(what, f"is in {place(v.device)}, wanted {place(self._device)}{hint}")
        if v.dtype != dtype and not (v.dtype == BITS16 and dtype == raw.Dtype.BF16):
            found = "uint16" if v.dtype == BITS16 else dtype_name(v.dtype)
            field = {"x": "x_dtype", "out": "out_dtype", "topk_ids": "ids_dtype", "topk_weights": "router_weight_dtype"}
            way = (
                f"; layer.replace({field[what]}={found!r}) takes it"
                if what in ("topk_ids", "topk_weights", "out")
                else ""
            )
            raise InvalidTypeError(
                raw.Status.INVALID_TENSOR,
                "layer_apply",
                f"{what} is {found}, the layer was made for {dtype_name(dtype)}{way}",
            )
        if written and not v.writable:
            _wrong(what, "is read-only, wanted memory to write to")
        return v

    def _vector(self, value: Any, what: str, dtype: int, size: int, stream: int, written: bool = False) -> int:
        v = self._checked(value, what, dtype, stream, written)
        count = 1
        for length in v.shape:
            count *= length
        if count != size or (len(v.shape) == 1 and size > 1 and v.strides != (1,)):
            _wrong(what, f"is {describe(v)}, wanted {size} contiguous")
        return v.address

    def _new_out(self, x: Any, tokens: int) -> Any:
        shape = (tokens, self._hidden)
        if isinstance(x, np.ndarray):
            return np.empty(shape, np.float32 if self._out_dtype == raw.Dtype.F32 else x.dtype)
        if is_torch(x):
            import torch

            return torch.empty(
                shape, dtype=torch.float32 if self._out_dtype == raw.Dtype.F32 else x.dtype, device=x.device
            )
        if isinstance(x, DeviceArray):
            return self.context.empty(shape, raw.Dtype(self._out_dtype))
        _wrong("out", f"is None, and x is a {type(x).__name__}: give the tensor to write to")

    def _find_workspace(self, x: Any, tokens: int, stream: int) -> tuple[int, int, Any]:
        """(address, bytes, what keeps it) where the caller gave none."""
        workspace: Workspace | None
        if self._device == HOST:  # a call has finished when it returns: one for each thread
            workspace = getattr(self._local, "workspace", None)
            if workspace is None or workspace.max_tokens < tokens:
                workspace = self._local.workspace = Workspace(self, tokens)
        elif is_torch(x):
            memory = self._torch_workspace(x, tokens)
            return memory.data_ptr(), memory.numel(), memory
        else:
            workspace = self._stream_workspace(stream, tokens)
        return workspace.address, workspace.bytes, workspace

    def _torch_workspace(self, x: Any, tokens: int) -> Any:
        """From torch's allocator: it knows the stream, and a CUDA graph's pool keeps it for the graph."""
        import torch

        known = self._local.__dict__.setdefault("bytes", {})
        size = known.get(tokens)
        if size is None:
            size = known[tokens] = self.query_workspace(tokens).bytes
        return torch.empty(size, dtype=torch.uint8, device=x.device)

    def _stream_workspace(self, stream: int, tokens: int) -> Workspace:
        """One for each stream, on which calls run in order. An outgrown one stays: a graph may hold it."""
        workspace = self._workspaces.get(stream)
        if workspace is None or workspace.max_tokens < tokens:
            if workspace is not None:
                self._outgrown.append(workspace)
            workspace = self._workspaces[stream] = Workspace(self, tokens)
        return workspace

    def __repr__(self) -> str:
        if self.closed:
            return "<dsv4mx.Layer closed>"
        i = self.info
        return f"<dsv4mx.Layer hidden {i.hidden}, intermediate {i.intermediate}, experts {i.experts}, top_k {i.top_k}: {i.backend}>"


class BoundApply:
    """An apply with everything bound; calling it runs it. Made by Layer.bind."""

    __slots__ = ("_args", "_call", "_comm", "_current", "_error", "_kept", "_last", "__weakref__")

    def __init__(
        self,
        layer: Layer,
        weights: Weights,
        args: raw.ApplyArgs,
        kept: tuple[Any, ...],
        current: Callable[[], int] | None,
        comm: Comm | None = None,
    ) -> None:
        self._args = args
        self._comm = comm
        self._current = current
        self._kept = (layer, weights, *kept)
        # Converted once: what ctypes makes of an integer for a void pointer.
        fixed = map(pointer, (layer.handle, weights.handle, ctypes.addressof(args)))
        self._call: Callable[[Any], int] = functools.partial(layer._lib.bare_apply, *fixed)
        self._last: tuple[int | None, Any] = (None, None)  # a stream and what ctypes makes of it, read and set as one
        self._error = layer._lib.error
        layer._bound.add(self)
        weights._bound.add(self)
        if comm is not None:
            comm._bound.add(self)

    def __call__(self, stream: int | None = None) -> None:
        """Runs it on a stream, an address; None is torch's current stream for its tensors, else the legacy default one."""
        if stream is None and self._current is not None:
            stream = self._current()
        if stream is None:
            status = self._call(None)
        else:
            last = self._last
            if last[0] != stream:
                last = self._last = (stream, pointer(stream))
            status = self._call(last[1])
        if status:
            if self._comm is not None:
                self._comm._check(status, "layer_apply")
            raise self._error(status, "layer_apply")

    def _close(self) -> None:
        def closed(_stream: Any = None) -> NoReturn:
            raise InvalidError(
                raw.Status.INVALID_STATE,
                "layer_apply",
                "the layer, the weights or the communicator of this call are closed",
            )

        self._call = closed
