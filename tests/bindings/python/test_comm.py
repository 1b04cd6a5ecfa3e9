"""Groups of ranks as threads: the bits of one rank, faults, and callbacks that raise."""

import threading
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


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_bits_of_one_rank(size: int) -> None:
    context = dsv4mx.Context("cpu")
    layer, weights = part(context, 0, 1)
    wanted = layer.apply(weights, X, IDS, WEIGHTS)

    def rank(r: int) -> Any:
        own, held = part(context, r, size)
        comm = dsv4mx.Comm(context, rank=r, size=size, group=4711, **SIZES)
        comm.prepare(own)
        assert (comm.info.rank, comm.info.size) == (r, size)
        mine = slice(TOKENS * r // size, TOKENS * (r + 1) // size)
        y = own.apply(held, X[mine], IDS[mine], WEIGHTS[mine], comm=comm, comm_tag=3)
        if size > 1:
            assert sum(comm.loads(own)) > 0
        return y

    outs = on_ranks(size, rank)
    got = np.concatenate(outs)
    assert np.array_equal(got.view(np.uint16), np.asarray(wanted).view(np.uint16))


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
