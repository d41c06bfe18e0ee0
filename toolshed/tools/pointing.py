"""Pointing: from words to places in a picture. Two models share the contract."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from toolshed.tool import Family, tool
from toolshed.types import Detections, ToolImage


class Pointing(Family):
    """Finds named objects, parts or free places; answers in normalised image points."""

    name: ClassVar[str] = "roborefer"

    @tool
    @abstractmethod
    def detect_all(self, image: ToolImage, obj_name: str) -> Detections:
        """Point at every object in an image that fits a name.

        Returns a list of (x, y) points between 0 and 1, measured from the top left corner.

        Args:
            image: Which image of the conversation to look at, counted from 0.
            obj_name: Short name of what to look for, for example 'red cup'.
        """

    @tool
    @abstractmethod
    def detect_one(self, image: ToolImage, obj_name: str) -> Detections:
        """Point at the one object or place in an image that fits a description best.

        Returns a list with one (x, y) point between 0 and 1, measured from the top left corner.

        Args:
            image: Which image of the conversation to look at, counted from 0.
            obj_name: What to point at, for example 'red cup' or 'free space left of the box'.
        """


class AnnouncedPointing(Pointing):
    """The same functions by another model, which also keeps its points as a variable."""

    name: ClassVar[str] = "vlm"

    @tool
    @abstractmethod
    def detect_all(self, image: ToolImage, obj_name: str) -> Detections:
        """Point at every object in an image that fits a name.

        Returns a list of (x, y) points between 0 and 1, measured from the top left corner.
        Keeps them as the variable $<obj_name>_detections, blanks written as underscores.

        Args:
            image: Which image of the conversation to look at, counted from 0.
            obj_name: Short singular name of what to look for, for example 'cup'.
        """

    @tool
    @abstractmethod
    def detect_one(self, image: ToolImage, obj_name: str) -> Detections:
        """Point at one object in an image that fits a name.

        Returns a list with one (x, y) point between 0 and 1, measured from the top left corner.
        Keeps it as the variable $<obj_name>_detections, blanks written as underscores.

        Args:
            image: Which image of the conversation to look at, counted from 0.
            obj_name: Short name of what to look for, for example 'cup'.
        """
