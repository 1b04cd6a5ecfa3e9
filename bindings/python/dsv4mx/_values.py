# SPDX-License-Identifier: Apache-2.0
"""How Python values become fields of structs, and back."""

from __future__ import annotations

import ctypes
import enum
import os
from collections.abc import Callable
from typing import Any, TypeVar

from . import raw
from .errors import InvalidError, InvalidTypeError

E = TypeVar("E", bound=enum.IntEnum)


def enum_value(kind: type[E], value: E | str | int, what: str, operation: str) -> int:
    """A member, its name in any case ("gate_up"), or its number."""
    if isinstance(value, str):
        try:
            return kind[value.upper()].value
        except KeyError:
            names = ", ".join(member.name.lower() for member in kind)
            raise InvalidError(
                raw.Status.INVALID_ARGUMENT, operation, f"{what} is {value!r}, wanted one of {names}"
            ) from None
    return int(value)


S = TypeVar("S", bound=raw.Struct)


def make(kind: type[S], operation: str, /, **fields: Any) -> S:
    """A struct with these fields. ctypes cuts integers to the width of their field in silence: here that is an error."""
    struct = kind(**fields)
    for name, value in fields.items():
        if isinstance(value, int) and (getattr(struct, name) or 0) != value:
            raise _too_wide(name, value, operation)
    return struct


def int32(value: int, what: str, operation: str) -> int:
    if not -(1 << 31) <= value < 1 << 31:
        raise _too_wide(what, value, operation)
    return value


def int64(value: int, what: str, operation: str) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise _too_wide(what, value, operation)
    return value


def _too_wide(what: str, value: int, operation: str) -> InvalidError:
    return InvalidError(
        raw.Status.INVALID_ARGUMENT, operation, f"{what} is {value}, which its integer type cannot hold"
    )


# Names of numpy, ml_dtypes, torch and DLPack, and those of the header.
_DTYPES: dict[str, raw.Dtype] = {
    "bfloat16": raw.Dtype.BF16,
    "float32": raw.Dtype.F32,
    "float16": raw.Dtype.F16,
    "int8": raw.Dtype.I8,
    "uint8": raw.Dtype.U8,
    "float8_e8m0fnu": raw.Dtype.E8M0,
    "float8_e4m3fn": raw.Dtype.E4M3,
    "float8_e5m2": raw.Dtype.E5M2,
    "int32": raw.Dtype.I32,
    "int64": raw.Dtype.I64,
    "float64": raw.Dtype.F64,
    "uint32": raw.Dtype.U32,
    # Two values per byte, and a shape that counts the bytes.
    "float4_e2m1fn_x2": raw.Dtype.U8,
}
_DTYPES.update({member.name.lower(): member for member in raw.Dtype})

DTYPE_NAMES: dict[int, str] = {
    raw.Dtype.BF16: "bfloat16",
    raw.Dtype.F32: "float32",
    raw.Dtype.F16: "float16",
    raw.Dtype.I8: "int8",
    raw.Dtype.U8: "uint8",
    raw.Dtype.E2M1: "float4_e2m1fn",
    raw.Dtype.E8M0: "float8_e8m0fnu",
    raw.Dtype.E4M3: "float8_e4m3fn",
    raw.Dtype.E5M2: "float8_e5m2",
    raw.Dtype.I32: "int32",
    raw.Dtype.I64: "int64",
    raw.Dtype.F64: "float64",
    raw.Dtype.U32: "uint32",
}
"""What the fields call a dtype, for messages."""


def dtype_value(dtype: Any, what: str, operation: str) -> int:
    """A raw.Dtype from its name, a numpy or ml_dtypes dtype or scalar type, or a torch dtype; None = the default."""
    if dtype is None:
        return raw.Dtype.DEFAULT
    if isinstance(dtype, int):
        return int(dtype)
    name = dtype if isinstance(dtype, str) else str(getattr(dtype, "name", None) or getattr(dtype, "__name__", dtype))
    found = _DTYPES.get(name.removeprefix("torch.").lower())
    if found is None:
        raise InvalidTypeError(
            raw.Status.INVALID_ARGUMENT,
            operation,
            f"{what} is {dtype!r}, wanted a dtype such as 'bfloat16' or 'float32'",
        )
    return found


def dtype_name(dtype: int) -> str:
    return DTYPE_NAMES.get(dtype, f"dtype {dtype}")


def path_value(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bytes:
    return os.fsencode(path)


def text_value(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8")


def char_text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


Progress = Callable[[raw.Stage, int, int], object]
"""progress(stage, done, total): called at least once per second; True cancels, and so does an exception."""


class Control:
    """A dsv4mx_control for one call: a progress callback that may raise, and a timeout in seconds."""

    def __init__(self, progress: Progress | None, timeout: float | None) -> None:
        self.exception: BaseException | None = None
        self.struct: raw.Control | None = None
        if progress is None and timeout is None:
            return
        self.struct = raw.Control()
        if timeout is not None:
            # 0 means no limit in C: a timeout that has passed already is the shortest one.
            self.struct.timeout_ns = min(max(1, int(timeout * 1e9)), (1 << 63) - 1)
        if progress is not None:
            function = progress

            def call(_user: int | None, stage: int, done: int, total: int) -> int:
                try:
                    return 1 if function(raw.Stage(stage), done, total) is True else 0
                except BaseException as error:  # raised again when the call has returned
                    self.exception = error
                    return 1

            self.struct.progress = raw.ProgressFn(call)

    @property
    def address(self) -> int | None:
        return None if self.struct is None else ctypes.addressof(self.struct)

    def reraise(self) -> None:
        """What the callback raised, instead of the CANCELLED that came of it."""
        if self.exception is not None:
            raise self.exception
