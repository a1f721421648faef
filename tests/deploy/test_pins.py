"""The pins: exact, complete, hashed for what serves, and free of torch where nothing needs it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints"
GROUPS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


def canonical(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def pins(file: str) -> dict[str, str]:
    text = (CONSTRAINTS / file).read_text()
    return {
        canonical(name): version
        for name, version in re.findall(r"^([\w.-]+)==([\w.+!]+)", text, re.MULTILINE)
    }


@pytest.mark.parametrize("group", ["serve", "train", "loadtest", "dev"])
def test_every_requirement_of_a_group_is_pinned(group: str) -> None:
    missing = {canonical(requirement) for requirement in GROUPS[group]} - pins("all.txt").keys()
    assert not missing


def test_the_gpu_group_is_pinned_by_its_file_and_all() -> None:
    pinned = pins("all.txt") | pins("gpu.txt")
    assert {canonical(requirement) for requirement in GROUPS["gpu"]} <= pinned.keys()


def test_what_serves_is_pinned_and_the_same_in_both_files() -> None:
    serve = pins("serve.txt")
    assert {canonical(requirement) for requirement in GROUPS["serve"]} <= serve.keys()
    assert serve.items() <= pins("all.txt").items()


def test_what_serves_has_hashes_and_no_torch() -> None:
    entries = re.split(r"^(?=\S)", (CONSTRAINTS / "serve.txt").read_text(), flags=re.MULTILINE)
    unhashed = [entry for entry in entries if entry.strip() and "--hash=sha256:" not in entry]
    assert not unhashed
    assert "torch" not in pins("serve.txt")


def test_torch_is_one_release_that_a_cpu_and_a_cuda_build_satisfy() -> None:
    assert re.fullmatch(r"[\d.]+", pins("all.txt")["torch"])
    wanted = {
        requirement for group in GROUPS.values() for requirement in group if canonical(requirement) == "torch"
    }
    assert wanted == {f"torch=={pins('all.txt')['torch']}"}


@pytest.mark.parametrize("file", ["all.txt", "gpu.txt", "serve.txt"])
def test_no_file_of_pins_names_an_index_or_a_host(file: str) -> None:
    text = (CONSTRAINTS / file).read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
