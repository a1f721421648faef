"""A job that asks is told what was decided while it was there; others cost nothing."""

from __future__ import annotations

from server.engine.events import Job, Launch
from server.engine.explaining import BEST, KEPT, MOST, NOTHING, SAVED, Explainer
from server.engine.policy import Arrived, PolicyConfig, Tick, new_state, step
from tests.server.engine.simulation import MS, linear_table, tiny_ladder

RUNGS = {"m": ("a", "b", "c")}


class Scheduler:
    """A policy whose decisions are heard."""

    def __init__(self) -> None:
        models = {"m": (tiny_ladder(3), linear_table([0.1, 1, 5]))}
        self.state = new_state(models, PolicyConfig(guard_ns=0))
        self.explainer = Explainer(RUNGS)

    def arrive(self, key: int, budget_ms: float = 100.0, *, explain: bool = False) -> None:
        step(self.state, Arrived(Job(key, "m", int(budget_ms * MS))), 0)
        if explain:
            self.explainer.watch(key, 0)

    def decide(self, now_ns: int = 0) -> Launch | None:
        explain = self.explainer.hook()
        orders = step(self.state, Tick(), now_ns, explain)[1]
        launch = next((order for order in orders if isinstance(order, Launch)), None)
        if explain is not None:
            self.explainer.note(launch, now_ns)
        return launch


def test_while_nobody_asks_the_policy_has_nobody_to_tell() -> None:
    scheduler = Scheduler()
    scheduler.arrive(1)
    assert scheduler.explainer.hook() is None
    assert scheduler.decide() is not None
    assert scheduler.explainer.take(1) is None


def test_a_decision_names_what_was_considered_and_what_came_of_it() -> None:
    scheduler = Scheduler()
    for key in range(3):
        scheduler.arrive(key, explain=key < 2)
    launch = scheduler.decide(now_ns=2 * MS)
    assert launch is not None
    for key in (0, 1):
        (decision,) = scheduler.explainer.take(key) or []
        assert decision.after_ns == 2 * MS
        assert decision.included == (key in launch.keys)
        chosen = decision.considered[decision.chosen]
        assert (chosen.model, chosen.stage) == ("m", RUNGS["m"][launch.stage])
        assert chosen.batch == len(launch.keys)
        assert (chosen.work_ns, chosen.promised_ns) == (launch.expected_ns, launch.promised_ns)
        assert chosen.gain > 0
    assert scheduler.explainer.take(2) is None


def test_what_was_told_is_not_told_again_and_a_busy_device_decides_nothing() -> None:
    scheduler = Scheduler()
    scheduler.arrive(1, explain=True)
    assert scheduler.decide() is not None
    assert len(scheduler.explainer.take(1) or []) == 1
    assert scheduler.decide() is None
    assert scheduler.explainer.take(1) == []


def test_a_job_that_is_gone_is_forgotten() -> None:
    scheduler = Scheduler()
    scheduler.arrive(1, explain=True)
    scheduler.explainer.forget(1)
    assert scheduler.explainer.hook() is None
    assert scheduler.explainer.take(1) is None


def heard(explainer: Explainer, found: list, chosen: object) -> None:
    hook = explainer.hook()
    assert hook is not None
    hook(found, chosen)  # type: ignore[arg-type]
    explainer.note(None, 5)


def test_the_reasons_and_the_bound_on_what_is_kept() -> None:
    from server.engine.launches import Candidate

    explainer = Explainer(RUNGS)
    explainer.watch(1, 0)
    small, large = Candidate(1.0, 10, 12, "m", 0, count=1), Candidate(1.5, 20, 24, "m", 1, count=2)
    heard(explainer, [small, large], small)
    heard(explainer, [small], large)
    heard(explainer, [], None)
    decisions = explainer.take(1) or []
    assert [decision.why for decision in decisions] == [BEST, SAVED, NOTHING]
    assert [decision.chosen for decision in decisions] == [0, 1, -1]
    for _ in range(3 * KEPT):
        heard(explainer, [small], small)
    assert len(explainer.take(1) or []) == KEPT


def test_no_more_than_so_many_are_watched_at_a_time() -> None:
    scheduler = Scheduler()
    for key in range(MOST + 1):
        scheduler.arrive(key, explain=True)
    scheduler.decide()
    assert scheduler.explainer.take(MOST - 1)
    assert scheduler.explainer.take(MOST) is None
    scheduler.explainer.forget(0)
    scheduler.explainer.watch(MOST, 0)
    assert scheduler.explainer.take(MOST) == []
