"""`python -m training bench`: how fast our training step is, beside a plain loop and beside the machine's own rate.

Images a second of whole steps: fetching a batch, augmenting it, forward, backward, update. Ours and the plain loop
take turns, and medians over the rounds are compared, so that a drifting clock speed hits both. The share is that of
the matrix-multiply rate that torch reaches here in the same precision, at 6 operations per multiply-add of the
forward pass (2 forward, 4 backward).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_repo.fractalnet import FractalConfig, FractalNet, cost, stages
from training import plain_loop, recipes
from training.busy import quiet_machine
from training.data import load
from training.loop import Hardware, Trainer
from training.parts import Part
from training.recipe import Recipe

WARM_STEPS = 3
"""Steps before the clock starts: memory is allocated, kernels are chosen, workers fill their queue."""

Steps = Generator[None, None, None]


def add_command(commands: Any, runs: Path) -> None:
    """Add `bench` to the subcommands of `python -m training`; the lock lies in `runs`."""
    command = commands.add_parser("bench", help="images/s of the training step beside a plain PyTorch loop")
    command.set_defaults(command=partial(_command, runs))
    command.add_argument("--recipe", default="small_nested", help="whose net, batch and optimiser")
    command.add_argument("--data", help="default: random pixels of CIFAR's size, which cost the same")
    command.add_argument("--seconds", type=float, default=4.0, help="of every single measurement")
    command.add_argument("--rounds", type=int, default=3, help="turns that each loop takes")


def _command(runs: Path, options: argparse.Namespace) -> None:
    recipe = recipes.find(options.recipe)
    train = load(options.data).train if options.data else random_images(20 * recipe.batch)
    with quiet_machine(runs / ".busy.lock", "training benchmark"):
        print(machine())
        for line in bench(recipe, train, options.seconds, options.rounds):
            print(line, flush=True)


@dataclass(frozen=True)
class Speed:
    """What was measured of one stage in one precision.

    Attributes:
        ours, plain: images a second, medians over the rounds; plain is the better of its settings.
        workers: processes that fed the plain loop at its best.
        share: of the machine's matrix-multiply rate that ours reaches.
    """

    stage: str
    precision: str
    ours: float
    plain: float
    workers: int
    share: float


def bench(recipe: Recipe, train: Part, seconds: float, rounds: int) -> Iterator[str]:
    """Measure the nested stages in every precision that the machine computes in itself; yields lines of a table."""
    config = recipe.net(int(train.labels.max()) + 1, train.images.shape[1])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    yield f"recipe {recipe.name}, batch {recipe.batch}, {rounds} rounds of {seconds:g} s each"
    yield "| stage | precision | ours images/s | plain loop | workers | ours / plain | share of matmul rate |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    found = []
    for hardware in [Hardware(device, bf16) for bf16 in (False, True) if not bf16 or computes_bf16(device)]:
        rate = matmul_rate(hardware, min(1.0, seconds))
        for stage in nested(config):
            found.append(measure(recipe, config, stage, train, hardware, (seconds, rounds, rate)))
            yield row(found[-1])
        yield f"torch multiplies {name(hardware)} matrices at {rate / 1e9:,.0f} GFLOP/s here"
    for one in found:
        base = next(s for s in found if s.stage == one.stage)
        if one is not base:
            yield f"{one.stage}: {one.precision} adds {one.ours / base.ours:.2f} x to ours in {base.precision}"


def row(speed: Speed) -> str:
    """A line of the table."""
    return (
        f"| {speed.stage} | {speed.precision} | {speed.ours:,.0f} | {speed.plain:,.0f} | {speed.workers} "
        f"| {speed.ours / speed.plain:.2f} | {100 * speed.share:.0f} % |"
    )


def measure(
    recipe: Recipe,
    config: FractalConfig,
    stage: str,
    train: Part,
    hardware: Hardware,
    how: tuple[float, int, float],
) -> Speed:
    """Ours and the plain loop in turn on one stage. `how`: seconds, rounds, the matrix-multiply rate in FLOP/s."""
    seconds, rounds, rate = how
    cores = os.cpu_count() or 1
    loops: dict[int | None, Callable[[], Steps]] = {
        None: partial(_our_steps, recipe, config, stage, train, hardware)
    }
    for workers in (0, cores):
        loops[workers] = partial(plain_loop.steps, recipe, config, stage, train, hardware, workers)
    seen: dict[int | None, list[float]] = {key: [] for key in loops}
    for _ in range(rounds):
        for key, loop in loops.items():
            with closing(loop()) as turning:
                seen[key].append(recipe.batch * _steps_per_second(turning, seconds))
    medians = {key: statistics.median(values) for key, values in seen.items()}
    ours = medians.pop(None)
    workers, plain = max(((k or 0, v) for k, v in medians.items()), key=lambda pair: pair[1])
    multiply_adds = cost(FractalNet(config), stages(config)[stage]).multiply_adds
    return Speed(stage, name(hardware), ours, plain, workers, 6 * multiply_adds * ours / rate)


def _our_steps(recipe: Recipe, config: FractalConfig, stage: str, train: Part, hardware: Hardware) -> Steps:
    endless = recipe.with_overrides(draws={stage: 1.0}, tied=False, epochs=1_000_000)
    trainer = Trainer(endless, config, train, 0, hardware)
    while True:
        for _ in trainer.rest_of_epoch():
            yield


def _steps_per_second(turning: Iterator[None], seconds: float) -> float:
    for _ in range(WARM_STEPS):
        next(turning)
    begun, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - begun) < seconds or not count:
        next(turning)
        count += 1
    return count / passed


def matmul_rate(hardware: Hardware, seconds: float) -> float:
    """FLOP/s of the best matrix product of a few sizes, in float32 or bfloat16."""
    dtype = torch.bfloat16 if hardware.bf16 else torch.float32
    return max(_product_rate(n, dtype, hardware.device, seconds) for n in (512, 1024, 2048))


def _product_rate(n: int, dtype: torch.dtype, device: str, seconds: float) -> float:
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        begun = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - begun)
    return 2 * n**3 / best


def computes_bf16(device: str) -> bool:
    """Whether the device has bfloat16 instructions; an emulation is ten times slower than float32."""
    return device == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - the only way to ask


def nested(config: FractalConfig) -> list[str]:
    """The nested stages f_1 … f_C, or all there are."""
    chosen = [n for n in stages(config) if n in ("column1", "full") or n.startswith("joined")]
    return chosen or list(stages(config))


def name(hardware: Hardware) -> str:
    """The precision in words."""
    return "bf16" if hardware.bf16 else "float32"


def random_images(count: int, size: int = 32, classes: int = 10) -> Part:
    """Images of noise, as many as a few epochs of the benchmark need."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, size, size, 3), np.uint8)
    return Part(images, np.arange(count, dtype=np.int64) % classes)


def machine() -> str:
    """One line that names processor, cores, threads and versions, and the load at this moment."""
    if torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    else:
        where = f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return (
        f"{where}; Python {platform.python_version()}, torch {torch.__version__}; "
        f"load average at start {os.getloadavg()[0]:.2f}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown processor")
