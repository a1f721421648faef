"""The engine bench: real contenders on a tiny ladder, and what its report makes of made-up times."""

from __future__ import annotations

import fcntl
import json
from functools import partial
from pathlib import Path

import pytest

from loadtest import cli
from loadtest.busy import alone
from loadtest.engines.bench import Cell, Contender, Figures, Plan, contender_names
from loadtest.engines.report import ratios, render, share_of_peak
from tests.models import publish_tiny_model

MS = 1e6
BATCHES = (1, 16)


def contender(name: str, precision: str, ms: dict[int, float]) -> Contender:
    cells = {"full": {batch: Cell(ms[batch] * MS, ms[batch] * MS, ms[batch] * MS) for batch in BATCHES}}
    return Contender(name, precision, 0.5, 10_000_000, {}, 0.01, cells)


def made_up(auto_ms: dict[int, float]) -> Figures:
    plan = Plan(Path("models"), "", 1, (0,), batches=BATCHES)
    found = [
        contender("onnxruntime", "f32", {1: 1.0, 16: 16.0}),
        contender("openvino", "bf16", {1: 2.0, 16: 8.0}),
        contender("auto", "bf16+f32", auto_ms),
        contender("torch eager", "f32", {1: 4.0, 16: 20.0}),
    ]
    rates = {"f32": 100e9, "bf16": 200e9}
    return Figures(
        "m@1", {"full": 5_000_000}, plan, rates, {one.name: one for one in found}, {"gone": "not installed"}
    )


SOUND = {1: 1.0, 16: 8.0}


def test_ratios_stand_beside_each_other():
    assert ratios(made_up(SOUND), "full", 16) == {
        "auto / best runtime": 1.0,
        "torch eager / auto": 2.5,
        "best f32 / best bf16": 2.0,
    }


def test_a_share_is_of_the_rate_in_the_contenders_own_precision():
    figures = made_up(SOUND)
    assert share_of_peak(figures, figures.contenders["onnxruntime"], "full", 1) == pytest.approx(0.1)
    assert share_of_peak(figures, figures.contenders["openvino"], "full", 1) == pytest.approx(0.025)
    assert share_of_peak(figures, figures.contenders["auto"], "full", 1) == pytest.approx(0.05)


def test_a_foreign_graph_has_no_share():
    figures = made_up(SOUND)
    figures.multiply_adds["full"] = None
    assert share_of_peak(figures, figures.contenders["auto"], "full", 1) is None
    assert "full" in render(figures)


def test_what_is_asked_is_met_or_not():
    assert "**not met**" not in render(made_up(SOUND))
    text = render(made_up({1: 1.2, 16: 8.0}))
    assert (
        "auto / best runtime at batch 1, 16: 1.20 in the worst cell, asked: at most 1.1: **not met**" in text
    )


def test_who_did_not_run_is_named_with_the_reason():
    assert "- gone: not installed" in render(made_up(SOUND))


def test_a_cell_has_the_median_of_its_rounds_and_their_spread():
    assert Cell.of([3.0, 1.0, 2.0]) == Cell(2.0, 1.0, 3.0)


def test_every_backend_of_the_service_takes_part():
    assert {"onnxruntime", "openvino", "auto", "torch eager", "torch.compile"} <= set(contender_names())
    assert "null" not in contender_names()


@pytest.mark.slow
def test_real_contenders_take_turns_and_leave_a_report(tmp_path):
    publish_tiny_model(tmp_path / "models", stages=2)
    command = ["engines", "--models-dir", str(tmp_path / "models"), "--quick", "--function-only"]
    command += ["--out", str(tmp_path), "--contenders", "onnxruntime", "auto", "torch eager"]
    assert cli.main(command) == 0
    found = json.loads((tmp_path / "engines.json").read_text())
    assert list(found["contenders"]) == ["onnxruntime", "auto", "torch eager"]
    for one in found["contenders"].values():
        assert set(one["cells"]) == {"column1", "full"}
        assert set(one["cells"]["full"]) == {"1", "4", "16", "64"}
        assert one["difference"] < 0.06
        assert one["memory_bytes"] > 0
    assert "Not a measurement" in (tmp_path / "engines.md").read_text()


def test_a_model_that_is_not_there_is_named(tmp_path, capsys):
    assert cli.main(["engines", "--models-dir", str(tmp_path), "--model", "nosuch", "--function-only"]) == 2
    assert "no model nosuch" in capsys.readouterr().err


def test_it_refuses_to_measure_beside_a_training_run(tmp_path, capsys, monkeypatch):
    lock = tmp_path / "lock"
    monkeypatch.setattr(cli, "alone", partial(alone, path=lock))
    with lock.open("a") as training:
        fcntl.flock(training, fcntl.LOCK_SH)
        assert cli.main(["engines", "--models-dir", str(tmp_path)]) == 2
    assert "not a measurement" in capsys.readouterr().err
