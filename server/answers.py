"""What clients get: the models that document it, and how it is built.

Knows the fields of answers; must not know HTTP or how a job went. Answers are built as plain dictionaries and encoded
by orjson: validating what this process has just computed would cost more than all the rest.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from server.jobs import COMPLETE, Job
from server.messages import Decision, Refinement

StopReason = Literal["deepest", "confident", "no_gain", "deadline", "overload", "stage_failed", "engine_lost"]


class Ranked(BaseModel):
    """One class and its probability."""

    label: str
    index: int
    probability: float


class LastStage(BaseModel):
    """The last rung, in ladder order, whose output is in an answer."""

    name: str
    depth: int | None = Field(description="Layers on its longest path; null for foreign graphs.")


class DebugLaunch(BaseModel):
    """A launch that was considered, with the images that would have been in it."""

    model: str
    stage: str
    batch: int
    gain: float = Field(description="Expected right answers it would have added, over all images in it.")
    expected_ms: float
    promised_ms: float = Field(description="High estimate: the time that must be left before every deadline.")


class DebugDecision(BaseModel):
    """One decision of the scheduler while the image was at the engine."""

    after_ms: float = Field(description="Since the image had arrived at the engine.")
    considered: list[DebugLaunch]
    chosen: int | None = Field(description="Place in `considered`; null where nothing was launched.")
    why: str
    included: bool = Field(description="Whether this image was in the launch.")


class Debug(BaseModel):
    """What the scheduler considered, and why it chose as it did."""

    decisions: list[DebugDecision]


class Answer(BaseModel):
    """The best prediction there was by the deadline."""

    request_id: str
    model: str
    version: str
    label: str
    index: int
    probability: float = Field(description="Calibrated, pooled over stages_run.")
    top_k: list[Ranked]
    stages_run: list[str] = Field(description="Stages whose outputs are in this answer, in ladder order.")
    stage: LastStage
    complete: bool = Field(description="Nothing useful was left to run.")
    stop_reason: StopReason | None = Field(description="Null while a stream may still refine it.")
    deadline_ms: float
    elapsed_ms: float = Field(description="From the request's headers to this answer.")
    queue_ms: float = Field(description="At the engine, before the first launch.")
    compute_ms: float = Field(description="Wall time of the launches this image was part of.")
    expected_accuracy: float = Field(description="Of this set of stages, from calibration.")
    debug: Debug | None = Field(None, description="Only with debug=1.")


class FileAnswer(Answer):
    """One of several."""

    file: str = Field(description="The file's name, as the client gave it.")
    file_index: int = Field(description="Its place in the form, from 0.")


class StageOnly(BaseModel):
    """What one stage says alone."""

    index: int
    probability: float


class RefinementEvent(Answer):
    """Data of a `refinement` event: the pooled answer so far. The event's id is the rung's place, from 1."""

    stage_only: StageOnly


class ProblemDocument(BaseModel):
    """RFC 9457 problem details; media type application/problem+json."""

    type: str
    title: str
    status: int
    detail: str
    error: str = Field(description="The same as detail, for clients of the Open Inference Protocol.")
    request_id: str
    retry_after_ms: int | None = Field(None, description="With 503: when to try again.")
    smallest_feasible_deadline_ms: float | None = Field(
        None, description="With 503: the smallest budget that would have been admitted."
    )


class FileProblem(ProblemDocument):
    """The problem with one of several."""

    file: str
    file_index: int


class Answers(BaseModel):
    """What a form of several files gets."""

    answers: list[FileAnswer | FileProblem]


def answer(
    job: Job,
    refinement: Refinement,
    stages: int,
    stop_reason: str | None,
    *,
    request_id: str,
    budget_ms: float,
    elapsed_ns: int,
) -> dict[str, object]:
    """An answer's fields.

    Args:
        job: it belongs to.
        refinement: the newest that counts.
        stages: bit k set for every rung k that is in it.
        stop_reason: None while more may come.
        request_id: of the request.
        budget_ms: that the client gave.
        elapsed_ns: since the request's headers.
    """
    model = job.model
    labels = model.labels
    ran = model.stage_set(stages)
    index, probability = refinement.top[0]
    fields: dict[str, object] = {
        "request_id": request_id,
        "model": model.name,
        "version": model.version,
        "label": labels[index],
        "index": index,
        "probability": probability,
        "top_k": [{"label": labels[i], "index": i, "probability": p} for i, p in refinement.top],
        "stages_run": ran.names,
        "stage": ran.last,
        "complete": stop_reason in COMPLETE,
        "stop_reason": stop_reason,
        "deadline_ms": budget_ms,
        "elapsed_ms": elapsed_ns / 1e6,
        "queue_ms": refinement.queue_ns / 1e6,
        "compute_ms": refinement.compute_ns / 1e6,
        "expected_accuracy": ran.expected_accuracy,
    }
    if job.explain:
        fields["debug"] = {"decisions": [_decision(decision) for decision in job.decisions or ()]}
    return fields


def _decision(decision: Decision) -> dict[str, object]:
    return {
        "after_ms": decision.after_ns / 1e6,
        "considered": [
            {
                "model": launch.model,
                "stage": launch.stage,
                "batch": launch.batch,
                "gain": launch.gain,
                "expected_ms": launch.work_ns / 1e6,
                "promised_ms": launch.promised_ns / 1e6,
            }
            for launch in decision.considered
        ],
        "chosen": None if decision.chosen < 0 else decision.chosen,
        "why": decision.why,
        "included": decision.included,
    }


def server_timing(refinement: Refinement, elapsed_ns: int) -> bytes:
    """Value of the Server-Timing header: milliseconds."""
    return b"queue;dur=%.3f, compute;dur=%.3f, total;dur=%.3f" % (
        refinement.queue_ns / 1e6,
        refinement.compute_ns / 1e6,
        elapsed_ns / 1e6,
    )
