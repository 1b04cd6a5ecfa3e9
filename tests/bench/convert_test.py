#!/usr/bin/env python3
"""dsv4mx-convert: each block to a file, ranks, --verify, --json, and what it refuses. A checkpoint is written here, of random codes.

usage: convert_test.py CONVERT
"""
import json
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

HIDDEN, INTER, EXPERTS = 64, 128, 6
CONVERT = sys.argv[1]


def check(good, *what):
    if not good:
        sys.exit("convert: " + " ".join(str(part) for part in what))


def write_checkpoint(folder):
    rng = random.Random(5)
    entries, data = {}, b""
    for stem in ("layers.0.ffn.", "layers.2.ffn.", "mtp.0.ffn."):
        for e in range(EXPERTS):
            for w, rows, k in (("w1", INTER, HIDDEN), ("w2", HIDDEN, INTER), ("w3", INTER, HIDDEN)):
                for name, dtype, columns, byte in (("weight", "I8", k // 2, lambda: rng.randrange(256)),
                                                   ("scale", "F8_E8M0", k // 32, lambda: rng.randrange(118, 122))):
                    size = rows * columns
                    entries[f"{stem}experts.{e}.{w}.{name}"] = {"dtype": dtype, "shape": [rows, columns],
                                                                "data_offsets": [len(data), len(data) + size]}
                    data += bytes(byte() for _ in range(size))
    header = json.dumps(entries).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    (folder / "config.json").write_text(json.dumps({
        "model_type": "deepseek_v4", "hidden_size": HIDDEN, "moe_intermediate_size": INTER, "n_routed_experts": EXPERTS,
        "num_experts_per_tok": 2, "hidden_act": "silu", "swiglu_limit": 10.0, "routed_scaling_factor": 1.5}), encoding="utf-8")


def run(*args, code=0):
    done = subprocess.run([CONVERT, *map(str, args)], capture_output=True, text=True, check=False)
    check(done.returncode == code, args, "gave", done.returncode, "wanted", code, done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def main():
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model = work / "model"
        model.mkdir()
        write_checkpoint(model)
        out = run("--device", "cpu", "--verify", model, work / "out")
        files = sorted(p.name for p in (work / "out").iterdir())
        check(files == ["layers.0.snapshot", "layers.2.snapshot", "mtp.0.snapshot"], files)
        check(all(word in out for word in ("layers.0", "layers.2", "mtp.0", "verify s", "GB/s")), out)

        report = json.loads(run("--device", "cpu", "--json", "--block", "layers.2", "--threads", 2, model, work / "again"))
        check([b["block"] for b in report["blocks"]] == ["layers.2"], report)
        block = report["blocks"][0]
        slab = 3 * HIDDEN * INTER * 17 // 32
        check(block["error"] is None and block["prepared_bytes"] == EXPERTS * slab, block)
        again = work / "again" / "layers.2.snapshot"
        check(block["file_bytes"] == again.stat().st_size and block["file"] == str(again), block)
        check(again.read_bytes() == (work / "out" / "layers.2.snapshot").read_bytes(), "two runs gave two files")

        for rank in (0, 1):
            run("--device", "cpu", "--tp", 2, "--tp-rank", rank, "--ep", 3, "--ep-rank", 2, "--block", "mtp.0", "--level", -1, "--quiet",
                "--verify", model, work / "ranks")
        files = sorted(p.name for p in (work / "ranks").iterdir())
        check(files == ["mtp.0.tp0of2.ep2of3.snapshot", "mtp.0.tp1of2.ep2of3.snapshot"], files)

        check("layers.7" in run("--device", "cpu", "--block", "layers.7", model, work / "none", code=1), "a block that is not there")
        check("no such file" in run("--device", "cpu", work / "nothing", work / "none", code=1).lower(), "no checkpoint")
        check("none of the block's" in run("--device", "cpu", "--ep", 7, model, work / "none", code=1), "a rank without experts")
        for bad in (["--tp", "0"], ["--level", "20"], ["--device", "tpu"], ["--tp-rank", "1"], ["--what"], []):
            arguments = [*bad, model, work / "none"] if bad else [model]
            check("--help tells more" in run(*arguments, code=2), bad)
        check("usage: dsv4mx-convert" in run("--help"), "help")
    print("convert: all right")


if __name__ == "__main__":
    main()
