#!/usr/bin/env python3
"""Runs dsv4mx-bench and dsv4mx-info on small problems: exit codes, one-line errors, and JSON that says what it should.

usage: smoke.py BENCH INFO
"""
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL = "h=256 i=128 e=8 k=2 m=1,5"


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def check(good, *what):
    if not good:
        sys.exit("smoke: " + " ".join(str(part) for part in what))


def strict(text):
    """JSON without NaN and Infinity, which Python would accept."""
    return json.loads(text, parse_constant=lambda name: check(False, "JSON holds", name))


def stopped(bench, folder):
    """A run that is killed leaves the cases before."""
    file = folder / "stopped.json"
    command = [str(bench), "--time", "0.02", "--json", str(file), SMALL] + ["h=512 i=512 e=64 k=4 m=64"] * 50
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        end = time.monotonic() + 60
        while not file.exists() and running.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        running.kill()
    report = strict(file.read_text(encoding="utf-8"))
    check(not report["complete"] and 1 <= len(report["results"]) < 52, "stopped:", len(report["results"]))


def performance(bench, folder):
    file = folder / "performance.json"
    code, out, err = run(bench, "--time", "0.02", "--json", file, SMALL)
    check(code == 0, "performance:", code, out, err)
    report = strict(file.read_text(encoding="utf-8"))
    check(report["good"] and report["mode"] == "performance", "performance: not good")
    ceilings = report["ceilings"]
    check(len(ceilings) >= 1 and ceilings[0]["read_gb_s"] > 0 and ceilings[0]["fp32_gflop_s"] > 0, "ceilings:", ceilings)
    check([result["tokens"] for result in report["results"]] == [1, 5], "tokens of the results")
    for result in report["results"]:
        time = result["times"][0]
        check(time["state"] == "cpu" and 0 < time["us_min"] <= time["us"] and time["runs"] >= 5, "time:", time)
        # Other programs slow the ceilings down as well: a loaded machine can be far above 1.
        check(0 < time["fraction_of_ceiling"] < 20, "fraction:", time)
        check(result["relative_l2_spec"] < 1.2e-3 and result["seed"] == 1, "judged:", result)
        check(result["plan"] and result["backend"].startswith("cpu"), "plan:", result)
        # 8 experts at most, each 3 * 256 * 128 codes and their scales.
        check(result["bytes"] % 1 == 0 or result["rotations"] > 1, "bytes:", result)
    check("GFLOP/s" in out and report["results"][0]["plan"] in out, "table:", out)
    check(report["complete"], "performance: not complete")
    # The same run beside itself: each time, and how many times this one's it is.
    before = report["results"][0]["times"][0]["us"]
    code, out, err = run(bench, "--time", "0.02", "--baseline", file, SMALL.replace("m=1,5", "m=1,3"))
    check(code == 0 and f"in {file}: cpu {before:.5g} us (" in out, "baseline:", code, out, err)
    check(f"in {file}: not this problem" in out, "baseline without the problem:", out)
    for text, words in (("{}", "is not JSON of dsv4mx-bench"), (None, "cannot be read")):
        other = folder / "other.json"
        other.unlink(missing_ok=True)
        if text is not None:
            other.write_text(text, encoding="utf-8")
        code, out, err = run(bench, "--baseline", other, SMALL)
        check(code != 0 and err.strip().count("\n") == 0 and words in err, "a bad baseline:", code, out, err)


def other_modes(bench, folder):
    file = folder / "correctness.json"
    code, out, err = run(bench, "--mode", "correctness", "--rows", "3", "--json", file,
                         "h=256 i=96 e=4 k=3 m=9 act=swiglu,gptoss isa=portable", "h=64 i=32 m=0", "m=3 dist=none")
    check(code == 0, "correctness:", code, out, err)
    report = strict(file.read_text(encoding="utf-8"))
    check(len(report["results"]) == 4 and len(report["results"][0]["rows_judged"]) == 3, "rows:", report)
    code, out, err = run(bench, "--mode", "list", "--json", "-", "flash m=1,2")
    check(code == 0, "list:", code, err)
    cases = strict(out)["results"]  # stdout is JSON and nothing else
    check("experts hit" in err, "list: the table is missing from stderr:", err)
    check(cases[0]["bytes"] == 6 * 13369344, "bytes of six Flash experts:", cases[0]["bytes"])
    check(round(cases[1]["flop"] / 1e6) == 604, "FLOP of two tokens:", cases[1]["flop"])


def refusals(bench, info):
    for command, wanted, text in (
        ([bench], 2, "wanted a problem"),
        ([bench, "--frobnicate"], 2, "--frobnicate"),
        ([bench, "--mode", "fast", "m=1"], 2, "correctness"),
        ([bench, "--time"], 2, "wanted a value"),
        ([bench, "--time", "x", "m=1"], 2, "wanted a number"),
        ([bench, "--json", "/nonexistent/x.json", "--mode", "list", "m=1"], 1, "cannot be written"),
        ([bench, "m=1", "--frobnicate"], 2, "--frobnicate"),
        ([bench, "-x", "m=1"], 2, "-x"),
        ([info, "out=f16"], 1, "wanted default | bf16 | f32"),
        ([info, "--frobnicate"], 2, "--frobnicate"),
        ([info, "--json=x"], 2, "--json=x"),
        ([info, "h=33"], 1, "UNSUPPORTED_SHAPE"),
        ([info, "m=many"], 1, "many"),
    ):
        code, _, err = run(*command)
        check(code == wanted and text in err and err.count("\n") == 1, "refusal:", command, code, repr(err))
    # A refused problem is one line of the table, and the others still run.
    code, out, err = run(bench, "--time", "0.02", "h=33", "m=1")
    check(code == 1 and "FAILED" in out and "us median" in out and not err, "refused problem:", code, out, err)


def information(bench, info):
    for tool in (bench, info):
        code, out, err = run(tool, "--help")
        check(code == 0 and out.startswith("usage:") and not err, "help:", code, err)
    code, out, err = run(info, SMALL)
    check(code == 0 and out.count("workspace") == 2 and out.count("plan") == 2, "info:", code, out, err)
    check("\ncpu " in out and "\ncuda 0 " in out, "devices:", out)
    code, out, err = run(info, "--json", SMALL, "m=many")
    told = strict(out)
    check(code == 1 and err.count("\n") == 1, "info --json:", code, err)
    check(told["devices"][0]["name"] == "cpu" and told["devices"][0]["threads"] >= 1, "devices:", told["devices"])
    check([p.get("tokens") for p in told["problems"]] == [1, 5, None], "problems:", told["problems"])
    check(told["problems"][0]["workspace_bytes"] > 0 and told["problems"][0]["plan"], "problem:", told["problems"][0])
    check("many" in told["problems"][2]["error"], "refused problem:", told["problems"][2])


def dtypes(info):
    """Every dtype that the help lists for a key is taken by the library."""
    code, out, _ = run(info, "--help")
    for key in ("out", "ids", "rw", "slot", "bias13", "bias2"):
        line = next(line for line in out.splitlines() if line.startswith(f"  {key}="))
        for word in line.split("=", 1)[1].split("|"):
            code, _, err = run(info, f"{key}={word.strip()}")
            check(code == 0, "dtype:", key, word, code, err)


def main():
    bench, info = (Path(argument) for argument in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as name:
        performance(bench, Path(name))
        stopped(bench, Path(name))
        other_modes(bench, Path(name))
    refusals(bench, info)
    information(bench, info)
    dtypes(info)
    print("smoke: both tools do what they say")


if __name__ == "__main__":
    main()
