"""How many requests a second one front end takes on when more arrive than it can answer.

Knows how late the event loop's tick is, how many requests were taken on, and how many of them got no answer although
there was time; must not know models, deadlines or HTTP. The door looks at one image: is there room for it, can its
first rung be in time? It cannot see that processor time itself is short. That is what is controlled here, as CoDel
(Nichols and Jacobson, 2012) and DAGOR (Zhou et al., 2018) control queues: while the tick is late again and again, or
more than a few answers are missing, the rate is cut; while the tick is punctual and queues are short it rises. What is
above the rate is refused when its headers are complete, for a fraction of what an answer costs: the time left is
spent on answers that arrive.

While the rate is limited and somebody has just been refused, whoever would wait for more than a part of his time behind
those before him is refused as well, whatever the rate. This is what holds the load at what can be carried, answer by
answer, as BBR (Cardwell et al., 2016) holds a connection's: a rate alone finds out only when answers are missing, and
is then cut for all that is under way.

A request that has far more time than all this takes is not held to any of it, as long as few are in work: what is
short now will not be when its time comes.

Before anybody is refused for answers that are missing, they get simpler: an engine on the same cores is pressed to run
only first rungs, and only what is missing then still is a reason to refuse. Unless the loop has had no pause: then such
an engine runs nothing else already. And unless most are missing: then there is no time to wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import dropwhile, islice

LATE_NS = 7_500_000  # of the tick: requests then wait as long to be read, and answers to be written
TOO_LATE_NS = 10_000_000  # while nobody is limited: a busy loop is less late now and then, and soon punctual
PUNCTUAL_NS = 2_500_000
QUEUED = 0.4  # of a request's time: more of it does not go into waiting for those before
TIGHT = 0.6  # of a request's time; where so much of it will pass in queues the rate does not rise
AMPLE_NS = 20_000_000  # to miss a tighter deadline is no sign of overload
FEW, MISSES = 4, 0.03  # missing answers, and their share, that are no sign of it either
MOST = 0.5  # missing: first rungs alone will not make up for that
BUSY = 0.85  # share of a tick's time: a loop that works for so much of it has had no pause to speak of
MISSING_TICKS = 2  # nor are those of one tick: something else has held them up
SETTLE_NS = 80_000_000  # between two cuts, for the first to be felt
EPISODE_NS = 500_000_000  # cuts closer together are of one backlog, and so is what is missing after pressing
PATIENT_NS = 4 * EPISODE_NS  # who has so much time …
PATIENCE = 20.0  # … and so many times what the loop is late, is not held to the rate
RECENT = 5  # ticks over which what is taken on is counted
CUT = 0.9  # what was taken on and is too much for the time there is, `QUEUED` keeps out
BACK_S = 0.2  # from a cut until the rate is again what was too much, if all is just punctual meanwhile
SWIFT = 3.0  # it may be so many times as fast, the more punctual the faster
BURST_NS = 10_000_000  # what may come at once: this long at the rate …
LEAST_BURST = 8.0  # … or so many
LEAST_RATE = 50.0  # a second: at less, whatever is late, it is not their number
WEIGHT = 0.25  # of the last tick in that average
PRESSED_NS = 100_000_000  # after the last refusal, or the last tick with too many missing
IDLE_NS = 1_000_000_000  # it ends once it has refused nobody for so long


class Throttle:
    """The rate of one front end.

    Attributes:
        rate: requests a second that are taken on; None while all are.
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        self._too_much = 1.0
        self._tokens = 0.0
        self._filled_ns = 0
        self._taken = self._missed = 0  # since the last tick
        self._ticked_ns = 0
        self._counts: deque[tuple[int, int, int]] = deque(maxlen=2 * RECENT)  # nanoseconds, taken, missed
        self._cut_ns = -EPISODE_NS
        self._recovered_s = 0.0  # since the last cut, counted the faster the more punctual the loop is
        self._late_before = False
        self._late_ns = 0.0  # on average
        self._tightest = 0.0
        self._rose = False  # the rate, since the last cut
        self._refused_ns = self._missing_ns = self._pressed_ns = -IDLE_NS

    def take(
        self, now_ns: int, tightness: float = 0.0, queued: float = 0.0, patience_ns: float = 0.0
    ) -> bool:
        """Whether one more request is taken on; counts it if so.

        Args:
            now_ns: the time.
            tightness: the share of its time that will pass before it can be answered, as the engine sees it.
            queued: the share that those before it will take at the pace of late.
            patience_ns: its time, if it may wait for better moments; else 0.
        """
        self._tightest = max(self._tightest, tightness)
        if self.rate is not None:
            self._fill(now_ns, self.rate)
            patient = patience_ns >= max(PATIENT_NS, PATIENCE * self._late_ns)
            if not patient and (self._tokens < 1 or (queued > QUEUED and self.pressed(now_ns))):
                self._refused_ns = now_ns
                return False
            self._tokens = max(self._tokens - 1, 0.0)
        self._taken += 1
        return True

    def pressed(self, now_ns: int) -> bool:
        """Whether whoever shares the processor had better leave it: answers are missing, or requests refused."""
        refusing = self.rate is not None and now_ns - self._refused_ns < PRESSED_NS
        return refusing or now_ns - self._missing_ns < PRESSED_NS

    def missed(self, had_ns: int) -> None:
        """A request that was taken on got no answer in the `had_ns` that there were for it."""
        if had_ns >= AMPLE_NS:
            self._missed += 1

    def ticked(self, late_ns: int, now_ns: int, busy: float = 0.0) -> None:
        """The tick of the loop came `late_ns` after its time.

        `busy`: the share of the time since the last tick, 0…1, in which the loop had something to do.
        """
        # Those that miss soon after a cut, or soon after others have left the processor, were taken on before it.
        settling = now_ns - max(self._cut_ns, self._pressed_ns) < SETTLE_NS
        pressed = self.pressed(now_ns) or now_ns - self._pressed_ns < EPISODE_NS
        passed_ns = now_ns - self._ticked_ns
        self._counts.append((passed_ns, self._taken, 0 if settling else self._missed))
        self._late_ns += WEIGHT * (late_ns - self._late_ns)
        missing, most = self._missing(MISSES), self._missing(MOST)
        if missing:
            self._missing_ns = now_ns
            if not pressed:
                self._pressed_ns = now_ns
                self._counts = deque([(ns, taken, 0) for ns, taken, _ in self._counts], self._counts.maxlen)
        self._recovered_s += passed_ns / 1e9 * min(max(PUNCTUAL_NS / max(self._late_ns, 1.0), 1.0), SWIFT)
        self._taken, self._missed, self._ticked_ns = 0, 0, now_ns
        late, before = late_ns > (TOO_LATE_NS if self.rate is None else LATE_NS), self._late_before
        self._late_before = late
        tightest, self._tightest = self._tightest, 0.0
        simplest = pressed or busy > BUSY  # answers are that already
        if (late and before) or most or (missing and simplest):  # one stall is no trend
            self._cut(now_ns)
        elif self.rate is not None and late_ns < PUNCTUAL_NS:
            if tightest < TIGHT:
                self.rate = max(self.rate, self._risen())
                self._rose = True
            if now_ns - max(self._refused_ns, self._cut_ns) > IDLE_NS:
                self.rate = None

    def _missing(self, share: float) -> bool:
        """Whether more than `share` of those taken on since the last cut, or of late, got no answer."""
        taken = sum(count[1] for count in self._counts)
        missed = [count[2] for count in self._counts if count[2]]
        return len(missed) >= MISSING_TICKS and sum(missed) > max(FEW, share * taken)

    def _risen(self) -> float:
        """What the rate may be by now: the cubic of Ha, Rhee and Xu (CUBIC, 2008) over the time since the last cut.

        Fast while it is far from what was last too much, slow near it, and fast again beyond: it may have been too
        much only because of a stall.
        """
        since = (self._recovered_s - BACK_S) / BACK_S
        return self._too_much * (1 + (1 - CUT) * since**3)

    def _cut(self, now_ns: int) -> None:
        if now_ns - self._cut_ns < SETTLE_NS:
            return
        again, self._cut_ns = now_ns - self._cut_ns < EPISODE_NS, now_ns
        # A rate above what comes limits nobody: it says nothing of what was too much.
        reached = max(self._took(), LEAST_RATE)
        if self.rate is not None:
            reached = min(reached, self.rate)
        rose, self._rose = self._rose, False
        if again and rose:
            # The backlog was gone in between, so this is what is too much now: less room, or the peak was a stall's.
            self._too_much = reached
        elif again:
            # A backlog takes several cuts to clear: that says nothing of what can be carried once it is gone.
            self._too_much = max(self._too_much, reached)
        elif self.rate is not None and reached < self._too_much:
            # Less than what was too much before is too much again: there is less room (CUBIC's fast convergence).
            self._too_much = reached * (1 + CUT) / 2
        else:
            self._too_much = reached
        self.rate = max(LEAST_RATE, CUT * reached)
        self._recovered_s = 0.0
        self._counts.clear()

    def _took(self) -> float:
        """Requests a second that were taken on of late.

        Counted over a stall it says nothing of what could be: the ticks before those of the stall know better.
        """
        count = len(self._counts)
        before = islice(self._counts, max(0, count - RECENT))
        return max(_a_second(before), _a_second(islice(self._counts, max(0, count - RECENT), None)))

    def _fill(self, now_ns: int, rate: float) -> None:
        most = max(LEAST_BURST, rate * BURST_NS / 1e9)
        self._tokens = min(most, self._tokens + (now_ns - self._filled_ns) * rate / 1e9)
        self._filled_ns = now_ns


def _a_second(counts: Iterable[tuple[int, int, int]]) -> float:
    """Taken on a second, from when the first was."""
    some = list(dropwhile(lambda count: not count[1], counts))
    return sum(count[1] for count in some) * 1e9 / max(sum(count[0] for count in some), SETTLE_NS // 4)
