"""Small random instances: accuracies, latencies by batch, arrivals and budgets, all in whole units."""

import numpy as np
from hypothesis import strategies as st


@st.composite
def ladders(draw, rungs=2, batches=3):
    """Accuracies [K] and latencies [K, B]; latencies rise with the batch, but by less than in proportion."""
    count = draw(st.integers(1, rungs))
    accuracies = np.array(draw(st.lists(st.integers(1, 20), min_size=count, max_size=count))) / 20
    first = np.array(draw(st.lists(st.integers(1, 6), min_size=count, max_size=count)))
    more = draw(st.lists(st.integers(0, 3), min_size=batches - 1, max_size=batches - 1))
    return accuracies, first[:, None] + np.concatenate([[0], np.cumsum(more)])


def arrivals(most):
    return st.lists(st.integers(0, 12), min_size=1, max_size=most).map(np.sort)
