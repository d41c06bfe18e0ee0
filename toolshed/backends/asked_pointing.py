"""Pointing by a vision-language model that is asked in words and answers in text.

What is asked can be changed in the tool config: ``{obj_name}`` stands for what the caller wants.
Runs in any environment, also under Python 3.10.
"""

from __future__ import annotations

import string
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from toolshed.errors import ConfigError, ToolRefusal
from toolshed.tools.pointing import Pointing
from toolshed.types import Detections, Point, ToolImage


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One picture and what is said to the model about it."""

    image: ToolImage
    text: str


class AskedPointing(Pointing):
    """Asks, and reads points from the answer; subclasses bring the model and the form of points."""

    def __init__(self, *, announce: bool, ask_one: str, ask_all: str) -> None:
        for name, template in (("ask_one", ask_one), ("ask_all", ask_all)):
            fields = [field for _, field, _, _ in string.Formatter().parse(template) if field]
            if fields != ["obj_name"]:
                raise ConfigError(
                    f"{name} = {template!r} must hold {{obj_name}} once, nothing else"
                )
        self._announce = announce
        self._asks = {"detect_one": ask_one, "detect_all": ask_all}

    @abstractmethod
    def written(self, asked: Sequence[Asked]) -> list[str]:
        """What the model writes about each picture."""

    @abstractmethod
    def read(self, text: str) -> tuple[Point, ...]:
        """The points of a text; ToolRefusal where it cannot be read."""

    def detect_one(self, image: ToolImage, obj_name: str) -> Detections:
        return self._alone("detect_one", image, obj_name)

    def detect_all(self, image: ToolImage, obj_name: str) -> Detections:
        return self._alone("detect_all", image, obj_name)

    def batch_key(self, method: str, arguments: Mapping[str, object]) -> object:
        """Calls go alone unless a subclass knows better."""
        return None

    def batch(
        self, method: str, calls: Sequence[Mapping[str, object]]
    ) -> Sequence[Detections | ToolRefusal]:
        names = [cast(str, arguments["obj_name"]) for arguments in calls]
        asked = [
            Asked(
                image=cast(ToolImage, arguments["image"]),
                text=self._asks[method].format(obj_name=name),
            )
            for arguments, name in zip(calls, names, strict=True)
        ]
        texts = self.written(asked)
        return [self._found(method, *each) for each in zip(names, texts, strict=True)]

    def _alone(self, method: str, image: ToolImage, obj_name: str) -> Detections:
        (found,) = self.batch(method, [{"image": image, "obj_name": obj_name}])
        if isinstance(found, ToolRefusal):
            raise found
        return found

    def _found(self, method: str, obj_name: str, text: str) -> Detections | ToolRefusal:
        try:
            points = self.read(text)
        except ToolRefusal as refusal:
            return refusal
        if not points:
            return ToolRefusal("not_found", f"not found: {obj_name}")
        kept = points[:1] if method == "detect_one" else points
        return Detections(obj_name=obj_name, points=kept, announce=self._announce)
