"""Labelled images in folders, one per label, for measuring graphs that were not trained here.

Decoded by the rules of the server. Must not know graphs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_repo.images import ImageError, decode
from model_repo.manifest import InputRule

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
FEWEST = 50


class ImagesRefused(Exception):
    """The images cannot be used; the text says why in one line, and what to do."""


@dataclass(frozen=True)
class Labelled:
    """Images with their labels.

    Attributes:
        pixels: uint8 [n, height, width, 3].
        labels: int64 [n], places in the list of labels.
        unreadable: files that are no images, or of a kind that is not served, left out.
        example: one file.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    unreadable: list[Path]
    example: Path


def read_labels(path: Path) -> list[str]:
    """One label per line. Raises ImagesRefused."""
    try:
        labels = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ImagesRefused(f"{path}: cannot be read: {error}") from error
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise ImagesRefused(f"{path}: one label per line is wanted, two or more, all different")
    return labels


def read_labelled(folder: Path, labels: list[str], rule: InputRule, most: int) -> Labelled:
    """Every image, or `most` spread evenly over them. Raises ImagesRefused."""
    if most < FEWEST:
        raise ImagesRefused(f"--most {most} is too few, at least {FEWEST} images are needed")
    files = _files(folder, labels)
    if len(files) > most:
        files = [files[n] for n in np.linspace(0, len(files) - 1, most).astype(int)]
    pixels, places = [], []
    unreadable = sorted(p for p in folder.rglob("*") if p.is_file() and _of_another_kind(p))
    for path, label in files:
        try:
            pixels.append(decode(path.read_bytes(), rule))
            places.append(labels.index(label))
        except (ImageError, OSError):
            unreadable.append(path)
    if len(pixels) < FEWEST:
        raise ImagesRefused(
            f"{folder}: {len(pixels)} readable images are too few, at least {FEWEST} are needed"
        )
    example = next(path for path, _ in files if path not in unreadable)
    return Labelled(np.stack(pixels), np.asarray(places, np.int64), unreadable, example)


def _of_another_kind(path: Path) -> bool:
    return path.suffix.lower() not in SUFFIXES and not path.name.startswith(".")


def _files(folder: Path, labels: list[str]) -> list[tuple[Path, str]]:
    if not folder.is_dir():
        raise ImagesRefused(f"{folder}: no such folder")
    files = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
        label = path.relative_to(folder).parts[0]
        if label == path.name:
            raise ImagesRefused(
                f"{path}: has no label; images lie in folders, one per label: {folder}/LABEL/IMAGE"
            )
        if label not in labels:
            raise ImagesRefused(
                f"{path}: its folder {label!r} is no label; there is {', '.join(labels[:5])} …"
            )
        files.append((path, label))
    return files
