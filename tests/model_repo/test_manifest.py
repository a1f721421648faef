from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from model_repo.manifest import Manifest, rung_sets
from tests.models import tiny_manifest

GRAPHS = {"column1": b"1", "column2": b"2", "full": b"3"}


@pytest.fixture
def document() -> dict:
    return json.loads(tiny_manifest(GRAPHS).model_dump_json())


def test_a_manifest_survives_a_round_trip(document):
    manifest = Manifest.model_validate(document)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert manifest.stage_names == ("column1", "column2", "full")


def test_the_sets_of_rungs_are_all_non_empty_ones_in_ladder_order():
    assert rung_sets(["a", "b", "c"]) == ["a", "b", "c", "a,b", "a,c", "b,c", "a,b,c"]


def _drop_pool(document):
    del document["pools"]["column1,full"]


def _foreign_pool(document):
    document["pools"]["full,column1"] = document["pools"]["column1,full"]


def _weights_short(document):
    document["pools"]["column1,full"]["weights"] = [1.0]


def _weights_zero(document):
    document["pools"]["full"]["weights"] = [0.0]


def _gain_missing(document):
    del document["gains"]["column1"]["full"]


def _gain_of_itself(document):
    document["gains"]["column1"]["column1"] = [0, 0, 0, 0]


def _gain_bins(document):
    document["gains"]["column1"]["full"] = [0.1]


def _edges_fall(document):
    document["gain_bin_edges"] = [0.0, 0.8, 0.5, 0.95, 1.0]


def _edges_short(document):
    document["gain_bin_edges"] = [0.1, 0.5, 0.8, 0.95, 1.0]


def _stage_twice(document):
    document["stages"][1]["name"] = "column1"


def _label_twice(document):
    document["labels"][1] = document["labels"][0]


def _file_outside(document):
    document["stages"][0]["file"] = "../x.onnx"


def _hash_short(document):
    document["stages"][0]["sha256"] = "abc"


def _version_zero(document):
    document["version"] = "0"


def _temperature_zero(document):
    document["stages"][0]["temperature"] = 0


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_drop_pool, "pools must hold every set"),
        (_foreign_pool, "and no other"),
        (_weights_short, "one weight per rung"),
        (_weights_zero, "above 0"),
        (_gain_missing, "exactly the rungs not in it"),
        (_gain_of_itself, "exactly the rungs not in it"),
        (_gain_bins, "1 values for 4 bins"),
        (_edges_fall, "must ascend"),
        (_edges_short, "from 0 to 1"),
        (_stage_twice, "stage names repeat"),
        (_label_twice, "labels repeat"),
        (_file_outside, "file"),
        (_hash_short, "sha256"),
        (_version_zero, "version"),
        (_temperature_zero, "temperature"),
    ],
)
def test_parts_that_disagree_are_refused(document, damage, reason):
    damage(document)
    with pytest.raises(ValidationError, match=reason):
        Manifest.model_validate(document)


def test_a_model_of_one_rung_is_a_model():
    manifest = tiny_manifest({"full": b"1"})
    assert list(manifest.pools) == ["full"]
