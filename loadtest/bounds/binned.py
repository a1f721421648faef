"""U1' and U2 as a linear programme over time bins (HiGHS). Independent of `relaxed`, and never below it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array

from loadtest.bounds.bound import Floats, checked_windows
from loadtest.bounds.options import Options


@dataclass(frozen=True)
class _Classes:
    """Requests of the same arrival bin and deadline bin: their number [c], and all (class, bin) pairs [e] they span."""

    count: Floats
    pair_class: NDArray[np.intp]
    pair_bin: NDArray[np.intp]


def binned(options: Options, arrivals_ns: ArrayLike, deadlines_ns: ArrayLike, bin_ns: float) -> float:
    """An upper bound on effective accuracy for any mix of budgets: the optimum of an LP over bins of `bin_ns`.

    maximise sum A_o x_co  where  sum_o x_co <= n_c;  sum_o cost_o x_co <= sum_w s_cw;  sum_c s_cw <= bin_ns

    x_co is how many requests of class c take option o, s_cw the device time the class gets in bin w, and w runs
    over all bins that overlap some member's time from arrival to deadline. A real schedule gives such an x and
    s (see `relaxed`), so the optimum bounds it; a coarser bin only widens windows and raises the bound. Budgets
    too small for an option are not told apart (`shortest_ns` is ignored), which raises it, too.
    The size is the number of pairs (class, bin): choose bins of the order of the smallest budgets.
    Raises ValueError for unequal lists or a bin that is not positive, RuntimeError when HiGHS finds no optimum.
    """
    if not bin_ns > 0:
        raise ValueError(f"bins must be longer than nothing, not {bin_ns} ns")
    arrivals, deadlines = checked_windows(arrivals_ns, deadlines_ns)
    hull = options.hull()
    if len(arrivals) == 0 or len(hull) == 0:
        return 0.0
    classes = _classes(arrivals, deadlines, bin_ns)
    if len(classes.count) == 0:  # every deadline lies before its arrival
        return 0.0
    return _solved(hull, classes, bin_ns) / len(arrivals)


def _classes(arrivals: Floats, deadlines: Floats, bin_ns: float) -> _Classes:
    windows = np.stack([np.floor(arrivals / bin_ns), np.floor(deadlines / bin_ns)]).astype(np.int64)
    (first, last), count = np.unique(windows[:, windows[0] <= windows[1]], axis=1, return_counts=True)
    lengths = last - first + 1
    pair_class = np.repeat(np.arange(len(count)), lengths)
    starts = np.cumsum(lengths) - lengths
    bins = np.arange(lengths.sum()) - starts[pair_class] + first[pair_class]
    return _Classes(count.astype(np.float64), pair_class, np.unique(bins, return_inverse=True)[1])


def _solved(hull: Options, classes: _Classes, bin_ns: float) -> float:
    """Variables: x, class by class; then s by pair, in bins. Rows: requests, work, bins."""
    kinds, options, pairs = len(classes.count), len(hull), len(classes.pair_bin)
    x_class = np.repeat(np.arange(kinds), options)
    x, s = np.arange(kinds * options), kinds * options + np.arange(pairs)
    cost = np.tile(hull.cost_ns / bin_ns, kinds)
    entries = [
        (x_class, x, np.ones(len(x))),
        (kinds + x_class, x, cost),
        (kinds + classes.pair_class, s, -np.ones(pairs)),
        (2 * kinds + classes.pair_bin, s, np.ones(pairs)),
    ]
    rows, columns, values = (np.concatenate(part) for part in zip(*entries, strict=True))
    limits = np.concatenate([classes.count, np.zeros(kinds), np.ones(classes.pair_bin.max() + 1)])
    matrix = coo_array((values, (rows, columns)), shape=(len(limits), len(x) + len(s))).tocsr()
    worth = np.concatenate([np.tile(hull.accuracy, kinds), np.zeros(pairs)])
    result = linprog(-worth, A_ub=matrix, b_ub=limits, method="highs")
    if result.status != 0:
        raise RuntimeError(f"HiGHS found no optimum: {result.message}")
    return -float(result.fun)
