"""What a replay heard, as rows: what a front end would have answered."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.records import NEVER, STOP_REASONS, Outcome, Run
from loadtest.replay.bench import Heard, ReplayPlan
from loadtest.replay.rows import punctuality, to_run
from loadtest.summary import in_time, latency_ms, right, summarise
from server.messages import Done, Refinement

MS = 1_000_000
START = 7_000 * MS
STAGES = ("column1", "column2", "full")


def plan(count: int = 1, budget_ms: int = 50) -> ReplayPlan:
    """One arrival every 10 ms, each of another image."""
    return ReplayPlan(
        "tiny@1",
        np.arange(count, dtype=np.int64) * 10 * MS,
        np.full(count, budget_ms * MS, dtype=np.int64),
        np.arange(count, dtype=np.int32),
        tuple(b"pixels" for _ in range(count)),
        count / 100,
    )


def refined(number: int, stage: int, index: int, final: str | None = None) -> Refinement:
    return Refinement(number, stage, [(index, 0.7)], (index, 0.7), 2 * MS, 3 * MS, final)


def rows(*messages: tuple[float, Refinement | Done], count: int = 1, late_ms: float = 0.0) -> Run:
    """Of messages given with their milliseconds from the start."""
    this = plan(count)
    picked = [START + int(at + late_ms * MS) for at in this.arrivals_ns]
    heard = Heard(START, picked, picked, [(START + int(at * MS), message) for at, message in messages], 0)
    return to_run(this, heard, np.full(count, 3, dtype=np.int16), STAGES)


def test_a_final_refinement_is_the_answer_at_once() -> None:
    run = rows((4, refined(0, 0, 1)), (9, refined(0, 2, 3, "deepest")))
    (row,) = run.records
    assert (row["outcome"], row["index"], row["stage"], row["stages_run"]) == (Outcome.ANSWERED, 3, 2, 0b101)
    assert (row["done_ns"], row["first_byte_ns"]) == (9 * MS, 4 * MS)
    assert row["complete"]
    assert STOP_REASONS[row["stop_reason"]] == "deepest"
    assert (row["queue_ms"], row["compute_ms"]) == (2.0, 3.0)
    assert in_time(run.records).all()
    assert right(run.records).all()


def test_without_an_end_the_clock_answers_with_what_was_here_by_then() -> None:
    run = rows((4, refined(0, 0, 1)), (51, refined(0, 2, 3, "deepest")))
    (row,) = run.records
    assert (row["index"], row["stages_run"], row["done_ns"]) == (1, 0b1, 50 * MS)
    assert (STOP_REASONS[row["stop_reason"]], bool(row["complete"])) == ("deadline", False)
    assert in_time(run.records).all()
    assert not right(run.records).any()


def test_a_first_refinement_after_the_deadline_is_an_answer_that_is_late() -> None:
    run = rows((53, refined(0, 0, 3)), (60, refined(0, 2, 1, "deepest")))
    (row,) = run.records
    assert (row["outcome"], row["index"], row["done_ns"]) == (Outcome.ANSWERED, 3, 53 * MS)
    assert not in_time(run.records).any()
    assert latency_ms(run.records) == pytest.approx([53.0])
    assert summarise(run).late == 1.0


def test_an_end_without_another_stage_answers_with_what_there_is() -> None:
    (row,) = rows((4, refined(0, 1, 3)), (6, Done(0, "overload"))).records
    assert (row["outcome"], row["done_ns"]) == (Outcome.ANSWERED, 6 * MS)
    assert STOP_REASONS[row["stop_reason"]] == "overload"


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [("rejected", Outcome.REFUSED), ("expired", Outcome.UNANSWERED), ("stage_failed", Outcome.UNANSWERED)],
)
def test_an_end_with_nothing_is_a_refusal_or_no_answer(reason: str, outcome: Outcome) -> None:
    (row,) = rows((1, Done(0, reason))).records
    assert row["outcome"] == outcome
    assert row["index"] == -1


def test_what_was_never_heard_of_has_timed_out() -> None:
    run = rows((12, refined(1, 0, 3, "no_gain")), count=2)
    assert run.records["outcome"].tolist() == [Outcome.TIMED_OUT, Outcome.ANSWERED]
    assert run.records["done_ns"][0] == NEVER
    assert summarise(run).attainment == 0.5


NO_STALLS = np.zeros((0, 2), np.int64)


def test_a_generator_that_was_late_is_told() -> None:
    assert punctuality(rows(count=100, late_ms=0.1).records, NO_STALLS).kept_time
    assert not punctuality(rows(count=100, late_ms=0.3).records, NO_STALLS).kept_time
    assert punctuality(rows(count=0).records, NO_STALLS).kept_time


def test_a_generator_is_late_where_its_core_was_away_and_that_is_not_its_fault() -> None:
    run = rows(count=200)
    run.records["picked_ns"][7] += 2 * MS  # one in two hundred
    stall = np.array([[70 * MS, 72 * MS]])
    late = punctuality(run.records, stall)
    assert late.kept_time
    assert (late.all_ms, late.outside_ms, late.in_stalls) == (2.0, 0.0, 0.005)
    assert not punctuality(run.records, stall + 20 * MS).kept_time  # at another time
    run.records["picked_ns"][8:11] += 2 * MS
    stalls = np.array([[70 * MS, 112 * MS]])
    assert punctuality(run.records, stalls).outside_ms == 0.0
    assert not punctuality(run.records, stalls).kept_time  # 2 % are too many


def test_a_job_that_was_never_sent_is_infinitely_late() -> None:
    run = rows(count=100)
    run.records["picked_ns"][99] = NEVER
    assert not punctuality(run.records, NO_STALLS).kept_time
