# SPDX-License-Identifier: Apache-2.0
"""What prepared weights can do: copy, replace, read back and move single experts; save and restore them all."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import raw
from ._handle import Handle
from ._tensors import BITS16, HOST, View, is_torch, place, to_tensor, torch_stream, view
from ._values import Control, Progress, dtype_value, int32, make, path_value
from .context import Context, numpy_dtype, stream_value
from .errors import InvalidError, InvalidTypeError
from .info import ExpertInfo, from_struct
from .slab import Borrowed, Slab, size_of

if TYPE_CHECKING:
    from .layer import Layer

Self = TypeVar("Self", bound="Experts")


class Experts(Handle):
    """The base of Weights: its single experts, and its snapshots."""

    layer: Layer
    _context: Context
    _last_stream: int
    _fillings: int
    """How often reset() emptied the object: slabs of before are gone."""

    def _view(self, value: Any, what: str, operation: str, stream: int | None) -> View:
        v = view(value, what, operation, device=self._context._device, stream=stream)
        if v.device not in (HOST, self._context._device):
            raise InvalidError(
                raw.Status.INVALID_TENSOR,
                operation,
                f"{what} is in {place(v.device)}, wanted host memory or {place(self._context._device)}",
            )
        return v

    def _stream(self, stream: Any, *values: Any) -> int:
        """The stream of a call: the one given, torch's current one for its device tensors, or that of the call before.

        What an earlier call enqueued on another stream is waited for: the library orders by streams alone.
        """
        address = self._last_stream
        if stream is not None:
            address = stream_value(stream)
        elif self._context.is_cuda:
            for value in values:
                if is_torch(value) and value.is_cuda:
                    address = torch_stream(value.device.index)
                    break
        if address != self._last_stream:
            if self._context.is_cuda:
                self._context.synchronize(self._last_stream)
            self._last_stream = address
        return address

    @staticmethod
    def _wait_for(source: Experts, stream: int) -> None:
        """Waits for what the calls of another object enqueued on another stream."""
        if source._context.is_cuda and source._last_stream != stream:
            source._context.synchronize(source._last_stream)

    def _run(self, call: Any, operation: str, control: Control) -> None:
        status = call()
        error = self._lib.error(status, operation) if status else None
        control.reraise()
        if error is not None:
            raise error

    # --- Single experts ----------------------------------------------------------------------------------------------

    def query_expert(self, expert: int) -> ExpertInfo:
        """What prepare found in local expert `expert`. Raises InvalidError: no such expert, not prepared."""
        operation = "weights_query_expert"
        info = raw.ExpertInfo()
        status = self._lib.dsv4mx_weights_query_expert(
            self.handle, int32(expert, "expert", operation), ctypes.byref(info)
        )
        self._lib.check(status, operation)
        return from_struct(ExpertInfo, info)

    def copy_experts(
        self,
        source: Experts,
        to_experts: Sequence[int],
        from_experts: Sequence[int],
        *,
        progress: Progress | None = None,
        timeout: float | None = None,
        stream: Any = None,
    ) -> None:
        """Local expert to_experts[i] of this object becomes prepared expert from_experts[i] of `source`.

        These weights may be prepared: applies enqueued before on the stream see the old expert, later ones the new one,
        and the caller's events order other streams. Else the experts count as set. `source` may be this object if no
        expert is both read and written; it may have another number of experts and another context, of the same kind of
        device. Only enqueues on CUDA.

        Raises InvalidError (numbers, `source` is not prepared, a captured stream), UnsupportedError (another form, or an
        expert that the number path does not allow), CancelledError and DeadlineError (the text says how many experts
        are copied), OutOfMemoryError, CudaError.
        """
        operation = "weights_copy_experts"
        if len(to_experts) != len(from_experts):
            raise InvalidError(
                raw.Status.INVALID_ARGUMENT,
                operation,
                f"to_experts has {len(to_experts)} entries and from_experts {len(from_experts)}, wanted the same number",
            )
        to = _numbers(to_experts, "to_experts", operation)
        taken = _numbers(from_experts, "from_experts", operation)
        source_handle = source.handle
        address = self._stream(stream)
        self._wait_for(source, address)
        control = Control(progress, timeout)
        args = make(
            raw.CopyArgs,
            operation,
            to_experts=ctypes.addressof(to),
            from_experts=ctypes.addressof(taken),
            count=len(to_experts),
            control=control.address,
        )
        function = self._lib.dsv4mx_weights_copy_experts
        self._run(lambda: function(self.handle, source_handle, ctypes.byref(args), address), operation, control)

    def replace(self, expert: int, source: Experts, from_expert: int = 0, *, stream: Any = None) -> None:
        """copy_experts for one: local expert `expert` becomes expert from_expert of `source`.

        For the new weights of one expert, `source` is a weights object of
        Layer(context, **layer.fields | {"experts": 1, "experts_global": 1, "placement": None}), set and prepared.
        """
        self.copy_experts(source, [expert], [from_expert], stream=stream)

    def get(
        self,
        name: str,
        expert: int = -1,
        *,
        dtype: Any = None,
        out: Any = None,
        progress: Progress | None = None,
        timeout: float | None = None,
        stream: Any = None,
    ) -> Any:
        """One tensor of a prepared expert, bit for bit what was set: a numpy array, or `out` filled. Waits for the stream.

        name    in the names of set(), those of w1, w2, w3 and of gate_proj, up_proj, down_proj: "w1.weight",
                "w2.weight_scale", "up_proj.bias", with any prefix
        expert  the local expert; -1 or its number where the name has "experts.M."
        dtype   of a result that is made: "uint8" (default) or "int8" codes [rows, K / 2], "bfloat16" for the weights
                themselves [rows, K]; "uint8" (default) or "float8_e8m0fnu" scales [rows, K / 32]; float32 biases [rows].
                Rows are the channels held here, of w2 the hidden size; K is the other one.
        out     an array to write to, of these dtypes and shapes and of any strides without overlap, in host memory or
                in that of the layer's device

        Raises InvalidError (number, not prepared, `out`), NotFoundError (name, a bias or an expert not held here),
        CancelledError, DeadlineError, OutOfMemoryError, CudaError.
        """
        operation = "weights_get"
        int32(expert, "expert", operation)
        if out is None:
            out = np.empty(*self._form(name, dtype, operation))
        elif dtype is not None:
            raise InvalidError(
                raw.Status.INVALID_ARGUMENT, operation, "dtype is for a result that is made, not for out"
            )
        address = self._stream(stream, out)
        v = self._view(out, name, operation, address)
        if not v.writable:
            raise InvalidError(raw.Status.INVALID_TENSOR, operation, f"out for {name} is read-only")
        if v.dtype == BITS16:
            v = v._replace(dtype=raw.Dtype.BF16)
        struct = to_tensor(v)
        control = Control(progress, timeout)
        args = raw.ExpertArgs(control=control.address)
        function = self._lib.dsv4mx_weights_get
        self._run(
            lambda: function(
                self.handle, name.encode("utf-8"), expert, ctypes.byref(struct), ctypes.byref(args), address
            ),
            operation,
            control,
        )
        return out

    def _form(self, name: str, dtype: Any, operation: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of the tensor of a name. A name that is none gets one as well: C says what is wrong with it."""
        info = self.layer.info
        matrix, _, kind = name.rpartition(".")
        down = matrix.rpartition(".")[2] in ("w2", "down_proj") or kind.startswith("w2_")
        rows, columns = (info.hidden, info.intermediate_count) if down else (info.intermediate_count, info.hidden)
        if kind.endswith("bias"):
            shape: tuple[int, ...] = (rows,)
            wanted = [raw.Dtype.F32]
        elif "scale" in kind:
            shape, wanted = (rows, columns // 32), [raw.Dtype.U8, raw.Dtype.E8M0]
        else:
            shape, wanted = (rows, columns // 2), [raw.Dtype.U8, raw.Dtype.I8, raw.Dtype.BF16]
        found = wanted[0] if dtype is None else dtype_value(dtype, "dtype", operation)
        if found not in wanted:
            names = ", ".join(str(numpy_dtype(one)) for one in wanted)
            raise InvalidTypeError(
                raw.Status.INVALID_TENSOR, operation, f"{name} is wanted as {dtype!r}, and comes as one of {names}"
            )
        if found == raw.Dtype.BF16:
            shape = (rows, columns)
        return shape, numpy_dtype(found)

    def get_slab(self, expert: int) -> Slab:
        """Prepared local expert `expert` as its bytes, in place: see Slab. Raises InvalidError: no such one, not prepared."""
        operation = "weights_get_slab"
        struct = raw.Slab()
        status = self._lib.dsv4mx_weights_get_slab(
            self.handle, int32(expert, "expert", operation), ctypes.byref(struct)
        )
        self._lib.check(status, operation)
        return Slab._of_weights(self, struct)

    def set_slab(
        self,
        expert: int,
        slab: Slab,
        *,
        progress: Progress | None = None,
        timeout: float | None = None,
        stream: Any = None,
    ) -> None:
        """Takes local expert `expert` from its bytes, as copy_experts does from another object.

        The bytes lie in host memory or in that of the layer's device and are read in stream order; scale bytes 255 are
        refused. After a failure prepared weights are as before, and in others the expert counts as not set.

        Raises as copy_experts, UnsupportedError (an id of another form), ResourceError (too few bytes), InvalidError
        (too many bytes, a scale byte).
        """
        operation = "weights_set_slab"
        int32(expert, "expert", operation)
        address = self._stream(stream, slab.data)
        v = self._view(slab.data, "slab.data", operation, address)
        if isinstance(slab.data, Borrowed):
            self._wait_for(slab.data.weights, address)
        struct = raw.Slab(
            id=slab.id,
            data=v.address,
            bytes=size_of(v, operation),
            memory=raw.Memory.HOST if v.device == HOST else raw.Memory.DEVICE,
        )
        control = Control(progress, timeout)
        args = raw.ExpertArgs(control=control.address)
        function = self._lib.dsv4mx_weights_set_slab
        self._run(
            lambda: function(self.handle, expert, ctypes.byref(struct), ctypes.byref(args), address), operation, control
        )

    def reset(self) -> None:
        """Empties the object: it can be filled and prepared again, in the same memory.

        On CUDA the caller has finished applies with it and copies from it. Slabs that were got before are gone.
        """
        self._lib.check(self._lib.dsv4mx_weights_reset(self.handle), "weights_reset")
        self._fillings += 1

    # --- Snapshots -----------------------------------------------------------------------------------------------------

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int = 0,
        level: int = 0,
        progress: Progress | None = None,
        timeout: float | None = None,
        stream: Any = None,
    ) -> None:
        """Writes the prepared experts to one file, which appears when it is complete. Waits for the stream.

        threads  that compress and write, 1..64; 0 = the library's choice
        level    of zstd, 1..19; 0 = the library's choice, -1 = nothing is compressed

        Raises InvalidError (not prepared), UnsupportedError (more than one file holds), FileError, CancelledError,
        DeadlineError, OutOfMemoryError, CudaError.
        """
        self._snapshot("weights_save", path, threads, level, progress, timeout, stream)

    def restore(
        self: Self,
        path: str | os.PathLike[str],
        *,
        threads: int = 0,
        progress: Progress | None = None,
        timeout: float | None = None,
        stream: Any = None,
    ) -> Self:
        """Fills empty weights from a file of save() and prepares them; returns self. After a failure they are empty.

        Raises InvalidError (not empty, another shape, a scale byte), NotFoundError (an expert that the file lacks),
        UnsupportedError (another version or layout), FileError (also a damaged byte), CancelledError, DeadlineError,
        OutOfMemoryError, CudaError.
        """
        self._snapshot("weights_restore", path, threads, 0, progress, timeout, stream)
        return self

    def _snapshot(
        self,
        operation: str,
        path: str | os.PathLike[str],
        threads: int,
        level: int,
        progress: Progress | None,
        timeout: float | None,
        stream: Any,
    ) -> None:
        control = Control(progress, timeout)
        args = make(raw.SnapshotArgs, operation, control=control.address, threads=threads, level=level)
        address = self._stream(stream)
        function = getattr(self._lib, "dsv4mx_" + operation)
        self._run(lambda: function(self.handle, path_value(path), ctypes.byref(args), address), operation, control)


def _numbers(values: Sequence[int], what: str, operation: str) -> ctypes.Array[ctypes.c_int32]:
    return (ctypes.c_int32 * len(values))(*[int32(int(value), what, operation) for value in values])
