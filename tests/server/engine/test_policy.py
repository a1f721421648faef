from __future__ import annotations

import random

import pytest

from server.engine.events import Job
from server.engine.latency import FIRST_FACTOR, LatencyTable
from server.engine.policy import (
    Arrived,
    Launch,
    LaunchDone,
    PolicyConfig,
    Pressed,
    Tick,
    first_answer_ns,
    new_state,
    step,
)
from tests.server.engine.simulation import MS, Device, linear_table, tiny_ladder

COSTS = (0.2, 0.8, 4.0)


def one_model(costs=COSTS, **options) -> Device:
    return Device({"m": (tiny_ladder(len(costs)), linear_table(costs))}, **options)


def job(key, deadline_ms: float, **options) -> Job:
    return Job(key, "m", int(deadline_ms * MS), **options)


def test_a_lone_job_with_time_climbs_to_the_deepest_rung_and_ends_at_once():
    device = one_model()
    device.arrive(job(1, 1000))
    device.drain()
    assert device.stages[1][0] == 0
    assert device.stages[1][-1] == 2
    assert device.outcome(1) == "deepest"
    assert device.ended_at[1] < 10 * MS


def test_a_job_is_finished_when_nothing_deeper_fits_and_not_at_its_deadline():
    device = one_model()
    device.arrive(job(1, 3))
    device.drain()
    assert device.outcome(1) == "deadline"
    assert 2 not in device.stages[1]
    assert device.ended_at[1] < 2 * MS


def test_an_image_without_expected_gain_is_finished_after_its_first_rung():
    device = one_model(confidence=lambda _key, _stage: 0.99)
    device.arrive(job(1, 1000))
    device.drain()
    assert device.stages[1] == [0]
    assert device.outcome(1) == "no_gain"


def test_a_stream_gets_every_rung_in_order_whatever_it_gains():
    device = one_model(confidence=lambda _key, _stage: 0.99)
    device.arrive(job(1, 1000, every_stage=True))
    device.drain()
    assert device.stages[1] == [0, 1, 2]
    assert device.outcome(1) == "deepest"


def test_min_confidence_stops_a_job_and_a_stream():
    device = one_model(confidence=lambda _key, stage: (0.4, 0.7, 0.9)[stage])
    device.arrive(job(1, 1000, min_confidence=0.7, every_stage=True))
    device.arrive(job(2, 1000, min_confidence=0.3))
    device.drain()
    assert device.stages[1] == [0, 1]
    assert device.stages[2] == [0]
    assert device.outcome(1) == device.outcome(2) == "confident"


def test_a_min_confidence_of_one_means_never_even_at_certainty():
    device = one_model(confidence=lambda _key, _stage: 1.0)
    device.arrive(job(1, 1000, every_stage=True, min_confidence=1.0))
    device.drain()
    assert device.outcome(1) == "deepest"


def test_a_rung_is_skipped_where_climbing_would_waste_time():
    device = one_model(costs=(0.2, 3.9, 4.0))
    device.arrive(job(1, 1000))
    device.drain()
    assert device.stages[1] == [0, 2]


def test_first_answers_go_before_deepening():
    device = one_model()
    device.arrive(job("old", 100))
    device.tick()
    for key in range(5):
        device.arrive(job(key, 100))
    device.drain()
    deepening = [place for place, (_, launch) in enumerate(device.launches) if launch.stage > 0]
    securing = [place for place, (_, launch) in enumerate(device.launches) if launch.stage == 0]
    assert max(securing) < min(deepening)


def test_unanswered_jobs_run_by_earliest_deadline():
    device = one_model(config=PolicyConfig(max_batch=32, guard_ns=0))
    device.arrive(job("blocker", 500))
    device.tick()
    for key, deadline_ms in [("c", 90), ("a", 30), ("b", 60)]:
        device.arrive(job(key, deadline_ms))
    device.drain()
    order = [key for _, launch in device.launches if launch.stage == 0 for key in launch.keys]
    assert order == ["blocker", "a", "b", "c"]


def test_what_cannot_make_its_first_rung_is_refused_at_arrival_with_a_feasible_budget():
    device = one_model()
    device.arrive(job(1, 0.1))
    assert device.outcome(1) == "rejected"
    assert device.feasible[1] >= 0.25 * MS
    device.arrive(Job(2, "m", device.feasible[1]))
    device.drain()
    assert device.answered_at[2] <= device.feasible[1]


def test_a_refusal_counts_what_is_queued():
    device = one_model()
    for key in range(300):
        device.arrive(job(key, 20))
    admitted = [key for key in range(300) if key not in device.outcomes]
    assert 60 < len(admitted) < 110  # 20 ms at 0.2 ms each and something per launch
    device.drain()
    assert all(device.answered_at[key] <= 20 * MS for key in admitted)


def test_a_tight_newcomer_may_not_make_admitted_jobs_late():
    device = one_model()
    for key in range(90):
        device.arrive(job(key, 20))
    admitted = set(device.state.jobs)
    device.arrive(job("tight", 2))
    device.drain()
    assert all(device.answered_at[key] <= 20 * MS for key in admitted)


def test_no_deep_launch_starts_that_would_make_an_unanswered_job_late():
    device = one_model(costs=(5.0, 6.0, 40.0), duration=lambda launch: launch.expected_ns)
    device.arrive(job("early", 1000))
    device.run(4 * MS)
    device.arrive(job("late", 30))
    device.run(200 * MS)
    assert device.answered_at["late"] <= 30 * MS


def test_the_guard_is_kept_for_everyone_who_is_admitted():
    device = one_model(config=PolicyConfig(guard_ns=1 * MS))
    for key in range(300):
        device.arrive(job(key, 20))
    admitted = [key for key in range(300) if key not in device.outcomes]
    device.drain()
    assert len(admitted) > 50
    assert all(device.answered_at[key] <= 19 * MS for key in admitted)


def test_cheap_deepening_waits_when_a_costly_first_answer_has_no_time_to_lose():
    device = one_model(costs=(5.0, 0.1, 0.2))
    device.arrive(job("answered", 500))
    device.tick()
    device.run(5 * MS)
    device.arrive(job("urgent", 5.05 + 5.05 + 0.05))
    device.drain()
    assert device.answered_at["urgent"] <= device.jobs["urgent"].deadline_ns


def test_a_batch_of_one_model_may_not_make_another_models_job_late():
    costs = (0.5, 1.0, 1.0)
    device = Device({name: (tiny_ladder(), linear_table(costs, launch_ms=0)) for name in ("m", "n")})
    for key, (model, deadline_ms) in enumerate([("m", 0.8), ("m", 1.8), ("n", 1.3)]):
        device.arrive(Job(key, model, int(deadline_ms * MS)))
    device.drain()
    assert device.tally()["expired"] == 0
    assert all(device.answered_at[key] <= device.jobs[key].deadline_ns for key in range(3))


def test_no_member_of_a_deepening_batch_is_carried_past_its_deadline():
    device = one_model(costs=(0.2, 3.9, 4.0))
    device.arrive(job("tight", 4.45))
    device.arrive(job("loose", 100))
    device.drain()
    assert len(device.stages["loose"]) > 1
    for start, launch in device.launches:
        assert all(start + launch.promised_ns <= device.jobs[key].deadline_ns for key in launch.keys)


def test_where_batches_gain_nothing_small_ones_are_run_for_they_block_least():
    device = Device({"m": (tiny_ladder(), linear_table(COSTS, launch_ms=0))})
    for key in range(8):
        device.arrive(job(key, 1000))
    device.drain()
    assert {len(launch.keys) for _, launch in device.launches} == {1}


def test_whoever_cannot_wait_for_the_launch_that_starts_is_finished_as_it_starts():
    device = one_model(costs=(0.2, 3.0, 6.0))
    device.arrive(job("a", 4))
    device.arrive(job("b", 4))
    device.drain()
    (deepened,) = [key for key in ("a", "b") if len(device.stages[key]) > 1]
    (other,) = {"a", "b"} - {deepened}
    start = next(at for at, launch in device.launches if launch.stage > 0)
    assert device.outcome(other) == "overload"
    assert device.ended_at[other] == start


@pytest.mark.parametrize("others", [0, 2])
def test_whoever_has_time_is_not_refused_for_one_who_has_none(others):
    """Together they would make a batch too long for the tight one; but the others can come after it. Models that
    nobody waits for change nothing."""
    device = Device({name: (tiny_ladder(1), linear_table([4.0])) for name in ("m", "n", "o")[: 1 + others]})
    device.arrive(job("tight", 6))
    for key in range(3):
        device.arrive(job(key, 500))
    device.drain()
    assert device.tally() == {"deepest": 4}


def test_when_small_batches_cannot_keep_up_the_most_urgent_are_given_up_for_a_full_one():
    device = Device({"m": (tiny_ladder(1), linear_table([0.1], launch_ms=10.0))})
    for key in range(33):
        device.arrive(job(key, 26 if key else 15))
    # A stall: the first could still have a launch of its own, but nothing in a full batch.
    device.now = 4 * MS
    device.tick()
    assert device.outcome(0) == "expired"
    assert len(device.launches[0][1].keys) == 32


def flat_table(costs_ms) -> LatencyTable:
    """As on a GPU: a launch costs the same for one image and for 32."""
    table = LatencyTable(
        {k: {1: cost * MS, 32: 1.01 * cost * MS} for k, cost in enumerate(costs_ms)},
        32,
        overhead_ns=0,
        first_tail_ns=0,
    )
    for _ in range(60):
        table.observe(0, 1, table.typical_ns(0, 1))
    return table


def under_load(table: LatencyTable, seconds: float, gap_ms: float) -> Device:
    """One job each `gap_ms`, with 60 ms; every second is confident, the others gain from deeper rungs."""
    device = Device({"m": (tiny_ladder(), table)}, confidence=lambda key, _stage: 0.99 if key % 2 else 0.4)
    for key in range(int(seconds * 1000 / gap_ms)):
        device.run(int(key * gap_ms * MS))
        device.arrive(Job(key, "m", device.now + 60 * MS))
        device.run(device.now)
    device.drain()
    return device


def test_under_load_a_device_with_free_seats_fills_them():
    """At 2,000 a second, launches of 2, 5 and 9 ms: one after the other would serve a few hundred."""
    device = under_load(flat_table((2.0, 5.0, 9.0)), seconds=1.5, gap_ms=0.5)
    settled = [launch for at, launch in device.launches if at > 500 * MS]
    assert sum(len(launch.keys) for launch in settled) / len(settled) > 16
    assert all(key in device.answered_at for key in device.jobs)


def test_beyond_what_first_rungs_can_carry_nobody_begins_with_a_deeper_one():
    """Launches of 2 ms carry 16,000 a second, 20,000 come: a rung of 5 ms that spares a first one is no bargain."""
    table = flat_table((2.0, 5.0, 9.0))
    device = under_load(table, seconds=0.5, gap_ms=0.05)
    answered = sum(
        device.answered_at.get(key, 1 << 62) <= job.deadline_ns for key, job in device.jobs.items()
    )
    assert answered >= 0.75 * len(device.jobs)
    late = [launch for at, launch in device.launches if 200 * MS < at < 500 * MS]
    assert sum(launch.stage > 0 for launch in late) <= 0.1 * len(late)


def busy_device() -> Device:
    """Whose answers never tell images apart: of 2,500 a second some begin with the first rung, most with the second."""
    costs = {0: (0.4, 0.1), 1: (0.4, 0.25), 2: (1.5, 0.6)}  # ms for a launch, and for each image in it
    sizes = (1, 2, 4, 8, 16, 32)
    times = {k: {b: (launch + each * b) * MS for b in sizes} for k, (launch, each) in costs.items()}
    table = LatencyTable(times, 32, overhead_ns=0, first_tail_ns=0)

    def duration(launch: Launch) -> int:
        """A little longer than by the profile, and not as long as the estimate says: or that would rise with itself."""
        fixed, each = costs[launch.stage]
        return int(FIRST_FACTOR * (fixed + each * len(launch.keys)) * MS)

    return Device({"m": (tiny_ladder(gains=(0.1,) * 4), table)}, duration=duration)


def keep_busy(device: Device, jobs: range, gap_ms: float = 0.4) -> None:
    draw, at = random.Random(1 + jobs.start), device.now / MS
    for key in jobs:
        at += draw.expovariate(1 / gap_ms)
        device.run(int(at * MS))
        device.arrive(Job(key, "m", device.now + 50 * MS))
        device.run(device.now)


def test_where_it_is_all_the_same_whether_to_begin_deeper_first_rungs_wait_for_full_batches():
    device = busy_device()
    keep_busy(device, range(4000))
    settled = [launch for begun, launch in device.launches if begun > 500 * MS]
    first = [len(launch.keys) for launch in settled if launch.stage == 0]
    assert 0 < len(first) < len(settled) / 2
    assert sum(first) / len(first) > 30


def test_where_half_begin_deeper_and_half_stop_after_the_first_rung_few_have_both():
    """One costs 0.13 ms and the other 0.30: both together, for what the second alone gives, are a detour."""
    device = busy_device()
    keep_busy(device, range(4000), gap_ms=0.2)
    # Without the last ones: whoever is still there when nobody comes any more gets whatever gains anything.
    rungs = [device.stages[key] for key in range(1000, 3700)]
    assert 900 < sum(ran == [0] for ran in rungs) < 1900
    assert sum(len(ran) > 1 for ran in rungs) < 0.01 * len(rungs)


def test_under_pressure_only_first_rungs_run_and_answered_jobs_are_finished():
    device = one_model()
    for key in ("launched", "answered"):
        device.arrive(job(key, 500))
    while not any(launch.stage for _, launch in device.launches):
        device.run(device.now + MS // 10)
    waiting = {"launched", "answered"} - set(device.launches[-1][1].keys)
    device.tell(Pressed(True))
    device.tick()
    assert all(device.outcome(key) == "overload" for key in waiting)
    device.drain()
    for key in range(8):
        device.arrive(Job(key, "m", device.now + 100 * MS))
    device.run(device.now + 200 * MS)
    assert {stage for key in range(8) for stage in device.stages[key]} == {0}
    assert all(device.outcome(key) == "overload" for key in range(8))
    device.tell(Pressed(False))
    device.arrive(Job("after", "m", device.now + 1000 * MS))
    device.drain()
    assert device.outcome("after") == "deepest"


def test_under_pressure_first_rungs_wait_for_company_but_not_for_long():
    device = Device({"m": (tiny_ladder(), flat_table((2.0, 5.0, 9.0)))})
    device.tell(Pressed(True))
    device.arrive(job("lone", 100))
    device.tick()
    assert device.running is None
    assert 0 < device.wakes_at < 60 * MS
    device.run(device.wakes_at)
    assert device.running is not None
    device.drain()
    device.now += 200 * MS
    for key in range(32):
        device.arrive(Job(key, "m", device.now + 100 * MS))
    device.tick()
    assert device.running is not None
    assert len(device.launches[-1][1].keys) == 32


def test_while_the_cores_are_wanted_only_first_rungs_run_and_answered_jobs_wait():
    device = one_model()
    device.crowded = True
    for key in range(32):
        device.arrive(job(key, 500))
    device.drain()
    assert {tuple(stages) for stages in device.stages.values()} == {(0,)}
    assert not device.outcomes
    device.crowded = False
    device.drain()
    assert all(device.outcome(key) == "deepest" for key in range(32))


def test_while_the_cores_are_wanted_no_model_s_answered_jobs_run_beside_first_rungs_of_another():
    device = Device({name: (tiny_ladder(), linear_table((0.2, 0.8, 3.0))) for name in ("m", "n")})
    device.crowded = True
    for key in range(32):
        device.arrive(job(key, 500))
    device.drain()
    for key in range(32):
        device.arrive(Job(("n", key), "n", device.now + 500 * MS))
        device.run(device.now + MS)
    device.drain()
    assert {launch.stage for _, launch in device.launches} == {0}


def test_while_the_cores_are_wanted_new_images_begin_with_the_rung_of_their_plan_and_go_no_further():
    device = busy_device()
    keep_busy(device, range(2000))
    device.crowded, began = True, device.now
    keep_busy(device, range(2000, 2500))
    crowd = [launch for begun, launch in device.launches if begun > began]
    assert sum(launch.stage == 1 for launch in crowd) > len(crowd) / 2
    assert all(len(device.stages.get(key, [])) <= 1 for key in range(2000, 2500))


def test_who_could_wait_no_longer_while_the_cores_are_wanted_keeps_the_answer_there_is():
    device = one_model()
    device.crowded = True
    device.arrive(job("answered", 40))
    for _ in range(60):
        device.run(device.now + MS)
    assert device.stages["answered"] == [0]
    assert device.outcome("answered") == "overload"
    assert device.ended_at["answered"] <= 40 * MS


def test_the_blocking_cap_keeps_long_launches_away_from_tight_traffic():
    device = one_model(costs=(0.2, 0.8, 30.0))
    for key in range(40):
        device.run(key * 5 * MS)
        device.arrive(Job(key, "m", device.now + 10 * MS))
        device.tick()
    device.arrive(Job("patient", "m", device.now + 1000 * MS))
    device.drain()
    assert 2 not in device.stages["patient"]
    assert device.outcome("patient") == "overload"


def test_a_stream_keeps_away_from_tight_traffic_too_but_not_from_some_that_may_come():
    for tight, last in ((40, 1), (2, 2)):
        device = one_model(costs=(0.2, 0.8, 30.0))
        for key in range(tight):
            device.run(key * 5 * MS)
            device.arrive(Job(key, "m", device.now + 10 * MS))
            device.tick()
        device.arrive(Job("stream", "m", device.now + 1000 * MS, every_stage=True))
        device.drain()
        assert device.stages["stream"] == list(range(last + 1))


def test_budgets_that_nothing_could_meet_do_not_shorten_the_blocking_cap():
    device = one_model()
    for key in range(50):
        device.arrive(job(key, 0.1))
    device.arrive(job("patient", 500))
    device.drain()
    assert device.outcome("patient") == "deepest"


def test_a_device_that_was_slow_for_a_while_is_found_out_again_though_all_was_refused():
    slow = True
    device = one_model(duration=lambda _launch: int((2.5 if slow else 0.25) * MS))
    for key in range(100):
        device.arrive(Job(key, "m", device.now + 2 * MS))
        device.run(device.now + 5 * MS)
    assert device.tally()["rejected"] > 50
    slow = False
    for key in range(100, 400):
        device.arrive(Job(key, "m", device.now + 2 * MS))
        device.run(device.now + 5 * MS)
    assert device.answered_at[399] <= device.jobs[399].deadline_ns


def test_tight_traffic_of_long_ago_does_not_keep_a_patient_job_from_a_long_launch():
    device = one_model(costs=(0.2, 0.8, 30.0))
    for key in range(40):
        device.run(key * 5 * MS)
        device.arrive(Job(key, "m", device.now + 10 * MS))
        device.tick()
    device.run(10_000 * MS)
    device.arrive(Job("patient", "m", device.now + 1000 * MS))
    device.drain()
    assert device.stages["patient"][-1] == 2


def test_a_cancelled_job_is_not_launched_and_has_no_other_outcome():
    device = one_model()
    device.arrive(job("blocker", 500))
    device.tick()
    device.arrive(job(1, 500))
    device.cancel(1)
    device.cancel(1)
    device.cancel("never seen")
    device.drain()
    assert 1 not in device.stages
    assert device.outcome(1) == "cancelled"


def test_a_job_cancelled_during_its_launch_goes_no_further():
    device = one_model()
    device.arrive(job(1, 500))
    device.tick()
    device.cancel(1)
    device.drain()
    assert device.stages[1] == [0]
    assert device.outcome(1) == "cancelled"


def test_the_ladder_goes_on_without_a_stage_that_fails():
    device = one_model()
    device.fails = {("m", 2)}
    for key in range(3):
        device.arrive(job(key, 1000))
    device.drain()
    assert all(device.stages[key] == [0, 1] for key in range(3))
    assert device.tally() == {"stage_failed": 3}
    assert sum(launch.stage == 2 for _, launch in device.launches) == 1


def test_when_the_first_rung_fails_the_next_one_answers():
    device = one_model()
    device.fails = {("m", 0)}
    device.arrive(job(1, 1000))
    device.drain()
    assert device.stages[1][0] == 1


def test_when_every_stage_fails_all_are_told_and_newcomers_too():
    device = one_model()
    device.fails = {("m", 0), ("m", 1), ("m", 2)}
    device.arrive(job(1, 1000))
    device.arrive(job(2, 1000))
    device.drain()
    device.arrive(job(3, 1000))
    assert device.tally() == {"stage_failed": 3}


def test_answered_jobs_whose_only_deeper_rung_fails_end_as_stage_failed():
    device = one_model(costs=(0.2, 0.8))
    device.fails = {("m", 1)}
    device.arrive(job(1, 1000))
    device.drain()
    assert device.stages[1] == [0]
    assert device.outcome(1) == "stage_failed"


def test_a_job_of_an_unknown_model_is_refused():
    device = one_model()
    device.arrive(Job(1, "other", 100 * MS))
    assert device.outcome(1) == "rejected"
    assert device.feasible[1] == 0


def test_a_key_that_is_known_is_ignored():
    device = one_model()
    device.arrive(job(1, 1000))
    device.arrive(job(1, 1000))
    device.drain()
    assert device.outcome(1) == "deepest"


def test_a_pinned_ladder_runs_its_one_rung_only():
    ladder = tiny_ladder()
    ladder.usable[:] = [2]
    device = Device({"m": (ladder, linear_table(COSTS))})
    device.arrive(job(1, 100))
    device.drain()
    assert device.stages[1] == [2]
    assert device.outcome(1) == "deepest"


def test_two_models_share_the_device_by_deadline():
    device = Device({name: (tiny_ladder(), linear_table(COSTS)) for name in ("m", "n")})
    for key in range(30):
        device.arrive(Job(("m", key), "m", 40 * MS))
        device.arrive(Job(("n", key), "n", 20 * MS))
    device.drain()
    for key in range(30):
        assert device.answered_at["m", key] <= 40 * MS
        assert device.answered_at["n", key] <= 20 * MS


def test_the_first_answer_estimate_grows_with_the_queue_and_with_a_running_launch():
    device = one_model()
    idle = first_answer_ns(device.state, "m", 0)
    device.arrive(job(1, 500))
    device.tick()
    busy = first_answer_ns(device.state, "m", 0)
    for key in range(2, 300):
        device.arrive(job(key, 20))
    assert idle < busy < first_answer_ns(device.state, "m", 0)


def test_the_same_events_give_the_same_orders():
    def play() -> list:
        device = one_model(confidence=lambda key, stage: (hash((key, stage)) % 97) / 97)
        draw = random.Random(5)
        for key in range(200):
            device.run(device.now + int(draw.expovariate(1 / 0.7) * MS))
            device.arrive(Job(key, "m", device.now + draw.choice([8, 50, 200]) * MS))
            device.tick()
        device.drain()
        return [device.launches, device.outcomes]

    assert play() == play()


@pytest.mark.parametrize("rate_per_s", [100, 400, 1000])
def test_poisson_overload_at_fifty_milliseconds_is_answered_in_time(rate_per_s):
    """The deepest rung alone would carry 240/s; decisions rest on exact latencies here."""
    device = one_model(confidence=lambda key, stage: (hash((key, stage)) % 97) / 97)
    draw = random.Random(1)
    for key in range(1500):
        device.run(device.now + int(draw.expovariate(rate_per_s) * 1e9))
        device.arrive(Job(key, "m", device.now + 50 * MS))
        device.tick()
    device.drain()
    answered = [key for key in device.answered_at if device.answered_at[key] <= device.jobs[key].deadline_ns]
    assert len(answered) == 1500
    assert sum(len(stages) > 1 for stages in device.stages.values()) > 500


def test_a_lonely_job_is_not_held_back_for_traffic_that_has_ended():
    device = one_model(costs=(0.2, 0.8, 30.0))
    for key in range(10):
        device.run(key * 5 * MS)
        device.arrive(Job(key, "m", device.now + 10 * MS))
        device.tick()
    device.run(device.now + 1500 * MS)
    device.arrive(Job("patient", "m", device.now + 1000 * MS))
    device.drain()
    assert device.outcome("patient") == "deepest"


def test_the_time_between_two_launches_is_learnt_only_if_work_was_waiting():
    latency = linear_table(COSTS)
    state = new_state({"m": (tiny_ladder(len(COSTS)), latency)}, PolicyConfig())
    least_ns = latency.overhead_ns

    def launch(now_ns: int) -> Launch | None:
        return next((order for order in step(state, Tick(), now_ns)[1] if isinstance(order, Launch)), None)

    def end(ordered: Launch, now_ns: int) -> None:
        step(state, LaunchDone(ordered, (0.99,) * len(ordered.keys), ordered.expected_ns), now_ns)

    now = 0
    for number in range(20):  # idle in between
        step(state, Arrived(job(number, now / MS + 50)), now)
        first = launch(now)
        assert first
        end(first, now := now + first.expected_ns)
        assert launch(now) is None
        now += 3 * MS
    assert latency.overhead_ns == least_ns
    for number in range(
        100, 120
    ):  # each is there before the launch before it ends, 3 ms of which are not its own
        step(state, Arrived(job(number, now / MS + 50)), now)
        ordered = launch(now)
        assert ordered
        step(state, Arrived(job(1000 + number, now / MS + 50)), now)
        end(ordered, now := now + ordered.expected_ns + 3 * MS)
    assert latency.overhead_ns == pytest.approx(3 * MS, rel=0.2)


def test_an_idle_device_is_soon_not_crowded_any_more_though_tight_jobs_never_reach_it():
    latency = linear_table(COSTS)
    state = new_state({"m": (tiny_ladder(len(COSTS)), latency)}, PolicyConfig())
    at_rest_ns = first_answer_ns(state, "m", 0)
    for _ in range(50):
        state.models["m"].observe_between(5 * MS)
    step(state, Tick(), 50 * MS)
    assert first_answer_ns(state, "m", 50 * MS) > at_rest_ns + 3 * MS
    step(state, Tick(), 200 * MS)
    assert first_answer_ns(state, "m", 200 * MS) == at_rest_ns


def test_an_idle_device_that_was_crowded_takes_what_it_once_could_again():
    latency = linear_table(COSTS)
    state = new_state({"m": (tiny_ladder(len(COSTS)), latency)}, PolicyConfig())
    for _ in range(50):
        state.models["m"].observe_between(5 * MS)
    taken = []
    for number in range(20):
        now = number * 10 * MS
        taken.append(not step(state, Arrived(job(number, now / MS + 3)), now)[1])
        if taken[-1]:
            break
    assert taken[-1]
