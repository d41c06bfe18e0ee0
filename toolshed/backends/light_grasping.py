"""Top-down grasps over an object's visible extent, kept when the gripper touches nothing else.

Opposite contacts cannot be had from one view, because the far side is hidden. The fingers close
across the completed box of the object instead, preferably its narrow side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolshed.backends.light_boxes import UprightBox, upright_box
from toolshed.backends.supports import (
    Floats,
    ObjectPoints,
    Support,
    check_before_camera,
    object_points,
)
from toolshed.errors import ToolRefusal
from toolshed.tabletop.gripper import (
    FINGER_HALF_M,
    FINGER_LENGTH_M,
    MAX_OPENING_M,
    PALM_HALF_M,
    key_points_m,
    key_points_uv,
    top_down,
)
from toolshed.tools.grasping import Grasping
from toolshed.types import GraspEstimate, ToolImage

CLEARANCE_M = 0.004
"""Between a finger and the object on each side before closing."""
TURNS_DEG = (0.0, -12.0, 12.0, -24.0, 24.0)
SLIDES = (0.0, -0.18, 0.18)
"""Along the held side, in sides."""
MIN_CONTACTS = 3
"""Points inside the gripper that make a collision; fewer are noise."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Candidate:
    pose: Floats
    width_m: float
    confidence: float


class LightGrasping(Grasping):
    def compute_grasp(
        self,
        point_cloud: npt.NDArray[np.float32],
        mask: npt.NDArray[np.bool_],
        focal_length_px: float,
        image: ToolImage,
    ) -> GraspEstimate:
        seen = object_points(point_cloud, mask, focal_length_px)
        if seen.support is None:
            raise ToolRefusal("no_support", "No surface was found on which the object stands.")
        if len(seen.smooth_m) < 20:
            raise ToolRefusal("no_points", f"{len(seen.smooth_m)} points are too few for a grasp.")
        box = upright_box(seen.smooth_m, seen.support)
        candidates = _candidates(seen, box, seen.support)
        if not candidates:
            narrow = float(min(box.size_m[:2]))
            raise ToolRefusal(
                "too_wide",
                f"Top-down filtering removed all grasps: the object is {narrow:.3f} m wide, "
                f"the gripper opens {MAX_OPENING_M:.3f} m.",
            )
        free = [each for each in candidates if not _collides(each, seen)]
        if not free:
            raise ToolRefusal("collision", "No collision-free grasps found.")
        best = max(free, key=lambda each: each.confidence)
        check_before_camera(key_points_m(best.pose), "gripper")
        return GraspEstimate(
            pose=best.pose,
            confidence=best.confidence,
            keypoints_uv=key_points_uv(best.pose, focal_length_px, image.width, image.height),
            num_masked=len(seen.masked_m),
            num_total=seen.num_total,
            num_generated=len(candidates),
            num_collision_free=len(free),
        )


def _candidates(seen: ObjectPoints, box: UprightBox, support: Support) -> list[_Candidate]:
    """Grasps from above across either side that the opened fingers can span."""
    found = []
    points = support.to_plane(seen.smooth_m)
    foot = box.pose[:3, 3] * np.array([1.0, 1.0, 0.0])
    bottom = box.centre_m[2] - box.size_m[2] / 2
    for side in (0, 1):
        for turn_deg in TURNS_DEG:
            angle = box.yaw_rad + side * np.pi / 2 + np.radians(turn_deg)
            closing = np.array([np.cos(angle), np.sin(angle), 0.0])
            along = np.array([-np.sin(angle), np.cos(angle), 0.0])
            width = _span(points, box, closing)
            if width > MAX_OPENING_M - 2 * CLEARANCE_M:
                continue
            for slide in SLIDES:
                shift = slide * box.size_m[1 - side]
                centre = foot + along * shift + np.array([0.0, 0.0, bottom])
                pose = top_down(
                    support.to_camera(centre),
                    support.rotation @ closing,
                    support.rotation[:, 2],
                    float(box.size_m[2]),
                )
                penalty = 0.006 * abs(turn_deg) + 1.2 * abs(slide)
                confidence = float(np.exp(-6.0 * width - penalty))
                found.append(_Candidate(pose=pose, width_m=width, confidence=confidence))
    return found


def _span(points: Floats, box: UprightBox, closing: Floats) -> float:
    """Width of the object along the closing direction, hidden half of a ball included."""
    seen = points @ closing
    low, high = np.percentile(seen, [0.7, 99.3])
    centre = float(box.centre_m @ closing)
    return 2.0 * max(float(high) - centre, centre - float(low))


def _collides(candidate: _Candidate, seen: ObjectPoints) -> bool:
    """Whether opened fingers or palm meet anything but the object between them."""
    inverse = np.linalg.inv(candidate.pose)
    others = seen.others_m @ inverse[:3, :3].T + inverse[:3, 3]
    own = seen.smooth_m @ inverse[:3, :3].T + inverse[:3, 3]
    return _inside_gripper(others) >= MIN_CONTACTS or _inside_palm(own) >= MIN_CONTACTS


def _inside_gripper(points: Floats) -> int:
    half_x, half_y = FINGER_HALF_M
    middle = MAX_OPENING_M / 2 + half_x
    fingers = (
        (np.abs(np.abs(points[:, 0]) - middle) < half_x)
        & (np.abs(points[:, 1]) < half_y)
        & (points[:, 2] > 0.0)
        & (points[:, 2] < FINGER_LENGTH_M)
    )
    return int(np.count_nonzero(fingers)) + _inside_palm(points)


def _inside_palm(points: Floats) -> int:
    x, y, z = PALM_HALF_M
    inside = (np.abs(points[:, 0]) < x) & (np.abs(points[:, 1]) < y)
    return int(np.count_nonzero(inside & (points[:, 2] < 0.0) & (points[:, 2] > -2 * z)))
