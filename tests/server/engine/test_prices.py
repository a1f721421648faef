"""The search for the price at which planned work fits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.engine.prices import GRID, price_of

COSTS = st.lists(st.floats(0.0, 1e9), min_size=len(GRID), max_size=len(GRID)).map(
    lambda costs: sorted(costs, reverse=True)
)
IMAGES = st.lists(st.tuples(COSTS, st.floats(0.0, 1e3)), max_size=4)


@given(planned=IMAGES, room_ns=st.floats(0.0, 1e12), guess=st.integers(0, len(GRID) - 1))
def test_the_price_is_the_lowest_at_which_all_fits_wherever_the_search_begins(planned, room_ns, guess):
    fits = [sum(count * cost[place] for cost, count in planned) <= room_ns for place in range(len(GRID))]
    wanted = fits.index(True) if any(fits) else len(GRID) - 1
    place, share = price_of(planned, room_ns, guess)
    assert place == wanted
    assert 0 <= share <= 1


@given(planned=IMAGES, room_ns=st.floats(0.0, 1e12), guess=st.integers(0, len(GRID) - 1))
def test_so_many_may_follow_the_price_below_that_all_fits_together(planned, room_ns, guess):
    work = [sum(count * cost[place] for cost, count in planned) for place in range(len(GRID))]
    place, share = price_of(planned, room_ns, guess)
    if place and work[place] <= room_ns:
        mixed = share * work[place - 1] + (1 - share) * work[place]
        assert mixed <= room_ns * (1 + 1e-9) + 1
        assert share > 0 or work[place - 1] == work[place] or mixed >= room_ns - 1


def test_where_all_change_their_plan_at_one_price_the_room_in_between_is_used_too():
    costs = [100.0] * 50 + [20.0] * (len(GRID) - 50)
    assert price_of([(costs, 10.0)], 600.0, 3) == (50, 0.5)
    assert price_of([(costs, 10.0)], 1000.0, 3)[0] == 0
