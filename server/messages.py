"""What front ends and the engine say to each other, and how it looks on the wire.

Knows the messages and their encoding; must not know sockets, HTTP or tensors.

All messages of one loop turn travel as one envelope: [PROTOCOL_VERSION, sender's epoch, [message, …]] in MessagePack.
An image travels inside its Job as raw bytes (a CIFAR image is 3 kB: one copy costs less than a frame of its own).
A job's key is (front end, engine epoch, number): the front end is the connection the message came by, the epoch is in
the envelope, the number is in the message.
"""

from __future__ import annotations

import msgspec

PROTOCOL_VERSION = 1


class Job(msgspec.Struct, tag="job", array_like=True, frozen=True, gc=False):
    """Front end -> engine: classify one image.

    Attributes:
        number: counts up in one front end; unique there for its life.
        model: served model as name@version.
        deadline_ns: CLOCK_MONOTONIC nanoseconds by which a refinement must have *reached the front end*; the front
            end has already taken its own cost of answering off.
        min_confidence: stop once the pooled probability reaches it; 1.0 means never. Above 1 is not sent.
        top_k: how many classes a refinement carries.
        every_stage: True for streams: run every stage that fits, in ladder order, gain or not.
        pixels: uint8 height x width x 3, row-major, at the model's input size.
        explain: send the decisions that were made while it was at the engine.
    """

    number: int
    model: str
    deadline_ns: int
    min_confidence: float
    top_k: int
    every_stage: bool
    pixels: bytes
    explain: bool = False


class Cancel(msgspec.Struct, tag="cancel", array_like=True, frozen=True, gc=False):
    """Front end -> engine: nobody waits for this job any more. Idempotent; unknown numbers are ignored."""

    number: int


class Considered(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A launch that could have been made: `gain` in expected right answers, summed over its `batch` images; its
    expected and its promised time."""

    model: str
    stage: str
    batch: int
    gain: float
    work_ns: int
    promised_ns: int


class Decision(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One decision of the scheduler, made `after_ns` nanoseconds after the job had arrived at the engine.

    `chosen` is a place in `considered`, -1 where nothing was launched; `included`: the job was in the launch.
    """

    after_ns: int
    considered: list[Considered]
    chosen: int
    why: str
    included: bool


class Refinement(msgspec.Struct, tag="refinement", array_like=True, frozen=True, gc=False):
    """Engine -> front end: one more stage finished for a job.

    Attributes:
        number: the job.
        stage: place of the finished stage in the ladder, from 0.
        top: the pooled answer over all stages run so far: top_k pairs (class index, probability), best first.
        stage_top: (class index, calibrated probability) of this stage alone.
        queue_ns: from the job's arrival at the engine to its first launch.
        compute_ns: wall time of all launches the job was part of so far.
        final: None while more stages may come, else the stop_reason: `done` travels inside the last refinement when
            both are known at once.
        decisions: for a job that wants them explained, those made since the last message about it.
    """

    number: int
    stage: int
    top: list[tuple[int, float]]
    stage_top: tuple[int, float]
    queue_ns: int
    compute_ns: int
    final: str | None = None
    decisions: list[Decision] | None = None


class Done(msgspec.Struct, tag="done", array_like=True, frozen=True, gc=False):
    """Engine -> front end: nothing more will come for this job.

    `stop_reason`: no_gain | deadline | overload | stage_failed when something ran; with nothing run:
    "rejected" (cannot make even the first rung; `feasible_ns` says which budget could have) or
    "stage_failed" / "expired". `decisions` as in a refinement.
    """

    number: int
    stop_reason: str
    feasible_ns: int = 0
    decisions: list[Decision] | None = None


class Credit(msgspec.Struct, tag="credit", array_like=True, frozen=True, gc=False):
    """Engine -> front end, often: how many jobs this front end may have at the engine at once, and how long
    (nanoseconds, per model) a job that arrives now would wait for its first rung to be finished."""

    jobs: int
    first_answer_ns: dict[str, int]


class StageLatency(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Measured latency of one stage at one batch size, in nanoseconds, now."""

    batch: int
    p50_ns: int
    p99_ns: int


class ServedModel(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One model at the engine: `stages` maps a stage's name to its latencies; failed stages are named apart.

    `factor`: how much longer than its profile a launch takes now; `tail_ns` is added to each for stalls.
    """

    model: str
    backend: str
    stages: dict[str, list[StageLatency]]
    failed: list[str]
    factor: float = 1.0
    tail_ns: int = 0


class Heartbeat(msgspec.Struct, tag="heartbeat", array_like=True, frozen=True, gc=False):
    """Engine -> front end, every 100 ms and at once on a change; front end -> engine once a second and on a change.

    `state`: starting | ready | draining; of a front end ready, or pressed while it is short of processor time.
    `detail`: what it is doing while starting (one line), for /readyz.
    `models`: filled when it has changed since the last heartbeat to this front end, else empty.
    """

    state: str
    detail: str = ""
    pid: int = 0
    models: list[ServedModel] = []


Message = Job | Cancel | Refinement | Done | Credit | Heartbeat


class Envelope(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Everything one sender had to say in one turn of its loop. `epoch` names one life of the engine process
    (0 from a front end that knows none yet)."""

    version: int
    epoch: int
    messages: list[Message]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


class ProtocolError(ValueError):
    """The bytes are no envelope of this version."""


def encode(epoch: int, messages: list[Message]) -> bytes:
    """One envelope as bytes."""
    return _encoder.encode(Envelope(PROTOCOL_VERSION, epoch, messages))


def decode(data: bytes | memoryview) -> Envelope:
    """The envelope in `data`. Raises ProtocolError if it is none, or of another version."""
    try:
        envelope = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(str(error)) from error
    if envelope.version != PROTOCOL_VERSION:
        raise ProtocolError(f"version {envelope.version}, this process speaks {PROTOCOL_VERSION}")
    return envelope
