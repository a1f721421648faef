"""`python -m training`. The commands are in `command`; torch comes with them, and needs room to be loaded."""

from __future__ import annotations

import sys

from training.room import NoRoomError, check_room


def main() -> int:
    """Run one command; returns the exit code."""
    try:
        check_room()
    except NoRoomError as error:
        print(f"error: out of memory: {error}", file=sys.stderr)
        return 2
    from training.command import main as run  # noqa: PLC0415  # only now: it loads torch

    return run()


if __name__ == "__main__":
    sys.exit(main())
