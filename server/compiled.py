"""Whether the policy runs as machine code, and where that lies.

mypyc makes it from the very sources beside this file (deploy/compile.py, called by make), where there is a C compiler;
decisions then take a third of the time. Its folder bears a digest of the sources, so that code of other sources is
never found: after a change the sources themselves run until the next make. Knows names, paths and digests; must not
know what the modules do.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import os
import sys
from collections.abc import MutableSequence
from pathlib import Path

ENGINE = Path(__file__).with_name("engine")
MODULES = (
    *("candidates", "events", "ladder", "latency", "launches", "policy"),
    *("prices", "queues", "rates", "room", "seats", "state"),
)
"""Of server.engine: the policy and all that it is made of."""

SHARED = "compiled_policy"  # as mypyc calls what they have in common, with __mypyc behind it
VARIABLE = "ANYTIME_COMPILED"  # names the folder of all digests; empty: the sources run, whatever there is


def sources() -> list[Path]:
    """Of the modules."""
    return [ENGINE / f"{name}.py" for name in MODULES]


def folder() -> Path | None:
    """Where machine code of these sources for this Python lies, or would lie; None where it is not wanted."""
    parent = os.environ.get(VARIABLE, str(Path(sys.prefix) / "share" / "anytime"))
    if not parent:
        return None
    digest = hashlib.sha256(importlib.machinery.EXTENSION_SUFFIXES[0].encode())
    for source in sources():
        digest.update(source.read_bytes())
    return Path(parent) / digest.hexdigest()[:16]


def prefer(path: MutableSequence[str]) -> None:
    """Puts it at the head of server.engine's path, if it is there and can be loaded."""
    found = folder()
    if found is None or not found.is_dir():
        return
    sys.path.append(str(found))
    try:
        importlib.import_module(f"{SHARED}__mypyc")
    except ImportError:  # of another machine: the sources do as well
        sys.path.remove(str(found))
        return
    path.insert(0, str(found / "server" / "engine"))


def in_use() -> bool:
    """Whether the policy of this process is machine code."""
    return f"{SHARED}__mypyc" in sys.modules
