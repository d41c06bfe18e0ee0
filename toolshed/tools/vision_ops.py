"""Small operations on what other tools have kept."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from toolshed.tool import Family, PixelData, UnitFloat, tool
from toolshed.types import IndexedValue


class VisionOps(Family):
    """Reads arrays that are laid out like a picture."""

    name: ClassVar[str] = "vision_ops"

    @tool
    @abstractmethod
    def index_at(self, data: PixelData, u: UnitFloat, v: UnitFloat) -> IndexedValue:
        """Read one pixel of a depth map, a mask or another array laid out like an image.

        Args:
            data: The array to read, for example $depth_map.
            u: Horizontal position, 0 at the left edge and 1 at the right.
            v: Vertical position, 0 at the top edge and 1 at the bottom.
        """
