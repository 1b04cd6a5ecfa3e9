#!/usr/bin/env python3
"""The header is the manual: every function says what it needs to say, every field of a struct and every enum has its comment,
and all of them are documentation comments (/** */) that stand above what they describe, as generators want them.

A function's comment has Threads and Since; Errors or Returns where it can fail; Stream where it takes one; Ownership where
it hands out a pointer.

usage: header_docs.py HEADER
"""
import re
import sys

COMMENT = re.compile(r"/\*.*?\*/", re.S)
FUNCTION = re.compile(r"^DSV4MX_(API|CHECKED) [^;#]*?\b(dsv4mx_\w+)\(([^;]*)\);", re.M)
STRUCT = re.compile(r"^(?:typedef )?struct (\w+) \{(.*?)^\}", re.M | re.S)
ENUM = re.compile(r"^enum(?: (\w+))? \{(.*?)^\};", re.M | re.S)


def comment_above(text, position):
    """The documentation comment that ends right before position, or None."""
    before = text[:position].rstrip()
    if not before.endswith("*/"):
        return None
    comment = before[before.rindex("/*"):]
    return comment if comment.startswith("/**") else None


def function_errors(text):
    """What the comments of functions lack."""
    for found in FUNCTION.finditer(text):
        checked, name, arguments = found[1] == "CHECKED", found[2], found[3]
        comment = comment_above(text, found.start())
        if comment is None:
            yield f"{name}: no /** */ above it"
            continue
        wanted = ["Threads:", "Since:"]
        if checked and "Returns" not in comment:
            wanted.append("Errors:")
        if "dsv4mx_stream" in arguments and not re.search(r"[Ss]tream order|for the stream", comment):
            wanted.append("Stream:")
        if re.search(r"\*\* ?out\b", arguments):
            wanted.append("Ownership:")
        for word in wanted:
            if word not in comment:
                yield f"{name}: its comment has no {word}"


def field_errors(text):
    """Structs and fields without a documentation comment above them; declarations broken over lines; missing _INITs."""
    for found in STRUCT.finditer(text):
        if comment_above(text, found.start()) is None:
            yield f"{found[1]}: no /** */ above it"
        documented = False  # whether a comment ended on a line right above
        for line in found[2].splitlines():
            line = line.strip()
            if not line:
                documented = False
            elif line.endswith("*/"):
                documented = True
            elif line.startswith(("/*", "*")):
                continue
            else:
                if not documented:
                    yield f"{found[1]}: no /** */ above {line}"
                if not line.endswith(";"):
                    yield f"{found[1]}: a declaration is broken over lines: {line}"
                documented = False
        if f"{found[1].upper()}_INIT" not in text:
            yield f"{found[1]}: no _INIT"


def enum_errors(text):
    """Enums without a name, a comment or a negative sentinel at the end."""
    for found in ENUM.finditer(text):
        name = found[1] or "an enum"
        if found[1] is None or comment_above(text, found.start()) is None:
            yield f"{name}: no name or no /** */ above it"
        if not re.search(r"SENTINEL = -1\s*$", found[2]):
            yield f"{name}: does not end in a sentinel of -1"


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        text = file.read()
    errors = [*function_errors(text), *field_errors(text), *enum_errors(text)]
    print("\n".join(errors) if errors else f"{len(FUNCTION.findall(text))} functions, every field and every enum are described")
    return 1 if errors or not FUNCTION.search(text) else 0


if __name__ == "__main__":
    sys.exit(main())
