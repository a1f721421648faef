"""How an engine that hangs is told from one that works: a page of memory that it shares with the supervisor.

Knows which numbers stand where and how long each may stay the same; must not know processes, stages or sockets. A hang
inside a launch stops the engine's own loop, so only somebody outside can see it, and the supervisor neither speaks the
engine's protocol nor should it: the engine stores two words a launch, the supervisor looks a few times a second.

An engine that loads or times its models has no pulse yet and is left alone. Time counts only as far as the watcher was
awake to see it pass: after a stall of the whole machine, or a clock that jumped, everybody has a fresh start.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

from server.page import open_page

LOOK_S = 0.25
LONGER_THAN_PROMISED = 20

_TURNS, _LAUNCH, _LIMIT, _NAME_LENGTH = range(4)  # 64-bit words
_NAME = 64  # where the name of what is launched begins, in bytes
_LONGEST_NAME = 512
_LONGEST_LOOK_NS = int(2 * LOOK_S * 1e9)


class Pulse:
    """The engine's side of the page.

    Args:
        path: of the page; made if nobody has.
        least_ns: no launch counts as hung before; longer ones get LONGER_THAN_PROMISED times what was promised.
    """

    def __init__(self, path: Path, least_ns: int) -> None:
        self._page = open_page(path)
        self._words = memoryview(self._page).cast("Q")
        self._least_ns = least_ns
        self._turns = 0

    def turn(self) -> None:
        """The loop has come round."""
        self._turns += 1
        self._words[_TURNS] = self._turns

    def launching(self, number: int, name: str, promised_ns: int) -> None:
        """A launch begins; `number` is above 0 and another each time."""
        text = name.encode()[:_LONGEST_NAME]
        self._page[_NAME : _NAME + len(text)] = text
        self._words[_NAME_LENGTH] = len(text)
        self._words[_LIMIT] = max(LONGER_THAN_PROMISED * promised_ns, self._least_ns)
        self._words[_LAUNCH] = number  # last: from now on the rest is looked at

    def landed(self) -> None:
        """It has ended."""
        self._words[_LAUNCH] = 0


@dataclass(frozen=True)
class Hang:
    """An engine that has made no progress for too long.

    Attributes:
        reason: hung (in a launch) | silent (outside of one).
        stage: of the launch, as the engine names it; empty outside of one.
        seconds: for how long at least.
    """

    reason: str
    stage: str
    seconds: float


class Watch:
    """The supervisor's side of the page, for one life of the engine after the other.

    Args:
        path: of the page.
        least_ns: how long an engine may be silent outside of launches.
    """

    def __init__(self, path: Path, least_ns: int) -> None:
        self._path = path
        self._least_ns = least_ns
        self._page: mmap.mmap | None = None
        self._seen = (0, 0)
        self._same_ns = 0
        self._looked_ns = 0

    def begin(self) -> None:
        """A new page, for a new life."""
        self._path.unlink(missing_ok=True)
        self._page = open_page(self._path)
        self._seen = (0, 0)
        self._same_ns = self._looked_ns = 0

    def look(self, now_ns: int) -> Hang | None:
        """What is wrong, if anything is. Call it every LOOK_S seconds or so, on a monotonic clock."""
        if self._page is None:
            return None
        with memoryview(self._page) as page, page.cast("Q") as words:
            seen = words[_TURNS], words[_LAUNCH]
            turns, launch = seen
            limit_ns = words[_LIMIT] if launch else self._least_ns
            length = words[_NAME_LENGTH]
            name = bytes(page[_NAME : _NAME + min(length, _LONGEST_NAME)]).decode(errors="replace")
        # A loop that goes round beside a long launch does not make the launch any shorter.
        same = launch == self._seen[1] if launch else seen == self._seen
        passed_ns = min(max(now_ns - self._looked_ns, 0), _LONGEST_LOOK_NS) if self._looked_ns else 0
        self._same_ns = self._same_ns + passed_ns if same else 0
        self._seen, self._looked_ns = seen, now_ns
        if not turns or self._same_ns <= limit_ns:
            return None
        return Hang("hung" if launch else "silent", name if launch else "", self._same_ns / 1e9)
