"""What the policy is told and what it orders: plain values, no behaviour.

A job's `key` is whatever names it uniquely to the caller (the engine uses (front end, number), a simulator an
int). All times are absolute nanoseconds of one monotonic clock, all durations are nanoseconds.

Nothing changes a value once it is made. That is not enforced, and what is made for every image or launch has an
`__init__` written out: that of a frozen dataclass stays Python when the rest is compiled, and takes eight times as
long.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

Key = Hashable


@dataclass(init=False, slots=True)
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
    min_confidence: float
    every_stage: bool

    def __init__(
        self,
        key: Key,
        model: str,
        deadline_ns: int,
        min_confidence: float = 1.0,
        every_stage: bool = False,
    ) -> None:
        self.key = key
        self.model = model
        self.deadline_ns = deadline_ns
        self.min_confidence = min_confidence
        self.every_stage = every_stage


@dataclass(init=False, slots=True)
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

    def __init__(
        self,
        number: int,
        model: str,
        stage: int,
        keys: tuple[Key, ...],
        expected_ns: int,
        promised_ns: int,
    ) -> None:
        self.number = number
        self.model = model
        self.stage = stage
        self.keys = keys
        self.expected_ns = expected_ns
        self.promised_ns = promised_ns


@dataclass(init=False, slots=True)
class Finish:
    """Order: nothing more comes for this job.

    `reason` is deepest | confident | no_gain | deadline | overload | stage_failed for an answered job,
    expired | stage_failed for one that no stage has run for.
    """

    key: Key
    reason: str

    def __init__(self, key: Key, reason: str) -> None:
        self.key = key
        self.reason = reason


@dataclass(init=False, slots=True)
class Reject:
    """Order: refuse this job, no stage has run for it; a budget of `feasible_ns` would have done (0: none would)."""

    key: Key
    feasible_ns: int

    def __init__(self, key: Key, feasible_ns: int) -> None:
        self.key = key
        self.feasible_ns = feasible_ns


@dataclass(init=False, slots=True)
class WaitUntil:
    """Order: send a Tick at `at_ns`, or after the next event if that is sooner. None: only after an event."""

    at_ns: int | None

    def __init__(self, at_ns: int | None) -> None:
        self.at_ns = at_ns


Instruction = Launch | Finish | Reject | WaitUntil


@dataclass(init=False, slots=True)
class Arrived:
    """A job is here. A key that is already known is ignored."""

    job: Job

    def __init__(self, job: Job) -> None:
        self.job = job


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Nobody waits for this job any more; an unknown key is ignored. No instruction for it follows."""

    key: Key


@dataclass(init=False, slots=True)
class LaunchDone:
    """The outstanding launch has finished.

    `confidences`: per key of the launch, the top probability pooled over all stages the job has had.
    """

    launch: Launch
    confidences: tuple[float, ...]
    duration_ns: int

    def __init__(self, launch: Launch, confidences: tuple[float, ...], duration_ns: int) -> None:
        self.launch = launch
        self.confidences = confidences
        self.duration_ns = duration_ns


@dataclass(frozen=True, slots=True)
class LaunchFailed:
    """The outstanding launch has failed: its stage is out of the ladder from now on."""

    launch: Launch


@dataclass(frozen=True, slots=True)
class Pressed:
    """Whether the device's time is wanted for something better than refinements: only first rungs run meanwhile."""

    on: bool


@dataclass(init=False, slots=True)
class Tick:
    """Everything that has happened so far has been told: decide. Only a Tick starts a launch.

    `crowded` says that for the moment the device's cores are wanted by front ends. Tick again when it is over.
    """

    crowded: bool

    def __init__(self, crowded: bool = False) -> None:
        self.crowded = crowded


Event = Arrived | Cancelled | LaunchDone | LaunchFailed | Pressed | Tick
