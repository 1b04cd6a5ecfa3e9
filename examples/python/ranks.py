"""One layer over several ranks, each a process of its own: experts dealt out, tokens of its own on each.

    ranks.py [RANKS]                 starts all ranks of this host and compares with one rank that holds everything

Plain sockets carry the few bytes by which ranks meet (torch.distributed.all_gather_object would do as well); rows go through
shared memory.
"""

import os
import socket
import subprocess
import sys

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


def run(rank: int, size: int, port: int, listener: socket.socket | None) -> None:
    context = dsv4mx.Context("cpu")
    layer, weights = part(context, rank, size)
    sockets = Sockets(rank, size, port, listener)
    comm = dsv4mx.Comm(
        context, rank=rank, size=size, max_tokens=tokens, max_hidden=hidden, max_top_k=top_k,
        all_gather=sockets.all_gather,
    )  # fmt: skip
    comm.prepare(layer)
    mine = slice(tokens * rank // size, tokens * (rank + 1) // size)
    y = layer.apply(weights, x[mine], topk_ids[mine], topk_weights[mine], comm=comm)

    whole_layer, whole_weights = part(context, 0, 1)
    wanted = whole_layer.apply(whole_weights, x, topk_ids, topk_weights)[mine]
    same = np.array_equal(np.asarray(y).view(np.uint16), np.asarray(wanted).view(np.uint16))
    loads = comm.loads(layer) if size > 1 else "not counted"
    print(f"rank {rank} of {size}: {comm.info.reason}; pairs by expert {loads}; "
          f"{'the bits of one rank' if same else 'NOT the bits of one rank'}")  # fmt: skip
    # Nobody leaves while others still work.
    sockets.all_gather(b"done")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    if "DSV4MX_RANK" in os.environ:
        run(int(os.environ["DSV4MX_RANK"]), int(sys.argv[1]), int(os.environ["DSV4MX_PORT"]), None)
    ranks = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    others = [
        subprocess.Popen(
            [sys.executable, __file__, str(ranks)], env={**os.environ, "DSV4MX_RANK": str(r), "DSV4MX_PORT": str(port)}
        )
        for r in range(1, ranks)
    ]
    try:
        run(0, ranks, port, server)
    except SystemExit as end:
        failed = bool(end.code) | any(other.wait() for other in others)
        sys.exit(1 if failed else 0)
