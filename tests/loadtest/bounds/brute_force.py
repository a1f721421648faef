"""The best schedule of a handful of requests, by trying them all: any subsets, any order, any rungs."""

from itertools import combinations

import numpy as np


def best_utility(accuracies, latency_ns, arrivals, budget, free=-np.inf, waiting=None):
    """Sum of mean accuracies of the best schedule; requests are neither kept in order nor in neighbouring batches."""
    waiting = tuple(range(len(arrivals))) if waiting is None else waiting
    best = 0.0
    for size in range(1, min(len(waiting), latency_ns.shape[1]) + 1):
        for members in combinations(waiting, size):
            start = max(free, *(arrivals[member] for member in members))
            rest = tuple(other for other in waiting if other not in members)
            for accuracy, row in zip(accuracies, latency_ns, strict=True):
                end = start + row[size - 1]
                if end <= min(arrivals[member] for member in members) + budget:
                    later = best_utility(accuracies, latency_ns, arrivals, budget, end, rest)
                    best = max(best, accuracy * size + later)
    return best
