"""What a scripted player writes and reads: calls to tools, and the replies of both profiles."""

from __future__ import annotations

import re
from dataclasses import dataclass

from toolshed.chat import Verbatim, write_call

_NUMBER = r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_PAIR = re.compile(rf"[(\[]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[)\]]")
_INDEXED = re.compile(rf'(?:"(?:depth|value)": | is )({_NUMBER})\}}?\s*$')
_REPLY = re.compile(r"<tool_response>\n(.*?)\n</tool_response>", re.DOTALL)
_REFUSALS = ("Error", "not found")
BOX_CORNERS = "Corners in normalized image coordinates:"
GRASP_POINTS = "Projected 2D gripper points:"


IMAGE = 0
"""The question's only picture, or the first that the robot takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A point as the tool spelled it, at most three decimals."""

    u: str
    v: str


# ---- reading replies ----------------------------------------------------------------------------


def read_replies(text: str) -> list[str]:
    """The replies of one user turn."""
    return _REPLY.findall(text)


def read_places(reply: str) -> list[Place]:
    """Every point of a reply; none where the tool refused."""
    if reply.startswith(_REFUSALS):
        return []
    return [Place(u=_short(u), v=_short(v)) for u, v in _PAIR.findall(reply)]


def read_depth(reply: str) -> str | None:
    """The depth that ``index_at`` read, None where it read nothing."""
    found = None if reply.startswith(_REFUSALS) else _INDEXED.search(reply)
    return _short(found[1]) if found and float(found[1]) > 0 else None


def _short(number: str) -> str:
    """As written if it has at most three decimals, else rounded to three."""
    return number if re.fullmatch(r"-?\d+\.\d{1,3}", number) else f"{float(number):.3f}"


def went_well(reply: str) -> bool:
    return not reply.startswith(_REFUSALS) and "failed" not in reply


# ---- calls --------------------------------------------------------------------------------------


def detect(name: str) -> str:
    return write_call("roborefer.detect_one", {"obj_name": name, "image_index": IMAGE})


def index_at(place: Place) -> str:
    return write_call(
        "vision_ops.index_at",
        {"data": "$depth_map", "u": Verbatim(place.u), "v": Verbatim(place.v)},
    )


def segment(place: Place) -> str:
    return write_call(
        "sam2.segment_from_point",
        {"x": Verbatim(place.u), "y": Verbatim(place.v), "image_index": IMAGE},
    )


_ON_MASK = {
    "point_cloud": "$point_cloud",
    "mask": "$segmentation_mask",
    "focal_length_px": "$focal_length_px",
}
DEPTH_MAP = write_call("depth_estimator.estimate_depth", {"image_index": IMAGE})
CLOUD = write_call("depth_estimator.estimate_depth_with_pointcloud", {"image_index": IMAGE})
COMPUTE_GRASP = write_call("grasp_generator.compute_grasp", {**_ON_MASK, "image_index": IMAGE})
COMPUTE_BOX = write_call("bounding_box.compute_bbox", _ON_MASK)
CAPTURE = write_call("robot.capture_image", {})
ROBOT_CLOUD = write_call("robot.get_depth_with_pointcloud", {})
EXECUTE = write_call("robot.execute_grasp", {"grasp_pose": "$grasp_pose"})


def put_down(u: str, v: str) -> str:
    return write_call("robot.place_object_at_2d_location", {"placement_point_2d": f"[{u}, {v}]"})
