"""McNemar's test on paired answers."""

from __future__ import annotations

import numpy as np
import pytest

from training.significance import mcnemar


def right(*runs: tuple[bool, int]) -> np.ndarray:
    return np.concatenate([np.full(n, value) for value, n in runs])


def test_only_images_that_one_got_right_and_the_other_wrong_count() -> None:
    first = right((True, 500), (True, 5), (False, 15), (False, 80))
    second = right((True, 500), (False, 5), (True, 15), (False, 80))
    found = mcnemar(first, second)
    assert (found.gained, found.lost) == (15, 5)
    assert found.p == pytest.approx(0.0414, abs=1e-4)  # two-sided binomial, 5 of 20
    assert found.verdict == "better"
    assert mcnemar(second, first).verdict == "worse"


def test_a_small_difference_is_no_difference() -> None:
    found = mcnemar(right((True, 6), (False, 4), (True, 90)), right((False, 6), (True, 4), (True, 90)))
    assert found.verdict == "no difference"


def test_equal_answers_are_no_difference() -> None:
    assert mcnemar(right((True, 3)), right((True, 3))).p == 1.0
