"""One piece of timed work at a time: benchmarks and training take the same lock on runs/.busy.lock.

The lock is advisory (flock) and goes with the process that holds it, however that ends.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "runs" / ".busy.lock"


class Busy(Exception):
    """Somebody else holds the lock; the text says who and why that matters."""


@contextmanager
def alone(purpose: str, path: Path = LOCK) -> Iterator[None]:
    """Holds the lock for the block. Raises Busy at once where it is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(
                f"{path} is held by {_holder(path)}. Speed measured beside other work is not a measurement: "
                "wait for it to end, or stop it."
            ) from error
        file.truncate(0)
        file.write(f"{purpose} (pid {os.getpid()})\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _holder(path: Path) -> str:
    """What the holder wrote; training writes nothing, and a text may be left over from a process that
    died.
    """
    found = re.search(r"\(pid (\d+)\)", text := path.read_text())
    alive = found is not None and Path(f"/proc/{found[1]}").exists()
    return text.strip() if alive else "a training run"
