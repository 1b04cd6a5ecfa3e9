#!/usr/bin/env python3
"""The header is the manual: every function says what it needs to say, every field of a struct has its comment.

A function's comment has Threads and Since; Errors or Returns where it can fail; Stream where it takes one; Ownership where
it hands out a pointer.

usage: header_docs.py HEADER
"""
import re
import sys

COMMENT = re.compile(r"/\*.*?\*/", re.S)
FUNCTION = re.compile(r"^DSV4MX_(API|CHECKED) [^;#]*?\b(dsv4mx_\w+)\(([^;]*)\);", re.M)
STRUCT = re.compile(r"^typedef struct (\w+) \{(.*?)^\}", re.M | re.S)


def function_errors(text):
    """What the comments of functions lack; functions in one block share the comment above it."""
    for found in FUNCTION.finditer(text):
        checked, name, arguments = found[1] == "CHECKED", found[2], found[3]
        comment = COMMENT.findall(text, 0, found.start())[-1]
        wanted = ["Threads:", "Since:"]
        if checked and "Returns" not in comment:
            wanted.append("Errors:")
        if "dsv4mx_stream" in arguments:
            wanted.append("Stream:")
        if re.search(r"\*\* ?out\b", arguments):
            wanted.append("Ownership:")
        for word in wanted:
            if word not in comment:
                yield f"{name}: its comment has no {word}"


def field_errors(text):
    """Fields without a comment behind or inside their line."""
    for found in STRUCT.finditer(text):
        marked = COMMENT.sub(lambda comment: "@", found[2])
        for field, behind in re.findall(r"([^;]*);([^\n]*)", marked):
            if "@" not in behind:
                yield f"{found[1]}.{field.split()[-1]}: no comment"


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        text = file.read()
    errors = [*function_errors(text), *field_errors(text)]
    print("\n".join(errors) if errors else f"{len(FUNCTION.findall(text))} functions and every field are described")
    return 1 if errors or not FUNCTION.search(text) else 0


if __name__ == "__main__":
    sys.exit(main())
