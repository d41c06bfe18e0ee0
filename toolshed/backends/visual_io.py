"""Pictures kept under a name, and shown."""

from __future__ import annotations

import re

from toolshed.errors import ToolRefusal
from toolshed.tools.visual_io import VisualIO
from toolshed.types import TextReply, ToolImage, Variable

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


class PlainVisualIO(VisualIO):
    def store_image(self, image: ToolImage, name: str | None = None) -> TextReply:
        # Of its content, so that the same picture has the same name every time.
        chosen = f"var_image_{image.sha256[:8]}" if name is None else name.removeprefix("$")
        if not _NAME.fullmatch(chosen):
            raise ToolRefusal(
                "bad_argument",
                f"name: got {chosen!r}; allowed: a letter, then up to 63 letters, digits and "
                "underscores",
            )
        return TextReply(
            text=f"Stored the image as ${chosen}.",
            variables=(Variable(name=chosen, kind="image", value=image),),
        )

    def view_image(self, image: ToolImage) -> TextReply:
        return TextReply(text="Displaying image.", images=(image,))
