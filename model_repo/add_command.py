"""`python -m model_repo add`: its options. What it needs beyond the server's packages is imported when it runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_command(commands: Any) -> None:
    """Add `add` to the commands."""
    command = commands.add_parser("add", help="publish ONNX graphs from elsewhere as the rungs of a model")
    command.add_argument(
        "--name", required=True, help="name of the model; a name that is there gets a new version"
    )
    command.add_argument(
        "--stages", required=True, nargs="+", type=Path, metavar="ONNX", help="graphs from cheap to dear"
    )
    command.add_argument("--labels", required=True, type=Path, help="class names by index, one per line")
    command.add_argument(
        "--calibrate",
        required=True,
        type=Path,
        help="folder of labelled images, a folder per label, 50 or more",
    )
    command.add_argument(
        "--mean", nargs="+", type=float, help="of a float graph's input, for images in [0, 1]"
    )
    command.add_argument("--std", nargs="+", type=float, help="likewise")
    command.add_argument(
        "--layout", choices=["nchw", "nhwc"], help="of a float graph (default: its shape tells)"
    )
    command.add_argument("--size", type=int, help="height and width, where the graphs leave them open")
    command.add_argument(
        "--resize", choices=["cover", "stretch"], default="cover", help="how images become that size"
    )
    command.add_argument("--most", type=int, default=5_000, help="images used at most (default: 5000)")
    command.add_argument("--description", default="", help="one sentence for the manifest")


def run(options: argparse.Namespace) -> int:
    """Exit status: 0 published, 1 refused with the reason."""
    from pydantic import ValidationError  # noqa: PLC0415

    try:
        from model_repo.add import GraphRefused, ImagesRefused, Wanted, add  # noqa: PLC0415
    except ImportError as error:
        print(f"nothing published: {error}; `add` needs the packages of the group `train`", file=sys.stderr)
        return 1
    from model_repo.foreign import Preparation  # noqa: PLC0415
    from model_repo.repository import RepositoryError  # noqa: PLC0415

    preparation = Preparation(options.mean, options.std, options.layout, options.size)
    wanted = Wanted(
        *(options.models_dir, options.name, options.stages, options.labels, options.calibrate, preparation),
        *(options.resize, options.description, options.most),
    )
    try:
        add(wanted, print)
    except (GraphRefused, ImagesRefused, RepositoryError, OSError) as error:
        print(f"nothing published: {error}", file=sys.stderr)
        return 1
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        print(f"nothing published: {where}: {first['msg']}", file=sys.stderr)
        return 1
    return 0
