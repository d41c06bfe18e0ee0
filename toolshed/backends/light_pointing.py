"""Pointing at coloured objects by phrase: ``red cube``, ``red object``, plurals for ``detect_all``.

Pixels only. Colour finds candidates; the silhouette may only veto a clearly wrong shape. A point is
the mask pixel nearest the mask's centroid, so it lies on the object even where that is bent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from toolshed.backends.silhouettes import doubts, measure
from toolshed.errors import ToolRefusal
from toolshed.tools.pointing import Pointing
from toolshed.types import Detections, Point, ToolImage

Grey = npt.NDArray[np.int16]

CHANNELS: dict[str, tuple[bool, bool, bool]] = {
    "red": (True, False, False),
    "green": (False, True, False),
    "blue": (False, False, True),
    "yellow": (True, True, False),
    "cyan": (False, True, True),
    "purple": (True, False, True),
}
"""Which channels of a colour lie above the middle of its brightest and its darkest one."""
SHAPES = ("cube", "box", "ball", "cylinder", "cup")
PLURALS = {"boxes": "box"} | {f"{shape}s": shape for shape in (*SHAPES, "object")}
ARTICLES = ("the", "a", "an", "all")

MIN_CHROMA = 45
"""Grey levels between the brightest and the darkest channel of a coloured pixel."""
MAX_GREY_CHROMA = 30
MIN_WHITE = 150
MAX_BLACK = 46
MIN_SHARE = 0.001
"""Of the picture: smaller patches are noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrase:
    colour: str
    shape: str | None
    """None: any object of the colour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Patch:
    mask: npt.NDArray[np.bool_]
    """Filled, in its own crop."""
    grey: npt.NDArray[np.float32]
    top: int
    left: int
    size: int


class LightPointing(Pointing):
    def __init__(self, *, announce: bool = False) -> None:
        self._announce = announce

    def detect_one(self, image: ToolImage, obj_name: str) -> Detections:
        return self._detect(image, obj_name, limit=1)

    def detect_all(self, image: ToolImage, obj_name: str) -> Detections:
        return self._detect(image, obj_name, limit=None)

    def _detect(self, image: ToolImage, obj_name: str, *, limit: int | None) -> Detections:
        phrase = parse_phrase(obj_name)
        if phrase is None:
            raise ToolRefusal("not_found", f"not found: {obj_name}")
        patches = [patch for patch in _patches(image.pixels, phrase.colour) if _fits(phrase, patch)]
        if not patches:
            raise ToolRefusal("not_found", f"not found: {obj_name}")
        patches.sort(key=lambda patch: -patch.size)
        points = tuple(_middle(patch, image) for patch in patches[:limit])
        return Detections(obj_name=obj_name, points=points, announce=self._announce)


def parse_phrase(text: str) -> Phrase | None:
    """Colour and shape of ``[the] COLOUR SHAPE|object[s]``; None for any other wording."""
    words = text.lower().strip(" .?!\"'").split()
    while words and words[0] in ARTICLES:
        words = words[1:]
    if len(words) != 2:
        return None
    colour, noun = words[0], PLURALS.get(words[1], words[1])
    if colour not in (*CHANNELS, "white", "black") or noun not in (*SHAPES, "object"):
        return None
    return Phrase(colour=colour, shape=None if noun == "object" else noun)


def colour_mask(pixels: npt.NDArray[np.uint8], colour: str) -> npt.NDArray[np.bool_]:
    """Pixels of one of the eight colours, (H, W)."""
    red, green, blue = (pixels[..., channel].astype(np.int16) for channel in range(3))
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    chroma = high - low
    if colour == "white":
        return np.asarray((chroma < MAX_GREY_CHROMA) & (low > MIN_WHITE))
    if colour == "black":
        return np.asarray((chroma < MAX_GREY_CHROMA) & (high < MAX_BLACK))
    middle = (high + low) // 2
    mask = chroma > MIN_CHROMA
    for channel, above in zip((red, green, blue), CHANNELS[colour], strict=True):
        mask &= (channel > middle) == above
    return np.asarray(mask)


def _patches(pixels: npt.NDArray[np.uint8], colour: str) -> list[_Patch]:
    mask = colour_mask(pixels, colour)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return []
    # Labelling only the occupied rectangle halves the time of a call.
    top, left = int(rows[0]), int(columns[0])
    mask = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    slices = ndimage.find_objects(labels)
    patches = []
    for label in np.flatnonzero(sizes >= MIN_SHARE * pixels.shape[0] * pixels.shape[1]):
        if label == 0:
            continue
        place = slices[label - 1]
        first, second = top + place[0].start, left + place[1].start
        filled = ndimage.binary_fill_holes(np.pad(labels[place] == label, 1))[1:-1, 1:-1]
        crop = pixels[first : first + filled.shape[0], second : second + filled.shape[1]]
        patches.append(
            _Patch(
                mask=filled,
                grey=crop.mean(axis=2, dtype=np.float32),
                top=first,
                left=second,
                size=int(np.count_nonzero(filled)),
            )
        )
    return patches


def _fits(phrase: Phrase, patch: _Patch) -> bool:
    if phrase.shape is None:
        return True
    seen = measure(patch.mask, patch.grey)
    return seen is None or not doubts(phrase.shape, seen, dark_object=phrase.colour == "black")


def _middle(patch: _Patch, image: ToolImage) -> Point:
    rows, columns = np.nonzero(patch.mask)
    distance = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
    nearest = int(distance.argmin())
    return Point(
        u=(patch.left + int(columns[nearest]) + 0.5) / image.width,
        v=(patch.top + int(rows[nearest]) + 0.5) / image.height,
    )
