"""Whether the process may have the memory that torch takes to be loaded.

Knows the limit on a process's address space (`ulimit -v`); must not import torch. Below it torch's libraries end
the process with a signal, and nobody is told why.
"""

from __future__ import annotations

import resource

LEAST_BYTES = 1_600_000_000
"""Of address space: torch 2.13 on two cores loads with 1.8 GB and not with 1.5."""


class NoRoomError(Exception):
    """The limit is too low; the message says how high it is and has to be."""


def check_room() -> None:
    """Raises NoRoomError where the address space is limited to less than torch takes."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_BYTES:
        raise NoRoomError(
            f"this process may have {limit // 1_000_000} MB of address space (ulimit -v), "
            f"and training needs at least {LEAST_BYTES // 1_000_000}"
        )
