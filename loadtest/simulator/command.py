"""`python -m loadtest record` and `python -m loadtest schedule`: their options, and what is written.

Builds what they need and puts the parts together; simulates and measures nothing itself.
"""

import argparse
import shlex
import time
from functools import partial
from pathlib import Path
from typing import Any

from loadtest.images import read_images
from loadtest.rig import REPOSITORY, default_images
from loadtest.simulator import grid, record, recording, report
from loadtest.simulator.findings import Findings
from loadtest.simulator.goals import goals
from loadtest.simulator.policies import names
from loadtest.simulator.runs import run_all
from loadtest.simulator.setup import open_model, set_up
from loadtest.simulator.world import BrokenSchedule, Costs
from model_repo.repository import RepositoryError

DEFAULT_MODEL = "cifar10"
DEFAULT_TRACE = "azure-llm-2023-conv.csv"
_QUICK_PROBES = 1_000
Outcome = tuple[str, dict[str, Any], bool]


class SimulatorFailed(Exception):
    """The command could not be run; the text is one line."""


def add_commands(commands: Any) -> None:
    """Add `record` and `schedule`."""
    recorder = commands.add_parser("record", help="answers and latencies of a model, for the simulator")
    _add_model(recorder)
    recorder.add_argument(
        "--images", type=Path, help="ImageFolder-shaped zip or directory of labelled images"
    )
    recorder.add_argument("--split", default="test", help="which part of it (default: %(default)s)")
    recorder.add_argument("--backend", default="auto", help="runtime (default: %(default)s)")
    recorder.add_argument("--samples", type=int, default=200, help="launches per cell (default: 200)")
    recorder.add_argument("--seconds", type=float, default=60.0, help="for all launches (default: 60)")
    recorder.add_argument("--max-batch", type=int, default=32, help="largest batch (default: 32)")
    recorder.add_argument("--cpu", type=int, default=0, help="core of the launches (default: 0)")
    recorder.add_argument(
        "--cpu-time", action="store_true", help="CPU time instead of wall time: a stopgap beside other work"
    )
    bench = commands.add_parser("schedule", help="the policy, baselines and bounds, simulated")
    _add_model(bench)
    bench.add_argument("--quick", action="store_true", help="a minute's worth, to see that it works")
    bench.add_argument("--policies", nargs="+", metavar="NAME", default=(), help="only these")
    bench.add_argument(
        "--devices", nargs="+", metavar="NAME", default=(), help="only these: CPU, GPU-shaped …"
    )
    bench.add_argument("--seeds", type=int, nargs="+", help="instead of 1 2 3")
    bench.add_argument("--requests", type=int, help="about so many a run")
    bench.add_argument("--processes", type=int, default=1, help="side by side (default: 1)")
    bench.add_argument("--trace", type=Path, help="CSV with a column arrival_s")
    bench.add_argument(
        "--charge",
        default="measured",
        help="for each decision: measured (wall time), cpu (CPU time, beside other work), or nanoseconds",
    )
    for each in (recorder, bench):
        each.add_argument("--out", type=Path, help="report to write (.md); a .json beside it")
        each.add_argument("--raw", type=Path, help="unused: there are no raw records")
        each.add_argument(
            "--function-only",
            action="store_true",
            help="do not take the lock, and mark the figures as worthless",
        )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or name@version (default: %(default)s)")
    parser.add_argument("--models-dir", type=Path, default=REPOSITORY / "model_repo" / "models")
    parser.add_argument("--recordings", type=Path, default=recording.FOLDER, help="folder of recordings")


def run_record(options: argparse.Namespace, _folder: Path) -> Outcome:
    """Make and write a recording. Raises SimulatorFailed."""
    from server.engine.backends.protocol import StageUnusable  # noqa: PLC0415 - wanted only here

    try:
        model = open_model(options.models_dir, options.model)
        images = read_images(options.images or default_images(), options.split)
        wanted = record.Wanted(
            *(options.backend, options.samples, options.seconds, options.max_batch, options.cpu),
            cpu_time=options.cpu_time,
            command=_record_command(options),
        )
        made = record.record(model, images, wanted, record.progress_bar)
    except (RepositoryError, StageUnusable, ImportError) as error:
        raise SimulatorFailed(str(error)) from error
    path = recording.path_of(model.manifest.name, model.manifest.version, options.recordings)
    recording.save(made, path)
    met = sum(int(stalled.sum()) for stalled in made.stalled.values())
    count = sum(len(values) for values in made.samples.values())
    text = (
        f"{path.name}: {made.confidence.shape[1]} images, {len(made.stages)} rungs, {count} launches of which {met} "
        f"met a stall; {path.stat().st_size} bytes."
    )
    return text, dict(made.header), True


def run_schedule(options: argparse.Namespace, _folder: Path) -> Outcome:
    """Simulate the grid. Raises SimulatorFailed."""
    size = _size(options)
    costs, charge = _charge(options.charge)
    trace = _trace(options)
    probes = {"scale": _QUICK_PROBES} if size.quick else {}
    make = partial(set_up, options.models_dir, options.model, options.recordings, trace, costs, **probes)
    try:
        setup = make()
        _check_names("policy", options.policies, names(setup.model.stages))
        _check_names("device", options.devices, list(setup.devices))
        plan = grid.sections(size, setup.model.stages, trace=trace is not None, only=options.policies)
        plan = grid.narrowed(plan, options.devices)
        results = run_all(make, setup, grid.tasks_of(plan, size), options.processes, record.progress_bar)
    except (RepositoryError, recording.RecordingError, BrokenSchedule) as error:
        raise SimulatorFailed(str(error)) from error
    findings = Findings(results)
    reached = goals(findings, plan)
    pictures = _pictures(options, findings, plan, setup.model.stages)
    command = _command(options)
    text = report.render(command, setup, size, plan, findings, reached, pictures, charge)
    return text, report.to_json(setup, size, findings, reached), True


def _size(options: argparse.Namespace) -> grid.Size:
    base = grid.QUICK if options.quick else grid.FULL
    requests = options.requests or base.requests
    goal_requests = max(requests, base.goal_requests) if not options.requests else requests
    if requests < 1:
        raise SimulatorFailed("--requests must be positive")
    return grid.Size(requests, goal_requests, tuple(options.seeds or base.seeds), base.loads, base.quick)


def _charge(text: str) -> tuple[Costs, str]:
    if text == "measured":
        return Costs(), "Every call of a scheduler is charged the wall time it took here."
    if text == "cpu":
        return (
            Costs(clock_ns=time.thread_time_ns),
            "Every call of a scheduler is charged the CPU time it took here.",
        )
    if text.isdigit():
        return (
            Costs(decision_ns=int(text), clock_ns=time.thread_time_ns),
            f"A call of a scheduler that orders a launch is charged {text} ns, any other a sixteenth of that.",
        )
    raise SimulatorFailed(f"--charge {text!r}: give measured, cpu or nanoseconds")


def _trace(options: argparse.Namespace) -> Path | None:
    """The trace that was asked for, or the one beside the repository, or none."""
    if options.trace is not None:
        if not options.trace.is_file():
            raise SimulatorFailed(f"no trace at {options.trace}")
        return Path(options.trace)
    usual = REPOSITORY.parent / "shared" / "traces" / DEFAULT_TRACE
    return usual if usual.is_file() else None


def _check_names(what: str, wanted: list[str], known: list[str]) -> None:
    for name in wanted:
        if name not in known:
            raise SimulatorFailed(f"no {what} is called {name!r}; there are {', '.join(known)}")


def _pictures(
    options: argparse.Namespace, findings: Findings, plan: list[grid.Section], stages: tuple[str, ...]
) -> list[str]:
    if options.out is None:
        return []
    from loadtest.simulator.pictures import draw  # noqa: PLC0415 - matplotlib is wanted only here

    return draw(findings, plan, stages, options.out.with_suffix(""))


def _record_command(options: argparse.Namespace) -> str:
    """The command to make the same again, without this machine's paths."""
    parts = ["python -m loadtest record", "--model", options.model, "--backend", options.backend]
    parts += ["--samples", str(options.samples), "--seconds", f"{options.seconds:g}"]
    parts += ["--max-batch", str(options.max_batch), "--cpu", str(options.cpu)]
    return " ".join([*parts, *(["--cpu-time"] if options.cpu_time else [])])


def _command(options: argparse.Namespace) -> str:
    parts = ["python -m loadtest schedule", "--model", options.model]
    parts += ["--quick"] if options.quick else []
    for name in ("policies", "devices", "seeds"):
        values = getattr(options, name)
        parts += [f"--{name}", *(shlex.quote(str(value)) for value in values)] if values else []
    parts += ["--requests", str(options.requests)] if options.requests else []
    parts += ["--trace", options.trace.name] if options.trace else []
    parts += ["--charge", options.charge] if options.charge != "measured" else []
    return " ".join([*parts, "--processes", str(options.processes)])
