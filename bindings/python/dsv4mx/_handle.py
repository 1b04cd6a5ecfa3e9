# SPDX-License-Identifier: Apache-2.0
"""What all objects share: a C handle that is given back once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from . import raw
from ._library import Library
from .errors import InvalidError

Self = TypeVar("Self", bound="Handle")

pointer: Callable[[int | None], Any] = ctypes.c_void_p.from_param
"""What ctypes makes of an address for a void pointer: calls that are given it convert nothing."""


class Handle:
    """A context manager around a C handle. C keeps parents alive, so any order of closing is legal."""

    _handle: int | None = None
    _argument: Any = None
    """The handle as pointer() makes it, None once closed."""
    _destroy: Callable[[int | None], Any] | None = None
    _lib: Library

    def _own(self, lib: Library, handle: int | None, destroy: Callable[[int | None], Any] | None) -> None:
        self._lib = lib
        self._handle = handle
        self._argument = pointer(handle)
        self._destroy = destroy

    @property
    def handle(self) -> int:
        """The C handle, an address; an InvalidError once closed."""
        handle = self._handle
        if handle is None:
            name = type(self).__name__
            raise InvalidError(raw.Status.INVALID_STATE, name.lower(), f"this {name} is closed")
        return handle

    @property
    def closed(self) -> bool:
        return self._handle is None

    def close(self) -> None:
        """Gives the handle back; again is fine. On CUDA the caller has finished its stream work."""
        handle, self._handle, self._argument = self._handle, None, None
        if handle is not None and self._destroy is not None:
            self._destroy(handle)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __copy__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} cannot be copied")

    def __reduce__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} cannot be pickled or copied: it is memory of this process")
