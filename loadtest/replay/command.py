"""`python -m loadtest replay`: the same arrivals into a real engine process without HTTP, on the real backend.

Between simulator and HTTP: the engine, its runtime, its link and its clock are real, front ends are not there.
Multiples are of what the deepest rung could do by the engine's own table, in its best batch.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.bench_run import Offer
from loadtest.images import LabelledImages
from loadtest.pinning import own_core
from loadtest.progress import Say, narrator
from loadtest.records import Run
from loadtest.replay.bench import EngineSilent, Replayer, ReplayPlan
from loadtest.replay.engine import EngineSettings, engine
from loadtest.replay.rows import MOST_IN_STALLS, SENDER_LIMIT_MS, Punctuality, punctuality, to_run
from loadtest.rig import REPOSITORY
from loadtest.stalls import THRESHOLD_NS, metering
from loadtest.summary import Summary, summarise
from loadtest.tables import FIGURES, figures_row, markdown, percent
from model_repo.images import decode
from model_repo.repository import PublishedModel, Repository, RepositoryError

MULTIPLES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
MAX_REPEATS = 2
PASSES = 3  # over the runs that are still void: a machine that is noisy now may be quiet in some minutes
_METER_MARGIN_S = 60.0
_NO_GAPS = np.zeros((0, 2), np.int64)
_SPAN = "50, or 5-200 drawn log-uniformly (default: 50)"


class ReplayFailed(Exception):
    """The replay could not be run; the text is one line."""


@dataclass(frozen=True)
class Row:
    """One run."""

    load: str
    rate: float
    seed: int
    repeats: int
    punctuality: Punctuality
    summary: Summary


@dataclass(frozen=True)
class ReplayFigures:
    """Everything that a replay measures; `capacity` in requests/s, of the deepest rung by the engine's table."""

    model: str
    stages: tuple[str, ...]
    capacity: float
    rows: tuple[Row, ...]

    @property
    def sound(self) -> bool:
        """The generator kept time in every run."""
        return all(row.summary.sender_kept_time for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        runs = [
            {
                "load": r.load,
                "rate": r.rate,
                "seed": r.seed,
                "repeats": r.repeats,
                "sender_punctuality": asdict(r.punctuality),
                **r.summary.to_json(),
            }
            for r in self.rows
        ]
        return {
            "model": self.model,
            "stages": self.stages,
            "deepest_rung_capacity": self.capacity,
            "sender_limit_ms": SENDER_LIMIT_MS,
            "runs": runs,
        }


def add_command(commands: Any, span: Callable[[str], tuple[float, float]]) -> argparse.ArgumentParser:
    """Add `replay` to the commands; returns its parser. `span` reads a budget or two."""
    command: argparse.ArgumentParser = commands.add_parser(
        "replay", help="arrivals into a real engine process, without HTTP"
    )
    models = REPOSITORY / "model_repo" / "models"
    command.add_argument("--models-dir", type=Path, default=models, help="models to serve")
    command.add_argument("--backend", default="auto", help="runtime (default: %(default)s)")
    command.add_argument("--arrivals", choices=("poisson", "gamma"), nargs="+", default=["poisson", "gamma"])
    command.add_argument("--cv2", type=float, default=8.0, help="of gamma gaps (default: 8)")
    command.add_argument("--multiples", type=_numbers, default=list(MULTIPLES), help="of the deepest rung's")
    command.add_argument("--rates", type=_numbers, help="requests/s, instead of --multiples")
    command.add_argument("--seconds", type=float, default=10.0, help="length of a run (default: 10)")
    command.add_argument("--deadline-ms", type=span, default=(50.0, 50.0), help=_SPAN)
    command.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    return command


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def run(
    options: argparse.Namespace,
    folder: Path,
    images: LabelledImages,
    engine_cpus: tuple[int, ...],
    sender_cpu: int | None,
) -> tuple[str, dict[str, Any], bool]:
    """(Report, figures as JSON values, whether they may be used). Raises ReplayFailed."""
    try:
        figures = _replay(options, folder, images, engine_cpus, sender_cpu)
    except (EngineSilent, RepositoryError) as error:
        raise ReplayFailed(f"{error}; the engine's log is in {folder}") from error
    return render(figures), figures.to_json(), figures.sound


def _replay(
    options: argparse.Namespace,
    folder: Path,
    images: LabelledImages,
    engine_cpus: tuple[int, ...],
    sender_cpu: int | None,
) -> ReplayFigures:
    model = _model(options.models_dir, options.model or "")
    settings = EngineSettings(options.models_dir, folder / "state", engine_cpus, options.backend)
    pixels = tuple(decode(payload, model.manifest.input).tobytes() for payload in images.payloads)
    metered = tuple(sorted({*engine_cpus, *([] if sender_cpu is None else [sender_cpu])}))
    with engine(settings, folder / "engine.log") as process:
        replayer = Replayer(process.socket)
        try:
            replayer.greet(model.key)
            bench = _Bench(replayer, model, images, pixels, sender_cpu, metered, folder, narrator())
            return bench.measure(options)
        finally:
            replayer.close()


def _model(models_dir: Path, wanted: str) -> PublishedModel:
    """The model meant by name or name@version; without a name the first. Raises RepositoryError or ReplayFailed."""
    repository = Repository(models_dir)
    name, _, version = wanted.partition("@")
    names = [name] if name else repository.names()
    if not names:
        raise ReplayFailed(f"no models in {models_dir}")
    return repository.open(names[0], version)


def deepest_capacity(latencies_ns: dict[str, dict[int, int]], stages: Sequence[str]) -> float:
    """Images/s of the deepest rung that runs, in its best batch, by the engine's medians."""
    deepest = [stage for stage in stages if latencies_ns.get(stage)][-1]
    return max(batch / (ns / 1e9) for batch, ns in latencies_ns[deepest].items())


@dataclass(frozen=True)
class _Bench:
    replayer: Replayer
    model: PublishedModel
    images: LabelledImages
    pixels: tuple[bytes, ...]
    sender_cpu: int | None
    metered: tuple[int, ...]
    folder: Path
    say: Say

    def measure(self, options: argparse.Namespace) -> ReplayFigures:
        stages = self.model.manifest.stage_names
        capacity = deepest_capacity(self.replayer.latencies_ns[self.model.key], stages)
        loads = [(f"{rate / capacity:.2f}×", rate) for rate in options.rates or ()]
        loads = loads or [(f"{multiple:g}×", multiple * capacity) for multiple in options.multiples]
        self._warm_up(capacity)
        low_ms, high_ms = options.deadline_ms
        turns = []
        # Seeds outside: a machine that slows down then hurts all loads alike.
        for seed in options.seeds:
            for kind in options.arrivals:
                for name, rate in loads:
                    offer = Offer(kind, rate, options.seconds, low_ms, high_ms, options.cv2)
                    load = f"{name}, {kind}" + (f" CV² {options.cv2:g}" if kind == "gamma" else "")
                    turns.append((load, offer, seed))
        rows = [self._row(*turn) for turn in turns]
        for _ in range(1, PASSES):
            for place, (turn, row) in enumerate(zip(turns, rows, strict=True)):
                if not row.summary.sender_kept_time:
                    rows[place] = self._row(*turn, tried=row.repeats + 1)
        return ReplayFigures(self.model.key, tuple(stages), capacity, tuple(rows))

    def _warm_up(self, capacity: float) -> None:
        """Counts for nothing: latencies and prices settle."""
        self.replayer.run(self._plan(Offer("poisson", min(capacity / 2, 500.0), 1.0, 50.0, 50.0), 0))

    def _plan(self, offer: Offer, seed: int) -> ReplayPlan:
        arrivals_ns = offer.arrivals_ns(seed)
        count = len(arrivals_ns)
        budgets_ms = np.broadcast_to(np.asarray(offer.budgets_ms(count, seed), np.float64), (count,))
        budgets_ns = np.rint(budgets_ms * 1e6).astype(np.int64)
        drawn = self.images.draw(count, seed)
        return ReplayPlan(self.model.key, arrivals_ns, budgets_ns, drawn, self.pixels, offer.length_s)

    def _row(self, load: str, offer: Offer, seed: int, tried: int = 0) -> Row:
        """Of a run that has been `tried` so often already, each time in vain."""
        plan = self._plan(offer, seed)
        for repeats in range(tried, tried + MAX_REPEATS + 1):
            run, kept = self._carry_out(plan)
            run = run.with_facts(repeats=repeats)
            if kept.kept_time:
                break
        run.save(self.folder / f"replay-{offer.kind}-{offer.rate:.0f}-seed{seed}.npz")
        summary = replace(summarise(run), sender_kept_time=kept.kept_time)
        again = f", after {repeats} void" if repeats else ""
        self.say(f"{load}, seed {seed}: {percent(summary.attainment)} of {len(plan)} in time{again}")
        return Row(load, offer.rate, seed, repeats, kept, summary)

    def _carry_out(self, plan: ReplayPlan) -> tuple[Run, Punctuality]:
        seconds = plan.seconds + plan.grace_s + _METER_MARGIN_S
        with metering(self.metered, seconds, round(SENDER_LIMIT_MS * 1e6)) as meters:
            with own_core(self.sender_cpu) as hold:
                heard = self.replayer.run(plan)
            run = to_run(plan, heard, self.images.labels[plan.images], self.model.manifest.stage_names)
            if self.metered:
                gaps_ns = meters.stop() - run.start_ns
                run = replace(run, stalls_ns=gaps_ns[gaps_ns[:, 1] - gaps_ns[:, 0] > THRESHOLD_NS])
            trustworthy = meters.trustworthy
            own_ns = _NO_GAPS
            if trustworthy and self.sender_cpu is not None:
                own_ns = meters.gaps[self.sender_cpu] - run.start_ns
        cpu_us = heard.cpu_ns / 1000 / max(len(plan), 1)
        run = run.with_facts(
            sender=str(hold), meters_trustworthy=trustworthy, sender_cpu_us_per_request=cpu_us
        )
        return run, punctuality(run.records, own_ns)


def render(figures: ReplayFigures) -> str:
    """The report as Markdown."""
    void = sum(not row.summary.sender_kept_time for row in figures.rows)
    repeats = sum(row.repeats for row in figures.rows)
    about = (
        f"Model {figures.model}, ladder {', '.join(figures.stages)}; multiples are of {figures.capacity:.0f} "
        "requests/s, the deepest rung's capacity by the engine's own table, in its best batch. Jobs go to a real "
        "engine process over its own link; a request has what the engine had told the generator by its deadline. "
        f"A run counts if the generator's p99.9 was at most {SENDER_LIMIT_MS:g} ms late outside stalls that a meter of "
        f"higher priority saw on its core (gaps above {SENDER_LIMIT_MS:g} ms), and if these met at most "
        f"{percent(MOST_IN_STALLS, 0)} of the requests. {_punctuality(figures)} Void runs repeated: {repeats}."
    )
    lines = [
        about,
        "",
        *([f"**VOID: the generator stayed late in {void} runs.**", ""] if void else []),
        "Mean over the seeds (lowest to highest):",
        "",
        _means(figures),
        "",
        "Every run:",
        "",
        markdown(FIGURES, [figures_row(r.load, str(r.seed), r.summary, r.repeats) for r in figures.rows]),
    ]
    return "\n".join(lines)


def _punctuality(figures: ReplayFigures) -> str:
    kept = [row.punctuality for row in figures.rows]
    strict = sum(each.all_ms <= SENDER_LIMIT_MS for each in kept)
    return (
        f"In the worst run p99.9 was {max(each.outside_ms for each in kept):.2f} ms outside stalls, "
        f"{max(each.all_ms for each in kept):.2f} ms in all, and a stall met "
        f"{percent(max(each.in_stalls for each in kept))} of the requests; in {strict} of {len(kept)} runs it was "
        f"within {SENDER_LIMIT_MS:g} ms, stalls and all."
    )


def _means(figures: ReplayFigures) -> str:
    rows = []
    for load in dict.fromkeys(row.load for row in figures.rows):
        runs = [row for row in figures.rows if row.load == load]
        cells = [load, f"{runs[0].rate:.0f}"]
        for name in ("attainment", "effective_accuracy", "accuracy_in_time", "refused", "unanswered"):
            values = [getattr(row.summary, name) for row in runs]
            mean = percent(float(np.mean(values)))
            cells.append(f"{mean} ({percent(min(values))} to {percent(max(values))})")
        rows.append(cells)
    header = ("Load", "Requests/s", "In time", "Effective accuracy", "Accuracy in time", "Refused")
    return markdown((*header, "Nothing in time"), rows)
