"""What a long bench says while it runs: one line for each run, with the seconds since it began. On stderr."""

import sys
import time
from collections.abc import Callable

Say = Callable[[str], None]


def quiet(_what: str) -> None:
    """Says nothing."""


def narrator() -> Say:
    """Says each line with the seconds since this call."""
    begun = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {what}", file=sys.stderr, flush=True)

    return say
