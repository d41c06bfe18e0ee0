"""What ``light_tools.py`` measures: each function of the light tools against the exact truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection

from rl.rewards.grasp import mace
from toolshed.backends.light_boxes import LightBoxes
from toolshed.backends.light_depth import LightDepth, unproject
from toolshed.backends.light_grasping import LightGrasping
from toolshed.backends.light_pointing import LightPointing
from toolshed.backends.light_robot import LightRobot
from toolshed.backends.light_segmentation import LightSegmentation
from toolshed.backends.light_vision_ops import LightVisionOps
from toolshed.errors import ToolRefusal
from toolshed.tabletop.gripper import key_points_uv, oracle_grasp
from toolshed.tabletop.render import Rendering, render
from toolshed.tabletop.scene import (
    COLOURS,
    REACH_M,
    Scene,
    SceneStyle,
    make_scene,
)
from toolshed.tabletop.shapes import SHAPES
from toolshed.tabletop.state import WorldState, initial_state
from toolshed.types import (
    CapturedImage,
    DepthEstimate,
    Detections,
    Point,
    RobotAction,
    ToolImage,
)

PLACE_M = 0.03
CLEAR_M = 0.10
NEAR_ENOUGH_M = 0.02
Floats = npt.NDArray[np.float64]


@dataclass(kw_only=True)
class Tools:
    """One of each back-end; a selftest replaces one."""

    roborefer: LightPointing = field(default_factory=LightPointing)
    vlm: LightPointing = field(default_factory=lambda: LightPointing(announce=True))
    sam2: LightSegmentation = field(default_factory=LightSegmentation)
    depth: LightDepth = field(default_factory=LightDepth)
    boxes: LightBoxes = field(default_factory=LightBoxes)
    vision: LightVisionOps = field(default_factory=LightVisionOps)
    grasps: LightGrasping = field(default_factory=LightGrasping)
    robot: LightRobot = field(default_factory=LightRobot)


@dataclass(frozen=True, kw_only=True)
class Figure:
    tool: str
    what: str
    key: str
    reduce: Callable[[list[float]], float]
    unit: str = ""
    bar: str = ""


def mean(values: list[float]) -> float:
    return float(np.mean(values))


def median(values: list[float]) -> float:
    return float(np.median(values))


_TABLE = """
roborefer.detect_one | named object, point inside its mask | one_name | mean |  | >= 0.97
roborefer.detect_one | 'red object', point inside its mask | one_colour | mean |  |
roborefer.detect_one | absent colour refused | one_absent | mean |  |
roborefer.detect_one | right colour, wrong shape refused | one_shape | mean |  |
roborefer.detect_one | 'leftmost object' refused | one_leftmost | mean |  |
roborefer.detect_all | precision | all_precision | mean |  |
roborefer.detect_all | recall | all_recall | mean |  |
vlm.detect_one | named object, point inside its mask | vlm_name | mean |  |
vlm.detect_all | precision | vlm_precision | mean |  |
vlm.detect_all | recall | vlm_recall | mean |  |
sam2.segment_from_point | mask IoU, median | iou | median |  | >= 0.85
sam2.segment_from_point | share of masks with IoU >= 0.5 | iou_half | mean |  |
sam2.segment_from_points | three points: mask IoU, median | iou_points | median |  |
depth_estimator.estimate_depth | error, median | depth_mm | median | mm | <= 3
depth_estimator.estimate_depth | share of pixels without depth | depth_open | mean |  |
depth_estimator.estimate_depth_with_pointcloud | distance from truth | cloud_mm | median | mm |
vision_ops.index_at | depth at a pointed object, error, median | index_mm | median | mm |
vision_ops.index_at | share within 20 mm | index_near | mean |  |
bounding_box.compute_bbox | hull IoU, mean: cubes and boxes | box_box | mean |  | >= 0.70
bounding_box.compute_bbox | hull IoU, mean: cylinders | box_cylinder | mean |  | >= 0.70
bounding_box.compute_bbox | hull IoU, mean: balls | box_ball | mean |  |
bounding_box.compute_bbox | hull IoU, mean: cups | box_cup | mean |  |
bounding_box.compute_bbox | hull IoU, mean: all | box_all | mean |  | >= 0.60
grasp_generator.compute_grasp | lifts where the oracle lifts | tool_lift | mean |  | >= 0.85
grasp_generator.compute_grasp | MACE against the oracle's, mean | mace | mean |  |
grasp_generator.compute_grasp | refused | grasp_refused | mean |  |
robot.capture_image | every object found in it by colour | capture | mean |  |
robot.get_depth | error, median | robot_mm | median | mm |
robot.get_depth_with_pointcloud | distance from truth | robot_cloud_mm | median | mm |
robot.execute_grasp | lifts, with the oracle's pose | oracle_lift | mean |  | >= 0.95
robot.place_object_at_2d_location | object within 3 cm | place_2d | mean |  | >= 0.80
robot.place_object_at_3d_location | object within 3 cm | place_3d | mean |  | >= 0.80
"""


def _figure(line: str) -> Figure:
    tool, what, key, reduce, unit, bar = (cell.strip() for cell in line.split("|"))
    chosen = {"mean": mean, "median": median}[reduce]
    return Figure(tool=tool, what=what, key=key, reduce=chosen, unit=unit, bar=bar)


FIGURES = tuple(_figure(line) for line in _TABLE.strip().splitlines())

Log = dict[str, list[float]]


def measure(tools: Tools, style: SceneStyle, seeds: Iterable[int]) -> dict[str, float]:
    """Every figure that applies to a style, by key."""
    log: Log = defaultdict(list)
    for seed in seeds:
        scene = make_scene(seed, style)
        truth = render(scene)
        image = truth.image()
        _point(tools, scene, truth, image, log)
        _see(tools, scene, truth, image, log)
        if style.grippable:
            _act(tools, scene, truth, log)
    return {
        figure.key: round(figure.reduce(log[figure.key]), 4)
        for figure in FIGURES
        if log[figure.key]
    }


def _point(tools: Tools, scene: Scene, truth: Rendering, image: ToolImage, log: Log) -> None:
    for index, item in enumerate(scene.objects):
        other = [shape for shape in SHAPES if shape != item.shape][scene.seed % 4]
        by_colour = _detect(tools.roborefer.detect_one, image, f"{item.colour} object")
        log["one_name"].append(
            _inside(_detect(tools.roborefer.detect_one, image, item.name), truth, index)
        )
        log["one_colour"].append(_inside(by_colour, truth, index))
        wrong = _detect(tools.roborefer.detect_one, image, f"{item.colour} {other}")
        log["one_shape"].append(float(not wrong))
        log["vlm_name"].append(
            _inside(_detect(tools.vlm.detect_one, image, item.name), truth, index)
        )
        plural = f"{item.colour} {item.shape}es" if item.shape == "box" else f"{item.name}s"
        for prefix, detect in (("all", tools.roborefer.detect_all), ("vlm", tools.vlm.detect_all)):
            points = _detect(detect, image, plural)
            hits = [_inside([point], truth, index) for point in points]
            log[f"{prefix}_precision"] += hits
            log[f"{prefix}_recall"].append(float(any(hits)))
    present = {item.colour for item in scene.objects}
    absent = next(colour for colour in COLOURS if colour not in present)
    log["one_absent"].append(
        float(not _detect(tools.roborefer.detect_one, image, f"{absent} object"))
    )
    log["one_leftmost"].append(
        float(not _detect(tools.roborefer.detect_one, image, "leftmost object"))
    )


def _see(tools: Tools, scene: Scene, truth: Rendering, image: ToolImage, log: Log) -> None:
    depth = tools.depth.estimate_depth(image).depth_m
    _depth_errors(depth, truth, log, "depth_mm")
    log["depth_open"].append(float(np.mean(depth <= 0)))
    estimate = tools.depth.estimate_depth_with_pointcloud(image)
    assert estimate.points is not None
    _cloud_errors(estimate, truth, log, "cloud_mm")
    rng = np.random.default_rng(scene.seed)
    for index, item in enumerate(scene.objects):
        found = _detect(tools.roborefer.detect_one, image, f"{item.colour} object")
        if not found:
            log["iou"].append(0.0)
            log["box_all"].append(0.0)
            continue
        # Points as a model writes them after reading a reply: two decimals.
        u, v = round(found[0].u, 2), round(found[0].v, 2)
        read = tools.vision.index_at(depth, u, v).value
        error = abs(float(read) - truth.target_depth_m(index)) if isinstance(read, float) else 9.9
        log["index_mm"].append(1000 * error)
        log["index_near"].append(float(error <= NEAR_ENOUGH_M))
        mask = tools.sam2.segment_from_point(image, u, v).mask
        iou = _mask_iou(mask, truth.mask(index))
        log["iou"].append(iou)
        log["iou_half"].append(float(iou >= 0.5))
        several = tools.sam2.segment_from_points(image, _three_points(truth, index, rng)).mask
        log["iou_points"].append(_mask_iou(several, truth.mask(index)))
        try:
            box = tools.boxes.compute_bbox(estimate.points, mask, estimate.focal_length_px)
            overlap = hull_iou(box.corners_m, scene.corners_camera_m(index))
        except ToolRefusal:
            overlap = 0.0
        log["box_all"].append(overlap)
        log[f"box_{'box' if item.shape == 'cube' else item.shape}"].append(overlap)


def _three_points(truth: Rendering, index: int, rng: np.random.Generator) -> list[Point]:
    height, width = truth.ids.shape
    pixels = rng.permutation(np.argwhere(truth.mask(index)))[:3]
    return [Point(u=(column + 0.5) / width, v=(row + 0.5) / height) for row, column in pixels]


def _depth_errors(depth_m: npt.NDArray[np.float32], truth: Rendering, log: Log, key: str) -> None:
    known = (depth_m > 0) & (truth.depth_m > 0)
    log[key].append(1000 * float(np.median(np.abs(depth_m - truth.depth_m)[known])))


def _cloud_errors(estimate: DepthEstimate, truth: Rendering, log: Log, key: str) -> None:
    """Row-major clouds drop unknown pixels, so true points are taken where depth is known."""
    assert estimate.points is not None
    known = estimate.depth_m > 0
    # A stand-in keeps rays that left the scene from being dropped on one side only.
    exact = np.where(truth.depth_m > 0, truth.depth_m, np.float32(1e-3))
    true_points = unproject(np.where(known, exact, np.float32(0.0)), truth.focal_length_px)
    gaps = np.linalg.norm(estimate.points - true_points, axis=1)
    log[key].append(1000 * float(np.median(gaps)))


def _act(tools: Tools, scene: Scene, truth: Rendering, log: Log) -> None:
    """One object per scene: seen, planned, grasped and put down through the robot's functions."""
    state = initial_state(scene.seed, scene.style.name)
    index = scene.seed % len(scene.objects)
    item = scene.objects[index]
    image, cloud = _sense(tools, state, scene, truth, log)
    oracle = oracle_grasp(scene, index)
    held = tools.robot.execute_grasp(oracle, state).world
    log["oracle_lift"].append(float(held.held == item.name))
    found = _detect(tools.roborefer.detect_one, image, f"{item.colour} object")
    if not found or held.held != item.name:
        return
    mask = tools.sam2.segment_from_point(image, found[0].u, found[0].v).mask
    try:
        grasp = tools.grasps.compute_grasp(cloud, mask, truth.focal_length_px, image)
    except ToolRefusal:
        log["grasp_refused"].append(1.0)
        log["tool_lift"].append(0.0)
        log["mace"].append(0.0)
    else:
        log["grasp_refused"].append(0.0)
        want = key_points_uv(oracle, truth.focal_length_px, image.width, image.height)
        log["mace"].append(mace(_points(grasp.keypoints_uv), _points(want)))
        lifted = tools.robot.execute_grasp(grasp.pose, state).world
        log["tool_lift"].append(float(lifted.held == item.name))
        held = lifted if lifted.held == item.name else held
    _put_down(tools, scene, held, item.name, log)


def _sense(
    tools: Tools, state: WorldState, scene: Scene, truth: Rendering, log: Log
) -> tuple[ToolImage, npt.NDArray[np.float32]]:
    """Picture and cloud of the robot's camera, measured on the way."""
    captured = tools.robot.capture_image(state).value
    sensed = tools.robot.get_depth(state).value
    cloud = tools.robot.get_depth_with_pointcloud(state).value
    assert isinstance(captured, CapturedImage)
    assert isinstance(sensed, DepthEstimate)
    assert isinstance(cloud, DepthEstimate) and cloud.points is not None
    seen = [
        _inside(
            _detect(tools.roborefer.detect_one, captured.image, f"{each.colour} object"),
            truth,
            which,
        )
        for which, each in enumerate(scene.objects)
    ]
    log["capture"].append(float(all(seen)))
    _depth_errors(sensed.depth_m, truth, log, "robot_mm")
    _cloud_errors(cloud, truth, log, "robot_cloud_mm")
    return captured.image, cloud.points


def _put_down(tools: Tools, scene: Scene, held: WorldState, name: str, log: Log) -> None:
    goal = _free_place(scene, held, name)
    if goal is None:
        return
    u, v = scene.camera.project(goal)
    flat = tools.robot.place_object_at_2d_location(Point(u=float(u), v=float(v)), held)
    solid = tools.robot.place_object_at_3d_location(scene.camera.to_camera(goal), held)
    for key, reply in (("place_2d", flat), ("place_3d", solid)):
        assert isinstance(reply.value, RobotAction)
        rest = np.array(reply.world.position_m(name))
        log[key].append(float(np.linalg.norm(rest[:2] - goal[:2]) <= PLACE_M))


def _free_place(scene: Scene, held: WorldState, name: str) -> Floats | None:
    """A table point in reach and in the picture, clear of the other objects."""
    rng = np.random.default_rng(scene.seed)
    others = [held.position_m(each.name)[:2] for each in scene.objects if each.name != name]
    for _ in range(300):
        goal = np.array([rng.uniform(*REACH_M[0]), rng.uniform(*REACH_M[1]), 0.0])
        uv = scene.camera.project(goal)
        clear = min(float(np.linalg.norm(np.array(each) - goal[:2])) for each in others)
        if clear > CLEAR_M and uv.min() > 0.05 and uv.max() < 0.95:
            return goal
    return None


def _detect(
    detect: Callable[[ToolImage, str], Detections], image: ToolImage, name: str
) -> list[Point]:
    try:
        return list(detect(image, name).points)
    except ToolRefusal:
        return []


def _inside(points: list[Point], truth: Rendering, index: int) -> float:
    if not points:
        return 0.0
    height, width = truth.ids.shape
    row, column = int(points[0].v * height), int(points[0].u * width)
    inside = row < height and column < width and truth.ids[row, column] == index
    return float(inside)


def _mask_iou(mask: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    either = int(np.count_nonzero(mask | truth))
    return int(np.count_nonzero(mask & truth)) / max(1, either)


def _points(uv: Floats) -> list[Point]:
    return [Point(u=float(u), v=float(v)) for u, v in uv]


def hull_iou(first_m: Floats, second_m: Floats) -> float:
    """IoU of the convex hulls of two sets of points in space."""
    hulls = [ConvexHull(first_m), ConvexHull(second_m)]
    sides = np.vstack([hull.equations for hull in hulls])
    # The middle of the largest ball in both hulls, from which their overlap can be built.
    lengths = np.linalg.norm(sides[:, :3], axis=1, keepdims=True)
    inner = linprog(
        [0.0, 0.0, 0.0, -1.0],
        A_ub=np.hstack([sides[:, :3], lengths]),
        b_ub=-sides[:, 3],
        bounds=[(None, None)] * 3 + [(0.0, None)],
    )
    if inner.x is None or inner.x[3] < 1e-6:
        return 0.0
    shared = float(ConvexHull(HalfspaceIntersection(sides, inner.x[:3]).intersections).volume)
    return shared / (float(hulls[0].volume) + float(hulls[1].volume) - shared)
