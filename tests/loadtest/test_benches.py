"""Each bench from end to end against a real process that keeps the wire contract; function, never speed."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from loadtest import accuracy, bench_serve, cli, rig
from loadtest.baselines.bare_fastapi import open_session
from loadtest.overload import bench as bench_overload
from loadtest.overload import report as report_overload
from loadtest.plan import Target
from loadtest.plots import draw_overload
from loadtest.published import read_model
from loadtest.records import load_run
from loadtest.rig import Rig
from loadtest.servers import (
    HOST,
    ServerFailed,
    ServerSettings,
    descendants,
    free_port,
    running,
)
from loadtest.trial import Bench
from tests.loadtest import fake_server as fake
from tests.loadtest.fake_server import FakeServer, fake_server
from tests.loadtest.synthetic import noise_images, noise_zip, png_of
from tests.models import publish_tiny_model


class FakeSettings(ServerSettings):
    """Starts the fake server in place of ours; slow, so that searches of its capacity send little."""

    def command(self, port: int) -> list[str]:
        return [sys.executable, fake.__file__, str(port), "slow"]


@pytest.fixture
def small_rig(tmp_path: Path) -> Rig:
    settings = FakeSettings(tmp_path / "models", tmp_path / "state")
    return Rig(noise_images(), Bench(), settings, tmp_path, probe_s=0.2, probes=2)


@pytest.fixture(autouse=True)
def _short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig, "_LONGEST_PROBE_S", 0.2)
    monkeypatch.setattr(rig, "_GUESS_REQUESTS", 40)
    # Tests share their cores with whatever else runs: here a late sender is no reason to fail.
    monkeypatch.setattr("loadtest.summary.SENDER_LIMIT_MS", 1e9)


def test_a_server_is_started_waited_for_asked_and_stopped(small_rig: Rig) -> None:
    with small_rig.server() as server:
        model = read_model(server)
        assert model.stage_names == fake.LADDER
        assert model.others_ms == pytest.approx(0.5)
        assert (model.name, model.version) == ("tiny", "2")
        assert read_model(server, "tiny") == model
        with pytest.raises(ServerFailed, match="no model that is being served"):
            read_model(server, "gone")
        assert set(server.roles) == {"supervisor", "engine", "frontends"}
        assert server.ready_s > 0
        assert server.memory().resident >= server.memory().proportional > 0
        before = server.cpu_ns()["frontends"]
        small_rig.warm_up(server)
        assert server.cpu_ns()["frontends"] > before
        with pytest.raises(ServerFailed, match="404"):
            server.get("/nowhere")
        pids = descendants(server.pid)
    assert all(not Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_server_that_dies_at_once_fails_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with pytest.raises(ServerFailed, match="no such model"), running(command, free_port(), tmp_path / "log"):
        pytest.fail("it cannot be ready")


def test_a_server_deaf_to_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.servers.STOP_TIMEOUT_S", 0.2)
    deaf = (
        "import signal, runpy, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); sys.argv = sys.argv[1:]; "
    )
    command = [sys.executable, "-c", deaf + "runpy.run_path(sys.argv[0], run_name='__main__')", fake.__file__]
    port = free_port()
    with running([*command, str(port)], port, tmp_path / "log") as server:
        pid = server.pid
    assert not Path(f"/proc/{pid}").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_overload_reports_every_load_and_seed(small_rig: Rig, tmp_path: Path) -> None:
    said: list[str] = []
    small_rig.say = said.append
    figures = bench_overload.bench_overload(small_rig, [1, 2], 0.2, [0.5, 3.0])
    loads = [(0.5, 1), (3.0, 1), (0.5, 2), (3.0, 2)]
    assert [(row.load.multiple, row.seed) for row in figures.rows] == loads
    assert {(row.load.multiple, row.seed) for row in figures.fixed} == set(loads)
    assert len(figures.survey) == len(fake.LADDER) * 2
    assert [row.seed for row in figures.tight.rows] == list(bench_overload.TIGHT_SEEDS)
    assert [row.load.multiple for row in figures.refusals] == 2 * list(bench_overload.HOPELESS_AROUND)
    for block in figures.blocks:
        assert all(row.load.rate <= row.load.multiple * block.before.rate + 1e-9 for row in block.rows)
    for first, second in pairwise(figures.blocks):
        assert second.repeats or second.before == first.after
    report = report_overload.render(figures)
    assert "around the ceiling, seed 2" in report
    assert "3×" in report
    assert any(line.startswith("overload-3x-seed2: ") for line in said)
    json.dumps(figures.to_json(), allow_nan=False)
    draw_overload(figures, tmp_path / "overload.png")
    assert (tmp_path / "overload.png").read_bytes().startswith(b"\x89PNG")
    raw = load_run(tmp_path / "overload-3x-seed2.npz")
    assert len(raw.records) == figures.rows[-1].summary.offered


def test_serve_alternates_with_the_bare_endpoint_and_reports_the_difference(small_rig: Rig) -> None:
    publish_tiny_model(small_rig.settings.models_dir)
    figures = bench_serve.bench_serve(small_rig, repeats=2, block=20, cost_s=0.2)
    assert figures.failures == 0
    assert len(figures.blocks) == 2
    assert figures.difference_ms == pytest.approx(figures.ours_ms - figures.bare_ms - 0.5)
    assert figures.costs[0].us["frontends"] > 0
    assert "with the null engine" in bench_serve.render(figures)
    json.dumps(figures.to_json(), allow_nan=False)


def test_the_bare_endpoint_answers_with_the_full_net(small_rig: Rig) -> None:
    published = publish_tiny_model(small_rig.settings.models_dir, version="2")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    session = open_session(published.path / "full.onnx")
    expected = session.run(None, {session.get_inputs()[0].name: pixels})[0].argmax(axis=1)
    images = noise_images(5)
    payloads = tuple(png_of(image) for image in pixels)
    small_rig.images = type(images)(images.names, payloads, images.media_types, images.labels, images.classes)
    with bench_serve.bare_server(small_rig, "tiny") as bare:
        assert bare.roles == {"server": [bare.pid]}
        run = small_rig.sequential(Target.parse(bare.url), np.arange(5, dtype=np.int32), 1000)
    assert run.records["index"].tolist() == expected.tolist()
    assert run.stages == ("full",)


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with fake_server() as running_fake:
        yield running_fake


def classify(server: FakeServer, path: str, behave: str | None = None) -> accuracy.AccuracyFigures:
    query = {} if behave is None else {"behave": behave}
    target = Target(HOST, server.port, path, query)
    images = noise_images(30)
    run = accuracy.classify_all(target, images, fake.LADDER, deadline_ms=1000, concurrency=4)
    rungs = accuracy.rung_answers(run, fake.LADDER) if path.endswith("stream") else None
    return accuracy.judge(run, rungs)


def test_accuracy_sends_every_image_once(server: FakeServer) -> None:
    before = server.requests
    figures = classify(server, "/classify", "ok,shallow")
    assert server.requests - before == 30
    assert figures.accuracy == 1
    assert {name: count for name, (count, _) in figures.by_stage.items()} == {"column1": 15, "full": 15}
    assert figures.sound


def test_accuracy_of_a_stream_compares_neighbouring_rungs(server: FakeServer) -> None:
    figures = classify(server, "/classify/stream")
    assert figures.pooled == dict.fromkeys(fake.LADDER, 1.0)
    assert list(figures.steps) == ["column1 → joined2", "joined2 → full"]
    assert figures.incomplete_streams == 0
    assert "McNemar" in accuracy.render(figures)


@pytest.mark.parametrize("behave", ["ok,refuse", "ok,hang_up"])
def test_accuracy_with_unanswered_images_is_not_sound(server: FakeServer, behave: str) -> None:
    figures = classify(server, "/classify", behave)
    assert figures.answered == 15
    assert figures.accuracy == 0.5
    assert not figures.sound


def test_mcnemar_agrees_with_the_binomial_and_knows_the_direction() -> None:
    first = np.array([True] * 15 + [False] * 5 + [True] * 100)
    second = np.array([False] * 15 + [True] * 5 + [True] * 100)
    step = accuracy.mcnemar(first, second)
    # Two-sided: twice the chance of at most 5 heads in 20 tosses, 21700 / 2**20.
    assert step.p == pytest.approx(2 * 21_700 / 2**20)
    assert step.second_is_worse
    assert not accuracy.mcnemar(second, first).second_is_worse
    assert accuracy.mcnemar(first, first).p == 1


def test_the_command_line_runs_a_load_and_writes_its_report(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = noise_zip(tmp_path / "images.zip")
    arguments = ["run", "--url", f"http://127.0.0.1:{server.port}", "--multiple", "2", "--capacity", "50"]
    arguments += ["--seconds", "0.3", "--seeds", "1", "2", "--images", str(images), "--function-only"]
    arguments += [
        "--sender-cpu",
        "-1",
        "--raw",
        str(tmp_path / "raw"),
        "--out",
        str(tmp_path / "out" / "run.md"),
    ]
    assert cli.main([*arguments, "--deadline-ms", "20-500"]) == 0
    report = (tmp_path / "out" / "run.md").read_text()
    assert report.strip() in capsys.readouterr().out
    assert "Not a measurement" in report
    document = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [run["seed"] for run in document["runs"]] == [1, 2]
    assert document["machine"]["processor"] in report
    assert (tmp_path / "raw" / "run-seed2.npz").exists()


def test_the_command_line_checks_accuracy_and_keeps_the_answers(server: FakeServer, tmp_path: Path) -> None:
    images = noise_zip(tmp_path / "images.zip")
    arguments = ["accuracy", "--url", f"http://127.0.0.1:{server.port}", "--stream", "--images", str(images)]
    arguments += ["--raw", str(tmp_path / "raw"), "--answers", str(tmp_path / "answers.npz")]
    assert cli.main(arguments) == 0
    with np.load(tmp_path / "answers.npz") as answers:
        assert answers["index"].tolist() == answers["labels"].tolist()
        assert answers["rung_pooled"].shape == (12, 3)
        assert answers["stages_run"].tolist() == [0b111] * 12
        assert answers["names"][0] == "ant/0000.png"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--url", "ftp://x"], "http"),
        (["run", "--url", "http://127.0.0.1:1"], "--rate"),
        (["run", "--url", "http://127.0.0.1:1", "--multiple", "3"], "--capacity"),
        (["accuracy", "--url", "http://127.0.0.1:1"], "GET /models"),
    ],
)
def test_the_command_line_says_what_is_wrong(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = noise_zip(tmp_path / "images.zip")
    rest = ["--images", str(images), "--raw", str(tmp_path), "--function-only", "--seconds", "0.1"]
    if arguments[0] == "accuracy":
        rest = rest[:-2]
    elif "ftp://x" in arguments:
        rest += ["--rate", "1"]
    assert cli.main([*arguments, *rest]) == 2
    assert message in capsys.readouterr().err
