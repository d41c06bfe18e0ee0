"""Pictures that have no file of their own, kept by the hash of their pixels, to train on again."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import Image

from sft.run_dir import draft_file
from toolshed.images import ImageSource, load_image, make_image
from toolshed.types import ToolImage

FOLDER = "pictures"
"""Inside a run's folder."""


def pixel_hash(image: ToolImage) -> str:
    """The picture's hash without its depth image and focal length, which no policy sees."""
    if image.depth_mm is None and image.focal_length_px is None:
        return image.sha256
    return make_image(image.pixels).sha256


def keep(image: ToolImage, folder: Path) -> None:
    """Write a picture losslessly, unless it is there."""
    path = _path(folder, pixel_hash(image))
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with draft_file(path) as draft:
            Image.fromarray(image.pixels).save(draft, format="PNG")


class KeptPictures:
    """The pictures of a run, without depth; each is read once while it is in use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._load = lru_cache(maxsize=256)(_load)

    def find(self, pixels: str, location: str) -> ToolImage | None:
        """The picture of that pixel hash, from its own file or else the one that was kept; None
        where neither holds it, ConfigError where a file cannot be read."""
        for path in (Path(location), _path(self._folder, pixels)):
            if path.is_file():
                image = self._load(path)
                if image.sha256 == pixels:
                    return image
        return None


def _path(folder: Path, pixels: str) -> Path:
    return folder / f"{pixels}.png"


def _load(path: Path) -> ToolImage:
    return load_image(ImageSource(image=str(path)))
