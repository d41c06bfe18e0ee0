"""Pictures as engines take them: resized by our own processor and without loss, written once.

Engines resize with another library than we do. A picture that has the processor's target size
already passes through both unchanged, so learner and engine see the same pixels.
"""

from __future__ import annotations

import base64
import io
import shutil
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from sft.render import Renderer
from sft.run_dir import draft_file
from toolshed.errors import ConfigError
from toolshed.images import make_image
from toolshed.types import ToolImage

KEPT_BYTES = 4 << 30
"""Of files on this machine's disk."""
KEPT_BYTES_INLINE = 512 << 20
"""Of this process's memory."""


@dataclass(kw_only=True, slots=True)
class _Kept:
    """One picture."""

    reference: str
    num_bytes: int
    users: set[str] = field(default_factory=set)
    """Trajectories that may name it in a request."""


class PictureStore:
    """Files named by the hash of their picture, or data URIs where ``folder`` is None.

    Bounded by bytes: what no live trajectory uses goes, least recently used first.
    """

    def __init__(
        self, renderer: Renderer, folder: Path | None, *, kept_bytes: int | None = None
    ) -> None:
        """``folder`` is this object's own: what another run left there is deleted."""
        self._renderer = renderer
        self._has_compared = False
        self._folder = folder
        self._kept_bytes = kept_bytes or (KEPT_BYTES if folder else KEPT_BYTES_INLINE)
        self._known: OrderedDict[str, _Kept] = OrderedDict()
        """By hash, the least recently used first."""
        self._used_by: defaultdict[str, set[str]] = defaultdict(set)
        """By trajectory, hashes."""
        self._held_bytes = 0
        self.num_written = 0
        self.num_bytes = 0
        """Of all that were written, encoded."""
        self.clear()

    def reference(self, image: ToolImage, trajectory: str) -> str:
        """What stands for the picture in a request: an absolute path or a data URI.

        It is kept until the trajectory was released.
        """
        name = image.sha256
        if name not in self._known:
            data = self._encoded(image)
            self.num_written += 1
            self.num_bytes += len(data)
            made = self._reference(name, data)
            self._known[name] = _Kept(reference=made, num_bytes=len(data))
            self._held_bytes += len(data)
        self._known.move_to_end(name)
        self._known[name].users.add(trajectory)
        self._used_by[trajectory].add(name)
        self._shrink()
        return self._known[name].reference

    def release(self, trajectory: str) -> None:
        """The trajectory sends nothing more; unknown ones are ignored."""
        for name in self._used_by.pop(trajectory, ()):
            self._known[name].users.discard(trajectory)
        self._shrink()

    def clear(self) -> None:
        """Forget all pictures, used or not."""
        self._known.clear()
        self._used_by.clear()
        self._held_bytes = 0
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _shrink(self) -> None:
        if self._held_bytes <= self._kept_bytes:
            return
        for name in [name for name, each in self._known.items() if not each.users]:
            gone = self._known.pop(name)
            self._held_bytes -= gone.num_bytes
            if self._folder is not None:
                Path(gone.reference).unlink(missing_ok=True)
            if self._held_bytes <= self._kept_bytes:
                return

    def _reference(self, name: str, data: bytes) -> str:
        if self._folder is None:
            return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
        path = self._folder.resolve() / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
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
