"""What a run left behind, read back: its log, line by line, and its trained.pt.

Knows files; must not know figures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.parts import DataError


@dataclass(frozen=True)
class Curve:
    """One quantity over the epochs at which it was logged."""

    epochs: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Log:
    """The log of one run.

    Attributes:
        name: the run's folder.
        lines: one per epoch, ascending; of epochs that were trained twice, after a kill, the later.
    """

    name: str
    lines: tuple[dict[str, Any], ...]

    def curves(self, group: str) -> dict[str, Curve]:
        """Curves of a group of the log, `loss` or one of training.run.GLANCES, by kind of draw or by stage."""
        logged = [(line["epoch"], line[group]) for line in self.lines if group in line]
        names = list(dict.fromkeys(name for _, values in logged for name in values))
        return {name: _curve([(e, v[name]) for e, v in logged if name in v]) for name in names}

    @property
    def seconds(self) -> float:
        """Time spent in training, without glances."""
        return float(sum(line["seconds"] for line in self.lines))


def _curve(points: Sequence[tuple[int, float]]) -> Curve:
    return Curve(tuple(e for e, _ in points), tuple(float(v) for _, v in points))


def read_log(folder: Path) -> Log:
    """The log in a run's folder. Raises DataError."""
    path = folder / "log.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    by_epoch = {line["epoch"]: line for line in lines}
    return Log(folder.name, tuple(by_epoch[epoch] for epoch in sorted(by_epoch)))
