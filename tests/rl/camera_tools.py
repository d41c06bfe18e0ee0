"""Test-only tools that bring pictures, long replies, refusals and failures; a host that delays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, ClassVar

import numpy as np

from toolshed.backend import Answer, Request
from toolshed.config import parse_tools
from toolshed.errors import ToolFailure, ToolRefusal
from toolshed.hosting import LocalHost, served_families
from toolshed.images import make_image
from toolshed.shed import Toolshed
from toolshed.tool import Family, Within, tool
from toolshed.toolset import ToolSet
from toolshed.types import CapturedImage, Detections, Json, Point, ToolImage

CAMERA: dict[str, Json] = {
    "replies": "compact",
    "camera": {"backend": "tests.rl.camera_tools:Camera"},
}


class Camera(Family):
    """Its own contract: pictures of other sizes than the one that was asked about."""

    name: ClassVar[str] = "camera"

    @tool
    def left(self, image: ToolImage) -> CapturedImage:
        """Show the left half.

        Args:
            image: Picture to cut.
        """
        return CapturedImage(image=make_image(image.pixels[:, : image.width // 2].copy()))

    @tool
    def top(self, image: ToolImage) -> CapturedImage:
        """Show the upper half.

        Args:
            image: Picture to cut.
        """
        return CapturedImage(image=make_image(image.pixels[: image.height // 2].copy()))

    @tool
    def points(self, num: Annotated[float, Within(1, 1000)]) -> Detections:
        """Say a reply as long as wanted.

        Args:
            num: How many points.
        """
        spread = np.linspace(0.0, 1.0, int(num))
        points = tuple(Point(u=float(value), v=0.5) for value in spread)
        return Detections(obj_name="dot", points=points)

    @tool
    def decline(self) -> CapturedImage:
        """Refuse."""
        raise ToolRefusal("no_mood", "not today")

    @tool
    def fail(self) -> CapturedImage:
        """Break."""
        raise ToolFailure("no_lens", "the lens fell off")


class DelayedHost:
    """The camera in this process; each answer leaves only after its delay."""

    def __init__(self, inner: LocalHost, delay_s: Callable[[Request], float]) -> None:
        self._inner, self._delay_s = inner, delay_s

    async def call(self, request: Request) -> Answer:
        await asyncio.sleep(self._delay_s(request))
        return await self._inner.call(request)

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        self._inner.close()


def camera_shed(delay_s: Callable[[Request], float] = lambda request: 0.0) -> Toolshed:
    config = parse_tools(CAMERA)
    tools = ToolSet.of(config)
    return Toolshed(config, tools, DelayedHost(LocalHost(served_families(config, tools)), delay_s))


class BrokenPointing:
    """Serves the roborefer family: its machinery is broken."""

    def detect_one(self, image: ToolImage, obj_name: str) -> Detections:
        raise ToolFailure("out_of_memory", f"no memory left to look for {obj_name}")
