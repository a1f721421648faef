"""`python -m tests.server.faulty_engine`: the engine process as it is, on a device that breaks when it is told to."""

from __future__ import annotations

import os
from pathlib import Path

from server.engine import backends, process
from tests.server.faulty_backend import Faults, FaultyBackend

FAULTS = "ANYTIME_TEST_FAULTS"


def main() -> None:
    """The process."""
    faults = Faults(Path(os.environ[FAULTS]))
    backends.create = lambda _name, *_: FaultyBackend(faults)
    process.main()


if __name__ == "__main__":
    main()
