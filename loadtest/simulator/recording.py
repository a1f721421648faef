"""A recording of one published model on one machine: what it answers to every test image, and how long it takes.

Knows the file (<model>-<version>.npz with a .json header beside it) and its arrays; must not know how they were
measured, nor what a schedule is. A set of rungs is a bit mask, bit k for rung k, as in the policy.

    RecordingError: a recording is missing, damaged, or of another model; one line that says what to do.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_repo.repository import PublishedModel

FOLDER = Path(__file__).resolve().parents[1] / "recordings"
FORMAT = 1
MOST_RUNGS = 8
_CONFIDENCE_STEPS = 65535

Cell = tuple[int, int]


class RecordingError(Exception):
    """The recording cannot be used; the text is one line."""


@dataclass(frozen=True)
class Recording:
    """What was recorded.

    Attributes:
        header: JSON values: model, hash, stages, machine, backend, command, date; `runs_as` where it was recorded.
        confidence: float32 [2^rungs, images], top probability of the pooled answer over each set; row 0 is 0.
        right: bool [2^rungs, images], whether that answer is right; row 0 is False.
        samples: nanoseconds of launches by (rung, batch), in the order of measuring, int64.
        stalled: of each sample, whether it met a recorded stall of the machine.
    """

    header: Mapping[str, Any]
    confidence: NDArray[np.float32]
    right: NDArray[np.bool_]
    samples: Mapping[Cell, NDArray[np.int64]]
    stalled: Mapping[Cell, NDArray[np.bool_]]

    @property
    def runs_as(self) -> dict[int, list[list[int]]]:
        """By rung, the sizes that a batch of 0, 1, … images is run in; empty where it was run as it is."""
        return dict(enumerate(self.header.get("runs_as", [])))

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the rungs in ladder order."""
        return tuple(self.header["stages"])


def hash_of(model: PublishedModel) -> str:
    """Changes with any weight and with the way in which answers are pooled: all that recorded answers depend on."""
    manifest = model.manifest
    pools = {name: pool.model_dump() for name, pool in manifest.pools.items()}
    temperatures = [stage.temperature for stage in manifest.stages]
    text = json.dumps([model.fingerprint(), temperatures, pools], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def path_of(name: str, version: str, folder: Path = FOLDER) -> Path:
    """Where the recording of a model lies."""
    return folder / f"{name}-{version}.npz"


def save(recording: Recording, path: Path) -> None:
    """Write the arrays and, beside them, the header."""
    confidence = np.rint(recording.confidence * _CONFIDENCE_STEPS).astype(np.uint16)
    answers = np.concatenate([confidence, recording.right.astype(np.uint16)], axis=1)
    # Where the deepest rung speaks alone, many sets give the same answers.
    _, first, row_of_set = np.unique(answers, axis=0, return_index=True, return_inverse=True)
    cells = sorted(recording.samples)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        row_of_set=row_of_set.astype(np.uint8),
        confidence=confidence[first],
        right=np.packbits(recording.right[first], axis=1),
        cells=np.array(cells, dtype=np.int32),
        counts=np.array([len(recording.samples[cell]) for cell in cells], dtype=np.int32),
        samples=np.concatenate([recording.samples[cell] for cell in cells]).astype(np.uint32),
        stalled=np.concatenate([recording.stalled[cell] for cell in cells]),
    )
    path.with_suffix(".json").write_text(json.dumps({"format": FORMAT, **recording.header}, indent=1) + "\n")


def load(path: Path) -> Recording:
    """Read a recording. Raises RecordingError."""
    try:
        header = json.loads(path.with_suffix(".json").read_text())
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if header.get("format") != FORMAT:
            raise ValueError(f"its format is {header.get('format')}, not {FORMAT}")
        return _unpacked(header, arrays)
    except FileNotFoundError as error:
        raise RecordingError(
            f"no recording {path.name} in {path.parent.name}/: make one with `python -m loadtest record`"
        ) from error
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise RecordingError(f"recording {path.name} is damaged: {error}") from error


def load_for(model: PublishedModel, folder: Path = FOLDER) -> Recording:
    """The recording of this very model. Raises RecordingError where it is missing or of other weights or pools."""
    manifest = model.manifest
    path = path_of(manifest.name, manifest.version, folder)
    recording = load(path)
    if recording.header["hash"] != hash_of(model):
        raise RecordingError(
            f"recording {path.name} is of other weights or pools than {model.key} "
            f"(hash {recording.header['hash']}, not {hash_of(model)}): run `python -m loadtest record` again"
        )
    return recording


def _unpacked(header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Recording:
    rows, images = arrays["row_of_set"], arrays["confidence"].shape[1]
    confidence = arrays["confidence"].astype(np.float32) / np.float32(_CONFIDENCE_STEPS)
    right = np.unpackbits(arrays["right"], axis=1, count=images).astype(np.bool_)
    if len(rows) != 1 << len(header["stages"]):
        raise ValueError(f"{len(rows)} sets for {len(header['stages'])} stages")
    ends = np.cumsum(arrays["counts"])[:-1]
    cells = [(int(stage), int(batch)) for stage, batch in arrays["cells"]]
    largest = max(batch for _, batch in cells)
    for row in header.get("runs_as", []):
        if len(row) != largest + 1 or not all(
            count <= sum(sizes) <= largest for count, sizes in enumerate(row)
        ):
            raise ValueError(f"runs_as does not say in which sizes batches of 0 to {largest} are run")
    samples = np.split(arrays["samples"].astype(np.int64), ends)
    stalled = np.split(arrays["stalled"], ends)
    return Recording(
        header,
        confidence[rows],
        right[rows],
        dict(zip(cells, samples, strict=True)),
        dict(zip(cells, stalled, strict=True)),
    )
