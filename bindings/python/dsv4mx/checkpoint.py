# SPDX-License-Identifier: Apache-2.0
"""Checkpoint: safetensors files with experts."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import raw
from ._handle import Handle
from ._library import library
from ._values import Control, Progress, dtype_name, enum_value, make, path_value, text_value
from .context import Context, numpy_dtype
from .errors import InvalidError, UnsupportedError
from .info import Block, ModelInfo, from_struct


def make_block(layer: int | None, mtp: int | None, prefix: str | None, operation: str) -> raw.Block:
    """The block that one of the three names."""
    if sum(value is not None for value in (layer, mtp, prefix)) != 1:
        raise InvalidError(raw.Status.INVALID_ARGUMENT, operation, "wanted exactly one of layer, mtp and prefix")
    if layer is not None:
        return make(raw.Block, operation, kind=raw.BlockKind.LAYER, index=layer)
    if mtp is not None:
        return make(raw.Block, operation, kind=raw.BlockKind.MTP, index=mtp)
    return raw.Block(kind=raw.BlockKind.PREFIX, prefix=text_value(prefix))


class Checkpoint(Handle):
    """An open checkpoint: a .safetensors file, a model.safetensors.index.json, or the folder of either.

    len(c), iter(c) and `name in c` work on the names of its tensors.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        prefix: str | None = None,
        threads: int = 0,
        read_policy: str | raw.ReadPolicy = raw.ReadPolicy.DEFAULT,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> None:
        lib = library()
        control = Control(progress, timeout)
        args = make(
            raw.CheckpointArgs,
            "checkpoint_create",
            control=control.address,
            prefix=text_value(prefix),
            threads=threads,
            read_policy=enum_value(raw.ReadPolicy, read_policy, "read_policy", "checkpoint_create"),
        )
        handle = ctypes.c_void_p()
        status = lib.dsv4mx_checkpoint_create(path_value(path), ctypes.byref(args), ctypes.byref(handle))
        error = lib.error(status, "checkpoint_create") if status else None
        if error is None:
            self._own(lib, handle.value, lib.dsv4mx_checkpoint_destroy)
        control.reraise()
        if error is not None:
            raise error
        self.path = os.fspath(path)

    def __len__(self) -> int:
        return int(self._lib.dsv4mx_checkpoint_get_count(self.handle))

    def __iter__(self) -> Iterator[str]:
        for index in range(len(self)):
            name: bytes = self._lib.dsv4mx_checkpoint_get_name(self.handle, index)
            yield name.decode("utf-8")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(name == other for other in self)

    def names(self) -> list[str]:
        return list(self)

    def get_tensor(self, name: str) -> raw.Tensor:
        """The raw tensor, its data inside a mapping of the file that ends with the checkpoint. read() is safer."""
        tensor = raw.Tensor()
        status = self._lib.dsv4mx_checkpoint_get_tensor(self.handle, name.encode("utf-8"), ctypes.byref(tensor))
        self._lib.check(status, "checkpoint_get_tensor")
        return tensor

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """A copy of a tensor. FP4 comes as bytes of two values, and what numpy lacks as unsigned integers."""
        tensor = self.get_tensor(name)
        shape = tuple(tensor.shape[: tensor.rank])
        if tensor.dtype == raw.Dtype.OTHER:
            raise UnsupportedError(
                raw.Status.UNSUPPORTED_DTYPE, "checkpoint_read", f"{name} has a dtype that dsv4mx lacks"
            )
        if tensor.dtype == raw.Dtype.E2M1:
            if math.prod(shape) % 2 or not shape or shape[-1] % 2:
                raise UnsupportedError(
                    raw.Status.UNSUPPORTED_SHAPE,
                    "checkpoint_read",
                    f"{name} has rows of {shape[-1:]} FP4 values, wanted even",
                )
            shape = (*shape[:-1], shape[-1] // 2)
            dtype: np.dtype[Any] = np.dtype(np.uint8)
        else:
            dtype = numpy_dtype(tensor.dtype)
        result: np.ndarray[Any, Any] = np.empty(shape, dtype)
        status = self._lib.dsv4mx_checkpoint_read(
            self.handle, name.encode("utf-8"), 0, result.ctypes.data, result.nbytes
        )
        self._lib.check(status, "checkpoint_read")
        return result

    def dtype(self, name: str) -> str:
        """The dtype's name as files and numpy have it, e.g. "float8_e8m0fnu"."""
        return dtype_name(self.get_tensor(name).dtype)

    def query_layer(
        self, layer: int | None = None, *, mtp: int | None = None, prefix: str | None = None
    ) -> dict[str, Any]:
        """The Layer parameters that a block's tensors tell: Layer(context, top_k=6, **checkpoint.query_layer(3))."""
        block = make_block(layer, mtp, prefix, "checkpoint_query_layer")
        desc = raw.LayerDesc()
        status = self._lib.dsv4mx_checkpoint_query_layer(self.handle, ctypes.byref(block), ctypes.byref(desc))
        self._lib.check(status, "checkpoint_query_layer")
        return {
            "hidden": desc.hidden,
            "intermediate": desc.intermediate,
            "expert_first": desc.expert_first,
            "experts": desc.experts,
            "experts_global": desc.experts_global,
            "w13_order": raw.W13Order(desc.w13_order),
            "w13_bias": raw.Dtype(desc.w13_bias),
            "w2_bias": raw.Dtype(desc.w2_bias),
            "group_size": desc.group_size,
        }

    def blocks(self) -> list[Block]:
        """The blocks that hold experts: layers by index, then draft blocks, then others. query_layer(prefix=block.prefix)."""
        found = []
        for index in range(int(self._lib.dsv4mx_checkpoint_get_block_count(self.handle))):
            block = raw.Block()
            status = self._lib.dsv4mx_checkpoint_get_block(self.handle, index, ctypes.byref(block))
            self._lib.check(status, "checkpoint_get_block")
            found.append(Block(raw.BlockKind(block.kind), block.index, (block.prefix or b"").decode("utf-8")))
        return found

    def query_model(
        self,
        context: Context,
        *,
        layer: raw.LayerDesc | None = None,
        tp_size: int = 1,
        ep_size: int = 1,
        max_tokens: int = 0,
    ) -> ModelInfo:
        """What all blocks need on the context's device, before a byte of weights is read.

        layer has the options of every layer (top_k, dtypes, compute, flags); its sizes and partition are ignored.
        """
        operation = "checkpoint_query_model"
        args = make(raw.ModelArgs, operation, tp_size=tp_size, ep_size=ep_size, max_tokens=max_tokens)
        if layer is not None:
            args.layer = ctypes.addressof(layer)
        info = raw.ModelInfo()
        status = self._lib.dsv4mx_checkpoint_query_model(
            self.handle, context.handle, ctypes.byref(args), ctypes.byref(info)
        )
        self._lib.check(status, operation)
        return from_struct(ModelInfo, info)

    def __repr__(self) -> str:
        return "<dsv4mx.Checkpoint closed>" if self.closed else f"<dsv4mx.Checkpoint {self.path}: {len(self)} tensors>"
