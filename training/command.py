"""The commands of `python -m training`: list the recipes, train a run, publish it."""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path
from typing import get_args

from model_repo.export import ParityError
from model_repo.repository import RepositoryError
from training import bench, fit, lever_table, listing, recipes, report
from training.busy import MachineBusyError, busy_machine
from training.checkpoint import CheckpointError
from training.data import load
from training.drop_path import REGIMES, Regime
from training.fit import say_skipped
from training.levers import UnknownLeverError
from training.loop import DivergedError, Precision
from training.parts import DataError, split
from training.publish import Ladder, Target, Trained, next_version, publish
from training.quantised import TooMuchLostError, publish_int8
from training.ranks import together
from training.recipe import Augmentation, Recipe
from training.recipes import UnknownRecipeError
from training.run import Run, RunOptions, StopRequestedError
from training.stopping import stop_at_signals

RUNS = Path("runs")

DATA_HELP = (
    "digits; cifar10, cifar100, svhn or svhn-small (official files under data/); an ImageFolder directory or a zip of "
    "one, ImageNet too"
)

ERRORS = (
    UnknownLeverError,
    UnknownRecipeError,
    DataError,
    CheckpointError,
    DivergedError,
    ParityError,
    MachineBusyError,
    RepositoryError,
    TooMuchLostError,
    ValueError,
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
    except ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StopRequestedError as stop:
        print(stop, file=sys.stderr)
        return 3
    except (MemoryError, OSError, RuntimeError) as error:
        if not (lacks_memory(error) or isinstance(error, OSError)):
            raise
        kind = "out of memory: " if lacks_memory(error) else ""
        print(f"error: {kind}{str(error) or 'no room for an object'}".splitlines()[0], file=sys.stderr)
        return 2
    return 0


MEMORY_WORDS = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "start new thread")
ONEDNN_WORDS = ("could not create", "could not execute", "could not initialize")


def lacks_memory(error: BaseException) -> bool:
    """Whether `error` says that the machine, or a limit set on the process, has no more memory to give.

    oneDNN names only what it failed to make, never the reason: under a limit it is the memory.
    """
    if isinstance(error, MemoryError) or any(words in str(error) for words in MEMORY_WORDS):
        return True
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return limited and isinstance(error, RuntimeError) and str(error).startswith(ONEDNN_WORDS)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("list", help="list the recipes").set_defaults(command=list_recipes)
    train_command = commands.add_parser("train", help="train a recipe, resuming where it stopped")
    train_command.set_defaults(command=train)
    train_command.add_argument("recipe", help="a recipe's name, see `list`")
    train_command.add_argument("--data", required=True, help=DATA_HELP)
    train_command.add_argument(
        "--download", action="store_true", help="fetch an official archive if it is not there"
    )
    train_command.add_argument("--name", help="the run's folder under runs/ (default: the recipe's name)")
    train_command.add_argument(
        "--size", type=int, help="height and width in pixels (default: the recipe's, mostly 32)"
    )
    train_command.add_argument(
        "--start",
        metavar="RUN",
        help="a finished run under runs/ whose weights are the first: a warm restart",
    )
    train_command.add_argument("--epochs", type=int, help="instead of the recipe's")
    train_command.add_argument(
        "--drop-path", choices=get_args(Regime), help="the paper's ways of training, instead of the recipe's"
    )
    train_command.add_argument(
        "--augmentation", choices=get_args(Augmentation), help="instead of the recipe's"
    )
    train_command.add_argument("--no-dropout", action="store_true", help="without the recipe's dropout")
    train_command.add_argument("--seed", type=int, default=0)
    train_command.add_argument("--minutes", type=float, help="stop cleanly after so many minutes")
    train_command.add_argument(
        "--precision", choices=get_args(Precision), default="auto", help="auto: whichever is faster here"
    )
    train_command.add_argument(
        "--evaluate-every", type=int, default=5, help="epochs between validation glances"
    )
    for module in (fit, report, bench, lever_table):
        module.add_command(commands, RUNS)
    export_command = commands.add_parser("export", help="publish a finished run as a served model")
    export_command.set_defaults(command=export)
    export_command.add_argument("run", help="the run's name under runs/")
    export_command.add_argument(
        "--data", required=True, help="the run's data, for the parity check on real images"
    )
    export_command.add_argument("--name", help="name of the model (default: the run's)")
    export_command.add_argument("--version", help="default: the next free number")
    export_command.add_argument(
        "--ladder", choices=get_args(Ladder), default="auto", help="which stages to publish"
    )
    export_command.add_argument("--description", default="", help="one sentence for the model card")
    export_command.add_argument("--models-dir", type=Path, default=Path("model_repo/models"))
    export_command.add_argument(
        "--precision", choices=["fp32", "int8"], default="fp32", help="that the published graphs compute in"
    )
    export_command.add_argument(
        "--accept-loss", action="store_true", help="publish int8 even if a stage loses more than 0.3 points"
    )
    export_command.add_argument("--replace", action="store_true", help="replace the version if it is there")
    return top


def list_recipes(_options: argparse.Namespace) -> None:
    """Print every recipe with what it builds and trains."""
    for line in listing.lines():
        print(line)


def train(options: argparse.Namespace) -> None:
    """Train to the end, then measure every stage and write trained.pt."""
    recipe = _recipe(options)
    with busy_machine(RUNS / ".busy.lock"), together() as ranks:
        data = load(options.data, options.size or recipe.image_size, options.download)
        if ranks.leads:
            say_skipped(data)
        folder = RUNS / (options.name or recipe.name)
        start = RUNS / options.start / "trained.pt" if options.start else None
        how = RunOptions(
            folder, options.minutes, options.evaluate_every, options.precision, start=start, ranks=ranks
        )
        run = Run(recipe, data, options.seed, how)
        run.train(stop_at_signals())
        if ranks.leads:
            print(f"trained: {run.finish()}")


def _recipe(options: argparse.Namespace) -> Recipe:
    """The named recipe with the changes that the command line asks for."""
    recipe = recipes.find(options.recipe).with_overrides(
        epochs=options.epochs, augmentation=options.augmentation
    )
    if options.drop_path:
        recipe = recipe.with_overrides(**REGIMES[options.drop_path])
    return recipe.with_overrides(dropout=()) if options.no_dropout else recipe


def export(options: argparse.Namespace) -> None:
    """Publish a finished run."""
    trained = Trained(RUNS / options.run / "trained.pt")
    name = options.name or options.run
    version = options.version or next_version(options.models_dir, name)
    target = Target(options.models_dir, name, version, options.description, options.replace)
    splits = split(load(options.data, trained.config.input_size))
    if options.precision == "int8":
        manifest = publish_int8(trained, options.ladder, splits, target, options.accept_loss)
    else:
        manifest = publish(trained, options.ladder, splits.validation.images, target)
    print(f"published {name}@{version} with {', '.join(manifest.stage_names)} in {options.models_dir}")
