"""Writes the raw layers of all bindings from include/dsv4mx.h: called by bindings/generate.

Every emit_*.py beside this file has `emit(header) -> {path in the repository: text}`. It raises Skip where a tool that it
needs is not installed: then its files stay as they are, and the run says so (and fails, with --all).
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from pathlib import Path

from header import read_header
from skip import Skip

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="bindings/generate", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail on any difference")
    parser.add_argument("--all", action="store_true", help="fail where a tool is missing, instead of skipping")
    parser.add_argument("only", nargs="*", help="emitters to run, e.g. python go; none = all")
    options = parser.parse_args()

    emitters = sorted(path.stem.removeprefix("emit_") for path in Path(__file__).parent.glob("emit_*.py"))
    unknown = set(options.only) - set(emitters)
    if unknown:
        parser.error(f"no emitter {', '.join(sorted(unknown))}; there are {', '.join(emitters)}")
    header = read_header(ROOT / "include/dsv4mx.h")
    passed = failed = skipped = 0  # languages; tests/count.py reads the last line
    for name in emitters:
        if options.only and name not in options.only:
            continue
        try:
            files = importlib.import_module(f"emit_{name}").emit(header)
        except Skip as skip:
            print(f"generate: {name}: FAILED: {skip}" if options.all else f"skipped: generate: {name}: {skip}")
            failed += options.all
            skipped += not options.all
            continue
        good = True
        for relative, text in files.items():
            path = ROOT / relative
            old = path.read_text(encoding="utf-8") if path.exists() else ""
            if old == text:
                print(f"generate: {relative}: up to date")
            elif options.check:
                good = False
                print(f"generate: {relative}: differs from the header; run bindings/generate")
                difference = difflib.unified_diff(
                    old.splitlines(), text.splitlines(), "committed", "generated", lineterm=""
                )
                print("\n".join(list(difference)[:40]))
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
                print(f"generate: {relative}: written")
        passed += good
        failed += not good
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
