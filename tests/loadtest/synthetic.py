"""Labelled images made of noise, for tests only; the last byte of each payload is its label."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from loadtest.images import LabelledImages

CLASSES = ("ant", "bee", "cow")


def noise_png(seed: int) -> bytes:
    return png_of(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def png_of(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def noise_images(count: int = 12) -> LabelledImages:
    labels = np.arange(count, dtype=np.int16) % len(CLASSES)
    # Decoders ignore what follows a PNG's end.
    payloads = tuple(noise_png(k) + bytes([labels[k]]) for k in range(count))
    names = tuple(f"{CLASSES[labels[k]]}/{k:04d}.png" for k in range(count))
    return LabelledImages(names, payloads, ("image/png",) * count, labels, CLASSES)


def noise_zip(path: Path, per_class: int = 4) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for label, name in enumerate(CLASSES):
            for k in range(per_class):
                archive.writestr(f"test/{name}/{k:04d}.png", noise_png(k) + bytes([label]))
        archive.writestr("train/ant/0001.png", noise_png(99))
        archive.writestr("test/README.txt", "not an image")
    return path
