"""SVHN, cropped digits (Netzer et al., 2011): the official .mat files, read, and downloaded only when the user asks.

Trained on the training and the extra images together, 604,388 in all, as in the paper's comparison; `svhn-small` leaves
the extra ones out. A MATLAB file of version 5 holds arrays only; reading one runs no code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from training.download import obtain
from training.parts import DataError, Dataset, Part

ADDRESS = "http://ufldl.stanford.edu/housenumbers/"


@dataclass(frozen=True)
class MatFile:
    """One official file and the MD5 of its content."""

    name: str
    md5: str


TRAIN = MatFile("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373")
EXTRA = MatFile("extra_32x32.mat", "a93ce644f1a588dc4d68dda5feec44a7")
TEST = MatFile("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3")

SOURCES = {"svhn": (TRAIN, EXTRA), "svhn-small": (TRAIN,)}
"""The files that each name trains on."""


def load(source: str, folder: Path, download: bool, test: MatFile = TEST) -> Dataset:
    """The data set called `source` from `folder`. Raises DataError."""
    parts = [_part(folder / file.name, file, download) for file in (*SOURCES[source], test)]
    train = Part(
        np.concatenate([p.images for p in parts[:-1]]), np.concatenate([p.labels for p in parts[:-1]])
    )
    return Dataset(source, tuple(str(digit) for digit in range(10)), train, parts[-1])


def _part(path: Path, file: MatFile, download: bool) -> Part:
    obtain(ADDRESS + file.name, path, file.md5, download)
    try:
        content = loadmat(str(path))
        pixels, labels = content["X"], content["y"].ravel()
    except (ValueError, KeyError, OSError, TypeError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3) or pixels.shape[3] != len(labels):
        raise DataError(f"{path}: {pixels.shape} images and {len(labels)} labels are not SVHN's")
    # The files count digits from 1 to 10, where 10 is the digit 0.
    return Part(np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), labels.astype(np.int64) % 10)
