# SPDX-License-Identifier: Apache-2.0
"""Finding the library: in which order, and what is said of every way it can fail."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import dsv4mx
import numpy
import pytest

PACKAGE = Path(dsv4mx.__file__).parent
NEEDED = Path(numpy.__file__).parents[1]  # which PYTHONPATH may have named


@pytest.fixture
def package(tmp_path):
    """A copy of the package without a library beside it."""
    shutil.copytree(PACKAGE, tmp_path / "dsv4mx", ignore=shutil.ignore_patterns("*.so*", "__pycache__"))
    return tmp_path


def run(package, code, library=None, **environment):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DSV4MX", "PYTHON", "LD_"))}
    env |= {"PYTHONPATH": f"{package}:{NEEDED}", "PYTHONDONTWRITEBYTECODE": "1"} | environment
    if library is not None:
        env["DSV4MX_LIBRARY"] = str(library)
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


FAIL = "import dsv4mx\ntry:\n  dsv4mx.library()\nexcept dsv4mx.LibraryError as e:\n  print(e)"


def compiled(folder, source, *options):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("needs a C compiler")
    path = folder / f"lib{len(list(folder.iterdir()))}.so"
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-x", "none", *options, "-o", path]
    subprocess.run(command, input=source, text=True, check=True)
    return path


def test_import_needs_no_library(package):
    done = run(package, "import dsv4mx, dsv4mx.raw; print(dsv4mx.__version__)")
    assert done.returncode == 0 and done.stdout.strip() == dsv4mx.__version__


def test_named_library_comes_first(package):
    real = dsv4mx.library().path
    done = run(package, "import dsv4mx; print(dsv4mx.library().path)", real)
    assert done.stdout.strip() == real


def test_copy_beside_the_package(package):
    shutil.copy(dsv4mx.library().path, package / "dsv4mx/libdsv4mx.so.0")
    done = run(package, "import dsv4mx; print(dsv4mx.library().path)")
    assert done.stdout.strip() == str(package / "dsv4mx/libdsv4mx.so.0")


def test_bare_soname(package):
    (package / "lib").mkdir()
    shutil.copy(dsv4mx.library().path, package / "lib/libdsv4mx.so.0")
    done = run(package, "import dsv4mx; print(dsv4mx.library().path)", LD_LIBRARY_PATH=str(package / "lib"))
    assert done.stdout.strip() == str(package / "lib/libdsv4mx.so.0")


def test_an_unusable_file_is_passed_over(package):
    real = Path(dsv4mx.library().path)
    (package / "lib").mkdir()
    shutil.copy(real, package / "lib/libdsv4mx.so.0")
    (package / "dsv4mx/libdsv4mx.so.0").write_bytes(real.read_bytes()[:3000])
    done = run(package, "import dsv4mx; print(dsv4mx.library().path)", LD_LIBRARY_PATH=str(package / "lib"))
    assert done.stdout.strip() == str(package / "lib/libdsv4mx.so.0")
    text = run(package, FAIL).stdout
    assert f"  {package}/dsv4mx/libdsv4mx.so.0: cut short: 3000 bytes, wanted " in text
    assert "  libdsv4mx.so.0: not found by the loader" in text


def test_every_path_is_listed(package):  # J17
    text = run(package, FAIL).stdout
    assert f"{package}/dsv4mx/libdsv4mx.so.0: no such file" in text
    assert "  libdsv4mx.so.0: not found by the loader" in text
    assert "DSV4MX_LIBRARY" in text


def test_a_named_library_is_meant(package):
    shutil.copy(dsv4mx.library().path, package / "dsv4mx/libdsv4mx.so.0")
    text = run(package, FAIL, package / "none.so").stdout
    assert f"{package}/none.so: no such file" in text and "/dsv4mx/libdsv4mx.so.0:" not in text


def test_folder(package):
    assert "a folder: wanted the file" in run(package, FAIL, package).stdout


def test_text_file(package):
    (package / "text.so").write_text("not a library at all, just text")
    assert "no ELF header" in run(package, FAIL, package / "text.so").stdout


def test_wrong_architecture(package):
    head = bytearray(Path(dsv4mx.library().path).read_bytes())
    struct.pack_into("<H", head, 18, 183)
    (package / "arm.so").write_bytes(head)
    assert "wrong architecture: found aarch64, wanted x86_64" in run(package, FAIL, package / "arm.so").stdout


def test_missing_dependency(package):  # J17
    other = compiled(package, "int f(void) { return 1; }", "-Wl,-soname,libnowhere.so.3")
    this = compiled(package, "int f(void); int g(void) { return f(); }", str(other))
    other.unlink()
    assert "missing dependency libnowhere.so.3" in run(package, FAIL, this).stdout


def test_another_library(package):
    path = compiled(package, "int f(void) { return 1; }")
    assert "not dsv4mx: it has no dsv4mx_version()" in run(package, FAIL, path).stdout


def test_wrong_abi_version(package):
    path = compiled(package, "unsigned dsv4mx_version(void) { return 0x00010203; }")
    major, minor, _ = dsv4mx.raw.VERSION
    text = run(package, FAIL, path).stdout
    assert f"wrong ABI version: found 1.2.3, wanted {major}.{minor}.*" in text


def test_a_function_is_missing(package):
    major, minor, patch = dsv4mx.raw.VERSION
    number = major << 16 | minor << 8 | patch
    path = compiled(package, f"unsigned dsv4mx_version(void) {{ return {number}; }}")
    assert "dsv4mx_version_string" in run(package, FAIL, path).stdout


def test_info_program(package):
    real = dsv4mx.library().path
    program = "import runpy, sys; sys.argv[1:] = {}; runpy.run_module('dsv4mx', run_name='__main__')"
    assert run(package, program.format(["--library"]), real).stdout.strip() == real
    table = run(package, program.format([]), real).stdout
    assert real in table and "cpu" in table
    assert json.loads(run(package, program.format(["--json"]), real).stdout)["library"] == real
    failed = run(package, program.format(["--library"]), package / "none.so")
    assert failed.returncode == 1 and "no such file" in failed.stderr and not failed.stdout
    assert "no such file" in run(package, program.format([]), package / "none.so").stdout
