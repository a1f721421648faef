"""`python -m model_repo add`: graphs from elsewhere become a ladder, or nothing is published and it says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from model_repo.__main__ import main
from model_repo.foreign import GraphRefused, Preparation, prepare
from model_repo.repository import Repository
from tests.model_repo.foreign_graphs import COLOURS, MEAN, STD, colour_graph, colour_images

NORMAL = ["--mean", *map(str, MEAN), "--std", *map(str, STD)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three graphs, a list of labels and a folder of images."""
    for name, channels, noise in (("small", 3, 0.9), ("medium", 6, 0.3), ("large", 12, 0.0)):
        (tmp_path / f"{name}.onnx").write_bytes(colour_graph(channels, noise=noise))
    (tmp_path / "labels.txt").write_text("\n".join(COLOURS) + "\n")
    colour_images(tmp_path / "images")
    return tmp_path


def add(home: Path, *extra: str, stages: tuple[str, ...] = ("small", "medium", "large")) -> int:
    command = ["--models-dir", str(home / "models"), "add", "--name", "mine"]
    command += ["--stages", *(str(home / f"{name}.onnx") for name in stages)]
    command += ["--labels", str(home / "labels.txt"), "--calibrate", str(home / "images"), *extra]
    return main(command)


def published(home: Path) -> list[str]:
    return Repository(home / "models").names()


def test_three_graphs_become_a_ladder_with_measured_accuracies(home, capsys):
    assert add(home, *NORMAL) == 0
    model = Repository(home / "models").open("mine")
    assert model.manifest.stage_names == ("small", "medium", "large")
    assert model.manifest.labels == tuple(COLOURS)
    assert model.manifest.stages[-1].test_accuracy == 1.0
    assert model.manifest.stages[0].multiply_adds < model.manifest.stages[2].multiply_adds
    assert all(stage.depth is None for stage in model.manifest.stages)
    said = capsys.readouterr().out
    assert "curl --data-binary @" in said
    assert "localhost:8000/classify?model=mine" in said


def test_adding_again_makes_the_next_version(home):
    assert add(home, *NORMAL) == add(home, *NORMAL) == 0
    assert Repository(home / "models").versions("mine") == ["1", "2"]


def test_what_is_published_gives_the_graphs_own_logits_of_normalised_images(home):
    assert add(home, *NORMAL) == 0
    model = Repository(home / "models").open("mine")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    normal = ((pixels / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    for stage in model.manifest.stages:
        original = (home / stage.file).read_bytes()
        expected = onnxruntime.InferenceSession(original).run(None, {"x": normal})[0]
        found = onnxruntime.InferenceSession(model.read(stage)).run(None, {"served_pixels": pixels})[0]
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"layout": "nhwc"}, {}),
        ({"layout": "nhwc", "kind": TensorProto.UINT8}, {}),
        ({"size": "s"}, {"size": 8}),
    ],
)
def test_other_layouts_types_and_open_sizes_are_understood(tmp_path, options, given):
    (tmp_path / "g.onnx").write_bytes(colour_graph(**options))
    served = prepare(tmp_path / "g.onnx", Preparation(**given))
    assert (served.height, served.width) == (8, 8)
    session = onnxruntime.InferenceSession(served.onnx)
    assert session.get_inputs()[0].type == "tensor(uint8)"
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert session.run(None, {session.get_inputs()[0].name: red})[0].argmax() == 0


def test_a_final_softmax_is_left_out(tmp_path):
    (tmp_path / "plain.onnx").write_bytes(colour_graph())
    (tmp_path / "soft.onnx").write_bytes(colour_graph(softmax=True))
    pixels = np.full((1, 8, 8, 3), 99, np.uint8)
    plain, soft = (
        onnxruntime.InferenceSession(prepare(tmp_path / f"{n}.onnx", Preparation()).onnx).run(
            None, {"served_pixels": pixels}
        )[0]
        for n in ("plain", "soft")
    )
    np.testing.assert_array_equal(plain, soft)


def test_multiply_adds_are_counted(tmp_path):
    (tmp_path / "g.onnx").write_bytes(colour_graph(4))
    assert prepare(tmp_path / "g.onnx", Preparation()).multiply_adds == 8 * 8 * 4 * 27 + 4 * 3


@pytest.mark.parametrize(
    ("options", "preparation", "why"),
    [
        ({"batch": 1}, Preparation(), "batch is fixed at 1"),
        ({"size": "s"}, Preparation(), "give --size"),
        ({}, Preparation(size=9), "not of --size 9"),
        ({}, Preparation(mean=[0.1, 0.2]), "one number or three"),
        ({}, Preparation(std=[0.0]), "above 0"),
        ({"layout": "nhwc", "kind": TensorProto.UINT8}, Preparation(mean=[0.5]), "normalises them itself"),
        ({}, Preparation(layout="nhwc"), "channels"),
        ({"layout": "nhwc", "kind": TensorProto.INT32}, Preparation(), "takes int32"),
    ],
)
def test_a_graph_that_cannot_be_served_is_refused_with_the_reason(tmp_path, options, preparation, why):
    (tmp_path / "g.onnx").write_bytes(colour_graph(**options))
    with pytest.raises(GraphRefused, match=why):
        prepare(tmp_path / "g.onnx", preparation)


def refused(home: Path, capsys, why: str, *extra: str, stages=("small", "medium", "large")) -> None:
    assert add(home, *NORMAL, *extra, stages=stages) != 0
    assert why in capsys.readouterr().err
    assert not published(home)


def test_rungs_out_of_order_are_refused(home, capsys):
    refused(home, capsys, "from cheap to dear", stages=("small", "large", "medium"))


def test_a_graph_with_another_number_of_classes_is_refused(home, capsys):
    (home / "large.onnx").write_bytes(colour_graph(12, classes=4))
    refused(home, capsys, "large: gives [4] values an image for 3 labels")


def test_a_file_that_is_no_graph_is_refused(home, capsys):
    (home / "medium.onnx").write_bytes(b"\x00 this is no graph")
    refused(home, capsys, "medium.onnx: is no ONNX graph")


def test_a_graph_cut_short_is_refused(home, capsys):
    data = (home / "medium.onnx").read_bytes()
    (home / "medium.onnx").write_bytes(data[: len(data) // 2])
    refused(home, capsys, "medium.onnx: is no")


def test_a_file_that_is_not_there_is_refused(home, capsys):
    (home / "medium.onnx").unlink()
    refused(home, capsys, "medium.onnx: cannot be read")


def test_graphs_for_images_of_different_sizes_are_refused(home, capsys):
    (home / "large.onnx").write_bytes(colour_graph(12, size=16))
    refused(home, capsys, "different sizes")


def test_an_image_without_a_label_is_refused(home, capsys):
    (home / "images" / "red" / "0.png").rename(home / "images" / "lost.png")
    refused(home, capsys, "lost.png: has no label")


def test_a_folder_that_is_no_label_is_refused(home, capsys):
    (home / "images" / "red").rename(home / "images" / "crimson")
    refused(home, capsys, "'crimson' is no label")


def test_too_few_images_are_refused(home, capsys):
    for path in [*(home / "images").rglob("*.png")][:15]:
        path.unlink()
    refused(home, capsys, "45 readable images are too few")


def test_a_limit_below_what_is_needed_is_refused_as_such(home, capsys):
    refused(home, capsys, "--most -1 is too few", "--most", "-1")


def test_a_file_of_a_kind_that_is_not_served_is_named(home, capsys):
    (home / "images" / "red" / "scan.bmp").write_bytes(b"BM")
    assert add(home, *NORMAL) == 0
    assert f"left out, unreadable: {home / 'images' / 'red' / 'scan.bmp'}" in capsys.readouterr().out


def test_a_graph_that_gives_probabilities_is_refused(home, capsys):
    graph = onnx.load_from_string(colour_graph(12, softmax=True))
    graph.graph.node[-1].output[0] = "inner"
    graph.graph.node.append(onnx.helper.make_node("Identity", ["inner"], ["p"]))
    (home / "large.onnx").write_bytes(graph.SerializeToString())
    refused(home, capsys, "large: gives probabilities")


def test_a_graph_whose_output_comes_of_no_operation_is_refused(home, capsys):
    graph = onnx.load_from_string(colour_graph(12))
    graph.graph.output[0].name = "mix"
    (home / "large.onnx").write_bytes(graph.SerializeToString())
    refused(home, capsys, "large.onnx: its output comes of no operation")


def test_a_folder_that_cannot_be_written_is_told_in_one_line(home, capsys):
    (home / "models").write_text("a file")
    assert add(home, *NORMAL) == 1
    assert capsys.readouterr().err.startswith("nothing published: [Errno 20]")


def test_labels_that_repeat_are_refused(home, capsys):
    (home / "labels.txt").write_text("red\nred\nblue\n")
    refused(home, capsys, "all different")


def test_a_name_that_cannot_be_a_folder_is_refused(home, capsys):
    assert add(home, *NORMAL, "--name", "../evil") != 0
    assert "name" in capsys.readouterr().err
    assert not (home / "evil").exists()
