"""Why the policy did what it did, for the jobs whose clients asked.

Knows decisions and who waits for an explanation; must not know sockets or how a decision is made. Nobody having asked,
it costs one look at an empty dictionary a decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server.engine.candidates import Explain
from server.engine.events import Key, Launch
from server.engine.launches import Candidate
from server.messages import Considered, Decision

KEPT = 64
"""Decisions kept for a job between two messages; the oldest give way: a slow job may live through thousands."""

MOST = 32
"""Jobs watched at a time; further ones are answered without an explanation: each makes every decision dearer."""

BEST = "gains most for its time"
SHORTER = "gains nearly the most for its time, and is shorter than what gains most"
SAVED = "not everyone can be in time: the earliest deadline goes first"
NOTHING = "nothing that gains anything can be done in time"


class Explainer:
    """Keeps, for each job that wants it, the decisions that were made while it was here.

    Args:
        stages: names of the rungs, by model.
    """

    def __init__(self, stages: Mapping[str, Sequence[str]]) -> None:
        self._stages = stages
        self._kept: dict[Key, tuple[int, list[Decision]]] = {}  # arrival, decisions not told yet
        self._found: list[Candidate] = []
        self._chosen: Candidate | None = None
        self._decided = False

    def watch(self, key: Key, now_ns: int) -> None:
        """Explain what becomes of this job, unless too many are being explained."""
        if len(self._kept) >= MOST:
            return
        self._kept[key] = now_ns, []

    def forget(self, key: Key) -> None:
        """It is gone."""
        self._kept.pop(key, None)

    def hook(self) -> Explain | None:
        """What the policy is to tell; None while nobody wants to know."""
        if not self._kept:
            return None
        self._decided = False
        return self._hear

    def note(self, launch: Launch | None, now_ns: int) -> None:
        """The decision has been made; this launch came of it, if any."""
        if not self._decided:  # the device was busy: nothing was decided
            return
        self._decided = False
        considered = [self._considered(candidate) for candidate in self._found]
        chosen, why = self._reason()
        if self._chosen is not None and chosen < 0:
            considered.append(self._considered(self._chosen))
            chosen = len(considered) - 1
        members = frozenset(launch.keys) if launch else frozenset()
        for key, (arrived_ns, decisions) in self._kept.items():
            decisions.append(Decision(now_ns - arrived_ns, considered, chosen, why, key in members))
            del decisions[:-KEPT]

    def take(self, key: Key) -> list[Decision] | None:
        """What has been decided since the last time; None for a job whose client did not ask."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        arrived_ns, decisions = kept
        self._kept[key] = arrived_ns, []
        return decisions

    def _hear(self, found: list[Candidate], chosen: Candidate | None) -> None:
        self._found, self._chosen, self._decided = found, chosen, True

    def _reason(self) -> tuple[int, str]:
        """(Place of what was chosen among what was considered, or -1; why)."""
        if self._chosen is None:
            return -1, NOTHING
        if self._chosen not in self._found:
            return -1, SAVED
        best = max(self._found, key=_per_time)
        place = self._found.index(self._chosen)
        return place, BEST if _per_time(self._chosen) >= _per_time(best) else SHORTER

    def _considered(self, candidate: Candidate) -> Considered:
        return Considered(
            candidate.model,
            self._stages[candidate.model][candidate.stage],
            candidate.count,
            candidate.gain,
            candidate.work_ns,
            candidate.promised_ns,
        )


def _per_time(candidate: Candidate) -> float:
    return candidate.gain / candidate.work_ns
