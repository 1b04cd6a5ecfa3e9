#!/usr/bin/env python3
"""Fails the build when ptxas gave up on a kernel: spills, local memory, or a serialised tensor-core pipeline.

Reads the logs that nvcc_logged.py kept (nvcc with -Xptxas=-v,-warn-spills,-warn-lmem-usage), prints a table of
registers, spills and shared memory per kernel, and fails on
  spill      bytes spilled to local memory
  local      a stack frame without spills (an array indexed at run time, a call)
  C7508      an ignored setmaxnreg
  C7510 to C7520   serialised wgmma, for whichever reason
unless kernels/ptxas_allow.txt lists kernel and finding with a reason.

  usage: ptxas_gate.py [--allow FILE] LOG...        ptxas_gate.py --self-test
"""
import argparse
import fnmatch
import re
import shutil
import subprocess
import sys

CODES = ("C7508",) + tuple(f"C{number}" for number in range(7510, 7521))


def demangle(names):
    """Readable names: c++filt where there is one, else the mangled name."""
    tool = shutil.which("c++filt")
    if not tool or not names:
        return dict(zip(names, names))
    done = subprocess.run([tool, "-p"], input="\n".join(names), capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return dict(zip(names, lines)) if len(lines) == len(names) else dict(zip(names, names))


def parse(text):
    """Returns {mangled kernel: {registers, stack, spill, shared, codes}} of one log."""
    kernels = {}
    current = None

    def entry(name):
        return kernels.setdefault(name, {"registers": 0, "stack": 0, "spill": 0, "shared": 0, "codes": set()})

    for line in text.splitlines():
        found = re.search(r"Compiling entry function '(\S+?)'", line)
        if found:
            current = found[1]
            entry(current)
        found = re.search(r"Function properties for (\S+)", line)
        if found:
            current = found[1]  # a device function kept out of line has properties of its own
        found = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)
        if found and current:
            entry(current)["stack"] = int(found[1])
            entry(current)["spill"] = max(int(found[2]), int(found[3]))
        found = re.search(r"Used (\d+) registers", line)
        if found and current:
            entry(current)["registers"] = int(found[1])
            shared = re.search(r"(\d+) bytes smem", line)
            entry(current)["shared"] = int(shared[1]) if shared else 0
        for code in CODES:
            if code in line:
                # The message names its function; without a name it belongs to what is being compiled.
                named = re.search(r"function '?([A-Za-z_]\w*)'?", line)
                entry(named[1] if named else current or "?")["codes"].add(code)
    return kernels


def speaks(text):
    """Whether ptxas -v wrote to this log: it does so for a file without a kernel (host code only) too."""
    return re.search(r"^ptxas info\b", text, re.MULTILINE) is not None


def read_allowed(path):
    """Lines `kernel-pattern finding reason...`: a finding without a reason is refused."""
    allowed = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            parts = line.split(None, 2)
            if len(parts) < 3 or parts[1] not in ("spill", "local") + CODES:
                raise SystemExit(f'{path}:{number}: got "{line}", wanted "kernel-pattern finding reason"')
            allowed.append({"pattern": parts[0], "finding": parts[1], "reason": parts[2], "used": False})
    return allowed


def findings_of(kernel):
    if kernel["spill"]:
        yield "spill"
    elif kernel["stack"]:
        yield "local"
    yield from sorted(kernel["codes"])


def gate(kernels, allowed):
    """Prints the table; returns the number of findings that nobody allowed."""
    names = demangle(list(kernels))
    bad = 0
    print(f"{'regs':>4} {'spill':>6} {'stack':>6} {'smem':>7}  kernel")
    for mangled in sorted(kernels, key=lambda name: names[name]):
        kernel = kernels[mangled]
        print(f"{kernel['registers']:4} {kernel['spill']:6} {kernel['stack']:6} {kernel['shared']:7}  {names[mangled]}")
        for finding in findings_of(kernel):
            reason = None
            for rule in allowed:
                texts = (mangled, names[mangled], names[mangled].split("<")[0])
                if rule["finding"] == finding and any(fnmatch.fnmatchcase(text, rule["pattern"]) for text in texts):
                    rule["used"] = True
                    reason = rule["reason"]
            print(f"{'':27}{finding}: " + (f"allowed: {reason}" if reason else "NOT ALLOWED"))
            bad += reason is None
    for rule in allowed:
        if not rule["used"]:
            print(f"note: nothing matches the allowance \"{rule['pattern']} {rule['finding']}\" any more: remove it")
    print(f"{len(kernels)} kernels, {bad} findings not allowed")
    return bad


def self_test():
    """The parser against lines as ptxas prints them: each finding seen, a clean kernel not."""
    text = """ptxas info    : Compiling entry function '_Z5cleanv' for 'sm_90a'
ptxas info    : Function properties for _Z5cleanv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 1024 bytes smem
ptxas warning : Local memory used for function '_Z5localv'
ptxas info    : Compiling entry function '_Z5localv' for 'sm_90a'
ptxas info    : Function properties for _Z5localv
    400 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 20 registers
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized in function '_Z5spillv'
ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized in function '_Z5spillv'
ptxas info    : Compiling entry function '_Z5spillv' for 'sm_90a'
ptxas info    : Function properties for _Z5spillv
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers
"""
    kernels = parse(text)
    got = {name: list(findings_of(kernel)) for name, kernel in kernels.items()}
    wanted = {"_Z5cleanv": [], "_Z5localv": ["local"], "_Z5spillv": ["spill", "C7510", "C7511"]}
    if got != wanted or kernels["_Z5cleanv"]["registers"] != 32 or kernels["_Z5cleanv"]["shared"] != 1024:
        print(f"self-test: got {got}, wanted {wanted}")
        return 1
    if not speaks("ptxas info    : 0 bytes gmem\n") or speaks("") or speaks("nvcc warning : ptxas info\n"):
        print("self-test: a log of ptxas -v is not told from another")
        return 1
    rule = {"pattern": "_Z5localv", "finding": "local", "reason": "a test", "used": False}
    if gate(kernels, [rule]) != 3:
        print("self-test: wanted 3 findings not allowed")
        return 1
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--allow")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("logs", nargs="*")
    args = parser.parse_args()
    if args.self_test:
        return self_test()
    kernels = {}
    for path in args.logs:
        with open(path, encoding="utf-8") as log:
            text = log.read()
        if not speaks(text):
            print(f"{path}: no ptxas lines: was the file compiled with -Xptxas=-v?")
            return 1
        kernels.update(parse(text))
    if not kernels:
        print("no kernel in any of the logs")
        return 1
    return 1 if gate(kernels, read_allowed(args.allow) if args.allow else []) else 0


if __name__ == "__main__":
    sys.exit(main())
