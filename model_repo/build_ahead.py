"""`python -m model_repo build`: the plans that a server would build at its start, built before it is started.

Knows which plans a model needs; must not know how one is built or kept.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from model_repo.nvidia import first_gpu
from model_repo.plan_builder import BuildFailed, Library, library, obtain, rebuild
from model_repo.plans import PlanFolder
from model_repo.repository import ModelDamaged, ModelMissing, PublishedModel, Repository


def build_ahead(
    repository: Repository, model: str, runtime: str, max_batch: int, state_dir: Path, force: bool
) -> int:
    """Build what is missing, one line of output per plan. Returns 0; 1 where a damaged model was left out.

    Args:
        repository: holds the models.
        model: name (its newest version) or name@version; empty for all.
        runtime: tensorrt | tensorrt-lean | tensorrt-rtx. The lean runtime's plans are built by the whole one; only
            TensorRT-RTX builds without a GPU.
        max_batch: largest batch of the plans.
        state_dir: keeps them.
        force: build what is there too.

    Raises:
        ImportError: the builder is not installed.
        NoGpu: the builder needs one.
        BuildFailed: a graph cannot be built; the text names it.
        RepositoryError: there is no such model, or it is damaged.
    """
    builder = library("tensorrt" if runtime == "tensorrt-lean" else runtime)
    builder = Library(runtime, builder.trt, builder.log)
    gpu = "" if runtime == "tensorrt-rtx" else str(first_gpu())
    plans = PlanFolder(state_dir)
    good, bad = _models(repository, model)
    for damage in bad:
        print(damage, file=sys.stderr)
    for published in good:
        for stage in published.manifest.stages:
            key = builder.key(stage.sha256, gpu, max_batch)
            read = lambda published=published, stage=stage: published.read(stage)
            started = time.monotonic()
            try:
                if force:
                    rebuild(builder, plans, key, read, lambda _: None, "a new one was asked for")
                    built = True
                else:
                    _, built = obtain(builder, plans, key, read, lambda _: None)
            except BuildFailed as error:
                raise BuildFailed(f"{published.key} {stage.name}: {error}") from error
            how = f"built in {time.monotonic() - started:.1f} s" if built else "is there"
            print(f"{published.key} {stage.name}: {how}, {plans.path(key)}")
    return 1 if bad else 0


def _models(repository: Repository, model: str) -> tuple[list[PublishedModel], list[ModelDamaged]]:
    if model:
        name, _, version = model.partition("@")
        return [repository.open(name, version)], []
    good, bad = repository.scan()
    if not good and not bad:
        raise ModelMissing(f"no models in {repository.models_dir}")
    return good, bad
