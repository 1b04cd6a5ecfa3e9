#!/usr/bin/env python3
"""The enums of the Rust crate are written by hand over the generated constants: no code of the header may be missing there.

usage: rust_enums.py ROOT
"""

import re
import sys
from pathlib import Path


def main():
    root = Path(sys.argv[1])
    header = (root / "include" / "dsv4mx.h").read_text(encoding="utf-8")
    enums = (root / "bindings" / "rust" / "dsv4mx" / "src" / "enums.rs").read_text(encoding="utf-8")
    bodies = re.findall(r"^enum dsv4mx_(\w+)_value \{(.*?)^\};", header, re.M | re.S)
    missing, seen = [], 0
    for name, body in bodies:
        codes = [c for c in re.findall(r"^\s*(DSV4MX_\w+) = ", body, re.M) if not c.endswith("_SENTINEL")]
        known = [c for c in codes if re.search(rf"= {c},", enums)]
        if known:  # an enum of the crate
            seen += 1
            missing += [f"{c}: not in enums.rs, so callers see it as Unknown" for c in codes if c not in known]
        else:
            print(f"no enum of the crate: dsv4mx_{name}")
    for line in missing:
        print(line)
    return 1 if missing or seen < 8 else 0


if __name__ == "__main__":
    sys.exit(main())
