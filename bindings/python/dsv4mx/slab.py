# SPDX-License-Identifier: Apache-2.0
"""Slab: one prepared expert as bytes."""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import raw
from ._tensors import HOST, View, contiguous, describe, place, view
from .context import DeviceArray, stream_value
from .errors import InvalidError

if TYPE_CHECKING:
    from ._experts import Experts


class Slab:
    """One prepared expert as bytes: all of it, relocatable, of one size for every expert of a layer.

    weights.get_slab(expert) gives one that is borrowed: its bytes lie inside the weights, are to be read alone, and are
    gone when the weights are closed or reset; it says so when it is used then. copy() gives one that owns its bytes in host
    memory. Slab(id, data) is one that a transport of the caller's brought along. weights.set_slab(expert, slab) takes all
    of them.
    """

    id: int
    """The form: slabs of the same id fit, in another process too; a CPU's and a GPU's differ."""
    data: Any
    """The bytes: contiguous uint8 of any kind that set() takes. A borrowed slab's has the interface of arrays in host
    memory, or of CUDA arrays, so that numpy.asarray or another package reads them in place."""

    def __init__(self, id: int, data: Any) -> None:
        """id: of the slab that was sent. data: its bytes, e.g. bytes, a numpy array or a tensor; they are not copied."""
        if not 0 <= id < 1 << 64:
            raise InvalidError(raw.Status.INVALID_ARGUMENT, "slab", f"id is {id}, wanted 0..2^64-1")
        self.id = id
        self.data = data

    @classmethod
    def _of_weights(cls, weights: Experts, struct: raw.Slab) -> Slab:
        return cls(struct.id, Borrowed(weights, struct.data or 0, struct.bytes, struct.memory))

    @property
    def borrowed(self) -> bool:
        """Whether the bytes are a weights object's own."""
        return isinstance(self.data, Borrowed)

    def numpy(self, stream: Any = None) -> np.ndarray[Any, Any]:
        """A copy of the bytes in host memory, after what was enqueued on the stream."""
        if isinstance(self.data, Borrowed):
            return self.data.numpy(stream)
        if isinstance(self.data, DeviceArray):
            return self.data.numpy(stream).reshape(-1).view(np.uint8)
        v = view(self.data, "slab.data", "slab", device=HOST)
        if v.device != HOST:
            raise InvalidError(
                raw.Status.INVALID_TENSOR,
                "slab",
                f"the bytes are in {place(v.device)}: copy them with their own package",
            )
        return _copied(v.address, size_of(v, "slab"))

    def copy(self, stream: Any = None) -> Slab:
        """A slab that owns its bytes, in host memory. It can be pickled."""
        return Slab(self.id, self.numpy(stream))

    def __reduce__(self) -> Any:
        if self.borrowed:
            raise TypeError("a borrowed Slab cannot be pickled: it is memory of this process; take slab.copy()")
        return Slab, (self.id, self.data)

    def __repr__(self) -> str:
        return f"<dsv4mx.Slab {self.id:#018x}{', borrowed' if self.borrowed else ''}>"


def size_of(v: View, operation: str) -> int:
    """How many bytes a slab's data has."""
    if v.dtype not in (raw.Dtype.U8, raw.Dtype.I8) or not contiguous(v.shape, v.strides):
        text = f"slab.data is {describe(v)} with strides {list(v.strides)}, wanted contiguous uint8"
        raise InvalidError(raw.Status.INVALID_TENSOR, operation, text)
    return math.prod(v.shape)


def _copied(address: int, size: int) -> np.ndarray[Any, Any]:
    result: np.ndarray[Any, Any] = np.empty(size, np.uint8)
    ctypes.memmove(result.ctypes.data, address, size)
    return result


class Borrowed:
    """Bytes inside a weights object, for as long as it holds them."""

    def __init__(self, weights: Experts, address: int, size: int, memory: int) -> None:
        self.weights = weights
        self._fillings = weights._fillings
        self._address = address
        self._device = weights._context._device if memory == raw.Memory.DEVICE else HOST
        self.nbytes = size

    def address(self) -> int:
        if self.weights.closed or self.weights._fillings != self._fillings:
            raise InvalidError(
                raw.Status.INVALID_STATE, "slab", "the weights of this slab are closed or were reset: copy() it before"
            )
        return self._address

    def numpy(self, stream: Any) -> np.ndarray[Any, Any]:
        source, context = self.address(), self.weights._context
        if self._device == HOST:
            return _copied(source, self.nbytes)
        result: np.ndarray[Any, Any] = np.empty(self.nbytes, np.uint8)
        lib, number = context._lib, stream_value(stream)
        status = lib.dsv4mx_context_copy(context.handle, result.ctypes.data, source, self.nbytes, number)
        lib.check(status, "context_copy")
        lib.check(lib.dsv4mx_context_synchronize(context.handle, number), "context_synchronize")
        return result

    def __dsv4mx_view__(self) -> View:
        return View(self.address(), raw.Dtype.U8, (self.nbytes,), (1,), self._device, False, self)

    def _interface(self) -> dict[str, Any]:
        return {
            "shape": (self.nbytes,),
            "typestr": "|u1",
            "data": (self.address(), True),
            "strides": None,
            "version": 3,
        }

    def __getattr__(self, name: str) -> Any:
        # Only the interface of the memory that it is: packages ask which one is there.
        if name == ("__array_interface__" if self._device == HOST else "__cuda_array_interface__"):
            return self._interface()
        raise AttributeError(name)
