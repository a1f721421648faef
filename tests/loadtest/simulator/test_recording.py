"""A recording comes back as it was written, and one that does not fit is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loadtest.simulator import durations, recording
from loadtest.simulator.gpu_shaped import convolutions, gpu_shaped, read_shape
from loadtest.simulator.recording import Recording, RecordingError
from model_repo.manifest import Stage
from model_repo.repository import Repository
from server.engine.latency import LatencyTable

from .worlds import STAGES, model

MODELS = Path(__file__).resolve().parents[3] / "model_repo" / "models"


def toy(hash_: str = "abc") -> Recording:
    known = model(37)
    samples = {(k, b): np.array([100, 300, 200], np.int64) * b * (k + 1) for k in range(3) for b in (1, 2)}
    stalled = {cell: np.array([False, True, False]) for cell in samples}
    header = {"model": "toy@1", "hash": hash_, "stages": list(STAGES)}
    return Recording(header, known.confidence, known.right, samples, stalled)


def test_a_recording_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "toy-1.npz"
    recording.save(toy(), path)
    back = recording.load(path)
    assert np.array_equal(back.right, toy().right)
    assert np.allclose(back.confidence, toy().confidence, atol=1e-5)
    assert back.samples.keys() == toy().samples.keys()
    assert all(np.array_equal(back.samples[c], toy().samples[c]) for c in back.samples)
    assert all(np.array_equal(back.stalled[c], toy().stalled[c]) for c in back.stalled)
    assert back.stages == STAGES


def test_a_missing_recording_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="python -m loadtest record"):
        recording.load(tmp_path / "toy-1.npz")


@pytest.mark.parametrize("damage", ["header", "arrays", "format", "runs_as"])
def test_a_damaged_recording_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "toy-1.npz"
    recording.save(toy(), path)
    if damage == "header":
        path.with_suffix(".json").write_text("{")
    elif damage == "arrays":
        np.savez(path, confidence=np.zeros((2, 2), np.uint16))
    else:
        header = json.loads(path.with_suffix(".json").read_text())
        wrong = {"format": 99} if damage == "format" else {"runs_as": [[[0], [1], [1]]] * 3}
        path.with_suffix(".json").write_text(json.dumps(header | wrong))
    with pytest.raises(RecordingError, match=r"toy-1\.npz is damaged"):
        recording.load(path)


def test_a_recording_of_other_weights_is_refused(tmp_path: Path) -> None:
    published = Repository(MODELS).open("cifar10")
    recording.save(toy("0123"), recording.path_of("cifar10", published.manifest.version, tmp_path))
    with pytest.raises(RecordingError, match=f"other weights or pools than {published.key}"):
        recording.load_for(published, tmp_path)


def test_samples_that_met_a_stall_are_left_out_unless_they_are_wanted() -> None:
    calm = durations.from_recording(toy(), with_stalls=False)
    raw = durations.from_recording(toy(), with_stalls=True)
    assert set(calm.quantiles[0][1]) == {100, 200}
    assert set(raw.quantiles[0][1]) == {100, 200, 300}
    assert raw.profile[0][1] == calm.profile[0][1] == 150


def test_a_padded_or_split_batch_takes_as_long_as_what_it_is_run_in() -> None:
    recorded = toy()
    samples = {(k, b): values * b for (k, b), values in recorded.samples.items()} | {
        (k, 4): recorded.samples[k, 1] * 16 for k in range(3)
    }
    stalled = {cell: np.zeros(3, np.bool_) for cell in samples}
    plain = durations.from_recording(replace(recorded, samples=samples, stalled=stalled), with_stalls=True)
    header = {**recorded.header, "runs_as": [[[0], [1], [1, 1], [4], [4]]] * 3}
    padded = durations.from_recording(
        Recording(header, recorded.confidence, recorded.right, samples, stalled), with_stalls=True
    )
    assert plain.quantiles[0][3] < plain.quantiles[0][4]
    assert padded.quantiles[0][3] == padded.quantiles[0][4] == plain.quantiles[0][4]
    assert padded.quantiles[0][2] == [2 * ns for ns in plain.quantiles[0][1]]
    assert LatencyTable(padded.profile, 4, padded.runs_as).typical_ns(0, 3) == padded.profile[0][4]


def test_a_joined_fractal_runs_all_of_its_columns() -> None:
    def stage(name: str, depth: int) -> Stage:
        return Stage(name=name, file="f.onnx", sha256="0" * 64, depth=depth)

    counts = [
        convolutions(stage(n, d), 5)
        for n, d in (("column1", 5), ("joined2", 10), ("full", 20), ("column3", 20))
    ]
    assert counts == [5, 15, 35, 20]


def test_on_the_gpu_shaped_table_a_batch_is_nearly_free() -> None:
    manifest = Repository(MODELS).open("cifar10").manifest
    mean_ns = gpu_shaped(manifest, read_shape()).mean_ns()
    assert (mean_ns[:, 31] < 1.25 * mean_ns[:, 0]).all()
    assert (np.diff(mean_ns[:, 0]) > 0).all()


def test_a_broken_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gpu_shaped.json"
    path.write_text('{"shape": {"launch_ns": 1}}')
    with pytest.raises(RecordingError, match="cannot be used"):
        read_shape(path)
