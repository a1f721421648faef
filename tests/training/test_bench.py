"""The benchmark of training works and waits its turn. Nothing here judges speed."""

from __future__ import annotations

import fcntl
from contextlib import closing
from pathlib import Path

import pytest

from model_repo.fractalnet import FractalConfig
from training import bench, plain_loop, recipes
from training.busy import MachineBusyError, busy_machine, quiet_machine
from training.command import main
from training.loop import Hardware
from training.recipe import Recipe

CPU = Hardware("cpu", bf16=False)


def recipe() -> Recipe:
    return recipes.find("digits").with_overrides(batch=8)


def test_a_short_benchmark_gives_a_row_for_every_nested_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "computes_bf16", lambda _device: False)
    monkeypatch.setattr("training.bench.os.cpu_count", lambda: 1)
    lines = list(bench.bench(recipe(), bench.random_images(40, size=8), seconds=0.01, rounds=1))
    rows = [line for line in lines if line.startswith(("| column1", "| full"))]
    assert len(rows) == 2
    for line in rows:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1] == "float32"
        assert float(cells[2].replace(",", "")) > 0
        assert float(cells[3].replace(",", "")) > 0


def test_share_is_operations_of_the_stage_by_the_machines_rate() -> None:
    config = FractalConfig(1, (4,), 2, 4)  # 4 x 4 x 27 x 4 + 4 x 2 multiply-adds
    found = bench.measure(
        recipe(), config, "column1", bench.random_images(16, size=4, classes=2), CPU, (0.01, 1, 1e9)
    )
    assert found.share == pytest.approx(6 * (16 * 27 * 4 + 8) * found.ours / 1e9)


def test_the_plain_loop_trains_the_stage_that_it_is_given() -> None:
    config = recipe().net(10, 8)
    train = bench.random_images(24, size=8)
    dataset = plain_loop.PerImage(train)
    image, label = dataset[3]
    assert image.shape == (3, 8, 8)
    assert label == 3
    with closing(plain_loop.steps(recipe(), config, "column1", train, CPU, workers=0)) as turning:
        for _ in range(5):  # beyond one epoch of 3 batches
            next(turning)


def test_the_rate_of_matrix_products_is_a_rate() -> None:
    assert 1e8 < bench.matmul_rate(CPU, 0.01) < 1e15


def test_nothing_is_measured_beside_a_training_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with busy_machine(tmp_path / "runs/.busy.lock"):
        assert main(["bench", "--seconds", "0.01"]) == 2
    assert "is no measurement" in capsys.readouterr().err


def test_training_runs_share_the_machine_and_a_benchmark_has_it_alone(tmp_path: Path) -> None:
    lock = tmp_path / "runs/.busy.lock"
    with busy_machine(lock), busy_machine(lock):
        pass
    with quiet_machine(lock, "a test"):
        assert "a test (pid " in lock.read_text()
        with pytest.raises(MachineBusyError), quiet_machine(lock, "another"):
            pass
        with lock.open("a") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert lock.read_text() == ""


def test_the_machine_is_named() -> None:
    assert "torch" in bench.machine()
    assert "load average" in bench.machine()
