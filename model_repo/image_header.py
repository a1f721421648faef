"""What an image file says of itself before anything is decoded.

Knows the outer structure of JPEG, PNG and WebP files: type, size, completeness, and whether something unusual
(alpha, EXIF, an animation) is in them. Must not know pixels or how they are decoded.

    ImageError               the data is no image that this project takes; the text is fit for the client
    ├── UnsupportedImage     an image of another type
    ├── AnimatedImage        several images in one
    ├── UndecodableImage     no image, a damaged one, or one that ends too early
    └── ImageTooLarge        more pixels than allowed
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

Kind = Literal["jpeg", "png", "webp"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_UNUSUAL = frozenset({b"tRNS", b"eXIf"})
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_JPEG_HUFFMAN = frozenset({0xC0, 0xC1, 0xC2})
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_WEBP_ANIMATION, _WEBP_UNUSUAL = 0x02, 0x18  # VP8X flags; unusual: alpha, EXIF

_OTHER_TYPES = {
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\1\0": "ICO",
    b"8BPS": "Photoshop",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"%PDF": "PDF",
    b"<svg": "SVG",
}


class ImageError(Exception):
    """The data is no image that this project takes."""


class UnsupportedImage(ImageError):
    """An image, but of a type that is not taken."""


class AnimatedImage(ImageError):
    """An animation: which of its images is meant cannot be known."""


class UndecodableImage(ImageError):
    """No image at all, a damaged one, or one that ends too early."""


class ImageTooLarge(ImageError):
    """More pixels than allowed, by the file's own header."""


@dataclass(frozen=True, slots=True)
class Header:
    """Type and size of an image file.

    Attributes:
        kind: type of the file.
        width, height: in pixels, as stored (before any EXIF rotation), each at least 1.
        plain: 8 bits per channel, 1 or 3 channels, without alpha or EXIF: every decoder agrees on it.
    """

    kind: Kind
    width: int
    height: int
    plain: bool


def read_header(data: bytes) -> Header:
    """The header of `data`, a whole image file.

    Raises:
        UnsupportedImage: another type of image.
        AnimatedImage: an animation.
        UndecodableImage: no image, or the file ends too early.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            header = _jpeg(data)
        elif data.startswith(_PNG_SIGNATURE):
            header = _png(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            header = _webp(data)
        else:
            raise _no_image(data)
    except (struct.error, IndexError) as error:
        raise UndecodableImage("The image ends too early.") from error
    if header.width < 1 or header.height < 1:
        raise UndecodableImage("The image has no pixels.")
    return header


def _no_image(data: bytes) -> ImageError:
    if not data:
        return UndecodableImage("The image is empty (0 bytes).")
    for magic, name in _OTHER_TYPES.items():
        if data.startswith(magic):
            return UnsupportedImage(f"{name} is not supported: send JPEG, PNG or WebP.")
    if data[4:8] == b"ftyp":
        return UnsupportedImage("AVIF, HEIC and videos are not supported: send JPEG, PNG or WebP.")
    return UndecodableImage("The data is no JPEG, PNG or WebP image.")


def _png(data: bytes) -> Header:
    if data[12:16] != b"IHDR":
        raise UndecodableImage("The PNG image does not begin with its header.")
    width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
    plain = depth == 8 and color in (0, 2)
    position = 8
    while True:
        length, name = struct.unpack_from(">I4s", data, position)
        if name == b"acTL":
            raise AnimatedImage("Animations are not supported: send one image.")
        if name in _PNG_UNUSUAL:
            plain = False
        position += 12 + length
        if position > len(data):
            raise UndecodableImage("The PNG image ends too early.")
        if name == b"IEND":
            return Header("png", width, height, plain)


def _jpeg(data: bytes) -> Header:
    position, exif = 2, False
    frame: tuple[int, int, int, int, int] | None = None  # marker, precision, height, width, channels
    while True:
        position = data.find(b"\xff", position)
        if position < 0:
            raise UndecodableImage("The JPEG image ends too early.")
        marker = data[position + 1]
        if marker in (0x00, 0xFF) or marker in _JPEG_ALONE:
            position += 1 if marker == 0xFF else 2
            continue
        if marker in (0xD9, 0xDA):  # end of the image; start of the pixels
            break
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _JPEG_FRAMES and frame is None:
            frame = (marker, *struct.unpack_from(">BHHB", data, position + 4))
        elif marker == 0xE1 and data.startswith(b"Exif\0", position + 4):
            exif = True
        position += 2 + length
    if frame is None or marker == 0xD9:
        raise UndecodableImage("The JPEG image holds no pixels.")
    # Decoders paint what is missing grey; an end mark cannot occur inside the pixels, so its absence tells.
    if data.rfind(b"\xff\xd9", position) < 0:
        raise UndecodableImage("The JPEG image ends too early.")
    coding, precision, height, width, channels = frame
    plain = coding in _JPEG_HUFFMAN and precision == 8 and channels in (1, 3) and not exif
    return Header("jpeg", width, height, plain)


def _webp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise UndecodableImage("The WebP image ends too early.")
    chunk = data[12:16]
    if chunk == b"VP8X":
        flags = data[20]
        if flags & _WEBP_ANIMATION:
            raise AnimatedImage("Animations are not supported: send one image.")
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        return Header("webp", width, height, not flags & _WEBP_UNUSUAL)
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("webp", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), not bits >> 28 & 1)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("webp", width & 0x3FFF, height & 0x3FFF, plain=True)
    raise UndecodableImage("The WebP image holds no pixels.")
