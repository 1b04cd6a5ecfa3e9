#!/usr/bin/env python3
"""Prints nvcc's path, its version, the toolkit's include and library folder, a line each; or fails with one line why.

Looks at --root, else $CUDA_HOME and $CUDA_PATH, nvcc on PATH, /usr/local/cuda. A toolkit from Python wheels
(<site-packages>/nvidia/cu13) is one whose libraries lie in lib instead of lib64.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path


def version_of(nvcc):
    try:
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"release (\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def candidates(root):
    if root:
        yield Path(root) / "bin" / "nvcc"
        return
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(name):
            yield Path(os.environ[name]) / "bin" / "nvcc"
    if shutil.which("nvcc"):
        yield Path(shutil.which("nvcc"))
    yield Path("/usr/local/cuda/bin/nvcc")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="")
    parser.add_argument("--minimum", default="12.8")
    args = parser.parse_args()
    minimum = tuple(int(part) for part in args.minimum.split("."))
    seen = []
    for nvcc in candidates(args.root):
        version = version_of(str(nvcc)) if nvcc.is_file() else None
        if version is None:
            seen.append(f"none at {nvcc}")
            continue
        if version < minimum:
            seen.append(f"{version[0]}.{version[1]} at {nvcc}")
            continue
        top = nvcc.resolve().parent.parent
        include = top / "include"
        for name in ("lib64", "lib", "targets/x86_64-linux/lib"):
            if (top / name / "libcudart_static.a").is_file() and (include / "cuda_runtime.h").is_file():
                print(nvcc, f"{version[0]}.{version[1]}", include, top / name, sep="\n")
                return 0
        seen.append(f"{nvcc} without cuda_runtime.h or libcudart_static.a under {top}")
    print(f"no usable nvcc >= {args.minimum} (found: {'; '.join(seen)})", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
