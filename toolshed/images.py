"""Pictures from files and data URIs, with their depth and focal length, hashed once."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from toolshed.errors import ConfigError
from toolshed.types import ToolImage


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSource:
    """Where a picture lies: each of ``image`` and ``depth`` is a path or a base64 data URI."""

    image: str
    depth: str | None = None
    """16-bit PNG in millimetres of the same size."""
    focal_length_px: float | None = None


def load_image(source: ImageSource) -> ToolImage:
    """Read a picture; raises ConfigError naming the file where it cannot be read."""
    pixels = np.asarray(_open(source.image).convert("RGB"), dtype=np.uint8)
    depth_mm = None
    if source.depth is not None:
        depth_mm = np.asarray(_open(source.depth)).astype(np.uint16)
        if depth_mm.shape != pixels.shape[:2]:
            raise ConfigError(
                f"depth image {_short(source.depth)} has size {depth_mm.shape}, its picture "
                f"{_short(source.image)} {pixels.shape[:2]}; height and width must agree"
            )
    return make_image(pixels, depth_mm, source.focal_length_px)


@lru_cache(maxsize=65536)
def check_image(source: ImageSource) -> None:
    """Raise ConfigError where a picture is missing or damaged, without decoding its pixels."""
    for location in (source.image, source.depth):
        if location is not None:
            _read(location, lambda image: image.verify())


def make_image(
    pixels: npt.NDArray[np.uint8],
    depth_mm: npt.NDArray[np.uint16] | None = None,
    focal_length_px: float | None = None,
) -> ToolImage:
    """A ToolImage from arrays of shape (H, W, 3) and (H, W), with its hash."""
    digest = hashlib.sha256(str(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes())
    if depth_mm is not None:
        digest.update(np.ascontiguousarray(depth_mm).tobytes())
    if focal_length_px is not None:
        digest.update(repr(float(focal_length_px)).encode())
    return ToolImage(
        pixels=pixels, depth_mm=depth_mm, focal_length_px=focal_length_px, sha256=digest.hexdigest()
    )


def _open(location: str) -> Image.Image:
    return _read(location, lambda image: image.load())


def _read(location: str, use: Callable[[Image.Image], object]) -> Image.Image:
    try:
        if location.startswith("data:"):
            payload = location.partition(",")[2]
            file: io.BytesIO | Path = io.BytesIO(base64.b64decode(payload, validate=True))
        else:
            file = Path(location)
        with Image.open(file) as image:
            use(image)
    except FileNotFoundError as error:
        raise ConfigError(
            f"image {location} does not exist; check the path in the data set"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, binascii.Error, ValueError) as error:
        raise ConfigError(f"image {_short(location)} cannot be read: {error}") from error
    return image


def _short(location: str) -> str:
    return location if len(location) < 120 else f"{location[:60]}... ({len(location)} characters)"
