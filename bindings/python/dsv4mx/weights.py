# SPDX-License-Identifier: Apache-2.0
"""Weights: the experts of one layer."""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from . import raw
from ._experts import Experts
from ._tensors import (
    BITS16,
    HOST,
    contiguous,
    describe,
    packed,
    place,
    to_tensor,
)
from ._values import Control, Progress, int32, make
from .context import numpy_dtype
from .errors import InvalidError, InvalidTypeError
from .info import WeightsInfo, from_struct

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .layer import BoundApply, Layer


class Weights(Experts):
    """The experts of one layer: filled by set(), load() or import_marlin() and prepared, or restored from a snapshot.

    One thread at a time until prepare() has returned; any number of threads and streams afterwards. From then on they change
    by whole experts alone: copy_experts(), replace() and set_slab(), one thread at a time.
    """

    def __init__(self, layer: Layer, *, memory: Any = None) -> None:
        """memory: a tensor of at least layer.info.prepared_bytes bytes on the layer's device; None = allocated here."""
        lib = layer._lib
        self.layer = layer
        self._context = layer.context
        self._bound: weakref.WeakSet[BoundApply] = weakref.WeakSet()
        self._last_stream = 0
        self._fillings = 0
        desc = raw.WeightsDesc()
        self._memory = None
        if memory is not None:
            self._memory = v = self._view(memory, "memory", "weights_create", None)
            if v.device != self._context._device:
                raise InvalidError(
                    raw.Status.INVALID_TENSOR,
                    "weights_create",
                    f"memory is in {place(v.device)}, wanted {place(self._context._device)}",
                )
            if not contiguous(v.shape, v.strides) or v.dtype not in (raw.Dtype.U8, raw.Dtype.I8) or not v.writable:
                raise InvalidError(
                    raw.Status.INVALID_TENSOR,
                    "weights_create",
                    f"memory is {describe(v)}, wanted contiguous writable uint8",
                )
            desc.memory = v.address
            desc.memory_bytes = int(np.prod(v.shape, dtype=np.int64))
        handle = ctypes.c_void_p()
        lib.check(lib.dsv4mx_weights_create(layer.handle, ctypes.byref(desc), ctypes.byref(handle)), "weights_create")
        self._own(lib, handle.value, lib.dsv4mx_weights_destroy)

    def close(self) -> None:
        for bound in list(getattr(self, "_bound", ())):
            bound._close()
        super().close()

    def set(
        self,
        name: str,
        tensor: Any,
        expert: int = -1,
        *,
        progress: Progress | None = None,
        timeout: float | None = None,
        stream: Any = None,
    ) -> None:
        """Copies one tensor. Names and shapes: raw.Functions.dsv4mx_weights_set.

        name    e.g. "w13_weight", "w2_weight_scale_inv", or a checkpoint's "layers.3.ffn.experts.7.w1.weight"
        tensor  host memory of any strides, or memory of the layer's device; FP4 as packed bytes, as
                torch.float4_e2m1fn_x2, or as ml_dtypes.float4_e2m1fn, which is packed here
        expert  the local expert, -1 for a tensor of all of them or where the name says it
        """
        operation = "weights_set"
        if isinstance(tensor, np.ndarray) and tensor.dtype.name == "float4_e2m1fn":
            tensor = packed(tensor)
        address = self._stream(stream, tensor)
        v = self._view(tensor, name, operation, address)
        if v.dtype == BITS16:
            raise InvalidTypeError(
                raw.Status.INVALID_TENSOR,
                operation,
                f"{name} is uint16: view it as ml_dtypes.bfloat16, or give float32",
            )
        if 0 in v.strides and 0 not in v.shape and not any(v.strides):
            if any(size > 1 for size in v.shape):
                raise InvalidError(
                    raw.Status.INVALID_TENSOR,
                    operation,
                    f"{name} repeats one element by strides of 0: make it contiguous",
                )
        struct = to_tensor(v)
        int32(expert, "expert", operation)
        control = Control(progress, timeout)
        args = raw.SetArgs(control=control.address)
        function = self._lib.dsv4mx_weights_set
        self._run(
            lambda: function(
                self.handle, name.encode("utf-8"), expert, ctypes.byref(struct), ctypes.byref(args), address
            ),
            operation,
            control,
        )

    def load(
        self,
        checkpoint: Checkpoint,
        layer: int | None = None,
        *,
        mtp: int | None = None,
        prefix: str | None = None,
        staging_bytes: int = 0,
        progress: Progress | None = None,
        timeout: float | None = None,
        stream: Any = None,
    ) -> None:
        """Sets every tensor of the experts held here from block layers.N, mtp.N, or a prefix; prepare() comes next."""
        from .checkpoint import make_block

        block = make_block(layer, mtp, prefix, "weights_load")
        control = Control(progress, timeout)
        args = make(raw.LoadArgs, "weights_load", control=control.address, staging_bytes=staging_bytes)
        address = self._stream(stream)
        function = self._lib.dsv4mx_weights_load
        self._run(
            lambda: function(self.handle, checkpoint.handle, ctypes.byref(block), ctypes.byref(args), address),
            "weights_load",
            control,
        )

    def prepare(self, *, progress: Progress | None = None, timeout: float | None = None, stream: Any = None) -> Weights:
        """Finishes the weights; returns self. May be repeated after a cancelled or late call."""
        control = Control(progress, timeout)
        args = raw.PrepareArgs(control=control.address)
        function = self._lib.dsv4mx_weights_prepare
        address = self._stream(stream)
        self._run(lambda: function(self.handle, ctypes.byref(args), address), "weights_prepare", control)
        return self

    def query(self) -> WeightsInfo:
        info = raw.WeightsInfo()
        self._lib.check(self._lib.dsv4mx_weights_query(self.handle, ctypes.byref(info)), "weights_query")
        return from_struct(WeightsInfo, info)

    @property
    def prepared(self) -> bool:
        return self.query().state == raw.WeightsState.PREPARED

    # --- Marlin ----------------------------------------------------------------------------------------------------

    def _marlin_struct(self, expert_first: int, hidden_padded: int, intermediate_padded: int) -> raw.Marlin:
        operation = "layer_query_marlin"
        marlin = make(
            raw.Marlin,
            operation,
            expert_first=expert_first,
            hidden_padded=hidden_padded,
            intermediate_padded=intermediate_padded,
        )
        self._lib.check(self._lib.dsv4mx_layer_query_marlin(self.layer.handle, ctypes.byref(marlin)), operation)
        marlin.hidden_padded = hidden_padded or marlin.hidden_padded
        marlin.intermediate_padded = intermediate_padded or marlin.intermediate_padded
        return marlin

    def marlin_shapes(self, *, hidden_padded: int = 0, intermediate_padded: int = 0) -> dict[str, tuple[int, ...]]:
        """Shapes of the Marlin tensors of all local experts; 0 = SGLang's padding."""
        m = self._marlin_struct(0, hidden_padded, intermediate_padded)
        return _marlin_shapes(m, self.layer.info.experts)

    def import_marlin(
        self,
        *,
        w13: Any = None,
        w13_scale: Any = None,
        w2: Any = None,
        w2_scale: Any = None,
        w13_bias: Any = None,
        w2_bias: Any = None,
        expert_first: int = 0,
        hidden_padded: int = 0,
        intermediate_padded: int = 0,
        progress: Progress | None = None,
        timeout: float | None = None,
        stream: Any = None,
    ) -> None:
        """Takes experts from expert_first on in the Marlin MXFP4 form of SGLang and vLLM; shapes: marlin_shapes()."""
        given = {
            "w13": w13,
            "w13_scale": w13_scale,
            "w2": w2,
            "w2_scale": w2_scale,
            "w13_bias": w13_bias,
            "w2_bias": w2_bias,
        }
        self._marlin(
            "weights_import_marlin",
            given,
            expert_first,
            hidden_padded,
            intermediate_padded,
            progress,
            timeout,
            stream,
            False,
        )

    def export_marlin(
        self,
        *,
        w13: Any = None,
        w13_scale: Any = None,
        w2: Any = None,
        w2_scale: Any = None,
        w13_bias: Any = None,
        w2_bias: Any = None,
        expert_first: int = 0,
        hidden_padded: int = 0,
        intermediate_padded: int = 0,
        progress: Progress | None = None,
        timeout: float | None = None,
        stream: Any = None,
    ) -> None:
        """Writes prepared experts in Marlin form into the given tensors, bit for bit what SGLang's preparation makes."""
        given = {
            "w13": w13,
            "w13_scale": w13_scale,
            "w2": w2,
            "w2_scale": w2_scale,
            "w13_bias": w13_bias,
            "w2_bias": w2_bias,
        }
        self._marlin(
            "weights_export_marlin",
            given,
            expert_first,
            hidden_padded,
            intermediate_padded,
            progress,
            timeout,
            stream,
            True,
        )

    def _marlin(
        self,
        operation: str,
        given: dict[str, Any],
        expert_first: int,
        hidden_padded: int,
        intermediate_padded: int,
        progress: Progress | None,
        timeout: float | None,
        stream: Any,
        written: bool,
    ) -> None:
        address = self._stream(stream, *given.values())
        views = {
            name: self._view(value, name, operation, address) for name, value in given.items() if value is not None
        }
        if not views:
            raise InvalidError(raw.Status.INVALID_ARGUMENT, operation, "no tensor is given")
        count = next(iter(views.values())).shape[0]
        marlin = self._marlin_struct(expert_first, hidden_padded, intermediate_padded)
        marlin.expert_count = count
        shapes = _marlin_shapes(marlin, count)
        places = {v.device for v in views.values()}
        if len(places) > 1:
            raise InvalidError(
                raw.Status.INVALID_TENSOR,
                operation,
                f"tensors are in {' and '.join(map(place, sorted(places)))}, wanted one",
            )
        marlin.memory = raw.Memory.HOST if places == {HOST} else raw.Memory.DEVICE
        for name, v in views.items():
            if v.shape != shapes[name] or not contiguous(v.shape, v.strides):
                raise InvalidError(
                    raw.Status.INVALID_TENSOR,
                    operation,
                    f"{name} is {describe(v)}, wanted contiguous {list(shapes[name])}",
                )
            wanted: tuple[int, ...] = (raw.Dtype.E8M0, raw.Dtype.U8)
            if name in ("w13", "w2"):
                wanted = (raw.Dtype.I32,)
            elif name.endswith("bias"):
                wanted = (raw.Dtype.BF16, raw.Dtype.F32)
                if marlin.bias_dtype not in (0, v.dtype):
                    raise InvalidTypeError(
                        raw.Status.INVALID_TENSOR, operation, "the biases have two dtypes, wanted one"
                    )
                marlin.bias_dtype = v.dtype
            if v.dtype not in wanted:
                names = " or ".join(str(numpy_dtype(dtype)) for dtype in wanted)
                raise InvalidTypeError(raw.Status.INVALID_TENSOR, operation, f"{name} is {describe(v)}, wanted {names}")
            if written and not v.writable:
                raise InvalidError(raw.Status.INVALID_TENSOR, operation, f"{name} is read-only")
            setattr(marlin, name, v.address)
        control = Control(progress, timeout)
        args = raw.MarlinArgs(control=control.address)
        function = getattr(self._lib, "dsv4mx_" + operation)
        self._run(lambda: function(self.handle, ctypes.byref(marlin), ctypes.byref(args), address), operation, control)

    def __repr__(self) -> str:
        if self.closed:
            return "<dsv4mx.Weights closed>"
        info = self.query()
        return f"<dsv4mx.Weights {info.state.name.lower()}, {info.bytes} bytes>"


def _marlin_shapes(marlin: raw.Marlin, count: int) -> dict[str, tuple[int, ...]]:
    hidden, intermediate = marlin.hidden_padded, marlin.intermediate_padded
    return {
        "w13": (count, hidden // 16, 4 * intermediate),
        "w13_scale": (count, hidden // 32, 2 * intermediate),
        "w13_bias": (count, 2 * intermediate),
        "w2": (count, intermediate // 16, 2 * hidden),
        "w2_scale": (count, intermediate // 32, hidden),
        "w2_bias": (count, hidden),
    }
