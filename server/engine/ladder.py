"""What one model's rungs are worth: accuracies and expected gains by the set of rungs that have run.

Knows the calibration tables of a manifest as plain numbers, and which rungs are out of use. Must not know
time, cost or jobs. A set of rungs is a bit mask: bit k stands for rung k, counted from 0, shallowest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

# A stream is owed every rung, gain or not; this is what an unprofitable one counts for against other work.
EVERY_STAGE_GAIN: Final = 0.005

Gains = tuple[tuple[int, float], ...]


class Ladder:
    """The rungs of one model.

    Args:
        names: of all rungs, shallow to deep.
        accuracies: by set of rungs (names joined by commas in ladder order).
        gain_bin_edges: ascending from 0 to 1.
        gains: gains[set][rung][bin].
        usable: places of the rungs that may run; by default all.
    """

    def __init__(
        self,
        names: Sequence[str],
        accuracies: Mapping[str, float],
        gain_bin_edges: Sequence[float],
        gains: Mapping[str, Mapping[str, Sequence[float]]],
        usable: Sequence[int] | None = None,
    ) -> None:
        self._made_of = names, accuracies, gain_bin_edges, gains
        self.names = tuple(names)
        self.usable = sorted(range(len(names)) if usable is None else usable)
        self._deepest = self.usable[-1] if self.usable else 0
        keys = {mask: self.key_of(mask) for mask in range(1 << len(self.names))}
        self._accuracies = {mask: accuracies[key] for mask, key in keys.items() if key in accuracies}
        self._gains = gains
        self._inner_edges = list(gain_bin_edges[1:-1])

    def copy(self) -> Ladder:
        """One that loses rungs without this."""
        return Ladder(*self._made_of, usable=list(self.usable))

    @property
    def first(self) -> int:
        """The cheapest usable rung. Raises IndexError when none is left."""
        return self.usable[0]

    @property
    def bins(self) -> int:
        """How many bins of confidence the gains are known for."""
        return len(self._inner_edges) + 1

    def gain_row(self, mask: int, stage: int) -> Sequence[float]:
        """Expected gain of a rung by bin, for jobs that have had `mask`; zeros where nothing is known."""
        known = self._gains.get(self.key_of(mask), {}).get(self.names[stage])
        return (0.0,) * self.bins if known is None else known

    def fail(self, stage: int) -> None:
        """Take a rung out of use."""
        if stage in self.usable:
            self.usable.remove(stage)

    def bin_of(self, confidence: float) -> int:
        """The bin that a confidence lies in; an edge belongs to the bin above it."""
        bin_ = 0
        for edge in self._inner_edges:
            if confidence < edge:
                break
            bin_ += 1
        return bin_

    def key_of(self, mask: int) -> str:
        """The manifest's key of a set of rungs."""
        return ",".join(name for place, name in enumerate(self.names) if mask >> place & 1)

    def accuracy(self, mask: int) -> float:
        """Accuracy of the pooled answer over a set of rungs."""
        return self._accuracies[mask]

    def gains_after(self, mask: int, bin_: int, every_stage: bool) -> Gains:
        """What may usefully run next for a job that has had `mask`: (rung, expected gain above 0), shallow first."""
        return self._next_rung(mask, bin_) if every_stage else self._profitable(mask, bin_)

    def has_published_deepest(self, mask: int) -> bool:
        """Whether a job has had the deepest rung of the ladder as it was before any failed."""
        return bool(mask >> self._deepest & 1)

    def reason_after(self, mask: int) -> str:
        """Why a job that has had `mask` and can gain nothing more is finished."""
        return "deepest" if self.usable and mask >> self.usable[-1] & 1 else "no_gain"

    def _profitable(self, mask: int, bin_: int) -> Gains:
        left = [stage for stage in self.usable if not mask >> stage & 1]
        gains = self._gains.get(self.key_of(mask), {})
        return tuple(
            (stage, gains[self.names[stage]][bin_]) for stage in left if gains[self.names[stage]][bin_] > 0
        )

    def _next_rung(self, mask: int, bin_: int) -> Gains:
        """The rung after the deepest that has run: a stream never goes back to a shallower one."""
        deeper = [stage for stage in self.usable if stage >= mask.bit_length()]
        if not deeper:
            return ()
        gain = self._gains[self.key_of(mask)][self.names[deeper[0]]][bin_]
        return ((deeper[0], max(gain, EVERY_STAGE_GAIN)),)
