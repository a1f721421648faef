"""The recipes: the nets of the paper, as counted and trained as it says."""

from __future__ import annotations

from dataclasses import fields

import pytest

from training import listing, recipes
from training.command import _recipe as from_command_line
from training.command import parser
from training.drop_path import Sampler
from training.recipe import Levers, Recipe


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_can_be_followed_and_survives_a_checkpoint(name: str) -> None:
    recipe = recipes.find(name)
    assert recipe.name == name
    Sampler(recipe, recipe.net(10, 8 if name == "digits" else recipe.image_size))
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("name", "depth", "parameters"),
    [
        ("fractalnet40", 40, 22_925_108),
        ("fractalnet20", 20, 33_770_788),
        ("plain40", 40, 2_666_516),
        ("resnet20", 20, 20_624_740),
    ],
)
def test_recipes_build_the_nets_they_are_named_after(name: str, depth: int, parameters: int) -> None:
    config = recipes.find(name).net(100, 32)
    assert config.depth == depth
    assert listing.counts(config)[0] == parameters


def test_plain_and_ultra_deep_nets_have_the_papers_depths() -> None:
    depths = [recipes.find(f"plain{d}").net(100, 32).depth for d in (5, 10, 20, 40, 80, 160)]
    assert depths == [5, 10, 20, 40, 80, 160]
    assert depths == [recipes.find(f"ultra_deep_c{c}").net(100, 32).depth for c in range(1, 7)]
    assert {recipes.find(f"ultra_deep_c{c}").batch for c in range(1, 7)} == {50}


def test_the_list_shows_parameters_multiply_adds_and_what_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "names", lambda: ["plain5", "small_paper"])
    heading, plain, paper = listing.lines()
    assert "multiply-adds" in heading
    assert plain.split() == ["plain5", "5", "258,292", "4.6", "M", "100", "400", "full", "1"]
    assert paper.endswith("local 0.5, column 0.5")


def test_a_recipe_of_before_the_newest_fields_equals_its_successor() -> None:
    recipe = recipes.find("small_nested")
    old = recipe.to_dict()
    for added in ("levers", "net_options", "crop", "image_size", "drops"):
        del old[added]
    assert Recipe.from_dict(old) == recipe


def test_levers_are_off_by_default_and_a_checkpoint_keeps_those_pulled() -> None:
    pulling = [name for name in recipes.names() if recipes.find(name).levers != Levers()]
    assert pulling == ["small_nested_c4_again"]
    pulled = recipes.find("small_nested").with_levers(average=0.99, late_draws={"column3": 1.0}, cutout=8)
    assert Recipe.from_dict(pulled.to_dict()) == pulled
    assert {f.name for f in fields(Levers)} >= {"sandwich", "private_norms", "label_smoothing"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--drop-path", "none"], {"draws": {"full": 1.0}}),
        (["--drop-path", "tied"], {"tied": True}),
        (["--augmentation", "++", "--epochs", "3"], {"augmentation": "++", "epochs": 3}),
        (["--no-dropout"], {"dropout": ()}),
    ],
)
def test_the_command_line_changes_the_regime(arguments: list[str], expected: dict[str, object]) -> None:
    options = parser().parse_args(["train", "fractalnet20_regularised", "--data", "digits", *arguments])
    recipe = from_command_line(options)
    assert {name: getattr(recipe, name) for name in expected} == expected
    rest = recipes.find("fractalnet20_regularised").with_overrides(**expected)
    assert recipe == rest


def test_a_crop_larger_than_the_images_is_refused() -> None:
    with pytest.raises(ValueError, match="crops 224 pixels out of 32"):
        recipes.find("fractalnet34_imagenet").net(1000, 32)
    assert recipes.find("fractalnet34_imagenet").net(1000, 256).input_size == 224
