#!/usr/bin/env python3
"""Estimates whole layers over more GPUs and hosts than were measured, on paper (group_model.py has the formulas).

Reads the JSON of dsv4mx-bench-group (results/cuda-h200-x*.json) and the figures of one H200, and prints Markdown tables: what is
measured says so, all else is an estimate. --readme writes the short table between two comments in README.md; --check fails when
that was made from other figures than those that stand in the files now.

  usage: group_estimate.py [--readme | --check] [--results DIR] [--group FILE...] [--file README]
"""
import argparse
import json
import re
import sys
import textwrap
from pathlib import Path

from group_model import (GPUS, KINDS, MODELS, PER_RANK_US, SINGLE, WIRE_GB_S, WIRE_US, Constants, Slices, layer, layers,
                         over_hosts)

TOKENS = (1, 8, 32, 128, 512, 4096)


def filled(text):
    return textwrap.fill(text, 124, break_long_words=False, break_on_hyphens=False)


def table(first, rows):
    lines = [[first, *map(str, TOKENS)], ["---"] * (len(TOKENS) + 1), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def cell(us, alone, mark=""):
    return f"{us:.{0 if us >= 100 else 1}f}{mark} ({alone / us:.2f})"


def one_host(c, slices, groups, kinds):
    """Rows of layers over 2, 4 and 8 GPUs, those that were measured before their estimates."""
    rows, found = [], layers(groups, slices.m)
    for kind in kinds:
        for ranks in (2, 4, 8):
            name = f"{ranks} GPUs, {KINDS[kind]}"
            own = {t: found[kind, ranks, t] for t in TOKENS if (kind, ranks, t) in found}
            if own:
                cells = [cell(own[t]["us"], own[t]["slice_us"]) if t in own else "" for t in TOKENS]
                rows.append([f"{name}, **measured**", *cells])
            rows.append([name, *(cell(*layer(c, slices, kind, ranks, t)) for t in TOKENS)])
    return rows


def many_hosts(c, slices):
    return [[f"{hosts} hosts, {what} inside", *(cell(*over_hosts(c, slices, kind, hosts, t)) for t in TOKENS)]
            for hosts in (2, 8) for kind, what in (("tp", "TP8"), ("ep", "EP8"))]


def efficiency(groups, m):
    """Rows of slice alone / whole layer as measured; one GPU has nothing to exchange."""
    found, rows = layers(groups, m), [["1", *["1"] * len(TOKENS)]]
    for ranks, kind in sorted({(ranks, kind) for kind, ranks, _ in found}):
        own = [found.get((kind, ranks, t)) for t in TOKENS]
        rows.append([f"{ranks}, {KINDS[kind]}", *(f"{row['slice_us'] / row['us']:.2f}" if row else "" for row in own)])
    return rows


def report(results, groups):
    """All tables."""
    c = Constants(groups)
    names = ", ".join(f"`{name}`" for name in [group["file"] for group in groups] + list(SINGLE))
    out = ["# Layers over more GPUs, on paper", "", filled(
        f"Measured: {names}; {PER_RANK_US} us for each rank beyond two. Assumed, not measured: between hosts {WIRE_GB_S} GB/s a GPU "
        f"and {WIRE_US:.0f} us one way. Constants fitted to the measured rounds of two ranks:"), "",
           "| round | fixed, us | us per MB out | GB/s |", "| --- | --- | --- | --- |"]
    out += [f"| {what} | {c.fixed[what]:.1f} | {1e6 / rate:.2f} | {rate * 1e-3:.0f} |" for what, rate in c.rate.items()]
    out += ["", filled(
        "Cells: us of a whole layer (slice alone / whole layer). All are estimates but those of rows that say **measured**. The "
        "slice in an estimate is measured where there is no mark; ~ lies between measured slices, ^ beyond them: its floor at the "
        "fraction of the largest whole layer.")]
    for m in MODELS:
        slices, name = Slices(m, results, groups), m.name.capitalize()
        out += ["", f"## {name}, one host", "", *table("tokens of a rank", one_host(c, slices, groups, KINDS)),
                "", f"## {name}, hosts of {GPUS} GPUs, EP between them in RANK_REDUCE, estimates", "",
                *table("tokens of a rank", many_hosts(c, slices))]
        if layers(groups, m):
            out += ["", f"## {name}, efficiency (slice alone / whole layer), measured", "",
                    *table("GPUs; tokens of a rank", efficiency(groups, m))]
    return out


def short(results, groups):
    """The part of the README."""
    c, slices, kinds = Constants(groups), Slices(MODELS[0], results, groups), ("ep", "tp")
    off = max((abs(layer(c, slices, kind, ranks, tokens)[0] / row["us"] - 1)
               for (kind, ranks, tokens), row in layers(groups, slices.m).items() if kind in kinds and tokens in TOKENS), default=None)
    text = filled(
        "On paper, not measured but in the rows that say so: us of a whole Flash layer, and how much of it is the slice alone, from "
        "slices (measured, or between measured ones) and measured rounds of two GPUs. Routing is balanced, nothing overlaps but the "
        "results of larger `ROUTE_EXACT` rounds, and "
        f"hosts have {GPUS} GPUs with an assumed {WIRE_GB_S} GB/s each, {WIRE_US:.0f} us one way and `RANK_REDUCE` between them. "
        "Tensor-parallel ranks share their tokens. `tests/bench/group_estimate.py` has the formulas, and prints Pro and other modes."
        + (f" Of measured layers, and with their measured slices, the estimate is off by at most {off:.0%}:" if off else ""))
    rows = one_host(c, slices, groups, kinds) + many_hosts(c, slices)
    return [text, "", *(re.sub("[~^]", "", line) for line in table("tokens of a rank", rows))]


BEGIN, END = "<!-- group_estimate.py --readme writes from here -->", "<!-- to here -->"


def main():
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--results", type=Path, default=here / "results")
    parser.add_argument("--group", type=Path, nargs="+")
    parser.add_argument("--file", type=Path, default=here.parent.parent / "README.md")
    args = parser.parse_args()
    files = args.group or sorted(args.results.glob("cuda-h200-x*.json"))
    groups = [json.loads(path.read_text(encoding="utf-8")) | {"file": path.name} for path in files]
    groups = [group for group in groups if group.get("one_device") is False]
    if not (args.readme or args.check):
        print("\n".join(report(args.results, groups)))
        return 0
    old = args.file.read_text(encoding="utf-8")
    new = old[:old.index(BEGIN)] + "\n".join([BEGIN, *short(args.results, groups), END]) + old[old.index(END) + len(END):]
    if args.readme:
        args.file.write_text(new, encoding="utf-8")
    elif new != old:
        print(f"{args.file}: the estimate is not of the figures of today: run tests/bench/group_estimate.py --readme")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
