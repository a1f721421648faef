"""A run: one training in one folder, from the recipe to `trained.pt`, with logs, checkpoints and resume.

    runs/NAME/
      checkpoint.pt   recipe, seed, data fingerprint and the trainer's state, every epoch and at a stop
      log.jsonl       one line per epoch, and per evaluation
      tensorboard/    the same as curves
      trained.pt      when done: weights, per-stage statistics, and the logits of every stage on the held-out parts

Knows the order of things; the steps themselves are in loop, evaluate and checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from model_repo.calibration import accuracy, nll
from model_repo.fractalnet import stages
from model_repo.pooling import log_softmax
from training import checkpoint
from training.checkpoint import CheckpointError
from training.evaluate import Pixels, logits, reestimate
from training.imagenet import ten_crop_errors
from training.loop import Precision, Trainer, choose_hardware
from training.parts import Dataset, Part, Splits, split
from training.ranks import Ranks
from training.recipe import Recipe
from training.tune import tuned_weights

GLANCES = ("validation_accuracy", "validation_loss", "training_loss")
"""What the log has of every stage at a glance; losses are mean negative log-likelihoods, augmentation off."""

STATISTICS_IMAGES = 5_000
"""Training images over which the final batch-norm statistics are averaged; 1,000 for the glances in between."""


class StopRequestedError(Exception):
    """The run stopped before its last epoch, with a checkpoint."""


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out.

    `minutes`: stop cleanly after so long; `evaluate_every`: epochs between glances at every stage;
    `precision`: of a new run; a resumed one keeps its own, since that is part of its result;
    `one_bar`: a single progress bar over all epochs, for small data whose epochs last a second;
    `start`: trained.pt of a finished run of the same net and data, whose weights are the first ones: a warm restart
    (Loshchilov and Hutter, SGDR, 2017), with momentum from nothing and a rate that begins anew.
    """

    folder: Path
    minutes: float | None = None
    evaluate_every: int = 5
    precision: Precision = "auto"
    one_bar: bool = False
    start: Path | None = None
    ranks: Ranks = field(default_factory=Ranks)


class Run:
    """One training run. Resumes from the folder's checkpoint if there is one.

    Raises CheckpointError where that is of another run, or the run to start from is of another net or other data.
    """

    def __init__(self, recipe: Recipe, data: Dataset, seed: int, options: RunOptions) -> None:
        self.recipe, self.data, self.seed, self.options = recipe, data, seed, options
        self.splits: Splits = split(data)
        config = recipe.net(len(data.classes), data.input_size)
        self._start = checkpoint.load(options.start) if options.start else {}
        self._check_start(config.to_dict())
        options.folder.mkdir(parents=True, exist_ok=True)
        saved = self._saved()
        precision = options.precision if saved is None else "bf16" if saved["bf16"] else "float32"
        hardware = choose_hardware(config, recipe.batch, precision, options.ranks)
        self.trainer = Trainer(recipe, config, self.splits.train, seed, hardware, options.ranks)
        if saved:
            self.trainer.restore(saved["trainer"])
        elif self._start:
            self.trainer.begin_with(self._start["net"])
        if recipe.levers.blend:
            self.trainer.blend_with(self._start["net"])
        # Of the start, as it is now: the tree may have moved on by the time the run ends.
        self._code_commit: str = (saved or {}).get("code_commit") or code_commit()
        self._pixels = Pixels(self.splits.train, recipe.crop)

    # --- training -----------------------------------------------------------------------------------------------

    def train(self, stop_asked: Callable[[], bool] = lambda: False) -> None:
        """Train to the last epoch.

        Raises:
            StopRequestedError: `stop_asked` said so or the minutes are over; a checkpoint is written.
        """
        begun = time.monotonic()
        with self._board() as board, self._whole_bar() as whole:
            while self.trainer.epoch < self.recipe.epochs:
                started = time.monotonic()
                for _ in self._with_bar(self.trainer.rest_of_epoch(), whole):
                    if self.options.ranks.any(stop_asked() or self._over(begun)):
                        self._save()
                        raise StopRequestedError(f"stopped at step {self.trainer.step}, checkpoint written")
                self._save()
                if board:
                    self._log_epoch(board, time.monotonic() - started)

    def _board(self) -> AbstractContextManager[SummaryWriter | None]:
        """Where the leading process draws curves; the others log nothing."""
        leads = self.options.ranks.leads
        return SummaryWriter(self.options.folder / "tensorboard") if leads else nullcontext()

    def _over(self, begun: float) -> bool:
        return self.options.minutes is not None and time.monotonic() - begun > self.options.minutes * 60

    def _whole_bar(self) -> Any:
        """The progress bar of the whole run, with the time that remains."""
        trainer, silent = self.trainer, not self.options.one_bar
        return tqdm(
            total=trainer.total_steps,
            initial=trainer.step,
            desc="training",
            unit="batch",
            disable=silent or not self.options.ranks.leads,
        )

    def _with_bar(self, steps: Iterator[int], whole: Any) -> Iterator[int]:
        trainer = self.trainer
        title = f"epoch {trainer.epoch + 1}/{self.recipe.epochs}"
        done = trainer.step % trainer.steps_per_epoch
        with tqdm(
            total=trainer.steps_per_epoch,
            initial=done,
            desc=title,
            unit="batch",
            mininterval=1,
            disable=self.options.one_bar or not self.options.ranks.leads,
        ) as bar:
            for step in steps:
                bar.update()
                whole.update()
                if step % 20 == 0:
                    shown = whole if self.options.one_bar else bar
                    shown.set_postfix({kind: f"{loss:.3f}" for kind, loss in trainer.progress.losses.items()})
                yield step

    def _log_epoch(self, board: SummaryWriter, seconds: float) -> None:
        epoch = self.trainer.epoch
        line: dict[str, Any] = {
            "epoch": epoch,
            "seconds": round(seconds, 1),
            "loss": self.trainer.progress.losses,
        }
        if epoch % self.options.evaluate_every == 0 or epoch == self.recipe.epochs:
            line |= self._glance()
            tqdm.write(
                f"epoch {epoch}: " + ", ".join(f"{k} {v:.3f}" for k, v in line["validation_accuracy"].items())
            )
        with (self.options.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        for group in ("loss", *GLANCES):
            for name, value in line.get(group, {}).items():
                board.add_scalar(f"{group}/{name}", value, epoch)

    def _glance(self) -> dict[str, dict[str, float]]:
        """Validation accuracy and loss of every stage on 1,000 images, and its loss on 1,000 training images.

        Every stage runs with batch statistics of its own, over those training images: with the shared running ones
        the curve of a column is noise.
        """
        parts = {
            "validation": self.splits.validation.take(np.arange(min(1000, len(self.splits.validation)))),
            "training": self.splits.train.take(np.arange(min(1000, len(self.splits.train)))),
        }
        outputs, _ = self._measure(parts, statistics_images=1000)
        found: dict[str, dict[str, float]] = {group: {} for group in GLANCES}
        for name, rows in outputs.items():
            probabilities = {part: np.exp(log_softmax(values)) for part, values in rows.items()}
            truth = parts["validation"].labels
            found["validation_accuracy"][name] = accuracy(probabilities["validation"], truth)
            found["validation_loss"][name] = nll(probabilities["validation"], truth)
            found["training_loss"][name] = nll(probabilities["training"], parts["training"].labels)
        return found

    # --- the end of a run ---------------------------------------------------------------------------------------

    def finish(self) -> Path:
        """Re-estimate batch norm per stage, record every stage's outputs on the held-out parts, write trained.pt."""
        parts = {
            "validation": self.splits.validation,
            "calibration": self.splits.calibration,
            "test": self.splits.test,
        }
        own = self._tuned_weights()
        outputs, statistics = self._measure(parts, STATISTICS_IMAGES, own)
        path = self.options.folder / "trained.pt"
        checkpoint.save(
            path,
            {
                "config": self.trainer.net.config.to_dict(),
                "recipe": self.recipe.to_dict(),
                "seed": self.seed,
                "bf16": self.trainer.hardware.bf16,
                "code_commit": self._code_commit,
                "data": self.data.name,
                "part_sizes": {"train": len(self.splits.train)} | {name: len(p) for name, p in parts.items()},
                "classes": list(self.data.classes),
                "mean": self._pixels.mean,
                "std": self._pixels.std,
                "net": self._weights(),
                "statistics": statistics,
                "start": self._earlier(),
                "ten_crop": self._ten_crop_errors(statistics),
                "logits": {s: {p: torch.from_numpy(v) for p, v in o.items()} for s, o in outputs.items()},
                "labels": {name: torch.from_numpy(p.labels) for name, p in parts.items()},
            },
        )
        return path

    def _tuned_weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """Every stage's own weights after its fine-tune, if the recipe asks for one."""
        if not self.recipe.levers.tune_epochs:
            return {}
        whole = list(stages(self.trainer.net.config))[-1]
        _, statistics = self._measure({}, STATISTICS_IMAGES, {}, only=whole)
        identity = self._identity() | {"step": self.trainer.step}
        train = self.splits.train
        return tuned_weights(self.trainer, train, statistics[whole], self.options.folder, identity)

    def _ten_crop_errors(self, statistics: dict[str, dict[str, torch.Tensor]]) -> dict[str, dict[str, float]]:
        """Test errors of every stage over ten crops, the paper's measure on ImageNet; empty without a crop."""
        if not self.recipe.crop:
            return {}
        net, found = self.trainer.net, {}
        with self.trainer.measured():
            for name, subnetwork in stages(net.config).items():
                found[name] = ten_crop_errors(
                    net, subnetwork, statistics[name], self.splits.test, self._pixels
                )
                errors = ", ".join(f"{kind} {100 * share:.2f} %" for kind, share in found[name].items())
                tqdm.write(f"{name}, ten crops of the test images: error {errors}")
        return found

    def _weights(self) -> dict[str, torch.Tensor]:
        with self.trainer.measured():
            return {name: value.cpu().clone() for name, value in self.trainer.net.state_dict().items()}

    def _measure(
        self,
        parts: dict[str, Part],
        statistics_images: int,
        own: dict[str, dict[str, torch.Tensor]] | None = None,
        only: str | None = None,
    ) -> tuple[dict[str, dict[str, np.ndarray[Any, Any]]], dict[str, dict[str, torch.Tensor]]]:
        """Logits of every stage on every part, and what they were computed with: statistics and own weights.

        `own`: weights that stages have of their own, instead of those of training; `only` this stage.
        """
        net = self.trainer.net
        sample = self._pixels.batches(self.splits.train.images[:statistics_images])
        batches = {name: self._pixels.batches(part.images) for name, part in parts.items()}
        outputs, statistics = {}, {}
        with self.trainer.measured():
            for name, subnetwork in stages(net.config).items():
                if only not in (None, name):
                    continue
                weights = (own or {}).get(name) or self.trainer.stage_weights(name)
                statistics[name] = reestimate(net, subnetwork, sample, weights)
                outputs[name] = {p: logits(net, subnetwork, statistics[name], b) for p, b in batches.items()}
        return outputs, statistics

    # --- a warm restart -----------------------------------------------------------------------------------------

    def _check_start(self, config: dict[str, Any]) -> None:
        """Raise CheckpointError unless the run to start from is a finished one of this net and these classes."""
        if not self._start:
            if self.recipe.levers.blend:
                raise CheckpointError(
                    "the recipe blends with the weights of a finished run: name it with --start"
                )
            return
        if self.recipe.levers.private_norms:
            raise CheckpointError("private batch norms are not part of trained.pt: no run starts with them")
        for key, own in (("config", config), ("classes", list(self.data.classes)), ("data", self.data.name)):
            if self._start.get(key) != own:
                raise CheckpointError(
                    f"{self.options.start} cannot be started from: its {key} is {self._start.get(key)}, not {own}"
                )

    def _earlier(self) -> list[dict[str, Any]]:
        """What was trained before this run, oldest first: recipe, epochs and seed of every run it started from."""
        if not self._start:
            return []
        recipe = self._start["recipe"]
        last = {"recipe": recipe["name"], "epochs": recipe["epochs"], "seed": self._start["seed"]}
        return [*self._start.get("start", []), last]

    # --- checkpoints --------------------------------------------------------------------------------------------

    @property
    def _checkpoint(self) -> Path:
        return self.options.folder / "checkpoint.pt"

    def _identity(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "classes": list(self.data.classes),
            "data": fingerprint(self.splits.train),
            "start": weights_hash(self._start["net"]) if self._start else None,
        }

    def _save(self) -> None:
        if not self.options.ranks.leads:
            return
        content = self._identity() | {
            "bf16": self.trainer.hardware.bf16,
            "code_commit": self._code_commit,
            "trainer": self.trainer.state(),
        }
        checkpoint.save(self._checkpoint, content)

    def _saved(self) -> dict[str, Any] | None:
        if not self._checkpoint.exists():
            return None
        saved = checkpoint.load(self._checkpoint)
        for key, value in self._identity().items():
            if not _same(key, saved.get(key), value):
                raise CheckpointError(
                    f"{self._checkpoint} belongs to another run: its {key} differs"
                    f"{_difference(key, saved.get(key), value)}; use another --name"
                )
        return saved


def _same(key: str, saved: Any, own: Any) -> bool:
    """Whether a part of a checkpoint's identity fits this run; an older one lacks later fields and the classes."""
    if key == "recipe":
        return bool(Recipe.from_dict(saved).to_dict() == own)
    return bool(saved == own) or (key == "classes" and saved is None)


def _difference(key: str, saved: Any, own: Any) -> str:
    if key == "classes":
        return f" ({', '.join(saved)}, not {', '.join(own)})"
    if key == "recipe":
        old = Recipe.from_dict(saved).to_dict()
        return f" ({', '.join(name for name in own if own[name] != old.get(name))})"
    return ""


FINGERPRINT_BYTES = 1 << 31
"""Of more data than that, evenly spread images are hashed."""


def fingerprint(part: Part) -> str:
    """A hash of a part's images and labels, so that a run is not resumed on other data."""
    digest = hashlib.sha256(part.labels.tobytes())
    images = part.images
    if images.nbytes > FINGERPRINT_BYTES:
        count = FINGERPRINT_BYTES // images[0].nbytes
        images = images[np.linspace(0, len(images) - 1, count).astype(np.int64)]
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


def weights_hash(weights: dict[str, torch.Tensor]) -> str:
    """A hash of a net's weights, so that a run is not resumed from another start."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def code_commit() -> str:
    """The commit of the code in use, with + if the tree has changes; unknown outside a checkout."""
    try:
        command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
