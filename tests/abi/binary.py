#!/usr/bin/env python3
"""The shared library as a file: what it needs, how it is marked, how large it is.

NEEDED at most libc, libm, libstdc++, libgcc_s and the loader; the expected soname; no executable stack, no text
relocations, no RPATH; marked NODELETE; stripped size within the budget; imports nothing that starts a program (B13).
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

ALLOWED = ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2",
           "ld-linux-aarch64.so.1")

STARTERS = re.compile(r"v?fork|exec\w+|fexecve|posix_spawnp?|system|popen")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--soname", required=True)
    parser.add_argument("--max-mib", type=float, required=True)
    parser.add_argument("--strip", default="strip", help="the command, of the library's processor")
    parser.add_argument("library")
    args = parser.parse_args()
    text = subprocess.run(["readelf", "--dynamic", "--program-headers", "--wide", args.library],
                          capture_output=True, text=True, check=True).stdout
    errors = []

    needed = re.findall(r"\(NEEDED\).*\[(.*?)\]", text)
    for name in needed:
        if name not in ALLOWED:
            errors.append(f"NEEDED has {name}, wanted at most {', '.join(ALLOWED)}")
    sonames = re.findall(r"\(SONAME\).*\[(.*?)\]", text)
    if sonames != [args.soname]:
        errors.append(f"soname is {sonames}, wanted {args.soname}")
    stack = re.search(r"GNU_STACK.*\s(R\w?E?)\s", text)
    if not stack or "E" in stack[1]:
        errors.append(f"GNU_STACK is {stack[1] if stack else 'absent'}, wanted RW")
    if "(TEXTREL)" in text:
        errors.append("has text relocations")
    if re.search(r"\((RPATH|RUNPATH)\)", text):
        errors.append("has an RPATH")
    if not re.search(r"FLAGS_1.*NODELETE", text):
        errors.append("is not marked NODELETE")

    imports = subprocess.run(["readelf", "--dyn-syms", "--wide", args.library], capture_output=True, text=True,
                             check=True).stdout
    for name in re.findall(r"\sUND\s+([^\s@]+)", imports):
        if STARTERS.fullmatch(name):
            errors.append(f"imports {name}, which starts a program: no compiler runs beside this library")

    with tempfile.TemporaryDirectory() as folder:
        stripped = os.path.join(folder, "stripped.so")
        subprocess.run([args.strip, "--strip-unneeded", "-o", stripped, args.library], check=True)
        mib = os.path.getsize(stripped) / 2**20
    if mib > args.max_mib:
        errors.append(f"is {mib:.2f} MiB stripped, wanted at most {args.max_mib:g}")

    for error in errors:
        print(f"{args.library}: {error}")
    print(f"NEEDED {' '.join(needed)}; {mib:.2f} MiB stripped")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
