"""Image file -> the pixels that a model takes, by one set of rules for training and serving.

Knows the rules: JPEG, PNG and WebP; turned upright by EXIF; alpha laid on white; CMYK, palette, grey and
16 bits brought to 8-bit RGB; colour profiles ignored; large JPEGs decoded at reduced scale; then scaled to
the model's input. Must not know torch, HTTP or what the pixels mean.

Ordinary images (`Header.plain`) go through OpenCV, which is several times faster, all others through Pillow;
both give the same pixels. The size is read before anything is decoded: a small file cannot ask for gigabytes.
"""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from model_repo.image_header import (
    AnimatedImage,
    Header,
    ImageError,
    ImageTooLarge,
    UndecodableImage,
    UnsupportedImage,
    read_header,
)
from model_repo.manifest import InputRule

__all__ = [
    "AnimatedImage",
    "Header",
    "ImageError",
    "ImageTooLarge",
    "Pixels",
    "UndecodableImage",
    "UnsupportedImage",
    "check_size",
    "decode",
    "decode_checked",
    "fit",
    "read_header",
]

Pixels = NDArray[np.uint8]

MAX_PIXELS = 50_000_000

# OpenCV has no flags that reduce and give RGB at once.
_OPENCV_REDUCED = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_OPENCV_LONGEST = 65_535  # well within its own limits (a million for PNG)
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's readers raise on damaged data (OSError covers UnidentifiedImageError).
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
)


def decode(data: bytes, rule: InputRule, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The pixels of one image file at the model's input size.

    Args:
        data: the whole file.
        rule: size and way of scaling.
        max_pixels: largest image taken, by its header.

    Returns:
        uint8 [rule.height, rule.width, 3], RGB, contiguous.

    Raises:
        UnsupportedImage: of another type.
        AnimatedImage: an animation.
        UndecodableImage: no image, a damaged or truncated one.
        ImageTooLarge: more than `max_pixels`.
    """
    header = read_header(data)
    check_size(header, max_pixels)
    return decode_checked(data, header, rule)


def check_size(header: Header, max_pixels: int) -> None:
    """Raises ImageTooLarge above `max_pixels`."""
    if header.width * header.height > max_pixels:
        raise ImageTooLarge(
            f"The image has {header.width} x {header.height} pixels; at most {max_pixels} are taken."
        )


def decode_checked(data: bytes, header: Header, rule: InputRule) -> Pixels:
    """As `decode`, for who has read the header and checked the size before. Raises UndecodableImage."""
    reduction = _reduction(header, rule)
    opencv = header.plain and max(header.width, header.height) <= _OPENCV_LONGEST
    return fit(_decode_plain(data, reduction) if opencv else _decode_any(data, reduction), rule)


def fit(pixels: Pixels, rule: InputRule) -> Pixels:
    """uint8 [h, w, 3] of any size scaled to the model's input by `rule`: area average down, bilinear up."""
    height, width = pixels.shape[:2]
    if (height, width) == (rule.height, rule.width):
        return np.ascontiguousarray(pixels)
    if rule.resize == "cover":
        pixels = _central_crop(pixels, rule.height / rule.width)
        height, width = pixels.shape[:2]
    shrinks = height >= rule.height and width >= rule.width
    scaled = cv2.resize(
        pixels,
        (rule.width, rule.height),
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    return np.asarray(scaled, np.uint8)


def _central_crop(pixels: Pixels, aspect: float) -> Pixels:
    """The largest centred part whose height is `aspect` times its width: what scaling until covered keeps."""
    height, width = pixels.shape[:2]
    kept_height = max(1, min(height, round(width * aspect)))
    kept_width = max(1, min(width, round(height / aspect)))
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    return pixels[top : top + kept_height, left : left + kept_width]


def _reduction(header: Header, rule: InputRule) -> int:
    """By how much a JPEG is reduced while it is decoded; twice the model's size is left to average over."""
    if header.kind != "jpeg":
        return 1
    # A quarter turn may swap the sides: the input's longer side counts against the image's shorter one.
    spare = min(header.width, header.height) / (2 * max(rule.width, rule.height))
    return next((factor for factor in (8, 4, 2) if spare >= factor), 1)


def _decode_plain(data: bytes, reduction: int) -> Pixels:
    """uint8 RGB [h, w, 3] of an ordinary image. Raises UndecodableImage."""
    source = np.frombuffer(data, np.uint8)
    try:
        if reduction == 1:
            pixels = cv2.imdecode(source, cv2.IMREAD_COLOR_RGB)
        else:
            pixels = cv2.imdecode(source, _OPENCV_REDUCED[reduction])
    except cv2.error as error:
        raise UndecodableImage("The image cannot be decoded.") from error
    if pixels is None:
        raise UndecodableImage("The image is damaged or ends too early.")
    return np.asarray(pixels if reduction == 1 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _decode_any(data: bytes, reduction: int) -> Pixels:
    """uint8 RGB [h, w, 3] of any image of the three types. Raises UndecodableImage or ImageTooLarge."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            if reduction > 1:
                image.draft("RGB", (image.width // reduction, image.height // reduction))
            return _rgb(_upright(image))
    except UnidentifiedImageError as error:
        raise UndecodableImage("The image cannot be decoded.") from error
    except Image.DecompressionBombError as error:
        raise ImageTooLarge("The image has too many pixels.") from error
    except _DAMAGE as error:
        raise UndecodableImage("The image is damaged or ends too early.") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _DAMAGE:  # the pixels may be sound where the metadata is not
        orientation = 1
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):
        return _from_16_bit_grey(image)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return _on_white(image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _on_white(image: Image.Image) -> Pixels:
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return np.asarray(white)


def _from_16_bit_grey(image: Image.Image) -> Pixels:
    """The high byte of each sample, as the readers do for 16-bit colour."""
    samples = np.asarray(image).astype(np.uint32)
    grey = (samples >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[samples == transparent] = 255
    return np.repeat(grey[..., np.newaxis], 3, axis=2)
