# SPDX-License-Identifier: Apache-2.0
"""Finds and loads libdsv4mx.so.0: the file DSV4MX_LIBRARY names, else the copy beside this package, else the loader's."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import struct
import threading
from pathlib import Path

from . import raw
from .errors import Error, LibraryError, make_error

SONAME = "libdsv4mx.so.0"
ENVIRONMENT = "DSV4MX_LIBRARY"

# e_machine of the ELF header.
_MACHINES = {3: "i686", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}


class Library(raw.Functions):
    """The loaded library: all functions of the header, and where they came from."""

    path: str
    version: tuple[int, int, int]

    def __init__(self, path: str, dll: ctypes.CDLL) -> None:
        super().__init__(dll)
        self.path = path
        self.version = _version_of(dll)
        # dsv4mx_layer_apply for arguments that are ctypes' own already: without argtypes nothing is converted in a call.
        self.bare_apply = dll["dsv4mx_layer_apply"]
        self.bare_apply.restype = ctypes.c_int32

    def check(self, status: int, operation: str) -> None:
        """Raises if a call failed. Called on the thread that made the call, at once: the text is that thread's."""
        if status:
            raise self.error(status, operation)

    def error(self, status: int, operation: str) -> Error:
        text: bytes = self.dsv4mx_last_error()
        return make_error(status, operation, text.decode("utf-8", "replace"))


def candidates() -> list[str]:
    """What is tried, in order. A file that DSV4MX_LIBRARY names is meant, so nothing else is tried beside it."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return [named]
    return [str(Path(__file__).resolve().parent / SONAME), SONAME]


def _version_of(dll: ctypes.CDLL) -> tuple[int, int, int]:
    function = dll.dsv4mx_version
    function.restype = ctypes.c_uint32
    number = int(function())
    return number >> 16, number >> 8 & 255, number & 255


def _elf_fault(path: Path) -> str | None:
    """What is wrong with a file before the loader has a look at it."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if len(head) < 64 or head[:4] != b"\x7fELF":
        return "not a shared library: no ELF header"
    order = "<" if head[5] == 1 else ">"
    (machine,) = struct.unpack_from(order + "H", head, 18)
    found, wanted = _MACHINES.get(machine, f"machine {machine}"), platform.machine()
    if found != wanted:
        return f"wrong architecture: found {found}, wanted {wanted}"
    # The table of sections stands at the end. The loader would map what is missing, and the process would die.
    table, entry, entries = *struct.unpack_from(order + "Q", head, 40), *struct.unpack_from(order + "HH", head, 58)
    if size < table + entry * entries:
        return f"cut short: {size} bytes, wanted {table + entry * entries}"
    return None


def _load_fault(path: str, text: str) -> str:
    """The loader's message in words that say what to do."""
    missing = re.match(r"(\S+): cannot open shared object file: No such file", text)
    if missing and missing[1] != path:
        return f"missing dependency {missing[1]}: install it, or add its folder to LD_LIBRARY_PATH"
    if missing:
        return "not found by the loader (LD_LIBRARY_PATH, ld.so.conf, /usr/lib)"
    needed = re.search(r"version `([^']+)' not found", text)
    if needed:
        return f"this system is too old: the library needs {needed[1]} ({text})"
    return text


def _try(path: str) -> Library | str:
    """The library, or what is wrong with it."""
    if "/" in path:
        file = Path(path)
        if not file.exists():
            return "no such file"
        if file.is_dir():
            return f"a folder: wanted the file, e.g. {file / SONAME}"
        fault = _elf_fault(file)
        if fault:
            return fault
    try:
        dll = ctypes.CDLL(path)
    except OSError as error:
        return _load_fault(path, str(error))
    try:
        found = _version_of(dll)
    except AttributeError:
        return "not dsv4mx: it has no dsv4mx_version()"
    if found[:2] != raw.VERSION[:2]:
        wanted = f"{raw.VERSION[0]}.{raw.VERSION[1]}.*"
        return f"wrong ABI version: found {'.'.join(map(str, found))}, wanted {wanted}"
    try:
        return Library(_file_of(dll) or path, dll)
    except AttributeError as error:
        return f"not this version's library: {error}"


class _DlInfo(ctypes.Structure):
    _fields_ = [
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    ]


def _file_of(dll: ctypes.CDLL) -> str | None:
    """The file that the loader took."""
    info = _DlInfo()
    try:
        dladdr = ctypes.CDLL(None).dladdr
    except AttributeError:
        return None
    address = ctypes.cast(dll.dsv4mx_version, ctypes.c_void_p)
    if not dladdr(address, ctypes.byref(info)) or not info.file:
        return None
    return os.path.realpath(os.fsdecode(info.file))


_lock = threading.Lock()
_loaded: Library | None = None


def library() -> Library:
    """The library, loaded at the first call and never unloaded. A LibraryError says why it cannot be."""
    global _loaded
    if _loaded is not None:
        return _loaded
    with _lock:
        if _loaded is None:
            faults = []
            for path in candidates():
                result = _try(path)
                if isinstance(result, Library):
                    _loaded = result
                    break
                faults.append(f"  {path}: {result}")
            else:
                tried = "\n".join(faults)
                raise LibraryError(
                    f"dsv4mx: cannot load {SONAME}. Tried:\n{tried}\n"
                    f"Set {ENVIRONMENT} to the file, or install the wheel that carries it."
                )
    return _loaded
