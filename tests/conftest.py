"""What tests of every package share: the real data's place, and when a test of a GPU is skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before any test imports onnxruntime, which else makes a device id and queues events for its maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

ROOT = Path(__file__).resolve().parent.parent
NVIDIA_DEVICE = Path("/dev/nvidiactl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if NVIDIA_DEVICE.exists():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=f"no NVIDIA GPU here: {NVIDIA_DEVICE} is missing"))


@pytest.fixture(scope="session")
def cifar10_zip() -> Path:
    """CIFAR-10 as a zip of folders, from the folder in ANYTIME_DATA or from ../shared/data."""
    path = Path(os.environ.get("ANYTIME_DATA", ROOT.parent / "shared" / "data")) / "cifar10.zip"
    if not path.exists():
        pytest.skip(f"no CIFAR-10 here: {path} is missing (ANYTIME_DATA names the folder)")
    return path
