"""Each baseline does what it is known for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from loadtest.simulator.baselines.clipper import Clipper
from loadtest.simulator.baselines.clockwork import Clockwork
from loadtest.simulator.baselines.fixed import Fixed
from loadtest.simulator.baselines.proteus import Proteus
from loadtest.simulator.baselines.rtdeepiot import Option, RTDeepIoT, planned
from loadtest.simulator.baselines.slackfit import Choice, SlackFit, bucketed
from loadtest.simulator.ours import Ours, without_confidence
from loadtest.simulator.scheduler import Instruction, Scheduler
from loadtest.simulator.world import Costs, simulate
from server.engine.policy import Arrived, Finish, Job, Launch, LaunchDone, Reject, Tick, WaitUntil

from .worlds import MS, STAGES, at, device, model

COSTS = Costs(inbound_ns=0, outbound_ns=0, decision_ns=0)


def told(scheduler: Scheduler, deadlines_ms: Sequence[float]) -> list[Instruction]:
    """Jobs with those deadlines arrive at 0; what is answered to them."""
    orders: list[Instruction] = []
    for key, deadline in enumerate(deadlines_ms):
        orders += scheduler.step(Arrived(Job(key, "m", round(deadline * MS))), 0)
    return orders


def launch_of(orders: Sequence[Instruction]) -> Launch:
    found = [order for order in orders if isinstance(order, Launch)]
    assert len(found) == 1
    return found[0]


def test_fixed_runs_the_earliest_deadlines_in_the_largest_batch_they_bear() -> None:
    scheduler = Fixed(model(), device(), 0)
    told(scheduler, [30, 10, 20, 40])
    assert launch_of(scheduler.step(Tick(), 0)).keys == (1, 2, 0, 3)
    tight = Fixed(model(), device(), 2)
    told(tight, [5, 60, 70, 80])
    assert launch_of(tight.step(Tick(), 0)).keys == (0, 1, 2)


def test_fixed_drops_whom_even_a_launch_of_his_own_would_not_save() -> None:
    scheduler = Fixed(model(), device(), 2)
    told(scheduler, [1.0, 60])
    orders = scheduler.step(Tick(), 0)
    assert Finish(0, "expired") in orders
    assert launch_of(orders).keys == (1,)


def test_fixed_lets_the_most_urgent_go_where_not_all_can_be_served() -> None:
    cheap_batches = device((2.0,), batch_share=0.05)
    scheduler = Fixed(model(stages=("column1",)), cheap_batches, 0)
    told(scheduler, [4.0, *[4.3] * 30, *[30.0] * 8])
    launch = launch_of(scheduler.step(Tick(), 0))
    assert len(launch.keys) >= 4


def test_clipper_grows_its_batch_by_one_and_cuts_it_by_a_tenth() -> None:
    scheduler = Clipper(model(), device(), 0)
    told(scheduler, [50] * 10)
    sizes = []
    for _ in range(3):
        launch = launch_of(scheduler.step(Tick(), 0))
        sizes.append(len(launch.keys))
        scheduler.step(LaunchDone(launch, (0.5,) * len(launch.keys), MS), 0)
    assert sizes == [1, 2, 3]
    assert scheduler.allowed == 4.0
    launch = launch_of(scheduler.step(Tick(), 0))
    scheduler.step(LaunchDone(launch, (0.5,) * len(launch.keys), 60 * MS), 0)
    assert scheduler.allowed == pytest.approx(3.6)


def test_clipper_serves_in_order_of_arrival_and_drops_nobody() -> None:
    scheduler = Clipper(model(), device(), 2)
    told(scheduler, [50, 0.1])
    assert launch_of(scheduler.step(Tick(), 0)).keys == (0,)
    what = at([0.0] * 40, 5)
    journal = simulate(Clipper(model(), device(), 2), model(), device(), what, costs=COSTS)
    assert (journal.late_mask > 0).all()


def test_clockwork_refuses_on_arrival_what_it_could_not_finish() -> None:
    scheduler = Clockwork(model(), device(), 2)
    assert told(scheduler, [1.0]) == [Reject(0, 0)]
    # 8 take 7.9 ms, so that of 40 with 20 ms the last could not be in time.
    orders = told(Clockwork(model(), device(), 2), [20] * 40)
    refused = [order for order in orders if isinstance(order, Reject)]
    assert 10 < len(refused) < 40


def test_clockwork_starts_no_work_that_cannot_finish() -> None:
    what = at([0.0] * 60, 12)
    journal = simulate(Clockwork(model(), device(), 2), model(), device(), what, costs=COSTS)
    assert (journal.late_mask == journal.mask).all()
    assert (journal.mask > 0).any()


def test_clockwork_predicts_the_worst_of_what_it_has_seen_lately() -> None:
    scheduler = Clockwork(model(), device(), 0)
    told(scheduler, [50])
    launch = launch_of(scheduler.step(Tick(), 0))
    scheduler.step(LaunchDone(launch, (0.5,), 40 * MS), 0)
    assert scheduler.step(Arrived(Job(9, "m", 30 * MS)), 0) == (Reject(9, 0),)


def test_slackfit_keeps_the_largest_batch_of_a_bucket_and_among_equals_the_most_accurate() -> None:
    choices = [Choice(0, 1, 100), Choice(0, 8, 190), Choice(1, 2, 150), Choice(1, 8, 195), Choice(2, 8, 300)]
    assert bucketed(choices, [0.7, 0.8, 0.9], 2) == [Choice(1, 8, 195), Choice(2, 8, 300)]


def test_slackfit_goes_deep_with_much_slack_and_shallow_with_little() -> None:
    stages = []
    for budget in (60, 4, 1.2):
        scheduler = SlackFit(model(), device())
        told(scheduler, [budget])
        stages.append(launch_of(scheduler.step(Tick(), 0)).stage)
    assert stages[0] == 2
    assert stages == sorted(stages, reverse=True)
    assert stages[-1] == 0


def test_proteus_waits_for_company_as_long_as_the_first_deadline_allows() -> None:
    scheduler = Proteus(model(), device())
    told(scheduler, [50])
    waits = [order for order in scheduler.step(Tick(), 0) if isinstance(order, WaitUntil)]
    assert len(waits) == 1
    assert waits[0].at_ns is not None
    assert 40 * MS < waits[0].at_ns < 50 * MS
    assert launch_of(scheduler.step(Tick(), waits[0].at_ns)).keys == (0,)


def test_proteus_takes_a_shallower_rung_when_the_demand_grows() -> None:
    rare, often = at([k * 10.0 for k in range(40)], 50), at([k * 0.3 for k in range(1500)], 50)
    known, table = model(), device()
    light = simulate(Proteus(known, table), known, table, rare, costs=COSTS)
    heavy = simulate(Proteus(known, table), known, table, often, costs=COSTS)
    assert set(light.launches[:, 2].tolist()) == {2}
    assert heavy.launches[-1, 2] < 2


def test_rtdeepiot_plans_the_largest_total_reward_in_the_time_there_is() -> None:
    options = [Option(0, 35, 1.0), Option(2, 45, 5.0)]
    assert planned([options, options], [20.0, 20.0]) == [2, 2]
    # Time for one deep and one shallow: it matters little who goes deep, not that somebody does.
    assert sorted(planned([options, options], [7.0, 7.0])) == [0, 2]
    assert planned([options, options], [1.5, 2.5]) == [0, 0]
    assert planned([options, options], [0.5, 2.5]) == [-1, 0]
    assert planned([], []) == []


def test_rtdeepiot_plans_as_well_as_trying_everything() -> None:
    random = np.random.default_rng(4)
    for _ in range(20):
        options = [
            [Option(k, int(random.integers(1, 9)), float(random.uniform(1, 5))) for k in range(2)]
            for _ in range(4)
        ]
        rooms = sorted(random.uniform(1, 12, 4).tolist())
        assert _reward(options, planned(options, rooms), rooms) == _best_reward(options, rooms)


def _reward(options: list[list[Option]], chosen: Sequence[int], rooms: Sequence[float]) -> int:
    """-1 where a job ends after its time."""
    now, total = 0.0, 0
    for own, stage, room in zip(options, chosen, rooms, strict=True):
        if stage >= 0:
            now += own[stage].cost_ns
            total += own[stage].quanta
            if now > room:
                return -1
    return total


def _best_reward(options: list[list[Option]], rooms: Sequence[float]) -> int:
    grid = np.stack(np.meshgrid(*[[-1, 0, 1]] * len(options)), axis=-1).reshape(-1, len(options))
    return max(_reward(options, row, rooms) for row in grid.tolist())


def test_rtdeepiot_deepens_answered_jobs() -> None:
    known, table = model(), device()
    journal = simulate(RTDeepIoT(known, table), known, table, at([0.0] * 6, 7), costs=COSTS)
    assert (journal.mask > 0).all()


def test_without_confidence_a_pool_counts_for_no_more_than_its_best_rung_unless_it_surely_is() -> None:
    """Calibration images cannot tell 0.4 points; 1 point they can."""
    measured = dict(model().accuracies)
    measured["column1,full"], measured["column1,joined2"] = 0.904, 0.81
    gains = without_confidence(replace(model(), accuracies=measured)).gains
    assert gains["column1"] == {"joined2": pytest.approx((0.11,)), "full": pytest.approx((0.2,))}
    assert gains["full"]["column1"] == pytest.approx((0.0,))


def test_ours_without_confidence_does_not_look_at_the_image() -> None:
    known = without_confidence(model())
    assert known.gain_bin_edges == (0.0, 1.0)
    assert known.gains["column1"]["full"] == pytest.approx((0.2,))
    assert set(known.gains["column1,joined2"]) == {"full"}
    table = device()
    journal = simulate(Ours.blind(model(), table), known, table, at([0.0, 1.0], 50), costs=COSTS)
    assert (journal.mask > 0).all()
    assert known.stages == STAGES
