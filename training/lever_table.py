"""`python -m training levers`: train the rows of the lever table, seed by seed, and write the table from what is there.

A finished run is not trained again and a stopped one goes on, so that the command may be given as often as one likes.
Rows without a run are listed as not run. The test accuracy is that of the last epoch; nothing is chosen on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from model_repo.fractalnet import stages
from training.busy import busy_machine
from training.checkpoint import CheckpointError
from training.data import load
from training.insight.ladders import draw_ladders
from training.insight.record import read_log
from training.levers import EPOCHS, LEVERS, passes, recipe_of, title_of
from training.parts import Dataset
from training.publish import Trained
from training.recipe import Recipe
from training.run import Run, RunOptions
from training.significance import Right, mcnemar
from training.stopping import stop_at_signals

STAGES = ("column1", "column2", "column3", "joined2", "full")
PROMISING = "base,nested,tied,sandwich"
LEAST_P = 1e-9
PLAIN = {"plain5": "column1", "plain10": "column2", "plain20": "column3"}
"""Plain nets, and the column of the same topology."""


@dataclass(frozen=True)
class Result:
    """One finished run of a row: test accuracy, multiply-adds and which test images were right, by stage; seconds."""

    seed: int
    accuracy: dict[str, float]
    right: dict[str, Right]
    multiply_adds: dict[str, int]
    parts: dict[str, int]
    seconds: float
    precision: str


def train_rows(
    rows: Sequence[str], seeds: Sequence[int], epochs: int, data: Dataset, options: RunOptions
) -> None:
    """Train every row with every seed in a folder of its own below `options.folder`; all rows of a seed first.

    Raises:
        StopRequestedError: a signal came or the minutes of one run are over; the run has a checkpoint.
        CheckpointError: a folder holds a run of another recipe.
    """
    stop = stop_at_signals()
    for seed in seeds:
        for row in rows:
            folder = options.folder / f"{row}-s{seed}"
            recipe = recipe_of(row, epochs)
            if _finished(folder, recipe, seed):
                continue
            print(f"{row}, seed {seed}: {title_of(row)}", flush=True)
            how = RunOptions(folder, options.minutes, options.evaluate_every, options.precision)
            run = Run(recipe, data, seed, how)
            run.train(stop)
            run.finish()


def _finished(folder: Path, recipe: Recipe, seed: int) -> bool:
    path = folder / "trained.pt"
    if not path.exists():
        return False
    content = Trained(path).content
    if Recipe.from_dict(content["recipe"]) != recipe or content["seed"] != seed:
        raise CheckpointError(f"{path} is of another recipe: give its folder another name, or other --epochs")
    return True


def results(folder: Path, row: str, epochs: int) -> list[Result]:
    """The finished runs of a row, by seed."""
    found = []
    for path in sorted(folder.glob(f"{row}-s*/trained.pt")):
        trained = Trained(path)
        if Recipe.from_dict(trained.content["recipe"]) == recipe_of(row, epochs):
            found.append(_result(trained, path.parent))
    return found


def _result(trained: Trained, folder: Path) -> Result:
    return Result(
        seed=trained.content["seed"],
        accuracy={name: trained.accuracy(name, "test") for name in trained.stages},
        right={
            name: trained.logits(name, "test").argmax(1) == trained.labels("test") for name in trained.stages
        },
        multiply_adds={name: spent.multiply_adds for name, spent in trained.costs.items()},
        parts=dict(trained.content["part_sizes"]),
        seconds=read_log(folder).seconds,
        precision="bf16" if trained.content["bf16"] else "float32",
    )


# --- the table ------------------------------------------------------------------------------------------------------


def table(folder: Path, data: str, epochs: int, command: str) -> str:
    """Markdown: every row that has runs and every lever that has none; plain nets beside columns; image passes."""
    combined = sorted({p.parent.name.rsplit("-s", 1)[0] for p in folder.glob("*+*-s*/trained.pt")})
    rows = [*LEVERS, *combined]
    found = {row: results(folder, row, epochs) for row in rows}
    nets = [row for row in rows if row not in PLAIN]
    return "\n".join(
        [
            "# Columns and joined stages, lever by lever",
            "",
            f"{data}, C = 3, channels (8, 16, 32, 64, 64), {epochs} epochs, test accuracy % of the last epoch:",
            "the mean of the seeds, ± half their range. Batch norm re-estimated per stage. One lever at a time on",
            f"`base`; rows with a `+` pull several. {_sizes(found)}Minutes are by the clock, also of runs that",
            f"had to share their cores. Command: `{command}`.",
            "",
            "| row | what | seeds | " + " | ".join(STAGES) + " | minutes a run | precision |",
            "|---|---|---|" + "---:|" * (len(STAGES) + 1) + "---|",
            *(_row(row, found[row], STAGES) for row in nets),
            "",
            "Multiply-adds of one image: " + _costs(found) + ".",
            "",
            "## Plain nets of the same topology, trained alone",
            "",
            "Same optimiser, augmentation and epochs; under the column that has the same layers.",
            "",
            "| row | what | seeds | column1 | column2 | column3 | minutes a run | precision |",
            "|---|---|---|---:|---:|---:|---:|---|",
            *(_row(row, _as_column(found[row], PLAIN[row]), STAGES[:3]) for row in PLAIN),
            "",
            "## Columns beside plain nets",
            "",
            "Points by which a column of the row's net is above the plain net of the same layers, mean of the seeds",
            "that both have; p of McNemar's test on their test images, the seeds' together.",
            "",
            "| row | column1 | column2 | column3 |",
            "|---|---|---|---|",
            *_beside_plain([row for row in nets if found[row]], found),
            "",
            "## Image passes",
            "",
            "How often a stage sees each training image in one epoch, on average.",
            "",
            "| row | " + " | ".join(STAGES) + " |",
            "|---|" + "---:|" * len(STAGES),
            *_pass_rows([row for row in nets if found[row]], epochs),
            "",
        ]
    )


def _row(row: str, runs: list[Result], columns: Sequence[str]) -> str:
    if not runs:
        return f"| {row} | {title_of(row)} | not run |" + " |" * (len(columns) + 2)
    cells = [_spread([r.accuracy[name] for r in runs if name in r.accuracy]) for name in columns]
    minutes = sum(r.seconds for r in runs) / len(runs) / 60
    seeds = ", ".join(str(r.seed) for r in runs)
    precision = ", ".join(sorted({r.precision for r in runs}))
    return f"| {row} | {title_of(row)} | {seeds} | {' | '.join(cells)} | {minutes:.1f} | {precision} |"


def _spread(accuracies: Sequence[float]) -> str:
    if not accuracies:
        return "–"
    mean = 100 * sum(accuracies) / len(accuracies)
    half = 50 * (max(accuracies) - min(accuracies))
    return f"{mean:.2f} ± {half:.2f}" if len(accuracies) > 1 else f"{mean:.2f}"


def _as_column(runs: list[Result], column: str) -> list[Result]:
    """A plain net's only stage under the name of the column that has its layers."""
    return [
        replace(
            r,
            accuracy={column: next(iter(r.accuracy.values()))},
            right={column: next(iter(r.right.values()))},
            multiply_adds={column: next(iter(r.multiply_adds.values()))},
        )
        for r in runs
    ]


def _beside_plain(rows: Sequence[str], found: dict[str, list[Result]]) -> Iterator[str]:
    for row in rows:
        cells = [
            _difference(_as_column(found[plain], column), found[row], column)
            for plain, column in PLAIN.items()
        ]
        yield f"| {row} | " + " | ".join(cells) + " |"


def _difference(plain: list[Result], fractal: list[Result], column: str) -> str:
    pairs = [(p, f) for p in plain for f in fractal if p.seed == f.seed]
    if not pairs:
        return "–"
    points = 100 * sum(f.accuracy[column] - p.accuracy[column] for p, f in pairs) / len(pairs)
    paired = mcnemar(
        np.concatenate([p.right[column] for p, _ in pairs]),
        np.concatenate([f.right[column] for _, f in pairs]),
    )
    return f"{points:+.2f} (p {_p(paired.p)}, {len(pairs)} seed{'s' if len(pairs) > 1 else ''})"


def _p(value: float) -> str:
    return f"{value:.1g}" if value >= LEAST_P else f"< {LEAST_P:g}"


def picture(folder: Path, data: str, epochs: int) -> Figure:
    """Accuracy against multiply-adds of every row that was run, plain nets and the paper's beside."""
    found = {row: results(folder, row, epochs) for row in LEVERS}
    rows = {row: runs for row, runs in found.items() if runs and row not in PLAIN}
    columns = {row: _points(runs, STAGES[:3]) for row, runs in rows.items()}
    joined = {row: _points(runs, ("column1", *STAGES[3:])) for row, runs in rows.items()}
    plain = [point for row, name in PLAIN.items() for point in _points(_as_column(found[row], name), [name])]
    return draw_ladders(columns, joined, plain, data)


def _points(runs: list[Result], names: Sequence[str]) -> list[tuple[float, float]]:
    if not runs:
        return []
    mean = {name: 100 * sum(r.accuracy[name] for r in runs) / len(runs) for name in names}
    return sorted((runs[0].multiply_adds[name] / 1e6, mean[name]) for name in names)


def _sizes(found: dict[str, list[Result]]) -> str:
    parts = next((runs[0].parts for runs in found.values() if runs), {})
    named = ", ".join(f"{count:,} {name}" for name, count in parts.items())
    return f"Images: {named}. " if named else ""


def _costs(found: dict[str, list[Result]]) -> str:
    costs = next((runs[0].multiply_adds for row, runs in found.items() if runs and row not in PLAIN), {})
    return ", ".join(f"{n} {costs[n] / 1e6:.1f} M" for n in STAGES if n in costs) or "no row was run"


def _pass_rows(rows: Sequence[str], epochs: int) -> Iterator[str]:
    for row in rows:
        recipe = recipe_of(row, epochs)
        seen = passes(recipe, recipe.net(10, recipe.image_size))
        yield f"| {row} | " + " | ".join(f"{seen[n]:.2f}" if n in seen else "–" for n in STAGES) + " |"


# --- the command ----------------------------------------------------------------------------------------------------


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], runs: Path) -> None:
    """Add `levers` to the command line; its runs lie under `runs`/levers."""
    command = commands.add_parser("levers", help="train and tabulate what goes beyond the paper")
    command.add_argument("--data", required=True, help="as of `train`")
    command.add_argument(
        "--rows",
        default=PROMISING,
        help=f"comma between rows, + between the levers of one: {', '.join(LEVERS)} (default {PROMISING})",
    )
    command.add_argument("--seeds", default="0,1", help="comma between seeds (default 0,1)")
    command.add_argument("--epochs", type=int, default=EPOCHS, help=f"of every row (default {EPOCHS})")
    command.add_argument("--minutes", type=float, help="stop a run cleanly after so many minutes")
    command.add_argument("--precision", choices=("auto", "bf16", "float32"), default="auto")
    command.add_argument("--output", type=Path, default=Path("docs/results/columns.md"))
    command.add_argument("--table-only", action="store_true", help="train nothing, write the table")
    command.set_defaults(command=lambda options: levers(options, runs))


def levers(options: argparse.Namespace, runs: Path) -> None:
    """Train what is missing, then write the table; a stop writes it too."""
    rows = options.rows.split(",")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for row in rows:
        stages(recipe_of(row).net(10, 32))  # a misspelt row is refused before the first is trained
    folder = runs / "levers"
    command = f"python -m training levers --rows {options.rows} --seeds {options.seeds}"
    try:
        if not options.table_only:
            with busy_machine(runs / ".busy.lock"):
                data = load(options.data, 32)
                how = RunOptions(folder, options.minutes, options.epochs, options.precision)
                train_rows(rows, seeds, options.epochs, data, how)
    finally:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        name = Path(options.data).stem
        drawn = options.output.with_suffix(".png")
        picture(folder, name, options.epochs).savefig(drawn, dpi=110)
        options.output.write_text(
            table(folder, name, options.epochs, command)
            + f"\n![Accuracy against multiply-adds of columns and joined stages]({drawn.name})\n"
        )
        print(f"written: {options.output}")
