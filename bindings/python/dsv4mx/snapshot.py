# SPDX-License-Identifier: Apache-2.0
"""Snapshot: what a file of prepared experts holds."""

from __future__ import annotations

import ctypes
import os
from typing import Any, NamedTuple

from . import raw
from ._library import library
from ._values import path_value
from .info import SnapshotInfo, from_struct

_ENUMS: dict[str, Any] = {
    "weight_format": raw.WeightFormat,
    "w13_order": raw.W13Order,
    "nibble_order": raw.NibbleOrder,
    "activation": raw.Activation,
    "router_weight_position": raw.RouterWeightPosition,
    "compute": raw.Compute,
}


class Snapshot(NamedTuple):
    """What a file of Weights.save holds: Snapshot.query(path)."""

    info: SnapshotInfo
    """Experts, form and sizes."""
    layer: dict[str, Any]
    """The layer that was saved, with its defaults resolved, without placement, and with the experts of this file:
    Layer(context, **snapshot.layer) makes it."""

    @classmethod
    def query(cls, path: str | os.PathLike[str]) -> Snapshot:
        """Describes a snapshot from its header. Raises FileError, UnsupportedError (another version), OutOfMemoryError."""
        lib = library()
        info, desc = raw.SnapshotInfo(), raw.LayerDesc()
        status = lib.dsv4mx_snapshot_query(path_value(path), ctypes.byref(info), ctypes.byref(desc))
        lib.check(status, "snapshot_query")
        return cls(from_struct(SnapshotInfo, info), _layer_fields(desc))


def _layer_fields(desc: raw.LayerDesc) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, *_ in desc._fields_:
        value = getattr(desc, name)
        if name in ("struct_size", "reserved", "flags", "placement", "experimental"):
            continue
        if name in _ENUMS:
            value = _ENUMS[name](value)
        elif name.endswith(("_dtype", "_bias")):
            value = raw.Dtype(value)
        fields[name] = value
    fields["batch_invariant"] = bool(desc.flags & raw.LayerFlag.BATCH_INVARIANT)
    fields["checked_ids"] = bool(desc.flags & raw.LayerFlag.CHECKED_IDS)
    fields["physical_ids"] = bool(desc.flags & raw.LayerFlag.PHYSICAL_IDS)
    return fields
