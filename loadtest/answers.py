"""Reading the service's answers (DESIGN.md, wire contracts) into the rows of a run, after the run.

Knows the fields of an answer object and the events of a stream; opens no socket and computes no figures.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loadtest.records import STOP_REASONS, UNKNOWN_REASON, Outcome, Records, Run

_MAX_STAGES = 32


class NotAnAnswer(Exception):
    """A body of status 200 that is not what the contract promises."""


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str
    identity: str
    data: str


def read_events(body: bytes) -> Iterator[Event]:
    """The events of a text/event-stream body; an event without its closing blank line is dropped, as the
    standard asks."""
    text = body.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    for block in text.split("\n\n")[:-1]:
        fields: dict[str, list[str]] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            fields.setdefault(name, []).append(value.removeprefix(" "))
        if "data" in fields:
            name, identity = fields.get("event", ["message"])[-1], fields.get("id", [""])[-1]
            yield Event(name, identity, "\n".join(fields["data"]))


def final_of_stream(body: bytes) -> dict[str, Any]:
    """The answer in the stream's `final` event. Raises NotAnAnswer where there is none."""
    for event in read_events(body):
        if event.name == "final":
            return read_json(event.data)
        if event.name == "error":
            raise NotAnAnswer(f"the stream ended in an error: {event.data[:200]}")
    raise NotAnAnswer("the stream ended without its final event")


def read_json(text: str | bytes) -> dict[str, Any]:
    """The object that a text holds. Raises NotAnAnswer."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise NotAnAnswer("not JSON") from error
    if not isinstance(value, dict):
        raise NotAnAnswer("not an object")
    return value


def read_answer(body: bytes) -> dict[str, Any]:
    """The answer object of a 200 body, be it JSON or a stream. Raises NotAnAnswer."""
    return read_json(body) if body.lstrip()[:1] == b"{" else final_of_stream(body)


def _fill(row: Any, answer: dict[str, Any], places: dict[str, int]) -> None:
    """Writes one answer into its row. Raises KeyError, TypeError or ValueError where a field is not as
    promised.
    """
    mask = 0
    for name in answer["stages_run"]:
        mask |= 1 << places.setdefault(name, len(places))
    row["stage"] = places.setdefault(answer["stage"]["name"], len(places))
    row["stages_run"] = mask
    row["index"] = answer["index"]
    row["complete"] = bool(answer.get("complete", False))
    reason = answer.get("stop_reason")
    row["stop_reason"] = STOP_REASONS.index(reason) if reason in STOP_REASONS else UNKNOWN_REASON
    for name in ("elapsed_ms", "queue_ms", "compute_ms"):
        row[name] = float(answer.get(name, "nan"))


def interpret(run: Run, ladder: Sequence[str] = ()) -> Run:
    """The run with what its answers say filled in; an unreadable 200 becomes an ERROR.

    `ladder` gives the stage names their places; names beyond it follow in the order in which they are met.
    """
    records: Records = run.records.copy()
    places = {name: place for place, name in enumerate(ladder)}
    unreadable: dict[str, int] = {}
    for number, body in enumerate(run.bodies):
        if records["outcome"][number] != Outcome.ANSWERED:
            continue
        try:
            _fill(records[number], read_answer(body or b""), places)
        except (NotAnAnswer, KeyError, TypeError, ValueError, OverflowError) as error:
            records["outcome"][number] = Outcome.ERROR
            text = f"{type(error).__name__}: {error}"
            unreadable[text] = unreadable.get(text, 0) + 1
    if len(places) > _MAX_STAGES:
        raise ValueError(f"{len(places)} stage names are more than a row can hold")
    facts = run.facts | {"unreadable_answers": unreadable}
    return replace(run, records=records, stages=tuple(places), facts=facts)
