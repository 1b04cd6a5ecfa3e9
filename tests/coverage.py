#!/usr/bin/env python3
"""Adds up gcov's JSON (one document a line, standard input) to the line coverage of lib/, a line per folder.

usage: gcov --json-format --stdout FILE.gcda... | coverage.py ROOT BUILD
"""
import json
import os
import sys
from collections import defaultdict


def main():
    root, build = (os.path.realpath(path) for path in sys.argv[1:3])
    hits = defaultdict(int)  # (file, line) -> runs, over all objects that hold the line
    for text in sys.stdin:
        if not text.strip():
            continue
        document = json.loads(text)
        # Paths are relative to where the compiler ran, Ninja's folder.
        base = document.get("current_working_directory") or build
        for file in document["files"]:
            path = os.path.realpath(os.path.join(base, file["file"]))
            if not os.path.exists(path):
                path = os.path.realpath(os.path.join(build, file["file"]))
            name = os.path.relpath(path, root)
            if name.startswith("lib/"):
                for line in file["lines"]:
                    hits[name, line["line_number"]] += line["count"]
    if not hits:
        sys.exit("coverage: gcov said nothing of lib/")
    folders, files = defaultdict(lambda: [0, 0]), defaultdict(lambda: [0, 0])
    for (name, _), count in hits.items():
        for table, key in ((folders, os.path.dirname(name)), (folders, "lib"), (files, name)):
            table[key][0] += count > 0
            table[key][1] += 1
    for folder, (covered, lines) in sorted(folders.items()):
        print(f"{100 * covered / lines:6.1f} %  {covered:5} of {lines:5} lines  {folder}")
    weakest = sorted(files.items(), key=lambda item: item[1][0] - item[1][1])[:5]
    print("least covered: " + ", ".join(f"{name} ({lines - covered} lines)" for name, (covered, lines) in weakest))


if __name__ == "__main__":
    main()
