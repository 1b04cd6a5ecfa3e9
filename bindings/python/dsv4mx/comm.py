# SPDX-License-Identifier: Apache-2.0
"""Communicators: one rank of a tensor- or expert-parallel group."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from . import raw
from ._handle import Handle
from ._values import enum_value, make
from .context import Context
from .info import CommFaultInfo, CommInfo, from_struct
from .layer import Layer, Workspace

AllGather = Callable[[bytes], Sequence[bytes]]


class Comm(Handle):
    """One rank of a group. Making it is collective: every rank does it at the same time.

    Ranks in processes give all_gather, which takes this rank's bytes and returns those of every rank in rank order (over
    torch.distributed, MPI or sockets), and exchange in the host's shared memory. Ranks that are threads of one process give
    a group number instead. The other parameters are fields of dsv4mx_comm_desc; raw.CommDesc documents each.
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
        transport: str | raw.CommTransport = raw.CommTransport.AUTO,
        ep_combine: str | raw.EpCombine = raw.EpCombine.ROUTE_EXACT,
        tp_reduce: str | raw.TpReduce = raw.TpReduce.RANK_ORDER,
        timeout: float = 0.0,
    ) -> None:
        lib = context._lib
        operation = "comm_create"
        self.error: BaseException | None = None
        """What all_gather raised, if that ended the call."""
        kind = raw.CommKind.SELF
        if all_gather is not None:
            kind = raw.CommKind.CALLBACK
        elif group is not None:
            kind = raw.CommKind.LOCAL

        def gather(_user: Any, mine: int, everything: int, count: int) -> int:
            try:
                assert all_gather is not None
                parts = all_gather(ctypes.string_at(mine, count))
                if [len(part) for part in parts] != [count] * size:
                    raise ValueError(f"all_gather gave {len(parts)} parts, wanted {size} of {count} bytes each")
                ctypes.memmove(everything, b"".join(parts), count * size)
                return 0
            except BaseException as error:  # nothing may pass through C
                self.error = error
                return 1

        # C calls it from create, prepare and reset, so that it lives as long as the handle.
        self._gather = raw.AllGatherFn(gather)
        desc = make(
            raw.CommDesc,
            operation,
            kind=kind.value,
            rank=rank,
            size=size,
            tp_size=tp_size,
            transport=enum_value(raw.CommTransport, transport, "transport", operation),
            ep_combine=enum_value(raw.EpCombine, ep_combine, "ep_combine", operation),
            tp_reduce=enum_value(raw.TpReduce, tp_reduce, "tp_reduce", operation),
            max_tokens=max_tokens,
            max_hidden=max_hidden,
            max_top_k=max_top_k,
            timeout_ns=int(timeout * 1e9),
            group=0 if group is None else group,
        )
        if all_gather is not None:
            desc.all_gather = self._gather
        handle = ctypes.c_void_p()
        self._check(lib, lib.dsv4mx_comm_create(context.handle, ctypes.byref(desc), ctypes.byref(handle)), operation)
        self._own(lib, handle.value, lib.dsv4mx_comm_destroy)
        self.context = context
        self.info: CommInfo = self.query()
        self._spaces: weakref.WeakKeyDictionary[Layer, Workspace] = weakref.WeakKeyDictionary()

    def _check(self, lib: Any, status: int, operation: str) -> None:
        if status:
            raise lib.error(status, operation) from self.error

    def prepare(self, layer: Layer) -> None:
        """Makes a layer ready for apply with this group; collective."""
        self._check(self._lib, self._lib.dsv4mx_comm_prepare(self.handle, layer.handle, None), "comm_prepare")
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

    def reset(self) -> None:
        """Begins anew after a fault, with the same ranks; collective."""
        self._check(self._lib, self._lib.dsv4mx_comm_reset(self.handle, None), "comm_reset")

    def loads(self, layer: Layer) -> list[int]:
        """Pairs that each local expert of a prepared layer computed here, for all ranks."""
        count = layer.info.experts
        pairs = (ctypes.c_int64 * count)()
        self._lib.check(self._lib.dsv4mx_comm_get_loads(self.handle, layer.handle, pairs, count), "comm_get_loads")
        return list(pairs)
