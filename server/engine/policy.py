"""Which batch of which stage runs next, who is refused, and when a job is as good as it will get.

Pure: events in, instructions out, time as an argument; no clock, no I/O, no randomness. The engine process
serves with it and the simulator measures it. One device, any number of models.

The rule:

* **Admission.** Walking backwards over all unanswered jobs in deadline order, in batches of each model's
  cheapest rung, gives the latest time at which the device must start on them (`secure_start`). A job that
  would move it before the time the device is free is refused at once, unless walking forwards finds an order
  that saves all: everyone admitted has a first answer in time, as far as the table knows.
* **Price.** What is here and what will probably come, each image on the plan that a price makes best for it
  (prices.py), gives the lowest price at which it all fits, and with it what every rung is worth to every image.
* **Choice.** Candidates are a first rung for the earliest unanswered jobs, and every rung for all to whom it is
  worth more than to be passed over, beginners and answered jobs together (candidates.py). Each must finish
  before all of its members' deadlines and leave the secure check feasible; what it costs those who will arrive
  meanwhile with tight budgets is taken off its worth, for nothing can interrupt it. The largest worth per
  nanosecond runs; among equals the shortest, but of poor ones the longest, so that the next are full. Small
  batches of first rungs wait for company. A device that would be idle runs whatever gains anything.
* **Rescue.** Where no launch saves everyone, the most urgent are given up if that makes a full batch.
* **Pressure.** While the device's time is wanted for something better, as by front ends on the same cores, only first
  answers are given, in batches that waste no time. Where that is so for the moment (crowded) they come from the rung
  that the plan begins with, and answered jobs wait; where it is so for long (pressed), from the first rung, and
  answered jobs are finished.
* **Ending.** A job for which no rung with a gain is feasible any more is finished now: it never sleeps till
  its deadline.
"""

from __future__ import annotations

from typing import Final

from server.engine.candidates import Explain, best_candidate
from server.engine.events import (
    Arrived,
    Cancelled,
    Event,
    Finish,
    Instruction,
    Job,
    Key,
    Launch,
    LaunchDone,
    LaunchFailed,
    Pressed,
    Reject,
    Tick,
    WaitUntil,
)
from server.engine.ladder import Ladder
from server.engine.latency import LatencyTable
from server.engine.launches import Candidate
from server.engine.queues import ModelQueue, Waiting
from server.engine.room import (
    admits,
    first_answer_ns,
    free_ns,
    gathers_until,
    longest_batch_ns,
    price_place,
)
from server.engine.state import PolicyConfig, State, count_arrival, new_state

__all__ = [
    "Arrived",
    "Cancelled",
    "Finish",
    "Job",
    "Ladder",
    "LatencyTable",
    "Launch",
    "LaunchDone",
    "LaunchFailed",
    "PolicyConfig",
    "Pressed",
    "Reject",
    "State",
    "Tick",
    "WaitUntil",
    "first_answer_ns",
    "new_state",
    "step",
]


RESTED_NS: Final = 100_000_000  # an idle device is not crowded


def step(
    state: State, event: Event, now_ns: int, explain: Explain | None = None
) -> tuple[State, list[Instruction]]:
    """Tell the policy one event; returns the state (the same object, changed in place) and its instructions.

    Only a Tick orders a launch, and only while none is outstanding: tell everything that has happened, then
    tick.
    """
    match event:
        case Arrived(job):
            return state, _arrived(state, job, now_ns)
        case Tick(crowded):
            state.crowded = crowded
            return state, _decide(state, now_ns, explain)
        case LaunchDone():
            return state, _launch_done(state, event, now_ns)
        case Cancelled(key):
            _forget(state, key)
            return state, []
        case LaunchFailed(launch):
            return state, _launch_failed(state, launch)
        case Pressed(on):
            state.pressed = on
            return state, []


# Arrivals and ends of launches


def _arrived(state: State, job: Job, now_ns: int) -> list[Instruction]:
    queue = state.models.get(job.model)
    if job.key in state.jobs:
        return []
    if queue is None:
        return [Reject(job.key, 0)]
    if not queue.usable:
        return [Finish(job.key, "stage_failed")]
    count_arrival(state, queue, job, now_ns)
    free_at_ns = free_ns(state, now_ns)
    waiting = Waiting(job, state.arrivals)
    queue.add_unanswered(waiting)
    if not admits(state, queue, job, free_at_ns):
        queue.remove(waiting)
        feasible_ns = first_answer_ns(state, job.model, now_ns)
        _doubt_estimate(state, queue, job.deadline_ns - now_ns)
        return [Reject(job.key, feasible_ns)]
    state.jobs[job.key] = waiting
    return []


def _doubt_estimate(state: State, queue: ModelQueue, budget_ns: int) -> None:
    """An idle device refuses what it once could do: let the estimate sink, or nothing will ever be measured again."""
    idle = state.outstanding is None and not state.jobs
    if idle and budget_ns >= queue.latency.profiled_ns(queue.ladder.first, 1) + state.config.guard_ns:
        queue.relax()
        state.secure_ns = 0


def _launch_done(state: State, done: LaunchDone, now_ns: int) -> list[Instruction]:
    launch = done.launch
    queue = state.models[launch.model]
    state.outstanding, state.secure_ns = None, 0
    queue.latency.observe(launch.stage, len(launch.keys), done.duration_ns)
    state.landed_ns = state.began_ns + done.duration_ns
    orders: list[Instruction] = []
    ladder, plans, bit = queue.ladder, queue.plans, 1 << launch.stage
    for place, key in enumerate(launch.keys):
        confidence = done.confidences[place]
        waiting = state.jobs.get(key)
        if waiting is None:  # cancelled meanwhile
            continue
        bin_ = ladder.bin_of(confidence)
        plans.saw(waiting.mask, waiting.bin_, launch.stage, bin_)
        waiting.mask |= bit
        waiting.bin_ = bin_
        reason = _place_answered(state, queue, waiting, confidence, now_ns)
        if reason:
            del state.jobs[key]
            orders.append(Finish(key, reason))
    plans.refresh(longest_batch_ns(state))
    return orders


def _place_answered(state: State, queue: ModelQueue, waiting: Waiting, confidence: float, now_ns: int) -> str:
    """Queue the job for a deeper rung; returns the reason to finish it instead, or nothing."""
    job = waiting.job
    if confidence >= job.min_confidence < 1.0:
        return "confident"
    group = queue.outlook(waiting)
    if group is None:
        return _reason_to_stop(queue, waiting)
    if job.deadline_ns - state.config.guard_ns - now_ns < queue.latency.ns(group.shortest, 1):
        return "deadline"
    queue.add_answered(waiting, group)
    return ""


def _reason_to_stop(queue: ModelQueue, waiting: Waiting) -> str:
    if waiting.failed and not queue.ladder.has_published_deepest(waiting.mask):
        return "stage_failed"
    return queue.ladder.reason_after(waiting.mask)


def _launch_failed(state: State, launch: Launch) -> list[Instruction]:
    """The stage leaves the ladder. Its jobs go on with other rungs, answered ones of the model are placed anew."""
    queue = state.models[launch.model]
    state.outstanding, state.secure_ns, state.ended_ns = None, 0, 0
    moved = queue.fail(launch.stage)
    members = [state.jobs[key] for key in launch.keys if key in state.jobs]
    for waiting in moved + members:
        waiting.failed = True
    orders: list[Instruction] = []
    for waiting in moved + members:
        reason = _place_again(queue, waiting)
        if reason:
            del state.jobs[waiting.job.key]
            orders.append(Finish(waiting.job.key, reason))
    if not queue.usable:
        orders += [
            _end(state, waiting, "stage_failed") for waiting in queue.take_unanswered(len(queue.unanswered))
        ]
    return orders


def _place_again(queue: ModelQueue, waiting: Waiting) -> str:
    if not waiting.mask:
        queue.add_unanswered(waiting)
        return ""
    group = queue.outlook(waiting)
    if group is None:
        return _reason_to_stop(queue, waiting)
    queue.add_answered(waiting, group)
    return ""


def _forget(state: State, key: Key) -> None:
    waiting = state.jobs.pop(key, None)
    if waiting is not None:
        state.models[waiting.job.model].remove(waiting)


def _end(state: State, waiting: Waiting, reason: str) -> Finish:
    del state.jobs[waiting.job.key]
    return Finish(waiting.job.key, reason)


def _decide(state: State, now_ns: int, explain: Explain | None) -> list[Instruction]:
    if state.outstanding is not None and now_ns <= state.busy_until_ns and not state.pressed:
        return []  # who cannot wait so long was ended when it began, or refused
    orders = _end_hopeless(state, free_ns(state, now_ns))
    if state.pressed:
        orders += _end_the_rest(state)
    if state.outstanding is not None:
        return orders
    landed_ns, state.landed_ns = state.landed_ns, 0
    if not state.jobs:
        _rest(state, now_ns)
        return [*orders, WaitUntil(None)]
    state.worked_ns = now_ns
    if state.first_only and (until_ns := gathers_until(state, now_ns)) > now_ns:
        return [*orders, WaitUntil(until_ns)]
    state.price_place = price_place(state, now_ns)
    best = best_candidate(state, now_ns, explain)
    if best is None:
        return [*orders, *_end_the_rest(state), WaitUntil(None)]
    launch = _take(state, best, now_ns)
    if landed_ns and state.models[launch.model].observe_between(now_ns - landed_ns):
        state.secure_ns = 0
    # Whoever cannot wait for this launch to end is as good now as he will ever be.
    return [*orders, *_end_hopeless(state, state.busy_until_ns), launch]


def _rest(state: State, now_ns: int) -> None:
    if now_ns - state.worked_ns > RESTED_NS:
        for queue in state.models.values():
            queue.rest()


def _end_hopeless(state: State, free_at_ns: int) -> list[Instruction]:
    orders: list[Instruction] = []
    for queue in state.models.values():
        if queue.usable:
            late = queue.take_late(free_at_ns, state.config.guard_ns)
            orders += [_end(state, waiting, "expired") for waiting in late]
            if free_at_ns > state.ended_ns:
                spent = queue.take_spent(free_at_ns, state.config.guard_ns)
                orders += [_end(state, waiting, "overload") for waiting in spent]
    state.ended_ns = max(state.ended_ns, free_at_ns)
    return orders


def _end_the_rest(state: State) -> list[Instruction]:
    """Nothing may run for the answered jobs: what keeps them from a deeper rung is what it would do to others."""
    orders: list[Instruction] = []
    for queue in state.models.values():
        answered = [waiting for group in queue.groups.values() for waiting in group.jobs]
        for waiting in answered:
            queue.remove(waiting)
            orders.append(_end(state, waiting, "overload"))
    return orders


def _take(state: State, chosen: Candidate, now_ns: int) -> Launch:
    queue = state.models[chosen.model]
    members = queue.take_unanswered(chosen.beginners, chosen.given_up)
    for group, start, end in reversed(chosen.members):  # of two slices of a group the later one first
        members += queue.take_answered(group, start, end)
    state.launches += 1
    keys = tuple(waiting.job.key for waiting in members)
    state.outstanding = Launch(
        state.launches, chosen.model, chosen.stage, keys, chosen.work_ns, chosen.promised_ns
    )
    state.began_ns, state.busy_until_ns = now_ns, now_ns + chosen.work_ns
    return state.outstanding
