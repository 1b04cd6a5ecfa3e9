# SPDX-License-Identifier: Apache-2.0
"""The routed-expert (MoE) layer of DeepSeek-V4 and its MXFP4 relatives: FP4 weights, bf16 activations.

    context = dsv4mx.Context()                                    # the first usable CUDA device, else the CPU
    layer = dsv4mx.Layer(context, hidden=256, intermediate=128, experts=8, top_k=2, w13_order="gate_up")
    weights = dsv4mx.Weights(layer)
    weights.set("w13_weight", w13)                                # [experts, 2 * intermediate, hidden / 2] bytes
    ...
    weights.prepare()
    y = layer.apply(weights, x, topk_ids, topk_weights)           # x: [tokens, hidden] bfloat16

dsv4mx.raw is the C API through ctypes, and documents every field. Importing needs neither the library nor a GPU.
"""

from . import raw
from ._library import Library, library
from ._values import Progress
from .checkpoint import Checkpoint
from .comm import AllGather, Comm, nccl_query, nccl_unique_id
from .context import Allocator, Context, DeviceArray, devices
from .errors import (
    CancelledError,
    CommError,
    CudaError,
    DeadlineError,
    Error,
    FileError,
    InternalError,
    InvalidError,
    InvalidTypeError,
    LibraryError,
    NoDeviceError,
    NotFoundError,
    OutOfMemoryError,
    ResourceError,
    UnsupportedError,
)
from .info import (
    Block,
    CommFaultInfo,
    CommInfo,
    ContextInfo,
    DeviceInfo,
    ExpertInfo,
    FaultInfo,
    LayerInfo,
    ModelInfo,
    NcclInfo,
    SnapshotInfo,
    WeightsInfo,
    WorkspaceInfo,
)
from .layer import BoundApply, Layer, Workspace
from .raw import (
    Activation,
    CommKind,
    CommStage,
    CommTransport,
    CpuIsa,
    Device,
    Dtype,
    EpCombine,
    LogLevel,
    NibbleOrder,
    RouterWeightPosition,
    Stage,
    Status,
    TpReduce,
    W13Order,
    WeightsState,
)
from .slab import Slab
from .snapshot import Snapshot
from ._versions import show_versions, versions
from .weights import Weights

__version__ = ".".join(map(str, raw.VERSION))

__all__ = [
    "Activation",
    "AllGather",
    "Allocator",
    "Block",
    "BoundApply",
    "CancelledError",
    "Checkpoint",
    "Comm",
    "CommError",
    "CommFaultInfo",
    "CommInfo",
    "CommKind",
    "CommStage",
    "CommTransport",
    "Context",
    "ContextInfo",
    "CpuIsa",
    "CudaError",
    "DeadlineError",
    "Device",
    "DeviceArray",
    "DeviceInfo",
    "Dtype",
    "EpCombine",
    "Error",
    "ExpertInfo",
    "FaultInfo",
    "FileError",
    "InternalError",
    "InvalidError",
    "InvalidTypeError",
    "Layer",
    "LayerInfo",
    "Library",
    "LibraryError",
    "LogLevel",
    "ModelInfo",
    "NcclInfo",
    "NibbleOrder",
    "NoDeviceError",
    "NotFoundError",
    "OutOfMemoryError",
    "Progress",
    "ResourceError",
    "RouterWeightPosition",
    "Slab",
    "Snapshot",
    "SnapshotInfo",
    "Stage",
    "Status",
    "TpReduce",
    "UnsupportedError",
    "W13Order",
    "Weights",
    "WeightsInfo",
    "WeightsState",
    "Workspace",
    "WorkspaceInfo",
    "__version__",
    "devices",
    "library",
    "nccl_query",
    "nccl_unique_id",
    "raw",
    "show_versions",
    "versions",
]
