"""What the service adds to a bare endpoint, request by request, and what a request costs its front end.

Sequential requests in alternating blocks to two servers on the same core: a bare FastAPI + ONNX Runtime
endpoint with only the full net, and /classify/stream to its end over the whole ladder.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.capacity import CEILING_SHARE, DEADLINE_MS, Found
from loadtest.plan import Target
from loadtest.published import Published, read_model
from loadtest.records import Outcome, Run
from loadtest.rig import Rig
from loadtest.servers import RunningServer, free_port, running
from loadtest.summary import in_time, json_values, service_ms
from loadtest.tables import markdown, milliseconds, percent
from loadtest.trial import carry_out

BOUND_MS = 0.8
MEMORY_BOUND = 600e6
READY_BOUND_S = 5.0
CPU_AIM_US = 150.0
_LOOSE_MS = 1000.0
_WARM_UP = 50
_COST_S = 5.0
_PLAIN_RATES = (500.0, 1000.0, 2000.0)
HALF = 0.5


@dataclass(frozen=True)
class Block:
    """p50 in ms of one block of each server, side by side."""

    bare_ms: float
    ours_ms: float


@dataclass(frozen=True)
class Cost:
    """CPU microseconds a request by role of process, at a Poisson rate."""

    rate: float
    offered: int
    in_time: float
    us: dict[str, float]


@dataclass(frozen=True)
class ServeFigures:
    """Everything that `serve` measures."""

    model: Published
    blocks: tuple[Block, ...]
    bare_ms: float
    ours_ms: float
    failures: int
    requests: int
    ready_cold_s: float
    ready_warm_s: float
    resident: int
    proportional: int
    costs: tuple[Cost, ...]
    plain_costs: tuple[Cost, ...]
    null_ceiling: Found
    ceiling: Found

    @property
    def difference_ms(self) -> float:
        """Ours less bare less the other stages: what is to stay under BOUND_MS."""
        return self.ours_ms - self.bare_ms - self.model.others_ms

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        figures = {
            "model": f"{self.model.name}@{self.model.version}",
            "stage_p50_ms": {rung.name: rung.p50_ms for rung in self.model.rungs},
            "blocks_p50_ms": [[block.bare_ms, block.ours_ms] for block in self.blocks],
            "bare_p50_ms": self.bare_ms,
            "ours_p50_ms": self.ours_ms,
            "difference_ms": self.difference_ms,
            "bound_ms": BOUND_MS,
            "failures": self.failures,
            "requests_each": self.requests,
            "ready_cold_s": self.ready_cold_s,
            "ready_warm_s": self.ready_warm_s,
            "resident_bytes": self.resident,
            "proportional_bytes": self.proportional,
            "null_engine_cpu": [cost.__dict__ for cost in self.costs],
            "plain_fastapi_cpu": [cost.__dict__ for cost in self.plain_costs],
            "null_engine_ceiling": self.null_ceiling.rate,
            "front_end_ceiling": self.ceiling.rate,
        }
        values = json_values(figures)
        assert isinstance(values, dict)
        return values


@contextmanager
def bare_server(rig: Rig, model: str, *, null: bool = False) -> Iterator[RunningServer]:
    """The baseline on the core of our server; `null`: without its network."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "loadtest.baselines.bare_fastapi", "--port", str(port), "--model", model),
        *("--models-dir", str(rig.settings.models_dir), "--cpu", rig.settings.cpus.split(",")[0]),
        *(["--null"] if null else []),
    ]
    with running(command, port, rig.folder / "bare.log") as server:
        yield server


def alternate(
    rig: Rig, bare: Target, ours: Target, repeats: int, block: int, rungs: int
) -> tuple[list[Block], list[NDArray[np.float64]], int]:
    """`repeats` pairs of blocks of `block` requests; gives the blocks, all times (bare, ours) and failures.

    A stream that lacks one of the `rungs` is a failure.
    """
    times: tuple[list[Any], list[Any]] = ([], [])
    failures = 0
    for target in (bare, ours):
        rig.sequential(target, rig.images.draw(_WARM_UP, 0), _LOOSE_MS)
    for repeat in range(repeats):
        order = rig.images.draw(block, repeat)  # the same images for both
        turns = [(0, bare), (1, ours)]
        # Whoever goes second finds a warmer core: take turns.
        for place, target in turns if repeat % 2 == 0 else turns[::-1]:
            run = rig.sequential(target, order, _LOOSE_MS)
            run.save(rig.folder / f"serve-{('bare', 'ours')[place]}-{repeat}.npz")
            failures += _failures(run, (1, rungs)[place])
            times[place].append(service_ms(run.records))
    blocks = [Block(float(np.median(a)), float(np.median(b))) for a, b in zip(*times, strict=True)]
    return blocks, [np.concatenate(part) for part in times], failures


def _failures(run: Run, rungs: int) -> int:
    """Requests without an answer, or with one that lacks a rung: it would be too cheap to compare."""
    whole = np.bitwise_count(run.records["stages_run"]) == rungs
    return int((~whole | (run.records["outcome"] != Outcome.ANSWERED)).sum())


def front_end_cost(rig: Rig, server: RunningServer, rate: float, seconds: float) -> Cost:
    """CPU time by role, over one Poisson run."""
    plan = rig.poisson_plan(server, rate, seconds, 1, DEADLINE_MS)
    before = server.cpu_ns()
    run = carry_out(plan, rig.bench)
    after = server.cpu_ns()
    run.save(rig.folder / f"null-{rate:.0f}.npz")
    spent = {role: (after[role] - before[role]) / 1000 / max(len(plan), 1) for role in after}
    return Cost(rate, len(plan), float(in_time(run.records).mean()), spent)


def _null_engine(rig: Rig, seconds: float) -> tuple[Found, tuple[Cost, ...]]:
    ceiling = rig.highest_rate(CEILING_SHARE, "null-ceiling", backend="null")
    with rig.server(backend="null") as server:
        front_end_cost(rig, server, 200, 1)  # warms up
        rates = (*_PLAIN_RATES, 0.8 * ceiling.rate)
        return ceiling, tuple(front_end_cost(rig, server, rate, seconds) for rate in rates if rate > 0)


def _plain_route(rig: Rig, model: str, seconds: float) -> tuple[Cost, ...]:
    """The same requests to a plain FastAPI route that decodes, runs nothing and answers."""
    with bare_server(rig, model, null=True) as server:
        front_end_cost(rig, server, 200, 1)
        return tuple(front_end_cost(rig, server, rate, seconds) for rate in _PLAIN_RATES)


def bench_serve(rig: Rig, repeats: int, block: int, cost_s: float = _COST_S) -> ServeFigures:
    """The whole bench: start-up cold and warm, alternating blocks, memory, the front end's cost and
    ceilings.
    """
    shutil.rmtree(rig.settings.state_dir, ignore_errors=True)
    with rig.server() as server:
        cold = server.ready_s
    with rig.server() as server:
        warm = server.ready_s
        model = read_model(server, rig.model)
        with bare_server(rig, model.name) as bare:
            targets = Target.parse(bare.url), rig.target(server, "/classify/stream")
            blocks, (bare_ms, ours_ms), failures = alternate(rig, *targets, repeats, block, len(model.rungs))
        # After the blocks: the published times then hold what these very requests taught the server.
        model, memory = read_model(server, rig.model), server.memory()
    null_ceiling, costs = _null_engine(rig, cost_s)
    return ServeFigures(
        model=model,
        blocks=tuple(blocks),
        bare_ms=float(np.median(bare_ms)),
        ours_ms=float(np.median(ours_ms)),
        failures=failures,
        requests=repeats * block,
        ready_cold_s=cold,
        ready_warm_s=warm,
        resident=memory.resident,
        proportional=memory.proportional,
        costs=costs,
        plain_costs=_plain_route(rig, model.name, cost_s),
        null_ceiling=null_ceiling,
        ceiling=rig.highest_rate(CEILING_SHARE, "ceiling", pin_rung=1),
    )


def _verdict(holds: bool) -> str:
    return "holds" if holds else "**does not hold**"


def _cost_lines(figures: ServeFigures) -> list[str]:
    plain = {cost.rate: cost for cost in figures.plain_costs}
    rows = []
    for cost in figures.costs:
        own = [f"{cost.us.get(role, float('nan')):.0f}" for role in ("frontends", "engine", "supervisor")]
        other = plain.get(cost.rate)
        beside = [f"{other.us['server']:.0f}", percent(other.in_time)] if other else ["–", "–"]
        rows.append([f"{cost.rate:.0f}", str(cost.offered), percent(cost.in_time), *own, *beside])
    header = (
        *("Requests/s", "Offered", "In time", "Front end µs", "Null engine µs", "Supervisor µs"),
        *("Plain FastAPI route µs", "Its share in time"),
    )
    return [markdown(header, rows), "", *_ratio_lines(figures)]


def _ratio_lines(figures: ServeFigures) -> list[str]:
    """Whether the front end costs half of a plain route."""
    lines = []
    for other in figures.plain_costs:
        own = next(cost for cost in figures.costs if cost.rate == other.rate)
        ratio = own.us["frontends"] / other.us["server"]
        lines.append(
            f"At {other.rate:.0f}/s the front end costs {ratio:.2f} of a plain FastAPI route that decodes the same "
            f"images, runs nothing and answers; to be {HALF}: {_verdict(ratio <= HALF)}."
        )
    return lines


def render(figures: ServeFigures) -> str:
    """The report as Markdown."""
    gaps = [pair.ours_ms - pair.bare_ms - figures.model.others_ms for pair in figures.blocks]
    rows = [
        [str(number + 1), milliseconds(pair.bare_ms), milliseconds(pair.ours_ms), milliseconds(gap)]
        for number, (pair, gap) in enumerate(zip(figures.blocks, gaps, strict=True))
    ]
    all_row = [milliseconds(v) for v in (figures.bare_ms, figures.ours_ms, figures.difference_ms)]
    rungs = ", ".join(f"{rung.name} {milliseconds(rung.p50_ms)}" for rung in figures.model.rungs)
    sound = figures.failures == 0 and figures.difference_ms <= BOUND_MS
    lines = [
        f"Model {figures.model.name}@{figures.model.version}; launch p50 of one image, ms: {rungs}.",
        (
            f"{figures.requests} sequential requests to each server, {figures.failures} failed or lacked a rung; "
            "p50 in ms."
        ),
        "",
        markdown(("Pair of blocks", "Bare", "Stream to its end", "Less bare and other stages"), rows),
        "",
        (
            f"All: bare {all_row[0]}, stream {all_row[1]}, other stages {milliseconds(figures.model.others_ms)}; "
            f"difference {all_row[2]} (pairs {min(gaps):.2f} to {max(gaps):.2f}) against {BOUND_MS}: {_verdict(sound)}."
        ),
        "",
        (
            f"Ready after {figures.ready_cold_s:.2f} s without and {figures.ready_warm_s:.2f} s with a kept latency "
            f"profile (bound {READY_BOUND_S:.0f} s, {_verdict(figures.ready_cold_s < READY_BOUND_S)})."
        ),
        (
            f"Resident memory of all processes {figures.resident / 1e6:.0f} MB, shared pages counted once "
            f"{figures.proportional / 1e6:.0f} MB (bound 600 MB, {_verdict(figures.resident < MEMORY_BOUND)})."
        ),
        "",
        f"Null engine, CPU per request (aim for the front end {CPU_AIM_US:.0f} µs):",
        "",
        *_cost_lines(figures),
        "",
        (
            f"Front-end ceiling ({percent(CEILING_SHARE, 1)} in time at 50 ms): {figures.ceiling} pinned to the first "
            f"rung; {figures.null_ceiling} with the null engine."
        ),
    ]
    return "\n".join(lines)
