# SPDX-License-Identifier: Apache-2.0
"""What a bug report needs: versions, the library's path, and the devices."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Any, TextIO

from . import raw
from ._library import library
from .context import devices


def versions() -> dict[str, Any]:
    """As a dictionary; "error" says why the library cannot be loaded."""
    result: dict[str, Any] = {
        "dsv4mx": ".".join(map(str, raw.VERSION)),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in ("numpy", "ml_dtypes", "torch"):
        try:
            result[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            result[package] = None
    try:
        lib = library()
    except ImportError as error:
        result["error"] = str(error)
        return result
    result["library"] = lib.path
    result["library version"] = lib.dsv4mx_version_string().decode()
    result["ABI"] = f"{lib.version[0]}.{lib.version[1]}"
    for device in devices():
        name = device.device.name.lower()
        text = device.name if device.supported else f"{device.name}: not usable: {device.reason}"
        if device.device == raw.Device.CUDA:
            text += (
                f" (compute capability {device.compute_capability / 10:.1f}, {device.multiprocessors} SMs, "
                f"{device.total_bytes >> 30} GiB)"
            )
        result.setdefault(name, []).append(text)
    return result


def show_versions(file: TextIO | None = None) -> None:
    """Prints versions() as a table."""
    for name, value in versions().items():
        for line in value if isinstance(value, list) else [value]:
            print(f"{name:16} {'-' if line is None else line}", file=file or sys.stdout)
