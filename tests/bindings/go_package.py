#!/usr/bin/env python3
"""Packs the Go module as a release, serves it as a file proxy, and follows both ways of its README in clean folders: the quick
start with a checkout, and the proxy.

    tests/bindings/go_package.py FOLDER          works in FOLDER; the library is named by DSV4MX_LIBRARY
    tests/bindings/go_package.py --pack FOLDER   only makes the proxy, for GOPROXY=file://FOLDER

The module's zip holds the files that git knows, as the public proxies make it from the tag bindings/go/vX.Y.Z. What the
module depends on comes from this machine's cache of modules, else from the proxies that are set.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "bindings/go"
NAME = re.search(r"^module (\S+)$", (MODULE / "go.mod").read_text(encoding="utf-8"), re.M)[1]


def go_env(variable):
    return subprocess.run(["go", "env", variable], check=True, capture_output=True, text=True).stdout.strip()


def pack(proxy):
    """Writes the module below the folder `proxy`, its version that of the header."""
    header = (ROOT / "include/dsv4mx.h").read_text(encoding="utf-8")
    found = dict(re.findall(r"^#define DSV4MX_VERSION_(MAJOR|MINOR|PATCH) (\d+)$", header, re.M))
    version = "v" + ".".join(found[part] for part in ("MAJOR", "MINOR", "PATCH"))
    folder = proxy / NAME / "@v"
    folder.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "."],
        cwd=MODULE,
        check=True,
        capture_output=True,
    ).stdout.decode()
    with zipfile.ZipFile(folder / f"{version}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(filter(None, listed.split("\0"))):
            if (MODULE / path).is_file():
                archive.write(MODULE / path, f"{NAME}@{version}/{path}")
        archive.write(ROOT / "LICENSE", f"{NAME}@{version}/LICENSE")  # as the go command takes it from the root
    (folder / f"{version}.mod").write_bytes((MODULE / "go.mod").read_bytes())
    (folder / f"{version}.info").write_text(json.dumps({"Version": version}) + "\n", encoding="utf-8")
    (folder / "list").write_text(version + "\n", encoding="utf-8")
    print(f"{NAME} {version}: {(folder / f'{version}.zip').stat().st_size} bytes packed")


def readme():
    """The program of the quick start, its commands, and those of the proxy, as they stand in the README."""
    section = (MODULE / "README.md").read_text(encoding="utf-8").split("## Quick start", 1)[1]
    program = re.search(r"^```go\n(.*?)^```$", section, re.M | re.S)[1]
    start, proxy = re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S)[:2]
    if program != (ROOT / "examples/go/minimal/main.go").read_text(encoding="utf-8"):
        sys.exit("bindings/go/README.md: the program of the quick start is not examples/go/minimal/main.go")
    return program, start, proxy


def follow(name, folder, program, commands, checked=()):
    """Runs commands of the README in an empty folder with the program; gives what a program there needs."""
    folder.mkdir(parents=True)
    (folder / "main.go").write_text(program, encoding="utf-8")
    env = dict(os.environ, CGO_ENABLED="0", GOFLAGS="-modcacherw", GOWORK="off", DSV4MX=str(ROOT))
    # A cache of its own for modules: one of another run would hide what was packed now.
    env["GOMODCACHE"] = str(folder / "modules")
    # The go command keeps an index of modules by their place, which holds another module here each time.
    env["GODEBUG"] = "goindex=0"
    env["GOPROXY"] = f"file://{go_env('GOMODCACHE')}/cache/download,{go_env('GOPROXY')}"
    start = time.monotonic()
    done = subprocess.run(
        ["sh", "-e", "-c", commands], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    print(done.stdout + done.stderr, end="")
    if done.returncode != 0 or "out[0] begins [" not in done.stdout:
        sys.exit(f"bindings/go/README.md: {name} failed ({done.returncode})")
    for word in checked:
        if word not in (folder / "go.mod").read_text(encoding="utf-8"):
            sys.exit(f"bindings/go/README.md: {name}: go.mod has no '{word}'")
    print(f"{name}: from nothing to the first result: {time.monotonic() - start:.0f} s")
    return env


def without_the_library(folder, env):
    env["DSV4MX_LIBRARY"] = str(folder / "libdsv4mx.so.0")
    done = subprocess.run(["go", "run", "."], cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode == 0 or f"{env['DSV4MX_LIBRARY']} (DSV4MX_LIBRARY): missing file" not in done.stderr:
        sys.exit(f"without the library the program said: {done.stderr}")


def main():
    if sys.argv[1] == "--pack":
        pack(Path(sys.argv[2]).resolve())
        return
    folder = Path(sys.argv[1]).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    program, start, proxy = readme()
    env = follow("a checkout", folder / "checkout", program, start, ["replace " + NAME])
    without_the_library(folder / "checkout", env)
    follow("a proxy", folder / "proxy", program, "go mod init hello\n" + proxy + "go run .\n", [f"{NAME} v"])


if __name__ == "__main__":
    main()
