"""`python -m model_repo`: look at the folder of published models. Knows the command line, nothing of the models."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from model_repo.manifest import json_schema
from model_repo.repository import ModelDamaged, Repository


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status (1 when a model is damaged)."""
    parser = argparse.ArgumentParser(prog="python -m model_repo", description="Look at the published models.")
    parser.add_argument("--models-dir", type=Path, default=Path("model_repo/models"), help="folder of models")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every model with its stages, and what is wrong with the damaged ones")
    commands.add_parser("verify", help="check every manifest and every hash; exit 1 if anything is damaged")
    commands.add_parser("schema", help="print the JSON Schema of manifest.json")
    options = parser.parse_args(arguments)
    if options.command == "schema":
        print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
        return 0
    repository = Repository(options.models_dir)
    return _list(repository) if options.command == "list" else _verify(repository)


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
