"""What the answer says of the scheduler's decisions, when it is asked."""

from __future__ import annotations

from typing import Any

from server.answers import Answer, answer
from server.jobs import Job
from server.messages import Considered, Decision, Done, Refinement, decode, encode
from tests.server.parts import MS, Parts

FIRST = Decision(2 * MS, [Considered("tiny@1", "column1", 4, 2.4, 300_000, 600_000)], 0, "because", True)
LAST = Decision(3 * MS, [], -1, "nothing", False)


def asked(explain: bool) -> tuple[Parts, Job]:
    parts = Parts()
    parts.engine_is_ready()
    job = parts.job(40 * MS)
    job.explain = explain
    job.top_k = 1
    return parts, job


def told(job: Job) -> dict[str, Any]:
    return answer(
        job, job.refinements[-1], job.stages, job.ended, request_id="r", budget_ms=40.0, elapsed_ns=5 * MS
    )


def test_decisions_of_all_messages_are_in_the_answer_in_order() -> None:
    parts, job = asked(explain=True)
    parts.jobs.refinement(Refinement(job.number, 0, [(0, 0.5)], (0, 0.5), 0, 0, None, [FIRST]))
    parts.jobs.done(Done(job.number, "overload", 0, [LAST]))
    body = Answer.model_validate(told(job))
    assert body.debug is not None
    first, last = body.debug.decisions
    assert (first.after_ms, first.chosen, first.why, first.included) == (2.0, 0, "because", True)
    launch = first.considered[0]
    assert (launch.model, launch.stage, launch.batch, launch.gain) == ("tiny@1", "column1", 4, 2.4)
    assert (launch.expected_ms, launch.promised_ms) == (0.3, 0.6)
    assert (last.considered, last.chosen, last.included) == ([], None, False)


def test_who_does_not_ask_gets_no_such_field() -> None:
    parts, job = asked(explain=False)
    parts.jobs.refinement(Refinement(job.number, 0, [(0, 0.5)], (0, 0.5), 0, 0, "deepest"))
    assert "debug" not in told(job)


def test_decisions_travel() -> None:
    message = Refinement(7, 1, [(0, 0.5)], (0, 0.5), 1, 2, None, [FIRST, LAST])
    assert decode(encode(9, [message])).messages == [message]
