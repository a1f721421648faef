"""A front end: everything it is made of, built here and nowhere else, and its life from start to drain.

    python -m server.app     (started by the supervisor, which hands it the listening socket)

Knows every part's constructor; must not do any part's work.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import math
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import uvicorn
import uvloop
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry

from model_repo.repository import Repository
from server import child, logs
from server.admission import Door
from server.arrivals import Arrivals
from server.busy import Busy
from server.catalog import Catalog
from server.child import ChildContext, Processes
from server.coalescing import Coalescing
from server.connections import Connection, protocol
from server.deadlines import Deadlines, TimerfdAlarm
from server.decoding import Decoder, warm_up
from server.doorman import Doorman
from server.engine_view import EngineView
from server.fairness import Shares
from server.housekeeping import Housekeeping
from server.jobs import Jobs
from server.lag import Lag
from server.link import Link
from server.messages import Done, Refinement
from server.metrics import UNHEARD, FrontEndMetrics, count_in_memory, exposition, write_counts
from server.outgoing import Outgoing
from server.rehearsal import Exercise, Prompter, rehearse
from server.routes import envelope, health, models, openapi
from server.routes.classify import Classify
from server.routes.early import EarlyRefusal
from server.routes.express import Express
from server.routes.hot import HotRoute
from server.routes.query import QueryParser
from server.routes.request import Desk, RequestIds
from server.routes.stream import Stream
from server.settings import Settings, threads_of
from server.tally import Tally
from server.throttle import Throttle

log = logging.getLogger(__name__)

VERSION = "0.1.0"
_SWITCH_INTERVAL_S = 1e-4
_ACCEPTS = 16
"""Descriptors of the listening socket, each of which takes one connection in a turn of the loop. libuv takes no more,
and in a flood the turns are long: of a thousand clients that connect at once the last would wait for seconds.
"""

_GC_THRESHOLDS = (50_000, 20, 50)
_OTHER_DESCRIPTORS = 1024  # than those of connections that are let in: refused ones, libraries, the engine


class FrontEnd:
    """The parts of one front end, wired to each other. Nothing runs before `serve`, or instead of it `rehearse` or
    `exercising`.

    Args:
        context: what the supervisor told.
        registry: of metrics.
        rehearsing: nobody counts what it does, and it needs no engine.
    """

    def __init__(
        self, context: ChildContext, registry: CollectorRegistry, *, rehearsing: bool = False
    ) -> None:
        settings = context.settings
        clock = time.monotonic_ns
        self.context = context
        self.clock = clock
        self.ids = RequestIds()
        self.metrics = UNHEARD if rehearsing else FrontEndMetrics(registry)
        self.view = EngineView()
        self.busy = Busy(context.rehearsal_busy_file if rehearsing else context.busy_file, context.number)
        self.lag = Lag(int(settings.answer_guard_ms * 1e6))
        self.catalog = Catalog(Repository(settings.models_dir), settings.default_model)
        self.deadlines = Deadlines(clock)
        self.link = (Prompter if rehearsing else Link)(context.engine_socket, self.view, clock)
        self.jobs = Jobs(self.view, self.deadlines, self.link.send, clock)
        self.throttle = Throttle()
        _, shared = threads_of(settings, len(os.sched_getaffinity(0)))
        self.coalescing = Coalescing(self.deadlines, shared=shared)
        self.door = Door(
            self.view,
            self.lag,
            clock,
            max_jobs=settings.max_jobs,
            max_body_bytes=settings.max_body_bytes,
            shares=Shares() if settings.fair_share else None,
            throttle=self.throttle,
        )
        self.decoder = Decoder(self.deadlines, self.metrics.decode, settings.max_pixels)
        self.doorman = Doorman(
            max_connections=settings.max_connections,
            header_timeout_s=settings.header_timeout_s,
            keep_alive_s=settings.keep_alive_s,
            new_id=self.ids,
            clock=clock,
        )
        self.outgoing = Outgoing()
        self.tally = Tally(self.metrics, self.lag)
        self.framework = self._framework(settings, registry)
        self.application = self._application(settings)

    def _application(self, settings: Settings) -> envelope.Envelope:
        desk = Desk(
            catalog=self.catalog,
            door=self.door,
            jobs=self.jobs,
            decoder=self.decoder,
            lag=self.lag,
            metrics=self.metrics,
            parser=QueryParser(settings.default_deadline_ms, settings.max_deadline_ms),
            ids=self.ids,
            max_body_bytes=settings.max_body_bytes,
            body_timeout_s=settings.body_timeout_s,
            max_files=settings.max_files,
            clock=self.clock,
        )
        classify = Classify(desk, self.tally)
        responders = (classify, Stream(desk, self.tally))
        self.hot_routes = [responder.route for responder in responders]
        self.early = EarlyRefusal(desk, self.tally, self.hot_routes, access_log=settings.access_log)
        hot = {
            responder.route: HotRoute(desk, self.tally, responder, access_log=settings.access_log)
            for responder in responders
        }
        self.express = Express(desk, hot[classify.route], classify)
        return envelope.Envelope(self.framework, hot, self.ids, self.tally)

    def _framework(self, settings: Settings, registry: CollectorRegistry) -> FastAPI:
        app = FastAPIOffline(  # the page at /docs asks no other host for its viewer
            title="Anytime",
            version=VERSION,
            description="Image classification by a deadline.",
            telemetry={"tracing": False, "metrics": False, "logs": False},
            redirect_slashes=False,
            redoc_url=None,
        )
        envelope.install_handlers(app)
        app.include_router(models.router(self.catalog, self.view, self.lag))
        app.include_router(
            health.router(
                self.catalog,
                self.view,
                self.door,
                self.clock,
                processes=partial(_read_processes, self.context),
                metrics=partial(exposition, registry),
            )
        )
        openapi.install(app, settings)
        return app

    def expect_answers(self) -> None:
        """Prepares what the first answer of each served model would otherwise wait for."""
        for model in self.catalog.served:
            self.tally.expect(model, self.hot_routes)

    async def serve(self, listener: socket.socket, rehearsing: FrontEnd | None = None) -> None:
        """Serves on a listening socket until SIGTERM or SIGINT, then answers what is in flight and returns.

        `rehearsing` is exercised in pauses.
        """
        loop = asyncio.get_running_loop()
        server = self._http_server()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        with self._at_work(), rehearsing.exercising() if rehearsing else nullcontext() as exercise:
            self._housekeeping(server, exercise).start()
            # What is built by now lives as long as the process: no collection has to look at it again.
            gc.collect()
            gc.freeze()
            try:
                await server.serve(sockets=[listener, *(listener.dup() for _ in range(1, _ACCEPTS))])
            finally:
                write_counts()  # the last ones, for which there is no tick any more

    async def rehearse(self) -> None:
        """Answers requests of its own, as long as nobody else's can come (see rehearsal.py)."""
        warm_up()
        with self._prompted():
            await rehearse(self._connection(), self.catalog.served)

    @contextlib.contextmanager
    def exercising(self) -> Iterator[Exercise | None]:
        """Answers requests of its own, one now and then; none where no model is served."""
        with self._prompted() as link:
            served = self.catalog.served
            pause_ns = int(self.context.settings.keep_warm_ms * 1e6)
            yield Exercise(self._connection(), served, link, pause_ns) if served else None

    @contextlib.contextmanager
    def _prompted(self) -> Iterator[Prompter]:
        """With all models, and without an engine."""
        with self._at_work():
            assert isinstance(self.link, Prompter)
            self.link.expect(model.key for model in self.catalog.models)
            yield self.link

    def _housekeeping(self, server: uvicorn.Server, exercise: Exercise | None) -> Housekeeping:
        return Housekeeping(
            clock=self.clock,
            deadlines=self.deadlines,
            lag=self.lag,
            throttle=self.throttle,
            link=self.link,
            door=self.door,
            doorman=self.doorman,
            jobs=self.jobs,
            busy=self.busy,
            coalescing=self.coalescing,
            metrics=self.metrics,
            server=server,
            drain_ns=int(self.context.settings.drain_s * 1e9),
            exercise=exercise,
        )

    def _connection(self) -> Callable[[], Connection]:
        server = self._http_server()
        server.config.load()
        return partial(self._protocol(), server.config, server.server_state, {})

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """With a clock, models and an engine."""
        loop = asyncio.get_running_loop()
        alarm = TimerfdAlarm(loop, self.deadlines.ring)
        self.deadlines.use(alarm)
        self.catalog.read()
        self.link.open(loop, _EngineEvents(self))
        try:
            yield
        finally:
            self.link.close()
            self.decoder.close()
            alarm.close()

    def _http_server(self) -> _HttpServer:
        config = uvicorn.Config(
            self.application,
            http=self._protocol(),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=max(1, math.ceil(self.context.settings.drain_s)),
        )
        return _HttpServer(config)

    def _protocol(self) -> Callable[..., Connection]:
        call_soon, naps = asyncio.get_running_loop().call_soon, self.coalescing
        arrivals = Arrivals(call_soon, self.clock, self.busy, naps.pause_ns, naps.sleep)
        return protocol(self.doorman, arrivals, self.outgoing, self.early, self.express)

    def _drain(self) -> None:
        if not self.door.draining:
            log.info("draining", extra={"in_work": self.door.in_work})
        self.door.draining = True


class _HttpServer(uvicorn.Server):
    """uvicorn's server, but signals are the front end's: it would end the process with the signal's status."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _EngineEvents:
    """Tells the parts what the link hears."""

    def __init__(self, front: FrontEnd) -> None:
        self._front = front

    def hearing(self) -> AbstractContextManager[None]:
        return self._front.outgoing.together()

    def refinement(self, message: Refinement) -> None:
        self._front.jobs.refinement(message)

    def done(self, message: Done) -> None:
        self._front.jobs.done(message)

    def engine_lost(self) -> None:
        self._front.metrics.engine_lost.inc()
        self._front.jobs.engine_lost()

    def engine_ready(self) -> None:
        self._front.jobs.engine_ready()

    def models_changed(self) -> None:
        front = self._front
        front.catalog.serve(front.view.models)
        front.expect_answers()
        if not front.catalog.knows(front.view.models):  # published since; hashing the files takes a while
            asyncio.get_running_loop().run_in_executor(None, front.catalog.read)


def _read_processes(context: ChildContext) -> Processes:
    try:
        return Processes.model_validate_json(context.processes_file.read_bytes())
    except (OSError, ValueError):  # not written yet
        return Processes(supervisor=context.supervisor_pid)


def _tune_process(connections: int) -> None:
    """Descriptors for so many connections; short turns between threads; few collections; quiet, single-threaded OpenCV.

    The kernel's table of a process's descriptors grows when one is wanted that has no place in it. A process with
    threads is then held up until no processor looks at the old table any more: 10 to 20 ms, at the 65th connection, the
    129th, the 257th, that is, in the first moments of a flood. It never shrinks, so it is made to grow here.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with Path(os.devnull).open("rb") as any_file:
        highest = min(connections + _OTHER_DESCRIPTORS, hard) - 1
        os.close(fcntl.fcntl(any_file, fcntl.F_DUPFD_CLOEXEC, highest))
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.set_threshold(*_GC_THRESHOLDS)
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def inherited(descriptor: int) -> socket.socket:
    """The listening socket, as one that never blocks, and whose copies do not either.

    Whether it blocks is a property that all processes share. Python takes an inherited socket for one that does, and
    makes it so as soon as it is copied: another front end that was beaten to a connection in that moment would wait in
    accept() until the next one comes, and whoever it serves with it.
    """
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    return listener


def _rehearsing(context: ChildContext) -> FrontEnd:
    quiet = context.settings.model_copy(update={"access_log": False})
    return FrontEnd(replace(context, settings=quiet), CollectorRegistry(), rehearsing=True)


def main() -> None:
    """The process."""
    context = child.enter()
    if context.listen_fd is None:
        raise SystemExit("A front end needs the listening socket of the supervisor")
    logs.configure(context.settings.log_level, "frontend")
    _tune_process(context.settings.max_connections)
    count_in_memory()
    with (
        inherited(context.listen_fd) as listener,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_rehearsing(context).rehearse())
        exercised = _rehearsing(context) if context.settings.keep_warm_ms else None
        runner.run(FrontEnd(context, CollectorRegistry()).serve(listener, exercised))
    log.info("ended")


if __name__ == "__main__":
    main()
