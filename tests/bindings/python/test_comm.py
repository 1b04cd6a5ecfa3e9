"""Groups of ranks as threads: the bits of one rank, faults, and callbacks that raise."""

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import dsv4mx
import ml_dtypes
import numpy as np
import pytest

HIDDEN, INTERMEDIATE, EXPERTS, TOP_K, TOKENS = 64, 64, 8, 2, 24
rng = np.random.default_rng(1)
W13 = rng.integers(0, 256, (EXPERTS, 2 * INTERMEDIATE, HIDDEN // 2), np.uint8)
W2 = rng.integers(0, 256, (EXPERTS, HIDDEN, INTERMEDIATE // 2), np.uint8)
X = rng.standard_normal((TOKENS, HIDDEN)).astype(ml_dtypes.bfloat16)
IDS = np.array([rng.permutation(EXPERTS)[:TOP_K] for _ in range(TOKENS)], np.int32)
WEIGHTS = rng.random((TOKENS, TOP_K), np.float32)


def part(context: dsv4mx.Context, rank: int, size: int) -> tuple[dsv4mx.Layer, dsv4mx.Weights]:
    held = EXPERTS // size
    mine = slice(rank * held, (rank + 1) * held)
    layer = dsv4mx.Layer(
        context, hidden=HIDDEN, intermediate=INTERMEDIATE, experts=held, experts_global=EXPERTS,
        expert_first=rank * held, top_k=TOP_K, w13_order="gate_up", slot_dtype="bfloat16", batch_invariant=True,
    )  # fmt: skip
    weights = dsv4mx.Weights(layer)
    weights.set("w13_weight", W13[mine])
    weights.set("w13_weight_scale", np.full((held, 2 * INTERMEDIATE, HIDDEN // 32), 120, np.uint8))
    weights.set("w2_weight", W2[mine])
    weights.set("w2_weight_scale", np.full((held, HIDDEN, INTERMEDIATE // 32), 120, np.uint8))
    weights.prepare()
    return layer, weights


def on_ranks(size: int, body: Any) -> list[Any]:
    """body(rank) on a thread each: what each returned or raised."""
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = body(rank)
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


SIZES = {"max_tokens": TOKENS, "max_hidden": HIDDEN, "max_top_k": TOP_K}


def apply_on(layer: dsv4mx.Layer, weights: dsv4mx.Weights, mine: slice, **arguments: Any) -> np.ndarray[Any, Any]:
    """A rank's tokens, in memory of its device; the bits of what it gives, on the host."""
    tensors = [X[mine], IDS[mine], WEIGHTS[mine]]
    if not layer.context.is_cuda:
        return np.asarray(layer.apply(weights, *tensors, **arguments)).view(np.uint16)
    y: dsv4mx.DeviceArray = layer.apply(weights, *map(layer.context.array, tensors), **arguments)
    layer.context.synchronize()
    return y.numpy().view(np.uint16)


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_bits_of_one_rank(size: int, bound: bool, device: str) -> None:
    """Ranks take the GPUs in turn; where there are fewer than ranks, several share one."""
    contexts = [dsv4mx.Context(device)]
    if device == "cuda":
        gpus = sum(info.supported for info in dsv4mx.devices() if info.device == dsv4mx.Device.CUDA)
        contexts = [dsv4mx.Context(f"cuda:{n}") for n in range(gpus)]
    layer, weights = part(contexts[0], 0, 1)
    wanted = apply_on(layer, weights, slice(None))
    assert wanted.any()

    def rank(r: int) -> Any:
        context = contexts[r % len(contexts)]
        own, held = part(context, r, size)
        comm = dsv4mx.Comm(context, rank=r, size=size, group=4711, **SIZES)
        comm.prepare(own)
        assert (comm.info.rank, comm.info.size) == (r, size)
        mine = slice(TOKENS * r // size, TOKENS * (r + 1) // size)
        if bound:
            tensors = [X[mine], IDS[mine], WEIGHTS[mine], np.zeros_like(X[mine])]
            if context.is_cuda:
                tensors = list(map(context.array, tensors))
            own.bind(held, *tensors, comm=comm, comm_tag=3)()
            context.synchronize()
            y = (tensors[3].numpy() if context.is_cuda else tensors[3]).view(np.uint16)
        else:
            y = apply_on(own, held, mine, comm=comm, comm_tag=3)
        assert comm.query_faults().status == dsv4mx.Status.OK
        if size > 1:
            assert sum(comm.loads(own)) > 0
        return y

    outs = on_ranks(size, rank)
    assert all(isinstance(y, np.ndarray) for y in outs), outs
    assert np.array_equal(np.concatenate(outs), wanted)


def test_it_goes_with_its_last_reference(cpu: dsv4mx.Context) -> None:
    """And does not wait for the collector, which would close it on the thread of whatever rank runs just then."""
    gc.disable()
    try:
        comm = dsv4mx.Comm(cpu, **SIZES)
        comm.prepare(part(cpu, 0, 1)[0])
        gone = weakref.ref(comm)
        del comm
        assert gone() is None
    finally:
        gc.enable()


def test_a_rank_that_does_not_come_and_one_that_aborts() -> None:
    context = dsv4mx.Context("cpu")
    with pytest.raises(dsv4mx.CommError, match=r"rank 1 of 2 did not join"):
        dsv4mx.Comm(context, rank=0, size=2, group=4712, timeout=0.1, **SIZES)

    def rank(r: int) -> Any:
        own, held = part(context, r, 2)
        comm = dsv4mx.Comm(context, rank=r, size=2, group=4713, **SIZES)
        comm.prepare(own)
        if r == 1:
            comm.abort()
            return comm.query_faults()
        with pytest.raises(dsv4mx.CommError, match="rank 1 aborted"):
            own.apply(held, X, IDS, WEIGHTS, comm=comm)
        return comm.query_faults()

    faults = on_ranks(2, rank)
    assert all(fault.status == dsv4mx.Status.COMM_RANK_LOST and fault.rank == 1 for fault in faults), faults


def test_an_all_gather_that_raises_is_the_cause() -> None:
    def broken(mine: bytes) -> list[bytes]:
        raise ConnectionError("the store is gone")

    with pytest.raises(dsv4mx.CommError, match="all_gather returned 1") as caught:
        dsv4mx.Comm(dsv4mx.Context("cpu"), rank=0, size=2, all_gather=broken, **SIZES)
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_ctrl_c_in_an_all_gather_goes_on() -> None:
    def interrupted(mine: bytes) -> list[bytes]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dsv4mx.Comm(dsv4mx.Context("cpu"), rank=0, size=2, all_gather=interrupted, **SIZES)


class Table:
    """An all-gather as a store would do it."""

    def __init__(self, size: int) -> None:
        self.turn = threading.Barrier(size)
        self.rows: dict[int, bytes] = {}
        self.broken: BaseException | None = None

    def of(self, rank: int) -> dsv4mx.AllGather:
        def gather(mine: bytes) -> list[bytes]:
            if self.broken is not None:
                raise self.broken
            self.rows[rank] = mine
            self.turn.wait(20)
            rows = [self.rows[r] for r in range(self.turn.parties)]
            self.turn.wait(20)
            return rows

        return gather


@pytest.mark.parametrize("bound", [False, True])
def test_apply_over_all_gather_alone(bound: bool) -> None:
    """Rows by the caller's all-gather; what it raises inside apply is the cause, and of no later call."""
    context = dsv4mx.Context("cpu")
    layer, weights = part(context, 0, 1)
    wanted = np.asarray(layer.apply(weights, X, IDS, WEIGHTS)).view(np.uint16)
    table = Table(2)
    failing = threading.Barrier(2)

    def rank(r: int) -> Any:
        own, held = part(context, r, 2)
        comm = dsv4mx.Comm(context, rank=r, size=2, all_gather=table.of(r), transport="collective", timeout=2, **SIZES)
        comm.prepare(own)
        mine = slice(TOKENS * r // 2, TOKENS * (r + 1) // 2)
        y = np.zeros((TOKENS // 2, HIDDEN), ml_dtypes.bfloat16)
        arguments = (held, X[mine], IDS[mine], WEIGHTS[mine], y)
        call = own.bind(*arguments, comm=comm) if bound else lambda: own.apply(*arguments, comm=comm)
        call()
        good = y.copy()
        failing.wait(20)
        table.broken = ConnectionError("the store is gone")
        with pytest.raises(dsv4mx.CommError, match="all_gather returned 1") as caught:
            call()
        assert isinstance(caught.value.__cause__, ConnectionError)
        with pytest.raises(dsv4mx.CommError) as again:
            call()
        assert again.value.__cause__ is None and np.isnan(y.astype(np.float32)).all()
        comm.close()
        if bound:
            with pytest.raises(dsv4mx.InvalidError, match="the communicator of this call are closed"):
                call()
        return good

    outs = on_ranks(2, rank)
    assert all(isinstance(y, np.ndarray) for y in outs), outs
    assert (np.concatenate(outs).view(np.uint16) == wanted).all()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"slot_dtype": "int64"}, "slot_dtype"),
        ({"partial_dtype": np.int64}, "partial_dtype"),
        ({"tp_reduce": "invariant", "tp_slices": 3}, "tp_slices"),
        ({"tp_size": 3}, "tp_size"),
        ({"max_hidden": -1}, "max_hidden"),
        ({"max_top_k": 17}, "max_top_k"),
    ],
)
def test_options_reach_the_library(fields: dict[str, Any], text: str) -> None:
    def rank(r: int) -> Any:
        return dsv4mx.Comm(dsv4mx.Context("cpu"), rank=r, size=2, group=4720, timeout=0.3, **SIZES | fields)

    for error in on_ranks(2, rank):
        assert isinstance(error, dsv4mx.Error) and error.status != dsv4mx.Status.COMM_TIMEOUT, error
        assert text in error.text


def test_descriptors_that_differ_are_named_on_every_rank() -> None:
    for name, values in (("max_tokens", (24, 25)), ("flags", (True, False))):

        def rank(r: int, name: str = name, values: tuple[Any, Any] = values) -> Any:
            changed = {"no_split": values[r]} if name == "flags" else {name: values[r]}
            return dsv4mx.Comm(dsv4mx.Context("cpu"), rank=r, size=2, group=4721, timeout=1, **SIZES | changed)

        for error in on_ranks(2, rank):
            assert isinstance(error, dsv4mx.CommError) and error.status == dsv4mx.Status.COMM_MISMATCH, error
            assert name in error.text


def test_what_is_refused_here() -> None:
    context = dsv4mx.Context("cpu")
    with pytest.raises(dsv4mx.InvalidError, match="wanted one way to meet"):
        dsv4mx.Comm(context, size=2, group=1, nccl_id=bytes(128))
    with pytest.raises(dsv4mx.InvalidError, match="nccl_id has 3 bytes, wanted 128"):
        dsv4mx.Comm(context, size=2, nccl_id=b"abc")
    with pytest.raises(dsv4mx.InvalidError, match="transport is 'pigeon', wanted one of auto, peer, collective"):
        dsv4mx.Comm(context, size=2, group=1, transport="pigeon")


def test_joining_can_be_cancelled() -> None:
    stages = []

    def progress(stage: dsv4mx.Stage, done: int, total: int) -> bool:
        stages.append(stage)
        return True

    with pytest.raises(dsv4mx.CancelledError):
        dsv4mx.Comm(dsv4mx.Context("cpu"), rank=0, size=2, group=4722, progress=progress, **SIZES)
    assert dsv4mx.Stage.JOIN in stages


def test_a_fault_a_reset_and_a_rank_that_leaves() -> None:
    seen, reset, applied = threading.Event(), threading.Event(), threading.Event()

    def rank(r: int) -> Any:
        own, held = part(dsv4mx.Context("cpu"), r, 2)
        comm = dsv4mx.Comm(own.context, rank=r, size=2, group=4723, timeout=0.4, **SIZES)
        comm.prepare(own)
        own.apply(held, X, IDS, WEIGHTS, comm=comm, comm_tag=1)
        applied.set() if r == 0 else applied.wait(20)
        if r == 0:
            with pytest.raises(dsv4mx.CommError, match="rank 1") as caught:
                own.apply(held, X, IDS, WEIGHTS, comm=comm)
            assert caught.value.status == dsv4mx.Status.COMM_TIMEOUT
            assert comm.query_faults().rank == 1
            seen.set()
        else:
            seen.wait(20)
        comm.reset()
        own.apply(held, X, IDS, WEIGHTS, comm=comm)
        with pytest.raises(dsv4mx.CommError) as caught:
            own.apply(held, X, IDS, WEIGHTS, comm=comm, comm_tag=r)
        assert caught.value.status == dsv4mx.Status.COMM_MISMATCH
        comm.reset()
        if r == 1:
            reset.wait(20)  # the other one may still be in it
            comm.close()
            return None
        reset.set()
        with pytest.raises(dsv4mx.CommError) as caught:
            own.apply(held, X, IDS, WEIGHTS, comm=comm)
        return caught.value.status

    assert on_ranks(2, rank) == [dsv4mx.Status.COMM_RANK_LOST, None]


def test_nccl_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "libnccl.so.2"
    for call in (dsv4mx.nccl_query, dsv4mx.nccl_unique_id):
        with pytest.raises(dsv4mx.CommError, match=r"libnccl\.so\.2") as caught:
            call(path)
        assert caught.value.status == dsv4mx.Status.NCCL_UNAVAILABLE
    with pytest.raises(dsv4mx.CommError, match="NCCL_UNAVAILABLE"):
        dsv4mx.Comm(dsv4mx.Context("cpu"), size=2, nccl_id=bytes(128), nccl_path=path, **SIZES)
