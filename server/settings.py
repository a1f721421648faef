"""Every setting of the service, in one frozen object: command line over environment (ANYTIME_…) over default.

Knows names, types, limits and one-line descriptions (`--help` and the docs show them); must not act on any of them.
The supervisor parses it once and hands it to its children as JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

BackendName = Literal["auto", "tensorrt", "tensorrt-rtx", "torch-cuda", "onnxruntime", "openvino", "null"]


class Settings(BaseSettings):
    """Settings of one service: a supervisor, its front ends and its engine."""

    model_config = SettingsConfigDict(
        env_prefix="ANYTIME_",
        frozen=True,
        cli_kebab_case=True,
        cli_prog_name="python -m server",
        cli_implicit_flags=True,
        cli_parse_none_str="None",  # the default takes the word null, a backend's name, for no value
        extra="forbid",
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(
        8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one and logs it."
    )
    models_dir: Path = Field(
        Path("model_repo/models"), description="Folder of served models: <name>/<version>/."
    )
    default_model: str = Field(
        "",
        description="Model (name or name@version) of requests that name none; empty: the only or first one.",
    )
    state_dir: Path = Field(
        Path(".cache/anytime"),
        description="Writable folder for latency profiles and TensorRT plans; may be emptied at any time.",
    )
    workers: int = Field(1, ge=1, le=64, description="Front-end processes that share the port.")
    backend: BackendName = Field(
        "auto",
        description="Runtime of the stages; auto takes the first that works of tensorrt, tensorrt-rtx and torch-cuda "
        "on an NVIDIA GPU, and on a CPU, for each stage and batch, the fastest that is installed; "
        "null answers at once, for measuring the front end.",
    )
    engine_threads: int = Field(
        0,
        ge=0,
        le=256,
        description="Threads of the runtime; 0 takes the cores the front ends leave, at least one.",
    )
    graphs_mb: float = Field(
        216.0,
        ge=0,
        le=1_000_000,
        description="Memory that OpenVINO may take for graphs of one batch size, in megabytes, about: they are up to "
        "a third faster than the one that takes any size. 0: none.",
    )
    keep_warm_ms: float = Field(
        100.0,
        ge=0,
        le=60_000,
        description="After so long without a request, in milliseconds, front ends and engine run one of their own, and "
        "again: the first one after a pause would find cold caches, and take milliseconds longer. 0: never.",
    )
    max_batch: int = Field(32, ge=1, le=256, description="Largest batch of one launch.")
    pin_rung: int = Field(
        0,
        ge=0,
        le=16,
        description="Run only this rung of the ladder (1 = first), for measuring; 0 runs the scheduler.",
    )
    cpus: str = Field(
        "", description="Cores for all processes, as in taskset (0 or 0,1 or 0-3); empty leaves them alone."
    )
    default_deadline_ms: float = Field(
        1000.0, gt=0, le=60_000, description="Budget of requests that bring none, in milliseconds."
    )
    max_deadline_ms: float = Field(
        60_000.0, gt=0, le=600_000, description="Largest budget a request may bring, in milliseconds."
    )
    answer_guard_ms: float = Field(
        2.0,
        ge=0,
        le=1000,
        description="Least time before the deadline at which an answer is sent, in milliseconds; "
        "the measured cost of answering comes on top.",
    )
    max_jobs: int = Field(
        512, ge=1, le=100_000, description="Images one front end may have in work; more are refused with 503."
    )
    fair_share: bool = Field(
        True,
        description="While requests are refused, hold clients (by address) to equal shares of what is admitted.",
    )
    max_connections: int = Field(
        4096,
        ge=1,
        le=1_000_000,
        description="Open connections per front end; more are answered 503 and closed.",
    )
    header_timeout_s: float = Field(
        5.0, gt=0, le=600, description="Time a client has to finish its request's headers, in seconds."
    )
    body_timeout_s: float = Field(
        30.0,
        gt=0,
        le=600,
        description="Time a client has to finish its request's body (or its deadline, if sooner), in seconds.",
    )
    keep_alive_s: float = Field(
        75.0,
        gt=0,
        le=3600,
        description="Time an idle connection that has had an answer is kept open, in seconds.",
    )
    max_body_bytes: int = Field(10_000_000, ge=1, le=1_000_000_000, description="Largest request body.")
    max_pixels: int = Field(
        50_000_000, ge=1, le=1_000_000_000, description="Largest image by its header, in pixels."
    )
    max_files: int = Field(32, ge=1, le=1024, description="Most files of one multipart request.")
    drain_s: float = Field(
        10.0, ge=0, le=600, description="Longest wait for requests in flight at SIGTERM, in seconds."
    )
    hang_s: float = Field(
        2.0,
        ge=0,
        le=3600,
        description="Least time after which an engine without progress is killed and started again, in seconds; a "
        "launch has 20 times what was promised for it, if that is longer. 0: never.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )
    access_log: bool = Field(False, description="Log a line for every request.")


def threads_of(settings: Settings, cores: int) -> tuple[int, bool]:
    """(threads of a launch, whether they share cores with front ends): by default the cores that front ends leave."""
    threads = settings.engine_threads or max(1, cores - settings.workers)
    return threads, threads + settings.workers > cores
