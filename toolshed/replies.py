"""What a tool's answer says to a model, and the variables that it leaves behind.

Two profiles: ``released`` has the field order and literal tokens that released checkpoints were
trained on, ``compact`` one short line with two fixed decimals. No tool formats text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from toolshed import code_text
from toolshed.errors import ToolRefusal
from toolshed.types import (
    CapturedImage,
    CodeRun,
    DepthEstimate,
    Detections,
    GraspEstimate,
    IndexedValue,
    KnownDepth,
    OrientedBox,
    RobotAction,
    Segmentation,
    TextReply,
    ToolImage,
    ToolValue,
    Variable,
)

Profile: TypeAlias = Literal["released", "compact"]
Defects: TypeAlias = Literal["fixed", "released"]

# fmt: off
BOX_EDGES: tuple[tuple[int, int], ...] = (
    (0, 1), (0, 2), (0, 3), (1, 6), (1, 7), (2, 5),
    (2, 7), (3, 5), (3, 6), (4, 5), (4, 6), (4, 7),
)
"""Pairs of corners that an edge joins, for corners in Open3D's ``get_box_points`` order."""
# The released list numbers corners ring by ring, which does not fit their order (defect D27).
_RELEASED_EDGES: tuple[tuple[int, int], ...] = (
    (0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6),
    (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7),
)
# fmt: on


def render(
    value: ToolValue,
    profile: Profile,
    defects: Defects = "fixed",
    *,
    method: str = "",
    image_index: int | str | None = None,
) -> str:
    """What the model reads; ``image_index`` is that of a picture which joins the conversation."""
    if profile == "compact":
        return _compact(value, image_index)
    return _released(value, defects, method)


def render_refusal(refusal: ToolRefusal, profile: Profile, obj_name: str | None = None) -> str:
    """What the model reads where nothing was done; ``obj_name`` is what a detection looked for."""
    if refusal.reason == "not_found" and obj_name is not None:
        if profile == "compact":
            return f"not found: {obj_name}"
        return _released(Detections(obj_name=obj_name, points=()), "fixed", "")
    if profile == "compact":
        return refusal.text
    if refusal.reason == "unknown_tool":
        return f"Error when executing tool: {refusal.text}"
    return f"Error: {refusal.text}"


def variables(value: ToolValue, defects: Defects = "fixed") -> tuple[Variable, ...]:
    """What a session keeps of an answer, under the published names."""
    if isinstance(value, Detections) and value.announce and value.points:
        name = _variable_name(value.obj_name, defects)
        return (Variable(name=name, kind="points", value=value.points),)
    if isinstance(value, Segmentation):
        mask = _mask(value, defects)
        return (Variable(name="segmentation_mask", kind="mask", value=mask),)
    if isinstance(value, DepthEstimate):
        kept = [Variable(name="depth_map", kind="depth_map", value=value.depth_m)]
        if value.points is not None:
            kept.append(Variable(name="point_cloud", kind="point_cloud", value=value.points))
        focal = Variable(name="focal_length_px", kind="number", value=value.focal_length_px)
        return (*kept, focal)
    if isinstance(value, OrientedBox):
        return _box_variables(value, defects)
    if isinstance(value, GraspEstimate):
        return (Variable(name="grasp_pose", kind="pose", value=value.pose),)
    if isinstance(value, TextReply):
        return value.variables
    if isinstance(value, CodeRun) and value.result is not None:
        return (Variable(name="result", kind=code_text.kind(value), value=value.result),)
    if isinstance(value, CapturedImage | RobotAction) and value.image is not None:
        return (Variable(name="captured_image", kind="image", value=value.image),)
    return ()


def pictures(value: ToolValue) -> tuple[ToolImage, ...]:
    """Pictures that join the conversation."""
    if isinstance(value, TextReply):
        return value.images
    if isinstance(value, CodeRun) and isinstance(value.result, ToolImage):
        return (value.result,)
    if isinstance(value, CapturedImage | RobotAction) and value.image is not None:
        return (value.image,)
    return ()


def _mask(value: Segmentation, defects: Defects) -> npt.NDArray[np.bool_]:
    """The release handed out empty masks where its erosion left nothing (defect D29)."""
    if value.too_thin and defects == "released":
        return np.zeros_like(value.mask)
    return value.mask


def _box_variables(value: OrientedBox, defects: Defects) -> tuple[Variable, ...]:
    kept = (
        Variable(name="obb_corners_3d", kind="box", value=value.corners_m),
        Variable(name="obb_corners_2d", kind="points", value=value.corners_uv),
        Variable(name="edges", kind="box", value=_edges(defects)),
    )
    if defects == "released":
        return kept
    return (*kept, Variable(name="extent", kind="box", value=value.extent_m))


def _variable_name(obj_name: str, defects: Defects) -> str:
    """A name that a model can refer to; the released rule left some that it could not."""
    if defects == "released":
        return f"{obj_name.replace(' ', '_')}_detections"
    plain = unicodedata.normalize("NFKD", obj_name).encode("ascii", "ignore").decode()
    word = re.sub(r"[^A-Za-z0-9_]+", "_", plain.strip()).strip("_")
    if not word or not word[0].isalpha():
        word = f"object_{word}".rstrip("_")
    return f"{word}_detections"


def _edges(defects: Defects) -> tuple[tuple[int, int], ...]:
    return BOX_EDGES if defects == "fixed" else _RELEASED_EDGES


# ---- compact --------------------------------------------------------------------------------


def _compact(value: ToolValue, image_index: int | str | None) -> str:
    match value:
        case Detections():
            if not value.points:
                return f"not found: {value.obj_name}"
            return _pairs(((each.u, each.v) for each in value.points), 2)
        case Segmentation():
            return "$segmentation_mask"
        case DepthEstimate():
            cloud = "" if value.points is None else " $point_cloud $focal_length_px"
            return f"$depth_map{cloud}"
        case IndexedValue():
            name = "depth" if value.kind == "depth_map" else "value"
            return f'{{"{name}": {_compact_number(value.value)}}}'
        case OrientedBox():
            return f"{_pairs(_rows(value.corners_uv), 2)} $obb_corners_2d $obb_corners_3d"
        case GraspEstimate():
            return f"{_pairs(_rows(value.keypoints_uv), 2)} $grasp_pose"
        case RobotAction():
            outcome = f"{value.action} {'succeeded' if value.success else 'failed'}"
            return outcome if image_index is None else f"{outcome}, image {image_index}"
        case CapturedImage():
            size = f"{value.image.width}x{value.image.height}"
            return f"image {size}" if image_index is None else f"image {image_index}: {size}"
        case CodeRun():
            return code_text.compact(value, image_index)
        case TextReply():
            return value.text


def _compact_number(value: float | bool | tuple[float, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_fixed(each, 2) for each in value)}]"
    return str(value).lower() if isinstance(value, bool) else _fixed(value, 2)


# ---- released -------------------------------------------------------------------------------


def _released(value: ToolValue, defects: Defects, method: str) -> str:
    match value:
        case Detections():
            points = [(float(each.u), float(each.v)) for each in value.points]
            text = f"Detected {len(points)} instance(s) of '{value.obj_name}': {points}"
            if not (value.announce and points):
                return text
            name = _variable_name(value.obj_name, defects)
            count = f"{len(points)} point{'s' * (len(points) > 1)}"
            return f"{text} {hint_of(f'${name} (list, {count})')}"
        case Segmentation():
            return _released_segmentation(value, defects, method)
        case DepthEstimate():
            return _released_depth(value)
        case IndexedValue():
            held = list(value.value) if isinstance(value.value, tuple) else value.value
            return f"Pixel value at ({value.u:.3f}, {value.v:.3f}) is {held}"
        case OrientedBox():
            return _released_box(value, defects)
        case GraspEstimate():
            return (
                f"Generated collision-free grasp with confidence {value.confidence:.3f} "
                f"from {value.num_masked}/{value.num_total} masked points. "
                f"Filtered {value.num_generated} → {value.num_collision_free} "
                "collision-free grasps. "
                f"Projected 2D gripper points: {_pairs(_rows(value.keypoints_uv), 3)}"
            )
        case RobotAction():
            # The release worded its simulated robot and its real one apart.
            placement = "Release operation" if value.source == "hardware" else "Placement"
            what = {"grasp": "Grasp execution", "place": placement}[value.action]
            return f"{what} {'succeeded' if value.success else 'failed'}."
        case CapturedImage():
            return f"Captured image: {value.image.width}×{value.image.height} pixels."
        case CodeRun():
            kept = hint_of(f"$result ({code_text.form(value)})")
            return code_text.released(value, "" if value.result is None else kept)
        case TextReply():
            return value.text


def _released_segmentation(value: Segmentation, defects: Defects, method: str) -> str:
    height, width = value.mask.shape
    hint = hint_of(f"$segmentation_mask (boolean array, {height}x{width})")
    score = value.score
    if defects == "released" and value.whole_score is not None:
        score = value.whole_score
    elif defects == "fixed" and value.too_thin:
        hint = f"The object is thin, so its mask was not eroded. {hint}"
    if len(value.points) == 1 and method != "segment_from_points":
        point = value.points[0]
        return (
            f"Segmented object at normalized coords ({point.u:.3f}, {point.v:.3f}) "
            f"with IoU score: {score:.3f}. {hint}"
        )
    return (
        f"Segmented object using {len(value.points)} normalized points "
        f"with best IoU score: {score:.3f}. {hint}"
    )


_MADE_MAP = {
    "estimated": "Estimated depth map for {size} image.",
    "robot": "Retrieved depth map for {size} image.",
    "hardware": "Retrieved depth map for {size} image from robot.",
}
_MADE_CLOUD = {
    "estimated": "Generated {size} depth map and {count:,} 3D points.",
    "robot": "Retrieved depth map and generated {count:,} 3D points.",
    "hardware": "Retrieved depth map and generated {count:,} 3D points from robot data.",
}


def _released_depth(value: DepthEstimate) -> str:
    height, width = value.depth_m.shape
    size, cloud = f"{width}x{height}", value.points
    depth_map = f"$depth_map (numpy array, {height}x{width})"
    if cloud is None:
        parts = [
            _MADE_MAP[value.source].format(size=size),
            f"Focal length: {value.focal_length_px:.1f}px.",
            _range("Depth range", value.known),
            hint_of(depth_map, "$focal_length_px (float)"),
        ]
    else:
        count = f"$point_cloud (numpy array, {len(cloud)}x3)"
        parts = [
            _MADE_CLOUD[value.source].format(size=size, count=len(cloud)),
            _range("Depth range in point cloud", value.known),
            hint_of(depth_map, count, "$focal_length_px (float)"),
        ]
    return " ".join(part for part in parts if part)


def _range(label: str, known: KnownDepth | None) -> str:
    if known is None:
        return ""
    return f"{label}: {known.low_m:.2f}m to {known.high_m:.2f}m (mean: {known.mean_m:.2f}m)."


def _released_box(value: OrientedBox, defects: Defects) -> str:
    # The missing blank before "Corners" is the published form.
    return (
        f"Oriented bounding box computed from {value.num_kept}/{value.num_total} points."
        f"Corners in 3D: {_rounded(value.corners_m)}\n"
        f"Corners in normalized image coordinates: {_rounded(value.corners_uv)}\n"
        f"Edges: {list(_edges(defects))}\n"
        f"Extent: {_rounded(value.extent_m)}\n"
        f"Volume: {float(np.prod(value.extent_m)):.3f}\n"
    )


def hint_of(*announced: str) -> str:
    """The clause that names what became variables."""
    return f"Kept for later calls: {', '.join(announced)}."


# ---- numbers --------------------------------------------------------------------------------


def _fixed(number: float, decimals: int) -> str:
    text = f"{number:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _pairs(pairs: Iterable[tuple[float, float]], decimals: int) -> str:
    inside = ", ".join(f"({_fixed(u, decimals)}, {_fixed(v, decimals)})" for u, v in pairs)
    return f"[{inside}]"


def _rows(array_N2: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    return [(float(row[0]), float(row[1])) for row in array_N2]


def _rounded(array: npt.NDArray[np.float64]) -> object:
    rounded: object = (np.round(array, 3) + 0.0).tolist()
    return rounded
