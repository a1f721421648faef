"""From a finished run to a published model: choose the ladder, calibrate, export, publish.

The ladder is chosen on validation data, calibrated on calibration data, and the test set only reports.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model_repo.calibration import Calibration, accuracy, calibrate, measure_stage, nll
from model_repo.export import StageGraph, TrainedStage, export_stage, sample
from model_repo.fractalnet import Cost, FractalConfig, FractalNet, cost, stage_depth, stages
from model_repo.manifest import InputRule, Manifest, Precision, Provenance, Stage, rung_sets
from model_repo.pooling import Floats, pool, stage_log_probabilities
from model_repo.repository import Repository
from training import checkpoint

Ladder = Literal["auto", "columns", "nested", "all"]

MARGIN = 0.002
"""A rung of the `auto` ladder must beat every cheaper one on validation by this much: half a standard error or so."""

PARITY_IMAGES = 1_000


class Trained:
    """A run's trained.pt: the net, its stages' statistics, and every stage's outputs on the held-out parts.

    Raises CheckpointError if the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.content: dict[str, Any] = checkpoint.load(path)
        self.config = FractalConfig.from_dict(self.content["config"])
        self.net = FractalNet(self.config)
        self.net.load_state_dict(self.content["net"])
        self.stages = stages(self.config)
        self.costs: dict[str, Cost] = {name: cost(self.net, s) for name, s in self.stages.items()}

    @property
    def earlier(self) -> list[dict[str, Any]]:
        """Recipe, epochs and seed of every run whose weights this one started from, oldest first."""
        return list(self.content.get("start", []))

    def logits(self, stage: str, part: str) -> Floats:
        """float32 [n, classes] of one stage on `validation`, `calibration` or `test`."""
        return self.content["logits"][stage][part].numpy()  # type: ignore[no-any-return]

    def labels(self, part: str) -> NDArray[np.int64]:
        """int64 [n] of one part."""
        return self.content["labels"][part].numpy()  # type: ignore[no-any-return]

    def accuracy(self, stage: str, part: str) -> float:
        """Accuracy of one stage alone on one part."""
        return accuracy(self.logits(stage, part), self.labels(part))


def choose_ladder(trained: Trained, ladder: Ladder) -> list[str]:
    """Names of the rungs in order of cost.

    auto: from cheap to dear, every stage that beats all cheaper ones on validation by MARGIN; columns: the paper's,
    column 1 … C and full; nested: f_1 … f_C; all: everything.
    """
    by_cost = sorted(trained.stages, key=lambda name: (trained.costs[name].multiply_adds, name))
    if ladder == "all":
        return by_cost
    if ladder == "columns":
        return [n for n in by_cost if not n.startswith("joined")]
    if ladder == "nested":
        return [n for n in by_cost if n in ("column1", "full") or n.startswith("joined")]
    chosen, best = [], -1.0
    for name in by_cost:
        reached = trained.accuracy(name, "validation")
        if reached >= best + MARGIN:
            chosen.append(name)
            best = reached
    return chosen


@dataclass(frozen=True)
class Target:
    """Where a model goes: the repository, its name and version, and what is said of it."""

    models_dir: Path
    name: str
    version: str
    description: str = ""
    replace: bool = False


def publish(trained: Trained, ladder: Ladder, images: NDArray[np.uint8], target: Target) -> Manifest:
    """Export the ladder's stages, check them on `images` (uint8 NHWC), calibrate, and publish in one step.

    Raises:
        ParityError: a graph's answers differ from torch's.
        VersionExists: the version is there already and `target.replace` is not set.
    """
    names = choose_ladder(trained, ladder)
    graphs = [export_graph(trained, name, sample(images, PARITY_IMAGES)) for name in names]
    return publish_graphs(trained, graphs, target)


def publish_graphs(
    trained: Trained,
    graphs: list[StageGraph],
    target: Target,
    precision: Precision = "fp32",
    accuracies: Mapping[str, Mapping[str, float]] | None = None,
) -> Manifest:
    """Calibrate on the logits that `trained` gives for these graphs, and publish them.

    `accuracies`: by stage and precision, on test images, where more than the published one were measured.
    """
    names = [graph.name for graph in graphs]
    calibration = calibrate(
        {n: trained.logits(n, "calibration") for n in names}, trained.labels("calibration")
    )
    manifest = _manifest(trained, graphs, calibration, target)
    in_precision = tuple(
        stage.model_copy(
            update={
                "precision": precision,
                "precision_accuracy": dict((accuracies or {}).get(stage.name, {})),
            }
        )
        for stage in manifest.stages
    )
    manifest = manifest.model_copy(update={"stages": in_precision})
    files: dict[str, bytes | Path] = {f"{graph.name}.onnx": graph.onnx for graph in graphs}
    files["labels.txt"] = ("\n".join(manifest.labels) + "\n").encode()
    files["README.md"] = model_card(trained, manifest, graphs).encode()
    Repository(target.models_dir).publish(manifest, files, replace=target.replace)
    return manifest


def export_graph(trained: Trained, name: str, images: NDArray[np.uint8]) -> StageGraph:
    """One stage as a graph, checked on `images`. Raises ParityError."""
    content = trained.content
    statistics = content["statistics"][name]
    stage = TrainedStage(name, trained.net, trained.stages[name], statistics, content["mean"], content["std"])
    graph = export_stage(stage, images)
    print(
        f"{name}: {len(graph.onnx) / 1e6:.2f} MB, parity with torch {graph.parity:.1e} on {len(images)} images"
    )
    return graph


def _manifest(
    trained: Trained, graphs: list[StageGraph], calibration: Calibration, target: Target
) -> Manifest:
    config = trained.config
    return Manifest(
        name=target.name,
        version=target.version,
        description=target.description,
        input=InputRule(height=config.input_size, width=config.input_size, resize="cover"),
        labels=tuple(trained.content["classes"]),
        stages=tuple(_stage(trained, graph, calibration.temperatures[graph.name]) for graph in graphs),
        pools=calibration.pools,
        gain_bin_edges=calibration.gain_bin_edges,
        gains=calibration.gains,
        provenance=_provenance(trained),
    )


def _stage(trained: Trained, graph: StageGraph, temperature: float) -> Stage:
    return Stage(
        name=graph.name,
        file=f"{graph.name}.onnx",
        sha256=graph.sha256,
        depth=stage_depth(trained.config, graph.name),
        parameters=trained.costs[graph.name].parameters,
        multiply_adds=trained.costs[graph.name].multiply_adds,
        test_accuracy=trained.accuracy(graph.name, "test"),
        temperature=round(temperature, 4),
    )


def _provenance(trained: Trained) -> Provenance:
    content = trained.content
    sizes = ", ".join(f"{count} {part}" for part, count in content["part_sizes"].items())
    return Provenance(
        data=f"{content['data']}: {sizes}",
        recipe=", then ".join([*(run["recipe"] for run in trained.earlier), content["recipe"]["name"]]),
        seed=content["seed"],
        epochs=sum(run["epochs"] for run in trained.earlier) + content["recipe"]["epochs"],
        code_commit=content["code_commit"],
        date=dt.datetime.now(dt.UTC).date().isoformat(),
        test_errors={name: round(1 - trained.accuracy(name, "test"), 6) for name in trained.stages},
    )


# --- the model card -------------------------------------------------------------------------------------------------


def model_card(trained: Trained, manifest: Manifest, graphs: list[StageGraph]) -> str:
    """Markdown that states every stage of the net, published or not, and every set of rungs."""
    recipe, p = trained.content["recipe"], manifest.provenance
    draws = "tied" if recipe["tied"] else ", ".join(f"{k} {v:g}" for k, v in recipe["draws"].items())
    config = trained.config
    lines = [
        f"# {manifest.name}, version {manifest.version}",
        "",
        manifest.description,
        "",
        f"FractalNet, C = {config.columns}, {config.blocks} blocks, channels {config.channels}.",
        f"Data: {p.data}. Recipe `{p.recipe}`: {p.epochs} epochs, draws {draws}, seed {p.seed}.",
        *_restart_lines(trained),
        f"Code {p.code_commit}, exported {p.date}.",
        "Last epoch, no choice made on the test set: rungs were chosen on validation, pools fitted on calibration.",
        "",
        "## Every stage of the net, alone",
        "",
        "| Stage | published | depth | parameters | multiply-adds | validation % | test % |",
        "|---|---|---:|---:|---:|---:|---:|",
        *_stage_rows(trained, manifest),
        "",
        "## Every rung alone, calibrated, on the test set",
        "",
        "NLL and ECE (expected calibration error, 15 bins) before and after the temperature; AURC is the area under",
        "the risk-coverage curve.",
        "",
        "| Rung | temperature | accuracy % | NLL before | NLL | ECE before | ECE | AURC |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *_rung_rows(trained, manifest),
        "",
        "## Every set of finished rungs, pooled",
        "",
        "Accuracy on calibration data is cross-fitted; weights are shares of the rungs' log-probabilities.",
        "",
        "| Rungs | weights | calibration % | test % | test NLL | NLL of the deepest alone |",
        "|---|---|---:|---:|---:|---:|",
        *_pool_rows(trained, manifest),
        "",
        "Largest difference of a probability between graph and torch: "
        + ", ".join(f"{g.name} {g.parity:.1e}" for g in graphs)
        + ".",
        "",
        *_precision_lines(manifest),
    ]
    return "\n".join(lines)


def _restart_lines(trained: Trained) -> list[str]:
    """How the epochs fall on the runs, where the last one started from the weights of others."""
    recipe = trained.content["recipe"]
    last = {"recipe": recipe["name"], "epochs": recipe["epochs"], "seed": trained.content["seed"]}
    runs = [*trained.earlier, last]
    told = [f"`{run['recipe']}` {run['epochs']} epochs, seed {run['seed']}" for run in runs]
    return (
        ["In warm restarts, each from the weights of the one before: " + "; ".join(told) + "."]
        if told[1:]
        else []
    )


def _precision_lines(manifest: Manifest) -> list[str]:
    """What each precision reaches on the test set, where more than one was measured."""
    measured = [stage for stage in manifest.stages if stage.precision_accuracy]
    if not measured:
        return []
    return [
        f"Published in {measured[0].precision}; the difference above is that of the fp32 graphs. On the test set:",
        "",
        *(
            f"- {stage.name}: "
            + ", ".join(f"{p} {100 * a:.2f} %" for p, a in stage.precision_accuracy.items())
            for stage in measured
        ),
        "",
    ]


def _stage_rows(trained: Trained, manifest: Manifest) -> list[str]:
    rows = []
    for name in sorted(trained.stages, key=lambda n: trained.costs[n].multiply_adds):
        spent = trained.costs[name]
        rows.append(
            f"| {name} | {'yes' if name in manifest.stage_names else 'no'} | {stage_depth(trained.config, name)} "
            f"| {spent.parameters:,} | {spent.multiply_adds / 1e6:.1f} M "
            f"| {100 * trained.accuracy(name, 'validation'):.2f} | {100 * trained.accuracy(name, 'test'):.2f} |"
        )
    return rows


def _rung_rows(trained: Trained, manifest: Manifest) -> list[str]:
    rows = []
    for stage in manifest.stages:
        raw, calibrated = (
            measure_stage(trained.logits(stage.name, "test"), trained.labels("test"), temperature)
            for temperature in (1.0, stage.temperature)
        )
        rows.append(
            f"| {stage.name} | {stage.temperature:.3f} | {100 * calibrated.accuracy:.2f} | {raw.nll:.4f} "
            f"| {calibrated.nll:.4f} | {raw.ece:.4f} | {calibrated.ece:.4f} | {calibrated.aurc:.4f} |"
        )
    return rows


def _pool_rows(trained: Trained, manifest: Manifest) -> list[str]:
    labels = trained.labels("test")
    temperatures = {stage.name: stage.temperature for stage in manifest.stages}
    logp = {n: stage_log_probabilities(trained.logits(n, "test"), t) for n, t in temperatures.items()}
    rows = []
    for key in rung_sets(manifest.stage_names):
        p = manifest.pools[key]
        pooled = pool([logp[n] for n in key.split(",")], p.weights, p.temperature)
        deepest: Floats = np.exp(logp[key.split(",")[-1]])
        shares = " ".join(f"{w:.2f}" for w in p.weights)
        rows.append(
            f"| {key.replace(',', ', ')} | {shares} | {100 * p.accuracy:.2f} | {100 * accuracy(pooled, labels):.2f} "
            f"| {nll(pooled, labels):.4f} | {nll(deepest, labels):.4f} |"
        )
    return rows


def next_version(models_dir: Path, name: str) -> str:
    """The number after the newest published version."""
    versions = Repository(models_dir).versions(name)
    return str(int(versions[-1]) + 1) if versions else "1"
