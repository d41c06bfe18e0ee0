"""Pictures as variables, and variables as pictures of the conversation."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from toolshed.tool import Family, Picture, tool
from toolshed.types import TextReply


class VisualIO(Family):
    """Stores and shows pictures; a picture is named by its number or by its variable."""

    name: ClassVar[str] = "visual_io"

    @tool
    @abstractmethod
    def store_image(self, image: Picture, name: str | None = None) -> TextReply:
        """Keep a picture as a variable.

        Args:
            image: Number of an image of the conversation, from 0, or a variable with one.
            name: Name of the variable (letters, digits, underscores); may be left out.
        """

    @tool
    @abstractmethod
    def view_image(self, image: Picture) -> TextReply:
        """Show a picture; it joins the conversation as the next image.

        Args:
            image: Number of an image of the conversation, from 0, or a variable with one.
        """
