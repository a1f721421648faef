"""What the policy is told and what it orders: plain values, no behaviour.

A job's `key` is whatever names it uniquely to the caller (the engine uses (front end, number), a simulator an
int). All times are absolute nanoseconds of one monotonic clock, all durations are nanoseconds.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

Key = Hashable


@dataclass(frozen=True, slots=True)
class Job:
    """One image that wants an answer.

    Attributes:
        key: its name.
        model: name@version.
        deadline_ns: when a refinement must be where the answer is written (transport is the policy's guard).
        min_confidence: pooled probability at which the client is content; 1.0 or more means never.
        every_stage: run every rung that fits, in ladder order, whether it gains or not.
    """

    key: Key
    model: str
    deadline_ns: int
    min_confidence: float = 1.0
    every_stage: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """Order: run `stage` for these jobs as one batch, now. At most one launch is outstanding at a time.

    It is expected to take `expected_ns`, and to be over after `promised_ns` if the latency table is right.
    """

    number: int
    model: str
    stage: int
    keys: tuple[Key, ...]
    expected_ns: int
    promised_ns: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Order: nothing more comes for this job.

    `reason` is deepest | confident | no_gain | deadline | overload | stage_failed for an answered job,
    expired | stage_failed for one that no stage has run for.
    """

    key: Key
    reason: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Order: refuse this job, no stage has run for it; a budget of `feasible_ns` would have done (0: none would)."""

    key: Key
    feasible_ns: int


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Order: send a Tick at `at_ns`, or after the next event if that is sooner. None: only after an event."""

    at_ns: int | None


Instruction = Launch | Finish | Reject | WaitUntil


@dataclass(frozen=True, slots=True)
class Arrived:
    """A job is here. A key that is already known is ignored."""

    job: Job


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Nobody waits for this job any more; an unknown key is ignored. No instruction for it follows."""

    key: Key


@dataclass(frozen=True, slots=True)
class LaunchDone:
    """The outstanding launch has finished.

    `confidences`: per key of the launch, the top probability pooled over all stages the job has had.
    """

    launch: Launch
    confidences: tuple[float, ...]
    duration_ns: int


@dataclass(frozen=True, slots=True)
class LaunchFailed:
    """The outstanding launch has failed: its stage is out of the ladder from now on."""

    launch: Launch


@dataclass(frozen=True, slots=True)
class Pressed:
    """Whether the device's time is wanted for something better than refinements: only first rungs run meanwhile."""

    on: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Everything that has happened so far has been told: decide. Only a Tick starts a launch.

    `crowded` says that for the moment the device's cores are wanted by front ends. Tick again when it is over.
    """

    crowded: bool = False


Event = Arrived | Cancelled | LaunchDone | LaunchFailed | Pressed | Tick
