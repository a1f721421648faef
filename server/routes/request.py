"""One request to a hot route, from its stamped headers to its jobs: what /classify and its stream have in common.

Knows headers, parameters, bodies and files; must not know how the answer is written. Every step raises a Problem or
ClientLeft; whatever happens, `close` leaves no job behind.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from dataclasses import dataclass

from starlette.types import Receive

from model_repo.images import Header
from server.admission import Door, Permit
from server.catalog import Catalog, ModelView
from server.connections import Connection, Headers
from server.deadlines import Clock
from server.decoding import Decoder
from server.errors import Problem, Unprocessable, UnsupportedMedia
from server.jobs import Job, Jobs, Rings
from server.lag import Lag
from server.metrics import FrontEndMetrics
from server.routes.body import ClientLeft, read_at_once, read_in_time, refuse_too_large
from server.routes.multipart import Upload, uploads
from server.routes.query import DEFAULT_TOP_K, Query, QueryParser

_SAFE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_TAKEN = frozenset({b"", b"image/jpeg", b"image/png", b"image/webp", b"application/octet-stream"})


class RequestIds:
    """Makes ids that are unique over processes and restarts, and cheap."""

    def __init__(self) -> None:
        self._prefix = os.urandom(6).hex()
        self._count = 0

    def __call__(self) -> str:
        """The next id."""
        self._count += 1
        return f"{self._prefix}-{self._count:x}"

    def given_or_new(self, given: bytes | None) -> str:
        """The caller's X-Request-ID if it is printable ASCII of at most 128 characters, else a new one."""
        if given is not None and _SAFE_ID.fullmatch(given):
            return given.decode("ascii")
        return self()


@dataclass(frozen=True)
class Desk:
    """What hot routes work with; built by the composition root."""

    catalog: Catalog
    door: Door
    jobs: Jobs
    decoder: Decoder
    lag: Lag
    metrics: FrontEndMetrics
    parser: QueryParser
    ids: RequestIds
    max_body_bytes: int
    body_timeout_s: float
    max_files: int
    clock: Clock = time.monotonic_ns


class Request:
    """One request.

    Attributes:
        id: given by the client or made.
        received_ns: when its headers were complete, at the earliest.
        read_ns: when they were read.
        query: its parameters, once `read` has parsed them.
        model: the model meant.
        uploads: its files; one without a name if the body is the image itself.
        form: whether it came as a form, so that the answer is a list.
        jobs: per file, its job, or the problem that kept it from becoming one.
        gone: whether the client has left.
    """

    __slots__ = (
        "_client",
        "_connection",
        "_content_length",
        "_content_type",
        "_desk",
        "_started",
        "bell",
        "form",
        "gone",
        "id",
        "jobs",
        "model",
        "query",
        "read_ns",
        "received_ns",
        "uploads",
    )

    model: ModelView
    query: Query

    def __init__(
        self,
        desk: Desk,
        headers: Headers,
        received_ns: int,
        client: str,
        connection: Connection | None,
        bell: Rings,
    ) -> None:
        self._desk = desk
        self._content_type = b""
        self._content_length: bytes | None = None
        self.received_ns = received_ns
        self.read_ns = desk.clock()
        given_id = None
        for name, value in headers:
            if name == b"content-type":
                self._content_type = value
            elif name == b"content-length":
                self._content_length = value
            elif name == b"x-request-id":
                given_id = value
        self.id = desk.ids.given_or_new(given_id)
        self.bell = bell
        self.uploads: list[Upload] = []
        self.jobs: list[Job | Problem] = []
        self._started: list[Job] = []
        self._client = client
        self.form = self._content_type[:19].lower() == b"multipart/form-data"
        self.gone = False
        self._connection = connection
        if connection is not None:
            connection.on_lost = self._client_left

    @property
    def deadline_ns(self) -> int:
        """When the client wants its answer."""
        return self.received_ns + self.query.budget_ns

    def check(self, query: Query, *, taken_on: bool) -> None:
        """What can be known before the body: parameters, model, headers, the door. Raises Problem."""
        desk = self._desk
        self.query = query
        self.model = desk.catalog.resolve(query.model)
        if query.top_k is not None and query.top_k > len(self.model.labels):
            raise Unprocessable(
                f"top_k must be at most {len(self.model.labels)}, the number of classes.", parameter="top_k"
            )
        if not self.form:
            _check_media_type(self._content_type)
        refuse_too_large(self._content_length, desk.max_body_bytes)
        # Refused before the body is read: under overload this is what most requests cost.
        if not taken_on:
            desk.door.enter(self.model, self.received_ns, self.deadline_ns, self._client)

    async def read(self, query_string: bytes, receive: Receive, *, taken_on: bool) -> None:
        """Parameters, model, body, files. Raises Problem or ClientLeft."""
        desk = self._desk
        self.check(desk.parser.parse(query_string), taken_on=taken_on)
        body = await self._body(receive)
        if self.form:
            self.uploads = uploads(body, self._content_type, desk.max_files)
        else:
            self.uploads = [Upload("", b"", body)]

    def start_small(self, image: bytes, header: Header) -> Job:
        """Decodes one small image and hands it to the engine. Raises Problem."""
        permit = self._permit()
        try:
            pixels = self._desk.decoder.decode_small(image, header, self.model.input)
        except BaseException:
            permit.release()
            raise
        due_ns = self.deadline_ns - self._desk.lag.guard_ns
        # It came in one piece: all that has passed since is this process's doing.
        job = self._hand_over(pixels, permit, due_ns, self.query.budget_ns, every_stage=False)
        self.jobs = [job]
        return job

    async def start(self, *, every_stage: bool) -> None:
        """Decodes the files and hands them to the engine. Of one image problems are raised, of a form kept."""
        if not self.form:
            self.jobs = [await self._start(self.uploads[0], every_stage=every_stage)]
        else:
            work = [self._start(upload, every_stage=every_stage) for upload in self.uploads]
            self.jobs = [
                _job_or_problem(result) for result in await asyncio.gather(*work, return_exceptions=True)
            ]
        if self.gone:
            raise ClientLeft

    def close(self) -> None:
        """Drops what is still in work."""
        self._abandon()
        if self._connection is not None:
            self._connection.on_lost = None

    async def _body(self, receive: Receive) -> bytes:
        limit = self._desk.max_body_bytes
        if self._connection is not None and self._connection.body_complete:
            return await read_at_once(receive, limit)
        ends_ns = self.received_ns + min(self.query.budget_ns, int(self._desk.body_timeout_s * 1e9))
        seconds = (ends_ns - self._desk.clock()) / 1e9
        return await read_in_time(receive, limit, seconds, self._desk.door)

    async def _start(self, upload: Upload, *, every_stage: bool) -> Job:
        desk = self._desk
        if self.form:
            _check_media_type(upload.content_type)
        due_ns = self.deadline_ns - desk.lag.guard_ns
        permit = self._permit()
        try:
            pixels = await desk.decoder.decode(upload.data, self.model.input, due_ns)
        except BaseException:
            permit.release()
            raise
        # How long it took to arrive is its client's doing: only what is left now is time that it had.
        return self._hand_over(pixels, permit, due_ns, due_ns - desk.clock(), every_stage=every_stage)

    def _permit(self) -> Permit:
        return self._desk.door.admit(self.model, self.received_ns, self.deadline_ns, self._client)

    def _hand_over(
        self, pixels: bytes, permit: Permit, due_ns: int, had_ns: int, *, every_stage: bool
    ) -> Job:
        desk = self._desk
        job = Job(
            self.model,
            pixels,
            self.bell,
            permit,
            due_ns=due_ns,
            overhead_ns=desk.clock() - self.received_ns + self.deadline_ns - due_ns,
            had_ns=had_ns,
            top_k=self.query.top_k or min(DEFAULT_TOP_K, len(self.model.labels)),
            min_confidence=self.query.min_confidence,
            every_stage=every_stage,
            explain=self.query.debug,
        )
        self._started.append(job)
        desk.jobs.start(job)
        return job

    def _client_left(self) -> None:
        self.gone = True
        self._desk.metrics.left.inc()
        self._abandon()
        self.bell.ring()

    def _abandon(self) -> None:
        for job in self._started:
            self._desk.jobs.abandon(job)


def _check_media_type(value: bytes) -> None:
    """Raises UnsupportedMedia for what cannot be an image; the bytes themselves decide the rest."""
    if value.partition(b";")[0].strip().lower() not in _TAKEN:
        shown = value[:80].decode("latin-1")
        raise UnsupportedMedia(f"{shown} is not supported: send image/jpeg, image/png, image/webp or a form.")


def _job_or_problem(result: Job | BaseException) -> Job | Problem:
    if isinstance(result, BaseException) and not isinstance(result, Problem):
        raise result
    return result.anew() if isinstance(result, Problem) else result
