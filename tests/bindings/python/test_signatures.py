# SPDX-License-Identifier: Apache-2.0
"""Parameters of the safe layer are written by hand, for editors and type checkers: here against the header's structs, which
bindings/generate keeps. A field that the header gets or loses fails here."""

from __future__ import annotations

import inspect
from typing import Any

import dsv4mx
import pytest
from dsv4mx import raw

# What every struct has, and what the safe layer says in another way.
COMMON = {"struct_size", "reserved", "flags", "control", "experimental"}
# Structs with progress and a timeout in their control.
LONG = {"progress", "timeout"}


def rows(*names: str) -> set[str]:
    """Matrices of apply bring their strides themselves."""
    return {f"{name}_stride" for name in names}


CASES: list[Any] = [
    # callable, struct, fields that are said otherwise, parameters that are no fields
    (
        dsv4mx.Layer,
        raw.LayerDesc,
        set(),
        {"context"}
        # bits of flags, and of experimental
        | {"batch_invariant", "checked_ids", "physical_ids", "number_path", "oracle"},
    ),
    (
        dsv4mx.Comm,
        raw.CommDesc,
        {"kind", "timeout_ns", "barrier", "user", "nccl"},
        {"context", "timeout", "progress", "nccl_path", "no_split", "forbid_multicast"},
    ),
    (
        dsv4mx.Weights.import_marlin,
        raw.Marlin,
        {"memory", "bias_dtype", "expert_count"},  # the tensors say them
        LONG | {"self", "stream"},
    ),
    (dsv4mx.Weights.export_marlin, raw.Marlin, {"memory", "bias_dtype", "expert_count"}, LONG | {"self", "stream"}),
    *(
        (
            function,
            raw.ApplyArgs,
            {"tokens", "workspace_bytes", "x_scale"} | rows("x", "x_scale", "topk_ids", "topk_weights", "out"),
            {"self", "weights", "accumulate", *extra},
        )
        for function, extra in ((dsv4mx.Layer.apply, {"stream"}), (dsv4mx.Layer.bind, set()))
    ),
    (dsv4mx.Weights.load, raw.LoadArgs, set(), LONG | {"self", "checkpoint", "layer", "mtp", "prefix", "stream"}),
    (dsv4mx.Checkpoint, raw.CheckpointArgs, set(), LONG | {"path"}),
]


@pytest.mark.parametrize(
    ("function", "struct", "otherwise", "more"), CASES, ids=lambda value: getattr(value, "__qualname__", "")
)
def test_every_field_has_a_parameter(function: Any, struct: Any, otherwise: set[str], more: set[str]) -> None:
    fields = {name for name, _ in struct._fields_}
    known = COMMON | otherwise
    assert otherwise <= fields, "a field that is gone"
    assert set(inspect.signature(function).parameters) == fields - known | more


def test_marlin_goes_out_as_it_comes_in() -> None:
    assert inspect.signature(dsv4mx.Weights.import_marlin) == inspect.signature(dsv4mx.Weights.export_marlin)


@pytest.mark.parametrize(
    ("kind", "struct"),
    [
        (dsv4mx.CommFaultInfo, raw.CommFaultInfo),
        (dsv4mx.CommInfo, raw.CommInfo),
        (dsv4mx.ContextInfo, raw.ContextInfo),
        (dsv4mx.DeviceInfo, raw.DeviceInfo),
        (dsv4mx.ExpertInfo, raw.ExpertInfo),
        (dsv4mx.FaultInfo, raw.FaultInfo),
        (dsv4mx.LayerInfo, raw.LayerInfo),
        (dsv4mx.ModelInfo, raw.ModelInfo),
        (dsv4mx.NcclInfo, raw.NcclInfo),
        (dsv4mx.WeightsInfo, raw.WeightsInfo),
        (dsv4mx.WorkspaceInfo, raw.WorkspaceInfo),
    ],
)
def test_infos_have_every_field(kind: Any, struct: Any) -> None:
    assert set(kind._fields) == {name for name, _ in struct._fields_} - {"struct_size", "reserved"}
