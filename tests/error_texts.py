#!/usr/bin/env python3
"""Every error text in sources of lib/ as a C++ table: where it stands and its literals.

A text is the string literals of one Fail(...), DSV4MX_RETURN_IF(...) or Refuse(...); tests/error_texts.cc tells which of
them no test has seen.
"""
import argparse
import os
import re
import sys

CALL = re.compile(r"\b(Fail|DSV4MX_RETURN_IF|Refuse)\(")
LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"')


def arguments(text, begin):
    """The text of a call's arguments, from behind the opening parenthesis."""
    depth, at = 1, begin
    while depth:
        if text[at] == '"':
            at = LITERAL.match(text, at).end()
            continue
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        at += 1
    return text[begin:at - 1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("sources", nargs="+")
    args = parser.parse_args()
    rows = []
    for path in sorted(args.sources):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        text = re.sub(r"//[^\n]*|#include[^\n]*", lambda m: " " * len(m[0]), text)
        text = text.replace(" PRIu64", ' "lu"').replace(" PRIx64", ' "lx"')  # of 64-bit Linux
        for call in CALL.finditer(text):
            joined = re.sub(r'"\s*"', "", arguments(text, call.end()))
            literals = LITERAL.findall(joined)
            if literals:
                place = f"{os.path.relpath(path, args.root)}:{text[:call.start()].count(chr(10)) + 1}"
                rows.append(f'    {{"{place}", {{{", ".join(literals)}}}}},')
    with open(args.output, "w", encoding="utf-8") as file:
        file.write('#include "tests/error_texts.h"\n\n'
                   "const std::vector<dsv4mx::test::ErrorText> dsv4mx::test::kErrorTexts = {\n" +
                   "\n".join(rows) + "\n};\n")


if __name__ == "__main__":
    sys.exit(main())
