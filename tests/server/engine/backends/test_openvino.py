"""OpenVINO's graphs of one batch size beside the one that takes any."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from server.engine.backends import openvino
from server.engine.backends.openvino import OpenVino, fixed_sizes, pieces
from tests.models import publish_tiny_model

MB = 1_000_000


@pytest.mark.parametrize(
    ("file_bytes", "room", "max_batch", "sizes"),
    [
        (0, 1000 * MB, 32, [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]),
        (0, 1000 * MB, 20, [1, 2, 3, 4, 6, 8, 12, 16]),
        (0, 1000 * MB, 1, [1]),
        (1 * MB, 25 * MB, 32, [1, 2, 4, 8, 16, 32]),  # 4 MB each, powers of two first
        (1 * MB, 17 * MB, 32, [1, 2, 4, 16]),  # those of four before the others
        (1 * MB, 12 * MB, 32, [1, 4, 16]),
        (1 * MB, 11 * MB, 32, []),  # batches would run in too many pieces
        (1 * MB, 0, 32, []),
    ],
)
def test_as_many_sizes_as_there_is_room_for(
    file_bytes: int, room: int, max_batch: int, sizes: list[int]
) -> None:
    assert fixed_sizes(file_bytes, room, max_batch) == sizes


def test_a_batch_is_padded_or_split_as_it_costs_less() -> None:
    some = pieces(32, [1, 4, 16])
    assert [some[count] for count in (0, 1, 2, 5, 6, 8, 9, 16, 20, 28)] == [
        *[(), (1,), (4,), (4, 1), (4, 4), (4, 4), (16,), (16,), (16, 4), (16, 16)]
    ]
    every = pieces(32, fixed_sizes(0, 1000 * MB, 32))
    assert [every[count] for count in (3, 5, 11, 17, 18, 25, 31)] == [
        *[(3,), (6,), (12,), (24,), (24,), (32,), (32,)]
    ]
    for table in (some, every, pieces(5, [1])):
        assert all(sum(sizes) - sizes[-1] < count <= sum(sizes) for count, sizes in enumerate(table) if count)


def pixels(count: int) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)[:count]
    images.flags.writeable = False  # as those that arrive in a message
    return images


def test_every_batch_size_gives_what_the_graph_that_takes_any_gives(tmp_path: Path) -> None:
    model = publish_tiny_model(tmp_path)
    plain = OpenVino(1, "f32").load_stage(model, 2, 16)
    fixed = OpenVino(1, "f32", fixed_bytes=1000 * MB).load_stage(model, 2, 16)
    for count in (16, 1, 5, 9, 12, 3, 16, 7):  # after a larger batch the padding holds its images
        got = fixed.run(pixels(count))
        assert got.shape == (count, 10)
        np.testing.assert_allclose(got, plain.run(pixels(count)), rtol=1e-4, atol=1e-4)


def test_where_there_is_room_for_small_sizes_only_a_batch_runs_in_pieces(tmp_path: Path) -> None:
    model = publish_tiny_model(tmp_path)
    each = 2 * len(model.read(model.manifest.stages[2])) + 2 * MB
    some = OpenVino(1, "f32", fixed_bytes=round(3.1 * each / 0.3)).load_stage(model, 2, 16)
    assert some.runs_as(7) == (4, 4)
    assert some.runs_as(9) == (16,)
    assert some.runs_as(15) == (16,)
    plain = OpenVino(1, "f32").load_stage(model, 2, 16)
    assert plain.runs_as(15) == (15,)
    for count in (7, 9, 15):
        np.testing.assert_allclose(some.run(pixels(count)), plain.run(pixels(count)), rtol=1e-4, atol=1e-4)


def test_the_stages_that_are_loaded_first_get_most_of_the_room(tmp_path: Path) -> None:
    model = publish_tiny_model(tmp_path)
    backend = OpenVino(1, "f32", fixed_bytes=70 * MB)
    counts = [
        sum(stage.runs_as(count) == (count,) for count in range(1, 33))
        for stage in (backend.load_stage(model, 0, 32) for _ in range(5))
    ]
    assert counts == [9, 9, 9, 4, 32]  # nine sizes each, then 1, 2, 4 and 16, and one graph that takes any


def test_what_a_run_has_given_stays_when_the_next_one_comes(tmp_path: Path) -> None:
    stage = OpenVino(1, "f32", fixed_bytes=1000 * MB).load_stage(publish_tiny_model(tmp_path), 2, 16)
    first = stage.run(pixels(4))
    kept = first.copy()
    stage.run(255 - pixels(4))
    np.testing.assert_array_equal(first, kept)


def test_where_a_graph_for_one_size_fails_there_is_the_one_that_takes_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_arguments):
        raise RuntimeError("no memory for primitives")

    monkeypatch.setattr(openvino, "_FixedGraph", break_down)
    with caplog.at_level(logging.WARNING):
        stage = OpenVino(1, "f32", fixed_bytes=1000 * MB).load_stage(publish_tiny_model(tmp_path), 2, 2)
    assert stage.run(pixels(2)).shape == (2, 10)
    assert [record.reason for record in caplog.records] == ["no memory for primitives"]
