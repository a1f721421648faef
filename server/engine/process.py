"""The engine process: the one place that builds its objects. Started by the supervisor, one per device."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

from prometheus_client import CollectorRegistry

from server import compiled, logs
from server.busy import Crowding
from server.child import HANGS_TO_BE_LEFT_OUT, ChildContext, enter
from server.engine import backends
from server.engine.backends import gpu
from server.engine.backends.protocol import BackendUnusable, DeviceLost
from server.engine.counting import Counting
from server.engine.device import Device
from server.engine.engine import Engine
from server.engine.frontends import FrontEnds
from server.engine.loading import Loaded, Loader
from server.engine.policy import PolicyConfig
from server.engine.rehearsal import Rehearsal, apart, without_memory
from server.engine.reports import Reports
from server.metrics import EngineMetrics, count_in_memory
from server.pulse import Pulse
from server.settings import threads_of

logger = logging.getLogger(__name__)

LAST_WORDS_S = 0.5
YIELDS = 1
"""Niceness. Where both want one core, a front end that waits makes everyone late; a stage, its own batch.

No more: at 0.8 of the ceiling the 99th of a hundred refusals took 5.8 ms with 1 and 4.1 with 3, but beyond the ceiling
front ends that refuse then leave the engine a quarter less to answer with."""

WARM_SHARE = 0.05
"""Of the device's time, at most, goes to keeping an idle engine warm: what takes longer would be in somebody's way."""

DEVICE_LOST = 74  # exit status, as EX_IOERR


def main() -> None:
    """Load the models, say so meanwhile, serve until told to end."""
    context = enter()
    os.nice(YIELDS)
    settings = context.settings
    logs.configure(settings.log_level, "engine")
    sys.setswitchinterval(1e-4)  # a launch beside the loop must not wait 5 ms for the interpreter
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a terminal's Ctrl-C reaches everyone; the supervisor decides
    epoch = secrets.randbits(62) + 1
    front_ends = FrontEnds(context.engine_socket, epoch)
    count_in_memory()
    counting = Counting(EngineMetrics(CollectorRegistry()))
    if context.ended:
        counting.restarted(context.ended, context.hangs[-1] if context.ended == "hung" else "")
    reports = Reports(front_ends, settings.max_jobs, counting)
    loaded = _load(context, reports)
    device = Device()
    config = PolicyConfig(max_batch=settings.max_batch)
    clock_ns = time.monotonic_ns
    pulse = Pulse(context.pulse_file, int(settings.hang_s * 1e9))
    rehearsing = partial(Rehearsal, device=device, config=config, clock_ns=clock_ns, pulse=pulse)
    try:
        if loaded.models and not context.ended:  # else clients wait for it already
            reports.say("rehearsing", clock_ns())
            with closing(rehearsing(context.rehearsal_socket, without_memory(loaded.models))) as rehearsal:
                rehearsal.all()
        pause_ns = int(settings.keep_warm_ms * 1e6)
        exercise = (
            rehearsing(context.rehearsal_socket, apart(loaded.models)) if pause_ns and loaded.models else None
        )
        engine = Engine(
            front_ends,
            device,
            loaded.models,
            reports,
            counting,
            config,
            clock_ns,
            pulse,
            _crowding(context, loaded),
            partial(exercise.one, pause_ns * WARM_SHARE) if exercise else None,
            pause_ns,
        )
        reports.serve(loaded.models, _detail(loaded))
        _settle_memory()
        _end_on_signal(engine, settings.drain_s)
        logger.info(
            "engine ready" if loaded.models else "engine has nothing to serve", extra=_summary(epoch, loaded)
        )
        engine.run()
    except DeviceLost as error:  # only a new process can have it back; `auto` goes on without it if it cannot
        logger.critical("device lost, ending", extra={"reason": str(error)})
        front_ends.close()
        sys.exit(DEVICE_LOST)
    front_ends.flush()
    front_ends.close(LAST_WORDS_S)
    device.close()
    logger.info("engine ended")


def _load(context: ChildContext, reports: Reports) -> Loaded:
    settings = context.settings

    def say(detail: str) -> None:
        logger.debug(detail)
        reports.say(detail, time.monotonic_ns())

    try:
        return _load_on(context, say, use_gpu=True)
    except ImportError as error:
        logger.error("runtime missing", extra={"backend": settings.backend, "reason": str(error)})
        return Loaded(unserved=[f"backend {settings.backend} is not installed: {error}"])
    except BackendUnusable as error:
        logger.error("runtime unusable", extra={"backend": settings.backend, "reason": str(error)})
        return Loaded(unserved=[f"backend {settings.backend} cannot be used: {error}"])
    except DeviceLost as error:
        logger.error("device lost while loading", extra={"backend": settings.backend, "reason": str(error)})
        if settings.backend != "auto":
            return Loaded(unserved=[f"backend {settings.backend} lost its device: {error}"])
        loaded = _load_on(context, say, use_gpu=False)
        loaded.notes.append(f"GPU passed over, it was lost while loading: {error}")
        return loaded


def _load_on(context: ChildContext, say: Callable[[str], None], use_gpu: bool) -> Loaded:
    """Raises what `backends.runtimes` does, and DeviceLost."""
    settings = context.settings
    threads = threads_of(settings, len(os.sched_getaffinity(0)))
    runtimes = backends.runtimes(
        settings.backend,
        *threads,
        settings.state_dir,
        say,
        use_gpu=use_gpu,
        graph_bytes=int(settings.graphs_mb * 1e6),
        quick=bool(context.ended),  # clients wait
    )
    loader = Loader(
        runtimes, settings.state_dir, settings.max_batch, settings.pin_rung, say, untrusted(context.hangs)
    )
    return loader.load_all(settings.models_dir)


def untrusted(hangs: Sequence[str]) -> frozenset[str]:
    """The stages ("name@version stage") that have hung too often to be run again; once may be the machine's fault."""
    return frozenset(stage for stage, times in Counter(hangs).items() if times >= HANGS_TO_BE_LEFT_OUT)


def _crowding(context: ChildContext, loaded: Loaded) -> Crowding | None:
    """None unless stages run on cores that the front ends need too; on a GPU they do not."""
    cores = len(os.sched_getaffinity(0))
    threads, shared = threads_of(context.settings, cores)
    on_gpu = any(gpu.PACKAGES.keys() & model.runtimes.split("+") for model in loaded.models.values())
    if not shared or on_gpu:
        return None
    return Crowding(context.busy_file, context.settings.workers, max(0, cores - threads))


def _detail(loaded: Loaded) -> str:
    if loaded.models:
        return "; ".join([*loaded.notes, *loaded.unserved])
    return f"no usable model: {'; '.join(loaded.unserved)}"


def _summary(epoch: int, loaded: Loaded) -> dict[str, object]:
    return {
        "epoch": epoch,
        "models": list(loaded.models),
        "unserved": loaded.unserved,
        "notes": loaded.notes,
        "policy": "compiled" if compiled.in_use() else "from its sources",
    }


def _settle_memory() -> None:
    """What start-up has built stays; a full collection must not look through it between two launches."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _end_on_signal(engine: Engine, drain_s: float) -> None:
    """SIGTERM: finish what is here. Again: end now."""
    asked = 0

    def on_term(_signal: int, _frame: object) -> None:
        nonlocal asked
        asked += 1
        engine.drain(time.monotonic_ns() + (int(drain_s * 1e9) if asked == 1 else 0))

    signal.signal(signal.SIGTERM, on_term)


if __name__ == "__main__":
    main()
