#!/usr/bin/env python3
"""Data flows one way: include -> lib/api -> lib/core -> lib/{cpu,cuda,io,dist} -> lib/base -> kernels' launch headers; lower
never includes higher, and floors beside each other do not include one another.

Checked on the #include lines. Also: nothing in lib or kernels prints, ends the process or changes what belongs to it
(pitfalls B15), and no text of lib depends on the locale.
"""
import re
import sys
from pathlib import Path

LAUNCH = ("kernels/launch.h", "kernels/dist/", "kernels/launch_ids.h", "kernels/launch_weights.h", "kernels/paths.def",
          "kernels/mxfp4/layout.h")  # plain C++
BASE = ("dsv4mx.h", "dsv4mx_architecture.h", "lib/base/", *LAUNCH)
# What the files of a folder may include in quotes.
MAY = {
    "include": (),
    "lib/api": BASE + ("dsv4mx_git.h", "lib/api/", "lib/core/", "lib/io/"),
    "lib/core": BASE + ("lib/core/", "lib/dist/", "lib/io/"),
    "lib/io": BASE + ("lib/io/",),
    "lib/cpu": BASE + ("lib/cpu/",),
    "lib/cuda": BASE + ("lib/cuda/",),
    "lib/dist": BASE + ("lib/dist/",),
    "lib/base": BASE + ("kernels/few/geometry.h",),  # in generation.cc, which tells the others
    "kernels": ("kernels/",),
    "examples": ("dsv4mx.h", "examples/"),
}
SUFFIXES = (".h", ".c", ".cc", ".cu", ".cuh", ".inc")
# Foreign headers and the only folders that may see them.
FOREIGN = {r"nlohmann/": ("lib/io",), r"(cuda|cooperative_groups|driver_types)": ("lib/cuda", "kernels"),
           r"nccl": ("lib/dist",), r"catch2/": (), r"zstd": ("lib/io",),
           # Of Abseil only what leaves nothing to link.
           r"absl/(?!(types/span|functional/function_ref|cleanup/cleanup|base/thread_annotations)\.h$)": ()}

FORBIDDEN = re.compile(r"(?<![\w.>])(abort|_?exit|_Exit|quick_exit|terminate|v?f?printf|puts|putchar|perror|cout|cerr|"
                       r"strerror|setenv|putenv|unsetenv|getenv|chdir|setlocale|signal|sigaction|assert|srand|umask)\s*[(<]")


# A number with a decimal point in a text: printf writes it by the process's locale (lib/base/text.h does not).
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
BY_LOCALE = re.compile(r"(?<!%)(?:%%)*%[-+#0]*[0-9*]*(\.[0-9*]+)?[lL]?[aefgAEFG]")


def may_include(path, name):
    """Whether the file at path may include "name"."""
    folder = next(folder for folder in MAY if path.startswith(folder + "/"))
    return name.startswith(MAY[folder] or ("\0",))


def main():
    root = Path(sys.argv[1])
    errors, names = [], []
    for top in ("include", "lib", "kernels", "examples", "tests"):
        for file in sorted((root / top).rglob("*")):
            if file.suffix not in SUFFIXES:
                continue
            path = str(file.relative_to(root))
            if path.startswith("lib/subprojects/"):  # what a wrap unpacked is not ours
                continue
            if not path.startswith("tests/emulator/kernels/"):  # these stand in place of their namesakes
                names.append(file.name)
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                call = FORBIDDEN.search(line.split("//")[0])
                if call and top in ("lib", "kernels"):
                    errors.append(f"{path}:{number}: {call[1]} is not for a library")
                if top == "lib" and "sscanf" not in line and any(BY_LOCALE.search(text) for text in STRING.findall(line)):
                    errors.append(f"{path}:{number}: prints a number by the process's locale")
                found = re.match(r'\s*#\s*include\s*([<"])([^>"]+)', line)
                if not found or top == "tests":
                    continue
                if top == "examples" and (file.parent / found[2]).exists():
                    continue  # a program to copy from keeps its own header beside it
                if found[1] == '"' and not may_include(path, found[2]):
                    errors.append(f"{path}:{number}: may not include {found[2]}, which is higher or beside it")
                for pattern, folders in FOREIGN.items():
                    if found[1] == "<" and re.match(pattern, found[2]) and not path.startswith(folders + ("examples",)):
                        errors.append(f"{path}:{number}: only {' and '.join(folders) or 'tests'} may include <{found[2]}>")
    for name in sorted({name for name in names if names.count(name) > 1}):
        errors.append(f"{name}: the file name exists more than once in the tree")
    print("\n".join(errors) if errors else f"{len(names)} files, every include points downwards")
    return 1 if errors or not names else 0


if __name__ == "__main__":
    sys.exit(main())
