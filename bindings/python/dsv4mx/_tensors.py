# SPDX-License-Identifier: Apache-2.0
"""What dsv4mx reads of a tensor, whoever made it: numpy and ml_dtypes arrays, torch tensors, DLPack, CUDA arrays."""

from __future__ import annotations

import ctypes
import functools
import struct
import sys
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from . import raw
from ._values import _DTYPES, dtype_name
from .errors import InvalidError, InvalidTypeError

HOST = -1


class View(NamedTuple):
    """Where a tensor lies and what it is. Strides count elements."""

    address: int
    dtype: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    device: int
    """CUDA ordinal, or HOST."""
    writable: bool
    owner: Any
    """Keeps the memory alive."""


# --- numpy ---------------------------------------------------------------------------------------------------------


# The process's memory as words. Nothing is read but what is asked for.
_WORD = ctypes.sizeof(ctypes.c_size_t)
_words = (ctypes.c_size_t * (sys.maxsize // _WORD)).from_address(0)
_DATA = object.__basicsize__


def _fast_address(array: np.ndarray[Any, Any]) -> int:
    """The array's data pointer, read where C extensions read it: PyArray_DATA is the field after the object's head, which
    numpy's ABI fixes. array.ctypes.data costs ten times as much, and a buffer of bfloat16 does not exist."""
    return _words[(id(array) + _DATA) // _WORD]


def _slow_address(array: np.ndarray[Any, Any]) -> int:
    return int(array.ctypes.data)


def _address_function() -> Callable[[np.ndarray[Any, Any]], int]:
    """The fast way where it gives what the documented one does."""
    probes: list[np.ndarray[Any, Any]] = [np.zeros(3), np.zeros((2, 4), np.int32)[:, 1:]]
    return _fast_address if all(_fast_address(probe) == _slow_address(probe) for probe in probes) else _slow_address


numpy_address = _address_function()

_numpy_dtypes: dict[Any, int] = {}
_DEFAULT = raw.Dtype.DEFAULT.value


def _numpy_dtype(dtype: np.dtype[Any]) -> int:
    found = _numpy_dtypes.get(dtype)
    if found is None:
        known = _DTYPES.get(dtype.name) if dtype.isnative else None
        found = _DEFAULT if known is None else known.value
        if dtype.name == "float4_e2m1fn":
            found = _DEFAULT  # one value per byte: packed() makes what the library reads
        _numpy_dtypes[dtype] = found
    return found


def _numpy_view(array: np.ndarray[Any, Any], what: str, operation: str) -> View:
    dtype = _numpy_dtype(array.dtype)
    if dtype == _DEFAULT:
        if array.dtype.name == "uint16":
            dtype = BITS16
        else:
            raise InvalidTypeError(
                raw.Status.INVALID_TENSOR, operation, f"{what} has the dtype {array.dtype}, which dsv4mx does not know"
            )
    size = array.dtype.itemsize
    strides = array.strides
    if size > 1:
        if any(stride % size for stride in strides):
            raise InvalidError(
                raw.Status.INVALID_TENSOR,
                operation,
                f"{what} has strides {strides} in bytes, wanted multiples of {size}",
            )
        strides = tuple([stride // size for stride in strides])
    return View(numpy_address(array), dtype, array.shape, strides, HOST, array.flags.writeable, array)


BITS16 = -16
"""uint16 of numpy, which has no bfloat16 of its own: taken as the bits of one where a bfloat16 is wanted."""


def packed(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """ml_dtypes.float4_e2m1fn, one value per byte, as bytes of two: even k in the low half."""
    codes = array.view(np.uint8)
    return (codes[..., 0::2] & 15) | (codes[..., 1::2] << 4)


# --- torch ---------------------------------------------------------------------------------------------------------

_torch_dtypes: dict[Any, int] = {}


def is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _torch_view(tensor: Any, what: str, operation: str) -> View:
    dtype = _torch_dtypes.get(tensor.dtype)
    if dtype is None:
        known = _DTYPES.get(str(tensor.dtype).removeprefix("torch."))
        if known is None:
            raise InvalidTypeError(
                raw.Status.INVALID_TENSOR, operation, f"{what} has the dtype {tensor.dtype}, which dsv4mx does not know"
            )
        dtype = _torch_dtypes[tensor.dtype] = known.value
    device = tensor.device
    if device.type == "cuda":
        ordinal = device.index
    elif device.type == "cpu":
        ordinal = HOST
    else:
        raise InvalidError(
            raw.Status.INVALID_TENSOR, operation, f"{what} is on the device {device}, wanted cpu or cuda"
        )
    return View(tensor.data_ptr(), dtype, tuple(tensor.shape), tensor.stride(), ordinal, True, tensor)


def torch_stream(device: int) -> int:
    """The current stream of torch for a device."""
    return torch_stream_of(device)()


def torch_stream_of(device: int) -> Callable[[], int]:
    """A function that gives the current stream of torch for a device."""
    torch: Any = sys.modules["torch"]
    fast = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # what torch's own generated code calls
    if fast is not None:
        return functools.partial(fast, device)
    return lambda: int(torch.cuda.current_stream(device).cuda_stream)


# --- DLPack --------------------------------------------------------------------------------------------------------


_capsule_pointer = ctypes.pythonapi["PyCapsule_GetPointer"]
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


# DLTensor: data, device type and id, ndim, dtype (code, bits, lanes), shape, strides, byte_offset. The older DLManagedTensor
# begins with it; DLManagedTensorVersioned of DLPack 1.x has its version, context, deleter and flags before it.
_DL_TENSOR = struct.Struct("@PiiiBBHPPQ")
_DL_VERSION = struct.Struct("@IIPPQ")
_dl_tensor_at = (ctypes.c_char * _DL_TENSOR.size).from_address
_dl_version_at = (ctypes.c_char * _DL_VERSION.size).from_address


def _int64s(address: int, count: int) -> tuple[int, ...]:
    return tuple((ctypes.c_int64 * count).from_address(address)[:])  # a slice costs a fifth of the elements one by one


_DL_CPU, _DL_CUDA, _DL_CUDA_HOST, _DL_CUDA_MANAGED = 1, 2, 3, 13
_DL_READ_ONLY, _DL_SUBBYTE_PADDED = 1, 4
_DL_DTYPES: dict[tuple[int, int], int] = {
    (0, 8): raw.Dtype.I8.value,
    (0, 32): raw.Dtype.I32.value,
    (0, 64): raw.Dtype.I64.value,
    (1, 8): raw.Dtype.U8.value,
    (1, 32): raw.Dtype.U32.value,
    (2, 16): raw.Dtype.F16.value,
    (2, 32): raw.Dtype.F32.value,
    (2, 64): raw.Dtype.F64.value,
    (4, 16): raw.Dtype.BF16.value,
    (10, 8): raw.Dtype.E4M3.value,
    (12, 8): raw.Dtype.E5M2.value,
    (14, 8): raw.Dtype.E8M0.value,
    (17, 4): raw.Dtype.E2M1.value,
}
_E2M1, _U8 = raw.Dtype.E2M1.value, raw.Dtype.U8.value


def _dlpack_view(value: Any, what: str, operation: str, stream: int | None) -> View:
    device_type, device_id = value.__dlpack_device__()
    if device_type in (_DL_CUDA, _DL_CUDA_MANAGED):
        ordinal = int(device_id)
        arguments = {"stream": stream or 1}  # DLPack's name of the legacy default stream
    elif device_type in (_DL_CPU, _DL_CUDA_HOST):
        ordinal, arguments = HOST, {}
    else:
        raise InvalidError(
            raw.Status.INVALID_TENSOR,
            operation,
            f"{what} is on a DLPack device of type {int(device_type)}, wanted cpu or cuda",
        )
    try:
        capsule = value.__dlpack__(max_version=(1, 1), **arguments)
    except TypeError:  # a producer of before DLPack 1.0
        capsule = value.__dlpack__(**arguments)
    flags = 0
    try:
        managed = _capsule_pointer(capsule, b"dltensor_versioned")
    except ValueError:  # of another name
        managed = _capsule_pointer(capsule, b"dltensor")
    else:
        major, _minor, _context, _deleter, flags = _DL_VERSION.unpack(_dl_version_at(managed))
        managed += _DL_VERSION.size
        if major != 1:
            raise InvalidError(
                raw.Status.INVALID_TENSOR, operation, f"{what} comes by DLPack {major}, wanted version 1"
            )
    data, _type, _id, ndim, code, bits, lanes, lengths, steps, offset = _DL_TENSOR.unpack(_dl_tensor_at(managed))
    dtype = _DL_DTYPES.get((code, bits))
    if dtype == _E2M1 and lanes == 2:
        dtype = _U8  # the shape counts pairs, which are bytes
    elif lanes != 1 or (flags & _DL_SUBBYTE_PADDED and bits < 8):
        dtype = None
    if dtype is None:
        raise InvalidTypeError(
            raw.Status.INVALID_TENSOR,
            operation,
            f"{what} has the DLPack type code {code} of {bits} bits and {lanes} lanes, which dsv4mx does not know",
        )
    shape = _int64s(lengths, ndim)
    strides = _int64s(steps, ndim) if steps else contiguous_strides(shape)
    if dtype == _E2M1 and not contiguous(shape, strides):
        raise InvalidError(
            raw.Status.INVALID_TENSOR,
            operation,
            f"{what} is packed FP4 with strides {strides}, wanted a contiguous tensor",
        )
    # The capsule is kept as it is: its own destructor gives the tensor back.
    return View(data + offset, dtype, shape, strides, ordinal, not flags & _DL_READ_ONLY, (capsule, value))


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether elements lie one after the other: the stride of a dimension of one, or of an empty array, says nothing."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != step:
            return 0 in shape
        step *= size
    return True


# --- CUDA arrays ---------------------------------------------------------------------------------------------------

_TYPESTR = {
    "i1": raw.Dtype.I8, "u1": raw.Dtype.U8, "i4": raw.Dtype.I32, "i8": raw.Dtype.I64, "u4": raw.Dtype.U32,
    "f2": raw.Dtype.F16, "f4": raw.Dtype.F32, "f8": raw.Dtype.F64,
}  # fmt: skip


def _cuda_array_view(value: Any, what: str, operation: str, device: int, stream: int | None) -> View:
    """__cuda_array_interface__ does not name the device: it counts as the context's. Prefer DLPack."""
    if device == HOST:
        raise InvalidError(raw.Status.INVALID_TENSOR, operation, f"{what} is in CUDA memory, wanted host memory")
    interface = value.__cuda_array_interface__
    theirs = interface.get("stream")
    if theirs is not None and theirs != (stream or 1):
        raise InvalidError(
            raw.Status.INVALID_TENSOR,
            operation,
            f"{what} is ready on stream {theirs} only: run on that stream, or synchronise it",
        )
    typestr = interface["typestr"]
    known = _TYPESTR.get(typestr[1:])
    if known is None and typestr[1:] != "u2":
        raise InvalidTypeError(
            raw.Status.INVALID_TENSOR, operation, f"{what} has the type {typestr}, which dsv4mx does not know"
        )
    dtype = BITS16 if known is None else known.value
    address, read_only = interface["data"]
    shape = tuple(interface["shape"])
    strides = interface.get("strides")
    size = int(typestr[2:])
    elements = contiguous_strides(shape) if strides is None else tuple(stride // size for stride in strides)
    return View(address, dtype, shape, elements, device, not read_only, value)


# --- All of them ---------------------------------------------------------------------------------------------------


def view(value: Any, what: str, operation: str, *, device: int, stream: int | None = None) -> View:
    """The view of a tensor. `device` is the context's; `stream` is where the producer's work is waited for."""
    if isinstance(value, View):
        return value
    if isinstance(value, np.ndarray):
        return _numpy_view(value, what, operation)
    if is_torch(value):
        return _torch_view(value, what, operation)
    own = getattr(value, "__dsv4mx_view__", None)
    if own is not None:
        result: View = own()
        return result
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        return _dlpack_view(value, what, operation, stream)
    if hasattr(value, "__cuda_array_interface__"):
        return _cuda_array_view(value, what, operation, device, stream)
    if hasattr(value, "__array_interface__") or isinstance(value, (bytes, bytearray, memoryview)):
        return _numpy_view(_as_array(value), what, operation)
    raise InvalidTypeError(
        raw.Status.INVALID_TENSOR,
        operation,
        f"{what} is a {type(value).__name__}, wanted a numpy array, a torch tensor, or anything with __dlpack__",
    )


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    return np.asarray(value if hasattr(value, "__array_interface__") else memoryview(value))


def place(device: int) -> str:
    return "host memory" if device == HOST else f"CUDA device {device}"


def to_tensor(v: View) -> raw.Tensor:
    """The dsv4mx_tensor of a view."""
    rank = len(v.shape)
    result = raw.Tensor(
        data=v.address,
        dtype=v.dtype,
        memory=raw.Memory.HOST if v.device == HOST else raw.Memory.DEVICE,
        rank=rank,
    )
    for index in range(min(rank, 4)):
        result.shape[index] = v.shape[index]
        if v.dtype != raw.Dtype.E2M1:
            result.stride[index] = v.strides[index]
    return result


def describe(v: View) -> str:
    return f"{list(v.shape)} {dtype_name(v.dtype)}"


# Field order and padding of a struct for struct.pack, taken from the ctypes class, so that both are one layout.
_CODES = {
    ctypes.c_size_t: "N", ctypes.c_void_p: "P", ctypes.c_int64: "q", ctypes.c_uint64: "Q",
    ctypes.c_int32: "i", ctypes.c_uint32: "I", ctypes.c_float: "f",
}  # fmt: skip


def packer(kind: type[raw.Struct], zeros: Collection[str] = ()) -> struct.Struct:
    """Packs the fields in their order but those of `zeros`, which are 0."""
    codes = [f"{ctypes.sizeof(ctype)}x" if name in zeros else _CODES[ctype] for name, ctype, *_ in kind._fields_]
    result = struct.Struct("@" + "".join(codes))
    if result.size != ctypes.sizeof(kind):
        raise AssertionError(f"{kind.__name__}: {result.size} bytes packed, {ctypes.sizeof(kind)} in C")
    return result
