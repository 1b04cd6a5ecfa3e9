# SPDX-License-Identifier: Apache-2.0
"""Exceptions, one class per decade of dsv4mx_status."""

from __future__ import annotations

from . import raw


class Error(Exception):
    """A call of dsv4mx failed. The classes below tell causes apart, `status` tells every code."""

    status: raw.Status | int
    """The code; a plain int if a newer library has one that this package does not know."""
    operation: str
    """What failed, e.g. "layer_create"."""
    text: str
    """What, got, wanted: for people, and free to change."""

    def __init__(self, status: raw.Status | int, operation: str, text: str) -> None:
        name = status.name if isinstance(status, raw.Status) else f"status {status}"
        super().__init__(f"{operation}: {name}: {text}")
        self.status = status
        self.operation = operation
        self.text = text

    def __reduce__(self) -> tuple[type[Error], tuple[raw.Status | int, str, str]]:
        return type(self), (self.status, self.operation, self.text)


class InvalidError(Error, ValueError):
    """10..19: an argument, struct, state, tensor, scale, name or id that is not legal."""


class InvalidTypeError(InvalidError, TypeError):
    """A dtype that is not the one the layer was made for: nothing is ever reinterpreted."""


class NotFoundError(InvalidError, LookupError):
    """15: an unknown tensor name, or a tensor that is missing."""


class UnsupportedError(Error, NotImplementedError):
    """20..29: legal, but not in this build, on this device or in this version."""


class ResourceError(Error):
    """30..39: memory, a buffer that is too small, an address that is not aligned."""


class OutOfMemoryError(ResourceError, MemoryError):
    """30"""


class CudaError(Error):
    """40..49: a CUDA call failed, or the CUDA context was already broken."""


class NoDeviceError(CudaError):
    """41: no driver, or no CUDA device."""


class CommError(Error):
    """50..59: the group of ranks, or NCCL."""


class FileError(Error, OSError):
    """60..69: a file that cannot be read, or one of another format."""


class CancelledError(Error):
    """70: a progress callback or a cancel flag asked to stop."""


class DeadlineError(Error, TimeoutError):
    """71: a call took longer than its timeout."""


class InternalError(Error):
    """90..99: a bug in the library; please report it with the text."""


class LibraryError(ImportError):
    """libdsv4mx.so.0 cannot be loaded; the text lists every path tried and what is wrong with it."""


_BY_CODE: dict[int, type[Error]] = {
    raw.Status.NOT_FOUND: NotFoundError,
    raw.Status.OUT_OF_MEMORY: OutOfMemoryError,
    raw.Status.NO_DEVICE: NoDeviceError,
    raw.Status.DEADLINE_EXCEEDED: DeadlineError,
}
_BY_DECADE: dict[int, type[Error]] = {
    1: InvalidError,
    2: UnsupportedError,
    3: ResourceError,
    4: CudaError,
    5: CommError,
    6: FileError,
    7: CancelledError,
    9: InternalError,
}


def make_error(code: int, operation: str, text: str) -> Error:
    """The exception of a status code."""
    try:
        status: raw.Status | int = raw.Status(code)
    except ValueError:
        status = code
    return _BY_CODE.get(code, _BY_DECADE.get(code // 10, Error))(status, operation, text)
