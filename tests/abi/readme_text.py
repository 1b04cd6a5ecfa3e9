#!/usr/bin/env python3
"""What the README repeats is what it repeats: its programs are the examples' files, its limits those of the header.

usage: readme_text.py ROOT
"""
import re
import sys
from pathlib import Path

FIELDS = ("hidden", "intermediate", "experts", "top_k", "tokens")
STRUCTS = ("dsv4mx_layer_desc", "dsv4mx_apply_args")


def programs(root, readme):
    """What is wrong with the programs that the README shows."""
    found = re.findall(r"<summary>\w+ \((examples/\S+)\)</summary>\n\n```\w+\n(.*?)^```$", readme, re.M | re.S)
    if len(found) != 4:
        yield f"found {len(found)} programs, wanted one each in C, Rust, Go and Python"
    for name, text in found:
        if (root / name).read_text(encoding="utf-8") != text:
            yield f"the program {name} is not that file any more"
        lines = text.count("\n")
        if not name.startswith("examples/c/") and not 15 <= lines <= 30:
            yield f"the program {name} has {lines} lines, wanted 15 to 30"


def header_limits(header):
    """{field: "1..16"} out of the comments above the fields, e.g. "/** H: a multiple of 32, 32..65536. */"."""
    limits = {}
    for struct in STRUCTS:
        body = re.search(r"typedef struct %s \{(.*?)^\} %s;" % (struct, struct), header, re.M | re.S)[1]
        for comment, field in re.findall(r"/\*\*((?:(?!\*/).)*)\*/\s*int(?:32|64)_t (\w+);", body, re.S):
            limit = re.search(r"((?:a multiple of \d+, )?\d+\.\.\d+)", " ".join(comment.split()))
            if field in FIELDS and limit:
                limits.setdefault(field, limit[1])
    return limits


def main():
    root = Path(sys.argv[1])
    readme = (root / "README.md").read_text(encoding="utf-8")
    wrong = list(programs(root, readme))
    wanted = header_limits((root / "include" / "dsv4mx.h").read_text(encoding="utf-8"))
    section = re.search(r"^## Limits\n(.*?)^## ", readme, re.M | re.S)[1]
    shown = dict(re.findall(r"^\| (\w+) \| (.+) \|$", section, re.M))
    if set(wanted) != set(FIELDS):
        wrong.append(f"the header gives limits of {sorted(wanted)}, wanted {sorted(FIELDS)}")
    if shown != wanted:
        wrong.append(f"the limits are {shown}, wanted the header's {wanted}")
    for line in wrong:
        print(f"README.md: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
