#!/usr/bin/env python3
"""Runs dsv4mx-info on checkpoints of every kind: whole, partial, of other formats, damaged, and odd folders.

usage: info_checkpoints.py INFO
"""
import json
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fuzz"))
import make_corpus as corpus  # noqa: E402: the writers of files

INFO = ""


def check(good, *what):
    if not good:
        sys.exit("info_checkpoints: " + " ".join(str(part) for part in what))


def run(*arguments):
    done = subprocess.run([INFO, *(str(part) for part in arguments)], capture_output=True, text=True, check=False)
    check(done.returncode in (0, 1, 2), "a signal:", arguments, done.returncode, done.stderr)
    return done.returncode, done.stdout, done.stderr


def told(*arguments, code=0):
    got, out, err = run("--json", "--device", "cpu", *arguments)
    check(got == code, "exit code", got, "wanted", code, arguments, out, err)
    return json.loads(out)["checkpoints"]


def write(path, tensors, fill=None):
    """A safetensors file; fill(name, bytes) gives a tensor's data, else bytes of 120."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head, size = corpus.header(tensors)
    data = bytearray(b"\x78" * size)
    if fill:
        for name, entry in json.loads(head).items():
            begin, end = entry["data_offsets"]
            data[begin:end] = fill(name, end - begin)
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)
    return path


def model_folder(top):
    """Two layers and a draft block with other experts, in two shards with an index and a config.json."""
    first = corpus.separate("layers.1.ffn.", 4, 64, 96) + [("layers.1.ffn.gate.weight", "BF16", [4, 64])]
    second = corpus.separate("layers.2.ffn.", 4, 64, 96) + corpus.separate("mtp.0.ffn.", 2, 64, 96)
    shards = [("model-00001-of-00002.safetensors", first), ("model-00002-of-00002.safetensors", second)]
    for name, tensors in shards:
        write(top / name, tensors, lambda name, size: (bytes([118, 118, 121]) * size)[:size] if name.endswith("scale") else bytes(size))
    (top / "model.safetensors.index.json").write_bytes(corpus.index(shards))
    (top / "config.json").write_text(json.dumps({
        "hidden_size": 64, "moe_intermediate_size": 96, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "swiglu_limit": 10.0, "hidden_act": "silu", "routed_scaling_factor": 1.5}), encoding="utf-8")
    return top


def whole(top):
    folder = model_folder(top / "model")
    for path in (folder, folder / "model.safetensors.index.json"):
        (report,) = told("--census", path)
        check(report["refused"] is None and report["unreadable"] == [] and report["tensors"] == 61, "whole:", report)
        names = [block["name"] for block in report["blocks"]]
        check(names == ["layers.1", "layers.2", "mtp.0"], "blocks:", names)
        layer, draft = report["blocks"][0], report["blocks"][2]
        check((layer["hidden"], layer["intermediate"], layer["experts"]) == (64, 96, 4), "sizes:", layer)
        check((layer["family"], layer["codes"], layer["scales"]) == ("DeepSeek", "I8", "E8M0"), "form:", layer)
        check(layer["bytes"] == 4 * 3 * 64 * 96 * 17 // 32 and draft["bytes"] * 2 == layer["bytes"], "bytes:", layer)
        check(layer["config"] == {"top_k": 2, "activation": "swiglu", "clamp_limit": 10.0, "routed_scaling_factor": 1.5},
              "config:", layer)
        check("top_k" not in draft["config"] and draft["config"]["clamp_limit"] == 10.0, "config of the draft:", draft)
        # 118, 118, 121 over and over: a row of two or three groups has both.
        check(layer["census"] == {"scales": 4 * (96 * 2 * 2 + 64 * 3), "min": 118, "max": 121, "span": 3, "nans": 0,
                                  "error": None}, "census:", layer)
        model = report["model"]
        check(model["refused"] is None and model["blocks"] == 3 and model["blocks_fitting"] == 3, "model:", model)
        check(model["source_bytes"] == sum(block["bytes"] for block in report["blocks"]), "source:", model)
        check(model["prepared_bytes"] > 0 and model["workspace_bytes"] > 0 and model["total_bytes"] > 0, "needs:", model)
    (half,) = told("--tp", "3", "--ep", "2", "--tokens", "7", folder)
    check(half["model"]["prepared_bytes"] < model["prepared_bytes"] / 2, "spread:", half["model"])
    check(half["model"]["max_tokens"] == 7 and "census" not in half["blocks"][0], "options:", half)
    code, out, err = run("--census", "--device", "cpu", folder)
    check(code == 0 and not err, "table:", code, err)
    for text in ("checkpoint  ", "layers.1 ", "mtp.0 ", "DeepSeek, I8 E8M0", "scales 118..121 span 3", "top_k 2", "3 of 3 blocks fit",
                 "needs       on CPU"):
        check(text in out, "table lacks", text, out)
    (refused,) = told("--tp", "4", folder, code=1)
    check("tp_size is 4" in refused["model"]["refused"]["error"] and refused["blocks"][0]["refused"] is None, "tp:", refused)


def families(top):
    for name, tensors, family in (("fused", corpus.fused("a.layers.0.mlp."), "SGLang and vLLM"),
                                  ("oss", corpus.gpt_oss("a.layers.0.mlp."), "GPT-OSS"),
                                  ("mlx", corpus.mlx("a.layers.0.mlp."), "MLX"),
                                  ("f4", corpus.separate("draft.", 1, codes="F4"), "DeepSeek")):
        (report,) = told("--census", write(top / f"{name}.safetensors", tensors))
        block = report["blocks"][0]
        check(block["family"] == family and block["refused"] is None, "family:", block)
        check(block["census"]["min"] == 120 and block["census"]["span"] == 0, "census:", block)
        check(block["bytes"] == sum(n for _, n in [corpus.header(tensors)]), "bytes:", block)
    (top / "m.gguf").write_bytes(corpus.gguf(corpus.GGUF_EXPERTS))
    (report,) = told("--census", top / "m.gguf")
    block = report["blocks"][0]
    check(block["family"].startswith("llama.cpp") and block["codes"] == "MXFP4 blocks", "gguf:", block)
    check(block["bytes"] == 3 * 1088 + 256 and block["census"]["scales"] == 192 and block["census"]["min"] == 0x70, "gguf:", block)
    # Scales as numbers, and one that is NaN.
    numbers = corpus.separate("layers.0.ffn.", 1, scales="F32")
    one = lambda name, size: struct.pack("<f", 2.0 ** (-7 if ".w2." in name else -5)) * (size // 4) if "scale" in name else bytes(size)  # noqa: E731
    (report,) = told("--census", write(top / "numbers.safetensors", numbers, one))
    check((report["blocks"][0]["census"]["min"], report["blocks"][0]["census"]["max"]) == (120, 122), "numbers:", report)
    nan = lambda name, size: b"\xff" * size if name.endswith("w1.scale") else b"\x10" * size  # noqa: E731
    (report,) = told("--census", write(top / "nan.safetensors", corpus.separate("layers.0.ffn.", 1), nan), code=1)
    check(report["blocks"][0]["census"]["nans"] == 32 and report["blocks"][0]["census"]["max"] == 16, "nan:", report)
    check("byte 255" in run("--census", top / "nan.safetensors")[1], "nan in the table")
    # A rank's file says which experts it has.
    rank = corpus.separate("layers.0.ffn.", 2, first=2) + [("layers.0.ffn.gate.weight", "BF16", [8, 32])]
    (report,) = told(write(top / "rank.safetensors", rank))
    check((report["blocks"][0]["expert_first"], report["blocks"][0]["experts_global"]) == (2, 8), "rank:", report)


def refusals(top):
    tensors = (corpus.separate("layers.0.ffn.", 1) + corpus.separate("layers.1.ffn.", 1, codes="F8_E4M3", scales="F32") +
               corpus.separate("layers.2.ffn.", 1, scales="F8_E4M3") +
               [("layers.3.ffn.experts.0.w1.qweight", "I32", [4, 4])] + corpus.separate("layers.4.ffn.", 1)[:3])
    (report,) = told(write(top / "mixed.safetensors", tensors), code=1)
    reasons = [(block["refused"] or {}).get("error", "") for block in report["blocks"]]
    for number, text in enumerate(("", "FP8 experts", "NVFP4", "INT4", "is missing")):
        check(text in reasons[number] and bool(text) == bool(reasons[number]), "refused:", number, text, reasons)
    check(report["model"]["refused"]["error"].startswith("layers.1 "), "model:", report["model"])
    code, out, err = run(top / "mixed.safetensors")
    check(code == 1 and out.count(" refused: ") == 4 and not err, "refused in the table:", code, out, err)
    folder = model_folder(top / "gap")
    (folder / "model-00002-of-00002.safetensors").unlink()
    (report,) = told(folder, code=1)
    check(len(report["unreadable"]) == 1 and "model-00002-of-00002.safetensors" in report["unreadable"][0], "gap:", report)
    check([block["refused"] is None for block in report["blocks"]] == [True, False, False], "gap:", report)
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"12345678{")
    (report,) = told(folder, code=1)
    check(len(report["unreadable"]) == 1, "damaged shard:", report["unreadable"])
    (top / "gap" / "config.json").write_text('{"hidden_size":65}', encoding="utf-8")
    (report,) = told(folder, code=1)
    check("hidden 65" in report["blocks"][0]["config_refused"]["error"], "config:", report["blocks"][0])


def odd(top):
    (top / "empty").mkdir()
    (top / "no.safetensors").write_bytes(b"")
    (top / "link").symlink_to(top / "nowhere")
    write(top / "dense" / "model.safetensors", [("embed.weight", "BF16", [4, 4])])
    for path in (top / "empty", top / "no.safetensors", top / "nothing", top / "link" / "x", "/dev/null"):
        code, out, err = run("--device", "cpu", path)
        check(code == 1 and err.count("\n") == 1 and str(path) in err, "odd:", path, code, err)
        (report,) = told(path, code=1)
        check(report["refused"]["error"], "odd:", report)
    (report,) = told(top / "dense", code=1)
    check(report["blocks"] == [] and "no tensor's name" in report["model"]["refused"]["error"], "dense:", report)
    for arguments, text in ((["--tp", "0"], "wanted 1 to"), (["--ep", "x"], "wanted 1 to"), (["--tokens", "131073"], "131072"),
                            (["--device", "tpu"], "wanted auto"), (["--tp"], "wanted a value")):
        code, out, err = run(*arguments)
        check(code == 2 and text in err and err.count("\n") == 1, "usage:", arguments, code, err)


def large(top):
    """43 layers of 256 experts: names and headers alone, in a sparse file a layer."""
    folder = top / "large"
    folder.mkdir()
    shards = []
    for layer in range(43):
        tensors = corpus.separate(f"model.layers.{layer}.mlp.", 256, 4096, 2048)
        name = f"model-{layer + 1:05}-of-00043.safetensors"
        head, size = corpus.header(tensors)
        with open(folder / name, "wb") as file:
            file.write(struct.pack("<Q", len(head)) + head)
            file.truncate(8 + len(head) + size)
        shards.append((name, tensors))
    (folder / "model.safetensors.index.json").write_bytes(corpus.index(shards))
    begin = time.monotonic()
    (report,) = told("--tp", "8", folder)
    seconds = time.monotonic() - begin
    check(len(report["blocks"]) == 43 and report["model"]["blocks"] == 43, "large:", len(report["blocks"]))
    check(report["model"]["source_bytes"] == 43 * 256 * 3 * 4096 * 2048 * 17 // 32, "large:", report["model"])
    # Of equal blocks as many fit as the free memory has room for, beside the workspace and what loading takes.
    (all_here,) = told("--tokens", "64", folder)
    model = all_here["model"]
    room = model["free_bytes"] - model["workspace_bytes"] - model["peak_extra_bytes"]
    check(model["prepared_bytes"] == 43 * model["largest_block_bytes"], "large:", model)
    check(model["blocks_fitting"] == max(0, min(43, room // model["largest_block_bytes"])), "fitting:", model)
    # It takes about two seconds; a machine with other work gets ten times that.
    check(seconds < 30, "43 layers took", seconds)
    print(f"43 layers of 256 experts: {seconds:.1f} s")


def main():
    global INFO
    INFO = sys.argv[1]
    for part in (whole, families, refusals, odd, large):
        with tempfile.TemporaryDirectory() as name:
            part(Path(name))
    print("info_checkpoints: all as it should be")


if __name__ == "__main__":
    main()
