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
    assert price_of(planned, room_ns, guess) == wanted
