# SPDX-License-Identifier: Apache-2.0
"""What the query calls give, as named tuples: the fields of the header's info structs, without struct_size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from . import raw

T = TypeVar("T")


class DeviceInfo(NamedTuple):
    """A device, usable or not."""

    device: raw.Device
    supported: bool
    compute_capability: int
    multiprocessors: int
    total_bytes: int
    free_bytes: int
    name: str
    reason: str


class ContextInfo(NamedTuple):
    """What a context runs on."""

    device: raw.Device
    device_ordinal: int
    threads: int
    cpu_isa: raw.CpuIsa
    compute_capability: int
    multiprocessors: int
    l2_bytes: int
    name: str


class LayerInfo(NamedTuple):
    """What a layer is and takes."""

    device: raw.Device
    hidden: int
    intermediate: int
    intermediate_first: int
    intermediate_count: int
    experts: int
    experts_global: int
    top_k: int
    prepared_bytes: int
    peak_extra_bytes: int
    prepared_alignment: int
    max_tokens: int
    prepared_id: int
    numerics_id: int
    backend: str


class WorkspaceInfo(NamedTuple):
    """The workspace of calls up to a number of tokens, in bytes."""

    bytes: int
    minimum_bytes: int
    alignment: int


class FaultInfo(NamedTuple):
    """Faults that applies met while they ran."""

    status: raw.Status
    invalid_ids: int


class WeightsInfo(NamedTuple):
    """State and sizes of a weights object."""

    state: raw.WeightsState
    scale_min: int
    scale_max: int
    bytes: int
    tensors_missing: int


class ExpertInfo(NamedTuple):
    """What prepare found in one expert: its smallest and largest scale byte of groups that are not all zero."""

    scale_min: int
    scale_max: int


class SnapshotInfo(NamedTuple):
    """What a snapshot holds."""

    version: int
    experts: int
    expert_first: int
    experts_global: int
    scale_min: int
    scale_max: int
    slab_id: int
    slab_bytes: int
    file_bytes: int
    layout: str


@dataclass(frozen=True)
class Block:
    """A block of a checkpoint that holds experts. Its prefix alone names it."""

    kind: raw.BlockKind
    index: int
    prefix: str

    @property
    def name(self) -> str:
        """E.g. "layers.3", "mtp.0", or the prefix of what has no number."""
        if self.kind == raw.BlockKind.PREFIX:
            return self.prefix
        return f"{'mtp' if self.kind == raw.BlockKind.MTP else 'layers'}.{self.index}"


class ModelInfo(NamedTuple):
    """What a model's experts need on one rank's device, in bytes; -1 where something is not known."""

    blocks: int
    blocks_fitting: int
    source_bytes: int
    prepared_bytes: int
    largest_block_bytes: int
    peak_extra_bytes: int
    workspace_bytes: int
    total_bytes: int
    free_bytes: int


class CommInfo(NamedTuple):
    """What a communicator is."""

    kind: raw.CommKind
    transport: raw.CommTransport
    rank: int
    size: int
    ep_rank: int
    ep_size: int
    tp_rank: int
    tp_size: int
    window_bytes: int
    nccl_version: int
    reason: str
    nccl_file: str


class NcclInfo(NamedTuple):
    """Which NCCL is used."""

    version: int
    file: str


class CommFaultInfo(NamedTuple):
    """The first fault of a communicator."""

    status: raw.Status
    stage: raw.CommStage
    rank: int
    found_by: int
    round: int


_KINDS: dict[str, Any] = {
    "device": raw.Device,
    "cpu_isa": raw.CpuIsa,
    "status": raw.Status,
    "state": raw.WeightsState,
    "supported": bool,
    "transport": raw.CommTransport,
    "stage": raw.CommStage,
    "kind": raw.CommKind,
}


def from_struct(kind: type[T], struct: raw.Struct) -> T:
    """The named tuple of a struct with the same fields."""
    values = []
    for name in kind._fields:  # type: ignore[attr-defined]
        value = getattr(struct, name)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif name in _KINDS:
            value = _KINDS[name](value)
        values.append(value)
    return kind(*values)
