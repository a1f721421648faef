"""Runs: the loop, exact resume, checkpoints, the command line. All on scikit-learn's real digits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from training import checkpoint, recipes
from training.checkpoint import CheckpointError
from training.command import main
from training.data import load
from training.loop import DivergedError, Hardware, Trainer
from training.parts import Dataset, split
from training.recipe import Levers, Recipe
from training.run import Run, RunOptions, StopRequestedError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def recipe(**changes: object) -> Recipe:
    return recipes.find("digits").with_overrides(epochs=2, dropout=(0.0, 0.1, 0.1), **changes)


def options(folder: Path, **more: Any) -> RunOptions:
    return RunOptions(folder, precision="float32", **more)


def weights(path: Path) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = checkpoint.load(path)["trainer"]["net"]
    return content


def assert_same_weights(one: Path, two: Path) -> None:
    a, b = weights(one / "checkpoint.pt"), weights(two / "checkpoint.pt")
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


@pytest.mark.parametrize("stop_at", [7, 20, 33])
def test_a_run_stopped_anywhere_and_resumed_ends_in_the_same_weights(
    stop_at: int, digits: Dataset, tmp_path: Path
) -> None:
    whole, parts = options(tmp_path / "whole"), options(tmp_path / "parts")
    Run(recipe(), digits, 1, whole).train()
    first = Run(recipe(), digits, 1, parts)
    with pytest.raises(StopRequestedError, match=f"step {stop_at}"):
        first.train(lambda: first.trainer.step >= stop_at)
    second = Run(recipe(), digits, 1, parts)
    assert second.trainer.step == stop_at
    second.train()
    assert_same_weights(whole.folder, parts.folder)


def test_minutes_stop_a_run_cleanly_with_a_checkpoint(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(StopRequestedError):
        Run(recipe(), digits, 0, options(tmp_path, minutes=0.0)).train()
    assert checkpoint.load(tmp_path / "checkpoint.pt")["trainer"]["step"] == 1


def test_a_killed_run_loses_no_more_than_one_epoch_and_ends_the_same(digits: Dataset, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training", "train", "digits", "--data", "digits", "--epochs", "4"]
    command += ["--precision", "float32", "--name"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    victim = subprocess.Popen(
        [*command, "killed"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert victim.stderr is not None
    for line in victim.stderr:  # progress bars end their lines with \r, which text mode reads as line ends
        if "epoch 3/4" in line and (tmp_path / "runs/killed/checkpoint.pt").exists():
            break
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    victim.stderr.close()
    assert checkpoint.load(tmp_path / "runs/killed/checkpoint.pt")["trainer"]["step"] >= 40
    done = subprocess.run(
        [*command, "killed"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    whole = recipes.find("digits").with_overrides(epochs=4)
    Run(whole, digits, 0, options(tmp_path / "runs/whole")).train()
    assert_same_weights(tmp_path / "runs/killed", tmp_path / "runs/whole")


def test_a_trained_net_knows_digits_and_logs_every_kind_of_draw(digits: Dataset, tmp_path: Path) -> None:
    run = Run(recipes.find("digits"), digits, 0, options(tmp_path, evaluate_every=6))
    run.train()
    trained = checkpoint.load(run.finish())
    for stage in ("column1", "full"):
        right = trained["logits"][stage]["test"].argmax(1) == trained["labels"]["test"]
        assert right.float().mean() > 0.93, stage
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == list(range(1, 13))
    assert set(log[-1]["loss"]) == {"column1", "local"}
    assert set(log[5]["validation_accuracy"]) == {"column1", "column2", "full"}
    assert "validation_accuracy" not in log[0]
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_validation_glance_leaves_the_training_as_it_was(digits: Dataset, tmp_path: Path) -> None:
    for name, every in (("often", 1), ("never", 100)):
        Run(recipe(), digits, 3, options(tmp_path / name, evaluate_every=every)).train()
    assert_same_weights(tmp_path / "often", tmp_path / "never")


def test_a_checkpoint_of_another_recipe_seed_or_data_is_not_resumed(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(StopRequestedError):
        Run(recipe(), digits, 0, options(tmp_path, minutes=0.0)).train()
    with pytest.raises(CheckpointError, match="recipe differs"):
        Run(recipe(rate=0.05), digits, 0, options(tmp_path))
    with pytest.raises(CheckpointError, match="seed differs"):
        Run(recipe(), digits, 1, options(tmp_path))
    other = Dataset("digits", digits.classes, digits.test, digits.train)
    with pytest.raises(CheckpointError, match="data differs"):
        Run(recipe(), other, 0, options(tmp_path))


def test_a_damaged_checkpoint_is_named(digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt"):
        Run(recipe(), digits, 0, options(tmp_path))


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"step": 1})
    path.with_name("checkpoint.pt.part").mkdir()  # the temporary file cannot be opened
    with pytest.raises((CheckpointError, OSError)):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}


def test_opening_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_loss_that_is_no_number_stops_the_run_and_says_so(digits: Dataset) -> None:
    parts = split(digits)
    hot = recipe(rate=1e30)
    trainer = Trainer(hot, hot.net(10, 8), parts.train, 0, Hardware("cpu", bf16=False))
    with pytest.raises(DivergedError, match="lower the rate"):
        list(trainer.rest_of_epoch())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "nosuch", "--data", "digits"], "no recipe 'nosuch'"),
        (["train", "digits", "--data", "/nowhere"], "no data at /nowhere"),
        (["train", "small_nested", "--data", "digits"], "blocks of pooling"),
        (["export", "nosuch", "--data", "digits"], "trained.pt"),
    ],
)
def test_mistakes_on_the_command_line_get_one_clear_line(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error


def test_a_run_of_before_the_newest_fields_is_resumed(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(StopRequestedError):
        Run(recipe(), digits, 0, options(tmp_path, minutes=0.0)).train()
    content = checkpoint.load(tmp_path / "checkpoint.pt")
    for added in ("levers", "net_options", "crop", "image_size", "drops"):
        del content["recipe"][added]
    del content["classes"]
    checkpoint.save(tmp_path / "checkpoint.pt", content)
    assert Run(recipe(), digits, 0, options(tmp_path)).trainer.step == 1


def test_other_names_of_the_classes_are_another_run(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(StopRequestedError):
        Run(recipe(), digits, 0, options(tmp_path, minutes=0.0)).train()
    renamed = Dataset("digits", ("zero", *digits.classes[1:]), digits.train, digits.test)
    with pytest.raises(CheckpointError, match=r"classes differs \(0, 1.*not zero, 1"):
        Run(recipe(), renamed, 0, options(tmp_path))


def test_the_commit_that_is_noted_is_the_one_a_run_began_with(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.run.code_commit", lambda: "first")
    with pytest.raises(StopRequestedError):
        Run(recipe(), digits, 0, options(tmp_path, minutes=0.0)).train()
    monkeypatch.setattr("training.run.code_commit", lambda: "later")
    resumed = Run(recipe(), digits, 0, options(tmp_path))
    resumed.train()
    assert checkpoint.load(resumed.finish())["code_commit"] == "first"


def trained_digits(folder: Path, digits: Dataset, **more: Any) -> Path:
    run = Run(recipe(**more.pop("recipe", {})), digits, more.pop("seed", 0), options(folder, **more))
    run.train()
    return run.finish()


def test_a_warm_restart_begins_with_the_weights_of_the_finished_run_and_tells_of_it(
    digits: Dataset, tmp_path: Path
) -> None:
    first = trained_digits(tmp_path / "first", digits)
    again = Run(recipe(), digits, 3, options(tmp_path / "again", start=first))
    begun, trained = again.trainer.net.state_dict(), checkpoint.load(first)["net"]
    assert all(torch.equal(begun[name], value) for name, value in trained.items())
    again.train()
    content = checkpoint.load(again.finish())
    assert content["start"] == [{"recipe": "digits", "epochs": 2, "seed": 0}]
    third = trained_digits(tmp_path / "third", digits, start=tmp_path / "again" / "trained.pt")
    assert [run["seed"] for run in checkpoint.load(third)["start"]] == [0, 3]


def test_a_warm_restart_resumes_exactly_and_only_from_its_own_start(digits: Dataset, tmp_path: Path) -> None:
    first = trained_digits(tmp_path / "first", digits)
    whole, parts = (options(tmp_path / name, start=first) for name in ("whole", "parts"))
    Run(recipe(), digits, 1, whole).train()
    stopped = Run(recipe(), digits, 1, parts)
    with pytest.raises(StopRequestedError):
        stopped.train(lambda: stopped.trainer.step >= 9)
    Run(recipe(), digits, 1, parts).train()
    assert_same_weights(whole.folder, parts.folder)
    with pytest.raises(CheckpointError, match="its start differs"):
        Run(recipe(), digits, 1, options(tmp_path / "parts"))


def test_a_warm_restart_of_another_net_is_refused(digits: Dataset, tmp_path: Path) -> None:
    first = trained_digits(tmp_path / "first", digits)
    with pytest.raises(CheckpointError, match="its config is"):
        Run(recipe(columns=3), digits, 0, options(tmp_path / "again", start=first))
    private = recipe(levers=Levers(private_norms=True))
    with pytest.raises(CheckpointError, match="private batch norms"):
        Run(private, digits, 0, options(tmp_path / "again", start=first))
    assert not (tmp_path / "again").exists()


def test_a_blend_publishes_the_mean_of_both_ends_and_trains_on_its_own(
    digits: Dataset, tmp_path: Path
) -> None:
    first = trained_digits(tmp_path / "first", digits)
    plain = trained_digits(tmp_path / "plain", digits, start=first)
    levers = Levers(blend=0.25)
    blended = trained_digits(tmp_path / "blended", digits, start=first, recipe={"levers": levers})
    assert_same_weights(tmp_path / "plain", tmp_path / "blended")
    begun, ended, mean = (checkpoint.load(path)["net"] for path in (first, plain, blended))
    for name in dict(Run(recipe(), digits, 0, options(tmp_path / "any")).trainer.net.named_parameters()):
        torch.testing.assert_close(mean[name], 0.25 * begun[name] + 0.75 * ended[name])
    with pytest.raises(CheckpointError, match="--start"):
        Run(recipe(levers=levers), digits, 0, options(tmp_path / "none"))
