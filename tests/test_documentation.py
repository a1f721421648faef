"""The documentation is tested: what a reader can use stands in it, and its links lead somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def documentation() -> str:
    return "\n".join(page.read_text() for page in PAGES)


def makefile_targets() -> list[str]:
    return re.findall(r"^([a-z][a-z-]*):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def metric_names() -> Iterator[str]:
    """Every string literal in server/ that is a metric's name, as the code spells it."""
    for file in sorted((ROOT / "server").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from re.findall(r"^anytime_[a-z_]*[a-z]$", node.value)


def links(page: Path) -> Iterator[str]:
    """Relative targets of a page's links and pictures, without fragments."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in target and not target.startswith(("#", "mailto:")):
            yield target.split("#")[0]


@pytest.mark.parametrize("target", [target for target in makefile_targets() if target != "help"])
def test_every_target_of_make_is_documented(target: str) -> None:
    assert f"make {target}" in documentation()


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented_as_option_and_variable(name: str) -> None:
    text = documentation()
    assert f"--{name.replace('_', '-')}" in text
    assert f"ANYTIME_{name.upper()}" in text


@pytest.mark.parametrize("name", sorted(set(metric_names())))
def test_every_metric_is_documented(name: str) -> None:
    assert name in documentation()


def test_the_server_has_metrics_to_document() -> None:
    assert set(metric_names())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    broken = [target for target in links(page) if not (page.parent / target).exists()]
    assert not broken
