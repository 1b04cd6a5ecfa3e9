#!/usr/bin/env python3
"""The complete use in the header's first comment, extracted, compiled as C99 with warnings as errors, and run: on the device
that AUTO gives, and on the CPU with CUDA hidden.

usage: header_example.py HEADER LIBRARY COMPILER...
"""
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path


def example(header):
    """The indented block between "A complete use" and "Conventions"."""
    text = Path(header).read_text(encoding="utf-8")
    block = re.search(r"A complete use[^\n]*\n(.*?)\n \* Conventions", text, flags=re.S)[1]
    lines = [re.sub(r"^ \* ?", "", line) for line in block.splitlines()]
    return "\n".join(line[4:] if line.startswith("    ") else line for line in lines) + "\n"


def main():
    header, library, compiler = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    code = example(header)
    if "dsv4mx_layer_apply" not in code or "dsv4mx_context_destroy" not in code:
        print("the header's first comment has no complete use")
        return 1
    outputs = set()
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "use.c", Path(folder) / "use"
        source.write_text(code, encoding="utf-8")
        subprocess.run([*compiler, "-std=c99", "-pedantic-errors", "-Wall", "-Wextra", "-Werror",
                        "-I", str(Path(header).parent), str(source), "-o", str(program), str(library)], check=True)
        for hidden in ({}, {"CUDA_VISIBLE_DEVICES": ""}):
            env = {**os.environ, **hidden, "LD_LIBRARY_PATH": str(library.parent)}
            run = subprocess.run([str(program)], env=env, capture_output=True, text=True, timeout=60, check=False)
            print(run.stdout.strip(), run.stderr.strip())
            if run.returncode != 0 or not re.fullmatch(r"y\[0\] has the bf16 bits 0x[0-9a-f]{4}\n", run.stdout):
                print(f"the example failed with status {run.returncode}")
                return 1
            outputs.add(run.stdout)
    # A device and the CPU may round one value apart; 0 or NaN would be a layer that computed nothing.
    bad = [o for o in outputs if int(o.split("0x")[1], 16) & 0x7FFF in (0, 0x7FC0, 0x7FFF)]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
