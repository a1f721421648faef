"""The command line: `python -m loadtest run | serve | overload | accuracy | replay | engines | record | schedule`.

Builds what a bench needs, takes the lock, and writes what comes out; measures nothing itself.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from loadtest import accuracy, bench_run, bench_serve
from loadtest.answers import NotAnAnswer
from loadtest.busy import Busy, alone
from loadtest.capacity import PROBES
from loadtest.engines import command as engines_command
from loadtest.images import LabelledImages, read_images
from loadtest.machine import describe_machine, machine_line
from loadtest.overload import bench as bench_overload
from loadtest.overload.hindsight import open_hindsight
from loadtest.overload.report import render as render_overload
from loadtest.plan import Target
from loadtest.progress import narrator
from loadtest.published import read_model
from loadtest.replay import command as replay_command
from loadtest.rig import REPOSITORY, RUNS, CannotMeasure, Rig, default_images
from loadtest.servers import Server, ServerFailed, ServerSettings
from loadtest.simulator import command as simulator
from loadtest.trial import Bench

_NOT_A_MEASUREMENT = (
    "**Not a measurement**: run with --function-only, without the lock, perhaps beside other work. The figures "
    "show only that the bench works."
)
_KNOWN_FAILURES = (
    Busy,
    engines_command.EnginesFailed,
    bench_overload.NoCapacity,
    CannotMeasure,
    simulator.SimulatorFailed,
    replay_command.ReplayFailed,
    ServerFailed,
    NotAnAnswer,
    FileNotFoundError,
    ValueError,
)


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _span(text: str) -> tuple[float, float]:
    """`50` or `5-200`."""
    low, _, high = text.partition("-")
    return float(low), float(high or low)


def _phases(text: str) -> tuple[tuple[float, float], ...]:
    """`200:3,2000:1`: rates with their seconds."""
    pairs = (part.partition(":") for part in text.split(","))
    return tuple((float(rate), float(seconds)) for rate, _, seconds in pairs)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, help="ImageFolder-shaped zip or directory of labelled images")
    parser.add_argument("--split", default="test", help="which part of it (default: %(default)s)")
    parser.add_argument("--png", action="store_true", help="send the images as PNG instead of as stored")
    parser.add_argument("--model", help="name or name@version (default: the server's default model)")
    parser.add_argument(
        "--out", type=Path, help="report to write (.md; a folder: COMMAND.md in it); a .json beside it"
    )
    parser.add_argument(
        "--raw", type=Path, help="folder for raw records and logs (default: runs/loadtest/TIME)"
    )
    parser.add_argument("--sender-cpu", type=int, default=1, help="core of the sender, -1: any (default: 1)")
    parser.add_argument("--server-cpus", default="0", help="cores of the servers (default: %(default)s)")
    parser.add_argument(
        "--function-only", action="store_true", help="do not take the lock, and mark the figures as worthless"
    )


def _add_server(parser: argparse.ArgumentParser) -> None:
    models = REPOSITORY / "model_repo" / "models"
    parser.add_argument("--models-dir", type=Path, default=models, help="models to serve")
    parser.add_argument("--workers", type=int, default=1, help="front ends (default: 1)")
    parser.add_argument("--backend", default="auto", help="runtime (default: %(default)s)")
    parser.add_argument(
        "--probes",
        type=int,
        default=PROBES,
        help="most runs in a search of a highest rate (default: %(default)s)",
    )
    parser.add_argument(
        "--probe-seconds", type=float, default=3.0, help="least length of such a run (default: 3)"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="one load against a running server")
    run.add_argument("--url", required=True, help="http://127.0.0.1:8000")
    run.add_argument("--stream", action="store_true", help="ask /classify/stream instead of /classify")
    run.add_argument("--arrivals", choices=bench_run.KINDS, default="poisson")
    run.add_argument("--rate", type=float, help="requests per second")
    run.add_argument("--multiple", type=float, help="of --capacity, instead of --rate")
    run.add_argument("--capacity", type=float, help="requests per second, measured before")
    run.add_argument("--cv2", type=float, default=1.0, help="squared coefficient of variation of gamma gaps")
    run.add_argument("--trace", type=Path, help="CSV with a column arrival_s")
    run.add_argument("--phases", type=_phases, default=(), help="of a step: rate:seconds,rate:seconds")
    run.add_argument("--seconds", type=float, default=10.0)
    run.add_argument(
        "--deadline-ms", type=_span, default=(50.0, 50.0), help="50, or 5-200 drawn log-uniformly"
    )
    run.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    _add_common(run)

    serve = commands.add_parser("serve", help="beside a bare endpoint, request by request")
    serve.add_argument("--repeats", type=int, default=6, help="pairs of blocks (default: 6)")
    serve.add_argument("--block", type=int, default=200, help="requests in a block (default: 200)")
    overload = commands.add_parser("overload", help="50 ms deadlines at multiples of the capacity")
    overload.add_argument("--multiples", type=_numbers, default=list(bench_overload.MULTIPLES))
    overload.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    overload.add_argument("--seconds", type=float, default=10.0, help="length of a run (default: 10)")
    check = commands.add_parser("accuracy", help="every image once, without hurry")
    check.add_argument("--url", help="of a running server (default: start one)")
    check.add_argument("--stream", action="store_true", help="record every rung and compare neighbours")
    check.add_argument("--deadline-ms", type=float, default=10_000.0)
    check.add_argument("--concurrency", type=int, default=4)
    check.add_argument("--answers", type=Path, help="write the answers image by image here (.npz)")
    _add_common(replay_command.add_command(commands, _span))
    for each in (serve, overload, check):
        _add_common(each)
        _add_server(each)
    engines_command.add_command(commands)
    simulator.add_commands(commands)
    return parser


def _images(options: argparse.Namespace) -> LabelledImages:
    images = read_images(options.images or default_images(), options.split)
    return images.as_png() if options.png else images


def _cpu_list(text: str) -> tuple[int, ...]:
    """`0,2-3` as a tuple."""
    spans = (part.partition("-") for part in text.split(","))
    return tuple(cpu for low, _, high in spans for cpu in range(int(low), int(high or low) + 1))


def _bench(options: argparse.Namespace) -> Bench:
    sender = None if options.sender_cpu < 0 else options.sender_cpu
    metered = set(_cpu_list(options.server_cpus)) | (set() if sender is None else {sender})
    return Bench(sender, tuple(sorted(metered)))


def _rig(options: argparse.Namespace, folder: Path) -> Rig:
    settings = ServerSettings(
        options.models_dir, folder / "state", options.server_cpus, options.workers, options.backend
    )
    return Rig(
        _images(options),
        _bench(options),
        settings,
        folder,
        options.model,
        probe_s=options.probe_seconds,
        probes=options.probes,
        say=narrator(),
    )


_TITLES = {
    "run": "Load over HTTP",
    "serve": "Beside a bare endpoint, request by request",
    "overload": "50 ms deadlines under overload, over HTTP",
    "accuracy": "Accuracy over HTTP",
    "replay": "Replay into an engine process, without HTTP",
    "engines": "Engines, stage by stage, in process",
    "record": "Recording",
    "schedule": "Scheduling, simulated",
}

# Each command gives its report, its figures as JSON values, and whether they may be used.
Outcome = tuple[str, dict[str, Any], bool]


def _run(options: argparse.Namespace, folder: Path) -> Outcome:
    rate, name = options.rate, f"{options.arrivals}"
    if options.multiple is not None:
        if options.capacity is None:
            raise ValueError("--multiple needs --capacity")
        rate, name = options.multiple * options.capacity, f"{options.multiple:g}×, {name}"
    if rate is None and options.arrivals != "step":
        raise ValueError("give --rate, or --multiple and --capacity")
    low, high = options.deadline_ms
    offer = bench_run.Offer(
        *(options.arrivals, rate or 0.0, options.seconds, low, high),
        *(options.cv2, options.trace, options.phases),
    )
    path = "/classify/stream" if options.stream else "/classify"
    query = {"model": options.model} if options.model else {}
    target = Target.parse(options.url, path, query)
    figures = bench_run.bench_run(
        target, _images(options), offer, options.seeds, _bench(options), folder, name
    )
    return bench_run.render(figures), figures.to_json(), figures.sound


def _serve(options: argparse.Namespace, folder: Path) -> Outcome:
    figures = bench_serve.bench_serve(_rig(options, folder), options.repeats, options.block)
    return bench_serve.render(figures), figures.to_json(), figures.failures == 0


def _overload(options: argparse.Namespace, folder: Path) -> Outcome:
    rig = _rig(options, folder)
    seen = open_hindsight(options.models_dir, options.model or rig.ladder().name)
    figures = bench_overload.bench_overload(rig, options.seeds, options.seconds, options.multiples, seen)
    text = render_overload(figures) + f"\n\nVoid runs repeated in all: {rig.repeats}."
    if options.out is not None:
        from loadtest.plots import draw_overload  # noqa: PLC0415  (matplotlib is wanted only here)

        draw_overload(figures, options.out.with_suffix(".png"))
        text = f"![Shares and stage mix against load]({options.out.with_suffix('.png').name})\n\n{text}"
    return text, figures.to_json(), not figures.void


def _engines(options: argparse.Namespace, _folder: Path) -> Outcome:
    return engines_command.run(options, _cpu_list(options.cpus))


def _accuracy(options: argparse.Namespace, folder: Path) -> Outcome:
    rig = _rig(options, folder)
    with rig.server() if options.url is None else nullcontext(Server.at(options.url)) as server:
        model = read_model(server, options.model)
        target = rig.target(server, "/classify/stream" if options.stream else "/classify")
        run = accuracy.classify_all(
            *(target, rig.images, model.stage_names),
            deadline_ms=options.deadline_ms,
            concurrency=options.concurrency,
        )
    rungs = accuracy.rung_answers(run, model.stage_names) if options.stream else None
    run.save(folder / "accuracy.npz")
    accuracy.save_answers(options.answers or folder / "answers.npz", run, rig.images, rungs)
    figures = accuracy.judge(run, rungs)
    return accuracy.render(figures), figures.to_json(), figures.sound


def _replay(options: argparse.Namespace, folder: Path) -> Outcome:
    sender = None if options.sender_cpu < 0 else options.sender_cpu
    return replay_command.run(options, folder, _images(options), _cpu_list(options.server_cpus), sender)


_COMMANDS: dict[str, Callable[[argparse.Namespace, Path], Outcome]] = {
    "run": _run,
    "serve": _serve,
    "overload": _overload,
    "accuracy": _accuracy,
    "replay": _replay,
    "engines": _engines,
    "record": simulator.run_record,
    "schedule": simulator.run_schedule,
}


@contextmanager
def _permission(options: argparse.Namespace) -> Iterator[None]:
    """The lock, for everything that claims a speed by the clock on the wall."""
    simulated = options.command == "schedule" and options.charge != "measured"
    free = options.function_only or options.command == "accuracy" or simulated
    with nullcontext() if free else alone(f"python -m loadtest {options.command}"):
        yield


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """At SIGTERM the servers that were started are stopped, as at Ctrl-C."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _publish(
    options: argparse.Namespace, report: str, figures: dict[str, Any], machine: dict[str, Any]
) -> None:
    print(report)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(report + "\n")
        document = {"machine": machine, "function_only": options.function_only, **figures}
        options.out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")


def _where(options: argparse.Namespace) -> str:
    """The cores and images of a load; the others tell their own."""
    if options.command in {"engines", "record", "schedule"}:
        return ""
    return (
        f"Sender on cpu {options.sender_cpu}, servers on cpu {options.server_cpus}; images of the split "
        f"{options.split}, {'encoded anew as PNG' if options.png else 'sent as they are stored'}."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; 0 where its figures may be used, 1 where they are void, 2 where it could not be run."""
    options = _parser().parse_args(arguments)
    if options.out is not None and not options.out.suffix:
        options.out = options.out / f"{options.command}.md"
    folder = options.raw or RUNS / time.strftime("%Y%m%d-%H%M%S")
    machine = describe_machine()
    try:
        with _ending_in_order(), _permission(options):
            text, figures, usable = _COMMANDS[options.command](options, folder)
    except _KNOWN_FAILURES as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    marks = [_NOT_A_MEASUREMENT, ""] if options.function_only else []
    report = "\n".join(
        [f"# {_TITLES[options.command]}", "", *marks, machine_line(machine), _where(options), "", text]
    )
    _publish(options, report, figures, machine)
    return 0 if usable else 1
