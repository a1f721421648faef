"""`python -m training fit`: a user's own images to a served model in one command.

Looks at the data, plans (training.plan), times a few steps, trains within the minutes, publishes, compares with what
needs no training, and prints the line that uses the model.
"""

from __future__ import annotations

import argparse
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from model_repo.calibration import accuracy
from model_repo.image_header import ImageError, read_header
from model_repo.manifest import Manifest, Name
from model_repo.pooling import pool, stage_log_probabilities
from training import baselines, checkpoint, plan
from training.busy import busy_machine
from training.data import SUFFIXES, load
from training.loop import Hardware, Precision, Trainer, choose_hardware
from training.parts import Dataset, Splits, split
from training.publish import Target, Trained, next_version, publish
from training.recipe import Augmentation, Recipe
from training.run import Run, RunOptions, StopRequestedError
from training.stopping import stop_at_signals

SAMPLE = 200
"""Images whose headers are read to choose the input size."""

TIMED_SECONDS = 6.0
TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}


@dataclass(frozen=True)
class FitOptions:
    """What the user asked for; None leaves it to the plan.

    `fresh`: forget what an earlier run of that name has trained.
    """

    data: str
    name: str
    folder: Path
    models_dir: Path
    size: int | None = None
    epochs: int | None = None
    minutes: float | None = None
    seed: int = 0
    augmentation: Augmentation = "++"
    fresh: bool = False


def add_command(commands: Any, runs: Path) -> None:
    """Add `fit` to the subcommands of `python -m training`; its runs lie in `runs`."""
    command = commands.add_parser("fit", help="train on your own images and publish, in one command")
    command.set_defaults(command=partial(_command, runs))
    command.add_argument("--data", required=True, help="a folder or a zip of one: [split/]class/image")
    command.add_argument("--name", required=True, help="the model's, and of the run's folder under runs/")
    command.add_argument("--size", type=int, help="height and width in pixels (default: by the images')")
    command.add_argument("--epochs", type=int, help="default: by the number of images, and the time")
    command.add_argument("--minutes", type=float, help="plan for training within so many minutes")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--augmentation",
        choices=get_args(Augmentation),
        default="++",
        help="none where a mirrored image means something else (default ++: mirror and shift)",
    )
    command.add_argument("--fresh", action="store_true", help="forget an earlier run of that name")
    command.add_argument("--models-dir", type=Path, default=Path("model_repo/models"))


def _command(runs: Path, options: argparse.Namespace) -> None:
    asked = FitOptions(
        data=options.data,
        name=options.name,
        folder=runs / options.name,
        models_dir=options.models_dir,
        size=options.size,
        epochs=options.epochs,
        minutes=options.minutes,
        seed=options.seed,
        augmentation=options.augmentation,
        fresh=options.fresh,
    )
    with busy_machine(runs / ".busy.lock"):
        fit(asked, stop_at_signals())


def fit(options: FitOptions, stop_asked: Callable[[], bool] = lambda: False) -> Manifest:
    """Everything from the images to the published model.

    Raises:
        DataError: the images cannot be used.
        ValueError: no model may have that name.
        StopRequestedError: `stop_asked` said so; the same command goes on from there.
    """
    _check_name(options.name)
    files = _files(options.data)
    size = options.size or plan.input_size(_short_sides(files))
    print(f"reading {len(files) or 'the'} images at {size} x {size} pixels")
    data = load(options.data, size, test_share=plan.test_share(len(files)))
    say_skipped(data)
    splits = split(data)
    recipe, precision = _recipe(options, data, splits)
    run_options = RunOptions(
        options.folder,
        evaluate_every=max(1, recipe.epochs // 8),
        precision=precision,
        one_bar=True,
    )
    run = Run(recipe, data, options.seed, run_options)
    try:
        run.train(stop_asked)
    except StopRequestedError as stop:
        raise StopRequestedError(f"{stop}; the same command goes on from there") from stop
    trained = Trained(run.finish())
    manifest = _publish(trained, splits, options)
    print(comparison(trained, manifest, splits))
    print(how_to_use(manifest, files))
    return manifest


def say_skipped(data: Dataset) -> None:
    """Name and count the files that are no readable image."""
    for name, reason in data.skipped:
        print(f"skipped {name}: {reason}", file=sys.stderr)
    if data.skipped:
        print(f"skipped {len(data.skipped)} files in all", file=sys.stderr)


def _check_name(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise ValueError(
            f"no model may be called {name!r}: a name has 1 to 64 of a-z, 0-9, '.', '_' and '-', and starts with a "
            "letter or digit"
        ) from error


# --- looking at the data ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Image:
    """One image file: how a shell names it, and how to read it."""

    path: str
    read: Callable[[], bytes]


def _files(source: str) -> list[_Image]:
    """Image files of a folder or a zip; none for a built-in data set."""
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        return [_Image(str(p), p.read_bytes) for p in found]
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        names = sorted(n for n in archive.namelist() if Path(n).suffix.lower() in SUFFIXES)
        return [_Image(Path(n).name, lambda n=n: archive.read(n)) for n in names]  # type: ignore[misc]
    return []


def _short_sides(files: list[_Image]) -> list[int]:
    return [min(header) for header in _sizes(files[:: max(1, len(files) // SAMPLE)])]


def _sizes(files: list[_Image]) -> Iterator[tuple[int, int]]:
    for file in files:
        try:
            header = read_header(file.read())
        except (ImageError, OSError, zipfile.BadZipFile):
            continue  # loading will name it
        yield header.width, header.height


# --- planning -----------------------------------------------------------------------------------------------------


def _recipe(options: FitOptions, data: Dataset, splits: Splits) -> tuple[Recipe, Precision]:
    """The recipe that an interrupted run began with, or a new plan that fits into the time."""
    saved = options.folder / "checkpoint.pt"
    if options.fresh:
        saved.unlink(missing_ok=True)
        (options.folder / "log.jsonl").unlink(missing_ok=True)
    if saved.exists():
        content = checkpoint.load(saved)
        print(f"going on with {options.folder}; --fresh begins anew")
        return Recipe.from_dict(content["recipe"]), "bf16" if content["bf16"] else "float32"
    train = len(splits.train)
    wanted = plan.recipe(train, options.augmentation, wide=torch.cuda.is_available())
    config = wanted.net(len(data.classes), data.input_size)
    hardware = choose_hardware(config, wanted.batch, "auto")
    limit = options.minutes or plan.minutes(train)
    epoch_seconds = _epoch_seconds(wanted, data, splits, hardware)
    schedule = plan.within(wanted.epochs, epoch_seconds, 60 * limit)
    chosen = replace(wanted, epochs=options.epochs or schedule.epochs)
    seconds = epoch_seconds * chosen.epochs
    precision: Precision = "bf16" if hardware.bf16 else "float32"
    print(
        f"{train} images train {chosen.columns} columns for {chosen.epochs} epochs of {epoch_seconds:.1f} s, about "
        f"{seconds / 60:.1f} minutes in {precision}"
        + (f"; {wanted.epochs} would be better: raise --minutes" if chosen.epochs < wanted.epochs else "")
    )
    return chosen, precision


def _epoch_seconds(recipe: Recipe, data: Dataset, splits: Splits, hardware: Hardware) -> float:
    """Time of an epoch, from real steps of a trainer that is then thrown away."""
    config = recipe.net(len(data.classes), data.input_size)
    trainer = Trainer(recipe.with_overrides(epochs=1_000), config, splits.train, 0, hardware)
    begun = time.perf_counter()
    times: list[float] = []
    while not times or (len(times) < 20 and time.perf_counter() - begun < TIMED_SECONDS):
        last = time.perf_counter()
        for _ in trainer.rest_of_epoch():
            times.append(time.perf_counter() - last)
            last = time.perf_counter()
            if len(times) >= 20 or last - begun > TIMED_SECONDS:
                break
    steady = times[1:] or times  # the first step also prepares
    return float(np.mean(steady)) * trainer.steps_per_epoch


# --- the end ------------------------------------------------------------------------------------------------------


def _publish(trained: Trained, splits: Splits, options: FitOptions) -> Manifest:
    version = next_version(options.models_dir, options.name)
    target = Target(options.models_dir, options.name, version, f"Trained on {Path(options.data).name}.")
    manifest = publish(trained, "auto", splits.train.images, target)
    rungs = ", ".join(manifest.stage_names)
    print(f"published {manifest.name}@{manifest.version} with {rungs} in {options.models_dir}")
    return manifest


def served_accuracy(trained: Trained, manifest: Manifest) -> float:
    """Accuracy on the test part of the answer that all rungs together give."""
    found = manifest.pools[",".join(manifest.stage_names)]
    logp = [stage_log_probabilities(trained.logits(s.name, "test"), s.temperature) for s in manifest.stages]
    return accuracy(pool(logp, found.weights, found.temperature), trained.labels("test"))


def comparison(trained: Trained, manifest: Manifest, splits: Splits) -> str:
    """One line: the model on the held-out part, beside answers that need no training."""
    served = 100 * served_accuracy(trained, manifest)
    simple = (
        f"always the largest class {100 * baselines.largest_class(splits.train, splits.test):.1f} %, "
        f"nearest class mean on pixels {100 * baselines.nearest_class_mean(splits.train, splits.test):.1f} %"
    )
    return f"accuracy on {len(splits.test)} held-out images: {served:.1f} % ({simple})"


def how_to_use(manifest: Manifest, files: list[_Image]) -> str:
    """The commands that serve the model and ask it."""
    path = files[0].path if files else "photo.jpg"
    kind = TYPES[Path(path).suffix.lower()]
    quoted = "'" + path.replace("'", "'\\''") + "'"
    return (
        "use it: make serve, then\n"
        f"curl --data-binary @{quoted} -H 'Content-Type: {kind}' "
        f"'localhost:8000/classify?model={manifest.name}&deadline_ms=50'"
    )
