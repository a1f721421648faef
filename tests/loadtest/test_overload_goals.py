"""The goals under load follow from rows made by hand; and what a recording says of a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.overload.bench import loads_by_best_stage, of_stages, within_ms
from loadtest.overload.goals import Goal, goals, table
from loadtest.overload.hindsight import Hindsight, open_hindsight
from loadtest.overload.rows import Load, Row
from loadtest.records import Outcome
from loadtest.summary import Share, Spread, summarise
from tests.loadtest.simulator.worlds import device, model
from tests.loadtest.test_summary import run_of
from tests.models import publish_tiny_model

RUN = run_of([(Outcome.ANSWERED, 20, 1, 1, 1)] * 40)
EARLY = Spread(-20, -5, -1, -1)
ON_TIME: dict[str, Any] = {"attainment": 1.0, "lateness_ms": EARLY, "outside_stalls": Share(40, 1.0, 0.9)}


def row(load: Load, accuracy: float, **changes: Any) -> Row:
    fields = {"pinned": changes.pop("pinned", ""), "deepest": 0.91, "bound": 0.9}
    fields["refused_within_ms"] = changes.pop("refused_within_ms", 0.5)
    summary = replace(summarise(RUN), rate=load.rate, effective_accuracy=accuracy, **(ON_TIME | changes))
    return Row(load, 1, 0, summary, {"frontends": 300.0}, **fields)


def load_of(multiple: float) -> Load:
    return Load(multiple, 300 * multiple, False, multiple)


BELOW, AT, ABOVE = (Load(m, 2000 * m, False, 7 * m, of_ceiling=True) for m in (0.8, 1.0, 1.5))
REFUSING = row(BELOW, 0.85, refusal_ms=Spread(1, 4, 9, 9))
GOOD = {
    "rows": [row(load_of(m), a) for m, a in ((0.5, 0.909), (1.5, 0.9), (3.0, 0.89))],
    "fixed": [row(load_of(m), 0.85, pinned="column1") for m in (0.5, 1.5, 3.0)],
    "beyond": [row(AT, 0.4), row(ABOVE, 0.25, attainment=0.3)],
    "tight": [row(load_of(0.5), 0.9)],
    "refusals": [REFUSING],
}


def missed(**changes: list[Row]) -> list[Goal]:
    return [goal for goal in goals(**(GOOD | changes)) if not goal.reached]


def test_all_goals_are_reached_by_what_reaches_them() -> None:
    assert missed() == []
    assert "**no**" not in table(goals(**GOOD))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"rows": [row(load_of(0.5), 0.909), row(load_of(1.5), 0.9, attainment=0.99), *GOOD["rows"][2:]]},
            "1.5×",
        ),
        ({"rows": [row(load_of(0.5), 0.9), *GOOD["rows"][1:]]}, "0.5×: accuracy"),
        ({"rows": [*GOOD["rows"][:2], row(load_of(3.0), 0.87)]}, "bound U2"),
        ({"rows": [*GOOD["rows"][:2], row(load_of(3.0), 0.89, lateness_ms=Spread(0, 0, 1, 1))]}, "lateness"),
        ({"fixed": [row(load_of(1.5), 0.895, pinned="full")]}, "best fixed stage"),
        ({"beyond": [row(AT, 0.4), row(ABOVE, 0.2)]}, "right answers in time a second"),
        ({"beyond": [row(AT, 0.4), row(ABOVE, 0.25, timed_out=0.1)]}, "hang"),
        ({"tight": [row(load_of(0.5), 0.9, outside_stalls=Share(40, 0.99, 0.9))]}, "10 ms"),
        ({"tight": [row(load_of(0.5), 0.9, outside_stalls=None)]}, "10 ms"),
        ({"refusals": [row(BELOW, 0.85, refusal_ms=Spread(1, 6, 9, 9))]}, "refusals at the client"),
        ({"refusals": [REFUSING, replace(REFUSING, refused_within_ms=2.0)]}, "refusals in the server"),
        ({"refusals": [REFUSING, replace(REFUSING, refused_within_ms=None)]}, "refusals in the server"),
    ],
)
def test_each_goal_can_be_missed(changes: dict[str, list[Row]], what: str) -> None:
    (goal,) = missed(**changes)
    assert what in goal.what


def test_the_best_fixed_stage_is_judged_with_every_seed_and_its_error_told() -> None:
    def seeded(pinned: str, accuracies: dict[int, float]) -> list[Row]:
        flags = {seed: np.arange(1000) < 1000 * accuracy for seed, accuracy in accuracies.items()}
        return [
            replace(row(load_of(1.5), accuracy, pinned=pinned), seed=seed, right=flags[seed])
            for seed, accuracy in accuracies.items()
        ]

    fixed = seeded("full", {1: 0.88, 2: 0.86})
    (line,) = (
        goal for goal in goals(seeded("", {1: 0.89, 2: 0.9}), fixed, [], [], []) if "fixed" in goal.what
    )
    assert line.measured == "+2.50 points ± 0.35 (89.50 %; full 87.00 %)"
    assert line.reached


def test_the_survey_names_the_best_stages_of_each_load_whatever_the_rate_is_now() -> None:
    survey = [
        *(
            row(load_of(0.5), accuracy, pinned=stage)
            for stage, accuracy in (("column1", 0.8), ("joined", 0.898), ("full", 0.9))
        ),
        *(row(load_of(3.0), accuracy, pinned=stage) for stage, accuracy in (("column1", 0.8), ("full", 0.1))),
    ]
    best = loads_by_best_stage(survey)
    assert best == {"joined": [load_of(0.5)], "full": [load_of(0.5)], "column1": [load_of(3.0)]}
    now = [Load(0.5, 111, False, 0.5), Load(3.0, 666, True, 2.8)]
    rates = {stage: [load.rate for load in loads] for stage, loads in of_stages(best, now).items()}
    assert rates == {"joined": [111], "full": [111], "column1": [666]}


def test_a_histogram_tells_the_bound_below_which_nearly_all_lies() -> None:
    before = {0.001: 5.0, 0.002: 5.0, math.inf: 5.0}
    after = {0.001: 15.0, 0.002: 1005.0, math.inf: 1005.0}
    assert within_ms(before, after) == 2.0
    assert within_ms({}, {0.001: 990.0, 0.002: 1000.0, math.inf: 1000.0}) == 1.0
    assert within_ms({}, {0.001: 980.0, 0.002: 980.0, math.inf: 1000.0}) == math.inf
    assert within_ms(after, after) is None
    assert within_ms({}, {}) is None


def test_what_was_not_measured_is_not_reached() -> None:
    assert all(not goal.reached for goal in goals([], [], [], [], []))


def test_a_run_s_bound_falls_with_what_the_front_end_takes_of_the_core() -> None:
    seen = Hindsight(model(), device())
    records = RUN.records.copy()
    records["image"] = np.arange(len(records)) % seen.model.images
    free, half, none = (seen.bound(records, us) for us in (0.0, 9_600.0, 1e6))
    assert 1 >= free > half > none == 0
    assert seen.deepest(records) == seen.model.right[-1][records["image"]].mean()


def test_without_a_recording_of_the_model_there_is_no_hindsight(tmp_path: Path) -> None:

    publish_tiny_model(tmp_path)
    assert open_hindsight(tmp_path, "tiny") is None
