# SPDX-License-Identifier: Apache-2.0
"""The generated layer is the header as the C compiler sees it."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess

import pytest
from dsv4mx import library, raw


@pytest.fixture(scope="module")
def layout():
    program = os.environ.get("DSV4MX_LAYOUT")
    if not program:
        pytest.skip("needs DSV4MX_LAYOUT, the program made from tests/bindings/layout.c")
    return json.loads(subprocess.run([program], check=True, capture_output=True, text=True).stdout)


def test_structs(layout):
    assert set(layout["structs"]) == set(raw.STRUCTS)
    for name, c in layout["structs"].items():
        kind = raw.STRUCTS[name]
        fields = {field: [getattr(kind, field).offset, getattr(kind, field).size] for field, *_ in kind._fields_}
        assert fields == c["fields"], name
        assert (ctypes.sizeof(kind), ctypes.alignment(kind)) == (c["size"], c["align"]), name


def test_values(layout):
    assert {name: int(value) for name, value in raw.VALUES.items()} == layout["values"]


def test_version(layout):
    major, minor, patch = raw.VERSION
    assert layout["version"] == major << 16 | minor << 8 | patch == library().dsv4mx_version()


def test_every_function_is_bound():
    for name in raw.PROTOTYPES:
        assert callable(getattr(library(), name)), name


def test_struct_init_does_what_the_constructor_does():
    for kind in raw.STRUCTS.values():
        made = kind()
        memory = (ctypes.c_char * ctypes.sizeof(kind))(*b"\xff" * ctypes.sizeof(kind))
        assert library().dsv4mx_struct_init(memory, len(memory)) == 0
        assert bytes(made) == memory.raw


def test_documentation_came_along():
    assert "every element is written" in open(raw.__file__).read()
    assert raw.W13Order.__doc__ and raw.LayerDesc.__doc__
