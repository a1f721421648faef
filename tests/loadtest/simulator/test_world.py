"""The world plays what is offered to any scheduler, by the clock of the simulation, and obeys only what can be done."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from loadtest import arrivals
from loadtest.simulator import policies
from loadtest.simulator.offered import Offered, offer
from loadtest.simulator.scheduler import Event, Instruction
from loadtest.simulator.scores import deepest_rung, score
from loadtest.simulator.world import BrokenSchedule, Costs, simulate
from server.engine.policy import Arrived, Finish, Launch, LaunchDone, Reject, Tick, WaitUntil

from .worlds import MS, STAGES, at, device, model

FREE = Costs(inbound_ns=0, outbound_ns=0, decision_ns=0)
CHARGED = Costs(decision_ns=10_000)


class Script:
    """Runs rung `stage` for each job alone, in order of arrival, and ends it."""

    def __init__(self, stage: int = 0) -> None:
        self.stage = stage
        self.waiting: list[int] = []
        self.events: list[tuple[str, int]] = []
        self.busy = False

    def step(self, event: Event, now_ns: int) -> Sequence[Instruction]:
        self.events.append((type(event).__name__, now_ns))
        match event:
            case Arrived(job):
                self.waiting.append(job.key)  # type: ignore[arg-type]
            case LaunchDone(launch):
                self.busy = False
                return [Finish(key, "deepest") for key in launch.keys]
            case Tick():
                if self.waiting and not self.busy:
                    self.busy = True
                    return [Launch(1, "", self.stage, (self.waiting.pop(0),), 0, 0)]
        return []


class Says:
    """Answers every tick with the same orders."""

    def __init__(self, *orders: Instruction) -> None:
        self.orders = orders

    def step(self, event: Event, now_ns: int) -> Sequence[Instruction]:
        return self.orders if isinstance(event, Tick) else ()


def test_one_job_is_answered_after_its_launch_and_the_overhead() -> None:
    journal = simulate(Script(), model(), device(), at([1.0], 50), costs=FREE)
    assert journal.first_ns.tolist() == [round((1.0 + 0.1 + 0.02) * MS)]
    assert journal.mask.tolist() == [1]
    assert journal.device_ns.tolist() == [round(0.1 * MS)]


def test_transport_is_spent_before_and_after() -> None:
    costs = Costs(inbound_ns=300_000, outbound_ns=200_000, decision_ns=0)
    journal = simulate(Script(), model(), device(), at([1.0], 50), costs=costs)
    assert journal.first_ns.tolist() == [round((1.0 + 0.3 + 0.12 + 0.2) * MS)]


def test_launches_follow_each_other_on_the_one_device() -> None:
    journal = simulate(Script(2), model(), device(), at([0.0, 0.0, 0.0], 50), costs=FREE)
    assert journal.launches[:, 0].tolist() == [0, round(1.22 * MS), round(2.44 * MS)]


def test_an_answer_after_the_deadline_is_late_and_counts_as_wrong() -> None:
    what = at([0.0], 1.0)
    journal = simulate(Script(2), model(), device(), what, costs=FREE)
    figures = score(journal, what, model())
    assert (figures.attainment, figures.late, figures.effective_accuracy) == (0.0, 1.0, 0.0)
    assert figures.lateness_ms[3] == pytest.approx(0.22)
    assert figures.wasted == 1.0


def test_every_call_is_charged_to_the_loop_and_on_a_shared_core_to_the_launch() -> None:
    slow = Costs(inbound_ns=0, outbound_ns=0, decision_ns=160_000)
    journal = simulate(Script(), model(), device(), at([0.0], 50), costs=slow)
    # Told of the arrival (10 µs), ticked with a launch (160 µs): only then does it start.
    assert journal.launches[0, 0] == 170_000
    busy = simulate(Script(), model(), device(), at([0.0, 0.2], 50), costs=slow)
    # The second arrival and its tick came during the first launch and kept it from the core.
    assert busy.first_ns[0] == 170_000 + 120_000 + 2 * 10_000


def test_measured_time_is_charged_by_the_clock_that_is_given() -> None:
    ticks = iter(range(0, 10**9, 7_000))
    costs = Costs(inbound_ns=0, outbound_ns=0, clock_ns=lambda: next(ticks))
    journal = simulate(Script(), model(), device(), at([0.0], 50), costs=costs)
    assert journal.launches[0, 0] == 14_000
    assert journal.decision_ns.tolist() == [7_000]
    assert journal.calls_ns == 7_000 * journal.calls


def test_arrivals_are_told_while_a_launch_is_outstanding_and_followed_by_a_tick() -> None:
    script = Script(2)
    simulate(script, model(), device(), at([0.0, 0.5], 50), costs=FREE)
    assert script.events[:4] == [("Arrived", 0), ("Tick", 0), ("Arrived", MS // 2), ("Tick", MS // 2)]


def test_a_scheduler_is_woken_when_it_asks() -> None:
    class Waits(Script):
        def step(self, event: Event, now_ns: int) -> Sequence[Instruction]:
            if isinstance(event, Tick) and now_ns < 5 * MS:
                return [WaitUntil(5 * MS)]
            return super().step(event, now_ns)

    journal = simulate(Waits(), model(), device(), at([1.0], 50), costs=FREE)
    assert journal.launches[0, 0] == 5 * MS


@pytest.mark.parametrize(
    "orders",
    [
        [Launch(1, "", 0, (), 0, 0)],
        [Launch(1, "", 0, (0, 0, 0, 0, 0, 0, 0, 0, 0), 0, 0)],
        [Launch(1, "", 7, (0,), 0, 0)],
        [Finish(0, ""), Finish(0, "")],
        [Finish(5, "")],
        [Finish(0, ""), Launch(1, "", 0, (0,), 0, 0)],
        [Launch(1, "", 0, (0,), 0, 0), Launch(2, "", 0, (0,), 0, 0)],
    ],
    ids=["nobody", "too many", "no such rung", "ended twice", "not here", "ended before", "twice in a rung"],
)
def test_orders_that_cannot_be_obeyed_are_an_error(orders: list[Instruction]) -> None:
    with pytest.raises(BrokenSchedule):
        simulate(Says(*orders), model(), device(), at([0.0], 50), costs=FREE)


def test_a_refusal_after_an_answer_is_an_error() -> None:
    class Regrets(Script):
        def step(self, event: Event, now_ns: int) -> Sequence[Instruction]:
            if isinstance(event, LaunchDone):
                return [Reject(0, 0)]
            return super().step(event, now_ns)

    with pytest.raises(BrokenSchedule, match="refused after an answer"):
        simulate(Regrets(), model(), device(), at([0.0], 50), costs=FREE)


def test_a_forgotten_job_is_an_error() -> None:
    with pytest.raises(BrokenSchedule, match="2 jobs were forgotten, the first is 0"):
        simulate(Says(), model(), device(), at([0.0, 1.0], 50), costs=FREE)


def test_draws_are_recorded_samples_and_lie_between_their_neighbours_elsewhere() -> None:
    table = device((1.0,), max_batch=4)
    assert table.quantiles[0][2][0] == round(1.8 * MS)
    assert table.quantiles[0][3][0] == round(2.6 * MS)
    draw = table.drawer(3)
    assert {draw(0, 1) for _ in range(50)} == {MS}


def _offered(rate: float, seconds: float = 0.15, budget_ms: tuple[float, float] = (5.0, 50.0)) -> Offered:
    return offer(arrivals.poisson(rate, seconds, 5), budget_ms, 1000, 5)


@pytest.mark.parametrize("name", policies.names(STAGES))
@pytest.mark.parametrize("rate", [400, 9000])
def test_every_job_of_every_policy_ends_in_exactly_one_outcome(name: str, rate: float) -> None:
    known, table, what = model(), device(), _offered(rate)
    journal = simulate(policies.make(name, known, table), known, table, what, costs=CHARGED)
    figures = score(journal, what, known)
    total = figures.attainment + figures.late + figures.refused + figures.expired
    assert total == pytest.approx(1.0)
    assert sum(figures.mix) == pytest.approx(figures.attainment)
    assert not (journal.refused & (journal.late_mask > 0)).any()


@pytest.mark.parametrize("name", policies.names(STAGES))
def test_the_seed_decides_everything(name: str) -> None:
    known, table, what = model(), device(), _offered(3000, 0.05)
    first, again = (
        simulate(policies.make(name, known, table), known, table, what, seed=9, costs=CHARGED)
        for _ in range(2)
    )
    assert np.array_equal(first.launches, again.launches)
    assert np.array_equal(first.mask, again.mask)


def test_an_unknown_policy_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(policies.UnknownPolicy, match=r"'edf'; there are anytime.*fixed:full"):
        policies.make("edf", model(), device())
    with pytest.raises(policies.UnknownPolicy):
        policies.make("fixed:column9", model(), device())


def test_requests_before_the_settling_time_are_served_but_not_scored() -> None:
    what = offer(np.array([0, 10 * MS, 20 * MS], np.int64), (50, 50), 1000, 0, 0.015)
    figures = score(simulate(Script(), model(), device(), what, costs=FREE), what, model())
    assert figures.offered == 1


def test_the_deepest_rung_is_the_highest_bit() -> None:
    assert deepest_rung(np.array([0, 1, 2, 3, 4, 5, 255], np.uint16)).tolist() == [-1, 0, 1, 1, 2, 2, 7]
