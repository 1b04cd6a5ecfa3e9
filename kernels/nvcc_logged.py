#!/usr/bin/env python3
"""Runs a compiler command and keeps what it printed in a log beside the object, for ptxas_gate.py.

With --reuse the object and the log of another build are copied instead, as long as the command and all files that it read
are the same: CI's builds share the kernels, which take minutes, and so can two trees. Beside each object a record says what
it was made from; what lies in the tree, and sources that a build writes itself, have the same names there for every tree and
build.

usage: nvcc_logged.py [--reuse BUILD_FOLDER] LOG COMMAND... -MF DEPFILE ... -o OBJECT
       nvcc_logged.py --self-test

Quiet when all is well; warnings and errors are shown as well as kept.
"""
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RECORD = ".made-from.json"
SOURCE = Path(__file__).resolve().parent.parent
FOLDERS = ("include", "kernels", "lib", "tests")


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def recorded(name):
    """A file's or folder's name in records: "<build>/kernels/x.cu", "<source>/lib", or the full one."""
    path = Path(os.path.realpath(name))
    if path.is_relative_to(Path.cwd() / "kernels"):
        return f"<build>/{path.relative_to(Path.cwd())}"
    if path == SOURCE or any(path.is_relative_to(SOURCE / folder) for folder in FOLDERS):
        return f"<source>/{path.relative_to(SOURCE)}"
    return str(path)


def here(name):
    """The file of this tree and build that a record's name stands for."""
    return name.replace("<build>", os.getcwd(), 1).replace("<source>", str(SOURCE), 1)


def recipe(command):
    """The command without what it writes."""
    words, skip = [], False
    for word in command:
        if not skip and word not in ("-o", "-MF") and not strict([word]):
            if word.startswith("-I"):
                word = "-I" + recorded(word[2:])
            words.append(recorded(word) if os.path.isfile(word) else word)
        skip = word in ("-o", "-MF")
    return words


def strict(command):
    """Whether warnings were errors: that changes no object, and what passed so passes without."""
    return any(re.match(r"(-Xcompiler=)?-Werror", word) for word in command)


def dependencies(depfile):
    text = Path(depfile).read_text(encoding="utf-8").replace("\\\n", " ").split(":", 1)[1]
    return [name.replace("\\ ", " ") for name in re.findall(r"(?:\\ |\S)+", text)]


def reuse(folder, command, log, target, depfile):
    """Whether the other build's object could be taken."""
    other = Path(folder) / os.path.relpath(target)
    try:
        record = json.loads(Path(str(other) + RECORD).read_text(encoding="utf-8"))
        if record["recipe"] != recipe(command) or record["object"] != digest(other):
            return False
        if strict(command) and not record["strict"]:
            return False
        if any(digest(here(name)) != value for name, value in record["inputs"].items()):
            return False
        shutil.copyfile(other.with_suffix(".log"), log)
        shutil.copyfile(other, target)
        shutil.copyfile(str(other) + RECORD, target + RECORD)
    except (OSError, ValueError, KeyError):
        return False
    names = " ".join(here(name).replace(" ", "\\ ") for name in record["inputs"])
    Path(depfile).write_text(f"{target}: {names}\n", encoding="utf-8")
    return True


def run(arguments):
    folder = ""
    if arguments[0] == "--reuse":
        folder, arguments = arguments[1], arguments[2:]
    log, command = arguments[0], arguments[1:]
    target, depfile = command[command.index("-o") + 1], command[command.index("-MF") + 1]
    if folder and reuse(folder, command, log, target, depfile):
        return 0
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    Path(log).write_text(done.stdout, encoding="utf-8")
    if done.returncode != 0:
        sys.stderr.write(done.stdout)
        return done.returncode
    # ptxas -v prints several lines per kernel; those are for the gate.
    shown = [line for line in done.stdout.splitlines() if re.search(r"\b(warning|error)\b", line)]
    if shown:
        sys.stderr.write("\n".join(shown) + "\n")
    inputs = {recorded(name): digest(name) for name in dependencies(depfile)}
    record = {"recipe": recipe(command), "strict": strict(command), "object": digest(target), "inputs": inputs}
    Path(target + RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return 0


def self_test():
    """With a compiler that counts its runs: two build folders, then a change of each thing that matters."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        compiler = root / "compiler"
        compiler.write_text("""#!/bin/sh
# compiler FLAG -MF DEPFILE -c INPUT -o OBJECT
echo run >>"$(dirname "$0")/runs"
cat "$5" "$(dirname "$5")/a header.h" >"$7"
echo "$7: $5 $(dirname "$5")/a\\\\ header.h" >"$3"
echo log
""", encoding="utf-8")
        compiler.chmod(0o755)
        (root / "x.cu").write_text("source 1\n", encoding="utf-8")
        (root / "a header.h").write_text("header 1\n", encoding="utf-8")

        def build(folder, *reused, flag="-O3", more=(), made=""):
            (root / folder / "kernels").mkdir(parents=True, exist_ok=True)
            os.chdir(root / folder)
            source = "kernels/made.cu" if made else os.path.relpath(root / "x.cu")
            if made:
                for file, text in (("made.cu", f"source {made}\n"), ("a header.h", "header\n")):
                    Path("kernels", file).write_text(text, encoding="utf-8")
            before = len((root / "runs").read_text().split()) if (root / "runs").exists() else 0
            code = run([*(("--reuse", str(root / reused[0])) if reused else ()), "kernels/x.cu.log", str(compiler), flag,
                        "-MF", "kernels/x.cu.d", "-c", source, "-o", "kernels/x.cu.o", *more])
            log, depfile = Path("kernels/x.cu.log").read_text(), Path("kernels/x.cu.d").read_text()
            good = code == 0 and log == "log\n" and "a\\ header.h" in depfile
            text = Path("kernels/x.cu.o").read_text()
            return good, len((root / "runs").read_text().split()) - before, text

        checks = [("first", build("one") == (True, 1, "source 1\nheader 1\n"))]
        checks.append(("the same again", build("deep/two", "one") == (True, 0, "source 1\nheader 1\n")))
        checks.append(("from a copy", build("three", "deep/two") == (True, 0, "source 1\nheader 1\n")))
        checks.append(("other flags", build("two", "one", flag="-O0")[1] == 1))
        checks.append(("stricter than what is there", build("two", "one", more=["-Werror=all-warnings"])[1] == 1))
        checks.append(("less strict", build("three", "two")[1] == 0))
        (root / "a header.h").write_text("header 2\n", encoding="utf-8")
        checks.append(("a changed header", build("two", "one") == (True, 1, "source 1\nheader 2\n")))
        checks.append(("no such build", build("two", "none")[1] == 1))
        build("one")
        (root / "one" / "kernels" / "x.cu.o").write_text("damaged", encoding="utf-8")
        checks.append(("a damaged object", build("two", "one") == (True, 1, "source 1\nheader 2\n")))
        build("one", made="by the build")
        checks.append(("a source that each build writes", build("two", "one", made="by the build")[1] == 0))
        checks.append(("another such source", build("three", "one", made="otherwise")[1:] == (1, "source otherwise\nheader\n")))
        os.chdir("/")
    for what, good in checks:
        print(f"{'ok' if good else 'FAILED'}: {what}")
    return 0 if all(good for _, good in checks) else 1


if __name__ == "__main__":
    sys.exit(self_test() if sys.argv[1:] == ["--self-test"] else run(sys.argv[1:]))
