#!/usr/bin/env python3
"""Draws the figures of tests/bench/results as results/plots/*.svg and *.png: time and fraction of the floor against tokens.

Takes what dsv4mx-bench wrote with --json, or the table that it printed: a line's points are the sustained times of a problem, those
of a later file in place of an earlier one's, with their floors. Peers are those of peers.csv, and what others have published of
published.csv. Drawing needs matplotlib; --check needs nothing
and fails when a plot was drawn from other figures than those that stand in the files now.

  usage: plots.py [--check] [--results DIR] [--plots DIR]      e.g. python3 -m venv V && V/bin/pip install matplotlib
"""
import argparse
import hashlib
import json
import re
import sys
from pathlib import Path

# A line of a plot: its label, the files, the problem without its tokens, colour and marker.
BLUE, GREEN, ORANGE, RED, PURPLE = "#0072b2", "#009e73", "#e69f00", "#c44e52", "#8c6bb1"
PLOTS = {
    "flash": {
        "title": "DeepSeek-V4 Flash, one MoE layer on one H200",
        "lines": [("dsv4mx W4A16", ["cuda-h200-halves.json", "cuda-h200-rows.json"], "flash", BLUE, "o"),
                  ("dsv4mx W4A8", ["cuda-h200-w4a8.json", "cuda-h200-rows.json"], "flash compute=w4a8", GREEN, "s")],
        "note": "Sustained graph replay of whole calls, ids and x written before each. W4A8 at 2,048 tokens: another card, an earlier commit. The floor is of bf16.",
        "peers": True,
        "published": [("flash", "SGLang, FP8 layer (published)", PURPLE)],
    },
    "pro": {
        "title": "DeepSeek-V4 Pro, one MoE layer on one H200",
        "lines": [("dsv4mx W4A16", ["cuda-h200-pro.json", "cuda-h200-stopped.txt", "cuda-h200-rows.json"], "pro", BLUE, "o")],
        "note": "Sustained graph replay of whole calls, ids and x written before each. Below 64 and from 16,384 tokens on: earlier commits, other cards.",
        "peers": True,
        "published": [("pro", "SGLang, FP8 layer (published)", PURPLE)],
    },
    "slices": {
        "title": "One rank's slice of a layer, of 8 ranks, on one H200",
        "lines": [("Flash, expert parallel", ["cuda-h200-slices.json", "cuda-h200-halves.json", "cuda-h200-rows.json"], "flash ep=8", GREEN, "s"),
                  ("Flash, tensor parallel", ["cuda-h200-slices.json", "cuda-h200-halves.json", "cuda-h200-rows.json"], "flash tp=8", BLUE, "o"),
                  ("Pro, tensor parallel", ["cuda-h200-slices.json", "cuda-h200-halves.json", "cuda-h200-rows.json"], "pro tp=8", ORANGE, "D"),
                  ("Pro, expert parallel", ["cuda-h200-slices.json", "cuda-h200-halves.json", "cuda-h200-rows.json"], "pro ep=8", RED, "^")],
        "note": "Sustained graph replay of whole calls, ids and x written before each. Of several H200s and commits; the README says which.",
        "peers": False,
        "published": [("flash ep=8", "TRT-LLM, Flash in FP8, expert parallel (published)", GREEN),
                      ("flash tp=8", "SGLang, Flash in FP8, tensor parallel (published)", BLUE)],
    },
}
PEERS_NOTE = "Peers, W4A16 too, were timed on another H200: SGLang as it runs Marlin (August 2026); the best of that, Marlin with the " \
             "best block size, Humming (July 2026) and FlashInfer 0.6.18."
PUBLISHED_NOTE = "Published: ai-dynamo/aiconfigurator at 095f58a, near a burst, not measured here; FP8 experts have twice the bytes."


def measured(path):
    """(problem as given, tokens, us, floor_us) of every sustained time in a file."""
    if path.suffix == ".json":
        for result in json.loads(path.read_text(encoding="utf-8"))["results"]:
            time = next(time for time in result["times"] if time["state"] == "sustained")
            yield result["given"], result["tokens"], time["us"], time["floor_us"]
    else:
        # problem, state, us median, us min, spread, GB/s, GFLOP/s, floor us ...
        for line in path.read_text(encoding="utf-8").splitlines():
            if found := re.match(r"(\S.*?) +sustained +(\S+) +\S+ +\S+% +\S+ +\S+ +(\S+) ", line):
                yield found[1], int(re.search(r"\bm=(\d+)", found[1])[1]), float(found[2]), float(found[3])


def rows(path):
    return [line.split(",") for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]


def points(results, files, problem):
    """{tokens: what was measured} of one line."""
    peers = {(model, int(tokens)): {"sglang_us": float(sglang), "best_us": float(best)}
             for model, tokens, sglang, best, *_ in rows(results.parent / "peers.csv")}
    found = {}
    for name in files:
        for given, tokens, us, floor in measured(results / name):
            words = " ".join(word for word in given.split() if not re.match("(m|seed)=|dev=cuda$", word))
            if words == problem:
                found[tokens] = {"us": us, "floor_us": floor, "peers": peers.get((problem, tokens))}
    if not found:
        raise SystemExit(f"no \"{problem}\" in {', '.join(files)}")
    return dict(sorted(found.items()))


def published(results, problem):
    """{tokens: us} of the first that published.csv has of a problem."""
    of_it = [row for row in rows(results.parent / "published.csv") if row[0] == problem]
    return {int(tokens): float(us) for _, what, tokens, us in of_it if what == of_it[0][1]}


def figures(results):
    """{plot: {label: points}}: all numbers that are drawn."""
    return {name: {label: points(results, files, problem) for label, files, problem, _, _ in plot["lines"]} |
            {label: published(results, problem) for problem, label, _ in plot["published"]} for name, plot in PLOTS.items()}


def digest(plot, lines):
    return "figures " + hashlib.sha256(json.dumps([PLOTS[plot], lines, PEERS_NOTE, PUBLISHED_NOTE]).encode()).hexdigest()[:16]


def stale(drawn, plots):
    """A line for each plot whose figures are not those of the files."""
    lines = []
    for name, data in drawn.items():
        for ending in ("svg", "png"):
            path = plots / f"{name}.{ending}"
            if not path.is_file() or digest(name, data).encode() not in path.read_bytes():
                lines.append(f"{path}: not drawn from the figures of today: run plots.py")
    return lines


def ticks(axis, values):
    """Powers of four and two of tokens as they are said: 1, 4, ... 16k."""
    axis.set_ticks(values, [f"{v // 1024}k" if v >= 1024 else str(v) for v in values])
    axis.set_ticks([], minor=True)


def draw(name, lines, plots):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    plt.rcParams.update({"svg.hashsalt": "dsv4mx", "svg.fonttype": "none", "font.size": 10, "axes.spines.top": False,
                         "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.6,
                         "axes.titlesize": 11, "axes.titlelocation": "left", "font.family": "DejaVu Sans"})
    plot = PLOTS[name]
    figure, (times, fractions) = plt.subplots(1, 2, figsize=(11, 4.8))
    figure.suptitle(plot["title"], x=0.065, y=0.965, ha="left", fontsize=13, fontweight="bold")
    own = {label: lines[label] for label, *_ in plot["lines"]}
    all_tokens = sorted({m for data in own.values() for m in data})

    for (label, _, _, colour, marker), data in zip(plot["lines"], own.values()):
        x, us, floor = list(data), [p["us"] for p in data.values()], [p["floor_us"] for p in data.values()]
        style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.8, "zorder": 3, "label": label}
        times.plot(x, us, **style)
        fractions.plot(x, [f / u for f, u in zip(floor, us)], **style)
        if not plot["peers"]:
            times.plot(x, floor, color=colour, linestyle=(0, (4, 2)), linewidth=1.3)
    if not plot["peers"]:
        times.plot([], [], color="#555555", linestyle=(0, (4, 2)), linewidth=1.3, label="floor of each")
    else:
        data = next(iter(own.values()))
        x, floor = list(data), [p["floor_us"] for p in data.values()]
        times.plot(x, floor, color="#555555", linestyle=(0, (4, 2)), linewidth=1.4, label="floor")
        for key, label, colour, marker in (("best_us", "best W4A16 peer", ORANGE, "^"), ("sglang_us", "SGLang", RED, "v")):
            timed = {m: (p["peers"][key], p["floor_us"]) for m, p in data.items() if p["peers"]}
            style = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.3, "label": label}
            times.plot(list(timed), [us for us, _ in timed.values()], **style)
            fractions.plot(list(timed), [f / us for us, f in timed.values()], **style)
    for _, label, colour in plot["published"]:
        style = {"color": colour, "marker": "x", "markersize": 4.5, "linewidth": 1.1, "linestyle": ":", "label": label}
        times.plot(list(lines[label]), list(lines[label].values()), **style)

    times.set(xscale="log", yscale="log", xlabel="tokens", title="time of a call, microseconds")
    times.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    fractions.set(xscale="log", xlabel="tokens", ylim=(0, 1.05), title="floor / time (1 is the chip's limit)")
    fractions.axhline(1, color="#555555", linestyle=(0, (4, 2)), linewidth=1.4)
    shown = [m for m in all_tokens if m in (1, 4, 16, 64, 256, 1024, 4096, 16384)] if len(all_tokens) > 8 else all_tokens
    for axes in (times, fractions):
        ticks(axes.xaxis, shown)
    times.set_ylim(top=times.get_ylim()[1] * (3 if plot["peers"] else 60))  # room for the legend
    times.legend(loc="upper left", frameon=False, fontsize=9, handlelength=2.4, borderaxespad=0.2)
    figure.text(0.065, 0.012, plot["note"] + ("\n" + PEERS_NOTE if plot["peers"] else "") + "\n" + PUBLISHED_NOTE, fontsize=7.5, color="#444444", va="bottom")
    figure.subplots_adjust(left=0.065, right=0.985, top=0.845, bottom=0.205, wspace=0.14)
    plots.mkdir(parents=True, exist_ok=True)
    what = digest(name, lines)
    figure.savefig(plots / f"{name}.svg", metadata={"Date": None, "Creator": "tests/bench/plots.py", "Description": what})
    figure.savefig(plots / f"{name}.png", dpi=110, metadata={"Software": "tests/bench/plots.py", "Description": what})
    plt.close(figure)


def main():
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--results", type=Path, default=here / "results")
    parser.add_argument("--plots", type=Path, default=here / "results" / "plots")
    args = parser.parse_args()
    drawn = figures(args.results)
    if not args.check:
        for name, lines in drawn.items():
            draw(name, lines, args.plots)
    wrong = stale(drawn, args.plots)
    print("\n".join(wrong + [f"{len(drawn)} plots, {len(wrong)} files not up to date"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
