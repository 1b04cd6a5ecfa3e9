# SPDX-License-Identifier: Apache-2.0
"""Context: one device. DeviceArray: memory of it."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from . import raw
from ._handle import Handle
from ._library import Library, library
from ._tensors import BITS16, HOST, View, contiguous, contiguous_strides, view
from ._values import char_text, dtype_name, dtype_value, enum_value, make, path_value
from .errors import InvalidError, OutOfMemoryError
from .info import ContextInfo, DeviceInfo, from_struct

Log = Callable[[raw.LogLevel, str], object]
"""log(level, text): one line without newline."""


class Allocator(NamedTuple):
    """Memory from the caller, e.g. an engine's pool. alloc gives an address; an exception or 0 means there is none."""

    alloc: Callable[[int, int, raw.Memory, int], int]
    """alloc(bytes, alignment, memory, stream) -> address"""
    free: Callable[[int, int, raw.Memory, int], object]
    """free(address, bytes, memory, stream)"""


def devices() -> list[DeviceInfo]:
    """The CPU and every CUDA device that the driver shows, usable or not. Opens no CUDA context."""
    lib = library()
    found = []
    for kind in (raw.Device.CPU, raw.Device.CUDA):
        count = ctypes.c_int32()
        lib.check(lib.dsv4mx_device_get_count(kind, ctypes.byref(count)), "device_get_count")
        for ordinal in range(count.value):
            info = raw.DeviceInfo()
            lib.check(lib.dsv4mx_device_query(kind, ordinal, ctypes.byref(info)), "device_query")
            found.append(from_struct(DeviceInfo, info))
    return found


def stream_value(stream: Any) -> int:
    """The address of a stream: None (the legacy default), an int, a torch or cupy stream, or anything with
    __cuda_stream__."""
    if stream is None:
        return 0
    if isinstance(stream, int):
        return stream
    for name in ("cuda_stream", "ptr"):
        value = getattr(stream, name, None)
        if isinstance(value, int):
            return value
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        return int((protocol() if callable(protocol) else protocol)[1])
    raise InvalidError(
        raw.Status.INVALID_ARGUMENT, "stream", f"stream is a {type(stream).__name__}, wanted an int or a CUDA stream"
    )


class _Reference:
    """The C context, counted: shared by a Context and its arrays, whose memory may be given back after the Context is.

    Counted here because the collector calls __del__ of a cycle's members in any order.
    """

    def __init__(self, lib: Library, handle: int | None, callbacks: list[Any]) -> None:
        self.lib, self.handle, self.callbacks = lib, handle, callbacks
        self._users = 1
        self._lock = threading.RLock()  # the collector may come back here on the same thread

    def take(self) -> _Reference:
        with self._lock:
            self._users += 1
        return self

    def give_back(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self.lib.dsv4mx_context_destroy(self.handle)


class Context(Handle):
    """One device, or the CPU. Any number of threads may use it.

    Context()            the first usable CUDA device, else the CPU
    Context("cpu")       the CPU, with threads=N and cpu_isa="avx2" if need be
    Context("cuda:1")    that CUDA device, or an error
    """

    def __init__(
        self,
        device: str | raw.Device = "auto",
        *,
        device_ordinal: int = 0,
        threads: int = 0,
        cpu_isa: str | raw.CpuIsa = raw.CpuIsa.DEFAULT,
        log: Log | None = None,
        log_level: str | raw.LogLevel | None = None,
        allocator: Allocator | None = None,
        plan_file: str | None = None,
    ) -> None:
        lib = library()
        if isinstance(device, str) and ":" in device:
            device, _, number = device.partition(":")
            if not number.isdigit():
                raise InvalidError(
                    raw.Status.INVALID_ARGUMENT, "context_create", f"device ends in {number!r}, wanted e.g. 'cuda:1'"
                )
            device_ordinal = int(number)
        desc = make(
            raw.ContextDesc,
            "context_create",
            device=enum_value(raw.Device, device, "device", "context_create"),
            device_ordinal=device_ordinal,
            threads=threads,
            cpu_isa=enum_value(raw.CpuIsa, cpu_isa, "cpu_isa", "context_create"),
        )
        if log_level is not None:
            desc.log_level = enum_value(raw.LogLevel, log_level, "log_level", "context_create")
        # C objects made from this context may call back after it is closed: they keep the Python object, and it these.
        self._callbacks: list[Any] = []
        if log is not None:
            desc.log = self._log_callback(log)
        if allocator is not None:
            desc.alloc, desc.free = self._allocator_callbacks(allocator)
        experimental = raw.ContextExperimental()
        if plan_file is not None:
            experimental.plan_file = path_value(plan_file)
            desc.experimental = ctypes.addressof(experimental)
        handle = ctypes.c_void_p()
        lib.check(lib.dsv4mx_context_create(ctypes.byref(desc), ctypes.byref(handle)), "context_create")
        self._own(lib, handle.value, None)
        self._reference: _Reference | None = _Reference(lib, handle.value, self._callbacks)
        self.info: ContextInfo = self.query()
        """What it runs on."""
        self._device = self.info.device_ordinal if self.info.device == raw.Device.CUDA else HOST

    def _log_callback(self, log: Log) -> Any:
        def call(_user: int | None, level: int, text: bytes) -> None:
            log(raw.LogLevel(level), char_text(text))

        self._callbacks.append(raw.LogFn(call))
        return self._callbacks[-1]

    def _allocator_callbacks(self, allocator: Allocator) -> tuple[Any, Any]:
        def alloc(_user: int | None, bytes_: int, alignment: int, memory: int, stream: int | None) -> int | None:
            return allocator.alloc(bytes_, alignment, raw.Memory(memory), stream or 0) or None

        def free(_user: int | None, pointer: int, bytes_: int, memory: int, stream: int | None) -> None:
            allocator.free(pointer, bytes_, raw.Memory(memory), stream or 0)

        self._callbacks += [raw.AllocFn(alloc), raw.FreeFn(free)]
        return self._callbacks[-2], self._callbacks[-1]

    def close(self) -> None:
        """Gives the context back; layers, weights and arrays made from it stay usable. Again is fine."""
        super().close()
        reference, self._reference = getattr(self, "_reference", None), None
        if reference is not None:
            reference.give_back()

    @property
    def is_cuda(self) -> bool:
        return self._device != HOST

    def query(self) -> ContextInfo:
        info = raw.ContextInfo()
        self._lib.check(self._lib.dsv4mx_context_query(self.handle, ctypes.byref(info)), "context_query")
        return from_struct(ContextInfo, info)

    def synchronize(self, stream: Any = None) -> None:
        """Waits for a stream, and raises what failed on it, or that a layer which checks ids met bad ones."""
        status = self._lib.dsv4mx_context_synchronize(self.handle, stream_value(stream))
        self._lib.check(status, "context_synchronize")

    def empty(self, shape: tuple[int, ...] | int, dtype: Any) -> DeviceArray:
        """Memory of this context's device, not initialised."""
        return DeviceArray(self, shape, dtype)

    def array(self, value: Any, stream: Any = None) -> DeviceArray:
        """A copy of a host array in memory of this context's device; uint16 counts as the bits of bfloat16."""
        source = view(value, "array", "context_copy", device=self._device)
        if source.device != HOST:
            raise InvalidError(raw.Status.INVALID_TENSOR, "context_copy", "array is in device memory already")
        if not contiguous(source.shape, source.strides):
            return self.array(np.ascontiguousarray(value), stream)
        dtype = raw.Dtype.BF16 if source.dtype == BITS16 else source.dtype
        result = DeviceArray(self, source.shape, raw.Dtype(dtype))
        result._copy(result.address, source.address, stream)
        return result

    def __repr__(self) -> str:
        return "<dsv4mx.Context closed>" if self.closed else f"<dsv4mx.Context {self.info.name}>"


_ITEM_BYTES = {
    raw.Dtype.BF16: 2, raw.Dtype.F16: 2, raw.Dtype.F32: 4, raw.Dtype.F64: 8, raw.Dtype.I8: 1, raw.Dtype.U8: 1,
    raw.Dtype.E8M0: 1, raw.Dtype.E4M3: 1, raw.Dtype.E5M2: 1, raw.Dtype.I32: 4, raw.Dtype.U32: 4, raw.Dtype.I64: 8,
}  # fmt: skip


def numpy_dtype(dtype: int) -> np.dtype[Any]:
    """numpy's dtype, of ml_dtypes where numpy has none."""
    name = dtype_name(dtype)
    result: np.dtype[Any]
    try:
        result = np.dtype(name)
    except TypeError:
        result = np.dtype(getattr(ml_dtypes, name))
    return result


class DeviceArray:
    """A row-major array in memory of a context's device, for programs without torch or another GPU package.

    context.array(host) and array.numpy() copy between it and the host. On CUDA it is freed when it is collected, which
    waits for the device.
    """

    def __init__(self, context: Context, shape: tuple[int, ...] | int, dtype: Any) -> None:
        self._device = context._device
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.dtype = raw.Dtype(dtype_value(dtype, "dtype", "context_alloc"))
        if self.dtype not in _ITEM_BYTES:
            raise InvalidError(
                raw.Status.INVALID_ARGUMENT, "context_alloc", f"dtype is {self.dtype.name}, wanted one of whole bytes"
            )
        self.nbytes = math.prod(self.shape) * _ITEM_BYTES[self.dtype]
        self._lib = context._lib
        pointer = ctypes.c_void_p()
        # At least a byte: an empty array has an address too.
        status = self._lib.dsv4mx_context_alloc(context.handle, max(self.nbytes, 1), ctypes.byref(pointer))
        self._lib.check(status, "context_alloc")
        if pointer.value is None:
            raise OutOfMemoryError(raw.Status.OUT_OF_MEMORY, "context_alloc", "got NULL")
        assert context._reference is not None
        self._reference = context._reference.take()
        self.address: int = pointer.value

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self._lib.dsv4mx_context_free(self._reference.handle, self.address)
            self._reference.give_back()

    def _copy(self, to: int, source: int, stream: Any) -> None:
        lib, address = self._lib, stream_value(stream)
        lib.check(lib.dsv4mx_context_copy(self._reference.handle, to, source, self.nbytes, address), "context_copy")
        # The host array may go away or be read as soon as this returns.
        lib.check(lib.dsv4mx_context_synchronize(self._reference.handle, address), "context_synchronize")

    def numpy(self, stream: Any = None) -> np.ndarray[Any, Any]:
        """A copy on the host, after what was enqueued on the stream."""
        result: np.ndarray[Any, Any] = np.empty(self.shape, numpy_dtype(self.dtype))
        if self.nbytes:
            self._copy(result.ctypes.data, self.address, stream)
        return result

    def __dsv4mx_view__(self) -> View:
        strides = contiguous_strides(self.shape)
        return View(self.address, self.dtype, self.shape, strides, self._device, True, self)

    def __repr__(self) -> str:
        return f"<dsv4mx.DeviceArray {list(self.shape)} {dtype_name(self.dtype)}>"
