"""`python -m training report`: one HTML page with everything that a finished run can teach.

Puts the figures and tables of training.insight in order, with what a reader needs to know of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from model_repo.pooling import stage_log_probabilities
from training.insight import curves, drawing, measures
from training.insight import results as figures
from training.insight.measures import Results
from training.insight.page import Page
from training.insight.record import Log, read_log
from training.publish import Ladder, Trained


def add_command(commands: Any, runs: Path) -> None:
    """Add `report` to the subcommands of `python -m training`; runs lie in `runs`."""
    command = commands.add_parser(
        "report", help="one HTML page of a finished run: curves, drawings, calibration"
    )
    command.set_defaults(command=partial(_command, runs))
    command.add_argument("run", help="the run's name under runs/")
    command.add_argument(
        "--plain",
        nargs="*",
        default=[],
        metavar="RUN",
        help="runs of plain nets to stand beside it (Figure 3)",
    )
    command.add_argument(
        "--ladder", choices=get_args(Ladder), default="auto", help="the rungs that are judged"
    )
    command.add_argument("--output", type=Path, help="default: report.html in the run's folder")


def _command(runs: Path, options: Any) -> None:
    path = options.output or runs / options.run / "report.html"
    folders = [runs / name for name in options.plain]
    path.write_text(report(runs / options.run, folders, options.ladder), encoding="utf-8")
    print(f"report: {path}")


def report(folder: Path, plain: Sequence[Path] = (), ladder: Ladder = "auto") -> str:
    """The page of the run in `folder`, as HTML.

    Raises:
        CheckpointError: the run has no trained.pt.
        DataError: a log cannot be read.
        ValueError: there are too few images to calibrate with.
    """
    trained, log = Trained(folder / "trained.pt"), read_log(folder)
    found = measures.results(trained, ladder)
    page = Page(folder.name, _subtitle(trained, log, found))
    _stages(page, found)
    _ladder(page, found)
    _frontier(page, trained, found)
    _reliability(page, trained, found)
    _confusion(page, trained, found)
    _curves(page, log, [read_log(one) for one in plain])
    _drawings(page, trained)
    return page.html()


def _subtitle(trained: Trained, log: Log, found: Results) -> str:
    content, config = trained.content, trained.config
    recipe = content["recipe"]
    epochs = f"{recipe['epochs']} epochs in {log.seconds / 60:.0f} minutes"
    if earlier := content.get("start"):
        epochs += ", from the weights of " + ", then ".join(
            f"{r['recipe']} ({r['epochs']} epochs)" for r in earlier
        )
    return (
        f"{config.family} net, C = {config.columns}, channels {', '.join(map(str, config.channels))}, on "
        f"{content['data']}. Recipe {recipe['name']}: {epochs}, seed {content['seed']}, "
        f"{'bf16' if content['bf16'] else 'float32'}, code {content['code_commit']}. The last epoch is measured, on "
        f"{len(found.labels):,} test images that no choice was made on."
    )


def _stages(page: Page, found: Results) -> None:
    page.section(
        "Every stage alone",
        "From cheap to dear; the rungs of the ladder stand out. NLL and ECE (expected calibration error, 15 bins) "
        "before and after the stage's temperature, which was fitted on the calibration part. AURC is the area under "
        "the risk-coverage curve: how well confidence orders right and wrong answers, lower is better.",
    )
    head = (
        "stage",
        "depth",
        "parameters",
        "M multiply-adds",
        "accuracy %",
        "T",
        "NLL before",
        "NLL",
        "ECE before %",
        "ECE %",
        "AURC",
    )
    rows = [
        (
            row.name,
            str(row.depth),
            f"{row.cost.parameters:,}",
            f"{row.cost.multiply_adds / 1e6:.1f}",
            f"{100 * row.calibrated.accuracy:.2f}",
            f"{row.temperature:.2f}",
            f"{row.raw.nll:.4f}",
            f"{row.calibrated.nll:.4f}",
            f"{100 * row.raw.ece:.2f}",
            f"{100 * row.calibrated.ece:.2f}",
            f"{row.calibrated.aurc:.4f}",
        )
        for row in found.stages
    ]
    page.table(head, rows, [i for i, row in enumerate(found.stages) if row.rung])


def _ladder(page: Page, found: Results) -> None:
    page.section(
        "The ladder",
        "Every prefix of the ladder as it is served, beside the deepest of its rungs alone. Rungs are pooled only "
        "where that was better by more than chance on the calibration part.",
    )
    rows = [
        (
            ", ".join(row.rungs),
            "yes" if row.used else "no",
            f"{100 * row.pooled.accuracy:.2f}",
            f"{100 * row.deepest.accuracy:.2f}",
            f"{row.pooled.nll:.4f}",
            f"{row.deepest.nll:.4f}",
            f"{100 * row.pooled.ece:.2f}",
            "yes" if row.holds else "NO",
        )
        for row in found.prefixes
    ]
    head = (
        "finished rungs",
        "pooled",
        "accuracy %",
        "deepest alone %",
        "NLL",
        "deepest alone",
        "ECE %",
        "no worse than the deepest",
    )
    page.table(head, rows)
    if not found.neighbours:
        return
    page.text(
        "Each rung alone against the one before it, on the same test images (McNemar's exact test, two-sided)."
    )
    compared = [
        (
            f"{row.after} after {row.before}",
            str(row.found.gained),
            str(row.found.lost),
            f"{row.found.p:.2g}",
            row.found.verdict,
        )
        for row in found.neighbours
    ]
    page.table(("rungs", "only the later right", "only the earlier right", "p", "verdict at 0.05"), compared)


def _frontier(page: Page, trained: Trained, found: Results) -> None:
    page.section(
        "Cost and accuracy",
        "Large points are rungs. Run rung by rung the ladder costs the sum of its rungs, since stages share no work.",
    )
    page.figure(figures.draw_frontier(found, trained.content["data"]), "accuracy against multiply-adds")


def _reliability(page: Page, trained: Trained, found: Results) -> None:
    page.section(
        "Reliability",
        "A calibrated stage lies on the diagonal. The area of a point grows with its images; bins with fewer than a "
        "thousandth of all are left out.",
    )
    probabilities = []
    for row in found.stages:
        logits = trained.logits(row.name, "test")
        before, after = (stage_log_probabilities(logits, t) for t in (1.0, row.temperature))
        probabilities.append((np.exp(before), np.exp(after)))
    page.figure(
        figures.draw_reliability(found.stages, probabilities, found.labels), "reliability of every stage"
    )


def _confusion(page: Page, trained: Trained, found: Results) -> None:
    classes = trained.content["classes"]
    page.section("Confusion", "Of the answer that all rungs together give.")
    page.figure(figures.draw_confusion(found, classes), "confusion matrix")
    pairs = figures.most_confused(found, classes)
    if pairs:
        page.table(("truth", "answer", "images"), [(a, b, str(n)) for a, b, n in pairs])


def _curves(page: Page, log: Log, plain: Sequence[Log]) -> None:
    page.section("Training", "The running loss is that of augmented images with dropout and drop-path on.")
    page.figure(curves.draw_losses(log), "losses by kind of draw and validation accuracy by stage")
    figure_3 = curves.draw_figure_3(log, plain)
    if figure_3 is None:
        page.text("The log of this run has no losses of single stages.")
        return
    page.text(
        "Every stage on its own, with batch statistics of its own, no augmentation (the paper's Figure 3): do deep "
        "columns learn when shallow ones have?"
    )
    page.figure(figure_3, "losses of stages, and of plain nets where given")


def _drawings(page: Page, trained: Trained) -> None:
    page.section(
        "The net",
        "Boxes are layers, bars are joins (their mean), a block's last bar pools; numbers are channels. A block grows "
        "by the rule that f_C+1 is two f_C in a row, joined with one more layer beside them.",
    )
    page.figure(drawing.draw_net(trained.config), "the network")
    drop = trained.content["recipe"]["local_p"]
    sampled = drawing.sampled_subnetworks(trained.config, drop, torch.Generator().manual_seed(3))
    if sampled:
        page.text("Subnetworks as drop-path draws them, one for a whole mini-batch (the paper's Figure 2).")
        page.figure(drawing.draw_subnetworks(trained.config, sampled), "subnetworks")
