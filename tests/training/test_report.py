"""The report of a run, from its files to one page that needs no other."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch

from model_repo.calibration import accuracy, nll
from model_repo.fractalnet import FractalConfig, column, cost, full
from training import recipes
from training.checkpoint import load as load_checkpoint
from training.checkpoint import save
from training.command import main
from training.data import load
from training.insight import drawing, measures
from training.insight import results as figures
from training.insight.record import read_log
from training.insight.style import GREY, stage_colour
from training.parts import DataError
from training.publish import Trained
from training.run import GLANCES, Run, RunOptions


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished fractal run and one of a plain net."""
    home = tmp_path_factory.mktemp("home")
    for name, columns in (("fractal", 2), ("plain", 1)):
        changes: dict[str, Any] = {"epochs": 3, "columns": columns}
        if columns == 1:
            changes["draws"] = {"column1": 1}
        recipe = recipes.find("digits").with_overrides(**changes)
        options = RunOptions(home / "runs" / name, evaluate_every=1, precision="float32")
        run = Run(recipe, load("digits"), 0, options)
        run.train()
        run.finish()
    return home


@pytest.fixture(scope="module")
def trained(home: Path) -> Trained:
    return Trained(home / "runs/fractal/trained.pt")


def test_the_page_is_whole_and_asks_for_nothing_from_outside(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    assert main(["report", "fractal", "--plain", "plain", "--ladder", "all"]) == 0
    assert "runs/fractal/report.html" in capsys.readouterr().out
    page = (home / "runs/fractal/report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "<script" not in page
    pictures = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert len(pictures) == 7
    for picture in pictures:
        assert ET.fromstring(base64.b64decode(picture)).tag.endswith("svg")
    for heading in ("Every stage alone", "The ladder", "Reliability", "Confusion", "Training", "The net"):
        assert f"<h2>{heading}</h2>" in page
    for stage in ("column1", "column2", "full"):
        assert f"<td>{stage}</td>" in page
    assert "full after column2" in page


def test_an_unfinished_run_has_no_report_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", "nosuch"]) == 2
    assert "trained.pt" in capsys.readouterr().err


def test_a_run_whose_log_is_of_an_earlier_version_has_a_report_too(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    save(folder / "trained.pt", load_checkpoint(home / "runs/fractal/trained.pt"))
    lines = [json.loads(line) for line in (home / "runs/fractal/log.jsonl").read_text().splitlines()]
    kept = [
        {k: v for k, v in line.items() if k not in ("training_loss", "validation_loss")} for line in lines
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    from training.report import report

    assert "no losses of single stages" in report(folder)


def test_the_log_has_every_stage_with_its_own_statistics_at_each_glance(home: Path) -> None:
    log = read_log(home / "runs/fractal")
    for group in GLANCES:
        curves = log.curves(group)
        assert set(curves) == {"column1", "column2", "full"}
        assert all(curve.epochs == (1, 2, 3) for curve in curves.values())
    assert all(c.values[-1] < c.values[0] for c in log.curves("training_loss").values())
    assert set(log.curves("loss")) == {"column1", "local"}


def test_of_an_epoch_trained_twice_the_later_line_counts(tmp_path: Path) -> None:
    lines = [
        {"epoch": 1, "seconds": 1, "loss": {"local": 3.0}},
        {"epoch": 2, "seconds": 1, "loss": {"local": 2.5}},
        {"epoch": 2, "seconds": 1, "loss": {"local": 2.0, "column1": 2.2}},
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    log = read_log(tmp_path)
    assert log.curves("loss")["local"].values == (3.0, 2.0)
    assert log.curves("loss")["column1"].epochs == (2,)
    assert log.seconds == 2


def test_a_log_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log\.jsonl"):
        read_log(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"epoch": 1')
    with pytest.raises(DataError, match=r"log\.jsonl"):
        read_log(tmp_path)


def test_measures_agree_with_the_logits(trained: Trained) -> None:
    found = measures.results(trained, "all")
    labels = trained.labels("test")
    assert [row.name for row in found.stages] == ["column1", "column2", "full"]
    for row in found.stages:
        logits = torch.from_numpy(trained.logits(row.name, "test"))
        assert row.raw.accuracy == row.calibrated.accuracy == accuracy(logits.numpy(), labels)
        assert row.raw.nll == pytest.approx(nll(logits.softmax(1).numpy(), labels), rel=1e-5)
        assert row.cost == cost(trained.net, trained.stages[row.name])
    assert [len(row.rungs) for row in found.prefixes] == [1, 2, 3]
    # Two ways to one distribution, in float32: how the last bit is rounded is the processor's.
    alone, pooled = asdict(found.prefixes[0].deepest), asdict(found.prefixes[0].pooled)
    assert pooled == pytest.approx(alone, rel=1e-6)
    assert pooled["accuracy"] == alone["accuracy"]
    for row in found.prefixes:
        if not row.used:
            assert row.pooled.accuracy == row.deepest.accuracy
    assert [(row.before, row.after) for row in found.neighbours] == [
        ("column1", "column2"),
        ("column2", "full"),
    ]
    gap = found.neighbours[0].found.gained - found.neighbours[0].found.lost
    assert gap == round(
        len(labels) * (trained.accuracy("column2", "test") - trained.accuracy("column1", "test"))
    )


def test_a_pool_that_lost_on_the_test_part_is_marked() -> None:
    good, bad = measures.Measures(0.9, 0.3, 0.01, 0.02), measures.Measures(0.8, 0.5, 0.01, 0.02)
    assert measures.PrefixRow(("a", "b"), True, good, bad).holds
    assert not measures.PrefixRow(("a", "b"), True, bad, good).holds
    assert measures.PrefixRow(("a", "b"), False, good, good).holds


def test_confusion_counts_by_truth_and_names_the_commonest_mistakes(trained: Trained) -> None:
    answers = np.eye(3, dtype=np.float32)[[0, 1, 1, 1, 2, 0]]
    labels = np.array([0, 0, 0, 1, 2, 2])
    table = measures.confusion(answers, labels, 3)
    assert table.tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 1]]
    found = measures.Results((), (), (), answers, labels)
    assert figures.most_confused(found, ("a", "b", "c")) == [("a", "b", 2), ("c", "a", 1)]


def test_a_reliability_diagram_has_each_image_once_and_sits_where_it_belongs() -> None:
    probabilities = np.array([[0.95, 0.05], [0.96, 0.04], [0.55, 0.45]], np.float32)
    found = measures.reliability(probabilities, np.array([0, 1, 0]), bins=10)
    assert found.count.tolist() == [1, 2]
    np.testing.assert_allclose(found.confidence, [0.55, 0.955], rtol=1e-6)
    assert found.accuracy.tolist() == [1.0, 0.5]


def boxes(figure: Any) -> list[str]:
    """Edge colours of all layers in a drawing."""
    return [
        to_hex(p.get_edgecolor())
        for axes in figure.axes
        for p in axes.patches
        if isinstance(p, FancyBboxPatch)
    ]


CONFIG = FractalConfig(3, (4, 8), 5, 8)


def test_a_drawing_of_the_net_has_a_box_for_every_layer() -> None:
    fractals = sum((1 << k) - 1 for k in (1, 2, 3))  # f_1, f_2, f_3 have 1, 3 and 7 layers
    assert len(boxes(drawing.draw_net(CONFIG))) == fractals + 2 * 7


@pytest.mark.parametrize(("k", "layers"), [(1, 1), (2, 2), (3, 4)])
def test_a_column_alone_is_drawn_with_everything_else_grey(k: int, layers: int) -> None:
    drawn = boxes(drawing.draw_subnetworks(CONFIG, [("x", column(CONFIG, k))]))
    assert len(drawn) == 2 * 7
    assert sum(colour != GREY for colour in drawn) == 2 * layers
    assert GREY not in boxes(drawing.draw_subnetworks(CONFIG, [("x", full(CONFIG))]))


@pytest.mark.parametrize("family", ["plain", "residual"])
def test_nets_of_one_column_are_drawn_too(family: Any) -> None:
    config = FractalConfig(3, (4, 8), 5, 8, family=family)
    assert len(boxes(drawing.draw_net(config))) == 2 * 4
    assert drawing.sampled_subnetworks(config, 0.15, torch.Generator()) == []


def test_stages_have_colours_of_their_own() -> None:
    names = ["column1", "column2", "column3", "joined2", "joined3", "full"]
    assert len({stage_colour(n) for n in names}) == len(names)
