"""`python -m loadtest engines`: its options, and the report that comes of them."""

import argparse
from pathlib import Path
from typing import Any

from loadtest.progress import narrator
from loadtest.rig import REPOSITORY

QUICK_ROUNDS, QUICK_SECONDS = 2, 0.05


class EnginesFailed(Exception):
    """The engine bench could not be run; the text is one line."""


def add_command(commands: Any) -> argparse.ArgumentParser:
    """Add `engines` to the commands; returns its parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "engines", help="every runtime, stage and batch, in process, beside torch"
    )
    command.add_argument("--models-dir", type=Path, default=REPOSITORY / "model_repo" / "models")
    command.add_argument("--model", default="", help="name or name@version (default: the first)")
    command.add_argument("--cpus", default="0", help="cores of all contenders, a thread each (default: 0)")
    command.add_argument(
        "--contenders", nargs="+", metavar="NAME", help="only these (default: all there are)"
    )
    command.add_argument("--rounds", type=int, default=5, help="turns per contender and cell (default: 5)")
    command.add_argument("--seconds", type=float, default=0.3, help="length of a turn (default: 0.3)")
    command.add_argument(
        "--quick", action="store_true", help="short turns and no torch.compile: a first look"
    )
    command.add_argument(
        "--out", type=Path, help="report to write (.md; a folder: engines.md in it); a .json beside it"
    )
    command.add_argument("--raw", type=Path, help="unused: there are no raw records")
    command.add_argument(
        "--function-only", action="store_true", help="do not take the lock, and mark the figures as worthless"
    )
    return command


def run(options: argparse.Namespace, cpus: tuple[int, ...]) -> tuple[str, dict[str, Any], bool]:
    """(Report, figures as JSON values, True: the report names who could not run, and why). Raises EnginesFailed."""
    from loadtest.engines import bench, report  # noqa: PLC0415 - not every load test needs the runtimes
    from model_repo.repository import RepositoryError  # noqa: PLC0415

    rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if options.quick else (options.rounds, options.seconds)
    plan = bench.Plan(options.models_dir, options.model, len(cpus), cpus, rounds, seconds)
    names = options.contenders or bench.contender_names()
    left_out = [name for name in names if options.quick and name.startswith("torch.compile")]
    names = [name for name in names if name not in left_out]
    try:
        figures = bench.bench_engines(plan, names, narrator())
    except (RepositoryError, bench.ContenderDied) as error:
        raise EnginesFailed(str(error)) from error
    if not figures.contenders:
        raise EnginesFailed(f"nobody could run: {figures.not_run}")
    figures.not_run |= dict.fromkeys(left_out, "--quick leaves it out")
    return report.render(figures), figures.to_json(), True
