"""OpenVINO's graphs of one batch size beside the one that takes any."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from server.engine.backends import openvino
from server.engine.backends.openvino import OpenVino, fixed_sizes, worth_padding
from tests.models import publish_tiny_model

MB = 1_000_000


@pytest.mark.parametrize(
    ("file_bytes", "room", "max_batch", "sizes"),
    [
        (0, 1000 * MB, 32, [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]),
        (0, 1000 * MB, 20, [1, 2, 3, 4, 6, 8, 12, 16]),
        (0, 1000 * MB, 1, [1]),
        (1 * MB, 17 * MB, 32, [1, 2, 4]),  # 5 MB each beside 2 for all, powers of two first
        (1 * MB, 6 * MB, 32, []),
        (1 * MB, 0, 32, []),
    ],
)
def test_as_many_sizes_as_there_is_room_for(
    file_bytes: int, room: int, max_batch: int, sizes: list[int]
) -> None:
    assert fixed_sizes(file_bytes, room, max_batch) == sizes


def test_a_batch_is_padded_by_half_at_most() -> None:
    assert [images for images in range(1, 14) if worth_padding(12, images)] == [8, 9, 10, 11, 12]


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)[:count]


def test_every_batch_size_gives_what_the_graph_that_takes_any_gives(tmp_path: Path) -> None:
    model = publish_tiny_model(tmp_path)
    plain = OpenVino(1, "f32").load_stage(model, 2, 16)
    fixed = OpenVino(1, "f32", fixed_bytes=1000 * MB).load_stage(model, 2, 16)
    for count in (16, 1, 5, 9, 12, 3, 16, 7):  # after a larger batch the padding holds its images
        got = fixed.run(pixels(count))
        assert got.shape == (count, 10)
        np.testing.assert_allclose(got, plain.run(pixels(count)), rtol=1e-4, atol=1e-4)


def test_the_graph_that_takes_any_size_is_made_only_if_the_others_leave_one_out(tmp_path: Path) -> None:
    model = publish_tiny_model(tmp_path)
    size = len(model.read(model.manifest.stages[2]))
    for room, runs_as in ((1000 * MB, [1, 2, 3, 4, 6, 6, 8, 8]), (0, [1, 2, 3, 4, 5, 6, 7, 8])):
        stage = OpenVino(1, "f32", fixed_bytes=room).load_stage(model, 2, 8)
        assert [stage.runs_as(count) for count in range(1, 9)] == runs_as
        assert stage.sizes_without(8) == ([] if room else runs_as)
    some = OpenVino(1, "f32", fixed_bytes=2 * size + 2 * (2 * size + 3 * MB)).load_stage(model, 2, 8)
    assert [some.runs_as(count) for count in range(1, 9)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert some.run(pixels(7)).shape == (7, 10)


def test_what_a_run_has_given_stays_when_the_next_one_comes(tmp_path: Path) -> None:
    stage = OpenVino(1, "f32", fixed_bytes=1000 * MB).load_stage(publish_tiny_model(tmp_path), 2, 16)
    first = stage.run(pixels(4))
    kept = first.copy()
    stage.run(255 - pixels(4))
    np.testing.assert_array_equal(first, kept)


def test_a_size_that_has_no_graph_runs_on_the_one_that_takes_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_arguments):
        raise RuntimeError("no memory for primitives")

    monkeypatch.setattr(openvino, "_FixedGraph", break_down)
    with caplog.at_level(logging.WARNING):
        stage = OpenVino(1, "f32", fixed_bytes=1000 * MB).load_stage(publish_tiny_model(tmp_path), 2, 2)
    assert stage.run(pixels(2)).shape == (2, 10)
    assert [record.reason for record in caplog.records] == ["no memory for primitives"] * 2
