"""One command from a folder of images to a served model. The images are drawn here; see photographs.py."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from model_repo.export import run
from model_repo.images import decode
from model_repo.repository import Repository
from tests.training.photographs import CLASSES, CORRUPT, make
from training.command import main


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("data") / "photos", 200)


def fit(home: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    monkeypatch.chdir(home)
    arguments = ["--data", str(photos), "--name", "pets", "--models-dir", "models", "--size", "32", *more]
    return main(["fit", *arguments])


def test_a_folder_of_photographs_becomes_a_model_that_beats_what_needs_no_training(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path, photos, monkeypatch, "--epochs", "40") == 0
    said = capsys.readouterr()
    for name in CORRUPT:
        assert f"skipped {name}: " in said.err
    assert "skipped 3 files in all" in said.err
    found = re.search(r"held-out images: ([\d.]+) % \(.* class ([\d.]+) %, .* pixels ([\d.]+) %\)", said.out)
    assert found
    model, largest, nearest = map(float, found.groups())
    assert model > max(largest, nearest)
    published = Repository(tmp_path / "models").open("pets", "1")
    assert published.manifest.labels == tuple(sorted(CLASSES))
    (curl,) = (line for line in said.out.splitlines() if line.startswith("curl"))
    words = shlex.split(curl)
    assert words[-1] == "localhost:8000/classify?model=pets&deadline_ms=50"
    image = Path(words[words.index("--data-binary") + 1].removeprefix("@"))
    pixels = decode(image.read_bytes(), published.manifest.input)
    probabilities = run(published.read(published.manifest.stages[-1]), pixels[None])
    assert probabilities.shape == (1, len(CLASSES))


def test_the_same_command_again_goes_on_and_fresh_begins_anew(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path, photos, monkeypatch, "--epochs", "1") == 0
    assert fit(tmp_path, photos, monkeypatch, "--epochs", "9") == 0
    assert "going on with" in capsys.readouterr().out
    log = [json.loads(line) for line in (tmp_path / "runs/pets/log.jsonl").read_text().splitlines()]
    assert len(log) == 1  # it was trained already; only published again
    assert fit(tmp_path, photos, monkeypatch, "--epochs", "2", "--fresh") == 0
    log = [json.loads(line) for line in (tmp_path / "runs/pets/log.jsonl").read_text().splitlines()]
    assert len(log) == 2
    assert Repository(tmp_path / "models").versions("pets") == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--name", "My Pets"], "no model may be called 'My Pets'"),
        (["--data", "/nowhere"], "no data at /nowhere"),
        (["--data", "."], "at least 2 are needed"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(
    change: list[str],
    says: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fit(tmp_path, photos, monkeypatch, *change) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_a_handful_of_images_is_too_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path, make(tmp_path / "few", 30), monkeypatch) == 2
    assert "too few" in capsys.readouterr().err
