"""Which model a request means, and which are damaged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from model_repo.repository import Repository
from server.catalog import Catalog
from server.errors import NotReady, UnknownModel
from tests.models import publish_tiny_model


def catalog_of(folder: Path, default: str = "") -> Catalog:
    catalog = Catalog(Repository(folder), default)
    catalog.read()
    return catalog


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name, version in (("b", "2"), ("b", "10"), ("a", "1")):
        publish_tiny_model(tmp_path, name=name, version=version, stages=2)
    return tmp_path


def test_a_name_means_its_newest_version_by_number(models: Path) -> None:
    catalog = catalog_of(models)
    assert catalog.resolve("b").key == "b@10"
    assert catalog.resolve("b@2").key == "b@2"


def test_of_those_served_the_newest_is_meant(models: Path) -> None:
    catalog = catalog_of(models)
    catalog.serve(["b@2"])
    assert catalog.resolve("b").key == "b@2"
    assert catalog.resolve("").key == "b@2"
    catalog.serve(["b@2", "b@10"])
    assert catalog.resolve("b").key == "b@10"


def test_without_a_name_the_default_or_the_first_is_meant(models: Path) -> None:
    assert catalog_of(models).resolve("").key == "a@1"
    assert catalog_of(models, "b").resolve("").key == "b@10"
    assert catalog_of(models, "b@2").resolve("").key == "b@2"


def test_unknown_models_are_unknown(models: Path) -> None:
    catalog = catalog_of(models)
    for text in ("c", "b@3"):
        with pytest.raises(UnknownModel):
            catalog.resolve(text)


def test_a_damaged_version_is_named_with_file_and_reason_and_the_others_stay(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (models / "b" / "10" / "full.onnx").write_bytes(b"tampered")
    with caplog.at_level(logging.ERROR):
        catalog = catalog_of(models)
    assert [(damage.model, Path(damage.file).name) for damage in catalog.damaged] == [("b@10", "full.onnx")]
    assert "sha256" in catalog.damaged[0].reason
    assert catalog.resolve("b").key == "b@2"
    with pytest.raises(NotReady, match="damaged"):
        catalog.resolve("b@10")
    assert "b@10" in caplog.text


def test_no_models_at_all_is_not_ready(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path)
    assert catalog.default() is None
    with pytest.raises(NotReady):
        catalog.resolve("")


def test_a_new_version_is_found_when_read_again_and_the_old_ones_stay_the_same(models: Path) -> None:
    catalog = catalog_of(models)
    before = catalog.resolve("b")
    publish_tiny_model(models, name="b", version="11", stages=2)
    assert not catalog.knows(["b@11"])
    catalog.read()
    assert catalog.knows(["b@11", "b@2"])
    assert catalog.resolve("b").key == "b@11"
    assert catalog.resolve("b@10") is before


def test_a_set_of_stages_is_named_in_ladder_order_with_its_expected_accuracy(tmp_path: Path) -> None:
    publish_tiny_model(tmp_path, stages=3)
    model = catalog_of(tmp_path).resolve("tiny")
    some = model.stage_set(0b101)
    assert (some.names, some.last) == (["column1", "full"], {"name": "full", "depth": 3})
    assert some.expected_accuracy == model.manifest.pools["column1,full"].accuracy
    assert model.stage_set(0b101) is some
