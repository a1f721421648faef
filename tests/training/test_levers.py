"""The lever table: its rows, and the command that trains them and writes what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.command import main
from training.drop_path import Sampler
from training.levers import BASE, LEVERS, passes, recipe_of


@pytest.mark.parametrize("name", LEVERS)
def test_every_lever_can_be_pulled_and_changes_something(name: str) -> None:
    recipe = recipe_of(name)
    Sampler(recipe, recipe.net(10, 32))
    changed = recipe.with_overrides(name=BASE.name) != BASE
    assert changed == (name != "base")


def test_a_row_may_pull_several_levers() -> None:
    both = recipe_of("nested+average", epochs=3)
    assert both.draws == recipe_of("nested").draws
    assert both.levers == recipe_of("average").levers
    assert both.epochs == 3


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("base", {"column1": 1 / 6, "column2": 1 / 6, "column3": 1 / 6, "full": 0.5}),
        ("nested", {"column1": 0.25, "joined2": 0.25, "full": 0.5}),
        ("tied", {"column1": 1, "column2": 1, "column3": 1, "full": 1}),
        ("sandwich", {"column1": 1, "column2": 1, "column3": 1, "full": 1}),
        ("late", {"column1": 1 / 12, "column2": 1 / 12, "column3": 1 / 12, "full": 0.75}),
        ("plain10", {"full": 1}),
    ],
)
def test_image_passes_are_those_of_the_draws(row: str, expected: dict[str, float]) -> None:
    recipe = recipe_of(row)
    assert passes(recipe, recipe.net(10, 32)) == pytest.approx(expected)


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """260 noisy images of two classes."""
    draws = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(130):
            pixels = draws.integers(0, 128, (32, 32, 3)) + 100 * label
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{i}.png")
    return str(tmp_path / "photos")


def test_rows_are_trained_once_and_the_table_lists_what_was_not_run(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["levers", "--data", photos, "--epochs", "1", "--precision", "float32"]
    assert main([*command, "--rows", "base,plain5", "--seeds", "0,1"]) == 0
    assert main([*command, "--rows", "nested+cutout", "--seeds", "0"]) == 0
    text = Path("docs/results/columns.md").read_text()
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if "|" in line}
    cells = [cell.strip() for cell in lines["plain5"].split("|")[1:-1]]
    assert cells[2] == "0, 1"
    assert "±" in cells[3]
    assert cells[4:6] == ["–", "–"]
    assert "not run" in lines["tied"]
    assert "| base | 0.17 | 0.17 | 0.17 | – | 0.50 |" in text
    assert "| nested+cutout | nested fractals" in text
    beside = text.split("## Columns beside plain nets")[1].split("##")[0]
    assert "2 seeds)" in next(line for line in beside.splitlines() if line.startswith("| base"))
    assert Path("docs/results/columns.png").read_bytes().startswith(b"\x89PNG")
    assert "](columns.png)" in text
    capsys.readouterr()
    times = {p: p.stat().st_mtime_ns for p in Path("runs/levers").rglob("trained.pt")}
    assert len(times) == 5
    assert main([*command, "--rows", "base,plain5", "--seeds", "0,1"]) == 0
    assert times == {p: p.stat().st_mtime_ns for p in times}
    assert main([*command[:-4], "--epochs", "2", "--rows", "base"]) == 2
    assert "another recipe" in capsys.readouterr().err


def test_a_misspelt_row_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["levers", "--data", "digits", "--rows", "base,nosuch"]) == 2
    assert "no lever 'nosuch'" in capsys.readouterr().err
    assert not Path("runs").exists()
