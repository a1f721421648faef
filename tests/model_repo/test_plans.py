"""Plans on disk: whole or absent, and only for what they were built for."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from model_repo.plans import PlanDamaged, PlanFolder, PlanKey

KEY = PlanKey("ab" * 32, "tensorrt", "11.4.0.106", "NVIDIA L4 sm89", 32)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plans = PlanFolder(tmp_path)
    assert plans.read(KEY) is None
    plans.write(KEY, b"plan\nwith lines\n")
    assert plans.read(KEY) == b"plan\nwith lines\n"
    assert [path.name for path in plans.folder.iterdir()] == [KEY.file_name]


@pytest.mark.parametrize(
    "change",
    [
        {"graph": "cd" * 32},
        {"runtime": "tensorrt-rtx"},
        {"version": "11.4.0.107"},
        {"gpu": "NVIDIA L40 sm89"},
        {"max_batch": 16},
    ],
)
def test_whatever_of_its_key_changes_the_plan_is_not_found(change: dict[str, object], tmp_path: Path) -> None:
    plans = PlanFolder(tmp_path)
    plans.write(KEY, b"plan")
    assert plans.read(replace(KEY, **change)) is None


@pytest.mark.parametrize("harm", [lambda b: b[:-1], lambda b: b"", lambda b: b"{}\n" + b, lambda b: b + b"x"])
def test_a_plan_that_is_not_what_was_written_is_named(harm, tmp_path: Path) -> None:
    plans = PlanFolder(tmp_path)
    plans.write(KEY, b"plan")
    path = plans.path(KEY)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(PlanDamaged, match=KEY.file_name):
        plans.read(KEY)


def test_another_plan_under_its_name_is_damage(tmp_path: Path) -> None:
    plans = PlanFolder(tmp_path)
    other = replace(KEY, version="10.12.0.36")
    plans.write(other, b"plan")
    plans.path(other).rename(plans.path(KEY))
    with pytest.raises(PlanDamaged):
        plans.read(KEY)


def test_a_folder_that_cannot_be_written_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "plans").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        PlanFolder(tmp_path).write(KEY, b"plan")
    assert "plan cannot be kept" in caplog.text


def test_timing_caches_are_shared_by_graphs_and_not_by_versions(tmp_path: Path) -> None:
    plans = PlanFolder(tmp_path)
    assert plans.read_timing(KEY) == b""
    plans.write_timing(KEY, b"times")
    assert plans.read_timing(replace(KEY, graph="cd" * 32, max_batch=1)) == b"times"
    assert plans.read_timing(replace(KEY, version="10.12.0.36")) == b""
