#!/usr/bin/env python3
"""Runs a compiler command and keeps what it printed in a log beside the object, for ptxas_gate.py.

usage: nvcc_logged.py LOG COMMAND...    Quiet when all is well; warnings and errors are shown as well as kept.
"""
import re
import subprocess
import sys


def main():
    log, command = sys.argv[1], sys.argv[2:]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    with open(log, "w", encoding="utf-8") as out:
        out.write(done.stdout)
    if done.returncode != 0:
        sys.stderr.write(done.stdout)
    else:
        # ptxas -v prints several lines per kernel; those are for the gate.
        shown = [line for line in done.stdout.splitlines() if re.search(r"\b(warning|error)\b", line)]
        if shown:
            sys.stderr.write("\n".join(shown) + "\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
