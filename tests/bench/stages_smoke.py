#!/usr/bin/env python3
"""Runs dsv4mx-bench-stages on the emulator, where times mean nothing: exit codes, stages by plan, and JSON that adds up.

usage: stages_smoke.py TOOL
"""
import json
import subprocess
import sys

SMALL = "h=128 i=64 e=4 k=2 "


def run(*arguments):
    done = subprocess.run([sys.argv[1], "--rounds", "2", "--replays", "1", "--rotations", "2", *arguments], capture_output=True,
                          text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def check(good, *what):
    if not good:
        sys.exit("stages_smoke: " + " ".join(str(part) for part in what))


def main():
    wanted = {SMALL + "m=2": ["gemm1", "gemm2"],  # few pairs
              SMALL + "m=8": ["gemm1", "gemm2", "combine"],
              SMALL + "m=600 compute=w4a8": ["gather", "gemm1", "level", "gemm2", "combine"],
              SMALL + "m=9 compute=w4a8 path=bf16": ["gather", "gemm1", "quantise", "gemm2", "combine"]}
    code, out, err = run("--json", "-", *wanted)
    check(code == 0, "exit code", code, out, err)
    told = json.loads(out)  # standard output is JSON and nothing else
    check(told["good"] and [result["given"] for result in told["results"]] == list(wanted), "results:", told)
    for result, names in zip(told["results"], wanted.values()):
        stages = result["stages"]
        check([stage["name"] for stage in stages] == names, "stages of", result["given"], stages)
        check(result["error"] is None and result["rotations"] == 2 and result["plan"] in err, "result:", result)
        check(abs(sum(stage["adds_us"] for stage in stages) - result["stages_us"]) < 1e-6, "sum of what is added:", result)
        alone = sum(stage["alone_us"] for stage in stages)
        check(alone > 0 and abs(result["apply_us"] - alone - result["beyond_us"]) < 1e-6, "beyond:", result)
        check(all("gb_s" in stage for stage in stages if stage["name"].startswith("gemm")), "rates:", stages)
    for arguments, code_wanted, text in ((["m=0"], 1, "0 tokens"), (["h=33"], 1, "hidden"), ([], 2, "wanted a problem"),
                                         (["--rounds", "0", "m=1"], 2, "1..4096")):
        code, out, err = run(*arguments)
        check(code == code_wanted and text in out + err, "refusal:", arguments, code, out, err)
    print("stages_smoke: the tool does what it says")


if __name__ == "__main__":
    main()
