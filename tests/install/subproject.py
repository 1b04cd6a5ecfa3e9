#!/usr/bin/env python3
"""Configures the library as a Meson subproject of a parent that says nothing of its own, as most do: debug, -O0.

Whatever the parent's build type, the library's own files must be optimised and without assertions, by what stands in
compile_commands.json. Exit code 77 = skipped, with the reason printed.

usage: subproject.py ROOT [MESON]...
"""
import concurrent.futures
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

PARENT = """project('parent', 'c'{options})
executable('program', 'program.c', dependencies: dependency('dsv4mx'))
"""
PROGRAM = "#include <dsv4mx.h>\nint main(void) { return dsv4mx_version() == 0; }\n"
# The parent's own default options: none, and the ones that ask for the most checking.
PARENTS = {
    "default": "",
    "checking": ", default_options: ['buildtype=debug', 'optimization=0', 'b_ndebug=false', 'cpp_debugstl=true', 'werror=true']",
}


def fail(*what):
    sys.exit("subproject: " + " ".join(str(part) for part in what))


def flags(command):
    """The last -O counts, and the last of -D and -U of a name."""
    level, defined = "-O0", set()
    for word in shlex.split(command):
        if re.fullmatch(r"-O\w*", word):
            level = word
        elif found := re.fullmatch(r"-D(\w+)(=.*)?", word):
            defined.discard(found[1]) if found[2] == "=0" else defined.add(found[1])
        elif found := re.fullmatch(r"-U(\w+)", word):
            defined.discard(found[1])
    return level, defined


def check(meson, root, options):
    with tempfile.TemporaryDirectory() as name:
        parent = Path(name)
        (parent / "meson.build").write_text(PARENT.format(options=options), encoding="utf-8")
        (parent / "program.c").write_text(PROGRAM, encoding="utf-8")
        (parent / "subprojects").mkdir()
        (parent / "subprojects" / "dsv4mx").symlink_to(root)
        setup = [meson, "setup", "build", "-Ddsv4mx:cuda=disabled"]
        done = subprocess.run(setup, cwd=parent, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            fail(" ".join(setup), "failed:\n", done.stdout, done.stderr)
        commands = json.loads((parent / "build" / "compile_commands.json").read_text(encoding="utf-8"))
    own = [c for c in commands if "dsv4mx/lib/" in c["file"] or "/lib/" in os.path.realpath(parent / "build" / c["file"])]
    if len(own) < 20:
        fail("only", len(own), "files of lib/ among", [c["file"] for c in commands])
    for command in own:
        level, defined = flags(command["command"])
        if level not in ("-O2", "-O3"):
            fail(command["file"], "is compiled with", level)
        if "NDEBUG" not in defined or defined & {"_GLIBCXX_ASSERTIONS", "_GLIBCXX_DEBUG"}:
            fail(command["file"], "is compiled with assertions: NDEBUG is missing or one of", sorted(defined), "turns them on")
        if "-Werror" in shlex.split(command["command"]):
            fail(command["file"], "fails on warnings because the parent does")
    return len(own)


def main():
    root, mesons = Path(sys.argv[1]).resolve(), sys.argv[2:]
    if not mesons:
        print("skipped: no meson on PATH")
        return 77
    cases = [(meson, name) for meson in mesons for name in PARENTS]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = list(pool.map(lambda case: check(case[0], root, PARENTS[case[1]]), cases))
    for (meson, name), files in zip(cases, counts):
        version = subprocess.run([meson, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        print(f"Meson {version}, {name} parent: {files} files optimised, without assertions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
