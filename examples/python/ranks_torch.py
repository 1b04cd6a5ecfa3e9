"""One layer over the processes of torch.distributed: a rank for each, experts dealt out, tokens of its own on each.

    ranks_torch.py [--meet gather|id|borrow] [--graph] [--device cuda|cpu] [RANKS]
    torchrun --nproc-per-node RANKS ranks_torch.py ...

gather   torch.distributed carries the few bytes by which ranks meet, and rows go through memory that they share
id       it carries NCCL's unique id alone: the group has a communicator of its own, over any number of hosts
borrow   the group splits the communicator that torch's process group has made

With --graph the call is captured in a CUDA graph on every rank and replayed with other tokens. RANKS is all GPUs, on the CPU 4.
"""

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dsv4mx
import numpy as np
import torch
import torch.distributed as dist
from ranks import hidden, part, tokens, top_k, topk_ids, topk_weights, x


def meet(way: str, rank: int, size: int, device: torch.device) -> dict[str, Any]:
    """What dsv4mx.Comm is to know of the other ranks."""
    if way == "gather":

        def all_gather(mine: bytes) -> list[bytes]:
            parts: list[Any] = [None] * size
            dist.all_gather_object(parts, mine)
            return parts

        return {"all_gather": all_gather}
    if way == "id":
        carried = [dsv4mx.nccl_unique_id() if rank == 0 else None]
        dist.broadcast_object_list(carried)
        return {"nccl_id": carried[0]}
    # The process group makes its communicator with its first collective at the latest.
    dist.all_reduce(torch.zeros(1, device=device))
    address = dist.distributed_c10d._get_default_group()._get_backend(device)._comm_ptr()
    if not address:
        raise RuntimeError("torch's process group has no NCCL communicator of this device")
    return {"nccl_comm": address}


def captured(call: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """The call as a graph; every rank captures and replays its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()  # buffers and connections are made here
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        y = call()

    def replay() -> torch.Tensor:
        graph.replay()
        return y

    return replay


def run(way: str, graph: bool, device: torch.device, rank: int, size: int) -> bool:
    context = dsv4mx.Context(str(device))
    layer, weights = part(context, rank, size)
    whole_layer, whole_weights = part(context, 0, 1)
    comm = dsv4mx.Comm(
        context, rank=rank, size=size, max_tokens=tokens, max_hidden=hidden, max_top_k=top_k,
        timeout=60.0, **meet(way, rank, size, device),
    )  # fmt: skip
    comm.prepare(layer)
    everything = [
        torch.from_numpy(x.view(np.int16)).view(torch.bfloat16),
        *map(torch.from_numpy, (topk_ids, topk_weights)),
    ]
    everything = [tensor.to(device) for tensor in everything]
    wanted = whole_layer.apply(whole_weights, *everything)
    mine = slice(tokens * rank // size, tokens * (rank + 1) // size)
    inputs = [tensor[mine].clone() for tensor in everything]

    def call() -> torch.Tensor:
        y: torch.Tensor = layer.apply(weights, *inputs, comm=comm)
        return y

    if graph:
        call = captured(call)
    same = True
    for step in range(20):
        # Every rank's tokens move on by one, and with them who needs whom.
        now = [(tokens * rank // size + step + i) % tokens for i in range(mine.stop - mine.start)]
        for tensor, source in zip(inputs, everything, strict=True):
            tensor.copy_(source[now])
        y = call()
        same = torch.equal(y.view(torch.int16), wanted[now].view(torch.int16)) and same
    if device.type == "cuda":
        torch.cuda.synchronize()  # what failed on a GPU is said by then
    fault = comm.query_faults()
    nccl = f", NCCL {comm.info.nccl_version} of {comm.info.nccl_file}" if comm.info.nccl_version else ""
    loads = comm.loads(layer) if size > 1 else "not counted"
    print(f"rank {rank} of {size} on {device}: {comm.info.reason}{nccl}; pairs by expert {loads}; "
          f"{'the bits of one rank' if same else 'NOT the bits of one rank'}", flush=True)  # fmt: skip
    dist.barrier()  # nobody leaves while others still work
    del call  # graphs go before the communicator that they use
    comm.close()
    return same and fault.status == 0


def processes(ranks: int) -> bool:
    """What torchrun does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    all_ranks = [
        subprocess.Popen([sys.executable, *sys.argv], env={**common, "RANK": str(r), "LOCAL_RANK": str(r)})
        for r in range(ranks)
    ]
    return not any([one.wait() for one in all_ranks])


def main() -> bool:
    parser = argparse.ArgumentParser()
    parser.add_argument("--meet", choices=["gather", "id", "borrow"], default="id")
    parser.add_argument("--graph", action="store_true")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("ranks", nargs="?", type=int)
    options = parser.parse_args()
    on_cuda = options.device == "cuda"
    if "RANK" not in os.environ:
        return processes(options.ranks or (torch.cuda.device_count() if on_cuda else 4))
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cpu")
    if on_cuda:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)))
        torch.cuda.set_device(device)
    # Objects go over gloo, tensors of GPUs over NCCL.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=timedelta(seconds=60))
    try:
        return run(options.meet, options.graph and on_cuda, device, rank, size)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    try:
        sys.exit(0 if main() else 1)
    except dsv4mx.Error as error:
        sys.exit(f"ranks_torch.py: {error}")
