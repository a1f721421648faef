"""From a finished run to a published model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from model_repo.export import ROUNDED_BOUND, ParityError, run
from model_repo.repository import Repository, VersionExists
from training import recipes
from training.checkpoint import save
from training.command import main
from training.data import load
from training.parts import Dataset, split
from training.publish import Trained, choose_ladder
from training.run import Run, RunOptions


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


@pytest.fixture(scope="module")
def home(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run of the digits recipe."""
    home = tmp_path_factory.mktemp("home")
    options = RunOptions(home / "runs" / "digits", precision="float32")
    finished = Run(recipes.find("digits").with_overrides(epochs=4), digits, 0, options)
    finished.train()
    finished.finish()
    return home


def export(home: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.chdir(home)
    return main(["export", "digits", "--data", "digits", "--models-dir", "models", *arguments])


def test_a_published_model_answers_as_torch_does(
    home: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(home, monkeypatch, "--ladder", "all", "--name", "all") == 0
    model = Repository(home / "models").open("all")
    trained = Trained(home / "runs" / "digits" / "trained.pt")
    assert model.manifest.stage_names == ("column1", "column2", "full")
    for stage in model.manifest.stages:
        got = run(model.read(stage), digits.test.images)
        expected = torch.from_numpy(trained.logits(stage.name, "test")).softmax(1).numpy()
        assert np.abs(got - expected).max() < 2 * ROUNDED_BOUND  # on other images than the export looked at
        accuracy = (got.argmax(1) == digits.test.labels).mean()
        assert stage.test_accuracy == pytest.approx(accuracy, abs=0.006)


def test_graphs_take_uint8_pixels_in_batches_of_any_size(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert export(home, monkeypatch, "--name", "shape") == 0
    model = Repository(home / "models").open("shape")
    graph = onnx.load_from_string(model.read(model.manifest.stages[-1])).graph
    (pixels,), (logits,) = graph.input, graph.output
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value for d in pixels.type.tensor_type.shape.dim[1:]] == [8, 8, 3]
    assert pixels.type.tensor_type.shape.dim[0].dim_param
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)


def test_a_graph_says_nothing_of_the_machine_that_made_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(home, monkeypatch, "--name", "quiet") == 0
    model = Repository(home / "models").open("quiet")
    for stage in model.manifest.stages:
        data = model.read(stage)
        assert b".py" not in data
        assert str(Path.cwd()).encode() not in data


def test_versions_count_up_and_none_is_overwritten(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert export(home, monkeypatch, "--name", "counted") == 0
    assert export(home, monkeypatch, "--name", "counted") == 0
    assert Repository(home / "models").versions("counted") == ["1", "2"]
    assert export(home, monkeypatch, "--name", "counted", "--version", "2") == 2
    assert export(home, monkeypatch, "--name", "counted", "--version", "2", "--replace") == 0
    model = Repository(home / "models").open("counted")
    files = {s.file: model.read(s) for s in model.manifest.stages}
    with pytest.raises(VersionExists):
        Repository(home / "models").publish(model.manifest, files)


def test_the_model_card_states_every_stage_and_every_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert export(home, monkeypatch, "--ladder", "nested", "--name", "card") == 0
    card = (home / "models/card/1/README.md").read_text()
    assert "| column2 | no |" in card
    assert "| full | yes |" in card
    assert "| column1, full |" in card
    assert len(re.findall(r"^\| (column1|full) (\| [\d.]+ ){7}\|$", card, re.MULTILINE)) == 2
    assert json.loads((home / "models/card/1/manifest.json").read_text())["provenance"]["recipe"] == "digits"


def test_an_export_that_changes_answers_is_refused_and_leaves_nothing(
    home: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*_args: object) -> Any:
        return np.zeros((len(split(digits).validation), 10), np.float32)

    monkeypatch.setattr("model_repo.export.run", wrong)
    assert export(home, monkeypatch, "--name", "wrong") == 2
    assert "differ from torch" in capsys.readouterr().err
    assert not (home / "models" / "wrong").exists()
    assert issubclass(ParityError, Exception)


def fake_run(tmp_path: Path, home: Path, validation: dict[str, float]) -> Trained:
    """The run's trained.pt with given accuracies on 1,000 validation images."""
    content = Trained(home / "runs" / "digits" / "trained.pt").content
    labels = torch.zeros(1000, dtype=torch.int64)
    for name, accuracy in validation.items():
        logits = torch.zeros(1000, 10)
        logits[: round(1000 * accuracy), 0] = 1
        logits[round(1000 * accuracy) :, 1] = 1
        content["logits"][name]["validation"] = logits
    content["labels"]["validation"] = labels
    save(tmp_path / "trained.pt", content)
    return Trained(tmp_path / "trained.pt")


def test_the_auto_ladder_holds_what_beats_everything_cheaper(tmp_path: Path, home: Path) -> None:
    rising = fake_run(tmp_path, home, {"column1": 0.8, "column2": 0.85, "full": 0.9})
    assert choose_ladder(rising, "auto") == ["column1", "column2", "full"]
    dented = fake_run(tmp_path, home, {"column1": 0.8, "column2": 0.801, "full": 0.9})
    assert choose_ladder(dented, "auto") == ["column1", "full"]
    assert choose_ladder(dented, "columns") == ["column1", "column2", "full"]
    assert choose_ladder(dented, "nested") == ["column1", "full"]


def test_int8_is_published_with_the_accuracy_of_every_precision(
    home: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(home, monkeypatch, "--name", "small", "--precision", "int8", "--accept-loss") == 0
    model = Repository(home / "models").open("small")
    for stage in model.manifest.stages:
        assert stage.precision == "int8"
        assert set(stage.precision_accuracy) == {"fp32", "bf16", "int8"}
        got = run(model.read(stage), digits.test.images)
        assert stage.precision_accuracy["int8"] == pytest.approx((got.argmax(1) == digits.test.labels).mean())
        assert stage.test_accuracy == stage.precision_accuracy["int8"]
    assert "Published in int8" in (home / "models" / "small" / "1" / "README.md").read_text()


def test_a_precision_that_costs_too_much_is_refused_unless_told_to_accept_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.quantised.MAY_LOSE", -1.0)
    assert export(home, monkeypatch, "--name", "refused", "--precision", "int8") == 2
    assert "--accept-loss publishes it all the same" in capsys.readouterr().err
    assert not (home / "models" / "refused").exists()
    assert export(home, monkeypatch, "--name", "refused", "--precision", "int8", "--accept-loss") == 0
