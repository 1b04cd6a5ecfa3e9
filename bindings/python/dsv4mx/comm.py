# SPDX-License-Identifier: Apache-2.0
"""Communicators: one rank of a tensor- or expert-parallel group."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from . import raw
from ._handle import Handle
from ._library import Library, library
from ._values import Control, Progress, dtype_value, enum_value, make, path_value
from .context import Context
from .errors import InvalidError
from .info import CommFaultInfo, CommInfo, NcclInfo, from_struct
from .layer import BoundApply, Layer, Workspace

AllGather = Callable[[bytes], Sequence[bytes]]
Path = str | os.PathLike[str]


class _Raised:
    """What all_gather raised in the call that runs."""

    error: BaseException | None = None


class Comm(Handle):
    """One rank of a group. Making it is collective: every rank does it at the same time.

    Ranks meet in one of these ways:

    all_gather      over the caller's own bootstrap (torch.distributed, MPI, sockets): it takes this rank's bytes and returns
                    those of every rank in rank order; rows of ranks of one host go through its shared memory
    group           ranks are threads of one process that give the same number
    nccl_id         over NCCL, by the 128 bytes of nccl_unique_id() that one rank makes and the caller carries to the others
    nccl_comm       over NCCL, by the address of the caller's ncclComm_t, which is split unless no_split is set

    Without any of them the group is one rank. timeout is the longest wait for another rank, in seconds; 0 = 10. The other
    parameters are fields of dsv4mx_comm_desc; raw.CommDesc documents each.

    One call at a time; abort(), query_faults() and loads() may be called from any thread beside it. Close it on every rank, or
    use it as a context manager: leaving waits for the device, and where ranks share one also for what the others run there.
    """

    def __init__(
        self,
        context: Context,
        *,
        rank: int = 0,
        size: int = 1,
        tp_size: int = 1,
        max_tokens: int = 0,
        max_hidden: int = 0,
        max_top_k: int = 0,
        all_gather: AllGather | None = None,
        group: int | None = None,
        nccl_id: bytes | None = None,
        nccl_comm: int | None = None,
        nccl_path: Path | None = None,
        no_split: bool = False,
        forbid_multicast: bool = False,
        transport: str | raw.CommTransport = raw.CommTransport.AUTO,
        ep_combine: str | raw.EpCombine = raw.EpCombine.ROUTE_EXACT,
        tp_reduce: str | raw.TpReduce = raw.TpReduce.RANK_ORDER,
        tp_slices: int = 0,
        slot_dtype: Any = None,
        partial_dtype: Any = None,
        timeout: float = 0.0,
        progress: Progress | None = None,
    ) -> None:
        lib = context._lib
        operation = "comm_create"
        raised = self._raised = _Raised()
        ways = {
            raw.CommKind.CALLBACK: all_gather,
            raw.CommKind.LOCAL: group,
            raw.CommKind.NCCL_ID: nccl_id,
            raw.CommKind.NCCL_BORROW: nccl_comm,
        }
        kinds = [kind for kind, given in ways.items() if given is not None]
        if len(kinds) > 1:
            raise InvalidError(
                raw.Status.INVALID_ARGUMENT,
                operation,
                "all_gather, group, nccl_id and nccl_comm: several are given, wanted one way to meet",
            )
        if nccl_id is not None and len(nccl_id) != 128:
            raise InvalidError(raw.Status.INVALID_ARGUMENT, operation, f"nccl_id has {len(nccl_id)} bytes, wanted 128")

        def gather(_user: Any, mine: int, everything: int, count: int) -> int:
            try:
                assert all_gather is not None
                parts = all_gather(ctypes.string_at(mine, count))
                if [len(part) for part in parts] != [count] * size:
                    raise ValueError(f"all_gather gave {len(parts)} parts, wanted {size} of {count} bytes each")
                ctypes.memmove(everything, b"".join(parts), count * size)
                return 0
            except BaseException as error:  # nothing may pass through C
                raised.error = error
                return 1

        # C calls it from create, prepare and reset, and with COLLECTIVE from apply: it lives as long as the handle. It does not
        # know this object: in a cycle it would be closed whenever the collector runs, on the thread of any rank.
        self._gather = raw.AllGatherFn(gather)
        control = Control(progress, None)
        source = _nccl_source(nccl_path)
        desc = make(
            raw.CommDesc,
            operation,
            kind=kinds[0].value if kinds else raw.CommKind.SELF.value,
            rank=rank,
            size=size,
            tp_size=tp_size,
            transport=enum_value(raw.CommTransport, transport, "transport", operation),
            ep_combine=enum_value(raw.EpCombine, ep_combine, "ep_combine", operation),
            tp_reduce=enum_value(raw.TpReduce, tp_reduce, "tp_reduce", operation),
            tp_slices=tp_slices,
            slot_dtype=dtype_value(slot_dtype, "slot_dtype", operation),
            partial_dtype=dtype_value(partial_dtype, "partial_dtype", operation),
            max_tokens=max_tokens,
            max_hidden=max_hidden,
            max_top_k=max_top_k,
            timeout_ns=int(timeout * 1e9),
            flags=no_split * raw.CommFlag.NO_SPLIT | forbid_multicast * raw.CommFlag.FORBID_MULTICAST,
            group=0 if group is None else group,
            nccl_comm=nccl_comm or 0,
            nccl=None if source is None else ctypes.addressof(source),
            control=control.address,
        )
        if all_gather is not None:
            desc.all_gather = self._gather
        identity = None if nccl_id is None else (ctypes.c_char * 128).from_buffer_copy(nccl_id)
        if identity is not None:
            desc.nccl_id = ctypes.addressof(identity)
        handle = ctypes.c_void_p()
        create = lib.dsv4mx_comm_create
        status = create(context.handle, ctypes.byref(desc), ctypes.byref(handle))
        self._lib = lib
        self._check(status, operation, control)
        self._own(lib, handle.value, lib.dsv4mx_comm_destroy)
        self.context = context
        self.info: CommInfo = self.query()
        self._bound: weakref.WeakSet[BoundApply] = weakref.WeakSet()
        self._spaces: weakref.WeakKeyDictionary[Layer, Workspace] = weakref.WeakKeyDictionary()

    def close(self) -> None:
        """Leaves the group; ranks that still wait for this one get COMM_RANK_LOST."""
        for bound in list(getattr(self, "_bound", ())):
            bound._close()
        super().close()

    def _check(self, status: int, operation: str, control: Control | None = None) -> None:
        """Raises what a call ended with: what a callback raised is the cause, or if it is a Ctrl-C goes on as that."""
        if not status:
            return
        error = self._lib.error(status, operation)
        raised, self._raised.error = self._raised.error, None
        if control is not None:
            control.reraise()
        if raised is not None and not isinstance(raised, Exception):
            raise raised
        raise error from raised

    def prepare(self, layer: Layer, *, progress: Progress | None = None, timeout: float | None = None) -> None:
        """Makes a layer ready for apply with this group; collective. Again after layer.set_placement(...).

        timeout ends the whole call, in seconds.
        """
        control = Control(progress, timeout)
        status = self._lib.dsv4mx_comm_prepare(self.handle, layer.handle, control.address)
        self._check(status, "comm_prepare", control)
        self._spaces.pop(layer, None)

    def workspace(self, layer: Layer) -> Workspace:
        """What calls of a prepared layer use: one at a time, as a communicator does."""
        workspace = self._spaces.get(layer)
        if workspace is None:
            # Rows of other ranks decide; tensor-parallel calls of more tokens run in chunks.
            workspace = self._spaces[layer] = Workspace(layer, min(layer.info.max_tokens, 4096), comm=self)
        return workspace

    def query(self) -> CommInfo:
        info = raw.CommInfo()
        self._lib.check(self._lib.dsv4mx_comm_query(self.handle, ctypes.byref(info)), "comm_query")
        return from_struct(CommInfo, info)

    def query_faults(self) -> CommFaultInfo:
        """The fault that ended the group's work, if any; waits for nothing."""
        info = raw.CommFaultInfo()
        self._lib.check(self._lib.dsv4mx_comm_query_faults(self.handle, ctypes.byref(info)), "comm_query_faults")
        return from_struct(CommFaultInfo, info)

    def abort(self) -> None:
        """Ends the group's work on every rank, from any thread."""
        self._lib.check(self._lib.dsv4mx_comm_abort(self.handle), "comm_abort")

    def reset(self, *, progress: Progress | None = None, timeout: float | None = None) -> None:
        """Begins anew after a fault, with the same ranks; collective. timeout ends the whole call, in seconds."""
        control = Control(progress, timeout)
        self._check(self._lib.dsv4mx_comm_reset(self.handle, control.address), "comm_reset", control)

    def loads(self, layer: Layer) -> list[int]:
        """Pairs that each local expert of a prepared layer computed here, for all ranks."""
        count = layer.info.experts
        pairs = (ctypes.c_int64 * count)()
        self._lib.check(self._lib.dsv4mx_comm_get_loads(self.handle, layer.handle, pairs, count), "comm_get_loads")
        return list(pairs)

    def __repr__(self) -> str:
        if self.closed:
            return "<dsv4mx.Comm closed>"
        return f"<dsv4mx.Comm rank {self.info.rank} of {self.info.size}: {self.info.reason}>"


def _nccl_source(path: Path | None) -> raw.NcclSource | None:
    return None if path is None else raw.NcclSource(path=path_value(path))


def _address(source: raw.NcclSource | None) -> int | None:
    return None if source is None else ctypes.addressof(source)


def nccl_query(path: Path | None = None) -> NcclInfo:
    """Loads NCCL, 2.19 or later, and says which; needs no GPU. None: the file of DSV4MX_NCCL_PATH, what the process has
    loaded, or libnccl.so.2."""
    lib: Library = library()
    info, source = raw.NcclInfo(), _nccl_source(path)
    lib.check(lib.dsv4mx_nccl_query(_address(source), ctypes.byref(info)), "nccl_query")
    return from_struct(NcclInfo, info)


def nccl_unique_id(path: Path | None = None) -> bytes:
    """A unique id, for one rank to make and the caller to carry to the others: Comm(nccl_id=...)."""
    lib: Library = library()
    identity, source = (ctypes.c_char * 128)(), _nccl_source(path)
    lib.check(lib.dsv4mx_nccl_get_unique_id(_address(source), identity), "nccl_get_unique_id")
    return identity.raw
