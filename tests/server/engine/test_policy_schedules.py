"""The policy under whatever may happen, step by step: several models, streams, faults, an erratic device and clock.

Every run plays a few hundred schedules; `ANYTIME_SCHEDULES=100000 pytest tests/server/engine/test_policy_schedules.py`
plays as many as that variable says.
"""

from __future__ import annotations

import os
from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from server.engine.events import Job, Launch
from server.engine.policy import PolicyConfig, Pressed
from tests.server.engine.simulation import MS, Device, linear_table, tiny_ladder

SCHEDULES = int(os.environ.get("ANYTIME_SCHEDULES", "200"))
GUARD_NS = 200_000
RUNGS = {"one": 1, "two": 2, "three": 3}
HOUR_NS = 3_600_000 * MS

models = st.sampled_from(list(RUNGS))
budgets_ms = st.one_of(st.floats(0.01, 2), st.floats(2, 60), st.floats(60, 10_000))
confidences = st.sampled_from([1.0, 1.0, 0.0, 0.5, 0.9])
factors = st.sampled_from([0.3, 0.9, 1.0, 1.0, 1.0, 1.5, 10.0, 200.0])


class FailingDevice(Device):
    """Remembers the launch in which a stage has failed first."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.failed_in: dict[tuple[str, int], int] = {}

    def _finish(self, launch: Launch) -> None:
        if (launch.model, launch.stage) in self.fails:
            self.failed_in.setdefault((launch.model, launch.stage), launch.number)
        super()._finish(launch)


class Schedules(RuleBasedStateMachine):
    """One device for all models; whatever the rules do, the invariants hold and every job ends once."""

    @initialize(
        costs=st.tuples(st.floats(0.01, 0.5), st.floats(0.1, 2), st.floats(0.5, 12), st.floats(0, 0.5)),
        gains=st.tuples(*[st.floats(-0.1, 0.4)] * 4),
        max_batch=st.sampled_from([1, 4, 32]),
        seed=st.integers(0, 100),
    )
    def begin(self, costs, gains, max_batch, seed) -> None:
        self.factors = [1.0]
        self.keys = 0
        self.seen = 0
        self.device = FailingDevice(
            {
                name: (
                    tiny_ladder(rungs, gains),
                    linear_table(costs[:rungs], max_batch=max_batch, launch_ms=costs[3]),
                )
                for name, rungs in RUNGS.items()
            },
            PolicyConfig(max_batch=max_batch, guard_ns=GUARD_NS),
            confidence=lambda key, stage: (key * 31 + stage * 17 + seed) % 101 / 100,
            duration=self._duration,
        )

    def _duration(self, launch: Launch) -> int:
        return int(launch.expected_ns * self.factors[launch.number % len(self.factors)])

    def _arrive(self, model, budget_ms, min_confidence=1.0, every_stage=False) -> None:
        self.keys += 1
        deadline_ns = self.device.now + int(budget_ms * MS)
        self.device.arrive(Job(self.keys, model, deadline_ns, min_confidence, every_stage))

    @rule(model=models, budget_ms=budgets_ms, min_confidence=confidences, stream=st.booleans())
    def one_comes(self, model, budget_ms, min_confidence, stream) -> None:
        self._arrive(model, budget_ms, min_confidence, stream)

    @rule(model=models, count=st.integers(2, 40), budget_ms=budgets_ms, spread=st.floats(0, 2))
    def many_come(self, model, count, budget_ms, spread) -> None:
        for number in range(count):
            self._arrive(model, budget_ms * (1 + spread * number / count))

    @rule(model=models, count=st.integers(1, 8), budget_ms=st.floats(0.5, 200))
    def streams_come(self, model, count, budget_ms) -> None:
        for _ in range(count):
            self._arrive(model, budget_ms, every_stage=True)

    @rule(budget_ms=budgets_ms)
    def one_comes_for_a_model_that_is_not_here(self, budget_ms) -> None:
        self._arrive("unknown", budget_ms)

    @rule(budget_ms=st.floats(-1000, 0))
    def one_comes_too_late(self, budget_ms) -> None:
        self._arrive("three", budget_ms)

    @precondition(lambda self: self.keys)
    @rule(data=st.data())
    def one_comes_twice(self, data) -> None:
        key = data.draw(st.integers(1, self.keys))
        if key in self.device.state.jobs:
            self.device.arrive(self.device.jobs[key])

    @rule(ms=st.one_of(st.floats(0, 4), st.floats(4, 400)))
    def time_passes(self, ms) -> None:
        self.device.run(self.device.now + int(ms * MS))

    @rule()
    def the_engine_turns(self) -> None:
        if self.device.running is None:
            self.device.tick()

    @precondition(lambda self: self.keys)
    @rule(data=st.data())
    def one_leaves(self, data) -> None:
        self.device.cancel(data.draw(st.integers(1, self.keys + 1)))

    @rule(model=models, stage=st.integers(0, 2))
    def a_stage_breaks(self, model, stage) -> None:
        self.device.fails.add((model, stage))

    @rule(factors=st.lists(factors, min_size=1, max_size=5))
    def the_device_changes(self, factors) -> None:
        self.factors = factors

    @rule(pressed=st.booleans())
    def front_ends_are_short_of_time(self, pressed) -> None:
        self.device.tell(Pressed(pressed))

    @rule(crowded=st.booleans())
    def front_ends_want_the_cores(self, crowded) -> None:
        self.device.crowded = crowded

    @rule(ns=st.sampled_from([50 * MS, 60_000 * MS, HOUR_NS]))
    def the_clock_jumps(self, ns) -> None:
        """As after a suspension: nothing happened meanwhile, and every deadline may have passed."""
        self.device.now += ns
        if self.device.running is not None:
            ends_ns, launch = self.device.running
            self.device.running = max(ends_ns, self.device.now), launch

    @invariant()
    def no_launch_breaks_a_deadline_that_the_table_foresees(self) -> None:
        launches = self.device.launches
        for start_ns, launch in launches[self.seen :]:
            assert len(set(launch.keys)) == len(launch.keys)
            assert 0 < len(launch.keys) <= self.device.state.config.max_batch
            # A stage that has failed is not tried again.
            assert launch.number <= self.device.failed_in.get((launch.model, launch.stage), launch.number)
            for key in launch.keys:
                assert start_ns + launch.promised_ns + GUARD_NS <= self.device.jobs[key].deadline_ns
                assert self.device.jobs[key].model == launch.model
        self.seen = len(launches)

    @invariant()
    def nothing_runs_twice_and_streams_climb(self) -> None:
        for key, stages in self.device.stages.items():
            assert len(set(stages)) == len(stages)
            if self.device.jobs[key].every_stage:
                assert stages == sorted(stages)

    @invariant()
    def every_job_is_in_one_place_or_has_one_outcome(self) -> None:
        state = self.device.state
        places: Counter[int] = Counter()
        for queue in state.models.values():
            places.update(waiting.job.key for waiting in queue.unanswered)
            for group in queue.groups.values():
                assert group.jobs
                places.update(waiting.job.key for waiting in group.jobs)
        if state.outstanding is not None:
            places.update(key for key in state.outstanding.keys if key in state.jobs)
        assert places == Counter(state.jobs.keys())
        for key in self.device.jobs:
            assert len(self.device.outcomes.get(key, [])) == (key not in state.jobs)

    def teardown(self) -> None:
        if not hasattr(self, "device"):
            return
        self.device.crowded = False
        self.device.tell(Pressed(False))
        self.device.drain()
        self.no_launch_breaks_a_deadline_that_the_table_foresees()
        self.nothing_runs_twice_and_streams_climb()
        assert not self.device.state.jobs, "none is forgotten"
        assert set(self.device.outcomes) == set(self.device.jobs)
        assert all(len(outcomes) == 1 for outcomes in self.device.outcomes.values())


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(
    max_examples=SCHEDULES,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)
