"""Training in several processes: two of them end where one does that has the whole batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_levers_in_training import DATA, recipe
from training import checkpoint
from training.ranks import Ranks, together
from training.run import Run, RunOptions

ROOT = Path(__file__).resolve().parents[2]

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mixed": ({"draws": {"local": 1, "column": 1}, "augmentation": "+"}, {"private_norms": True}),
    "tied": ({"tied": True}, {"average": 0.9, "cutout": 2}),
}


def train(folder: Path, case: str, ranks: Ranks) -> None:
    changes, levers = CASES[case]
    how = RunOptions(folder / case, precision="float32", ranks=ranks)
    run = Run(recipe(**changes).with_levers(**levers), DATA, 3, how)
    run.train()
    if ranks.leads:
        run.finish()


def main(folder: str, cases: str) -> None:
    """What each of several processes does."""
    torch.set_num_threads(1)
    with together() as ranks:
        for case in json.loads(cases):
            train(Path(folder), case, ranks)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case, trained by two processes that are started as torchrun starts them."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    program = "import sys; from tests.training.test_ranks import main; main(*sys.argv[1:])"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder), json.dumps(list(CASES))],
            env=os.environ | shared | {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for child in children:
            _, error = child.communicate(timeout=300)
            assert child.returncode == 0, error
    finally:
        for child in children:
            child.kill()
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_where_one_does_on_the_same_batches(case: str, two: Path, tmp_path: Path) -> None:
    train(tmp_path, case, Ranks())
    ours, theirs = (checkpoint.load(f / case / "checkpoint.pt")["trainer"] for f in (tmp_path, two))
    assert ours["step"] == theirs["step"] == 10
    for group in set(ours) - {"optimizer", "step"}:
        for name, value in ours[group].items():
            torch.testing.assert_close(
                theirs[group][name], value, atol=2e-4, rtol=1e-3, msg=f"{group} {name}"
            )
    a, b = (checkpoint.load(f / case / "trained.pt")["logits"]["full"]["test"] for f in (tmp_path, two))
    torch.testing.assert_close(a, b, atol=5e-3, rtol=0)


def test_only_the_leading_process_writes(two: Path) -> None:
    logged = (two / "mixed" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in logged] == [1, 2]


def test_a_batch_is_shared_evenly_or_not_at_all() -> None:
    assert [Ranks(r, 3).share(12) for r in range(3)] == [slice(0, 4), slice(4, 8), slice(8, 12)]
    assert Ranks().share(7) == slice(0, 7)
    with pytest.raises(ValueError, match="3 equal parts"):
        Ranks(0, 3).share(10)
