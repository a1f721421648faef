"""Plans really built: TensorRT-RTX parses and builds without a GPU, so every stage of the shipped model is."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper

from model_repo.__main__ import main
from model_repo.plan_builder import BuildFailed, Library, library, obtain
from model_repo.plans import PlanFolder
from model_repo.repository import PublishedModel, Repository
from tests.model_repo.test_half import small_graph
from tests.models import SHIPPED_PLACES, publish_tiny_model, tiny_stage

MODELS = Path(__file__).resolve().parents[2] / "model_repo" / "models"
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx is not installed (the dev group installs it on Linux x86-64 only)",
)


@pytest.fixture(scope="module")
def shipped() -> PublishedModel:
    return Repository(MODELS).open("cifar10")


@pytest.fixture(scope="module")
def rtx() -> Library:
    return library("tensorrt-rtx")


def quiet(_detail: str) -> None:
    pass


def unread() -> bytes:
    raise AssertionError("the graph is read though its plan is there")


@needs_rtx
@pytest.mark.parametrize("place", SHIPPED_PLACES)
def test_a_plan_of_every_shipped_stage_is_built_kept_and_found_again(
    place: int, rtx: Library, shipped: PublishedModel, tmp_path: Path
) -> None:
    stage = shipped.manifest.stages[place]
    key = rtx.key(stage.sha256, "no GPU", 32)
    plans = PlanFolder(tmp_path)
    plan, built = obtain(rtx, plans, key, lambda: shipped.read(stage), quiet)
    assert built
    assert len(plan) > 2 * stage.parameters  # it holds every weight, in fp16
    assert len(plan) < 4 * stage.parameters + 500_000  # and not in fp32
    assert obtain(rtx, plans, key, unread, quiet) == (plan, False)


@needs_rtx
def test_a_damaged_plan_is_named_in_the_log_and_built_again(
    rtx: Library, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plans, key = PlanFolder(tmp_path), rtx.key("ab" * 32, "no GPU", 8)
    plan, _ = obtain(rtx, plans, key, lambda: tiny_stage(1), quiet)
    plans.path(key).write_bytes(plans.path(key).read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        again, built = obtain(rtx, plans, key, lambda: tiny_stage(1), quiet)
    assert built
    assert len(again) == len(plan)
    record = next(record for record in caplog.records if record.message == "plan damaged, building it again")
    assert key.file_name in record.reason
    assert plans.read(key) == again


@needs_rtx
def test_a_build_says_how_far_it_is(
    rtx: Library,
    shipped: PublishedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("model_repo.plan_builder.TELL_S", 0.001)
    stage, said = shipped.manifest.stages[0], []
    key = rtx.key("ab", "no GPU", 4)
    with caplog.at_level(logging.INFO):
        obtain(rtx, PlanFolder(tmp_path), key, lambda: shipped.read(stage), said.append)
    assert [record.message for record in caplog.records] == ["building a plan", "plan built"]
    assert said
    assert all(line.startswith("building a plan: ") for line in said)


@needs_rtx
@pytest.mark.parametrize("data", [b"this is no ONNX graph", b""])
def test_what_is_no_graph_is_refused_in_one_line(data: bytes, rtx: Library, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="ONNX graph") as caught:
        obtain(rtx, PlanFolder(tmp_path), rtx.key("ab", "no GPU", 4), lambda: data, quiet)
    assert "\n" not in str(caught.value)


@needs_rtx
def test_an_operation_that_tensorrt_does_not_know_is_named(rtx: Library, tmp_path: Path) -> None:
    graph = small_graph(
        [
            helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("Transpose", ["x"], ["square"], perm=[0, 3, 1, 2]),
            helper.make_node("Det", ["square"], ["unused"]),
            helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        ],
        {"weight": np.ones((48, 2), np.float32)},
    )
    with pytest.raises(BuildFailed, match="Det"):
        obtain(rtx, PlanFolder(tmp_path), rtx.key("ab", "no GPU", 4), lambda: graph, quiet)


def test_a_library_that_only_runs_plans_says_so_and_which_one_it_lacks(tmp_path: Path) -> None:
    lean = Library("tensorrt-lean", SimpleNamespace(__version__="11.4.0.106"), None)
    key = lean.key("ab" * 32, "NVIDIA L4 sm89", 32)
    assert key.version == "11"
    with pytest.raises(BuildFailed, match=f"only runs plans.*{key.file_name}.*none is there"):
        obtain(lean, PlanFolder(tmp_path), key, unread, quiet)
    PlanFolder(tmp_path).write(key, b"plan")
    assert obtain(lean, PlanFolder(tmp_path), key, unread, quiet) == (b"plan", False)


@needs_rtx
def test_the_command_builds_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish_tiny_model(tmp_path / "models", stages=2)
    arguments = ["--models-dir", str(tmp_path / "models"), "build", "--model", "tiny"]
    arguments += ["--runtime", "tensorrt-rtx", "--max-batch", "4", "--state-dir", str(tmp_path)]
    assert main(arguments) == 0
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["built in" in line for line in lines] == [True, True, False, False]
    assert len(list((tmp_path / "plans").glob("*.plan"))) == 2


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="needs a machine without an NVIDIA GPU")
@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-lean"])
def test_the_command_says_why_it_cannot_build(
    runtime: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "--model", "cifar10", "--runtime", runtime, "--state-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("no plan: ")


def test_the_command_names_a_damaged_model_and_the_stage_that_cannot_be_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_tiny_model(tmp_path / "models", name="sound", stages=2)
    torn = publish_tiny_model(tmp_path / "models", name="torn", stages=2)
    (torn.path / "full.onnx").write_bytes(b"")
    nothing = Library("tensorrt-rtx", SimpleNamespace(__version__="1"), None)  # it does not build
    monkeypatch.setattr("model_repo.build_ahead.library", lambda _name: nothing)
    arguments = ["--models-dir", str(tmp_path / "models"), "build", "--runtime", "tensorrt-rtx"]
    assert main([*arguments, "--state-dir", str(tmp_path)]) == 1
    damaged, failed = capsys.readouterr().err.splitlines()
    assert damaged.startswith("model torn@1: ")
    assert failed.startswith("no plan: sound@1 column1: tensorrt-rtx only runs plans")


def test_the_command_says_where_it_has_found_no_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Library("tensorrt-rtx", SimpleNamespace(__version__="1"), None)
    monkeypatch.setattr("model_repo.build_ahead.library", lambda _name: nothing)
    assert main(["--models-dir", str(tmp_path), "build", "--runtime", "tensorrt-rtx"]) == 1
    assert capsys.readouterr().err == f"no plan: no models in {tmp_path}\n"
