#!/usr/bin/env python3
"""The functions declared in the header, the names in the version map and the exported symbols are the same set.

Also: no wildcard among the map's exports, every export carries the map's version node, and every public function is
declared with DSV4MX_API or DSV4MX_CHECKED.
"""
import argparse
import re
import subprocess
import sys


def header_functions(path):
    """(functions declared with DSV4MX_API, functions declared without it)"""
    with open(path, encoding="utf-8") as source:
        text = source.read()
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r"//[^\n]*", " ", text)
    text = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", " ", text, flags=re.M)
    exported, other = set(), set()
    for statement in re.split(r"[;{}]", text):
        if re.search(r"\btypedef\b|\bstatic\b", statement):
            continue
        found = re.search(r"\b(dsv4mx_\w+)\s*\(", statement)
        if found:
            (exported if re.search(r"\bDSV4MX_(?:API|CHECKED)\b", statement) else other).add(found[1])
    return exported, other


def map_names(path):
    """{name: version node} of the map's global sections."""
    with open(path, encoding="utf-8") as source:
        text = re.sub(r"/\*.*?\*/|#[^\n]*", " ", source.read(), flags=re.S)
    names = {}
    for node, body in re.findall(r"(\w+)\s*\{(.*?)\}", text, flags=re.S):
        for part in re.findall(r"global\s*:(.*?)(?=local\s*:|$)", body, flags=re.S):
            names.update({name: node for name in re.findall(r"[\w*?\[\]]+", part)})
    return names


def exported_symbols(path):
    """{name: version node} of the defined dynamic symbols, version nodes themselves left out."""
    out = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    symbols = {}
    for line in out.splitlines():
        kind, name = line.split()[-2:]
        if kind == "A":
            continue
        name, _, node = name.replace("@@", "@").partition("@")
        symbols[name] = node
    return symbols


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--header", required=True)
    parser.add_argument("--map", required=True)
    parser.add_argument("library")
    args = parser.parse_args()
    declared, unmarked = header_functions(args.header)
    mapped = map_names(args.map)
    exported = exported_symbols(args.library)
    errors = []
    if not declared:
        errors.append(f"{args.header}: no function declared with DSV4MX_API")
    for name in sorted(unmarked):
        errors.append(f"{name}: declared without DSV4MX_API or DSV4MX_CHECKED")
    for name in sorted(declared | set(mapped) | set(exported)):
        places = [("header", name in declared), ("map", name in mapped), ("library", name in exported)]
        missing = [place for place, there in places if not there]
        if missing:
            there = [place for place, found in places if found]
            errors.append(f"{name}: in {' and '.join(there)}, not in {' and '.join(missing)}")
        elif exported[name] != mapped[name]:
            errors.append(f"{name}: exported as version {exported[name] or 'none'}, the map says {mapped[name]}")
    print("\n".join(errors) if errors else f"{len(declared)} functions: header = map = library")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
