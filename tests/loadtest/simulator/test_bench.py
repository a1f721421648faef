"""The bench from plan to report on a toy world: goals beside figures, tables, pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from loadtest.simulator import grid, report
from loadtest.simulator.conditions import DEEPEST, LONG, SHALLOWEST, Condition, offered
from loadtest.simulator.findings import Findings
from loadtest.simulator.goals import goals
from loadtest.simulator.limits import U1, U2
from loadtest.simulator.pictures import draw
from loadtest.simulator.recording import Recording
from loadtest.simulator.runs import BOUNDS, Task, run, run_all
from loadtest.simulator.setup import CPU, CPU_RAW, GPU, Setup, capacity
from loadtest.simulator.world import Costs
from model_repo.repository import PublishedModel

from .worlds import STAGES, device, model

SIZE = grid.Size(60, 120, (1, 2), (0.5, 2.0), quick=True)
HEADER = {
    "model": "toy@1",
    "stages": list(STAGES),
    "date": "2026-01-01",
    "backend": "none",
    "clock": "wall",
    "machine": "none",
    "command": "python -m loadtest record",
}


@pytest.fixture(scope="module")
def setup() -> Setup:
    known, table = model(), device()
    capacities = {
        (name, of): rate
        for name in (CPU, CPU_RAW, GPU)
        for of, rate in ((DEEPEST, 900.0), (SHALLOWEST, 5000.0))
    }
    recorded = Recording(HEADER, known.confidence, known.right, {}, {})
    devices = dict.fromkeys((CPU, CPU_RAW, GPU), table)
    costs = Costs(decision_ns=5_000)
    return Setup(cast("PublishedModel", None), recorded, known, devices, capacities, None, costs)


@pytest.fixture(scope="module")
def plan() -> list[grid.Section]:
    chosen = ["anytime", "anytime-blind", "slackfit", "fixed:column1", "fixed:full"]
    every = grid.sections(SIZE, STAGES, trace=False, only=chosen)
    wanted = [section for section in every if section.name in {grid.MAIN, grid.STEP, grid.DEADLINES}]
    return grid.narrowed(wanted, [CPU])


@pytest.fixture(scope="module")
def findings(setup: Setup, plan: list[grid.Section]) -> Findings:
    shown: list[tuple[int, int]] = []
    tasks = grid.tasks_of(plan, SIZE)
    results = run_all(lambda: setup, setup, tasks, 1, lambda _what, done, total: shown.append((done, total)))
    assert shown[-1] == (len(tasks), len(tasks))
    return Findings(results)


def test_the_report_has_goals_and_tables_and_pictures(
    setup: Setup, plan: list[grid.Section], findings: Findings, tmp_path: Path
) -> None:
    reached = goals(findings, plan)
    pictures = draw(findings, plan, STAGES, tmp_path / "scheduling")
    text = report.render("a command", setup, SIZE, plan, findings, reached, pictures, "Charged.")
    assert {path.name for path in tmp_path.iterdir()} == set(pictures)
    assert len(pictures) == 3
    for expected in (
        "a command",
        "against SlackFit",
        "bound U2",
        "fixed:column1",
        "step",
        "synthetic",
        *pictures,
    ):
        assert expected in text
    json.dumps(report.to_json(setup, SIZE, findings, reached))


def test_goals_are_judged_on_the_figures_they_show(findings: Findings, plan: list[grid.Section]) -> None:
    found = {(goal.condition.split(",")[0], goal.reached) for goal in goals(findings, plan)}
    assert ("step 0.5× → 5×", True) in found or ("step 0.5× → 5×", False) in found
    regrets = [goal for goal in goals(findings, plan) if "regret" in goal.wanted]
    assert len(regrets) == len(SIZE.loads)


def test_no_policy_without_confidence_is_above_u1(findings: Findings, plan: list[grid.Section]) -> None:
    for condition in plan[0].conditions:
        for bounds, own in zip(
            findings.of(condition, BOUNDS), findings.scores(condition, "fixed:column1"), strict=True
        ):
            assert bounds.bounds is not None
            # Accuracies of a short run scatter around the mean that the bound is made of.
            assert own.attainment <= bounds.bounds[U1].attainment + 1e-9
            assert bounds.bounds[U2].effective_accuracy >= bounds.bounds[U1].effective_accuracy - 0.05


def test_the_best_of_a_family_is_the_rung_with_most_right_answers(
    findings: Findings, plan: list[grid.Section]
) -> None:
    light = next(condition for condition in plan[0].conditions if condition.multiple == 0.5)
    assert findings.best_of(light, "fixed") == "fixed:full"
    assert findings.best_of(light, "clockwork") == ""


def test_a_trace_condition_without_a_trace_is_refused(setup: Setup) -> None:
    condition = Condition(CPU, "trace-faster", LONG, 1.0, 50)
    with pytest.raises(ValueError, match="--trace"):
        run(setup, Task(condition, "anytime", 1))


@pytest.mark.parametrize("kind", ["poisson", "gamma8", "mmpp2", "ramp"])
def test_arrivals_come_at_the_multiple_of_the_capacity(kind: str) -> None:
    what = offered(Condition(CPU, kind, LONG, 2.0, 20_000), 1000.0, 100, 3)
    assert len(what) == pytest.approx(20_000, rel=0.25)
    assert (what.budgets_ns == 50_000_000).all()


def test_the_capacity_of_a_rung_is_below_what_its_best_batch_could_carry() -> None:
    table = device()
    found = capacity(model(), table, 2, 150)
    ceiling = 1e9 / (table.mean_ns()[2] / range(1, 9)).min()
    assert 0.6 * ceiling < found <= ceiling


def test_a_plan_can_be_narrowed_to_devices_and_names_what_it_keeps() -> None:
    every = grid.sections(replace(SIZE, quick=False), STAGES, trace=True)
    assert {c.kind for s in every for c in s.conditions} >= {
        "mmpp2",
        "ramp",
        "step",
        "trace-copies",
        "gamma2",
    }
    only = grid.narrowed(every, [GPU])
    assert {c.device for s in only for c in s.conditions} == {GPU}
