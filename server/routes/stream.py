"""POST /classify/stream: every refinement as it comes, then the final answer, as server-sent events.

Knows the order and form of events; must not know how refinements come about. Headers leave with the first refinement;
before that the ordinary statuses apply, after it problems travel as `error` events.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from server.answers import answer
from server.connections import Headers
from server.errors import Problem
from server.jobs import Bell, Job
from server.routes.body import ClientLeft
from server.routes.classify import form_response, outcome
from server.routes.hot import Reply
from server.routes.request import Desk, Request
from server.tally import Tally


@dataclass(slots=True)
class _Feed:
    """What of one file has been told: the number of refinements, the rungs they hold, and whether it is over."""

    place: int
    told: int = 0
    stages: int = 0
    over: bool = False


class Stream:
    """The responder."""

    route = "/classify/stream"

    def __init__(self, desk: Desk, tally: Tally) -> None:
        self._clock = desk.clock
        self._tally = tally

    async def respond(self, request: Request, bell: Bell, reply: Reply) -> None:
        """See Responder."""
        await request.start(every_stage=True)
        feeds = [_Feed(place) for place in range(len(request.jobs))]
        problems: list[bytes] = []  # of files that failed before the headers left
        while True:
            events = self._news(request, feeds, problems)
            over = all(feed.over for feed in feeds)
            if events or (over and reply.started):
                if not reply.started:
                    await reply.start(200, _headers(request.id))
                # The last event and the end of the body are one write: the client waits for both.
                await reply.body(b"".join([*problems, *events]), more=not over)
                problems.clear()
            self._count(request, feeds)
            if over:
                break
            await bell.wait()
            if request.gone:
                raise ClientLeft
        await self._finish(request, reply)

    async def break_off(self, request: Request, problem: Problem, reply: Reply) -> None:
        """The problem as the last event."""
        await reply.body(_event("error", problem.document(request.id)))

    async def _finish(self, request: Request, reply: Reply) -> None:
        if reply.started:
            for job in request.jobs:
                problem = job if isinstance(job, Problem) else job.problem
                if problem is not None:
                    self._tally.problem(problem)
        elif request.form:
            await reply.whole(*form_response(request, self._clock(), self._tally))
        else:
            outcome(request.jobs[0])

    def _news(self, request: Request, feeds: list[_Feed], problems: list[bytes]) -> list[bytes]:
        """Events that have not been told; problems of files go to `problems`."""
        events: list[bytes] = []
        for feed in feeds:
            if feed.over:
                continue
            try:
                events += self._news_of(request, feed)
            except Problem as problem:
                feed.over = True
                problems.append(_event("error", self._named(request, feed, problem.document(request.id))))
        return events

    def _news_of(self, request: Request, feed: _Feed) -> list[bytes]:
        job = request.jobs[feed.place]
        if isinstance(job, Problem) or job.problem is not None:
            outcome(job)
        assert isinstance(job, Job)
        events = []
        while feed.told < len(job.refinements):
            events.append(self._refinement(request, feed, job))
        if job.ended and job.refinements:
            feed.over = True
            fields = self._answer(request, feed, job, job.ended)
            events.append(_event("final", self._named(request, feed, fields)))
        return events

    def _refinement(self, request: Request, feed: _Feed, job: Job) -> bytes:
        refinement = job.refinements[feed.told]
        feed.told += 1
        feed.stages |= 1 << refinement.stage
        fields = self._answer(request, feed, job, None)
        index, probability = refinement.stage_top
        fields["stage_only"] = {"index": index, "probability": probability}
        return _event("refinement", self._named(request, feed, fields), refinement.stage + 1)

    def _answer(self, request: Request, feed: _Feed, job: Job, stop_reason: str | None) -> dict[str, object]:
        return answer(
            job,
            job.refinements[feed.told - 1],
            feed.stages,
            stop_reason,
            request_id=request.id,
            budget_ms=request.query.budget_ms,
            elapsed_ns=self._clock() - request.received_ns,
        )

    @staticmethod
    def _named(request: Request, feed: _Feed, fields: dict[str, object]) -> dict[str, object]:
        if request.form:
            fields["file"] = request.uploads[feed.place].name
            fields["file_index"] = feed.place
        return fields

    def _count(self, request: Request, feeds: list[_Feed]) -> None:
        """Images whose final answer has just been written."""
        now = self._clock()
        for feed in feeds:
            job = request.jobs[feed.place]
            if feed.over and feed.told and isinstance(job, Job):
                feed.told = 0
                self._tally.image(job, now, request.received_ns, request.deadline_ns)


def _event(name: str, fields: dict[str, object], number: int | None = None) -> bytes:
    head = f"event: {name}\n" if number is None else f"event: {name}\nid: {number}\n"
    return b"%bdata: %b\n\n" % (head.encode(), orjson.dumps(fields))


def _headers(request_id: str) -> Headers:
    return [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),
        (b"x-request-id", request_id.encode()),
    ]
