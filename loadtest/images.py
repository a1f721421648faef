"""Labelled images as bytes ready to be sent; reads ImageFolder-shaped zips and directories.

The order is that of the sorted paths, and a label is the place of the class name among the sorted class
names, as in training. Knows nothing of HTTP beyond the media type of a file.
"""

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MEDIA_TYPES = {".webp": "image/webp", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


@dataclass(frozen=True)
class LabelledImages:
    """n encoded images: `payloads[i]` of `media_types[i]`, truly of class `classes[labels[i]]` (int16)."""

    names: tuple[str, ...]
    payloads: tuple[bytes, ...]
    media_types: tuple[str, ...]
    labels: NDArray[np.int16]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.payloads)

    def as_png(self) -> "LabelledImages":
        """The same pixels, each image encoded anew as PNG."""
        payloads = tuple(_png(payload) for payload in self.payloads)
        return LabelledImages(self.names, payloads, ("image/png",) * len(self), self.labels, self.classes)

    def draw(self, count: int, seed: int) -> NDArray[np.int32]:
        """`count` places, uniformly and with repetition from all images (int32)."""
        # A stream of its own: the same seed also draws the arrivals.
        random = np.random.default_rng([seed, 0x1A6E])
        return random.integers(0, len(self), count, dtype=np.int32)


def _png(payload: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(payload)) as image:
        image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _assemble(files: Iterable[tuple[str, bytes]], source: Path) -> LabelledImages:
    """`files` are ("class/file", content)."""
    found = sorted(files)
    if not found:
        raise ValueError(f"{source} holds no images of the shape split/class/file")
    names = tuple(name for name, _ in found)
    classes = tuple(sorted({PurePosixPath(name).parts[0] for name in names}))
    place = {name: number for number, name in enumerate(classes)}
    labels = np.array([place[PurePosixPath(name).parts[0]] for name in names], dtype=np.int16)
    media = tuple(MEDIA_TYPES[PurePosixPath(name).suffix.lower()] for name in names)
    return LabelledImages(names, tuple(content for _, content in found), media, labels, classes)


def _is_image_of(split: str, path: PurePosixPath) -> bool:
    return len(path.parts) == 3 and path.parts[0] == split and path.suffix.lower() in MEDIA_TYPES


def read_zip(path: Path, split: str = "test") -> LabelledImages:
    """All images `split/class/file` of a zip, as the stored bytes."""
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if _is_image_of(split, PurePosixPath(name))]
        return _assemble(((name.split("/", 1)[1], archive.read(name)) for name in members), path)


def read_directory(path: Path, split: str = "test") -> LabelledImages:
    """All images of `path/split/class/file`; where there is no such split, of `path/class/file`."""
    root = path / split if (path / split).is_dir() else path
    files = [file for file in root.glob("*/*") if file.suffix.lower() in MEDIA_TYPES]
    return _assemble(((file.relative_to(root).as_posix(), file.read_bytes()) for file in files), path)


def read_images(path: Path, split: str = "test") -> LabelledImages:
    """Reads a zip or a directory. Raises FileNotFoundError or ValueError where there is nothing to read."""
    if path.is_dir():
        return read_directory(path, split)
    if not path.is_file():
        raise FileNotFoundError(
            f"no images at {path}: give an ImageFolder-shaped zip or directory with --images"
        )
    return read_zip(path, split)
