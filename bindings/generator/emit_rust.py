"""The raw layer of the Rust binding: what bindgen (the cargo tool in bindings/generator/rust) makes of the header."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import clang.native
from header import Header
from skip import Skip

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "bindings/generator/rust/Cargo.toml"
CRATE = "bindings/rust/dsv4mx-sys"
OLDEST = 85
FILES = ("src/bindings.rs", "src/experimental.rs", "tests/layout/table.rs")


def emit(header: Header) -> dict[str, str]:
    cargo = shutil.which("cargo")
    version = subprocess.run([cargo, "--version"], capture_output=True, text=True).stdout if cargo else ""
    found = re.match(r"cargo 1\.(\d+)", version)
    if cargo is None or found is None or int(found[1]) < OLDEST:
        raise Skip(f"needs cargo >= 1.{OLDEST}, found {version.strip() or 'none'}")
    environment = dict(os.environ)
    environment["LIBCLANG_PATH"] = str(Path(next(iter(clang.native.__path__))))
    environment.setdefault("CARGO_TARGET_DIR", str(ROOT / "build/bindings/rust"))
    with tempfile.TemporaryDirectory() as folder:
        for file in FILES:
            (Path(folder) / file).parent.mkdir(parents=True, exist_ok=True)
        command = [cargo, "run", "--quiet", "--locked", "--manifest-path", str(TOOL), "--"]
        done = subprocess.run(
            [*command, str(ROOT / "include/dsv4mx.h"), folder], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{TOOL}: {done.stderr.strip()}")
        return {f"{CRATE}/{file}": (Path(folder) / file).read_text(encoding="utf-8") for file in FILES}
