# SPDX-License-Identifier: Apache-2.0
"""Memory, threads and files stay flat over many lives. DSV4MX_LEAK_PAIRS sets how many (default 2000)."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from pathlib import Path

import dsv4mx
import numpy as np
import pytest
from conftest import SMALL
from helpers import Numbers

PAIRS = int(os.environ.get("DSV4MX_LEAK_PAIRS", "2000"))


def state():
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        pass
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "KiB": int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "files": len(list(Path("/proc/self/fd").iterdir())),
    }


def grows(work, pairs):
    for index in range(max(50, pairs // 10)):
        work(index)
    before = state()
    for index in range(pairs):
        work(index)
    after = state()
    for _ in range(100):  # a thread that was joined may stand in /proc for a moment more
        if after["threads"] <= before["threads"]:
            break
        time.sleep(0.01)
        after = state()
    print(f"\n{work.__name__}, {pairs} times: {before} -> {after}")
    assert after["threads"] == before["threads"] and after["files"] == before["files"]
    # Less than 16 bytes a time beyond a page or two of noise.
    assert after["KiB"] - before["KiB"] <= 256 + 16 * pairs // 1024


@pytest.fixture
def numbers():
    return Numbers(dsv4mx.Context("cpu", threads=1), SMALL)


def test_layers_and_weights(numbers):
    def lives(_index):
        layer = dsv4mx.Layer(numbers.context, **SMALL)
        weights = dsv4mx.Weights(layer)
        if _index % 2:
            weights.close()

    grows(lives, PAIRS)


def test_contexts():
    def contexts(_index):
        with dsv4mx.Context("cpu", threads=2, log=lambda *_: None):
            pass

    grows(contexts, max(PAIRS // 10, 100))


def test_communicators(numbers):
    def communicators(_index):
        dsv4mx.Comm(numbers.context).close()

    grows(communicators, PAIRS)

    def groups(_index):
        sizes = {"max_tokens": 1, "max_hidden": 32, "max_top_k": 1}

        def rank(number):
            with dsv4mx.Comm(numbers.context, rank=number, size=2, group=1, **sizes):
                pass

        threads = [threading.Thread(target=rank, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    grows(groups, max(PAIRS // 100, 100))


def test_applies(numbers):
    def applies(_index):
        numbers.apply()

    grows(applies, PAIRS)


def test_failures(numbers):
    def failures(_index):
        try:
            dsv4mx.Layer(numbers.context, **SMALL | {"hidden": 33})
        except dsv4mx.UnsupportedError:
            pass

    grows(failures, PAIRS)


def test_arrays(numbers):
    value = np.zeros((64, 64), np.float32)

    def arrays(_index):
        numbers.context.array(value).numpy()

    grows(arrays, PAIRS)
