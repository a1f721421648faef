"""Each package imports only what its group of requirements installs."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {"server", "model_repo", "training", "loadtest"}
GROUPS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]
# FastAPI stands on these and re-exports most of them; they are always there with it.
WITH_FASTAPI = {"starlette", "anyio"}
# Imported only where a GPU was asked for or has been found: the gpu group brings it.
WITH_A_GPU = {"cuda-bindings", "cuda-pathfinder", "cuda"}  # the last is what it is imported as


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_by(*groups: str) -> set[str]:
    requirements = [requirement for group in groups for requirement in GROUPS[group]]
    return {canonical(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}


def imported(file: Path) -> Iterator[str]:
    """Top-level names of every import in a file, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def foreign(*folders: str, without: str = "") -> dict[str, str]:
    """Distributions that the folders' modules import, each with one file that does."""
    distributions = packages_distributions()
    found: dict[str, str] = {}
    for file in (file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))):
        if without and without in file.as_posix():
            continue
        for name in imported(file):
            if name not in OURS and name not in sys.stdlib_module_names:
                for distribution in distributions.get(name, [name]):
                    found[canonical(distribution)] = str(file.relative_to(ROOT))
    return found


@pytest.mark.parametrize(
    ("folders", "groups", "without"),
    [
        (("server",), ("serve",), "torch_cuda"),
        (("training", "model_repo"), ("train",), ""),
        (("loadtest",), ("loadtest", "serve"), "torch_contender"),
    ],
    ids=["server", "training and model_repo", "loadtest"],
)
def test_a_package_imports_only_what_its_groups_install(
    folders: tuple[str, ...], groups: tuple[str, ...], without: str
) -> None:
    allowed = installed_by(*groups) | WITH_FASTAPI | WITH_A_GPU
    missing = {name: file for name, file in foreign(*folders, without=without).items() if name not in allowed}
    assert not missing
