"""What goes wrong outside: a clear message, an exit code that is not 0, and the last good checkpoint intact."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import checkpoint
from training.command import lacks_memory, main

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def photos(root: Path, classes: dict[str, int]) -> Path:
    draws = np.random.default_rng(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = draws.integers(0, 256, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("classes", "says"),
    [({}, "found 0 class folders"), ({"only": 3}, "found 1 class folders"), ({"a": 3, "b": 3}, "too few")],
)
def test_a_folder_that_teaches_nothing_is_refused(
    classes: dict[str, int],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    folder = photos(tmp_path / "photos", classes)
    assert main(["train", "small_nested", "--data", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert says in error


def test_an_unknown_recipe_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "nosuch", "--data", "digits"]) == 2
    assert "small_nested" in capsys.readouterr().err


def test_other_labels_than_the_checkpoints_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = photos(tmp_path / "photos", {"cat": 130, "dog": 130})
    command = ["train", "plain5", "--data", str(folder), "--name", "run", "--precision", "float32"]
    assert main([*command, "--minutes", "0"]) == 3
    before = (tmp_path / "runs/run/checkpoint.pt").read_bytes()
    (folder / "cat").rename(folder / "bird")
    capsys.readouterr()
    assert main(command) == 2
    assert "classes differs (cat, dog, not bird, dog)" in capsys.readouterr().err
    assert (tmp_path / "runs/run/checkpoint.pt").read_bytes() == before


# --- a full disk ----------------------------------------------------------------------------------------------------

OWN_MOUNTS = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


def may_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    probe = [*OWN_MOUNTS, 'mount -t tmpfs tmpfs "$0"', str(folder)]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    if not may_mount(tmp_path):
        pytest.skip("this machine lets nobody mount a tmpfs of his own")
    # Room for one checkpoint of 430 kB, but not for the next beside it.
    script = """
        mount -t tmpfs -o size=700k tmpfs "$0" && cd "$0" || exit 99
        "$1" -m training train digits --data digits --epochs 3 --precision float32
        echo "code $?"
        "$1" -c "from training import checkpoint; from pathlib import Path
print('step', checkpoint.load(Path('runs/digits/checkpoint.pt'))['trainer']['step'])"
        ls runs/digits
    """
    done = subprocess.run(
        [*OWN_MOUNTS, script, str(tmp_path), sys.executable],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "code 2" in done.stdout, done.stdout + done.stderr
    assert "step 20" in done.stdout
    assert ".part" not in done.stdout
    last = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(last) == 1
    assert "checkpoint.pt" in last[0]
    assert "Traceback" not in done.stderr


# --- no memory ------------------------------------------------------------------------------------------------------

LIMITED = """
import resource
import sys
import numpy
import torch._dynamo  # the optimizer's first use would; where memory ends within an import, Python may say anything
from training.command import main

numpy.ones((64, 64)) @ numpy.ones((64, 64))  # OpenBLAS ends the process where its buffer finds no room

pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 150 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # ulimit -v
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_memory_limit_stops_the_run_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", {"cat": 130, "dog": 130})
    command = ["train", "small_nested", "--data", str(folder), "--name", "run", "--precision", "float32"]
    first = subprocess.run(
        [sys.executable, "-m", "training", *command, "--minutes", "0"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert first.returncode == 3, first.stderr
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *command],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "error: out of memory" in done.stderr
    assert "Traceback" not in done.stderr
    assert checkpoint.load(tmp_path / "runs/run/checkpoint.pt")["trainer"]["step"] == 1


TOO_LITTLE = """
import resource
import runpy

resource.setrlimit(resource.RLIMIT_AS, (600_000_000, 600_000_000))
runpy.run_module("training", run_name="__main__")
"""


def test_a_limit_under_which_torch_cannot_even_be_loaded_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOO_LITTLE], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: out of memory: this process may have 600 MB of address space")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("size mismatch"), False),
    ],
)
def test_what_says_that_memory_is_lacking(error: BaseException, lacks: bool) -> None:
    assert lacks_memory(error) == lacks


def test_what_onednn_could_not_make_lacked_memory_only_under_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("could not create a primitive")
    limit = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    assert not lacks_memory(error)
    limit = 2**31
    assert lacks_memory(error)
    assert not lacks_memory(ValueError("could not create a primitive"))
