"""Whatever happens in whatever order, the policy keeps its promises. Latencies are exact where nothing else is said."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.events import Job
from server.engine.policy import PolicyConfig
from tests.server.engine.simulation import MS, Device, linear_table, tiny_ladder

GUARD_NS = 200_000

arrivals = st.tuples(
    st.just("arrive"),
    st.sampled_from(["m", "n", "unknown"]),
    st.one_of(st.floats(0.01, 3), st.floats(3, 60), st.floats(60, 10_000)),
    st.sampled_from([1.0, 0.0, 0.5, 0.9]),
    st.booleans(),
)
bursts = st.tuples(
    st.just("burst"), st.sampled_from(["m", "n"]), st.integers(2, 40), st.floats(0.5, 30), st.floats(0, 1)
)
happenings = st.lists(
    st.one_of(
        arrivals,
        arrivals,
        bursts,
        st.tuples(st.just("wait"), st.floats(0, 4)),
        st.tuples(st.just("cancel"), st.integers(0, 80)),
        st.tuples(st.just("break"), st.sampled_from(["m", "n"]), st.integers(0, 2)),
    ),
    max_size=40,
)
tables = st.tuples(st.floats(0.01, 0.5), st.floats(0.1, 2), st.floats(0.5, 12), st.floats(0, 0.5))


def play(script, costs, gains, confidence_seed, slowdown=lambda launch: launch.expected_ns) -> Device:
    device = Device(
        {name: (tiny_ladder(3, gains), linear_table(costs[:3], launch_ms=costs[3])) for name in ("m", "n")},
        PolicyConfig(guard_ns=GUARD_NS),
        confidence=lambda key, stage: (key * 31 + stage * 17 + confidence_seed) % 101 / 100,
        duration=slowdown,
    )
    for key, (what, *how) in enumerate(script):
        if what == "burst":
            model, count, budget_ms, spread = how
            for number in range(count):
                deadline = device.now + int(budget_ms * (1 + spread * number / count) * MS)
                device.arrive(Job(1000 * key + 1000 + number, model, deadline))
        elif what == "arrive":
            model, budget_ms, min_confidence, every_stage = how
            deadline = device.now + int(budget_ms * MS)
            device.arrive(Job(key, model, deadline, min_confidence, every_stage))
        elif what == "wait":
            device.run(device.now + int(how[0] * MS))
        elif what == "cancel":
            device.cancel(how[0])
        else:
            device.fails.add((how[0], how[1]))
    device.drain()
    return device


gain_rows = st.tuples(*[st.floats(-0.1, 0.4)] * 4)


@settings(max_examples=300, deadline=None)
@given(happenings, tables, gain_rows, st.integers(0, 100))
def test_every_job_ends_in_exactly_one_outcome_and_none_runs_twice_in_a_stage(script, costs, gains, seed):
    device = play(script, costs, gains, seed)
    assert set(device.outcomes) == set(device.jobs)
    assert all(len(outcomes) == 1 for outcomes in device.outcomes.values())
    assert all(len(set(stages)) == len(stages) for stages in device.stages.values())
    assert not device.state.jobs
    assert all(not queue.unanswered and not queue.groups for queue in device.state.models.values())
    for key, stages in device.stages.items():
        if device.jobs[key].every_stage:
            assert stages == sorted(stages)


@settings(max_examples=300, deadline=None)
@given(happenings, tables, gain_rows, st.integers(0, 100))
def test_no_launch_breaks_a_deadline_that_the_table_foresees(script, costs, gains, seed):
    device = play(script, costs, gains, seed)
    for start, launch in device.launches:
        for key in launch.keys:
            assert start + launch.promised_ns + GUARD_NS <= device.jobs[key].deadline_ns


@settings(max_examples=300, deadline=None)
@given(happenings, tables, gain_rows, st.integers(0, 100))
def test_whoever_is_admitted_is_answered_in_time_when_nothing_fails(script, costs, gains, seed):
    device = play([entry for entry in script if entry[0] != "break"], costs, gains, seed)
    assert "expired" not in device.tally()
    for key, (outcome,) in device.outcomes.items():
        if outcome not in {"rejected", "cancelled"}:
            assert device.answered_at[key] + GUARD_NS <= device.jobs[key].deadline_ns


@settings(max_examples=200, deadline=None)
@given(
    happenings, tables, gain_rows, st.integers(0, 100), st.lists(st.floats(0.2, 15), min_size=1, max_size=9)
)
def test_the_outcomes_stay_single_when_the_device_is_erratic(script, costs, gains, seed, factors):
    device = play(
        script,
        costs,
        gains,
        seed,
        lambda launch: int(launch.expected_ns * factors[launch.number % len(factors)]),
    )
    assert set(device.outcomes) == set(device.jobs)
    assert all(len(outcomes) == 1 for outcomes in device.outcomes.values())
    assert not device.state.jobs


@settings(max_examples=200, deadline=None)
@given(happenings, tables, gain_rows, st.integers(0, 100))
def test_nobody_waits_for_nothing(script, costs, gains, seed):
    """When the device goes idle, no job is left waiting for its deadline."""
    device = play(script, costs, gains, seed)
    last = max([start + launch.expected_ns for start, launch in device.launches], default=0)
    assert all(ended <= max(last, device.now) for ended in device.ended_at.values())
    assert device.running is None
