"""Figures follow from rows by the words of the design, checked on rows made by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from loadtest.records import NEVER, Outcome, Run, empty_records
from loadtest.stalls import merge, touched
from loadtest.summary import sender_kept_time, spread, summarise
from loadtest.tables import FIGURES, figures_row, markdown

MS = 1_000_000


def run_of(rows: list[tuple[Outcome, float, int, int, int]], **fields: object) -> Run:
    """Rows are (outcome, latency ms, index, label, stage); one every 10 ms, budget 50 ms."""
    records = empty_records(len(rows))
    for k, (outcome, latency, index, label, stage) in enumerate(rows):
        records["intended_ns"][k] = records["picked_ns"][k] = records["sent_ns"][k] = 10 * MS * k
        records["done_ns"][k] = NEVER if math.isinf(latency) else 10 * MS * k + round(latency * MS)
        records["outcome"][k], records["index"][k] = outcome, index
        records["label"][k], records["stage"][k] = label, stage
    records["budget_ns"] = 50 * MS
    return Run(records, len(rows) / 100, 0, ("a", "b"), **fields)  # type: ignore[arg-type]


EVERYTHING = run_of(
    [
        (Outcome.ANSWERED, 20, 1, 1, 1),  # right, in time
        (Outcome.ANSWERED, 50, 1, 1, 0),  # right, on the very last nanosecond
        (Outcome.ANSWERED, 30, 2, 1, 0),  # wrong, in time
        (Outcome.ANSWERED, 50.001, 1, 1, 1),  # right, late
        (Outcome.REFUSED, 2, -1, 1, -1),
        (Outcome.UNANSWERED, 50, -1, 1, -1),
        (Outcome.ERROR, 1, -1, 1, -1),
        (Outcome.TIMED_OUT, math.inf, -1, 1, -1),
        (Outcome.BROKEN, math.inf, -1, 1, -1),
        (Outcome.ERROR, 1, -1, 1, -1),
    ]
)


def test_shares_are_of_all_offered_requests() -> None:
    figures = summarise(EVERYTHING)
    assert figures.offered == 10
    assert figures.rate == pytest.approx(100)
    assert figures.attainment == pytest.approx(0.3)
    assert figures.effective_accuracy == pytest.approx(0.2)
    assert figures.accuracy_in_time == pytest.approx(2 / 3)
    assert (figures.late, figures.refused, figures.unanswered) == pytest.approx((0.1, 0.1, 0.1))
    assert (figures.errors, figures.timed_out, figures.broken) == pytest.approx((0.2, 0.1, 0.1))


def test_every_offered_request_is_counted_once() -> None:
    f = summarise(EVERYTHING)
    parts = (f.attainment, f.late, f.refused, f.unanswered, f.errors, f.timed_out, f.broken)
    assert sum(parts) == pytest.approx(1)


def test_failures_are_infinitely_late_and_refusals_apart() -> None:
    figures = summarise(EVERYTHING)
    # 4 answers and 5 failures, without the refusal: the middle one of 9 is infinite.
    assert figures.latency_ms.p50 == math.inf
    assert figures.latency_ms.max == math.inf
    assert figures.refusal_ms.p99 == pytest.approx(2)


def test_lateness_is_negative_for_the_early() -> None:
    figures = summarise(run_of([(Outcome.ANSWERED, 20, 1, 1, 1)] * 4))
    assert figures.lateness_ms.max == pytest.approx(-30)


def test_the_stage_mix_is_of_the_answered() -> None:
    figures = summarise(EVERYTHING)
    assert figures.stage_mix == {"a": 0.5, "b": 0.5}
    assert figures.accuracy_by_stage == {"a": 0.5, "b": 1.0}


def test_one_infinity_in_a_thousand_shows_only_in_the_maximum() -> None:
    values = np.append(np.arange(1999.0), math.inf)
    assert spread(values).p999 == 1997
    assert spread(values).max == math.inf


def test_the_sender_is_late_when_more_than_one_in_a_thousand_is_over_two_milliseconds() -> None:
    run = run_of([(Outcome.ANSWERED, 20, 1, 1, 1)] * 2000)
    run.records["picked_ns"][:2] += 3 * MS
    assert sender_kept_time(run.records)
    run.records["picked_ns"][2] += 3 * MS
    assert not sender_kept_time(run.records)
    assert not summarise(run).sender_kept_time


def test_figures_outside_stalls_leave_out_who_met_one_however_they_ended() -> None:
    rows = [(Outcome.ANSWERED, 60.0 if k in (0, 19) else 20.0, 1, 1, 1) for k in range(20)]
    stalls = np.array([[45 * MS, 48 * MS]], dtype=np.int64)  # meets the budgets of requests 0 to 4
    run = run_of(rows, stalls_ns=stalls, facts={"meters_trustworthy": True})
    outside = summarise(run).outside_stalls
    assert outside is not None
    assert outside.offered == 15
    assert outside.attainment == pytest.approx(14 / 15)


def test_a_meter_without_priority_excuses_nothing() -> None:
    stalls = np.array([[45 * MS, 48 * MS]], dtype=np.int64)
    run = run_of([(Outcome.ANSWERED, 20, 1, 1, 1)], stalls_ns=stalls, facts={"meters_trustworthy": False})
    assert summarise(run).outside_stalls is None


def test_stalls_merge_and_touch_by_overlap() -> None:
    stalls = merge([(50, 60), (10, 20), (15, 30)])
    assert stalls.tolist() == [[10, 30], [50, 60]]
    begins = np.array([0, 0, 31, 31, 31, 61])
    ends = np.array([9, 10, 49, 50, 100, 99])
    assert touched(begins, ends, stalls).tolist() == [False, True, False, True, True, False]
    assert not touched(begins, ends, merge([])).any()


def test_a_summary_is_json_with_infinities_in_words() -> None:
    plain = summarise(EVERYTHING).to_json()
    assert json.loads(json.dumps(plain, allow_nan=False))["latency_ms"]["max"] == "inf"


def test_a_row_fits_its_table_and_says_when_it_is_void() -> None:
    run = run_of([(Outcome.ANSWERED, 20, 1, 1, 1)] * 10)
    run.records["picked_ns"] += 3 * MS
    row = figures_row("3×", "1", summarise(run), 5)
    assert len(row) == len(FIGURES)
    assert "VOID" in row[0]
    assert "VOID" in markdown(FIGURES, [row])


def test_no_requests_give_figures_without_a_warning() -> None:
    figures = summarise(Run(empty_records(0), 1.0, 0))
    assert figures.offered == 0
    assert math.isnan(figures.attainment)
