#!/usr/bin/env python3
"""Makes a C++ file that holds a text file as a string.   usage: embed.py INPUT OUTPUT NAME"""
import sys
from pathlib import Path


def main():
    source, output, name = sys.argv[1:]
    text = Path(source).read_text(encoding="utf-8")
    lines = "\n".join(f'    "{escape(line)}\\n"' for line in text.splitlines())
    Path(output).write_text(
        f"// Made by embed.py from {Path(source).name}.\n"
        f"namespace dsv4mx {{\nextern const char {name}[];\nconst char {name}[] =\n{lines};\n}}  // namespace dsv4mx\n",
        encoding="utf-8")
    return 0


def escape(line):
    """A line as the inside of a C++ string literal."""
    return line.replace("\\", "\\\\").replace('"', '\\"').replace("?", "\\?")


if __name__ == "__main__":
    sys.exit(main())
