"""The engine as one front end sees it: alive or not, what it serves, what it has room for.

Knows heartbeats, credits and how long a restart takes; must not know sockets or requests. Pure: takes its clock.
"""

from __future__ import annotations

from server.messages import Credit, Heartbeat, ServedModel

SILENCE_NS = 500_000_000
RESTART_NS = 3_000_000_000
_LONGEST_RESTART_NS = 60_000_000_000


class EngineView:
    """State of one engine, over all its lives.

    Attributes:
        epoch: the life that is connected; 0 while there is none.
        state: absent | starting | ready | draining.
        detail: what it says it is doing, one line.
        pid: its process; 0 while unknown.
        models: what it serves, by name@version.
        credit: the last one of this life.
        restart_ns: estimate of the time from losing an engine to the next one's being ready.
        was_ready: whether any life ever was.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.state = "absent"
        self.detail = "The engine process has not reported yet."
        self.pid = 0
        self.models: dict[str, ServedModel] = {}
        self.credit: Credit | None = None
        self.restart_ns = RESTART_NS
        self.was_ready = False
        self._heard_ns = 0
        self._lost_ns = 0

    @property
    def ready(self) -> bool:
        """Whether the connected engine takes jobs."""
        return self.state == "ready"

    def stalled(self, now_ns: int) -> bool:
        """Connected, but silent for longer than a few heartbeats. A stall is not death: it may go on any moment."""
        return self.epoch != 0 and now_ns - self._heard_ns > SILENCE_NS

    def back_in_ns(self, now_ns: int) -> int:
        """Estimated time until an engine that is not ready will be."""
        return max(0, self._lost_ns + self.restart_ns - now_ns) if self._lost_ns else self.restart_ns

    def first_answer_ns(self, model: str) -> int:
        """How long a job that arrives at the engine now waits for its first rung; 0 while unknown."""
        return 0 if self.credit is None else self.credit.first_answer_ns.get(model, 0)

    def lost(self, now_ns: int) -> None:
        """The connection broke or another life took over."""
        if self.was_ready and self._lost_ns == 0:
            self._lost_ns = now_ns
        self.epoch = 0
        self.state = "absent"
        self.detail = "The engine process is gone; a new one is being started."
        self.pid = 0
        self.models = {}
        self.credit = None

    def heard(self, epoch: int, now_ns: int) -> None:
        """A message of that life arrived."""
        self.epoch = epoch
        self._heard_ns = now_ns

    def heartbeat(self, message: Heartbeat, now_ns: int) -> bool:
        """Takes a heartbeat; True if the engine has just become ready."""
        before = self.state
        self.state, self.detail, self.pid = message.state, message.detail, message.pid
        if message.models:
            self.models = {served.model: served for served in message.models}
        if message.state != "ready" or before == "ready":
            return False
        self._measure_restart(now_ns)
        self.was_ready = True
        return True

    def _measure_restart(self, now_ns: int) -> None:
        if self._lost_ns:
            took = min(now_ns - self._lost_ns, _LONGEST_RESTART_NS)
            self.restart_ns = max(took, (self.restart_ns + took) // 2)
            self._lost_ns = 0
