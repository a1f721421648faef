"""`python -m model_repo`: look at the folder of published models, build their TensorRT plans ahead of time.

Knows the command line, nothing of the models.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from model_repo import add_command
from model_repo.build_ahead import build_ahead
from model_repo.manifest import json_schema
from model_repo.nvidia import NoGpu
from model_repo.plan_builder import MODULES, BuildFailed
from model_repo.repository import ModelDamaged, Repository, RepositoryError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status (1 when a model is damaged)."""
    parser = argparse.ArgumentParser(
        prog="python -m model_repo", description="Look at the published models, build plans."
    )
    parser.add_argument("--models-dir", type=Path, default=Path("model_repo/models"), help="folder of models")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every model with its stages, and what is wrong with the damaged ones")
    commands.add_parser("verify", help="check every manifest and every hash; exit 1 if anything is damaged")
    commands.add_parser("schema", help="print the JSON Schema of manifest.json")
    _add_build(commands)
    add_command.add_command(commands)
    options = parser.parse_args(arguments)
    if options.command == "schema":
        print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
        return 0
    if options.command == "add":
        return add_command.run(options)
    repository = Repository(options.models_dir)
    if options.command == "build":
        return _build(repository, options)
    return _list(repository) if options.command == "list" else _verify(repository)


def _add_build(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    build = commands.add_parser(
        "build", help="build the TensorRT plans that the server would build at its start"
    )
    build.add_argument(
        "--model", default="", help="name (its newest version) or name@version; default: every model"
    )
    build.add_argument(
        "--runtime", choices=list(MODULES), default="tensorrt", help="what is to run the plans"
    )
    build.add_argument(
        "--max-batch", type=int, default=32, help="largest batch, as in the server's --max-batch"
    )
    build.add_argument(
        "--state-dir", type=Path, default=Path(".cache/anytime"), help="as in the server's --state-dir"
    )
    build.add_argument("--force", action="store_true", help="build anew what is there already")


def _build(repository: Repository, options: argparse.Namespace) -> int:
    try:
        return build_ahead(
            repository, options.model, options.runtime, options.max_batch, options.state_dir, options.force
        )
    except (ImportError, NoGpu, BuildFailed, RepositoryError) as error:
        print(f"no plan: {error}", file=sys.stderr)
        return 1


def _list(repository: Repository) -> int:
    good, bad = repository.scan()
    for model in good:
        print(f"{model.key}\t{', '.join(model.manifest.stage_names)}\t{model.manifest.description}".rstrip())
    return _complain(bad)


def _verify(repository: Repository) -> int:
    good, bad = repository.scan()
    for model in good:
        print(f"{model.key}: manifest and {len(model.manifest.stages)} files are as published")
    if not good and not bad:
        print(f"no models in {repository.models_dir}")
    return _complain(bad)


def _complain(bad: list[ModelDamaged]) -> int:
    for error in bad:
        print(error, file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
