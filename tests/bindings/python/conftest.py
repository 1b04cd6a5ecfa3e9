# SPDX-License-Identifier: Apache-2.0
"""Fixtures, and the closing line that tests/count.py adds up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dsv4mx
from helpers import Numbers

SMALL = {"hidden": 64, "intermediate": 32, "experts": 4, "top_k": 2, "w13_order": "gate_up"}


HAVE_CUDA = any(device.device == dsv4mx.Device.CUDA and device.supported for device in dsv4mx.devices())


def pytest_generate_tests(metafunc: Any) -> None:
    """Tests that take `device` run on the CPU, and on the first CUDA device if there is one."""
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", ["cpu", "cuda"] if HAVE_CUDA else ["cpu"])


@pytest.fixture
def context(device: str) -> dsv4mx.Context:
    return dsv4mx.Context(device)


@pytest.fixture
def cpu() -> dsv4mx.Context:
    return dsv4mx.Context("cpu")


@pytest.fixture
def small() -> Numbers:
    """A layer on the CPU with prepared weights, and 5 tokens for it."""
    return Numbers(dsv4mx.Context("cpu"), SMALL)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    stats = terminalreporter.stats
    for report in stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        print(f"skipped: {report.nodeid.split('::')[-1]}: {reason.removeprefix('Skipped: ')}")
    failed = len(stats.get("failed", [])) + len(stats.get("error", []))
    print(f"\n{len(stats.get('passed', []))} passed, {failed} failed, {len(stats.get('skipped', []))} skipped")
