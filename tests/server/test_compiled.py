"""The policy as machine code: found only for these sources, and it orders what the sources order."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from server import compiled

ROOT = Path(__file__).parents[2]
COMPILE = ROOT / "deploy" / "compile.py"
SCHEDULE = """
import random
import server.engine.policy
from server.engine.events import Job
from tests.server.engine.simulation import MS, Device, linear_table, tiny_ladder

print(server.engine.policy.__file__.endswith(".py"))
draw = random.Random(1)
costs = {"a": (0.2, 0.8, 4.0), "b": (0.1, 2.0, 3.0)}
models = {name: (tiny_ladder(3), linear_table(each)) for name, each in costs.items()}
device = Device(models, confidence=lambda key, stage: (key * 7919 + stage * 104729) % 1000 / 1000)
for key in range(2000):
    device.run(device.now + int(draw.expovariate(1 / 0.4) * MS))
    budget_ns = int(draw.choice((0.3, 5, 50, 200)) * MS)
    device.arrive(Job(key, draw.choice("ab"), device.now + budget_ns, every_stage=key % 11 == 0))
    device.tick()
device.drain()
print([(at_ns, launch.model, launch.stage, launch.keys) for at_ns, launch in device.launches])
print(sorted(device.outcomes.items()))
"""


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with machine code of the sources as they are."""
    folder = tmp_path_factory.mktemp("compiled")
    if run(COMPILE, "--check", ANYTIME_COMPILED=str(folder)).returncode:
        pytest.skip("no C compiler, or no headers of this Python")
    done = run(COMPILE, ANYTIME_COMPILED=str(folder))
    assert done.returncode == 0
    assert len(list(folder.iterdir())) == 1, done.stdout + done.stderr
    return folder


def test_it_orders_what_the_sources_order(built: Path) -> None:
    machine, source = (run("-c", SCHEDULE, ANYTIME_COMPILED=place) for place in (str(built), ""))
    assert machine.stdout.split("\n", 1)[0] == "False", machine.stderr
    assert source.stdout.split("\n", 1)[0] == "True", source.stderr
    assert machine.stdout.split("\n", 1)[1] == source.stdout.split("\n", 1)[1]
    assert len(source.stdout) > 10_000


def test_it_is_not_built_twice(built: Path) -> None:
    assert run(COMPILE, "--check", ANYTIME_COMPILED=str(built)).returncode == 1
    assert run(COMPILE, ANYTIME_COMPILED=str(built)).stdout == ""


def test_without_a_compiler_that_is_told_and_nothing_is_made(tmp_path: Path) -> None:
    for flags in ((), ("--check",)):
        done = run(COMPILE, *flags, ANYTIME_COMPILED=str(tmp_path / "c"), PATH="")
        assert "no C compiler" in done.stdout
        assert done.returncode == len(flags)
    assert not (tmp_path / "c").exists()


def test_code_of_other_sources_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(compiled.ENGINE, tmp_path / "engine")
    monkeypatch.setenv(compiled.VARIABLE, str(tmp_path))
    before = compiled.folder()
    monkeypatch.setattr(compiled, "ENGINE", tmp_path / "engine")
    assert compiled.folder() == before
    with (tmp_path / "engine" / "rates.py").open("a") as file:
        file.write("# changed\n")
    assert compiled.folder() != before


def test_code_that_cannot_be_loaded_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.VARIABLE, str(tmp_path))
    found = compiled.folder()
    assert found is not None
    found.mkdir()
    monkeypatch.delitem(sys.modules, f"{compiled.SHARED}__mypyc", raising=False)
    monkeypatch.setattr(sys, "path", [str(ROOT)])
    path = ["here"]
    compiled.prefer(path)
    assert path == ["here"]
    assert str(found) not in sys.path


def test_an_empty_variable_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.VARIABLE, "")
    assert compiled.folder() is None
