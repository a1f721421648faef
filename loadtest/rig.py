"""What every bench of ours stands on: images, cores, settings of the server, and a folder for raw records."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.arrivals import poisson
from loadtest.capacity import DEADLINE_MS, PROBES, Found, highest_rate
from loadtest.images import LabelledImages
from loadtest.plan import Plan, Target, back_to_back, make_plan
from loadtest.progress import Say, quiet
from loadtest.published import Published, read_model
from loadtest.records import Outcome, Run
from loadtest.servers import RunningServer, Server, ServerSettings, anytime_server
from loadtest.summary import in_time
from loadtest.tables import percent
from loadtest.trial import MAX_REPEATS, Bench, carry_out, measure

REPOSITORY = Path(__file__).resolve().parents[1]
RUNS = REPOSITORY / "runs" / "loadtest"
_GUESS_REQUESTS = 300
_PROBE_REQUESTS = 1500  # enough that a share of 0.5 % is several requests
_SHORTEST_PROBE_S, _LONGEST_PROBE_S = 3.0, 8.0


class CannotMeasure(Exception):
    """The sender stays late, or the server answers nothing that its pace could be told by."""


def default_images() -> Path:
    """cifar10.zip in the folder of ANYTIME_DATA, or in ../shared/data beside the repository."""
    folder = os.environ.get("ANYTIME_DATA")
    return (Path(folder) if folder else REPOSITORY.parent / "shared" / "data") / "cifar10.zip"


@dataclass
class Rig:
    """`folder` receives raw records, logs and the server's state; `repeats` counts void runs over all; `say` is told of
    every run.
    """

    images: LabelledImages
    bench: Bench
    settings: ServerSettings
    folder: Path
    model: str | None = None
    repeats: int = 0
    probe_s: float = _SHORTEST_PROBE_S
    probes: int = PROBES
    say: Say = quiet
    _servers: int = field(default=0, repr=False)

    @contextmanager
    def server(self, **changes: Any) -> Iterator[RunningServer]:
        """Our server, with changes to the settings."""
        self._servers += 1
        log = self.folder / f"server{self._servers}.log"
        with anytime_server(replace(self.settings, **changes), log) as server:
            yield server

    def ladder(self) -> Published:
        """What the server publishes of the model."""
        with self.server() as server:
            return read_model(server, self.model)

    def target(self, server: Server, path: str = "/classify") -> Target:
        """Where requests to this server go."""
        query = {} if self.model is None else {"model": self.model}
        return Target.parse(server.url, path, query)

    def poisson_plan(
        self,
        server: Server,
        rate: float,
        seconds: float,
        seed: int,
        deadline_ms: float | Callable[[int], NDArray[np.float64]],
    ) -> Plan:
        """Poisson arrivals and images drawn by the same seed; one budget, or what gives one to each of so many."""
        arrivals = poisson(rate, seconds, seed)
        budgets = deadline_ms(len(arrivals)) if callable(deadline_ms) else deadline_ms
        return make_plan(self.target(server), self.images, arrivals, seconds, deadline_ms=budgets, seed=seed)

    def measure(
        self, plan: Plan, name: str, ladder: tuple[str, ...] = (), max_repeats: int = MAX_REPEATS
    ) -> Run:
        """Carries the plan out, repeated while the sender is late, and saves the raw records under `name`."""
        run = measure(plan, self.bench, ladder, max_repeats)
        self.repeats += run.facts["repeats"]
        run.save(self.folder / f"{name}.npz")
        self.say(f"{name}: {percent(float(in_time(run.records).mean()))} of {len(plan)} in time")
        return run

    def sequential(self, target: Target, order: NDArray[np.int32], deadline_ms: float) -> Run:
        """One request after the other, each image once, over one connection."""
        patience = 5.0 + len(order) * deadline_ms / 1000
        plan = back_to_back(
            target, self.images, order, deadline_ms=deadline_ms, concurrency=1, patience_s=patience
        )
        return carry_out(plan, self.bench)

    def warm_up(self, server: Server) -> None:
        """Requests that count for nothing: connections, caches and estimates settle."""
        self._saturated_rate(server)

    def highest_rate(self, share: float, name: str, **changes: Any) -> Found:
        """The highest Poisson rate at which `share` are in time at 50 ms with these settings; starts its
        own server.

        Each probe has arrivals of its own. What it finds says in how many of them the sender stayed late.
        """
        with self.server(**changes) as server:
            guess = self._saturated_rate(server)
            seeds, late = itertools.count(1), 0

            def attainment(rate: float) -> float:
                nonlocal late
                seconds = float(
                    np.clip(_PROBE_REQUESTS / rate, self.probe_s, max(self.probe_s, _LONGEST_PROBE_S))
                )
                seed = next(seeds)
                plan = self.poisson_plan(server, rate, seconds, seed, DEADLINE_MS)
                # One probe that stays late spoils the search: the others only have to end.
                run = self.measure(
                    plan, f"{name}-{rate:.0f}-seed{seed}", max_repeats=0 if late else MAX_REPEATS
                )
                late += not run.facts["sender_kept_time"]
                return float(in_time(run.records).mean())

            return replace(highest_rate(attainment, share, guess, self.probes), late=late)

    def _saturated_rate(self, server: Server) -> float:
        """Answers per second to a few connections that never pause: a first guess, within a factor of two."""
        order = self.images.draw(_GUESS_REQUESTS, 0)
        plan = back_to_back(
            self.target(server), self.images, order, deadline_ms=1000, concurrency=8, patience_s=30
        )
        records = carry_out(plan, self.bench).records
        answered = records[records["outcome"] == Outcome.ANSWERED]
        if not len(answered):
            raise CannotMeasure("the server answered none of the requests that were to show its pace")
        return len(answered) / (float(answered["done_ns"].max() - answered["sent_ns"].min()) / 1e9)
