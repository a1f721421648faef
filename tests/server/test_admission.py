"""The door: who gets a permit, who is told what, and that permits are neither lost nor forged."""

from __future__ import annotations

import pytest

from server.admission import Door
from server.errors import Draining, EngineLost, Infeasible, NotReady, Overloaded, OverShare, StagesFailed
from server.fairness import Shares
from server.messages import Heartbeat, ServedModel, StageLatency
from tests.server.parts import MS, SECOND, Parts


@pytest.fixture
def parts() -> Parts:
    parts = Parts()
    parts.engine_is_ready()
    return parts


def test_it_knows_how_many_asked_and_the_tightest_budget_also_of_those_that_were_refused(
    parts: Parts,
) -> None:
    parts.door.enter(parts.model, 0, 50 * MS)
    with pytest.raises(Infeasible):
        parts.door.enter(parts.model, 0, 2 * MS)
    assert (parts.door.asked, parts.door.tightest_ns) == (2, 2 * MS)


def test_a_permit_is_counted_until_it_is_released(parts: Parts) -> None:
    permit = parts.door.admit(parts.model, 0, SECOND)
    assert parts.door.in_work == 1
    permit.release()
    assert parts.door.in_work == 0


def test_a_permit_cannot_be_released_twice(parts: Parts) -> None:
    permit = parts.door.admit(parts.model, 0, SECOND)
    permit.release()
    with pytest.raises(RuntimeError):
        permit.release()
    assert parts.door.in_work == 0


def test_checking_takes_nothing(parts: Parts) -> None:
    parts.door.check(parts.model, 0, SECOND)
    assert parts.door.in_work == 0


def test_no_more_than_the_setting_are_let_in(parts: Parts) -> None:
    permits = [parts.door.admit(parts.model, 0, SECOND) for _ in range(10)]
    with pytest.raises(Overloaded):
        parts.door.admit(parts.model, 0, SECOND)
    permits[0].release()
    parts.door.admit(parts.model, 0, SECOND)


def test_no_more_than_the_engine_s_credit_are_let_in(parts: Parts) -> None:
    parts.engine_is_ready(jobs=1)
    parts.door.admit(parts.model, 0, SECOND)
    with pytest.raises(Overloaded):
        parts.door.admit(parts.model, 0, SECOND)


def test_a_deadline_before_the_first_answer_plus_the_guard_is_infeasible(parts: Parts) -> None:
    parts.engine_is_ready(first_ns=10 * MS)
    parts.clock.now = 5 * MS  # of the request's time has passed at the front end
    with pytest.raises(Infeasible) as refusal:
        parts.door.admit(parts.model, 0, 17 * MS)
    assert refusal.value.extra["smallest_feasible_deadline_ms"] == 17.0
    parts.door.admit(parts.model, 0, 17 * MS + 1)


def test_the_front_end_s_own_lag_is_taken_off(parts: Parts) -> None:
    parts.door.check(parts.model, 0, 10 * MS)
    for _ in range(20):
        parts.lag.ticked(8 * MS)
    with pytest.raises(Infeasible):
        parts.door.check(parts.model, 0, 10 * MS)


def test_a_draining_service_lets_nobody_in(parts: Parts) -> None:
    parts.door.draining = True
    with pytest.raises(Draining):
        parts.door.admit(parts.model, 0, SECOND)


def test_a_draining_engine_is_a_draining_service(parts: Parts) -> None:
    parts.view.heartbeat(Heartbeat("draining"), 0)
    with pytest.raises(Draining):
        parts.door.admit(parts.model, 0, 60 * SECOND)


def test_before_any_engine_was_ready_it_is_not_ready() -> None:
    with pytest.raises(NotReady, match="starting"):
        Parts().door.admit(Parts().model, 0, SECOND)


def test_without_an_engine_those_with_time_for_a_restart_are_let_in(parts: Parts) -> None:
    parts.view.lost(0)
    with pytest.raises(EngineLost) as refusal:
        parts.door.admit(parts.model, 0, 3 * SECOND)
    assert dict(refusal.value.headers())[b"retry-after"] == b"3"
    parts.door.admit(parts.model, 0, 4 * SECOND)


def test_a_silent_engine_gets_only_those_with_time(parts: Parts) -> None:
    parts.clock.now = SECOND
    with pytest.raises(EngineLost, match="does not respond"):
        parts.door.admit(parts.model, SECOND, 2 * SECOND)
    parts.door.admit(parts.model, SECOND, 9 * SECOND)


def test_a_model_that_the_engine_does_not_serve_is_refused(parts: Parts) -> None:
    parts.view.models = {}
    with pytest.raises(NotReady, match="tiny@1"):
        parts.door.admit(parts.model, 0, SECOND)


def test_bodies_held_are_bounded(parts: Parts) -> None:
    parts.door.take_bytes(256_000_000)
    with pytest.raises(Overloaded):
        parts.door.take_bytes(1)
    parts.door.give_bytes(256_000_000)
    assert parts.door.body_bytes == 0


def sharing(jobs: int) -> Parts:
    parts = Parts(max_jobs=100)
    parts.engine_is_ready(jobs=jobs)
    parts.door = Door(
        parts.view, parts.lag, lambda: parts.clock.now, max_jobs=100, max_body_bytes=1000, shares=Shares()
    )
    return parts


def test_a_client_that_has_had_its_share_is_refused_while_another_is_wronged() -> None:
    parts = sharing(jobs=8)
    parts.clock.now = SECOND
    let_in = {"greedy": 0, "modest": 0}
    over_share = 0
    for turn in range(400):
        parts.clock.now += 5 * MS
        parts.view.heard(1, parts.clock.now)
        permits = []
        for client in ["greedy"] * 12 + ["modest"]:
            try:
                permits.append(
                    parts.door.admit(parts.model, parts.clock.now, parts.clock.now + SECOND, client)
                )
                let_in[client] += turn >= 100
            except OverShare:
                over_share += 1
                assert client == "greedy"
            except Overloaded:
                continue
        for permit in permits:
            permit.release()
    assert over_share
    assert let_in["modest"] > 0.8 * 300
    assert let_in["greedy"] > let_in["modest"]


def test_a_budget_that_is_too_small_for_an_idle_service_wrongs_nobody() -> None:
    parts = sharing(jobs=8)
    latency = {"column1": [StageLatency(1, MS, 2 * MS)]}
    parts.view.heartbeat(Heartbeat("ready", models=[ServedModel("tiny@1", "fake", latency, [])]), 0)
    for _ in range(200):
        parts.clock.now += 5 * MS
        parts.view.heard(1, parts.clock.now)
        parts.door.admit(parts.model, parts.clock.now, parts.clock.now + SECOND, "patient").release()
        with pytest.raises(Infeasible):
            parts.door.admit(parts.model, parts.clock.now, parts.clock.now + MS // 2, "hasty")


def test_a_model_whose_stages_have_all_failed_is_a_500_and_no_question_of_time(parts: Parts) -> None:
    broken = ServedModel("tiny@1", "fake", {}, ["column1", "column2", "full"])
    parts.view.heartbeat(Heartbeat("ready", models=[broken]), 0)
    with pytest.raises(StagesFailed):
        parts.door.admit(parts.model, 0, SECOND)


def test_above_the_rate_requests_are_not_taken_on_and_the_door_says_so(parts: Parts) -> None:
    parts.throttle.rate = 100.0
    parts.clock.now = 10 * MS
    parts.door.enter(parts.model, 10 * MS, SECOND)
    assert not parts.door.refusing(10 * MS)
    with pytest.raises(Overloaded, match="More requests arrive"):
        parts.door.enter(parts.model, 10 * MS, SECOND)
    assert parts.door.refusing(10 * MS)
    parts.door.check(parts.model, 10 * MS, SECOND)  # whoever has been taken on is not counted again


def test_who_can_wait_is_taken_on_above_the_rate_while_few_are_in_work(parts: Parts) -> None:
    parts.throttle.rate = 100.0
    parts.clock.now = 10 * MS
    patient_ns = 10 * MS + 10 * SECOND
    for _ in range(5):
        parts.door.enter(parts.model, 10 * MS, patient_ns)
    with pytest.raises(Overloaded):
        parts.door.enter(parts.model, 10 * MS, SECOND)
    permits = [parts.door.admit(parts.model, 10 * MS, patient_ns) for _ in range(2)]  # of ten
    with pytest.raises(Overloaded, match="More requests arrive"):
        parts.door.enter(parts.model, 10 * MS, patient_ns)
    permits[0].release()
    parts.door.enter(parts.model, 10 * MS, patient_ns)
