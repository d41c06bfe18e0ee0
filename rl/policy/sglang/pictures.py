"""Pictures as engines take them: resized by our own processor and without loss, written once.

Engines resize with another library than we do. A picture that has the processor's target size
already passes through both unchanged, so learner and engine see the same pixels.
"""

from __future__ import annotations

import base64
import io
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image

from sft.render import Renderer
from sft.run_dir import draft_file
from toolshed.errors import ConfigError
from toolshed.images import make_image
from toolshed.types import ToolImage

_KEPT_INLINE = 4096


class PictureStore:
    """Files named by the hash of their picture, or data URIs where ``folder`` is None."""

    def __init__(self, renderer: Renderer, folder: Path | None) -> None:
        self._renderer = renderer
        self._has_compared = False
        self._folder = folder
        self._known: OrderedDict[str, str] = OrderedDict()
        self.num_written = 0
        self.num_bytes = 0
        """Of the distinct pictures, encoded."""

    def reference(self, image: ToolImage) -> str:
        """What stands for the picture in a request: an absolute path or a data URI."""
        known = self._known.get(image.sha256)
        if known is not None:
            self._known.move_to_end(image.sha256)
            return known
        data = self._encoded(image)
        self.num_written += 1
        self.num_bytes += len(data)
        made = self._kept(image.sha256, data)
        self._known[image.sha256] = made
        # A file stays where it is; only what is held in memory is bounded.
        if self._folder is None and len(self._known) > _KEPT_INLINE:
            self._known.popitem(last=False)
        return made

    def _kept(self, name: str, data: bytes) -> str:
        if self._folder is None:
            return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
        path = self._folder.resolve() / f"{name}.png"
        with draft_file(path) as draft:
            draft.write_bytes(data)
        return str(path)

    def _encoded(self, image: ToolImage) -> bytes:
        picture = resized(self._renderer, image)
        if not self._has_compared and picture.size != (image.width, image.height):
            self._compare(picture, image)
        buffer = io.BytesIO()
        # Level 1: the engine's disk is near, and compressing holds up the event loop.
        picture.save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue()

    def _compare(self, picture: Image.Image, image: ToolImage) -> None:
        """Once: what the engine will read is what the learner reads."""
        theirs = self._renderer.vision(make_image(np.asarray(picture))).patches
        if not np.array_equal(theirs, self._renderer.vision(image).patches):
            raise ConfigError(
                "the checkpoint's picture processor does not resize as Pillow does, so engine and "
                "learner would see different pixels; resize the pictures beforehand"
            )
        self._has_compared = True


def resized(renderer: Renderer, image: ToolImage) -> Image.Image:
    """The picture in the size that the processor cuts into patches, by its own filter."""
    processor = renderer.image_processor
    _, rows, columns = renderer.vision(image).grid
    size = (columns * int(processor.patch_size), rows * int(processor.patch_size))
    picture = Image.fromarray(np.ascontiguousarray(image.pixels))
    return picture if picture.size == size else picture.resize(size, processor.resample)
