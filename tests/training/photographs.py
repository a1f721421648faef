"""Images like a user's own: drawn textures in random colours and light, of mixed sizes, modes and file types.

The classes differ in texture only, so that pixels alone say little; two of them differ only in direction, so that an
image whose EXIF orientation is not followed lands in the wrong class.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("level", "upright", "rings", "spots")
CORRUPT = ("level/corrupt-1.jpg", "rings/corrupt-2.png", "spots/corrupt-3.webp")

KINDS = ("jpeg", "grey", "alpha", "cmyk", "rotated", "webp")
ROTATED_90 = 6
"""EXIF orientation of an image that must be turned clockwise to be upright."""


def texture(kind: str, height: int, width: int, random: np.random.Generator) -> NDArray[np.float64]:
    """A pattern in [-1, 1], [height, width]."""
    y, x = np.mgrid[:height, :width] / min(height, width)
    wave = 2 * np.pi * random.uniform(3, 6)
    shift = random.uniform(0, 2 * np.pi, 2)
    if kind == "level":
        return np.sin(wave * (y + 0.1 * x) + shift[0])
    if kind == "upright":
        return np.sin(wave * (x + 0.1 * y) + shift[0])
    if kind == "rings":
        middle = random.uniform(0.3, 0.7, 2)
        return np.sin(wave * np.hypot(y - middle[0], x - middle[1]) + shift[0])
    return np.sin(wave * y + shift[0]) * np.sin(wave * x + shift[1])


def photograph(kind: str, random: np.random.Generator) -> Image.Image:
    """One RGB image of a class, 60 to 260 pixels a side: two colours, uneven light, noise."""
    height, width = (int(n) for n in random.integers(60, 260, 2))
    mix = (texture(kind, height, width, random)[..., None] + 1) / 2
    dark, bright = random.uniform(20, 110, 3), random.uniform(130, 235, 3)
    if random.random() < 0.5:
        dark, bright = bright, dark
    light = np.linspace(random.uniform(0.7, 1), random.uniform(0.7, 1), width)[None, :, None]
    pixels = (dark + (bright - dark) * mix) * light + random.normal(0, 10, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str) -> tuple[str, bytes]:
    """The file's suffix and content."""
    buffer = io.BytesIO()
    if kind == "grey":
        image.convert("L").save(buffer, "PNG")
    elif kind == "alpha":
        image.putalpha(230)
        image.save(buffer, "PNG")
    elif kind == "cmyk":
        image.convert("CMYK").save(buffer, "JPEG", quality=90)
    elif kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = ROTATED_90
        image.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=90, exif=exif)
    elif kind == "webp":
        image.save(buffer, "WEBP", quality=85)
    else:
        image.save(buffer, "JPEG", quality=85)
    suffix = {"grey": "png", "alpha": "png", "webp": "webp"}.get(kind, "jpg")
    return suffix, buffer.getvalue()


def make(root: Path, images: int, seed: int = 0) -> Path:
    """A folder of `images` images by class, the first class half as large again as the others, and three corrupt."""
    random = np.random.default_rng(seed)
    for i in range(images):
        kind = CLASSES[(0, 1, 2, 3, 0, 1, 2, 3, 0)[i % 9]]
        suffix, content = encoded(photograph(kind, random), KINDS[i % len(KINDS)])
        (root / kind).mkdir(parents=True, exist_ok=True)
        (root / kind / f"{i}.{suffix}").write_bytes(content)
    sound = min((root / "upright").glob("*.jpg")).read_bytes()
    for name, content in zip(CORRUPT, (sound[:300], b"", b"RIFF\x10\x00\x00\x00WEBPrubbish"), strict=True):
        (root / name).write_bytes(content)
    return root


if __name__ == "__main__":
    import sys

    make(Path(sys.argv[1]), int(sys.argv[2]))
