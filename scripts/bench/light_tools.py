"""How good the light tools are: every function against the exact truth of unseen scenes.

Seeds from 900,000 on are kept for this: no back-end was tuned on them. ``--selftest`` handicaps one
back-end at a time and exits with 1 unless the figures that it should spoil get worse.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.light_measures import FIGURES, Tools, measure
from toolshed.backends.light_boxes import LightBoxes
from toolshed.backends.light_depth import LightDepth, unproject
from toolshed.backends.light_grasping import LightGrasping
from toolshed.backends.light_pointing import LightPointing
from toolshed.backends.light_robot import LightRobot
from toolshed.backends.light_segmentation import LightSegmentation
from toolshed.tabletop.scene import DEMO, MANIPULATION, NEARER, SceneStyle
from toolshed.tabletop.world import WorldState
from toolshed.tools.robot import RobotReply
from toolshed.types import (
    DepthEstimate,
    Detections,
    GraspEstimate,
    OrientedBox,
    Point,
    Segmentation,
    ToolImage,
)

FIRST_SEED = 900_000
STYLES = (DEMO, NEARER, MANIPULATION)
SELFTEST_SCENES = 16
Results = dict[str, dict[str, float]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--scenes", type=int, default=200, help="scenes of each style")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument("--selftest", action="store_true", help="see whether handicaps are noticed")
    options = parser.parse_args(arguments)
    if options.scenes < 1:
        parser.error(f"--scenes must be at least 1, not {options.scenes}")
    if options.selftest:
        return selftest(as_json=options.json)
    results = {style.name: _measure(Tools(), style, options.scenes) for style in STYLES}
    if options.json:
        print(json.dumps({"scenes": options.scenes, "first_seed": FIRST_SEED, "figures": results}))
    else:
        print(table(results, options.scenes))
    return 0


def table(results: Results, num_scenes: int) -> str:
    """A Markdown table, one line a figure and one column a style of scenes."""
    lines = [
        f"{num_scenes} scenes of each style, seeds {FIRST_SEED} to {FIRST_SEED + num_scenes - 1}.",
        "",
        "| function | figure | " + " | ".join(results) + " | wanted |",
        "|---|---|" + "---|" * len(results) + "---|",
    ]
    for figure in FIGURES:
        cells = []
        for values in results.values():
            value = values.get(figure.key)
            digits = 1 if figure.unit else 3
            cells.append("" if value is None else f"{value:.{digits}f} {figure.unit}".strip())
        lines.append(f"| `{figure.tool}` | {figure.what} | {' | '.join(cells)} | {figure.bar} |")
    return "\n".join(lines)


def selftest(*, as_json: bool) -> int:
    """0 when every handicap spoils its figures by more than chance would."""
    plain = _measure(Tools(), MANIPULATION, SELFTEST_SCENES)
    report: dict[str, dict[str, float | bool]] = {}
    for handicap in HANDICAPS:
        figures = _measure(handicap.tools, MANIPULATION, SELFTEST_SCENES)
        for key, least in handicap.moves.items():
            moved = figures[key] - plain[key]
            noticed = moved >= least if least > 0 else moved <= least
            report[f"{handicap.what}: {key}"] = {
                "plain": plain[key],
                "handicapped": figures[key],
                "noticed": noticed,
            }
    if as_json:
        print(json.dumps({"selftest": report}))
    else:
        for name, line in report.items():
            word = "noticed" if line["noticed"] else "MISSED"
            print(f"{word:8} {name}: {line['plain']} -> {line['handicapped']}")
    return 0 if all(line["noticed"] for line in report.values()) else 1


def _measure(tools: Tools, style: SceneStyle, num_scenes: int) -> dict[str, float]:
    print(f"{style.name}: {num_scenes} scenes", file=sys.stderr)
    return measure(tools, style, range(FIRST_SEED, FIRST_SEED + num_scenes))


@dataclass(frozen=True, kw_only=True)
class Handicap:
    what: str
    tools: Tools
    moves: dict[str, float]
    """How far each figure must move at least, with its sign."""


class OffPointing(LightPointing):
    """Points 0.1 of the width too far right."""

    def detect_one(self, image: ToolImage, obj_name: str) -> Detections:
        return _shifted(super().detect_one(image, obj_name))

    def detect_all(self, image: ToolImage, obj_name: str) -> Detections:
        return _shifted(super().detect_all(image, obj_name))


class ShallowDepth(LightDepth):
    """Says 30 mm too little."""

    def estimate_depth(self, image: ToolImage) -> DepthEstimate:
        return _nearer(super().estimate_depth(image))

    def estimate_depth_with_pointcloud(self, image: ToolImage) -> DepthEstimate:
        return _nearer(super().estimate_depth_with_pointcloud(image))


class ShiftedMasks(LightSegmentation):
    """Masks 12 pixels too far right."""

    def segment_from_points(self, image: ToolImage, points: list[Point]) -> Segmentation:
        found = super().segment_from_points(image, points)
        return replace(found, mask=np.roll(found.mask, 12, axis=1))


class WideBoxes(LightBoxes):
    """Boxes a third too large."""

    def compute_bbox(
        self,
        point_cloud: npt.NDArray[np.float32],
        mask: npt.NDArray[np.bool_],
        focal_length_px: float,
    ) -> OrientedBox:
        box = super().compute_bbox(point_cloud, mask, focal_length_px)
        centre = box.corners_m.mean(axis=0)
        return replace(box, corners_m=centre + 4 / 3 * (box.corners_m - centre))


class OffGrasping(LightGrasping):
    """Grasps 50 mm beside the object, along the fingers' closing direction."""

    def compute_grasp(
        self,
        point_cloud: npt.NDArray[np.float32],
        mask: npt.NDArray[np.bool_],
        focal_length_px: float,
        image: ToolImage,
    ) -> GraspEstimate:
        grasp = super().compute_grasp(point_cloud, mask, focal_length_px, image)
        pose = grasp.pose.copy()
        pose[:3, 3] += 0.05 * pose[:3, 0]
        return replace(grasp, pose=pose)


class OffRobot(LightRobot):
    """Puts things down 50 mm too far right."""

    def place_object_at_3d_location(
        self, placement_point_3d: npt.NDArray[np.float64], world: WorldState
    ) -> RobotReply:
        aside = placement_point_3d + np.array([0.05, 0.0, 0.0])
        return super().place_object_at_3d_location(aside, world)


def _shifted(found: Detections) -> Detections:
    return replace(
        found, points=tuple(Point(u=min(1.0, each.u + 0.1), v=each.v) for each in found.points)
    )


def _nearer(estimate: DepthEstimate) -> DepthEstimate:
    depth = np.where(estimate.depth_m > 0, estimate.depth_m - np.float32(0.03), np.float32(0.0))
    points = None if estimate.points is None else unproject(depth, estimate.focal_length_px)
    return replace(estimate, depth_m=depth, points=points)


HANDICAPS = (
    Handicap(
        what="points 0.1 too far right",
        tools=Tools(roborefer=OffPointing(), vlm=OffPointing()),
        moves={"one_name": -0.5, "all_precision": -0.5, "vlm_name": -0.5, "iou": -0.3},
    ),
    Handicap(
        what="depth 30 mm too small",
        tools=Tools(depth=ShallowDepth()),
        moves={"depth_mm": 20.0, "cloud_mm": 20.0, "index_mm": 20.0, "box_all": -0.15},
    ),
    Handicap(
        what="masks 12 pixels too far right",
        tools=Tools(sam2=ShiftedMasks()),
        moves={"iou": -0.2, "iou_points": -0.2},
    ),
    Handicap(
        what="boxes a third too large", tools=Tools(boxes=WideBoxes()), moves={"box_all": -0.2}
    ),
    Handicap(
        what="grasps 50 mm aside", tools=Tools(grasps=OffGrasping()), moves={"tool_lift": -0.5}
    ),
    Handicap(what="places 50 mm aside", tools=Tools(robot=OffRobot()), moves={"place_3d": -0.5}),
)


if __name__ == "__main__":
    raise SystemExit(main())
