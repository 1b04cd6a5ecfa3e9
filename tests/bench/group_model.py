"""What a layer over several GPUs takes, on paper: the formulas of group_estimate.py and the constants fitted for them.

  time of a layer = slice alone + exchange (expert parallel) or all-reduce (tensor parallel)
  exchange, all-reduce = fixed time + PER_RANK_US for each rank beyond two + bytes out of a rank / rate

Nothing is hidden behind anything but the results of larger ROUTE_EXACT rounds, which GEMM2 sends home while it computes others.

A rate is the slope of time against bytes out over the larger rounds of two ranks, so that it holds what a byte costs inside the
devices too. Routing is balanced: no rank waits for a busier one. "Tokens" are those of a rank; tensor-parallel ranks share them.
"""
import json
import math
import re
import statistics
from collections import namedtuple

import plots

Model = namedtuple("Model", "name hidden intermediate experts top_k")
MODELS = (Model("flash", 4096, 2048, 256, 6), Model("pro", 7168, 3072, 384, 6))
# One H200, later files in place of earlier ones; ceilings (sustained) are those of the first.
SINGLE = ("cuda-h200-flash.json", "cuda-h200-slices.json", "cuda-h200-few.json", "cuda-h200-pro.json",
          "cuda-h200-stopped.txt")
KINDS = {"ep": "EP, ROUTE_EXACT", "sums": "EP, RANK_REDUCE", "tp": "TP, RANK_ORDER"}
MODES = {"ep": "ep route_exact", "sums": "ep rank_reduce", "tp": "tp rank_order f32"}  # of layers, as they begin in the JSON

PER_RANK_US = 0.15  # flags of one more rank: a token's round takes 6.5 us on two GPUs and 6.8 on four, 8 KB 2.7 and 3.1
# Assumed, not measured.
GPUS, WIRE_GB_S, WIRE_US = 8, 45, 15.0  # of a host; useful of 400 Gb/s a GPU; one way
# The library's own: lib/dist/communicator.cc (kDeviceReduceBytes), kernels/dist/launch_exchange.h (IsInTwoShots, IsFlagged).
REDUCE_WINDOW, SAVED_BYTES, FLAGGED_ELEMENTS = 64 << 20, 512 << 10, 64 * 4096


# Balanced routing: k different experts of E at random, E/R of them on each of R ranks.
def misses(m, ranks):
    """Probability that a token has no expert on a given rank: C(E-E/R, k) / C(E, k)."""
    return math.comb(m.experts - m.experts // ranks, m.top_k) / math.comb(m.experts, m.top_k)


def rows_away(m, ranks):
    """Other ranks that a token has experts on: copies of its row that leave its rank."""
    return (ranks - 1) * (1 - misses(m, ranks))


def bytes_out(m, ranks, exact):
    """Out of a rank for each token: its row once to each rank, and back a bf16 row for k(R-1)/R routes, or fp32 sums."""
    back = m.top_k * (ranks - 1) / ranks if exact else 2 * rows_away(m, ranks)
    return (rows_away(m, ranks) + back) * 2 * m.hidden


def floor_us(m, ranks, tokens, ceilings):
    """The larger of what a slice reads (E(1-(1-k/E)^T) experts hit, 3HI codes of 4 bits, a scale for 32) and computes (6HI
    FLOP a route)."""
    size = m.hidden * m.intermediate / ranks
    hit = m.experts * (1 - (1 - m.top_k / m.experts) ** tokens)
    return max(hit * 3 * size * 17 / 32 / ceilings[0], 6 * size * tokens * m.top_k / ceilings[1]) * 1e-3


def power(points, x):
    """Between the two of {x: y} around x as a power of x, at the ends what is there; y under 1 us counts as 1."""
    x = min(max(x, min(points)), max(points))
    low, high = max(p for p in points if p <= x), min(p for p in points if p >= x)
    first, last = max(points[low], 1.0), max(points[high], 1.0)
    return first if low == high else first * (last / first) ** (math.log(x / low) / math.log(high / low))


class Constants:
    """Fixed times (us) and rates (bytes/us) by mode, of Flash's rounds of two ranks."""

    def __init__(self, groups):
        self.fixed, self.rate = {}, {}
        for what in ("exchange route_exact bf16", "exchange rank_reduce f32", "reduce f32"):
            rounds = [(row["tokens"], row["us"], row["gb_per_s_out"] * row["us"] * 1e3) for group in groups
                      if group["ranks"] == 2 and group["model"] == "flash" for row in group["results"]
                      if f"{row['what']} {row['mode']}" == what]
            large = [(us, out) for tokens, us, out in rounds if tokens >= 32]
            small = [us for tokens, us, _ in rounds if tokens <= 4]
            if not small or len(large) < 2:
                raise SystemExit(f"no \"{what}\" of two ranks and Flash, with 1 to 4 tokens and twice from 32 on")
            self.fixed[what] = statistics.median(small)
            # Least squares of relative errors of fixed + slope * bytes.
            over = sum((us - self.fixed[what]) * out / us ** 2 for us, out in large)
            self.rate[what] = sum((out / us) ** 2 for us, out in large) / over

    def round_us(self, what, ranks, out):
        return self.fixed[what] + (ranks - 2) * PER_RANK_US + out / self.rate[what]

    def exchange(self, m, ranks, tokens, exact):
        """What one adds to a layer."""
        if exact and tokens * m.hidden > FLAGGED_ELEMENTS:
            return self.round_us("exchange route_exact bf16", ranks, tokens * rows_away(m, ranks) * 2 * m.hidden)
        what = "exchange route_exact bf16" if exact else "exchange rank_reduce f32"
        return self.round_us(what, ranks, tokens * bytes_out(m, ranks, exact))

    def reduce(self, m, ranks, tokens):
        """All-reduce of fp32, in pieces of what a window holds; two shots, of which the second is bf16, cost another fixed time."""
        us, most = 0.0, REDUCE_WINDOW // (2 * ranks * 4 * m.hidden)
        while tokens > 0:
            piece = min(tokens, most)
            once, twice = (ranks - 1) * piece * m.hidden * 4, (ranks - 1) * piece * m.hidden * (4 + 2) / ranks
            two = ranks >= 4 and once - twice >= SAVED_BYTES
            us += self.round_us("reduce f32", ranks, twice if two else once) + (self.fixed["reduce f32"] if two else 0)
            tokens -= piece
        return us


class Slices:
    """Times of slices alone: measured, or (~) between measured ones, or (^) beyond them."""

    def __init__(self, m, results, groups):
        first = json.loads((results / SINGLE[0]).read_text(encoding="utf-8"))["ceilings"][0]
        self.m, self.ceilings = m, (first["read_gb_s_sustained"], first["dense_bf16_gflop_s_sustained"])
        self.measured = {kind: {} for kind in KINDS}  # kind: {ranks: {all tokens: us}}
        for name in SINGLE:
            for given, tokens, us, _ in plots.measured(results / name):
                if found := re.fullmatch(m.name + r"(?: (ep|tp)=(\d+))? m=\d+ dev=cuda(?: seed=1)?", given):
                    for kind in KINDS:
                        if found[1] in (None, "tp" if kind == "tp" else "ep"):
                            self.measured[kind].setdefault(int(found[2] or 1), {})[tokens] = us
        for (kind, ranks, tokens), row in layers(groups, m).items():
            self.measured[kind].setdefault(ranks, {})[tokens * (1 if kind == "tp" else ranks)] = row["slice_us"]

    def floor(self, ranks, tokens):
        return floor_us(self.m, ranks, tokens, self.ceilings)

    def between(self, kind, ranks, tokens):
        """At tokens within those measured for this number of ranks: what is above the floor goes as a power of tokens."""
        above = {t: us - self.floor(ranks, t) for t, us in self.measured[kind][ranks].items()}
        return self.floor(ranks, tokens) + power(above, tokens)

    def constant(self, kind, tokens):
        """What of the time does not shrink with the slice: a of a + b / ranks, of whole layers and the smallest slices."""
        series, most = self.measured[kind], max(self.measured[kind])
        both = {t: (most * us - series[1][t]) / (most - 1) for t, us in series[most].items() if most > 1 and t in series[1]}
        return power(both, tokens) if both else 0.0

    def time(self, kind, ranks, tokens):
        """(us, mark) of one of so many slices, `tokens` those of all ranks."""
        series = self.measured[kind]
        if tokens in series.get(ranks, {}):
            return series[ranks][tokens], ""
        holds = [r for r in series if min(series[r]) <= tokens <= max(series[r])]
        if not holds:  # at the fraction of the floor of the largest whole layer
            most = max(series[1])
            return self.floor(ranks, tokens) * series[1][most] / self.floor(1, most), "^"
        near = min(holds, key=lambda r: (tokens not in series[r], abs(math.log(r / ranks)), -r))
        us, fixed = self.between(kind, near, tokens), self.constant(kind, tokens)
        return fixed + max(us - fixed, 0) * near / ranks, "~"


def layers(groups, m):
    """{(kind, ranks, tokens of a rank): row} of measured whole layers."""
    return {(kind, group["ranks"], row["tokens"]): row for group in groups if group["model"] == m.name
            for row in group["results"] if row["what"] == "layer"
            for kind, mode in MODES.items() if row["mode"].startswith(mode)}


def layer(c, slices, kind, ranks, tokens):
    """(us of a whole layer of one host, us of its slice, mark of the slice)."""
    alone, mark = slices.time(kind, ranks, tokens * (1 if kind == "tp" else ranks))
    more = c.reduce(slices.m, ranks, tokens) if kind == "tp" else c.exchange(slices.m, ranks, tokens, kind == "ep")
    return alone + more, alone, mark


def over_hosts(c, slices, kind, hosts, tokens):
    """The same for hosts of 8 GPUs, expert parallel between them in RANK_REDUCE.

    A row goes once to each other host that has experts of its token, and back comes a sum in fp32. TP inside: every GPU sends
    the row and its part of the sum, which are added at home. EP inside: rows and sums go on between the GPUs of the host;
    of 8N ranks that a token may need, those on the GPU of the same number in each host are reached by the wire alone.
    """
    m = slices.m
    wire = 2 * WIRE_US + tokens * rows_away(m, hosts) * 6 * m.hidden / (WIRE_GB_S * 1e3)
    if kind == "tp":
        whole, mark = slices.time("tp", GPUS, hosts * tokens)
        fixed = slices.constant("sums", hosts * tokens)
        alone = fixed + max(whole - fixed, 0) / hosts
        return alone + wire + c.reduce(m, GPUS, tokens), alone, mark or "~"
    alone, mark = slices.time("sums", GPUS * hosts, GPUS * hosts * tokens)
    inside = tokens * (GPUS - 1) * hosts * (1 - misses(m, GPUS * hosts)) * 6 * m.hidden
    return alone + wire + c.round_us("exchange rank_reduce f32", GPUS, inside), alone, mark
