"""Checkpoints: what they hold and how they reach the disk whole.

Knows files; must not know the loop. Read with weights_only, so opening one can run no code.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


class CheckpointError(Exception):
    """A checkpoint cannot be read or written, or belongs to another run. The message says which and why."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write `content` (tensors and plain types) to `path` atomically.

    A crash or a full disk leaves the previous checkpoint as it was. Raises CheckpointError.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path}: {error}") from error


def load(path: Path) -> dict[str, Any]:
    """The content of `path`. Raises CheckpointError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its reader meets in a damaged file
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no checkpoint")
    return content
