"""Names what figures were measured on: processor, cores, versions, commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from server import compiled

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_PACKAGES = (
    "fastapi",
    "uvicorn",
    "uvloop",
    "httptools",
    "onnxruntime",
    "openvino",
    "torch",
    "numpy",
    "orjson",
)


def _processor(text: str) -> tuple[str, list[str]]:
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    present = set(fields.get("flags", "").split())
    return fields.get("model name", platform.processor() or "unknown"), [f for f in _FLAGS if f in present]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _policy() -> str:
    place = compiled.folder()
    return "compiled" if place and place.is_dir() else "from its sources"


def describe_machine() -> dict[str, Any]:
    """JSON values; the load average is of the moment of the call."""
    name, flags = _processor(Path("/proc/cpuinfo").read_text())
    versions = {package: _version(package) for package in _PACKAGES}
    return {
        "processor": name,
        "flags": flags,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {package: version for package, version in versions.items() if version},
        "policy": _policy(),
        "commit": _commit(),
        "load_average": os.getloadavg()[0],
    }


def machine_line(machine: dict[str, Any]) -> str:
    """One line for beside a figure."""
    flags = ", ".join(machine["flags"]) or "none of the flags looked for"
    versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores ({flags}); Linux {machine['kernel']}, "
        f"Python {machine['python']}, {versions}; policy {machine['policy']}; commit {machine['commit']}; "
        f"load average at start {machine['load_average']:.2f}"
    )
