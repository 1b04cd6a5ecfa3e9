#!/usr/bin/env python3
"""Holds how many instructions the GEMMs' main loops spend per product to the table in loop_counts.csv.

Disassembles the objects and finds in each kernel the innermost loops that hold wgmma. A product is what a warpgroup makes of
64 rows of weights and 32 of K (one wgmma of E4M3, two of bf16; a tile too wide for one instruction takes two), so that
"instructions per product" compares loops of any shape. Loops with fewer than four products are the ends of a K that is no
multiple of 128 or more, and not judged. Counts are static: both sides of a branch count, but not what ptxas moved behind the
loop, such as a wait that did not succeed at once. Lowering the table is part of a change that saves instructions, as what is
not written down creeps back; the counts are those of one compiler, so with another there is nothing to compare.

  usage: loop_counts.py [--write] --nvcc NVCC --table FILE OBJECT...      loop_counts.py --self-test
    --write     make the table say what the objects hold; what rose is printed
    --partial   the objects are not all kernels: rows of others are no matter

Exit codes: 0 all as in the table, 1 not so, 77 skipped (Meson's code), with the reason.
"""
import argparse
import collections
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SKIPPED = 77
HOT_PRODUCTS = 4
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
PRODUCT = re.compile(r"GMMA\.64x(\d+)x(\d+)")
TARGET = re.compile(r"\bBRA\b.*?\b(0x[0-9a-f]+)$")
ENDS = re.compile(r"^(BRA 0x|EXIT\b|RET\b|BRX|JMX|KILL\b)")  # nothing falls through to what follows

Loop = collections.namedtuple("Loop", "columns products instructions")


def functions(listing):
    """{mangled name: [(address, text)]} of what cuobjdump -sass printed."""
    found, current = {}, None
    for line in listing.splitlines():
        named = re.match(r"\s*Function : (\S+)", line)
        if named:
            current = found.setdefault(named[1], [])
        elif current is not None and (match := INSTRUCTION.match(line)):
            current.append((int(match[1], 16), match[2]))
    return found


def blocks_of(code):
    """Basic blocks as (first, last) indices into code, and the successors of each."""
    index = {address: i for i, (address, _) in enumerate(code)}
    targets = {}
    for i, (_, text) in enumerate(code):
        match = TARGET.search(text)
        if match and int(match[1], 16) in index:
            targets[i] = index[int(match[1], 16)]
    starts = {0} | set(targets.values())
    starts |= {i + 1 for i, (_, text) in enumerate(code) if i in targets or ENDS.match(text)}
    starts = sorted(i for i in starts if i < len(code))
    bounds = list(zip(starts, [i - 1 for i in starts[1:]] + [len(code) - 1]))
    number = {first: b for b, (first, _) in enumerate(bounds)}
    successors = []
    for b, (_, last) in enumerate(bounds):
        to = [number[targets[last]]] if last in targets else []
        if not ENDS.match(code[last][1]) and b + 1 < len(bounds):
            to.append(b + 1)
        successors.append(to)
    # Where a jump by a table leads is not in the listing: what nothing else leads to is taken for a target of the last such
    # jump before it.
    seen, todo, jump = set(), [0], None
    for b, (_, last) in enumerate(bounds):
        if b not in seen and b and jump is not None:
            successors[jump].append(b)
            todo.append(b)
        while todo:
            at = todo.pop()
            if at not in seen:
                seen.add(at)
                todo += successors[at]
        if re.match("BRX|JMX", code[last][1]):
            jump = b
    return bounds, successors


def dominators(successors):
    """Immediate dominator of each block that can be reached (Cooper, Harvey, Kennedy: A Simple, Fast Dominance Algorithm)."""
    order, seen, stack = [], {0}, [(0, iter(successors[0]))]
    while stack:
        block, rest = stack[-1]
        for to in rest:
            if to not in seen:
                seen.add(to)
                stack.append((to, iter(successors[to])))
                break
        else:
            order.append(block)
            stack.pop()
    rank = {block: i for i, block in enumerate(order)}  # the entry has the highest
    before = collections.defaultdict(list)
    for block in order:
        for to in successors[block]:
            before[to].append(block)
    above = {0: 0}
    changed = True
    while changed:
        changed = False
        for block in reversed(order[:-1]):
            new = None
            for other in before[block]:
                if other not in above:
                    continue
                if new is None:
                    new = other
                    continue
                a, b = other, new
                while a != b:
                    while rank[a] < rank[b]:
                        a = above[a]
                    while rank[b] < rank[a]:
                        b = above[b]
                new = a
            if above.get(block) != new:
                above[block] = new
                changed = True
    return above, before


def loops_of(code):
    """The innermost loops of one kernel that hold products."""
    bounds, successors = blocks_of(code)
    above, before = dominators(successors)

    def dominates(a, b):
        while b != a and b != 0:
            b = above[b]
        return a == b

    bodies = collections.defaultdict(set)  # by head; several ways back to one head are one loop
    ways_back = collections.defaultdict(list)
    for block in above:
        for head in successors[block]:
            if not dominates(head, block):
                continue
            ways_back[head].append(block)
            body, todo = bodies[head] | {head}, [block]
            while todo:
                at = todo.pop()
                if at not in body:
                    body.add(at)
                    todo += before[at]
            bodies[head] = body
    multiplies = {b for b in above if any(PRODUCT.search(text) for _, text in code[bounds[b][0]:bounds[b][1] + 1])}
    bodies = {head: body for head, body in bodies.items() if body & multiplies}
    found = []
    for head, body in bodies.items():
        if any(other < body for other in bodies.values()):
            continue
        last = max(ways_back[head])
        texts = [text for b in body if b <= last for _, text in code[bounds[b][0]:bounds[b][1] + 1]]
        k = collections.Counter()
        for text in texts:
            if match := PRODUCT.search(text):
                k[int(match[1])] += int(match[2])
        if max(k.values()) >= HOT_PRODUCTS * 32:
            found.append(Loop("+".join(str(n) for n in sorted(k)), max(k.values()) // 32, len(texts)))
    return sorted(found)


def arguments(mangled):
    """<1 2 0>: a template's arguments that are enumerators, numbers and flags."""
    return "<" + " ".join(re.findall(r"L(?:[a-z]|N[\dA-Za-z_]+?E)(\d+)E", mangled)) + ">"


def counted(listings):
    """{(kernel, columns, which of several): Loop} of {object's name: listing}; a kernel alone in its object has its name."""
    found = {}
    for name, listing in listings.items():
        kernels = {mangled: code for mangled, code in functions(listing).items() if any(PRODUCT.search(text) for _, text in code)}
        for mangled, code in kernels.items():
            times = collections.Counter()
            for loop in loops_of(code):
                times[loop.columns] += 1
                found[name + (arguments(mangled) if len(kernels) > 1 else ""), loop.columns, times[loop.columns]] = loop
    return found


def row(key, loop):
    return f"{key[0]},{key[1]},{key[2]},{loop.products},{loop.instructions},{loop.instructions / loop.products:.2f}"


def read_table(path):
    """(the compiler's version, rows by key)"""
    version, rows = "", {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if found := re.match(r"# nvcc (\S+)$", line):
            version = found[1]
        if line.startswith("#") or not line or line.startswith("kernel,"):
            continue
        words = line.split(",")
        if len(words) != 6 or not all(word.isdigit() for word in words[2:5]):
            raise SystemExit(f"{path}:{number}: got \"{line}\", wanted kernel,columns,which,products,instructions,per product")
        rows[words[0], words[1], int(words[2])] = Loop(words[1], int(words[3]), int(words[4]))
    return version, rows


def write_table(path, version, rows):
    lines = ["# Instructions per product of the GEMMs' main loops; written by loop_counts.py --write, which says what they are.",
             f"# nvcc {version}", "kernel,columns,which,products,instructions,per product"]
    lines += [row(key, loop) for key, loop in sorted(rows.items(), key=lambda item: (item[0][0], columns_order(item[0])))]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def columns_order(key):
    return [int(n) for n in key[1].split("+")], key[2]


def compare(rows, found, partial=False):
    """A line for each difference."""
    lines = []
    for key in sorted(rows.keys() | found.keys(), key=lambda key: (key[0], columns_order(key))):
        name = f"{key[0]}, {key[1]} columns" + (f", loop {key[2]}" if key[2] > 1 else "")
        had, has = rows.get(key), found.get(key)
        if has is None:
            if not partial or any(other[0] == key[0] for other in found):
                lines.append(f"{name}: gone, the table has {had.instructions / had.products:.2f}")
        elif had is None:
            lines.append(f"{name}: {has.instructions / has.products:.2f} per product, not in the table")
        else:
            more = has.instructions * had.products - had.instructions * has.products
            if more:
                lines.append(f"{name}: {has.instructions / has.products:.2f} per product ({has.instructions} for {has.products}), "
                             f"the table has {had.instructions / had.products:.2f}: "
                             + ("MORE than allowed" if more > 0 else "fewer, lower the table"))
    return lines


def version_of(nvcc):
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\bV(\d+\.\d+\.\d+)", text)
    return found[1] if found else "unknown"


def disassembler(nvcc):
    """cuobjdump beside the compiler or on PATH; it wants nvdisasm beside itself or on PATH."""
    beside = Path(nvcc).resolve().parent / "cuobjdump"
    tool = str(beside) if beside.is_file() else shutil.which("cuobjdump")
    if not tool:
        return None, f"no cuobjdump beside {nvcc} or on PATH (.ci/requirements-cuda.txt has it)"
    if not (Path(tool).resolve().parent / "nvdisasm").is_file() and not shutil.which("nvdisasm"):
        return None, f"no nvdisasm beside {tool} or on PATH (.ci/requirements-cuda.txt has it)"
    return tool, ""


def disassemble(tool, path):
    done = subprocess.run([tool, "-sass", path], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{tool} -sass {path}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def self_test():
    """A kernel as cuobjdump prints it: an outer loop, the main loop with a wait moved behind the kernel, a short loop."""
    def text(lines):
        head = "\t\tFunction : _ZN6dsv4mx7MoeGemmINS_10GemmConfigILNS_4PathE0ELi1EEEEEvNS_14GemmKernelArgsE\n"
        return head + "".join(f"        /*{16 * i:04x}*/    {line} ;    /* 0x00 */\n" for i, line in enumerate(lines))

    main = ["SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R1], R2", "@!P0 BRA 0x110"]  # 0x10, 0x20
    products = ["QGMMA.64x24x32.F32.E4M3.E4M3 R24, R52, gdesc[UR16], R24, UP0", "QGMMA.64x24x32.F32.E4M3.E4M3 R24, R52, gdesc[UR16], R24"]
    lines = ["MOV R1, R2"] + main + products * 2 + ["IADD3 R1, R1, 1, RZ", "@P1 BRA 0x10"]  # 0x30..0x80
    lines += ["MOV R3, R4", products[1], "@P2 BRA 0xa0"]  # 0x90..0xb0: one product alone
    lines += ["@P3 BRA 0x0", "EXIT", "NOP", "NOP", "NOP"]  # 0xc0..0x100
    lines += ["SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R1], R2", "@!P0 BRA 0x110", "BRA 0x30"]  # 0x110..0x130
    key = ("gemm1_planes", "24", 1)
    good = counted({"gemm1_planes": text(lines)})
    checks = [("one hot loop of 8 instructions and 4 products", good == {key: Loop("24", 4, 8)})]
    checks.append(("the same is no difference", compare(good, good) == []))
    longer = lines[:7] + ["IADD3 R5, R5, 1, RZ"] + lines[7:]
    longer = [re.sub(r"0x([0-9a-f]+)$", lambda m: hex(int(m[1], 16) + (16 if int(m[1], 16) > 0x70 else 0)), line) for line in longer]
    more = counted({"gemm1_planes": text(longer)})
    checks.append(("one instruction more", more == {key: Loop("24", 4, 9)} and "MORE" in "".join(compare(good, more))))
    checks.append(("one fewer", "lower the table" in "".join(compare(more, good))))
    checks.append(("twice as long for twice as many", compare({key: Loop("24", 8, 16)}, good) == []))
    checks.append(("a loop that is gone", "gone" in "".join(compare(good, {}))))
    checks.append(("a part of the kernels", compare(good, {}, partial=True) == []))
    checks.append(("a new loop", "not in the table" in "".join(compare({}, good))))
    checks.append(("arguments", arguments("_ZN6dsv4mx7FewGemmILNS_7FewKindE1ELi2ELb0EEEvNS_13FewKernelArgsE") == "<1 2 0>"))
    for what, passed in checks:
        print(f"{'ok' if passed else 'FAILED'}: {what}")
    return 0 if all(passed for _, passed in checks) else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--partial", action="store_true")
    parser.add_argument("--nvcc")
    parser.add_argument("--table")
    parser.add_argument("objects", nargs="*")
    args = parser.parse_args()
    if args.self_test:
        return self_test()
    version, rows = read_table(args.table) if Path(args.table).is_file() or not args.write else ("", {})
    have = version_of(args.nvcc)
    if have != version and not args.write:
        print(f"skipped: the table is of nvcc {version}, this is {have}")
        return SKIPPED
    tool, reason = disassembler(args.nvcc)
    if not tool:
        required = os.environ.get("DSV4MX_REQUIRE_TOOLCHAINS") == "1"
        print(("" if required else "skipped: ") + reason)
        return 1 if required else SKIPPED
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        listings = pool.map(lambda path: disassemble(tool, path), args.objects)
        found = counted(dict(zip((Path(path).name.split(".")[0].removeprefix("sm90_") for path in args.objects), listings)))
    if not found:
        print("no loop with products in any of the objects")
        return 1
    lines = compare(rows, found, args.partial)
    print("\n".join(lines))
    if args.write:
        write_table(args.table, have, {**(rows if args.partial else {}), **found})
        print(f"{args.table}: {len(found)} loops")
        return 0
    print(f"{len(found)} loops, {len(lines)} differ from the table")
    if lines:
        print(f"write the table anew with --write ({sys.argv[0]}), look at its diff, and say in the commit why a count rose")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
