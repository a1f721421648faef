"""Fair shares of what can be admitted, client by client, while there is not enough for all.

Knows clients by name and counts; must not know models, deadlines or HTTP. As long as nobody is refused, nobody is
limited. When somebody is refused who has had less than an equal share, everybody is held to the share that max-min
fairness gives: those who ask for less get all they ask for, the others divide what is left equally. The limit loosens
by itself once it hurts nobody, so an estimate of the capacity that was too low does not stay.

Each front end keeps its own shares: the kernel spreads connections over them, and what they would have to tell each
other would cost more than it mends.
"""

from __future__ import annotations

from collections.abc import Iterable

WINDOW_NS = 250_000_000
HEADROOM = 0.95  # of the level, so that the others find a little room whenever they come
LOOSEN = 1.02  # a window
BURST = 0.02  # of a window's share may come at once …
LEAST_BURST = 4  # … or so many images: a modest client's come in forms, and never at even distances
MOST_CLIENTS = 4096
OTHERS = "others"  # all clients beyond MOST_CLIENTS together


class _Client:
    """One client: images admitted and refused in this window, and when its next one conforms to the limit."""

    __slots__ = ("admitted", "clipped", "next_ns", "refused")

    def __init__(self) -> None:
        self.admitted = 0
        self.refused = 0
        self.clipped = 0  # of the refused, by the limit
        self.next_ns = 0.0


class Shares:
    """The shares of all clients of one front end.

    Attributes:
        limit: images a window that one client may have; None while there is no limit.
    """

    def __init__(self) -> None:
        self.limit: float | None = None
        self._clients: dict[str, _Client] = {}
        self._ends_ns = 0

    def allow(self, client: str, now_ns: int) -> bool:
        """Whether the client may have one more image now; takes nothing. What is not allowed counts as refused."""
        if now_ns >= self._ends_ns:
            self._turn(now_ns)
        if self.limit is None:
            return True
        known = self._of(client)
        if known.next_ns - now_ns <= max(BURST, LEAST_BURST / self.limit) * WINDOW_NS:
            return True
        known.refused += 1
        known.clipped += 1
        return False

    def admitted(self, client: str, now_ns: int) -> None:
        """One image was let in."""
        known = self._of(client)
        known.admitted += 1
        if self.limit is not None:
            known.next_ns = max(known.next_ns, now_ns) + WINDOW_NS / self.limit

    def refused(self, client: str) -> None:
        """One was refused because there was no room."""
        self._of(client).refused += 1

    def rejected(self, client: str) -> None:
        """One that was let in was refused after all."""
        known = self._of(client)
        known.admitted = max(known.admitted - 1, 0)
        known.refused += 1

    def _of(self, client: str) -> _Client:
        known = self._clients.get(client)
        if known is None:
            if len(self._clients) >= MOST_CLIENTS:
                client = OTHERS
            known = self._clients.setdefault(client, _Client())
        return known

    def _turn(self, now_ns: int) -> None:
        """The window is over: look at it, and begin the next with those who were there."""
        stale = now_ns >= self._ends_ns + WINDOW_NS
        self.limit = None if stale else self._next_limit()
        self._ends_ns = now_ns + WINDOW_NS
        active = {} if stale else {n: c for n, c in self._clients.items() if c.admitted or c.refused}
        for known in active.values():
            known.admitted = known.refused = known.clipped = 0
        self._clients = active

    def _next_limit(self) -> float | None:
        clients = self._clients.values()
        if len(clients) < 2 or not any(known.refused for known in clients):
            return None
        admitted = sum(known.admitted for known in clients)
        level = max(1.0, water_level([known.admitted + known.refused for known in clients], admitted))
        wronged = any(known.refused > known.clipped and known.admitted < level for known in clients)
        if wronged:
            return max(1.0, HEADROOM * level)
        clipped = any(known.clipped for known in clients)
        return self.limit * LOOSEN if clipped and self.limit is not None else None


def water_level(demands: Iterable[int], capacity: float) -> float:
    """The largest amount that each may have if all are held to it and together take `capacity` (max-min fairness)."""
    left = capacity
    ascending = sorted(demands)
    for place, demand in enumerate(ascending):
        share = left / (len(ascending) - place)
        if demand >= share:
            return share
        left -= demand
    return float(ascending[-1]) if ascending else 0.0
