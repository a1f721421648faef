"""What each lever beyond the paper does to a training step, and that it is resumed exactly. On tiny nets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model_repo.fractalnet import FractalConfig, FractalNet, column, full
from training import checkpoint
from training.average import Average
from training.drop_path import Draw
from training.evaluate import Pixels, logits, norms_of, reestimate
from training.loop import Hardware, Trainer
from training.losses import PrivateNorms, StepLosses
from training.parts import Dataset, Part
from training.publish import Trained
from training.recipe import Levers, Recipe
from training.run import Run, RunOptions, StopRequestedError
from training.tune import tuned_weights, tuning_recipe

CONFIG = FractalConfig(2, (4, 6), 3, 8)
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(12, 3, 8, 8, generator=GENERATOR)
LABELS = torch.arange(12) % 3
FULL, COLUMN1 = full(CONFIG), column(CONFIG, 1)


def stripes(n: int, seed: int = 0) -> Part:
    """Images of three classes that a tiny net learns: which third of the rows is bright."""
    draws = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = draws.integers(0, 120, (n, 8, 8, 3)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[label * 3 : label * 3 + 2] += 100
    return Part(images, labels.astype(np.int64))


DATA = Dataset("stripes", ("top", "middle", "bottom"), stripes(400), stripes(60, 1))


def recipe(**changes: Any) -> Recipe:
    """Full net and column 1 evenly, 2 epochs of 5 steps and more."""
    base = Recipe("tiny", 2, (4, 6), draws={"full": 1, "column1": 1}, epochs=2, batch=64, rate=0.1)
    return base.with_overrides(**{"augmentation": "none"} | changes)


def trainer(chosen: Recipe, seed: int = 0) -> Trainer:
    return Trainer(chosen, chosen.net(3, 8), DATA.train, seed, Hardware("cpu", bf16=False))


def train(own: Trainer, steps: int) -> None:
    while own.step < steps:
        for step in own.rest_of_epoch():
            if step >= steps:
                break


# --- losses -------------------------------------------------------------------------------------------------------


def test_students_learn_the_teachers_answers_and_the_teacher_learns_labels() -> None:
    losses = StepLosses(FractalNet(CONFIG), None, 0.0).eval()
    draws = [Draw("full", FULL, role="teacher"), Draw("column1", COLUMN1, 1.0, "column1", "student")]
    (_, teacher), (_, student) = losses.each(IMAGES, LABELS, draws)
    whole, alone = losses.net(IMAGES), losses.net(IMAGES, COLUMN1)
    torch.testing.assert_close(teacher, F.cross_entropy(whole, LABELS))
    torch.testing.assert_close(student, F.cross_entropy(alone, whole.softmax(1)))


def test_no_gradient_flows_from_a_student_into_the_teachers_answers() -> None:
    losses = StepLosses(FractalNet(CONFIG), None, 0.0)
    draws = [Draw("full", FULL, role="teacher"), Draw("column1", COLUMN1, 1.0, "column1", "student")]
    *_, (_, student) = losses.each(IMAGES, LABELS, draws)
    student.backward()
    deep = [p for n, p in losses.net.named_parameters() if "column2" in n]
    assert all(p.grad is None for p in deep)


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    losses = StepLosses(FractalNet(CONFIG), None, 0.1).eval()
    [(_, loss)] = losses.each(IMAGES, LABELS, [Draw("full", FULL)])
    target = F.one_hot(LABELS, 3) * 0.9 + 0.1 / 3
    torch.testing.assert_close(loss, F.cross_entropy(losses.net(IMAGES), target))


def test_a_student_without_a_teacher_is_refused() -> None:
    losses = StepLosses(FractalNet(CONFIG), None, 0.0)
    with pytest.raises(ValueError, match="no teacher"):
        list(losses.each(IMAGES, LABELS, [Draw("column1", COLUMN1, role="student")]))


# --- private batch norms ------------------------------------------------------------------------------------------


def test_a_step_of_a_column_moves_its_own_norms_and_neither_the_nets_nor_anothers() -> None:
    net = FractalNet(CONFIG)
    losses = StepLosses(net, PrivateNorms(net), 0.0).train()
    assert losses.private is not None
    before = {n: b.clone() for n, b in net.named_buffers()}
    other = {n: t.clone() for n, t in losses.private.tensors("column2").items()}
    [(_, loss)] = losses.each(IMAGES, LABELS, [Draw("column1", COLUMN1, mode="column1")])
    loss.backward()
    own = losses.private.tensors("column1")
    assert all(t.grad is not None for t in own.values() if isinstance(t, torch.nn.Parameter))
    assert all(own[n].item() == 1 for n in own if n.endswith("num_batches_tracked"))
    assert all(torch.equal(b, before[n]) for n, b in net.named_buffers())
    assert all(torch.equal(t, other[n]) for n, t in losses.private.tensors("column2").items())
    assert all(m.weight.grad is None for m in norms_of(net, FULL).values())


def test_the_full_net_uses_the_nets_own_norms() -> None:
    net = FractalNet(CONFIG)
    private = PrivateNorms(net)
    assert private.tensors("full") == {}
    assert set(private.weights("column1")) == {
        f"blocks.{b}.layers.column1_row2.norm.{key}" for b in (0, 1) for key in ("weight", "bias")
    }


# --- the moving average -------------------------------------------------------------------------------------------


def test_the_average_follows_the_weights_slowly_and_lends_itself_to_the_net() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    average = Average(module, 0.9)
    module.weight.data.fill_(1.0)
    for step in range(1000, 1003):
        average.update(step)
    assert average.weights["weight"].item() == pytest.approx(1 - 0.9**3)
    with average.worn():
        assert module.weight.item() == pytest.approx(1 - 0.9**3)
    assert module.weight.item() == 1.0


def test_the_first_weights_are_soon_forgotten() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    average = Average(module, 0.999)
    module.weight.data.fill_(1.0)
    average.update(0)
    assert average.weights["weight"].item() == pytest.approx(0.9)


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "levers",
    [
        {"private_norms": True, "average": 0.9},
        {"sandwich": "columns", "cutout": 3},
        {"late_draws": {"column2": 1.0}, "label_smoothing": 0.1},
    ],
)
def test_a_run_with_levers_is_resumed_exactly(levers: dict[str, Any], tmp_path: Path) -> None:
    pulled = recipe(dropout=(0.0, 0.2)).with_levers(**levers)

    def run(name: str, stop_at: int = 10**9) -> Run:
        own = Run(pulled, DATA, 1, RunOptions(tmp_path / name, precision="float32"))
        own.train(lambda: own.trainer.step >= stop_at)
        return own

    run("whole")
    with pytest.raises(StopRequestedError):
        run("parts", 4)
    run("parts")
    a, b = (checkpoint.load(tmp_path / n / "checkpoint.pt")["trainer"] for n in ("whole", "parts"))
    for group in ("net", *(["private"] if "private_norms" in levers else [])):
        assert all(torch.equal(a[group][key], b[group][key]) for key in a[group]), group
    if "average" in levers:
        assert all(torch.equal(a["average"][key], b["average"][key]) for key in a["average"])


def test_late_columns_are_trained_from_their_share_of_the_steps_on() -> None:
    own = trainer(recipe().with_levers(late_draws={"column2": 1.0}, late_from=0.5))
    train(own, own.total_steps // 2)
    assert "column2" not in own.progress.losses
    train(own, own.total_steps // 2 + 1)
    assert "column2" in own.progress.losses


def stage_logits(trained: Trained, stage: str) -> np.ndarray[Any, Any]:
    """Outputs on the test images of the published weights and statistics."""
    batches = Pixels(DATA.train).tensor(DATA.test.images)
    return logits(trained.net, trained.stages[stage], trained.content["statistics"][stage], batches)


def finish(pulled: Recipe, folder: Path) -> tuple[Run, Trained]:
    run = Run(pulled, DATA, 0, RunOptions(folder, precision="float32"))
    run.train()
    return run, Trained(run.finish())


def test_private_norms_are_measured_and_published_with_their_stage(tmp_path: Path) -> None:
    run, trained = finish(recipe().with_levers(private_norms=True), tmp_path)
    own = trained.content["statistics"]["column1"]
    name = "blocks.0.layers.column1_row2.norm.weight"
    assert run.trainer.losses.private is not None
    torch.testing.assert_close(own[name], run.trainer.losses.private.weights("column1")[name])
    assert not torch.equal(own[name], trained.content["net"][name])
    assert name not in trained.content["statistics"]["full"]


def test_the_averaged_weights_are_published_and_training_goes_on_with_its_own(tmp_path: Path) -> None:
    run, trained = finish(recipe().with_levers(average=0.9), tmp_path)
    assert run.trainer.average is not None
    name = "head.weight"
    averaged = run.trainer.average.weights[f"net.{name}"]
    torch.testing.assert_close(trained.content["net"][name], averaged)
    assert not torch.equal(run.trainer.net.state_dict()[name], averaged)


@pytest.mark.parametrize("distilled", [False, True])
def test_every_stage_is_tuned_alone_from_a_copy(distilled: bool, tmp_path: Path) -> None:
    pulled = recipe().with_levers(tune_epochs=3, tune_rate=0.3, tune_distilled=distilled, private_norms=True)
    run, trained = finish(pulled, tmp_path)
    own = trained.content["statistics"]
    shared = run.trainer.net.state_dict()
    for stage in trained.stages:
        weight = "blocks.0.layers.column1_row2.conv.weight"
        assert (weight in own[stage]) == (stage != "column2")
        assert not torch.equal(own[stage]["head.weight"], shared["head.weight"])
    untuned = run.trainer
    sample = Pixels(DATA.train).tensor(DATA.train.images)
    weights = untuned.stage_weights("column1")
    before = reestimate(untuned.net, trained.stages["column1"], sample, weights)
    test = Pixels(DATA.train).tensor(DATA.test.images)
    old = torch.from_numpy(logits(untuned.net, trained.stages["column1"], before, test))
    new = torch.from_numpy(stage_logits(trained, "column1"))
    truth = torch.from_numpy(DATA.test.labels)
    assert F.cross_entropy(new, truth) < F.cross_entropy(old, truth)


def test_a_tuned_stage_is_kept_and_not_tuned_again_by_a_resumed_run(tmp_path: Path) -> None:
    pulled = recipe(epochs=1).with_levers(tune_epochs=1)
    own = trainer(pulled)
    statistics = reestimate(own.net, FULL, IMAGES)
    identity = {"seed": 0}
    first = tuned_weights(own, DATA.train, statistics, tmp_path, identity)
    times = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    again = tuned_weights(own, DATA.train, statistics, tmp_path, identity)
    assert times == {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert all(torch.equal(first[s][n], again[s][n]) for s in first for n in first[s])
    tuned_weights(own, DATA.train, statistics, tmp_path, {"seed": 1})
    assert times != {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}


def test_a_stage_is_tuned_by_the_recipe_without_its_other_levers() -> None:
    pulled = recipe(tied=True).with_levers(
        tune_epochs=3, average=0.9, private_norms=True, late_draws={"column1": 1}, label_smoothing=0.1
    )
    tuning = tuning_recipe(pulled, "column2")
    assert (tuning.draws, tuning.tied, tuning.epochs) == ({"column2": 1.0}, False, 3)
    assert tuning.rate == pytest.approx(pulled.rate * 0.1)
    assert tuning.levers == Levers(label_smoothing=0.1)
