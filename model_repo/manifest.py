"""The schema of manifest.json: the contract between training and the server.

Knows what a served model must say of itself and checks that the parts agree. Imports no torch, opens no file.
The committed JSON Schema (manifest.schema.json) is generated from here.
"""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
StageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Positive = Annotated[float, Field(gt=0.0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputRule(_Frozen):
    """What the graphs take and how an image of any size becomes it."""

    height: int = Field(ge=1, le=4096, description="Height of the graphs' input in pixels.")
    width: int = Field(ge=1, le=4096, description="Width of the graphs' input in pixels.")
    resize: Literal["cover", "stretch"] = Field(
        "cover",
        description="cover: scale until the image covers the input, crop the centre; stretch: scale both sides.",
    )


class Stage(_Frozen):
    """One rung of the ladder: one ONNX graph, uint8 [n, height, width, 3] -> float32 logits [n, classes]."""

    name: StageName = Field(description="column1 … columnC, joined2 …, full; any name for foreign graphs.")
    file: FileName = Field(description="The ONNX file beside the manifest.")
    sha256: Sha256 = Field(description="Hash of that file.")
    depth: int | None = Field(None, ge=1, description="Layers on the longest path; null for foreign graphs.")
    parameters: int | None = Field(None, ge=0, description="Parameters that the stage uses, head included.")
    multiply_adds: int | None = Field(None, ge=0, description="Multiply-adds of one image.")
    test_accuracy: Fraction | None = Field(None, description="Accuracy of this stage alone on the test set.")
    temperature: Positive = Field(1.0, description="Divides the stage's logits before pooling.")
    precision: Precision = Field("fp32", description="Precision that the graph computes in, as published.")
    precision_accuracy: dict[Precision, Fraction] = Field(
        default_factory=dict,
        description="Accuracy of this stage alone on the test set by precision, where more than one was measured.",
    )


class Pool(_Frozen):
    """How the outputs of one set of finished rungs become one answer.

    log p ∝ Σ weights[i]·log softmax(logits_i / stage temperature_i), divided by `temperature`.
    """

    weights: tuple[Annotated[float, Field(ge=0.0)], ...] = Field(
        description="One per rung of the set, in ladder order."
    )
    temperature: Positive = Field(1.0, description="Divides the pooled log-probabilities.")
    accuracy: Fraction = Field(description="Accuracy of the pooled answer on the calibration data.")


class Provenance(_Frozen):
    """Where the weights come from."""

    data: str = Field(description="Data set and split sizes.")
    recipe: str = Field(description="Name of the training recipe.")
    seed: int
    epochs: int = Field(ge=0)
    code_commit: str = Field(description="Commit of the code that trained, or 'unknown'.")
    date: str = Field(description="Day of the export, ISO 8601.")
    test_errors: dict[str, Fraction] = Field(
        description="Final test error of every stage of the net, published or not, as a fraction."
    )


class Manifest(_Frozen):
    """manifest.json of one version of one model."""

    schema_version: Literal[1] = 1
    name: Name
    version: Version
    description: str = ""
    input: InputRule
    labels: tuple[str, ...] = Field(min_length=2, description="Class names by index.")
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=16, description="The rungs, in order of cost.")
    pools: dict[str, Pool] = Field(
        description="One per set of finished rungs; the key joins their names by commas in ladder order."
    )
    gain_bin_edges: tuple[Fraction, ...] = Field(
        min_length=2,
        description="Ascending from 0 to 1: edges of the bins of the pooled answer's confidence.",
    )
    gains: dict[str, dict[StageName, tuple[float, ...]]] = Field(
        description="gains[set][stage][bin]: expected gain in accuracy when `stage` is added to the finished `set`, "
        "for an answer whose confidence lies in the bin."
    )
    provenance: Provenance

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stage names repeat: {names}")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels repeat")
        if list(self.gain_bin_edges) != sorted(set(self.gain_bin_edges)):
            raise ValueError("gain_bin_edges must ascend")
        if self.gain_bin_edges[0] != 0.0 or self.gain_bin_edges[-1] != 1.0:
            raise ValueError("gain_bin_edges must run from 0 to 1")
        self._check_pools(names)
        self._check_gains(names)
        return self

    def _check_pools(self, names: list[str]) -> None:
        if set(self.pools) != set(rung_sets(names)):
            raise ValueError(f"pools must hold every set of rungs of {names}, and no other")
        for key, pool in self.pools.items():
            if len(pool.weights) != key.count(",") + 1 or not any(pool.weights):
                raise ValueError(f"pool {key!r} needs one weight per rung, one of them above 0")

    def _check_gains(self, names: list[str]) -> None:
        bins = len(self.gain_bin_edges) - 1
        for key in rung_sets(names):
            missing = set(names) - set(key.split(","))
            if set(self.gains.get(key, {})) != missing:
                raise ValueError(f"gains of {key!r} must name exactly the rungs not in it: {sorted(missing)}")
            for stage, values in self.gains.get(key, {}).items():
                if len(values) != bins:
                    raise ValueError(f"gains[{key!r}][{stage!r}] has {len(values)} values for {bins} bins")

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The rungs' names in ladder order."""
        return tuple(stage.name for stage in self.stages)


def rung_sets(names: list[str] | tuple[str, ...]) -> list[str]:
    """Keys of all non-empty sets of rungs, smallest first: names joined by commas in ladder order."""
    return [",".join(s) for size in range(1, len(names) + 1) for s in combinations(names, size)]


def json_schema() -> dict[str, object]:
    """The JSON Schema of manifest.json, draft 2020-12."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}
