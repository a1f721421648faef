"""A short fine-tune per stage: after training, every stage gets a copy of its weights and trains it alone.

What the stages share then ends; a served stage bears its own weights anyway. One file per finished stage, so that a
run that was stopped goes on with the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from model_repo.fractalnet import FractalNet, full, stages
from training import checkpoint
from training.evaluate import Statistics, apply_statistics
from training.loop import Trainer
from training.losses import Teacher
from training.parts import Part
from training.recipe import Levers, Recipe

SEED_STRIDE = 1_000_003
"""Apart from the run's own seed, and for every stage another."""


def tuned_weights(
    trainer: Trainer, train: Part, statistics: Statistics, folder: Path, identity: Mapping[str, Any]
) -> dict[str, dict[str, Tensor]]:
    """The weights of every stage after its fine-tune, by name in the net; empty where the recipe asks for none.

    Args:
        trainer: at the end of its training.
        train: the images that fit the weights.
        statistics: of the full net, which teaches if the recipe distils.
        folder: where finished stages are kept, as `tuned_STAGE.pt`.
        identity: of the run; what is kept of another one is not used.
    """
    found: dict[str, dict[str, Tensor]] = {}
    if not trainer.recipe.levers.tune_epochs:
        return found
    for number, stage in enumerate(stages(trainer.net.config), 1):
        path = folder / f"tuned_{stage}.pt"
        kept = checkpoint.load(path) if path.exists() else {}
        if kept.get("identity") != dict(identity):
            weights = tune(trainer, train, stage, statistics, trainer.seed + SEED_STRIDE * number)
            kept = {"identity": dict(identity), "weights": weights}
            checkpoint.save(path, kept)
        found[stage] = kept["weights"]
    return found


def tune(trainer: Trainer, train: Part, stage: str, statistics: Statistics, seed: int) -> dict[str, Tensor]:
    """The weights of one stage after training it alone, on the CPU; `trainer` is left as it was."""
    net = trainer.net
    own = Trainer(tuning_recipe(trainer.recipe, stage), net.config, train, seed, trainer.hardware)
    with trainer.measured():
        own.net.load_state_dict(net.state_dict())
        apply_statistics(own.net, trainer.stage_weights(stage))
        if trainer.recipe.levers.tune_distilled:
            own.losses.teacher = _teacher(net, statistics)
    while own.step < own.total_steps:
        for _ in own.rest_of_epoch():
            pass
    trained = {id(p) for layer in own.net.layers_of(stages(net.config)[stage]) for p in layer.parameters()}
    trained |= {id(p) for p in own.net.head.parameters()}
    return {n: p.detach().cpu().clone() for n, p in own.net.named_parameters() if id(p) in trained}


def tuning_recipe(recipe: Recipe, stage: str) -> Recipe:
    """How one stage is tuned: as the recipe says, but the stage alone, shortly, from a lower rate."""
    levers = recipe.levers
    return recipe.with_overrides(
        draws={stage: 1.0},
        tied=False,
        epochs=levers.tune_epochs,
        rate=recipe.rate * levers.tune_rate,
        schedule="cosine",
        warmup=0.0,
        drops=(),
        levers=Levers(label_smoothing=levers.label_smoothing, cutout=levers.cutout),
    )


def _teacher(net: FractalNet, statistics: Statistics) -> Teacher:
    """A copy of the full net as it is now, in evaluation."""
    teacher = FractalNet(net.config).to(net.head.weight.device)
    teacher.load_state_dict(net.state_dict())
    apply_statistics(teacher, statistics)
    teacher.eval()
    whole = full(net.config)

    def answers(images: Tensor) -> Tensor:
        return teacher(images, whole)  # type: ignore[no-any-return]

    return answers
