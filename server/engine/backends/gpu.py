"""Which runtimes `auto` tries on an NVIDIA GPU, in which order, and why one is passed over.

Knows how a GPU and an installed package show without importing anything heavy. Must not import the runtimes.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

logger = logging.getLogger(__name__)

DEVICE_NODES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # Linux, and Linux under Windows
PACKAGES = {
    "tensorrt": ("tensorrt", "tensorrt_lean"),
    "tensorrt-rtx": ("tensorrt_rtx",),
    "torch-cuda": ("torch",),
}
"""By runtime, what it is imported as. In order of preference: a later one is for where no earlier one runs a stage."""


def usable_here(nodes: Sequence[Path] = DEVICE_NODES) -> dict[str, str]:
    """Versions of the GPU runtimes that are worth opening, by name; the others are logged with the reason."""
    if not any(node.exists() for node in nodes):
        logger.info("GPU runtimes passed over", extra={"reason": "no NVIDIA GPU shows on this machine"})
        return {}
    found: dict[str, str] = {}
    for name, packages in PACKAGES.items():
        version, reason = _installed(packages)
        if reason:
            logger.info("runtime passed over", extra={"runtime": name, "reason": reason})
        else:
            found[name] = version
    return found


def gpu_name() -> str:
    """The GPU that latencies are measured on; `unknown` where it cannot be told: opening a runtime will say why."""
    from model_repo.nvidia import NoGpu, first_gpu

    try:
        return str(first_gpu())
    except (NoGpu, ImportError):
        return "unknown"


def _installed(packages: Sequence[str]) -> tuple[str, str]:
    """(Version of the first that is there, or why none serves)."""
    there = [package for package in packages if importlib.util.find_spec(package) is not None]
    if not there:
        return "", f"{packages[0]} is not installed"
    try:
        version = metadata.version(there[0])
    except metadata.PackageNotFoundError:  # another distribution brings it
        version = "unknown"
    if version.endswith("+cpu"):
        return "", f"{there[0]} {version} is built without CUDA"
    return version, ""
