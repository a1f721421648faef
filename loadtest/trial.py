"""One measurement: a plan carried out on the sender's own core, metered, repeated while the sender was late.

Joins client, stall meters and answers; knows nothing of which server it is or why it is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from loadtest.answers import interpret
from loadtest.client import Sender
from loadtest.pinning import own_core
from loadtest.plan import Plan
from loadtest.records import Run
from loadtest.stalls import SPARING_NS, metering
from loadtest.summary import sender_kept_time

MAX_REPEATS = 5
_METER_MARGIN_S = 120.0  # patience, draining, connecting: more than any run takes beyond its own length


@dataclass(frozen=True)
class Bench:
    """Which cores: the sender's (None: not pinned) and those whose stalls are noted."""

    sender_cpu: int | None = None
    metered_cpus: tuple[int, ...] = ()


def carry_out(plan: Plan, bench: Bench, ladder: Sequence[str] = ()) -> Run:
    """Runs the plan once. The facts say what was obtained and whether the sender kept time."""
    longest_s = plan.seconds + plan.grace_s + _METER_MARGIN_S
    with metering(bench.metered_cpus, longest_s, period_ns=SPARING_NS) as meters:
        with own_core(bench.sender_cpu) as hold:
            run = Sender(plan).run()
        if bench.metered_cpus:
            run = replace(run, stalls_ns=meters.stop() - run.start_ns)
        trustworthy = meters.trustworthy
    run = interpret(run, ladder)
    return run.with_facts(
        sender=str(hold), meters_trustworthy=trustworthy, sender_kept_time=sender_kept_time(run.records)
    )


def measure(plan: Plan, bench: Bench, ladder: Sequence[str] = (), max_repeats: int = MAX_REPEATS) -> Run:
    """Runs until the sender kept time, at most 1 + `max_repeats` times; the last run is returned either way.

    The facts `repeats` and `sender_kept_time` say how often it was void and whether it still is.
    """
    for repeats in range(max_repeats + 1):
        run = carry_out(plan, bench, ladder).with_facts(repeats=repeats)
        if run.facts["sender_kept_time"]:
            break
    return run
