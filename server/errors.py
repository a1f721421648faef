"""Everything that a client can be told went wrong, each with its status and public text (RFC 9457).

Knows statuses, titles and the problem document; must not know who raises what, nor log.

    Problem
    ├── BadRequest 400              the bytes are no HTTP request
    ├── NotFound 404
    │   └── UnknownModel 404
    ├── MethodNotAllowed 405
    ├── RequestTimeout 408          headers or body not complete in time
    ├── TooLarge 413                body, number of files, pixels
    ├── UnsupportedMedia 415
    ├── Unprocessable 422           a parameter, or an image that cannot be decoded
    ├── HeadersTooLarge 431
    ├── Internal 500                unknown failures; the log has the rest
    │   └── StagesFailed 500        every stage of the model failed
    ├── Unavailable 503             refused at the door; carries Retry-After
    │   ├── Infeasible              even the first rung cannot make the deadline
    │   ├── Overloaded              as much in work as is allowed
    │   │   └── OverShare           others are being refused, and this client has had its share
    │   ├── NotReady                starting, or no model can be served
    │   ├── Draining                being shut down
    │   └── EngineLost              the engine is gone and the deadline leaves no time to try again
    └── NothingInTime 504           admitted, but no stage finished by the deadline
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Self

import orjson

CONTENT_TYPE = b"application/problem+json"


class Problem(Exception):
    """Base of all. `detail` is public; `extra` joins the document."""

    status = 500
    title = "Internal Server Error"
    kind = "internal"

    def __init__(self, detail: str, **extra: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra

    def anew(self) -> Self:
        """The same, to be raised or kept.

        One that has been raised keeps the frames that it went through, and these whoever keeps it: garbage that only
        a collection finds, and a collection holds up everybody.
        """
        twin = type(self).__new__(type(self), *self.args)
        twin.__dict__.update(self.__dict__)
        return twin

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Header fields beyond the content's."""
        return []

    def document(self, request_id: str) -> dict[str, object]:
        """The problem as JSON-ready fields; `error` is for clients of the Open Inference Protocol."""
        return {
            "type": f"urn:anytime:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "error": self.detail,
            "request_id": request_id,
            **self.extra,
        }

    def body(self, request_id: str) -> bytes:
        """The document's bytes."""
        return orjson.dumps(self.document(request_id))


class BadRequest(Problem):
    """The bytes are no HTTP request."""

    status, title, kind = 400, "Bad request", "bad-request"


class NotFound(Problem):
    """No such path."""

    status, title, kind = 404, "Not found", "not-found"


class UnknownModel(NotFound):
    """No such model or version."""

    title, kind = "Unknown model", "unknown-model"


class MethodNotAllowed(Problem):
    """The path exists, the method does not."""

    status, title, kind = 405, "Method not allowed", "method-not-allowed"

    def __init__(self, detail: str, allowed: str) -> None:
        super().__init__(detail)
        self.allowed = allowed

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The methods there are."""
        return [(b"allow", self.allowed.encode("latin-1"))]


class RequestTimeout(Problem):
    """The client did not finish its request in time."""

    status, title, kind = 408, "Request not complete in time", "request-timeout"


class TooLarge(Problem):
    """More bytes, files or pixels than are taken."""

    status, title, kind = 413, "Too large", "too-large"


class UnsupportedMedia(Problem):
    """Not JPEG, PNG or WebP."""

    status, title, kind = 415, "Unsupported media type", "unsupported-media-type"


class Unprocessable(Problem):
    """A parameter out of range, or data that is no image."""

    status, title, kind = 422, "Unprocessable request", "unprocessable"


class HeadersTooLarge(Problem):
    """The headers do not end within a sane size."""

    status, title, kind = 431, "Headers too large", "headers-too-large"


class Internal(Problem):
    """An unknown failure: opaque, but for the id that finds it in the log."""

    status, title, kind = 500, "Internal error", "internal"

    def __init__(
        self, detail: str = "Something went wrong here; the log has it under this request_id."
    ) -> None:
        super().__init__(detail)


class StagesFailed(Internal):
    """Every stage that was tried failed on the device."""

    title, kind = "All stages failed", "stages-failed"


class Unavailable(Problem):
    """Refused before any work was done.

    Args:
        detail: public text.
        retry_after_ms: when to try again.
        smallest_feasible_ms: the smallest budget that would be admitted now, where that is known.
    """

    status, title, kind = 503, "Service unavailable", "unavailable"

    def __init__(self, detail: str, retry_after_ms: float, smallest_feasible_ms: float | None = None) -> None:
        self.retry_after_ms = max(1, math.ceil(retry_after_ms))
        feasible = None if smallest_feasible_ms is None else round(smallest_feasible_ms, 3)
        super().__init__(detail, retry_after_ms=self.retry_after_ms, smallest_feasible_deadline_ms=feasible)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Retry-After in whole seconds, at least one."""
        return [(b"retry-after", b"%d" % max(1, math.ceil(self.retry_after_ms / 1000)))]


class Infeasible(Unavailable):
    """Even the first rung cannot make the deadline."""

    title, kind = "Deadline cannot be met", "infeasible"


class Overloaded(Unavailable):
    """As much in work as is allowed."""

    title, kind = "Overloaded", "overloaded"


class OverShare(Overloaded):
    """Others are being refused, and this client has had its share."""

    title, kind = "More than a fair share", "over-share"


class NotReady(Unavailable):
    """The service cannot serve yet, or not this model."""

    title, kind = "Not ready", "not-ready"


class Draining(Unavailable):
    """The service is being shut down."""

    title, kind = "Draining", "draining"


class EngineLost(Unavailable):
    """The engine is gone and the deadline leaves no time to try again."""

    title, kind = "Engine lost", "engine-lost"


class NothingInTime(Problem):
    """Admitted, but no stage finished by the deadline."""

    status, title, kind = 504, "No stage finished by the deadline", "nothing-in-time"


def from_status(status: int, detail: str, allowed: str = "") -> Problem:
    """The problem for a status that the framework chose."""
    if status == 405:
        return MethodNotAllowed(detail, allowed)
    for known in (NotFound, TooLarge, UnsupportedMedia, Unprocessable, BadRequest):
        if known.status == status:
            return known(detail)
    problem = Problem(detail)
    phrase = HTTPStatus(status).phrase
    problem.status, problem.title, problem.kind = status, phrase, phrase.lower().replace(" ", "-")
    return problem
