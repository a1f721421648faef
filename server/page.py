"""A page of memory that processes of the service share: words that one writes and another reads, without a call.

Knows a file and its mapping; must not know what the words mean.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

SIZE = 4096


def open_page(path: Path) -> mmap.mmap:
    """A page of memory that processes share by its path; made, all zero, if nobody has. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, SIZE)
        return mmap.mmap(descriptor, SIZE)
    finally:
        os.close(descriptor)
