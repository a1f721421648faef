"""Which runtime a cell gets, from times alone."""

from __future__ import annotations

import numpy as np
import pytest

from server.engine.choosing import ChosenStage, choose, has_lost, in_words, probes, within_parity

CROSSING = {"a": {1: 10.0, 2: 20.0, 4: 40.0}, "b": {1: 15.0, 2: 21.0, 4: 30.0}}


class Named:
    """A runner that answers with its number."""

    def __init__(self, number: int) -> None:
        self.number, self.closed = number, False

    def run(self, pixels: np.ndarray) -> np.ndarray:
        return np.full((len(pixels), 2), self.number, np.float32)

    def runs_as(self, count: int) -> tuple[int, ...]:
        return (self.number, count)

    def close(self) -> None:
        self.closed = True


def test_each_batch_gets_its_fastest_runtime_and_its_time():
    choice, times = choose(CROSSING)
    assert choice == {1: "a", 2: "a", 4: "b"}
    assert times == {1: 10.0, 2: 20.0, 4: 30.0}


def test_a_runtime_that_is_nowhere_faster_by_much_is_not_kept():
    choice, times = choose({"a": {1: 10.0, 2: 20.0}, "b": {1: 9.9, 2: 30.0}})
    assert choice == {1: "a", 2: "a"}
    assert times == {1: 10.0, 2: 20.0}


def test_only_batches_that_all_were_timed_at_are_compared():
    choice, times = choose({"a": {1: 10.0, 2: 20.0}, "b": {1: 20.0}})
    assert choice == {1: "a"}
    assert times == {1: 10.0}


def test_a_runtime_that_is_much_slower_everywhere_has_lost_and_is_timed_no_further():
    rows = {"a": {1: 10.0, 2: 20.0, 4: 30.0}, "b": {1: 15.1, 2: 30.1}}
    assert has_lost(rows["b"], rows.values())
    assert not has_lost(rows["a"], rows.values())
    assert not has_lost({1: 15.1}, rows.values())  # one size may be an exception
    assert not has_lost({1: 15.1, 2: 29.9}, rows.values())
    assert choose(rows) == (dict.fromkeys((1, 2, 4), "a"), rows["a"])


def test_a_single_runtime_is_its_own_choice():
    assert choose({"a": {1: 10.0}}) == ({1: "a"}, {1: 10.0})


@pytest.mark.parametrize(("batch", "number"), [(1, 1), (2, 1), (3, 2), (4, 2), (9, 2)])
def test_a_batch_between_two_buckets_runs_where_the_larger_one_does(batch, number):
    stage = ChosenStage({"a": Named(1), "b": Named(2)}, {1: "a", 2: "a", 4: "b"})
    assert (stage.run(np.zeros((batch, 1, 1, 3), np.uint8)) == number).all()
    assert stage.runs_as(batch) == (number, batch)


def test_closing_a_stage_closes_it_everywhere():
    runners = {"a": Named(1), "b": Named(2)}
    ChosenStage(runners, {1: "a", 2: "b"}).close()
    assert all(runner.closed for runner in runners.values())


def test_a_choice_in_words():
    assert in_words({1: "a", 2: "a", 4: "b", 8: "a"}) == "a 1-2, b 4, a 8"


def test_answers_that_differ_by_little_pass_and_by_much_do_not():
    logits = np.log(np.array([[0.5, 0.5]], np.float32))
    assert within_parity(np.log(np.array([[0.53, 0.47]], np.float32)), logits)
    assert not within_parity(np.log(np.array([[0.6, 0.4]], np.float32)), logits)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (32, 32), (224, 200)])
def test_probes_fit_any_input_and_are_always_the_same(size):
    images = probes(*size)
    assert images.shape == (16, *size, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, probes(*size))
