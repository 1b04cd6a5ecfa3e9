"""A model of include/dsv4mx.h, read by libclang: what every emitter of a raw layer works from.

    from header import read_header
    header = read_header("include/dsv4mx.h")

The header is read twice, without and with DSV4MX_EXPERIMENTAL: what only the second reading defines is experimental.
<stddef.h> and <stdint.h> are stand-ins given here, so that the model depends on this file and the header alone.
"""

from __future__ import annotations

import dataclasses
import os
import re
import textwrap
from pathlib import Path

from clang import cindex
from clang.cindex import CursorKind, TypeKind

# LP64, the only data model the library is built for.
STDDEF = "typedef unsigned long size_t;\n#define NULL ((void*)0)\n"
STDINT = """
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long int64_t;
typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned int uint32_t;
typedef unsigned long uint64_t;
"""

INTEGERS = {
    "int8_t": "i8", "int16_t": "i16", "int32_t": "i32", "int64_t": "i64",
    "uint8_t": "u8", "uint16_t": "u16", "uint32_t": "u32", "uint64_t": "u64", "size_t": "usize",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Type:
    """A C type.

    kind      what the other members mean
    "void"    only as result or behind a pointer
    "int"     name: i8..i64, u8..u64, usize
    "float"   name: f32, f64
    "char"    a byte of text
    "alias"   name: one of Header.aliases, an int32 with named values
    "callback"  name: one of Header.callbacks, a pointer to a function
    "stream"  dsv4mx_stream, a pointer that is passed through
    "handle"  name: one of Header.handles; only behind a pointer
    "struct"  name: one of Header.structs
    "pointer" target; const: what it points to is not written through it
    "array"   target, length
    """

    c: str
    kind: str
    name: str = ""
    target: Type | None = None
    const: bool = False
    length: int = 0


@dataclasses.dataclass(frozen=True)
class Value:
    name: str
    value: int
    doc: str


@dataclasses.dataclass(frozen=True)
class Enum:
    """Values of an alias (dsv4mx_dtype), or bits of a flags field (alias is None). SENTINELs are left out.

    prefix is what a binding cuts off the values' names, e.g. DSV4MX_W13_ORDER_.
    """

    name: str
    alias: str | None
    prefix: str
    doc: str
    values: tuple[Value, ...]
    experimental: bool


@dataclasses.dataclass(frozen=True)
class Alias:
    """An int32 typedef whose values an Enum names."""

    name: str
    doc: str
    experimental: bool


@dataclasses.dataclass(frozen=True)
class Handle:
    name: str
    doc: str


@dataclasses.dataclass(frozen=True)
class Parameter:
    name: str
    type: Type


@dataclasses.dataclass(frozen=True)
class Callback:
    name: str
    doc: str
    result: Type
    parameters: tuple[Parameter, ...]


@dataclasses.dataclass(frozen=True)
class Field:
    name: str
    type: Type
    offset: int
    size: int
    doc: str


@dataclasses.dataclass(frozen=True)
class Struct:
    name: str
    doc: str
    fields: tuple[Field, ...]
    size: int
    align: int
    experimental: bool


@dataclasses.dataclass(frozen=True)
class Function:
    name: str
    doc: str
    result: Type
    parameters: tuple[Parameter, ...]
    experimental: bool


@dataclasses.dataclass(frozen=True)
class Header:
    """Everything in the order of the header."""

    version: tuple[int, int, int]
    doc: str
    aliases: tuple[Alias, ...]
    enums: tuple[Enum, ...]
    handles: tuple[Handle, ...]
    callbacks: tuple[Callback, ...]
    structs: tuple[Struct, ...]
    functions: tuple[Function, ...]


def clean_comment(raw: str | None) -> str:
    """The text of a /** comment */ without its marks, lines and indentation kept."""
    if not raw:
        return ""
    text = re.sub(r"\A/\*+!?", "", raw)
    text = re.sub(r"\*/\Z", "", text)
    lines = [re.sub(r"^\s*\*( ?)", "", line) for line in text.splitlines()]
    first, rest = lines[0].strip(), textwrap.dedent("\n".join(lines[1:]))
    return (first + "\n" + rest).strip() if first else rest.strip("\n").rstrip()


class _Reader:
    def __init__(self, path: Path, experimental: bool) -> None:
        arguments = ["-x", "c", "-std=c99", "-nostdinc", "-I/dsv4mx-stand-in"]
        if experimental:
            arguments.append("-DDSV4MX_EXPERIMENTAL")
        self.path = path
        self.unit = cindex.Index.create().parse(
            str(path),
            args=arguments + ["--target=x86_64-linux-gnu"],
            unsaved_files=[
                ("/dsv4mx-stand-in/stddef.h", STDDEF),
                ("/dsv4mx-stand-in/stdint.h", STDINT),
            ],
            options=cindex.TranslationUnit.PARSE_DETAILED_PROCESSING_RECORD,
        )
        for problem in self.unit.diagnostics:
            raise SystemExit(f"{path}: {problem}")
        self.cursors = [
            cursor
            for cursor in self.unit.cursor.get_children()
            if cursor.location.file and Path(cursor.location.file.name) == path
        ]

    def of_kind(self, *kinds: CursorKind) -> list[cindex.Cursor]:
        return [cursor for cursor in self.cursors if cursor.kind in kinds]

    def names(self) -> set[tuple[str, str]]:
        found = set()
        for cursor in self.cursors:
            if cursor.kind in (CursorKind.STRUCT_DECL, CursorKind.ENUM_DECL):
                if cursor.is_definition():
                    found.add((str(cursor.kind), cursor.spelling))
            elif cursor.kind in (CursorKind.TYPEDEF_DECL, CursorKind.FUNCTION_DECL):
                found.add((str(cursor.kind), cursor.spelling))
        return found

    def type(self, t: cindex.Type) -> Type:
        spelling = t.spelling.replace(" *", "*")
        plain = re.sub(r"\bconst\b", "", t.spelling).strip()
        if t.kind == TypeKind.ELABORATED:
            named = t.get_named_type()
            if named.kind != TypeKind.TYPEDEF:
                t = named
        declaration = t.get_declaration()
        if declaration.kind == CursorKind.TYPEDEF_DECL:
            name = declaration.spelling
            if name in INTEGERS:
                return Type(spelling, "int", INTEGERS[name])
            if name == "dsv4mx_stream":
                return Type(spelling, "stream", name)
            under = declaration.underlying_typedef_type
            canonical = under.get_canonical()
            if canonical.kind == TypeKind.POINTER:
                return Type(spelling, "callback", name)
            if canonical.kind == TypeKind.RECORD:
                record = canonical.get_declaration()
                return Type(spelling, "struct" if record.get_definition() else "handle", name)
            if canonical.kind == TypeKind.INT:
                return Type(spelling, "alias", name)
            raise SystemExit(f"{self.path}: typedef {name} is of a kind that no emitter knows")
        if t.kind == TypeKind.RECORD:
            return Type(spelling, "struct" if declaration.get_definition() else "handle", declaration.spelling)
        if t.kind == TypeKind.POINTER:
            pointee = t.get_pointee()
            return Type(spelling, "pointer", target=self.type(pointee), const=pointee.is_const_qualified())
        if t.kind == TypeKind.CONSTANTARRAY:
            return Type(spelling, "array", target=self.type(t.element_type), length=t.element_count)
        simple = {
            "void": ("void", ""), "char": ("char", ""), "float": ("float", "f32"), "double": ("float", "f64"),
        }  # fmt: skip
        if plain in simple:
            return Type(spelling, *simple[plain])
        raise SystemExit(f"{self.path}: the type '{spelling}' is of a kind that no emitter knows")

    def parameters(self, cursor: cindex.Cursor) -> tuple[Parameter, ...]:
        return tuple(
            Parameter(child.spelling, self.type(child.type))
            for child in cursor.get_children()
            if child.kind == CursorKind.PARM_DECL
        )


def _version(text: str) -> tuple[int, int, int]:
    found = dict(re.findall(r"^#define DSV4MX_VERSION_(MAJOR|MINOR|PATCH) (\d+)$", text, re.M))
    return int(found["MAJOR"]), int(found["MINOR"]), int(found["PATCH"])


def _prefix(names: list[str]) -> str:
    """What the names share up to an underscore; the SENTINEL counts, unless the others do not begin as it does."""
    others = [name for name in names if not name.endswith("_SENTINEL")]
    sentinel = next(name for name in names if name.endswith("_SENTINEL")).removesuffix("SENTINEL")
    if all(name.startswith(sentinel) for name in others):
        return sentinel
    return os.path.commonprefix(others).rpartition("_")[0] + "_"


def read_header(path: str | Path) -> Header:
    """Reads the header; anything the model cannot hold is an error."""
    path = Path(path).resolve()
    stable = _Reader(path, experimental=False).names()
    reader = _Reader(path, experimental=True)

    def experimental(cursor: cindex.Cursor) -> bool:
        return (str(cursor.kind), cursor.spelling) not in stable

    aliases, handles, callbacks = [], [], []
    typedef_doc = {}
    for cursor in reader.of_kind(CursorKind.TYPEDEF_DECL):
        doc = clean_comment(cursor.raw_comment)
        typedef_doc[cursor.spelling] = doc
        canonical = cursor.underlying_typedef_type.get_canonical()
        if canonical.kind == TypeKind.INT:
            aliases.append(Alias(cursor.spelling, doc, experimental(cursor)))
        elif canonical.kind == TypeKind.RECORD:
            if not canonical.get_declaration().get_definition():
                handles.append(Handle(cursor.spelling, doc))
        elif canonical.kind == TypeKind.POINTER and cursor.spelling != "dsv4mx_stream":
            result = canonical.get_pointee().get_result()
            # The result as written: the canonical one has lost its typedef.
            children = [c for c in cursor.get_children() if c.kind == CursorKind.TYPE_REF]
            written = cursor.underlying_typedef_type.get_pointee().get_result() if children else result
            callbacks.append(Callback(cursor.spelling, doc, reader.type(written), reader.parameters(cursor)))
    alias_names = {alias.name for alias in aliases}

    enums = []
    for cursor in reader.of_kind(CursorKind.ENUM_DECL):
        prefix = _prefix([child.spelling for child in cursor.get_children()])
        values = tuple(
            Value(child.spelling, child.enum_value, clean_comment(child.raw_comment))
            for child in cursor.get_children()
            if not child.spelling.endswith("_SENTINEL")
        )
        alias = cursor.spelling.removesuffix("_value")
        enums.append(
            Enum(
                cursor.spelling,
                alias if alias in alias_names else None,
                prefix,
                clean_comment(cursor.raw_comment),
                values,
                experimental(cursor),
            )
        )

    structs = []
    for cursor in reader.of_kind(CursorKind.STRUCT_DECL):
        if not cursor.is_definition():
            continue
        fields = []
        for child in cursor.get_children():
            if child.kind != CursorKind.FIELD_DECL:
                raise SystemExit(f"{path}: struct {cursor.spelling} holds a {child.kind}, which no emitter knows")
            offset = child.get_field_offsetof() // 8
            fields.append(
                Field(
                    child.spelling,
                    reader.type(child.type),
                    offset,
                    child.type.get_size(),
                    clean_comment(child.raw_comment),
                )
            )
        doc = clean_comment(cursor.raw_comment) or typedef_doc.get(cursor.spelling, "")
        size, align = cursor.type.get_size(), cursor.type.get_align()
        structs.append(Struct(cursor.spelling, doc, tuple(fields), size, align, experimental(cursor)))

    functions = tuple(
        Function(
            cursor.spelling,
            clean_comment(cursor.raw_comment),
            reader.type(cursor.result_type),
            reader.parameters(cursor),
            experimental(cursor),
        )
        for cursor in reader.of_kind(CursorKind.FUNCTION_DECL)
    )

    text = path.read_text(encoding="utf-8")
    file_comment = re.search(r"/\*\*\n \* @file.*?\*/", text, re.S)
    doc = clean_comment(file_comment[0] if file_comment else "")
    doc = doc.removeprefix("@file dsv4mx.h").lstrip("\n")
    return Header(
        _version(text),
        doc,
        tuple(aliases),
        tuple(enums),
        tuple(handles),
        tuple(callbacks),
        tuple(structs),
        functions,
    )
