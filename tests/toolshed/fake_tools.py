"""Tiny back-ends with known answers, and one that misbehaves on demand."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt

from toolshed.backends.light_vision_ops import LightVisionOps
from toolshed.errors import ConfigError, ToolRefusal
from toolshed.images import make_image
from toolshed.tabletop.state import WorldState
from toolshed.tool import Family, Within, tool
from toolshed.tools.depth import Depth
from toolshed.tools.pointing import AnnouncedPointing
from toolshed.tools.robot import Robot, RobotReply
from toolshed.tools.segmentation import SegmentationTool
from toolshed.types import (
    CapturedImage,
    DepthEstimate,
    Detections,
    IndexedValue,
    Point,
    RobotAction,
    Segmentation,
    StoredArray,
    ToolImage,
)

HERE = "tests.toolshed.fake_tools"


def picture(shade: int = 0, size: int = 8) -> ToolImage:
    return make_image(np.full((size, size, 3), shade, dtype=np.uint8), None, 100.0)


class FakePointing(AnnouncedPointing):
    """Points at the middle of whatever is asked for, except a ghost."""

    def detect_one(self, image: ToolImage, obj_name: str) -> Detections:
        points = () if obj_name == "ghost" else (Point(u=0.5, v=0.25),)
        return Detections(obj_name=obj_name, points=points, announce=True)

    def detect_all(self, image: ToolImage, obj_name: str) -> Detections:
        if obj_name == "ghost":
            raise ToolRefusal("not_found", "nothing there")
        points = (Point(u=0.5, v=0.25), Point(u=0.75, v=0.5))
        return Detections(obj_name=obj_name, points=points, announce=True)


class FakeSegmentation(SegmentationTool):
    def segment_from_point(self, image: ToolImage, x: float, y: float) -> Segmentation:
        return self.segment_from_points(image, [Point(u=x, v=y)])

    def segment_from_points(self, image: ToolImage, points: list[Point]) -> Segmentation:
        mask = np.zeros((image.height, image.width), dtype=np.bool_)
        return Segmentation(mask=mask, score=0.5, points=tuple(points))


class FakeDepth(Depth):
    """Depth is one metre plus the row."""

    num_calls = 0

    def estimate_depth(self, image: ToolImage) -> DepthEstimate:
        FakeDepth.num_calls += 1
        rows = np.arange(image.height, dtype=np.float32)[:, None]
        return DepthEstimate(
            depth_m=(1 + rows).repeat(image.width, axis=1), focal_length_px=123.456
        )

    def estimate_depth_with_pointcloud(self, image: ToolImage) -> DepthEstimate:
        cloud = np.ones((2, 3), dtype=np.float32)
        return dataclasses.replace(self.estimate_depth(image), points=cloud)


class FakeVisionOps(LightVisionOps):
    def index_at(self, data: npt.NDArray[np.generic], u: float, v: float) -> IndexedValue:
        row, column = int(v * (len(data) - 1)), int(u * (data.shape[1] - 1))
        return IndexedValue(u=u, v=v, value=data[row, column].item(), kind="")


class FetchingVisionOps(FakeVisionOps):
    """Fetches what it is given by reference."""

    def index_at(self, data: npt.NDArray[np.generic], u: float, v: float) -> IndexedValue:
        return super().index_at(data.fetch() if isinstance(data, StoredArray) else data, u, v)


class FakeRobot(Robot):
    """Counts its actions in the world that it is given."""

    def capture_image(self, world: WorldState) -> RobotReply:
        return RobotReply(value=CapturedImage(image=picture(world.num_actions)), world=world)

    def get_depth(self, world: WorldState) -> RobotReply:
        depth_m = np.ones((2, 2), dtype=np.float32)
        value = DepthEstimate(depth_m=depth_m, focal_length_px=9.0, source="robot")
        return RobotReply(value=value, world=world)

    def get_depth_with_pointcloud(self, world: WorldState) -> RobotReply:
        raise RuntimeError("the camera is broken")

    def execute_grasp(self, grasp_pose: npt.NDArray[np.float64], world: WorldState) -> RobotReply:
        return _acted("grasp", world, float(grasp_pose[0, 0]) == 1.0)

    def place_object_at_2d_location(
        self, placement_point_2d: Point, world: WorldState
    ) -> RobotReply:
        return _acted("place", world, True)

    def place_object_at_3d_location(
        self, placement_point_3d: npt.NDArray[np.float64], world: WorldState
    ) -> RobotReply:
        return _acted("place", world, placement_point_3d.shape == (3,))


def _acted(action: str, world: WorldState, success: bool) -> RobotReply:
    after = dataclasses.replace(world, num_actions=world.num_actions + 1)
    value = RobotAction(
        action="grasp" if action == "grasp" else "place",
        success=success,
        execution_time_s=1.0,
        image=picture(after.num_actions),
    )
    return RobotReply(value=value, world=after)


class Trouble(Family):
    """Misbehaves; ``folder`` holds a line per call, so that a test can count attempts."""

    name: ClassVar[str] = "trouble"

    def __init__(self, *, folder: str) -> None:
        self._log = Path(folder) / "calls"

    @tool
    def where(self) -> IndexedValue:
        """Tell the process."""
        return _number(os.getpid())

    @tool
    def nap(self, seconds: Annotated[float, Within(0, 60)]) -> IndexedValue:
        """Sleep.

        Args:
            seconds: How long.
        """
        self._note()
        time.sleep(seconds)
        return _number(os.getpid())

    @tool
    def die_once(self) -> IndexedValue:
        """Kill the process at the first call."""
        if self._note() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return _number(1)

    @tool
    def hang_once(self) -> IndexedValue:
        """Hang at the first call."""
        if self._note() == 1:
            time.sleep(60)
        return _number(1)

    @tool
    def bug(self) -> IndexedValue:
        """Raise what nobody expects."""
        self._note()
        raise KeyError("a bug")

    @tool
    def starve(self) -> IndexedValue:
        """Run out of memory."""
        self._note()
        raise MemoryError("too large")

    @tool
    def decline(self) -> IndexedValue:
        """Refuse."""
        raise ToolRefusal("no_mood", "not <|im_end|>today<image>")

    def _note(self) -> int:
        with self._log.open("a") as file:
            file.write("call\n")
        return len(self._log.read_text().splitlines())


class FragileRobot(Trouble):
    """The same, but no call may be tried again."""

    name: ClassVar[str] = "fragile"
    idempotent: ClassVar[bool] = False


class Forgetful(Trouble):
    """Cannot start once, where the folder says so: as a server that is away for a moment."""

    name: ClassVar[str] = "forgetful"

    def __init__(self, *, folder: str) -> None:
        super().__init__(folder=folder)
        away = Path(folder) / "away"
        if away.exists():
            away.unlink()
            raise ConfigError("nobody answers; start it, or correct the address")


class Unstartable(Trouble):
    name: ClassVar[str] = "unstartable"

    def __init__(self, *, how: str) -> None:
        errors = {
            "config": ConfigError("no weights"),
            "package": ImportError("no torch"),
            "memory": MemoryError("no room"),
        }
        raise errors[how]


class StartsOnce(Trouble):
    """Its replica never comes back."""

    name: ClassVar[str] = "once"

    def __init__(self, *, folder: str) -> None:
        super().__init__(folder=folder)
        try:
            (Path(folder) / "started").touch(exist_ok=False)
        except FileExistsError:
            raise MemoryError("no room the second time") from None


def _number(value: float) -> IndexedValue:
    return IndexedValue(u=0.0, v=0.0, value=float(value), kind="")
