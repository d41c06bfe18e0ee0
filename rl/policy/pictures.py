"""Pictures as providers take them: base64 of a PNG or a JPEG, encoded once in a process."""

from __future__ import annotations

import base64
import io
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, TypeAlias

from PIL import Image

from toolshed.errors import ConfigError
from toolshed.types import ToolImage

log = logging.getLogger(__name__)

Format: TypeAlias = Literal["png", "jpeg"]
_QUALITY = 90
_KEPT = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedPicture:
    """One picture as it is sent."""

    media_type: str
    data: str
    """Base64."""


_encoded: OrderedDict[tuple[str, Format, int], EncodedPicture] = OrderedDict()


def encoded_picture(image: ToolImage, form: Format, most_chars: int) -> EncodedPicture:
    """The picture in base64 of at most ``most_chars`` characters; kept by its hash.

    A PNG beyond that becomes a JPEG; ConfigError where that is too long as well.
    """
    key = (image.sha256, form, most_chars)
    known = _encoded.get(key)
    if known is not None:
        _encoded.move_to_end(key)
        return known
    made = _encode(image, form)
    if len(made.data) > most_chars and form == "png":
        log.warning("picture %s is too large as PNG and sent as JPEG", image.sha256[:12])
        made = _encode(image, "jpeg")
    if len(made.data) > most_chars:
        raise ConfigError(
            f"picture {image.sha256[:12]} ({image.width}x{image.height}) takes {len(made.data)} "
            f"characters and the provider at most {most_chars}; leave its question out, or make "
            "the picture smaller"
        )
    _encoded[key] = made
    if len(_encoded) > _KEPT:
        _encoded.popitem(last=False)
    return made


def _encode(image: ToolImage, form: Format) -> EncodedPicture:
    buffer = io.BytesIO()
    Image.fromarray(image.pixels).save(buffer, format=form.upper(), quality=_QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return EncodedPicture(media_type=f"image/{form}", data=data)
