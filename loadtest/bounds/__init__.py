"""Upper bounds: what no scheduler can beat, so that a policy's distance from it can be printed.

Every bound is an effective accuracy: right and on time, over all offered requests. One device runs one launch
at a time; rung k on b images takes `latency_ns[k][b - 1]`. All of them know every arrival beforehand. A bound
holds against measured figures only as far as its latencies do not exceed those that the policy met: give it the
mean or median of the recorded samples, not the cautious quantile that the server plans with, and charge it no
decision time.

- `u1`: an exact dynamic programme over the schedules themselves. Equal budgets, mean accuracies: it bounds every
  policy whose choices do not look at the images.
- `u1_prime`: the same for any mix of budgets, by a relaxation: launches may be interrupted and split, and every
  image costs what it costs in the best batch, kappa_k = min over b of T_k(b) / b. Looser than `u1` where it is
  quiet (nothing fills a batch) and where launches are long against budgets; close to it in overload.
- `u2`: `u1_prime` with more to choose from: cascades "run j; if its confidence is below tau run k", with costs and
  accuracies taken from recorded outputs. It bounds policies that look at confidence by thresholds. It may lie
  above or below `u1` (it knows more, but relaxes more); it is never below `u1_prime`.
- `fluid`: the relaxation without time: requests flow in evenly at a rate. It needs no arrivals, and with the
  options of a cascade it is the fluid form of U2.
- `binned.binned`: U1' and U2 written out as a linear programme over time bins and solved by HiGHS: slower and
  looser than `u1_prime` and `u2`, and independent of them, which is why it is here. It is not imported with the
  package: SciPy takes its time.

What they do not bound: a policy that reads more out of an image than one confidence per set of finished rungs; one
that goes on with different rungs by confidence, where a cascade goes on with the same for all or stops (at a price of
device time the best such policy, fitted to 40 bins of the recording of cifar10/1, was at most 0.13 points above U2's
options, part of which is the fit); and the luck of one finite run.
Accuracies here are means over the recorded images; a run of n requests scatters
around its own mean by about sqrt(a (1 - a) / n) (0.2 points for 20 000 requests at 90 %), so a policy may stand
above a bound by that much and nothing is wrong.

This package knows arrays of numbers. It knows no server, no policy, no files and no clock.
"""

from loadtest.bounds.bound import Bound
from loadtest.bounds.cascades import cascade_options
from loadtest.bounds.exact import u1
from loadtest.bounds.options import Options, direct_options, fluid, pooled_accuracies
from loadtest.bounds.relaxed import relaxed, u1_prime, u2

__all__ = [
    "Bound",
    "Options",
    "cascade_options",
    "direct_options",
    "fluid",
    "pooled_accuracies",
    "relaxed",
    "u1",
    "u1_prime",
    "u2",
]
