from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from model_repo.__main__ import main
from model_repo.repository import (
    ModelDamaged,
    ModelMissing,
    PublishRefused,
    Repository,
    VersionExists,
    sha256_of,
)
from tests.models import publish_tiny_model, tiny_manifest

GRAPHS = {"column1": b"first", "full": b"second"}
FILES = {"column1.onnx": b"first", "full.onnx": b"second"}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_names_and_versions_are_listed_by_number_and_the_newest_is_the_default(repository):
    for version in ("9", "10", "2"):
        publish_tiny_model(repository.models_dir, version=version, stages=1)
    publish_tiny_model(repository.models_dir, name="another", stages=1)
    assert repository.names() == ["another", "tiny"]
    assert repository.versions("tiny") == ["2", "9", "10"]
    assert repository.open("tiny").key == "tiny@10"
    assert repository.open("tiny", "2").key == "tiny@2"


def test_what_is_no_model_is_not_listed(repository):
    publish_tiny_model(repository.models_dir, stages=1)
    (repository.models_dir / "README.md").write_text("text")
    (repository.models_dir / "empty").mkdir()
    (repository.models_dir / "tiny" / ".publish-1-abcd").mkdir()
    (repository.models_dir / "tiny" / "latest").mkdir()
    (repository.models_dir / "tiny" / "01").mkdir()
    assert repository.names() == ["tiny"]
    assert repository.versions("tiny") == ["1"]


def test_a_folder_that_is_not_there_holds_no_models(repository):
    assert repository.names() == []
    assert repository.scan() == ([], [])


@pytest.mark.parametrize(
    ("name", "version"), [("other", ""), ("tiny", "7"), ("../tiny", ""), ("tiny", "../1")]
)
def test_what_is_not_published_is_missing(repository, name, version):
    publish_tiny_model(repository.models_dir, stages=1)
    with pytest.raises(ModelMissing):
        repository.open(name, version)


def test_a_stage_is_read_as_it_was_published(repository):
    model = repository.publish(tiny_manifest(GRAPHS), FILES)
    assert [model.read(stage) for stage in model.manifest.stages] == [b"first", b"second"]


def test_the_fingerprint_changes_with_the_weights_and_only_with_them(repository):
    one = repository.publish(tiny_manifest(GRAPHS), FILES)
    same = repository.publish(tiny_manifest(GRAPHS, version="2"), FILES)
    other = repository.publish(
        tiny_manifest({**GRAPHS, "full": b"third"}, version="3"), {**FILES, "full.onnx": b"third"}
    )
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


def _tamper(folder: Path) -> None:
    (folder / "full.onnx").write_bytes(b"sec0nd")


def _truncate(folder: Path) -> None:
    (folder / "full.onnx").write_bytes(b"")


def _remove(folder: Path) -> None:
    (folder / "full.onnx").unlink()


def _link_outside(folder: Path) -> None:
    outside = folder.parents[2] / "outside.onnx"
    outside.write_bytes(b"second")
    _remove(folder)
    (folder / "full.onnx").symlink_to(outside)


def _make_folder(folder: Path) -> None:
    _remove(folder)
    (folder / "full.onnx").mkdir()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_tamper, "sha256 is"),
        (_truncate, "sha256 is"),
        (_remove, "No such file"),
        (_link_outside, "leads out of"),
        (_make_folder, "directory"),
    ],
)
def test_a_damaged_file_is_named_with_the_reason_and_the_others_are_served(repository, damage, reason):
    publish_tiny_model(repository.models_dir, name="good", stages=1)
    damage(repository.publish(tiny_manifest(GRAPHS), FILES).path)
    with pytest.raises(ModelDamaged, match=reason) as raised:
        repository.open("tiny")
    assert raised.value.model == "tiny@1"
    assert raised.value.file.name == "full.onnx"
    good, bad = repository.scan()
    assert [model.key for model in good] == ["good@1"]
    assert [str(error) for error in bad] == [str(raised.value)]


def _edit(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "No such file"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "EOF"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\x00"), "expected"),
        (lambda folder: _edit(folder, version="3"), "says it is tiny@3"),
        (lambda folder: _edit(folder, name="other"), "says it is other@1"),
        (lambda folder: _edit(folder, schema_version=2), "schema_version"),
        (lambda folder: _edit(folder, surprise=1), "surprise"),
        (lambda folder: _edit(folder, stages=[]), "stages"),
    ],
)
def test_a_damaged_manifest_is_named_with_the_reason(repository, damage, reason):
    damage(repository.publish(tiny_manifest(GRAPHS), FILES).path)
    with pytest.raises(ModelDamaged, match=reason) as raised:
        repository.open("tiny")
    assert raised.value.file.name == "manifest.json"
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["../full.onnx", "/etc/passwd", ".hidden", "a/b.onnx", ""])
def test_a_manifest_cannot_name_a_file_elsewhere(repository, name):
    model = repository.publish(tiny_manifest(GRAPHS), FILES)
    stages = json.loads(model.manifest.model_dump_json())["stages"]
    stages[1]["file"] = name
    _edit(model.path, stages=stages)
    with pytest.raises(ModelDamaged, match="stages"):
        repository.open("tiny")


def test_a_published_version_is_refused_and_replaced_only_when_told(repository):
    first = repository.publish(tiny_manifest(GRAPHS), FILES)
    changed = tiny_manifest({**GRAPHS, "full": b"third"})
    with pytest.raises(VersionExists):
        repository.publish(changed, {**FILES, "full.onnx": b"third"})
    assert (first.path / "full.onnx").read_bytes() == b"second"
    repository.publish(changed, {**FILES, "full.onnx": b"third"}, replace=True)
    assert repository.open("tiny").manifest == changed
    assert names_in(first.path.parent) == ["1"]


def test_publishing_copies_files_and_keeps_what_lies_beside_them(repository, tmp_path):
    (tmp_path / "labels").write_text("a\nb\n")
    model = repository.publish(tiny_manifest(GRAPHS), {**FILES, "labels.txt": tmp_path / "labels"})
    assert (model.path / "labels.txt").read_text() == "a\nb\n"
    assert sha256_of(model.path / "full.onnx") == model.manifest.stages[1].sha256


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"column1.onnx": b"first"}, "no file given for full.onnx"),
        ({**FILES, "full.onnx": b"other"}, "full.onnx: sha256"),
        ({**FILES, "../evil": b""}, "plain file name"),
        ({**FILES, "manifest.json": b"{}"}, "plain file name"),
    ],
)
def test_parts_that_do_not_fit_are_not_published(repository, files, reason):
    with pytest.raises(PublishRefused, match=reason):
        repository.publish(tiny_manifest(GRAPHS), files)
    assert repository.names() == []


CRASH = """
import os, sys
from pathlib import Path
from model_repo import repository
from tests.models import tiny_manifest
real = repository._write
def write(path, source):
    real(path, source)
    if path.name == sys.argv[2]:
        os._exit(9)
repository._write = write
repository.Repository(Path(sys.argv[1])).publish(
    tiny_manifest({"column1": b"first", "full": b"second"}), {"column1.onnx": b"first", "full.onnx": b"second"})
"""


@pytest.mark.parametrize("last_file", ["column1.onnx", "full.onnx", "manifest.json"])
def test_a_publisher_that_dies_leaves_no_half_version_and_the_next_one_cleans_up(repository, last_file):
    done = subprocess.run([sys.executable, "-c", CRASH, str(repository.models_dir), last_file], check=False)
    assert done.returncode == 9
    assert repository.versions("tiny") == []
    assert names_in(repository.models_dir / "tiny") != []
    repository.publish(tiny_manifest(GRAPHS), FILES)
    assert names_in(repository.models_dir / "tiny") == ["1"]


def test_of_two_publishers_of_one_version_the_second_is_told(repository, monkeypatch):
    from model_repo import repository as module

    real = module._sync_folder

    def overtaken(folder: Path) -> None:
        monkeypatch.setattr(module, "_sync_folder", real)
        Repository(repository.models_dir).publish(tiny_manifest(GRAPHS), FILES)

    monkeypatch.setattr(module, "_sync_folder", overtaken)
    with pytest.raises(VersionExists):
        repository.publish(tiny_manifest(GRAPHS), FILES)
    assert repository.open("tiny").key == "tiny@1"
    assert names_in(repository.models_dir / "tiny") == ["1"]


def test_the_command_line_lists_and_verifies(repository, capsys):
    publish_tiny_model(repository.models_dir)
    arguments = ["--models-dir", str(repository.models_dir)]
    assert main([*arguments, "list"]) == 0
    assert "tiny@1\tcolumn1, column2, full" in capsys.readouterr().out
    assert main([*arguments, "verify"]) == 0
    assert "3 files are as published" in capsys.readouterr().out
    _tamper(repository.models_dir / "tiny" / "1")
    assert main([*arguments, "verify"]) == 1
    assert "full.onnx: sha256" in capsys.readouterr().err


def test_reading_models_imports_no_torch():
    code = "import sys, model_repo.repository; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
