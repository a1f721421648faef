"""Arrival processes have the rate and the burstiness that they are asked for, and repeat by seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtest import arrivals


def cv2(times: np.ndarray) -> float:
    gaps = np.diff(times).astype(float)
    return float(gaps.var() / gaps.mean() ** 2)


@pytest.mark.parametrize(("wanted", "slack"), [(1, 0.05), (2, 0.15), (4, 0.4), (8, 1.0)])
def test_gamma_gaps_have_their_rate_and_variation(wanted: float, slack: float) -> None:
    times = arrivals.gamma(1000, 60, 3, wanted)
    assert len(times) == pytest.approx(60_000, rel=0.04)
    assert cv2(times) == pytest.approx(wanted, abs=slack)


def test_poisson_counts_have_the_variance_of_their_mean() -> None:
    times = arrivals.poisson(1000, 60, 5)
    counts = np.bincount(times // 100_000_000, minlength=600)
    assert counts.mean() == pytest.approx(100, rel=0.03)
    assert counts.var() == pytest.approx(100, rel=0.2)


@pytest.mark.parametrize("make", [arrivals.poisson, lambda r, s, k: arrivals.gamma(r, s, k, 4)])
def test_the_seed_decides_everything(make: object) -> None:
    first, again, other = (make(500, 5, seed) for seed in (7, 7, 8))  # type: ignore[operator]
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:100], other[:100])
    assert first.dtype == np.int64
    assert (np.diff(first) >= 0).all()
    assert first[0] >= 0
    assert first[-1] < 5e9


def test_constant_arrivals_are_evenly_spaced() -> None:
    times = arrivals.constant(100, 0.05)
    assert times.tolist() == [0, 10_000_000, 20_000_000, 30_000_000, 40_000_000]


def test_a_step_changes_its_rate_at_once() -> None:
    times = arrivals.steps([(200, 5), (2000, 2)], 1)
    before, after = (times < 5e9).sum(), (times >= 5e9).sum()
    assert before == pytest.approx(1000, rel=0.1)
    assert after == pytest.approx(4000, rel=0.1)
    assert (np.diff(times) >= 0).all()


@pytest.fixture
def trace(tmp_path: Path) -> np.ndarray:
    path = tmp_path / "trace.csv"
    times = np.sort(np.random.default_rng(0).uniform(100, 1100, 2000))
    path.write_text("id,arrival_s\n" + "".join(f"{k},{t:.6f}\n" for k, t in enumerate(times)))
    return arrivals.read_trace(path)


def test_a_trace_starts_at_zero(trace: np.ndarray) -> None:
    assert trace[0] == 0
    assert len(trace) == 2000


def test_a_compressed_trace_keeps_its_shape_at_a_new_rate(trace: np.ndarray) -> None:
    times = arrivals.compressed(trace, 200, 10)
    assert len(times) == pytest.approx(2000, abs=1)
    assert np.allclose(times / times[-1], (trace / trace[-1])[: len(times)], atol=1e-3)


def test_a_compressed_trace_repeats_when_it_is_too_short(trace: np.ndarray) -> None:
    times = arrivals.compressed(trace, 200, 25)
    assert len(times) == pytest.approx(5000, rel=0.03)
    assert (np.diff(times) >= 0).all()


def test_superposed_copies_reach_the_rate_at_the_trace_s_own_speed(trace: np.ndarray) -> None:
    times = arrivals.superposed(trace, 200, 20, 1)
    assert len(times) == pytest.approx(4000, rel=0.1)
    assert (np.diff(times) >= 0).all()
    assert np.array_equal(times, arrivals.superposed(trace, 200, 20, 1))


@pytest.mark.parametrize(
    "text", ["", "time\n1\n2\n", "arrival_s\n1\n", "arrival_s\n1\n1\n", "arrival_s\n1\nx\n"]
)
def test_an_unusable_trace_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"arrival_s|trace|float"):
        arrivals.read_trace(path)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_must_be_positive_and_finite(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        arrivals.poisson(rate, 1, 0)
