"""How a search judges its probes, on runs made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from loadtest.records import Outcome, Run, empty_records
from loadtest.rig import Rig
from loadtest.servers import RunningServer, ServerSettings
from loadtest.trial import Bench
from tests.loadtest.synthetic import noise_images


class ScriptedRig(Rig):
    """Every probe has the attainment that `script` says for its rate and seed; nothing is sent."""

    script: dict[tuple[int, int], float]
    kept_time = True
    allowed: list[int]

    @contextmanager
    def server(self, **changes: Any) -> Iterator[RunningServer]:
        yield RunningServer(1)

    def _saturated_rate(self, server: Any) -> float:
        return 100

    def poisson_plan(self, server: Any, rate: float, seconds: float, seed: int, deadline_ms: float) -> Any:
        return SimpleNamespace(rate=round(rate), seed=seed)

    def measure(self, plan: Any, name: str, ladder: tuple[str, ...] = (), max_repeats: int = 5) -> Run:
        self.allowed.append(max_repeats)
        records = empty_records(1000)
        good = np.arange(1000) < 1000 * self.script[plan.rate, plan.seed]
        records["outcome"] = np.where(good, Outcome.ANSWERED, Outcome.REFUSED)
        records["done_ns"] = 0
        return Run(records, 1.0, 0, facts={"sender_kept_time": self.kept_time, "repeats": max_repeats})


@pytest.fixture
def scripted(tmp_path: Path) -> ScriptedRig:
    settings = ServerSettings(tmp_path, tmp_path)
    rig = ScriptedRig(noise_images(), Bench(), settings, tmp_path, probes=2)
    rig.allowed = []
    return rig


def test_every_probe_has_arrivals_of_its_own(scripted: ScriptedRig) -> None:
    scripted.script = {(100, 1): 0.995, (200, 2): 0.98}
    found = scripted.highest_rate(0.99, "capacity")
    assert (found.rate, found.failing, found.late) == (100, 200, 0)


def test_a_probe_whose_sender_stays_late_marks_the_search_and_the_others_only_end_it(
    scripted: ScriptedRig,
) -> None:
    scripted.script = {(100, 1): 1.0, (200, 2): 0.9}
    scripted.kept_time = False
    found = scripted.highest_rate(0.99, "capacity")
    assert (found.rate, found.late) == (100, 2)
    assert scripted.allowed == [5, 0]
    assert "the sender late in 2" in str(found)
