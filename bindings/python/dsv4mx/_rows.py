# SPDX-License-Identifier: Apache-2.0
"""The short way to what apply wants of a tensor: one question for each fact, and all constants at hand. Whoever makes it
answers only for a matrix that is right in everything; the long way in layer.py says what is wrong with any other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ._tensors import HOST, numpy_address
from ._values import dtype_name
from .context import DeviceArray, numpy_dtype

Rows = tuple[int, int, int]
"""A matrix: its address, elements between rows, rows."""

Reader = Callable[[Any], Rows | None]
"""The rows of a matrix of one kind and shape; None where it is anything else."""


def numpy_reader(dtype: int, columns: int, written: bool) -> Reader:
    array, wanted, address = np.ndarray, numpy_dtype(dtype), numpy_address
    size = wanted.itemsize

    def read(value: Any) -> Rows | None:
        if type(value) is array and value.dtype is wanted:
            shape = value.shape
            if len(shape) == 2 and shape[1] == columns:
                rows = shape[0]
                if not rows:  # strides of an empty array are 0
                    return address(value), columns, 0
                row, step = value.strides
                stride = row // size
                if (
                    step == size
                    and stride * size == row
                    and stride >= columns
                    and (not written or value.flags.writeable)
                ):
                    return address(value), stride, rows
        return None

    return read


def array_reader(dtype: int, columns: int, device: int) -> Reader:
    array = DeviceArray

    def read(value: Any) -> Rows | None:
        if type(value) is array and value.dtype == dtype and value._device == device:
            shape = value.shape
            if len(shape) == 2 and shape[1] == columns:
                return value.address, columns, shape[0]
        return None

    return read


def torch_reader(dtype: int, columns: int, device: int) -> Reader:
    torch: Any = sys.modules["torch"]
    tensor, wanted = torch.Tensor, getattr(torch, dtype_name(dtype), None)
    here = torch.device("cpu") if device == HOST else torch.device("cuda", device)

    def read(value: Any) -> Rows | None:
        if type(value) is tensor and value.dtype is wanted and value.device == here:
            try:
                rows, width = value.shape
                stride, step = value.stride()
            except ValueError:  # no matrix
                return None
            if width == columns and step == 1 and stride >= columns:
                return value.data_ptr(), stride, rows
        return None

    return read


def no_reader(_value: Any) -> Rows | None:
    return None
