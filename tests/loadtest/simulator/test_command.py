"""Bad input to `record` and `schedule` is one clear line and an exit code that is not 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtest.cli import main
from loadtest.simulator import record, recording
from loadtest.simulator.recording import Recording
from model_repo.pooling import pool, softmax, stage_log_probabilities
from model_repo.repository import Repository

from .worlds import model

ROOT = Path(__file__).resolve().parents[3]
MODELS = ROOT / "model_repo" / "models"
SHIPPED = Repository(MODELS).open("cifar10").manifest
MODEL = f"cifar10@{SHIPPED.version}"


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says on stderr, in one line; it must fail."""
    assert main([*arguments, "--function-only"]) != 0
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_a_missing_recording_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = said(capsys, "schedule", "--model", MODEL, "--recordings", str(tmp_path))
    assert f"no recording cifar10-{SHIPPED.version}.npz" in text
    assert "python -m loadtest record" in text


def test_a_recording_of_other_weights_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    known = model(10)
    samples = {(k, 1): np.array([100], np.int64) for k in range(3)}
    stalled = {cell: np.array([False]) for cell in samples}
    header = {"model": MODEL, "hash": "0", "stages": list(known.stages)}
    recorded = Recording(header, known.confidence, known.right, samples, stalled)
    recording.save(recorded, tmp_path / f"cifar10-{SHIPPED.version}.npz")
    text = said(capsys, "schedule", "--model", MODEL, "--recordings", str(tmp_path))
    assert "other weights or pools" in text


@pytest.mark.parametrize("command", ["schedule", "record"])
def test_an_unknown_model_is_told(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert "no model nothing@any" in said(capsys, command, "--model", "nothing")


def test_images_that_are_not_there_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no images at" in said(capsys, "record", "--images", str(tmp_path / "none.zip"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--charge", "much"], "--charge 'much'"),
        (["--trace", "nowhere.csv"], "no trace at nowhere.csv"),
        (["--requests", "-3"], "--requests must be positive"),
    ],
)
def test_values_that_mean_nothing_are_told(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert expected in said(capsys, "schedule", *arguments)


def test_an_unknown_policy_is_told_before_anything_is_simulated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.simulator.setup.capacity", lambda *_: 1000.0)
    text = said(capsys, "schedule", "--model", MODEL, "--quick", "--policies", "edf")
    assert "no policy is called 'edf'; there are anytime" in text


def test_recorded_answers_are_pooled_as_the_manifest_says() -> None:
    manifest = SHIPPED
    random = np.random.default_rng(0)
    logits = [random.normal(size=(20, 10)).astype(np.float32) for _ in manifest.stages]
    truth = random.integers(0, 10, 20)
    confidence, right = record.pooled_answers(manifest, logits, truth)
    alone = softmax(logits[0], manifest.stages[0].temperature)
    assert np.allclose(confidence[1], alone.max(1))
    assert np.array_equal(right[1], alone.argmax(1) == truth)
    rule = manifest.pools["column1,joined2"]
    rows = [stage_log_probabilities(logits[k], manifest.stages[k].temperature) for k in (0, 1)]
    assert np.allclose(confidence[3], pool(rows, rule.weights, rule.temperature).max(1), atol=1e-5)
    assert not right[0].any()


def test_slow_cells_are_timed_less_often() -> None:
    wanted = record.Wanted(samples=200, seconds=1.0)
    rounds = record.rounds_of({(0, 1): 100_000, (1, 1): 10_000_000, (2, 1): 900_000_000}, wanted)
    assert rounds == {(0, 1): 200, (1, 1): 33, (2, 1): record.LEAST_SAMPLES}
