"""The official CIFAR archives (binary version): read, and downloaded only when the user asks.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. The binary version is read rather
than the Python one, since that is a pickle.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.download import obtain
from training.parts import DataError, Dataset, Part


@dataclass(frozen=True)
class Archive:
    """One official archive: where it is, its checksum, and how its records look."""

    name: str
    url: str
    md5: str
    label_bytes: int  # CIFAR-100 records carry a coarse label, then the fine one
    train: str
    test: str
    names: str

    @property
    def file(self) -> str:
        """The archive's file name."""
        return self.url.rsplit("/", 1)[1]


ARCHIVES = {
    "cifar10": Archive(
        "cifar10",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        label_bytes=1,
        train="data_batch_",
        test="test_batch.bin",
        names="batches.meta.txt",
    ),
    "cifar100": Archive(
        "cifar100",
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        label_bytes=2,
        train="train.bin",
        test="test.bin",
        names="fine_label_names.txt",
    ),
}


def load(archive: Archive, folder: Path, download: bool) -> Dataset:
    """The data set in `folder`'s copy of the archive.

    Raises:
        DataError: it is not there and `download` is false, cannot be fetched, or is not the official one.
    """
    path = folder / archive.file
    obtain(archive.url, path, archive.md5, download)
    return _read(archive, path)


def _read(archive: Archive, path: Path) -> Dataset:
    train, test = b"", b""
    classes: tuple[str, ...] = ()
    try:
        with tarfile.open(path) as tar:
            for member in sorted(tar.getmembers(), key=lambda m: m.name):
                name = Path(member.name).name
                file = tar.extractfile(member) if member.isfile() else None
                if file is None:
                    continue
                if name == archive.test:
                    test = file.read()
                elif name.startswith(archive.train):
                    train += file.read()
                elif name == archive.names:
                    classes = tuple(file.read().decode().split())
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return Dataset(archive.name, classes, _records(archive, train), _records(archive, test))


def _records(archive: Archive, data: bytes) -> Part:
    """Records of label byte(s), then 3 planes of 32x32 pixels."""
    record = archive.label_bytes + 3 * 32 * 32
    if not data or len(data) % record:
        raise DataError(f"{archive.file}: {len(data)} bytes are no whole number of {record}-byte records")
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    planes = rows[:, archive.label_bytes :].reshape(-1, 3, 32, 32)
    labels = rows[:, archive.label_bytes - 1].astype(np.int64)
    return Part(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)
