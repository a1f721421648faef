"""`python -m training`: list the recipes, train a run, publish it."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from training import recipes
from training.checkpoint import CheckpointError
from training.data import DataError, load
from training.loop import DivergedError
from training.recipes import UnknownRecipeError
from training.run import Run, RunOptions, StopRequestedError, busy_machine

RUNS = Path("runs")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
    except (UnknownRecipeError, DataError, CheckpointError, DivergedError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StopRequestedError as stop:
        print(stop, file=sys.stderr)
        return 3
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("list", help="list the recipes").set_defaults(command=list_recipes)
    train_command = commands.add_parser("train", help="train a recipe, resuming where it stopped")
    train_command.set_defaults(command=train)
    train_command.add_argument("recipe", help="a recipe's name, see `list`")
    train_command.add_argument("--data", required=True, help="digits, an ImageFolder directory or a zip of one")
    train_command.add_argument("--name", help="the run's folder under runs/ (default: the recipe's name)")
    train_command.add_argument("--size", type=int, default=32, help="height and width in pixels (default 32)")
    train_command.add_argument("--epochs", type=int, help="instead of the recipe's")
    train_command.add_argument("--seed", type=int, default=0)
    train_command.add_argument("--minutes", type=float, help="stop cleanly after so many minutes")
    train_command.add_argument("--evaluate-every", type=int, default=5, help="epochs between validation glances")
    return top


def list_recipes(_options: argparse.Namespace) -> None:
    """Print every recipe with what it trains."""
    for name in recipes.names():
        recipe = recipes.find(name)
        drawn = "tied" if recipe.tied else ", ".join(f"{k} {v:g}" for k, v in recipe.draws.items())
        print(f"{name:16} C={recipe.columns} channels={recipe.channels} epochs={recipe.epochs} draws: {drawn}")


def train(options: argparse.Namespace) -> None:
    """Train to the end, then measure every stage and write trained.pt."""
    recipe = recipes.find(options.recipe).with_overrides(epochs=options.epochs)
    with busy_machine(RUNS / ".busy.lock"):
        data = load(options.data, options.size)
        for name, reason in data.skipped:
            print(f"skipped {name}: {reason}", file=sys.stderr)
        if data.skipped:
            print(f"skipped {len(data.skipped)} files in all", file=sys.stderr)
        folder = RUNS / (options.name or recipe.name)
        run = Run(recipe, data, options.seed, RunOptions(folder, options.minutes, options.evaluate_every))
        stopped: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda n, _frame: stopped.append(n))
        run.train(lambda: bool(stopped))
        print(f"trained: {run.finish()}")


if __name__ == "__main__":
    sys.exit(main())
