"""The engine's loop: inbox -> policy -> launch -> refinements -> front ends, at once, job by job.

Knows how the parts work together, and the jobs that are here; must not know how to load, to schedule or to pool. One
turn of the loop tells the policy all that has happened, lets it decide, and sends all that is to be said.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np

from server.busy import Crowding
from server.engine.backends.protocol import DeviceLost
from server.engine.counting import Counting
from server.engine.device import Device, Result
from server.engine.events import Finish, Instruction, Key, Launch, Reject, WaitUntil
from server.engine.explaining import Explainer
from server.engine.frontends import FrontEnd, FrontEnds
from server.engine.loading import LoadedModel
from server.engine.policy import (
    Arrived,
    Cancelled,
    LaunchDone,
    LaunchFailed,
    PolicyConfig,
    Pressed,
    Tick,
    first_answer_ns,
    new_state,
    step,
)
from server.engine.policy import Job as PolicyJob
from server.engine.refine import JobRecord, Refined, Refiner
from server.engine.reports import Reports
from server.messages import Cancel, Done, Envelope, Heartbeat, Job
from server.pulse import Pulse

logger = logging.getLogger(__name__)

MS = 1_000_000
RECEIVING_NS = 1 * MS
LOOK_NS = MS  # while the cores are wanted, how often it is looked whether they still are


class NotFinite(ArithmeticError):
    """A stage gave logits that are no numbers."""


class Engine:
    """All jobs of all front ends on one device.

    Args:
        front_ends: the links.
        device: runs launches.
        models: by name@version.
        reports: tells front ends how the engine is.
        counting: metrics.
        config: the policy's.
        clock_ns: CLOCK_MONOTONIC, the clock of the deadlines.
        pulse: shows the supervisor that it lives.
        crowding: tells when the front ends want the cores that stages run on; None where these are not theirs too.
        keep_warm: called whenever there has been no job for `pause_ns`; must return soon.
    """

    def __init__(
        self,
        front_ends: FrontEnds,
        device: Device,
        models: dict[str, LoadedModel],
        reports: Reports,
        counting: Counting,
        config: PolicyConfig,
        clock_ns: Callable[[], int],
        pulse: Pulse,
        crowding: Crowding | None = None,
        keep_warm: Callable[[], None] | None = None,
        pause_ns: int = 0,
    ) -> None:
        self._front_ends = front_ends
        self._device = device
        self._models = models
        self._reports = reports
        self._counting = counting
        self._clock_ns = clock_ns
        self._pulse = pulse
        self._crowding = crowding
        self._keep_warm = keep_warm
        self._pause_ns = pause_ns
        self._warm_ns = 0  # when there was a job last, or one's like
        self._state = new_state({key: (m.ladder, m.latency) for key, m in models.items()}, config)
        self._refiners = {key: Refiner(m.model.manifest) for key, m in models.items()}
        self._image_bytes = {key: math.prod(m.shape) for key, m in models.items()}
        self._classes = {key: len(m.model.manifest.labels) for key, m in models.items()}
        self._pulse_names = {
            key: [f"{key} {name}" for name in m.model.manifest.stage_names] for key, m in models.items()
        }
        self._explainer = Explainer({key: m.model.manifest.stage_names for key, m in models.items()})
        self._jobs: dict[Key, JobRecord] = {}
        self._wake_ns: int | None = None
        self._drain_until_ns: int | None = None

    def drain(self, until_ns: int) -> None:
        """Take no more jobs, end `run` when those that are here are done, or at that time."""
        self._drain_until_ns = until_ns
        self._reports.drain()

    def run(self) -> None:
        """Serve until drained. Raises DeviceLost: no stage runs in this process any more."""
        while not self._drained():
            if not self.turn():
                self._wait()
                self._stay_warm()

    def turn(self) -> bool:
        """One turn, without waiting; True if a launch has ended in it, so that there is more to decide at once."""
        self._pulse.turn()
        self._receive()
        landed = self._device.poll()
        if landed is not None:
            self._land(landed)
            self._flush()
        landed = self._decide()
        if landed is not None:
            self._land(landed)
        self._flush()
        self._counting.settle()
        return landed is not None

    def _wait(self) -> None:
        now_ns = self._clock_ns()
        until_ns = self._reports.next_due_ns(self._device.busy, now_ns)
        if self._wake_ns is not None:
            until_ns = min(until_ns, self._wake_ns)
        if self._keep_warm is not None and self._is_idle():
            until_ns = min(until_ns, self._warm_ns + self._pause_ns)
        while True:
            left_ns = max(0, until_ns - now_ns)
            wait_ns = min(left_ns, LOOK_NS) if self._state.crowded else left_ns
            heard = self._front_ends.wait(self._device.fileno(), wait_ns / 1e9)
            if heard or not self._is_crowded(now_ns := self._clock_ns()) or now_ns >= until_ns:
                return

    def _stay_warm(self) -> None:
        if (
            self._keep_warm is None
            or not self._is_idle()
            or self._clock_ns() < self._warm_ns + self._pause_ns
        ):
            return
        self._keep_warm()
        self._warm_ns = self._clock_ns()

    def _is_idle(self) -> bool:
        # A launch may go on when nobody waits for it any more: it has the device, and the watcher's eye.
        return not self._jobs and not self._device.busy

    def _drained(self) -> bool:
        if self._drain_until_ns is None:
            return False
        return not self._jobs or self._clock_ns() >= self._drain_until_ns

    # What comes in

    def _receive(self) -> None:
        until_ns = self._clock_ns() + RECEIVING_NS
        for front_end, envelope in self._front_ends.receive():
            now_ns = self._clock_ns()
            current = envelope.epoch in {0, self._front_ends.epoch}
            if envelope.epoch != self._front_ends.epoch:
                self._reports.greet(front_end, now_ns)
            # Jobs of an earlier life are not run: their front end sends them again when it hears of the new one.
            if current:
                self._take(front_end, envelope, now_ns)
            else:
                logger.info("messages for an earlier engine", extra={"messages": len(envelope.messages)})
            if now_ns >= until_ns:  # the rest waits: however much comes in, launches go on
                return

    def _take(self, front_end: FrontEnd, envelope: Envelope, now_ns: int) -> None:
        most_jobs = self._reports.most_jobs()
        for message in envelope.messages:
            if isinstance(message, Job):
                self._take_job(front_end, message, now_ns, most_jobs)
            elif isinstance(message, Cancel):
                self._cancel((front_end.identity, message.number))
            elif isinstance(message, Heartbeat):
                front_end.pressed = message.state == "pressed"
                self._weigh(now_ns)
            else:
                logger.warning("a front end does not send this", extra={"kind": type(message).__name__})

    def _take_job(self, front_end: FrontEnd, job: Job, now_ns: int, most_jobs: int) -> None:
        key = (front_end.identity, job.number)
        if key in self._jobs:
            return
        if job.model not in self._models or self._drain_until_ns is not None:
            front_end.outbox.append(Done(job.number, "rejected"))
            return
        if front_end.jobs >= most_jobs:
            feasible_ns = first_answer_ns(self._state, job.model, now_ns)
            front_end.outbox.append(Done(job.number, "rejected", feasible_ns))
            return
        if len(job.pixels) != self._image_bytes[job.model]:
            logger.error(
                "wrong number of pixels",
                extra={"model": job.model, "bytes": len(job.pixels)},
            )
            front_end.outbox.append(Done(job.number, "rejected"))
            return
        top_k = min(max(job.top_k, 1), self._classes[job.model])
        self._jobs[key] = JobRecord(
            front_end.identity, job.number, job.model, job.deadline_ns, now_ns, top_k, job.pixels
        )
        front_end.jobs += 1
        self._warm_ns = now_ns
        if job.explain:
            self._explainer.watch(key, now_ns)
        wanted = PolicyJob(key, job.model, job.deadline_ns, job.min_confidence, job.every_stage)
        orders = step(self._state, Arrived(wanted), now_ns)[1]
        if orders:
            self._follow(orders)

    def _weigh(self, now_ns: int) -> None:
        """While a front end refuses or misses for want of the cores that stages run on, only the first runs there."""
        pressed = self._crowding is not None and any(each.pressed for each in self._front_ends.known.values())
        self._follow(step(self._state, Pressed(pressed), now_ns)[1])

    def _cancel(self, key: Key) -> None:
        if self._remove(key, "cancelled") is not None:
            step(self._state, Cancelled(key), self._clock_ns())

    def _is_crowded(self, now_ns: int) -> bool:
        # Pressed it is first rungs only anyway, and to look for the end of it would take time from front ends.
        return self._crowding is not None and not self._state.pressed and self._crowding.crowded(now_ns)

    # What the policy orders

    def _decide(self) -> Result | None:
        """Let the policy decide; returns the result of a launch that has run at once."""
        self._wake_ns = None
        now_ns = self._clock_ns()
        explain = self._explainer.hook()
        orders = step(self._state, Tick(self._is_crowded(now_ns)), now_ns, explain)[1]
        if explain is not None:
            self._explainer.note(next((order for order in orders if isinstance(order, Launch)), None), now_ns)
        launch = self._follow(orders)
        if launch is None:
            return None
        model = self._models[launch.model]
        runner = model.runners[launch.stage]
        pixels = [self._jobs[key].pixels for key in launch.keys]
        shape = (len(pixels), *model.shape)
        name = self._pulse_names[launch.model][launch.stage]
        self._pulse.launching(launch.number, name, launch.promised_ns)
        return self._device.start(
            launch,
            lambda: runner.run(np.frombuffer(b"".join(pixels), np.uint8).reshape(shape)),
            model.latency.typical_ns(launch.stage, len(pixels)),
        )

    def _follow(self, orders: list[Instruction]) -> Launch | None:
        launch = None
        for order in orders:
            match order:
                case Launch():
                    launch = order
                case Finish(key, reason):
                    self._end(key, reason)
                case Reject(key, feasible_ns):
                    self._end(key, "rejected", feasible_ns)
                case WaitUntil(at_ns):
                    self._wake_ns = at_ns
        return launch

    def _end(self, key: Key, reason: str, feasible_ns: int = 0) -> None:
        decisions = self._explainer.take(key)
        job = self._remove(key, reason)
        front_end = self._front_ends.known.get(job.front_end) if job else None
        if job and front_end:
            front_end.outbox.append(Done(job.number, reason, feasible_ns, decisions))

    def _remove(self, key: Key, reason: str) -> JobRecord | None:
        job = self._jobs.pop(key, None)
        if job is None:
            return None
        self._explainer.forget(key)
        self._counting.ended(job.model, reason)
        front_end = self._front_ends.known.get(job.front_end)
        if front_end:
            front_end.jobs -= 1
        return job

    # What a launch brings

    def _land(self, result: Result) -> None:
        launch = result.launch
        self._pulse.landed()
        if isinstance(result.error, DeviceLost):
            raise result.error
        try:
            self._share(result)
        except (NotFinite, ValueError) as error:
            self._fail(launch, error)

    def _share(self, result: Result) -> None:
        """Pool, tell the policy, send each live job its refinement. Raises NotFinite or ValueError for bad logits."""
        launch, logits = result.launch, result.logits
        if logits is None:
            raise ValueError(str(result.error)) from result.error
        if not math.isfinite(logits.sum()):  # one infinity or NaN makes it so
            raise NotFinite("gave infinite logits")
        alive = [n for n, key in enumerate(launch.keys) if key in self._jobs]
        jobs = [self._jobs[launch.keys[n]] for n in alive]
        self._account(result, jobs)
        confidences = [0.0] * len(launch.keys)
        refined = None
        if jobs:
            rows = logits if len(alive) == len(launch.keys) else logits[alive]
            refined = self._refiners[launch.model].refine(jobs, launch.stage, rows)
            for n, confidence in zip(alive, refined.confidences, strict=True):
                confidences[n] = confidence
        done = LaunchDone(launch, tuple(confidences), result.duration_ns)
        orders = step(self._state, done, self._clock_ns())[1]
        if refined:
            self._send(
                launch, refined, {order.key: order.reason for order in orders if isinstance(order, Finish)}
            )

    def _send(self, launch: Launch, refined: Refined, finished: dict[Key, str]) -> None:
        for n, job in enumerate(refined.jobs):
            key = (job.front_end, job.number)
            final = finished.get(key)
            front_end = self._front_ends.known.get(job.front_end)
            if front_end:
                front_end.outbox.append(refined.message(n, final, self._explainer.take(key)))
            if final:
                self._remove(key, final)

    def _account(self, result: Result, jobs: list[JobRecord]) -> None:
        launch = result.launch
        stage = self._stage_name(launch)
        ended_ns = result.started_ns + result.duration_ns
        self._counting.launch(launch.model, stage, len(launch.keys), result.duration_ns)
        in_time = 0
        for job in jobs:
            job.compute_ns += result.duration_ns
            in_time += job.deadline_ns >= ended_ns
            if job.queue_ns < 0:
                job.queue_ns = max(result.started_ns - job.arrived_ns, 0)
                self._counting.queued(launch.model, job.queue_ns)
        wasted = len(launch.keys) - in_time
        if wasted:
            self._counting.late_work(launch.model, result.duration_ns * wasted / len(launch.keys))

    def _fail(self, launch: Launch, error: Exception) -> None:
        stage = self._stage_name(launch)
        logger.error("stage failed", extra={"model": launch.model, "stage": stage, "reason": str(error)})
        self._counting.failed(launch.model, stage)
        model = self._models[launch.model]
        model.failed[stage] = str(error).splitlines()[0] if str(error) else type(error).__name__
        model.runners.pop(launch.stage).close()
        self._follow(step(self._state, LaunchFailed(launch), self._clock_ns())[1])
        self._reports.models_changed()

    def _stage_name(self, launch: Launch) -> str:
        return self._models[launch.model].model.manifest.stage_names[launch.stage]

    def _flush(self) -> None:
        # What is due rides along: every envelope of its own would wake the front end once more.
        self._reports.send_due(self._state, self._clock_ns())
        for gone in self._front_ends.flush():
            for key in [key for key, job in self._jobs.items() if job.front_end == gone.identity]:
                self._cancel(key)
