"""POST /classify: one answer by the deadline, or one per file.

Knows how finished jobs become a JSON response; must not know how they were finished.
"""

from __future__ import annotations

import orjson

from server.answers import answer, server_timing
from server.connections import Headers, Response
from server.errors import Problem
from server.jobs import Bell, Job
from server.routes.body import ClientLeft
from server.routes.hot import Reply
from server.routes.request import Desk, Request
from server.tally import Tally


class Classify:
    """The responder."""

    route = "/classify"

    def __init__(self, desk: Desk, tally: Tally) -> None:
        self._clock = desk.clock
        self._tally = tally

    async def respond(self, request: Request, bell: Bell, reply: Reply) -> None:
        """See Responder."""
        await request.start(every_stage=False)
        for job in request.jobs:
            while isinstance(job, Job) and not job.ended:
                await bell.wait()
        if request.gone:
            raise ClientLeft
        await reply.whole(*self.response(request))
        self.count(request)

    async def break_off(self, request: Request, problem: Problem, reply: Reply) -> None:
        """Cannot happen: the response is sent whole. If it does, the connection is closed by returning."""

    def response(self, request: Request) -> Response:
        """What a request gets whose jobs have ended. Raises the Problem of a request that is one image."""
        if request.form:
            return form_response(request, self._clock(), self._tally)
        job = outcome(request.jobs[0])
        elapsed_ns = self._clock() - request.received_ns
        fields = answer(
            job,
            job.refinements[-1],
            job.stages,
            job.ended,
            request_id=request.id,
            budget_ms=request.query.budget_ms,
            elapsed_ns=elapsed_ns,
        )
        body = orjson.dumps(fields)
        headers = [
            *json_headers(body, request.id),
            (b"server-timing", server_timing(job.refinements[-1], elapsed_ns)),
        ]
        return 200, headers, body

    def count(self, request: Request) -> None:
        """Its images, once the response has been written."""
        now = self._clock()
        for job in request.jobs:
            if isinstance(job, Job) and job.problem is None:
                self._tally.image(job, now, request.received_ns, request.deadline_ns)


def outcome(job: Job | Problem) -> Job:
    """The job if it ended with an answer. Raises its Problem if it did not."""
    if isinstance(job, Problem):
        raise job.anew()
    if job.problem is not None:
        raise job.problem.anew()
    return job


def form_response(request: Request, now_ns: int, tally: Tally) -> Response:
    """The answers of a form in order: 200 if any succeeded, else the highest status."""
    answers: list[dict[str, object]] = []
    worst: Problem | None = None
    succeeded = False
    for place, job in enumerate(request.jobs):
        try:
            ended = outcome(job)
        except Problem as problem:
            fields = problem.document(request.id)
            tally.problem(problem)
            worst = problem if worst is None or problem.status > worst.status else worst
        else:
            succeeded = True
            fields = answer(
                ended,
                ended.refinements[-1],
                ended.stages,
                ended.ended,
                request_id=request.id,
                budget_ms=request.query.budget_ms,
                elapsed_ns=now_ns - request.received_ns,
            )
        answers.append({**fields, "file": request.uploads[place].name, "file_index": place})
    body = orjson.dumps({"answers": answers})
    headers = json_headers(body, request.id)
    if succeeded or worst is None:
        return 200, headers, body
    return worst.status, [*headers, *worst.headers()], body


def json_headers(body: bytes, request_id: str) -> Headers:
    """Headers of a JSON response."""
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
    ]
