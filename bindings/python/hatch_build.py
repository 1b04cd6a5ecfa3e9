# SPDX-License-Identifier: Apache-2.0
"""Puts the library that DSV4MX_WHEEL_LIBRARY names into the wheel, and makes it a wheel of this platform."""

from __future__ import annotations

import os
import sysconfig
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Hook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        library = os.environ.get("DSV4MX_WHEEL_LIBRARY")
        if self.target_name != "wheel" or version == "editable" or not library:
            return
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["force_include"][os.path.realpath(library)] = "dsv4mx/libdsv4mx.so.0"
