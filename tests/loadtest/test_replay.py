"""A replay from end to end: the generator, a real engine process, the report. Function, never speed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from loadtest import cli
from loadtest.records import Outcome, load_run
from loadtest.replay.bench import EngineSilent, Replayer, ReplayPlan
from loadtest.replay.command import deepest_capacity
from loadtest.replay.engine import EngineSettings, RunningEngine, engine
from loadtest.replay.rows import Punctuality, to_run
from tests.loadtest.synthetic import noise_zip
from tests.models import publish_tiny_model

STAGES = ("column1", "column2", "full")
PIXELS = tuple(bytes([k]) * (32 * 32 * 3) for k in range(4))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    folder = tmp_path_factory.mktemp("replay")
    publish_tiny_model(folder / "models")
    settings = EngineSettings(folder / "models", folder / "state", (0,), backend="null")
    with engine(settings, folder / "log") as process:
        yield process


@pytest.fixture
def replayer(running: RunningEngine) -> Iterator[Replayer]:
    replayer = Replayer(running.socket)
    yield replayer
    replayer.close()


def plan(count: int, gap_ms: float, budget_ms: float) -> ReplayPlan:
    arrivals_ns = (np.arange(count) * gap_ms * 1e6).astype(np.int64)
    images = (np.arange(count) % len(PIXELS)).astype(np.int32)
    budgets_ns = np.full(count, int(budget_ms * 1e6))
    return ReplayPlan("tiny@1", arrivals_ns, budgets_ns, images, PIXELS, count * gap_ms / 1e3)


def test_every_job_of_a_plan_ends_and_is_a_row(replayer: Replayer) -> None:
    replayer.greet("tiny@1")
    assert set(replayer.latencies_ns["tiny@1"]) == set(STAGES)
    this = plan(100, 5, 20_000)
    heard = replayer.run(this)
    assert (np.array(heard.picked_ns) >= heard.start_ns + this.arrivals_ns).all()
    assert (np.array(heard.sent_ns) >= np.array(heard.picked_ns)).all()
    run = to_run(this, heard, np.zeros(100, np.int16), STAGES)
    assert set(run.records["outcome"]) == {int(Outcome.ANSWERED)}
    assert set(run.records["index"]) == {0}  # as the null runtime always says
    assert (run.records["stages_run"] > 0).all()


def test_a_second_run_over_the_same_link_hears_only_of_its_own_jobs(replayer: Replayer) -> None:
    replayer.greet("tiny@1")
    for _ in range(2):
        this = plan(20, 1, 20_000)
        run = to_run(this, replayer.run(this), np.zeros(20, np.int16), STAGES)
        assert set(run.records["outcome"]) == {int(Outcome.ANSWERED)}


def test_what_cannot_be_in_time_is_refused_by_the_engine(replayer: Replayer) -> None:
    replayer.greet("tiny@1")
    this = plan(50, 1, 0.01)
    run = to_run(this, replayer.run(this), np.zeros(50, np.int16), STAGES)
    assert set(run.records["outcome"]) == {int(Outcome.REFUSED)}


def test_a_model_that_is_not_served_is_named(replayer: Replayer) -> None:
    with pytest.raises(EngineSilent, match="other@1 is not served"):
        replayer.greet("other@1")


def test_an_engine_that_is_not_there_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    replayer = Replayer(f"ipc://{tmp_path / 'nobody'}")
    try:
        with pytest.raises(EngineSilent, match="not ready"):
            replayer.greet("tiny@1", timeout_s=0.2)
    finally:
        replayer.close()


def test_capacity_is_the_deepest_rung_s_in_its_best_batch() -> None:
    latencies = {"column1": {1: 1000}, "full": {1: 1_000_000, 4: 2_000_000, 8: 5_000_000}}
    assert deepest_capacity(latencies, STAGES) == 2000.0


def replayed(tmp_path: Path, rates: str) -> tuple[int, Path]:
    """Status and report of the command, run on a null engine."""
    publish_tiny_model(tmp_path / "models", classes=3, size=8)
    out = tmp_path / "replay.md"
    status = cli.main(
        [
            *("replay", "--function-only", "--models-dir", str(tmp_path / "models"), "--backend", "null"),
            *("--images", str(noise_zip(tmp_path / "images.zip")), "--out", str(out), "--raw", str(tmp_path)),
            *("--rates", rates, "--seconds", "0.5", "--seeds", "1", "--arrivals", "poisson", "--deadline-ms"),
            *("5000", "--sender-cpu", "-1"),
        ]
    )
    return status, out


def test_the_command_writes_a_report_its_figures_and_the_raw_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = replayed(tmp_path, "100")
    figures = json.loads(out.with_suffix(".json").read_text())
    (run,) = figures["runs"]
    assert status == (0 if run["sender_kept_time"] else 1)
    assert figures["function_only"]
    assert run["attainment"] == 1.0
    text = out.read_text()
    assert "Not a measurement" in text
    assert "without HTTP" in text
    (raw,) = tmp_path.glob("replay-poisson-*.npz")
    assert len(load_run(raw).records) == run["offered"]
    assert "poisson, seed 1: 100.00 % of" in capsys.readouterr().err


def test_a_run_whose_generator_stayed_late_is_tried_again_after_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_ms = iter([9.0, 9.0, 9.0, 0.1, 9.0, 0.1])
    monkeypatch.setattr(
        "loadtest.replay.command.punctuality", lambda *_: Punctuality(9.0, next(late_ms), 0.001)
    )
    status, out = replayed(tmp_path, "100,200")
    runs = json.loads(out.with_suffix(".json").read_text())["runs"]
    assert [run["repeats"] for run in runs] == [4, 0]
    assert status == 0


def test_a_folder_without_models_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    images = noise_zip(tmp_path / "images.zip")
    arguments = ["replay", "--function-only", "--models-dir", str(tmp_path / "models")]
    assert cli.main([*arguments, "--images", str(images), "--raw", str(tmp_path)]) == 2
    assert "no models in" in capsys.readouterr().err
