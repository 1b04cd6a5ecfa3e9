# SPDX-License-Identifier: Apache-2.0
"""python -m dsv4mx: versions and devices. --library prints the path of libdsv4mx.so.0 alone, for programs in C, Go, Rust."""

from __future__ import annotations

import argparse
import json
import sys

from . import LibraryError, library, show_versions, versions


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dsv4mx", description="What dsv4mx runs on here.")
    parser.add_argument("--library", action="store_true", help="print only the path of the loaded library")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    options = parser.parse_args()
    if options.library:
        try:
            print(library().path)
        except LibraryError as error:
            print(error, file=sys.stderr)
            return 1
    elif options.json:
        print(json.dumps(versions(), indent=2))
    else:
        show_versions()
    return 0


if __name__ == "__main__":
    sys.exit(main())
