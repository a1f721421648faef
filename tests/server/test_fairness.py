"""Who is held back while there is not room for all: on a clock of the test's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.fairness import LEAST_BURST, MOST_CLIENTS, WINDOW_NS, Shares, water_level

SECOND = 1_000_000_000


def play(shares: Shares, rates: Mapping[str, int], capacity: int, seconds: float = 5.0) -> Counter[str]:
    """Clients ask at their rates a second, a device has room for `capacity` a second; who was let in, how often.

    The device's room is a short queue that whoever comes first takes.
    """
    arrivals = sorted(
        (int(number * SECOND / rate) + place, client)
        for place, (client, rate) in enumerate(rates.items())
        for number in range(int(rate * seconds))
    )
    served: Counter[str] = Counter()
    room, last_ns = 4.0, 0
    for now_ns, client in arrivals:
        room, last_ns = min(room + (now_ns - last_ns) * capacity / SECOND, 4.0), now_ns
        if room < 1.0:
            shares.refused(client)
        elif shares.allow(client, now_ns):
            shares.admitted(client, now_ns)
            served[client] += 1
            room -= 1.0
    return served


def test_while_there_is_room_nobody_is_held_back() -> None:
    shares = Shares()
    served = play(shares, {"greedy": 900, "modest": 50}, capacity=2000)
    assert served == {"greedy": 4500, "modest": 250}
    assert shares.limit is None


def test_a_greedy_client_does_not_take_the_room_of_a_modest_one() -> None:
    greed = {"greedy": 4000, "modest": 100}
    served = play(Shares(), greed, capacity=1000)
    assert served["modest"] > 0.85 * 500
    assert served["greedy"] > 0.7 * (5 * 1000 - 500), "what the modest leave is not wasted"


def test_a_client_below_its_share_may_send_a_few_images_at_once() -> None:
    shares = Shares()
    greedy = [f"greedy {number}" for number in range(20)]
    play(shares, dict.fromkeys(greedy, 200) | {"modest": 5}, capacity=400)
    now = 5 * SECOND
    assert not all(shares.allow(client, now) for client in greedy), "they are held to a limit"
    for _ in range(LEAST_BURST):
        assert shares.allow("modest", now)
        shares.admitted("modest", now)


def test_equal_clients_get_equal_shares() -> None:
    served = play(Shares(), {"one": 2000, "two": 2100, "three": 1900}, capacity=900)
    assert max(served.values()) < 1.4 * min(served.values())
    assert sum(served.values()) > 0.8 * 5 * 900


def test_a_single_client_is_never_held_back() -> None:
    shares = Shares()
    served = play(shares, {"only": 5000}, capacity=1000)
    assert shares.limit is None
    assert served["only"] >= 0.99 * 5 * 1000


def test_the_limit_goes_away_with_the_greed() -> None:
    shares = Shares()
    play(shares, {"greedy": 4000, "modest": 100}, capacity=1000)
    later = 100 * SECOND
    assert shares.allow("greedy", later)
    assert shares.limit is None


def test_a_client_whose_images_are_refused_by_the_engine_counts_as_refused() -> None:
    shares = Shares()
    now = WINDOW_NS
    for _ in range(50):
        assert shares.allow("greedy", now)
        shares.admitted("greedy", now)
    for _ in range(10):
        shares.admitted("modest", now)
        shares.rejected("modest")
    shares.allow("modest", now + WINDOW_NS)
    assert shares.limit is not None
    assert shares.limit >= 10


def test_ever_new_addresses_cost_no_memory() -> None:
    shares = Shares()
    for number in range(3 * MOST_CLIENTS):
        shares.refused(str(number))
    assert len(shares._clients) <= MOST_CLIENTS + 1


@pytest.mark.parametrize(
    ("demands", "capacity", "level"),
    [([10], 4, 4), ([1, 10], 5, 4), ([1, 2, 10, 10], 13, 5), ([3, 3], 100, 3), ([], 5, 0), ([5, 5], 0, 0)],
)
def test_water_finds_its_level(demands: list[int], capacity: float, level: float) -> None:
    assert water_level(demands, capacity) == level


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20), st.integers(1, 5000))
def test_at_the_level_all_together_take_what_there_is_or_what_they_want(
    demands: list[int], capacity: int
) -> None:
    taken = sum(min(demand, water_level(demands, capacity)) for demand in demands)
    assert taken == pytest.approx(min(capacity, sum(demands)))
