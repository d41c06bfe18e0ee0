"""A robot that stands in a room, over HTTP: it looks and moves, and is never asked a thing twice.

Nothing of it travels with the session: what changes is the room. Poses and places beyond the reach
that the config allows are refused before the robot hears of them.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from toolshed.backends.depth_pro import corner_cloud
from toolshed.backends.http_service import HttpService, arrays_of
from toolshed.errors import ConfigError, ToolFailure, ToolRefusal
from toolshed.images import make_image
from toolshed.tools.robot import Robot
from toolshed.types import CapturedImage, DepthEstimate, Json, Point, RobotAction, ToolImage

_ACTION = ("success", "execution_time_s")
_DEPTH = ("depth_map", "focal_length_px")


class RobotHttp(Robot):
    """The six functions over the release's HTTP contract."""

    def __init__(
        self,
        *,
        robot_api_url: str | None = None,
        look_timeout_s: float = 10.0,
        move_timeout_s: float = 60.0,
        reach_m: float = 2.0,
    ) -> None:
        """``reach_m`` is how far from the camera a pose or a place may lie."""
        self._service = HttpService("robot_api_url", robot_api_url)
        if not reach_m > 0:
            raise ConfigError(f"reach_m = {reach_m}; write a distance in metres above 0")
        self._look_s, self._move_s, self._reach_m = look_timeout_s, move_timeout_s, reach_m

    def capture_image(self, world: object = None) -> CapturedImage:
        body = self._service.get("/capture_image", timeout_s=self._look_s)
        try:
            with Image.open(io.BytesIO(body), formats=["PNG"]) as file:
                pixels = np.asarray(file.convert("RGB"), dtype=np.uint8)
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise ToolFailure("bad_response", f"/capture_image sent no PNG: {error}") from error
        return CapturedImage(image=make_image(pixels))

    def get_depth(self, world: object = None) -> DepthEstimate:
        return self._depth(cloud=False)

    def get_depth_with_pointcloud(self, world: object = None) -> DepthEstimate:
        return self._depth(cloud=True)

    def execute_grasp(
        self, grasp_pose: npt.NDArray[np.float64], world: object = None
    ) -> RobotAction:
        pose = np.asarray(grasp_pose, dtype=np.float64)
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise ToolRefusal("bad_pose", f"grasp_pose has shape {pose.shape}; (4, 4) is needed")
        self._check_reach("grasp_pose", pose[:3, 3])
        return self._moved("grasp", "/execute_grasp", {"grasp_pose": pose.tolist()})

    def place_object_at_2d_location(
        self, placement_point_2d: Point, world: object = None
    ) -> RobotAction:
        place: list[Json] = [placement_point_2d.u, placement_point_2d.v]
        return self._moved("place", "/place_object_at_2d_location", {"placement_point_2d": place})

    def place_object_at_3d_location(
        self, placement_point_3d: npt.NDArray[np.float64], world: object = None
    ) -> RobotAction:
        place = np.asarray(placement_point_3d, dtype=np.float64)
        if place.shape != (3,) or not np.isfinite(place).all():
            raise ToolRefusal("bad_point", "placement_point_3d must be three numbers")
        self._check_reach("placement_point_3d", place)
        return self._moved(
            "place", "/place_object_at_3d_location", {"placement_point_3d": place.tolist()}
        )

    def _check_reach(self, name: str, place_m: npt.NDArray[np.float64]) -> None:
        distance = float(np.linalg.norm(place_m))
        if distance > self._reach_m:
            raise ToolRefusal(
                "out_of_reach",
                f"{name} is {distance:.2f} m from the camera, farther than {self._reach_m:g} m",
            )

    def _depth(self, *, cloud: bool) -> DepthEstimate:
        body = self._service.get("/get_depth", timeout_s=self._look_s)
        arrays = arrays_of(body, "/get_depth", _DEPTH)
        depth_m = np.asarray(arrays["depth_map"], dtype=np.float32)
        focal_length_px = _number(arrays["focal_length_px"], "focal_length_px")
        if depth_m.ndim != 2 or not focal_length_px > 0:
            raise ToolFailure(
                "bad_response", f"/get_depth sent a map of {depth_m.shape}, f = {focal_length_px}"
            )
        return DepthEstimate(
            depth_m=depth_m,
            focal_length_px=focal_length_px,
            points=corner_cloud(depth_m, focal_length_px) if cloud else None,
            source="hardware",
        )

    def _moved(
        self, action: Literal["grasp", "place"], path: str, content: dict[str, Json]
    ) -> RobotAction:
        body = self._service.post(path, content, timeout_s=self._move_s)
        arrays = arrays_of(body, path, _ACTION)
        return RobotAction(
            action=action,
            success=bool(_number(arrays["success"], "success")),
            execution_time_s=_number(arrays["execution_time_s"], "execution_time_s"),
            image=_picture(arrays["image"]) if "image" in arrays else None,
            source="hardware",
        )


def _number(array: npt.NDArray[np.generic], name: str) -> float:
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise ToolFailure("bad_response", f"{name} is no number but {array.dtype} {array.shape}")
    return float(np.asarray(array, dtype=np.float64).reshape(-1)[0])


def _picture(array: npt.NDArray[np.generic]) -> ToolImage:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ToolFailure(
            "bad_response", f"image is no RGB picture but {array.dtype} {array.shape}"
        )
    return make_image(np.ascontiguousarray(array, dtype=np.uint8))
