"""One layer over several ranks: experts dealt out, tokens of its own on each, compared with one rank that holds everything.

    ranks.py [RANKS]                 a process for each rank, on the CPU
    ranks.py --device cuda [RANKS]   a thread for each rank; they take the GPUs in turn, and may share one
    ranks.py --device nccl [RANKS]   a process and a GPU for each rank; rows go over NCCL

Between processes plain sockets carry the few bytes by which ranks meet (ranks_torch.py has torch.distributed do it), on the CPU
those of any all-gather, and rows go through shared memory; for NCCL its unique id. Threads meet by a number.
"""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dsv4mx
import ml_dtypes
import numpy as np

hidden, intermediate, experts, top_k, tokens = 256, 128, 16, 4, 64
rng = np.random.default_rng(0)
w13 = rng.integers(0, 256, (experts, 2 * intermediate, hidden // 2), np.uint8)
w2 = rng.integers(0, 256, (experts, hidden, intermediate // 2), np.uint8)
x = rng.standard_normal((tokens, hidden)).astype(ml_dtypes.bfloat16)
topk_ids = np.array([rng.permutation(experts)[:top_k] for _ in range(tokens)], np.int32)
topk_weights = rng.random((tokens, top_k), np.float32)


def exactly(line: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = line.recv(count - len(data))
        if not part:
            raise ConnectionError("a rank ended")
        data += part
    return data


class Sockets:
    """Rank 0 listens; it collects every rank's bytes and sends all of them back."""

    def __init__(self, rank: int, size: int, port: int, listener: socket.socket | None) -> None:
        self.size = size
        self.lines: list[socket.socket] = []
        if listener is None:
            line = socket.create_connection(("127.0.0.1", port))
            line.sendall(bytes([rank]))
            self.lines = [line]
        else:
            ranks = {}
            for _ in range(size - 1):
                line, _ = listener.accept()
                ranks[line.recv(1)[0]] = line
            self.lines = [ranks[r] for r in sorted(ranks)]
        self.is_root = listener is not None

    def all_gather(self, mine: bytes) -> list[bytes]:
        count = len(mine)
        if not self.is_root:
            self.lines[0].sendall(mine)
            everything = exactly(self.lines[0], count * self.size)
            return [everything[r * count : (r + 1) * count] for r in range(self.size)]
        parts = [mine] + [exactly(line, count) for line in self.lines]
        for line in self.lines:
            line.sendall(b"".join(parts))
        return parts


def part(context: dsv4mx.Context, rank: int, size: int) -> tuple[dsv4mx.Layer, dsv4mx.Weights]:
    held = experts // size
    mine = slice(rank * held, (rank + 1) * held)
    layer = dsv4mx.Layer(
        context, hidden=hidden, intermediate=intermediate, experts=held, experts_global=experts,
        expert_first=rank * held, top_k=top_k, w13_order="gate_up", slot_dtype="bfloat16", batch_invariant=True,
    )  # fmt: skip
    weights = dsv4mx.Weights(layer)
    weights.set("w13_weight", w13[mine])
    weights.set("w13_weight_scale", np.full((held, 2 * intermediate, hidden // 32), 120, np.uint8))
    weights.set("w2_weight", w2[mine])
    weights.set("w2_weight_scale", np.full((held, hidden, intermediate // 32), 120, np.uint8))
    weights.prepare()
    return layer, weights


def run(context: dsv4mx.Context, rank: int, size: int, **meet: Any) -> bool:
    """One rank; whether it got the bits of one rank that holds everything."""
    layer, weights = part(context, rank, size)
    comm = dsv4mx.Comm(
        context, rank=rank, size=size, max_tokens=tokens, max_hidden=hidden, max_top_k=top_k,
        timeout=60.0, **meet,
    )  # fmt: skip
    comm.prepare(layer)
    mine = slice(tokens * rank // size, tokens * (rank + 1) // size)
    tensors = [context.array(tensor[mine]) for tensor in (x, topk_ids, topk_weights)]
    y = layer.apply(weights, *tensors, comm=comm)
    context.synchronize()  # what failed on a GPU is said here

    whole_layer, whole_weights = part(context, 0, 1)
    tensors = [context.array(tensor) for tensor in (x, topk_ids, topk_weights)]
    wanted = whole_layer.apply(whole_weights, *tensors).numpy()[mine]
    same = np.array_equal(y.numpy().view(np.uint16), wanted.view(np.uint16))
    loads = comm.loads(layer) if size > 1 else "not counted"
    print(f"rank {rank} of {size}: {comm.info.reason}; pairs by expert {loads}; "
          f"{'the bits of one rank' if same else 'NOT the bits of one rank'}")  # fmt: skip
    return same


def process(nccl: bool, rank: int, size: int, port: int, listener: socket.socket | None) -> bool:
    sockets = Sockets(rank, size, port, listener)
    if nccl:
        identity = dsv4mx.nccl_unique_id() if rank == 0 else bytes(128)
        same = run(dsv4mx.Context(f"cuda:{rank}"), rank, size, nccl_id=sockets.all_gather(identity)[0])
    else:
        same = run(dsv4mx.Context("cpu"), rank, size, all_gather=sockets.all_gather)
    sockets.all_gather(b"done")  # nobody leaves while others still work
    return same


def processes(nccl: bool, ranks: int) -> bool:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    others = [
        subprocess.Popen(
            [sys.executable, *sys.argv], env={**os.environ, "DSV4MX_RANK": str(r), "DSV4MX_PORT": str(port)}
        )
        for r in range(1, ranks)
    ]
    same = process(nccl, 0, ranks, port, server)
    return same and not any([other.wait() for other in others])


def threads(ranks: int) -> bool:
    gpus = sum(info.supported for info in dsv4mx.devices() if info.device == dsv4mx.Device.CUDA)
    contexts = [dsv4mx.Context(f"cuda:{r % max(gpus, 1)}") for r in range(ranks)]
    with ThreadPoolExecutor(ranks) as pool:
        return all(list(pool.map(lambda r: run(contexts[r], r, ranks, group=1), range(ranks))))


def main() -> bool:
    words = sys.argv[1:]
    device = "cpu"
    if words[:1] == ["--device"]:
        device, words = words[1], words[2:]
    ranks = int(words[0]) if words else 2 if device == "nccl" else 4
    if device == "cuda":
        return threads(ranks)
    if "DSV4MX_RANK" in os.environ:
        return process(device == "nccl", int(os.environ["DSV4MX_RANK"]), ranks, int(os.environ["DSV4MX_PORT"]), None)
    return processes(device == "nccl", ranks)


if __name__ == "__main__":
    try:
        sys.exit(0 if main() else 1)
    except dsv4mx.Error as error:
        sys.exit(f"ranks.py: {error}")
