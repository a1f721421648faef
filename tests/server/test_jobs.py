"""What ends a job and what is then its outcome, on a manual clock and without sockets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import EngineLost, Infeasible, NothingInTime, StagesFailed
from server.jobs import Job
from server.messages import Cancel, Done, Refinement
from server.messages import Job as JobMessage
from tests.server.parts import MS, SECOND, Parts


@pytest.fixture
def parts() -> Parts:
    parts = Parts()
    parts.engine_is_ready()
    return parts


def finished(job: Job, stage: int, probability: float = 0.5, final: str | None = None) -> Refinement:
    return Refinement(job.number, stage, [(0, probability)], (0, probability), 0, 0, final)


def rings(job: Job) -> int:
    return job.bell.rings  # type: ignore[attr-defined, no-any-return]


def test_a_job_is_sent_with_its_due_time_as_the_engine_s_deadline(parts: Parts) -> None:
    job = parts.job(40 * MS, min_confidence=0.8)
    assert parts.sent == [JobMessage(job.number, "tiny@1", 40 * MS, 0.8, 1, False, b"pixels")]


def test_the_last_refinement_ends_it(parts: Parts) -> None:
    job = parts.job(40 * MS)
    parts.jobs.refinement(finished(job, 0))
    assert (job.ended, rings(job)) == ("", 0)
    parts.jobs.refinement(finished(job, 2, final="deepest"))
    assert (job.ended, job.stages, rings(job), len(parts.jobs), parts.door.in_work) == (
        "deepest",
        0b101,
        1,
        0,
        0,
    )


def test_a_stream_is_told_of_each_refinement(parts: Parts) -> None:
    job = parts.job(40 * MS, every_stage=True)
    parts.jobs.refinement(finished(job, 0))
    parts.jobs.refinement(finished(job, 1))
    assert rings(job) == 2


def test_the_clock_ends_it_with_what_there_is_and_cancels(parts: Parts) -> None:
    job = parts.job(40 * MS)
    parts.jobs.refinement(finished(job, 0))
    parts.clock.move_to(40 * MS - 1)
    assert not job.ended
    parts.clock.move_to(40 * MS)
    assert (job.ended, job.by_clock, job.problem) == ("deadline", True, None)
    assert parts.sent[-1] == Cancel(job.number)


def test_the_clock_without_anything_is_nothing_in_time(parts: Parts) -> None:
    job = parts.job(40 * MS)
    parts.clock.move_to(40 * MS)
    assert isinstance(job.problem, NothingInTime)
    assert parts.door.in_work == 0


def test_a_job_that_is_late_already_is_not_sent(parts: Parts) -> None:
    parts.clock.now = 41 * MS
    job = parts.job(40 * MS)
    assert isinstance(job.problem, NothingInTime)
    assert parts.sent == []


def test_enough_confidence_ends_it_and_cancels(parts: Parts) -> None:
    job = parts.job(40 * MS, min_confidence=0.7)
    parts.jobs.refinement(finished(job, 0, 0.69))
    assert not job.ended
    parts.jobs.refinement(finished(job, 1, 0.7))
    assert job.ended == "confident"
    assert parts.sent[-1] == Cancel(job.number)


def test_certainty_is_not_enough_where_no_confidence_was_asked_for(parts: Parts) -> None:
    job = parts.job(40 * MS)
    parts.jobs.refinement(finished(job, 0, 1.0))
    assert not job.ended


def test_what_comes_after_the_end_is_ignored(parts: Parts) -> None:
    job = parts.job(40 * MS)
    parts.clock.move_to(40 * MS)
    parts.jobs.refinement(finished(job, 0))
    parts.jobs.done(Done(job.number, "deadline"))
    assert (job.refinements, rings(job)) == ([], 1)


@pytest.mark.parametrize("reason", ["no_gain", "deadline", "overload", "stage_failed"])
def test_done_with_something_is_an_answer(parts: Parts, reason: str) -> None:
    job = parts.job(40 * MS)
    parts.jobs.refinement(finished(job, 0))
    parts.jobs.done(Done(job.number, reason))
    assert (job.ended, job.problem) == (reason, None)


@pytest.mark.parametrize(
    ("reason", "problem"),
    [
        ("rejected", Infeasible),
        ("expired", NothingInTime),
        ("stage_failed", StagesFailed),
        ("deadline", NothingInTime),
    ],
)
def test_done_with_nothing_is_a_problem(parts: Parts, reason: str, problem: type) -> None:
    job = parts.job(40 * MS)
    parts.jobs.done(Done(job.number, reason, 20 * MS))
    assert type(job.problem) is problem


def test_a_refusal_adds_the_front_end_s_share_to_the_feasible_budget(parts: Parts) -> None:
    job = parts.job(40 * MS)
    parts.jobs.done(Done(job.number, "rejected", 20 * MS))
    assert job.problem is not None
    assert job.problem.extra["smallest_feasible_deadline_ms"] == 23.0


def test_abandoning_cancels_once(parts: Parts) -> None:
    job = parts.job(40 * MS)
    parts.jobs.abandon(job)
    parts.jobs.abandon(job)
    assert parts.sent[1:] == [Cancel(job.number)]
    assert (job.ended, parts.door.in_work) == ("left", 0)


# The engine comes and goes


def test_when_the_engine_is_lost_something_is_answered_at_once(parts: Parts) -> None:
    job = parts.job(40 * SECOND)
    parts.jobs.refinement(finished(job, 0))
    parts.view.lost(0)
    parts.jobs.engine_lost()
    assert (job.ended, job.problem) == ("engine_lost", None)


def test_when_the_engine_is_lost_nothing_with_no_time_is_refused(parts: Parts) -> None:
    job = parts.job(2 * SECOND)
    parts.view.lost(0)
    parts.jobs.engine_lost()
    assert isinstance(job.problem, EngineLost)


def test_when_the_engine_is_lost_nothing_with_time_is_sent_to_the_next(parts: Parts) -> None:
    job = parts.job(10 * SECOND)
    parts.view.lost(0)
    parts.jobs.engine_lost()
    assert not job.ended
    parts.engine_is_ready(epoch=2)
    parts.jobs.engine_ready()
    assert [message for message in parts.sent if isinstance(message, JobMessage)] == [job.message()] * 2
    parts.jobs.engine_ready()
    assert len(parts.sent) == 2


def test_held_in_vain_is_the_engine_s_loss_not_slowness() -> None:
    parts = Parts()
    job = parts.job(10 * SECOND)
    assert parts.sent == []
    parts.clock.move_to(10 * SECOND)
    assert isinstance(job.problem, EngineLost)
    assert parts.sent == []


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.integers(1, 5000)),
        st.tuples(st.just("refine"), st.integers(0, 40)),
        st.tuples(st.just("final"), st.integers(0, 40)),
        st.tuples(st.just("done"), st.integers(0, 40)),
        st.tuples(st.just("abandon"), st.integers(0, 40)),
        st.tuples(st.just("wait"), st.integers(1, 4000)),
        st.tuples(st.just("lose"), st.just(0)),
        st.tuples(st.just("ready"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(ACTIONS)
def test_whatever_happens_every_job_ends_once_and_gives_its_permit_back(
    actions: list[tuple[str, int]],
) -> None:
    parts = Parts()
    jobs: list[Job] = []
    for action, value in actions:
        job = jobs[value % len(jobs)] if jobs else None
        if action == "start":
            jobs.append(parts.job(parts.clock.now + value * MS))
        elif action == "wait":
            parts.clock.move_to(parts.clock.now + value * MS)
        elif action == "lose":
            parts.view.lost(parts.clock.now)
            parts.jobs.engine_lost()
        elif action == "ready":
            parts.engine_is_ready(parts.view.epoch + 1)
            parts.jobs.engine_ready()
        elif job is not None and action == "abandon":
            parts.jobs.abandon(job)
        elif job is not None and action == "done":
            parts.jobs.done(Done(job.number, "deadline"))
        elif job is not None:
            parts.jobs.refinement(finished(job, 0, final="no_gain" if action == "final" else None))
    parts.clock.move_to(parts.clock.now + 100 * SECOND)
    assert len(parts.jobs) == 0
    assert parts.door.in_work == 0
    for job in jobs:
        assert job.ended
        assert (job.problem is None) == (job.ended != "problem")
        assert job.ended in ("problem", "left") or job.refinements


@pytest.mark.parametrize("left_ms", [40, 1, -1])
@pytest.mark.parametrize(("had_ms", "pressed"), [(50, True), (5, False)])
def test_images_that_had_time_and_got_no_answer_are_told_to_the_throttle(
    had_ms: int, left_ms: int, *, pressed: bool
) -> None:
    """However little of it was left when they were handed over: that is the front end's own doing."""
    parts = Parts(max_jobs=100)
    parts.engine_is_ready()
    parts.throttle.ticked(0, parts.clock.now)
    for now in (50 * MS, 100 * MS):  # those of one tick alone are no sign
        assert not parts.throttle.pressed(now)
        jobs = [parts.job(parts.clock.now + left_ms * MS, had_ns=had_ms * MS) for _ in range(10)]
        parts.clock.move_to(now)
        assert all(isinstance(job.problem, NothingInTime) for job in jobs)
        parts.throttle.ticked(0, now)
    assert parts.throttle.pressed(100 * MS) == pressed
