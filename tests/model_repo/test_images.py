"""The decode rules: which images are taken, what their pixels are, and that both decoders agree."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model_repo import images
from model_repo.images import (
    AnimatedImage,
    ImageError,
    ImageTooLarge,
    UndecodableImage,
    UnsupportedImage,
    decode,
    read_header,
)
from model_repo.manifest import InputRule

SMALL = InputRule(height=32, width=32)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], 2).astype(
        np.uint8
    )


def rule(height: int, width: int, resize: str = "cover") -> InputRule:
    return InputRule(height=height, width=width, resize=resize)


# Ordinary images


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_lossless_image_of_the_model_s_size_comes_back_exactly(kind: str) -> None:
    pixels = noise(32, 32)
    out = decode(
        encoded(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {})), SMALL
    )
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out, pixels)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 80}),
        ("JPEG", {"quality": 90}),
        ("JPEG", {"quality": 90, "subsampling": 0}),
        ("JPEG", {"quality": 90, "progressive": True}),
    ],
)
@pytest.mark.parametrize("shape", [(32, 32), (47, 61), (61, 47)])
@pytest.mark.parametrize("grey", [False, True])
def test_both_decoders_give_the_same_pixels_of_an_ordinary_image(
    kind: str, options: dict[str, Any], shape: tuple[int, int], grey: bool
) -> None:
    image = Image.fromarray(smooth(*shape))
    data = encoded(image.convert("L") if grey else image, kind, **options)
    assert read_header(data).plain
    fast = images._decode_plain(data, 1)
    thorough = images._decode_any(data, 1)
    assert fast.shape == thorough.shape == (*shape, 3)
    difference = np.abs(fast.astype(int) - thorough)
    assert difference.max() <= (3 if kind == "JPEG" else 0)


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_both_decoders_reduce_a_jpeg_alike(reduction: int) -> None:
    data = encoded(Image.fromarray(smooth(333, 517)), "JPEG", quality=92)
    fast = images._decode_plain(data, reduction)
    thorough = images._decode_any(data, reduction)
    assert fast.shape == thorough.shape == (-(-333 // reduction), -(-517 // reduction), 3)
    assert np.abs(fast.astype(int) - thorough).max() <= 4


def test_a_photograph_of_12_megapixels_is_decoded_at_reduced_scale_and_keeps_its_looks() -> None:
    image = Image.fromarray(smooth(32, 32)).resize((4096, 3072), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    data = encoded(image, "JPEG", quality=85)
    assert images._reduction(read_header(data), SMALL) == 8
    out = decode(data, rule(32, 32, "stretch"))
    means = pixels.reshape(32, 96, 32, 128, 3).mean(axis=(1, 3))
    assert np.abs(out - means).max() <= 4


def test_a_jpeg_not_twice_as_large_as_the_input_is_not_reduced() -> None:
    data = encoded(Image.fromarray(smooth(127, 127)), "JPEG")
    assert images._reduction(read_header(data), SMALL) == 1


# Unusual but taken


def test_exif_rotation_turns_the_image_upright() -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = 255  # white on the right; orientation 6 turns it clockwise: white at the bottom
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "WEBP"):
        data = encoded(
            Image.fromarray(pixels),
            kind,
            exif=exif.tobytes(),
            **({"lossless": True} if kind == "WEBP" else {}),
        )
        assert not read_header(data).plain
        out = decode(data, SMALL)
        assert out[:12].max() < 30, kind
        assert out[20:].min() > 225, kind


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone(orientation: int) -> None:
    upright = smooth(24, 40)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif.tobytes())
    np.testing.assert_array_equal(decode(data, rule(24, 40)), upright)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_laid_on_white(kind: str) -> None:
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:16, :, 3] = 255  # upper half opaque black, lower half transparent black
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    out = decode(encoded(Image.fromarray(pixels, "RGBA"), kind, **options), SMALL)
    assert out[:16].max() == 0
    assert out[16:].min() == 255


def test_half_transparent_red_on_white_is_pink() -> None:
    pixels = np.full((32, 32, 4), (255, 0, 0, 128), np.uint8)
    out = decode(encoded(Image.fromarray(pixels, "RGBA"), "PNG"), SMALL)
    assert out[0, 0, 0] == 255
    assert abs(int(out[0, 0, 1]) - 127) <= 1


def test_a_grey_image_with_alpha_is_taken() -> None:
    pixels = np.zeros((32, 32, 2), np.uint8)
    out = decode(encoded(Image.fromarray(pixels, "LA"), "PNG"), SMALL)
    assert out.min() == 255


def test_a_transparent_colour_of_a_palette_is_laid_on_white() -> None:
    image = Image.fromarray(noise(32, 32, 1) % 2, "P")
    image.putpalette([0, 0, 0, 10, 20, 30])
    out = decode(encoded(image, "PNG", transparency=0), SMALL)
    index = np.asarray(image)
    assert (out[index == 0] == 255).all()
    assert (out[index == 1] == (10, 20, 30)).all()


def test_a_palette_image_gets_its_colours() -> None:
    image = Image.fromarray(smooth(32, 32)).quantize(64)
    np.testing.assert_array_equal(decode(encoded(image, "PNG"), SMALL), np.asarray(image.convert("RGB")))


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    data = encoded(image, "JPEG", quality=95)
    assert not read_header(data).plain
    out = decode(data, SMALL)
    assert out[..., 0].min() > 240
    assert out[..., 1:].max() < 15


def test_16_bit_grey_keeps_its_high_byte() -> None:
    values = (np.arange(1024, dtype=np.uint32) * 64).astype(np.uint16).reshape(32, 32)
    out = decode(encoded(Image.fromarray(values), "PNG"), SMALL)
    np.testing.assert_array_equal(out, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, 2))


def test_16_bit_colour_keeps_its_high_byte() -> None:
    values = np.random.default_rng(1).integers(0, 65536, (32, 32, 3), dtype=np.uint16)
    out = decode(png_by_hand(32, 32, 16, 2, values.astype(">u2").tobytes()), SMALL)
    np.testing.assert_array_equal(out, (values >> 8).astype(np.uint8))


def test_one_bit_grey_is_black_and_white() -> None:
    out = decode(png_by_hand(32, 32, 1, 0, b"\x0f" * 128), SMALL)
    assert set(np.unique(out)) == {0, 255}


# Scaling


def test_cover_crops_the_centre_and_stretch_keeps_everything() -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 200
    data = encoded(Image.fromarray(wide), "PNG")
    assert decode(data, SMALL).min() == 200
    stretched = decode(data, rule(32, 32, "stretch"))
    assert stretched[:, 0].max() == 0
    assert stretched[:, 16].min() == 200


def test_scaling_down_averages_areas() -> None:
    checkers = np.indices((64, 64)).sum(0) % 2 * 255
    data = encoded(Image.fromarray(np.repeat(checkers[..., None], 3, 2).astype(np.uint8)), "PNG")
    assert np.abs(decode(data, SMALL).astype(int) - 127).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (7, 3), (33, 31)])
@pytest.mark.parametrize("resize", ["cover", "stretch"])
def test_any_shape_becomes_the_model_s_size(shape: tuple[int, int], resize: str) -> None:
    out = decode(encoded(Image.fromarray(noise(*shape)), "PNG"), rule(48, 20, resize))
    assert out.shape == (48, 20, 3)


# Refused


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("WEBP", {"lossless": True})],
)
def test_a_truncated_image_is_refused_wherever_it_is_cut(kind: str, options: dict[str, Any]) -> None:
    data = encoded(Image.fromarray(noise(40, 40)), kind, **options)
    for length in {*range(40), *range(40, len(data), 37), len(data) - 2, len(data) - 1}:
        with pytest.raises(UndecodableImage):
            decode(data[:length], SMALL)


def test_a_truncated_photograph_with_exif_is_refused() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(noise(64, 64)), "JPEG", exif=exif.tobytes())
    with pytest.raises(UndecodableImage):
        decode(data[: len(data) * 2 // 3], SMALL)


def test_data_after_the_end_does_no_harm() -> None:
    pixels = noise(32, 32)
    np.testing.assert_array_equal(
        decode(encoded(Image.fromarray(pixels), "PNG") + b"trailing", SMALL), pixels
    )


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", bytes(100)]
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(UndecodableImage):
        decode(data, SMALL)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO"])
def test_other_types_of_image_are_unsupported(kind: str) -> None:
    with pytest.raises(UnsupportedImage):
        decode(encoded(Image.fromarray(noise(32, 32)), kind), SMALL)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(kind: str) -> None:
    frames = [Image.fromarray(noise(32, 32, seed=seed)) for seed in range(3)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(AnimatedImage, match="Animations"):
        decode(data, SMALL)


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = png_by_hand(10_000, 10_000, 1, 0, b"")
    with pytest.raises(ImageTooLarge, match="10000 x 10000"):
        decode(bomb, SMALL)


def test_the_limit_of_pixels_is_inclusive() -> None:
    data = encoded(Image.fromarray(noise(10, 10)), "PNG")
    assert decode(data, SMALL, max_pixels=100).shape == (32, 32, 3)
    with pytest.raises(ImageTooLarge):
        decode(data, SMALL, max_pixels=99)


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(UndecodableImage):
        decode(png_by_hand(0, 10, 8, 2, b""), SMALL)


def test_an_image_wider_than_opencv_takes_is_decoded_all_the_same() -> None:
    data = png_by_hand(2**20 + 2, 1, 8, 0, bytes([7]) * (2**20 + 2))
    assert decode(data, SMALL).max() == 7


def test_corrupt_compressed_data_is_refused() -> None:
    data = bytearray(encoded(Image.fromarray(noise(40, 40)), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(UndecodableImage):
        decode(bytes(data), SMALL)


KINDS = {
    "png": encoded(Image.fromarray(noise(20, 20)), "PNG"),
    "rgba": encoded(Image.fromarray(noise(20, 20, 4)), "PNG"),
    "jpeg": encoded(Image.fromarray(noise(20, 20)), "JPEG"),
    "webp": encoded(Image.fromarray(noise(20, 20)), "WEBP"),
}


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damage_anywhere_gives_pixels_or_a_clear_refusal(kind: str, edits: list[tuple[int, int]]) -> None:
    data = bytearray(KINDS[kind])
    for position, value in edits:
        data[position % len(data)] = value
    try:
        shape = decode(bytes(data), SMALL, max_pixels=1_000_000).shape
    except ImageError:
        return
    assert shape == (32, 32, 3)


def png_by_hand(width: int, height: int, depth: int, color: int, samples: bytes) -> bytes:
    """A PNG of raw `samples`, for what Pillow does not write; too few samples make a bomb."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    row = len(samples) // height if height else 0
    lines = b"".join(b"\0" + samples[start : start + row] for start in range(0, len(samples), row or 1))

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
