"""Which subnetworks mini-batches train."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from model_repo.fractalnet import FractalConfig, Subnetwork, column, full, joined
from model_repo.subnetworks import SHORTCUT
from training.drop_path import REGIMES, Sampler, global_column, local
from training.recipe import Recipe

CONFIG = FractalConfig(3, (4, 4), 2, 8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def joins(subnetwork: Subnetwork) -> list[tuple[int, ...]]:
    return [join for block in subnetwork for join in block]


def test_local_drop_path_drops_each_input_with_its_probability() -> None:
    g = generator()
    pairs = [local(CONFIG, 0.15, g)[0][1] for _ in range(4000)]  # row 2 joins columns 2 and 3
    # Both survive unless one or both draws drop; if both do, one is put back.
    assert Counter(len(p) for p in pairs)[2] / 4000 == pytest.approx(0.85**2, abs=0.02)
    assert Counter(pairs)[(2,)] == pytest.approx(Counter(pairs)[(3,)], rel=0.2)


def test_at_least_one_input_survives_at_every_join() -> None:
    g = generator()
    assert all(
        joins(local(CONFIG, 0.95, g)) and min(map(len, joins(local(CONFIG, 0.95, g)))) == 1 for _ in range(50)
    )


def test_a_survivor_keeps_only_members_of_its_join() -> None:
    complete = joins(full(CONFIG))
    sampled = joins(local(CONFIG, 0.5, generator()))
    assert all(set(kept) <= set(members) for kept, members in zip(sampled, complete, strict=True))


def test_the_global_draw_is_one_column_for_the_whole_net_evenly() -> None:
    g = generator()
    counts = Counter(global_column(CONFIG, g) for _ in range(3000))
    assert set(counts) == {column(CONFIG, k) for k in (1, 2, 3)}
    assert min(counts.values()) > 900


def test_shares_decide_how_often_each_kind_is_drawn() -> None:
    recipe = Recipe("r", 3, (4, 4), draws={"column1": 1, "joined2": 1, "local": 2})
    sampler, g = Sampler(recipe, CONFIG), generator()
    drawn = [sampler.draw(g) for _ in range(4000)]
    assert all(len(d) == 1 for d in drawn)
    share = Counter(d[0].kind for d in drawn)
    assert share["local"] / 4000 == pytest.approx(0.5, abs=0.03)
    assert share["column1"] / 4000 == pytest.approx(0.25, abs=0.03)
    assert {d[0].subnetwork for d in drawn if d[0].kind == "joined2"} == {joined(CONFIG, 2)}


def test_the_papers_mix_is_half_local_half_one_column() -> None:
    sampler, g = Sampler(Recipe("paper", 3, (4, 4)), CONFIG), generator()
    share = Counter(sampler.draw(g)[0].kind for _ in range(2000))
    assert share["local"] / 2000 == pytest.approx(0.5, abs=0.04)
    assert set(share) == {"local", "column"}


def test_the_tied_mode_trains_the_net_and_every_column_on_each_batch() -> None:
    draws = Sampler(Recipe("tied", 3, (4, 4), tied=True), CONFIG).draw(generator())
    assert [d.kind for d in draws] == ["local", "column1", "column2", "column3"]
    assert [d.weight for d in draws] == [1.0, 1 / 3, 1 / 3, 1 / 3]


def test_a_recipe_that_draws_what_the_net_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="joined7"):
        Sampler(Recipe("r", 3, (4, 4), draws={"joined7": 1}), CONFIG)


@pytest.mark.parametrize(
    ("regime", "kinds"),
    [
        ("none", {"full"}),
        ("local", {"local"}),
        ("global", {"column"}),
        ("mixed", {"local", "column"}),
        ("tied", {"local", "column1", "column2", "column3"}),
    ],
)
def test_every_regime_of_the_paper_trains_what_it_says(regime: str, kinds: set[str]) -> None:
    recipe = Recipe("r", 3, (4, 4)).with_overrides(**REGIMES[regime])  # type: ignore[index]
    sampler, g = Sampler(recipe, CONFIG), generator()
    assert {d.kind for _ in range(60) for d in sampler.draw(g)} == kinds
    if regime == "none":
        assert sampler.draw(g)[0].subnetwork == full(CONFIG)


def test_a_net_of_one_column_is_its_own_full_net() -> None:
    config = FractalConfig(1, (4, 4), 2, 8)
    draw = Sampler(Recipe("r", 1, (4, 4), draws={"full": 1}), config).draw(generator())[0]
    assert (draw.subnetwork, draw.mode) == (full(config), "column1")


def test_stochastic_depth_passes_units_by_as_often_as_they_do_not_survive() -> None:
    config = FractalConfig(3, (4, 4), 2, 8, family="residual", survival=0.5)
    recipe = Recipe("r", 3, (4, 4), draws={"stochastic_depth": 1}, net_options={"family": "residual"})
    sampler, g = Sampler(recipe, config), generator()
    drawn = [sampler.draw(g)[0].subnetwork for _ in range(2000)]
    dropped = [sum(s[b][row] == (SHORTCUT,) for s in drawn) / 2000 for b in (0, 1) for row in (1, 3)]
    assert dropped == pytest.approx([0.125, 0.25, 0.375, 0.5], abs=0.04)
    assert all(s[0][0] == (3,) for s in drawn)
    assert len(set(drawn)) == 2**4


def test_the_sandwich_trains_the_full_net_and_columns_on_its_answers() -> None:
    recipe = Recipe("r", 4, (4, 4)).with_levers(sandwich="columns")
    sampler, g = Sampler(recipe, FractalConfig(4, (4, 4), 2, 8)), generator()
    drawn = [sampler.draw(g) for _ in range(50)]
    for teacher, *students in drawn:
        assert (teacher.kind, teacher.role, teacher.weight) == ("full", "teacher", 1.0)
        assert [s.kind for s in students][0::2] == ["column1", "column4"]
        assert {s.role for s in students} == {"student"}
        assert sum(s.weight for s in students) == pytest.approx(1.0)
    assert {d[2].kind for d in drawn} == {"column2", "column3"}


def test_the_sandwich_of_nested_fractals_has_column_1_and_one_between() -> None:
    recipe = Recipe("r", 4, (4, 4)).with_levers(sandwich="nested")
    sampler, g = Sampler(recipe, FractalConfig(4, (4, 4), 2, 8)), generator()
    drawn = [[d.kind for d in sampler.draw(g)] for _ in range(50)]
    assert {tuple(d) for d in drawn} == {("full", "column1", "joined2"), ("full", "column1", "joined3")}


def test_late_draws_replace_the_others_from_their_share_of_the_training_on() -> None:
    recipe = Recipe("r", 3, (4, 4), draws={"full": 1}).with_levers(late_draws={"column3": 1.0}, late_from=0.5)
    sampler, g = Sampler(recipe, CONFIG), generator()
    assert sampler.draw(g, 0.49)[0].kind == "full"
    assert sampler.draw(g, 0.5)[0].kind == "column3"
    with pytest.raises(ValueError, match="column9"):
        Sampler(recipe.with_levers(late_draws={"column9": 1.0}), CONFIG)


def test_a_plain_net_has_no_columns_to_draw() -> None:
    config = FractalConfig(3, (4, 4), 2, 8, family="plain")
    options = {"family": "plain"}
    with pytest.raises(ValueError, match="column, local"):
        Sampler(Recipe("r", 3, (4, 4), net_options=options), config)
    with pytest.raises(ValueError, match="only a fractal net"):
        Sampler(Recipe("r", 3, (4, 4), tied=True, net_options=options), config)
