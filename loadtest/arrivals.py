"""Arrival times, fixed before a run: int64 nanoseconds from its start, sorted, in [0, seconds).

Knows point processes and traces; knows nothing of requests, servers or clocks. The same seed gives the
same times on every machine with the same numpy.
"""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Nanoseconds = NDArray[np.int64]
Seconds = NDArray[np.float64]


def to_nanoseconds(seconds: Seconds) -> Nanoseconds:
    """float64 seconds -> int64 nanoseconds, rounded."""
    return np.rint(seconds * 1e9).astype(np.int64)


def _check(rate: float, seconds: float) -> None:
    if not (rate > 0 and seconds > 0 and np.isfinite(rate) and np.isfinite(seconds)):
        raise ValueError(f"rate and seconds must be positive and finite, not {rate} and {seconds}")


def _renewal(draw: Callable[[int], Seconds], rate: float, seconds: float) -> Seconds:
    """Sums of independent gaps until `seconds`; `draw(n)` gives n gaps of mean 1/rate."""
    block = int(rate * seconds * 1.1) + 16
    gaps = draw(block)
    while gaps.sum() < seconds:
        gaps = np.concatenate([gaps, draw(block)])
    times = np.cumsum(gaps)
    return np.asarray(times[times < seconds])


def poisson(rate: float, seconds: float, seed: int) -> Nanoseconds:
    """A Poisson process of `rate` per second."""
    _check(rate, seconds)
    random = np.random.default_rng(seed)
    return to_nanoseconds(_renewal(lambda n: random.exponential(1 / rate, n), rate, seconds))


def gamma(rate: float, seconds: float, seed: int, cv2: float) -> Nanoseconds:
    """Renewal process with gamma gaps of squared coefficient of variation `cv2` (1 = Poisson, 8 = very
    bursty).
    """
    _check(rate, seconds)
    if not cv2 > 0:
        raise ValueError(f"cv2 must be positive, not {cv2}")
    random = np.random.default_rng(seed)
    return to_nanoseconds(_renewal(lambda n: random.gamma(1 / cv2, cv2 / rate, n), rate, seconds))


def constant(rate: float, seconds: float) -> Nanoseconds:
    """Evenly spaced arrivals, the first at 0."""
    _check(rate, seconds)
    times = np.arange(int(np.ceil(rate * seconds)) + 1, dtype=np.float64) / rate
    return to_nanoseconds(times[times < seconds])


def steps(phases: Sequence[tuple[float, float]], seed: int) -> Nanoseconds:
    """Poisson arrivals whose rate changes at once: `phases` are (rate, seconds), one after the other."""
    parts, start = [], 0.0
    for number, (rate, seconds) in enumerate(phases):
        _check(rate, seconds)
        random = np.random.default_rng([seed, number])
        parts.append(start + _renewal(lambda n, r=rate, g=random: g.exponential(1 / r, n), rate, seconds))  # type: ignore[misc]
        start += seconds
    return to_nanoseconds(np.concatenate(parts))


def mmpp2(
    rates: tuple[float, float], holding_s: tuple[float, float], seconds: float, seed: int
) -> Nanoseconds:
    """Markov-modulated Poisson process of two states: `rates` per second, mean `holding_s` in each.

    It starts in a state drawn by how long each lasts. The mean rate is the rates' mean, weighted by the holding times.
    """
    _check(max(rates), seconds)
    if min(rates) < 0 or not min(holding_s) > 0:
        raise ValueError(f"rates {rates} and holding times {holding_s} must not be negative")
    random = np.random.default_rng(seed)
    state = int(random.random() * sum(holding_s) >= holding_s[0])
    parts, start = [np.empty(0)], 0.0
    while start < seconds:
        length = min(float(random.exponential(holding_s[state])), seconds - start)
        count = random.poisson(rates[state] * length)
        parts.append(start + np.sort(random.uniform(0.0, length, count)))
        start += length
        state = 1 - state
    times = np.concatenate(parts)
    return to_nanoseconds(times[times < seconds])


def ramp(start_rate: float, end_rate: float, seconds: float, seed: int) -> Nanoseconds:
    """Poisson arrivals whose rate changes evenly from `start_rate` to `end_rate`."""
    _check(start_rate, seconds)
    _check(end_rate, seconds)
    random = np.random.default_rng(seed)
    highest = max(start_rate, end_rate)
    times = _renewal(lambda n: random.exponential(1 / highest, n), highest, seconds)
    rates = start_rate + (end_rate - start_rate) * times / seconds
    return to_nanoseconds(times[random.random(len(times)) * highest < rates])


def read_trace(path: Path) -> Seconds:
    """The `arrival_s` column of a CSV file, sorted, starting at 0.

    Raises ValueError where the column is missing, a field is not a number, or fewer than two rows are there.
    """
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        if "arrival_s" not in (rows.fieldnames or ()):
            raise ValueError(f"{path} has no column arrival_s")
        times = np.sort(np.array([float(row["arrival_s"]) for row in rows], dtype=np.float64))
    if len(times) < 2 or not np.isfinite(times).all() or times[-1] == times[0]:
        raise ValueError(f"{path} holds no usable trace: two distinct finite times are needed")
    return np.asarray(times - times[0])


def compressed(trace: Seconds, rate: float, seconds: float) -> Nanoseconds:
    """The trace played faster (or slower) until its mean rate is `rate`; its start, `seconds` long.

    Compression keeps the bursts' shape and shortens them. The trace is repeated where it is too short.
    """
    _check(rate, seconds)
    period = len(trace) / rate
    once = trace / trace[-1] * period * (1 - 1 / len(trace))
    times = np.concatenate([once + period * k for k in range(int(np.ceil(seconds / period)))])
    return to_nanoseconds(times[times < seconds])


def superposed(trace: Seconds, rate: float, seconds: float, seed: int) -> Nanoseconds:
    """Shifted copies of the trace at its own speed, as many as `rate` needs; their first `seconds`.

    Superposition keeps the bursts' length and thins them out. Every copy wraps around at the trace's end.
    """
    _check(rate, seconds)
    span = float(trace[-1]) * (1 + 1 / len(trace))
    copies = max(1, round(rate * span / len(trace)))
    shifts = np.random.default_rng(seed).uniform(0, span, copies)
    rounds = np.arange(int(np.ceil(seconds / span)))
    times = ((trace[None, :] + shifts[:, None]) % span)[..., None] + rounds * span
    return to_nanoseconds(np.sort(times[times < seconds]))
