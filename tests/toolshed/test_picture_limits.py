"""Pictures that are too large, moving, broken or of another kind are refused unseen."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from toolshed import limits
from toolshed.errors import ConfigError
from toolshed.images import ImageSource, check_image, load_image


def uri(content: bytes) -> ImageSource:
    return ImageSource(image="data:image/png;base64," + base64.b64encode(content).decode())


def png(width: int, height: int) -> bytes:
    """A PNG whose header announces a size, with next to no pixels behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encoded(kind: str, frames: int = 1, **options: object) -> bytes:
    pictures = [Image.new("RGB", (6, 4), (0, 90 * index, 0)) for index in range(frames)]
    file = io.BytesIO()
    if frames > 1:
        options = {**options, "save_all": True, "append_images": pictures[1:]}
    pictures[0].save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_of_known_formats_load(kind: str, tmp_path: Path) -> None:
    content = encoded(kind)
    assert load_image(uri(content)).pixels.shape == (4, 6, 3)
    (tmp_path / "picture").write_bytes(content)
    assert load_image(ImageSource(image=str(tmp_path / "picture"))).width == 6
    check_image(uri(content))


def test_lossless_webp_is_measured_too() -> None:
    assert load_image(uri(encoded("WEBP", lossless=True))).pixels.shape == (4, 6, 3)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "PPM"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_image(uri(encoded(kind)))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_moving_pictures_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="has 3 frames; at most 1"):
        load_image(uri(encoded(kind, frames=3)))


@pytest.mark.parametrize("size", [(10_000, 5_001), (100_000, 100_000)])
def test_large_pictures_are_refused_by_their_header(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=f"{size[0] * size[1]} pixels .*at most 50000000"):
        load_image(uri(png(*size)))
    with pytest.raises(ConfigError, match="at most 50000000"):
        check_image(uri(png(*size)))


def test_large_webp_is_refused_before_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", None)
    sizes = (16_000).to_bytes(3, "little") * 2
    extended = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + b"\0" * 4 + sizes
    lossless = b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + struct.pack("<I", 0x0FFF_FFFF) + b"\0" * 5
    lossy = b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 10 + struct.pack("<HH", 16_000, 16_000)
    for content in (extended, lossless, lossy):
        with pytest.raises(ConfigError, match="at most 50000000"):
            load_image(uri(content))


def test_long_files_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.png"
    with path.open("wb") as file:
        file.truncate(limits.IMAGE_BYTES + 1)
    with pytest.raises(ConfigError, match="25000001 bytes; at most 25000000"):
        load_image(ImageSource(image=str(path)))
    monkeypatch.setattr(limits, "IMAGE_BYTES", 1000)
    with pytest.raises(ConfigError, match="bytes; at most"):
        load_image(uri(b"x" * 2000))


def test_depth_pictures_keep_their_sixteen_bits(tmp_path: Path) -> None:
    depth = np.full((4, 6), 1234, dtype=np.uint16)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    (tmp_path / "picture.png").write_bytes(encoded("PNG"))
    loaded = load_image(
        ImageSource(image=str(tmp_path / "picture.png"), depth=str(tmp_path / "depth.png"))
    )
    assert loaded.depth_mm is not None and loaded.depth_mm.max() == 1234


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "WEBP"]), st.integers(0, 60))
def test_broken_pictures_are_refused(noise: bytes, kind: str, place: int) -> None:
    content = encoded(kind)
    for broken in (noise, content[:place], content[:place] + noise):
        try:
            load_image(uri(broken))
        except ConfigError as error:
            assert str(error).startswith("image ")
