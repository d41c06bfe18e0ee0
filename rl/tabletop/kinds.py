"""What can be asked about one tabletop picture, kind by kind, with exact answers.

A maker returns every fair question of its kind; which of them are kept is the caller's business.
All facts come from the renderer or the scene, never from a tool.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import numpy.typing as npt

from rl.rewards.geometry import encode_mask
from rl.tabletop import wording
from toolshed.tabletop.gripper import key_points_uv, oracle_grasp
from toolshed.tabletop.render import Rendering
from toolshed.tabletop.scene import DEMO, MANIPULATION, NEARER, REACH_M, Scene, SceneStyle
from toolshed.types import Json

UV_MARGIN = 0.05
"""Least distance of two centroids along the axis of a left-or-right question."""
FREE_GAP = 0.02
"""Between an object's mask and the free region beside it."""
FREE_WIDTH = 0.15
ONE_GRASP_SHAPES = ("box", "cup")
"""With one narrow side, so that a top-down grasp is right up to left and right; a cube has two."""
PLACE_CLEARANCE_M = 0.10
"""Between a goal on the table and the middle of any object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Margins:
    """How clear-cut a case must be to be asked."""

    leftmost: float = 0.15
    """Lead of the leftmost centroid, as a share of the picture's width."""
    nearer_m: float = 0.03
    """Least difference of two depths that are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """One scene, its picture, and the middle of each object's mask."""

    scene: Scene
    rendering: Rendering

    @property
    def names(self) -> list[str]:
        return [item.name for item in self.scene.objects]

    def middles_u(self) -> list[float]:
        return [self.rendering.centroid(index).u for index in range(len(self.names))]

    def depths_m(self) -> list[float]:
        return [self.rendering.target_depth_m(index) for index in range(len(self.names))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A question before it has a picture's file and an id."""

    text: str
    target: str
    facts: dict[str, Json] = field(default_factory=dict)


Maker = Callable[[Shot, Margins, np.random.Generator], list[Draft]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskKind:
    make: Maker
    style: SceneStyle
    with_picture: bool = True
    """False: the robot's camera must be asked for it."""
    instruction: str = wording.INSTRUCTION
    tools: tuple[str, ...]
    """What the scripted teacher calls to answer."""


def _point(shot: Shot, margins: Margins, rng: np.random.Generator) -> list[Draft]:
    return [
        Draft(text=wording.point_question(name), target=_mask(shot, index), facts={"object": name})
        for index, name in enumerate(shot.names)
    ]


def _depth(shot: Shot, margins: Margins, rng: np.random.Generator) -> list[Draft]:
    return [
        Draft(text=wording.depth_question(name), target=f"{depth:.4f}", facts={"object": name})
        for name, depth in zip(shot.names, shot.depths_m(), strict=True)
    ]


def _leftmost(shot: Shot, margins: Margins, rng: np.random.Generator) -> list[Draft]:
    middles = shot.middles_u()
    first, second = np.argsort(middles)[:2]
    if middles[second] - middles[first] < margins.leftmost:
        return []
    item = shot.scene.objects[int(first)]
    depth = shot.rendering.target_depth_m(int(first))
    facts: dict[str, Json] = {"object": item.name, "leftmost": item.colour}
    return [Draft(text=wording.leftmost_question(), target=f"{depth:.4f}", facts=facts)]


def _nearer(shot: Shot, margins: Margins, rng: np.random.Generator) -> list[Draft]:
    drafts = []
    for near, far in _depth_pairs(shot, margins):
        first, second = (near, far) if rng.random() < 0.5 else (far, near)
        names = [shot.names[first], shot.names[second]]
        facts: dict[str, Json] = {
            "choices": [*names],
            "picture_rules": {**picture_votes(shot, first, second)},
        }
        drafts.append(
            Draft(text=wording.nearer_question(*names), target=shot.names[near], facts=facts)
        )
    return drafts


def picture_votes(shot: Shot, first: int, second: int) -> dict[str, str]:
    """Which object each picture-only rule takes for the nearer one."""
    sizes = [_looks(shot.rendering.mask(index)) for index in (first, second)]
    a, b = sizes
    a_wins = {
        "lower": a.middle_v > b.middle_v,
        "lower edge": a.bottom_v > b.bottom_v,
        "larger": a.share > b.share,
        "wider": a.width > b.width,
        "taller": a.height > b.height,
        "central": a.off_centre < b.off_centre,
        "named first": True,
    }
    a_wins["lower and larger"] = a.middle_v - b.middle_v + (a.side - b.side) * 2 > 0
    names = shot.names
    return {rule: names[first] if wins else names[second] for rule, wins in a_wins.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Looks:
    middle_v: float
    bottom_v: float
    share: float
    width: float
    height: float
    off_centre: float

    @property
    def side(self) -> float:
        return float(np.sqrt(self.share))


def _looks(mask: npt.NDArray[np.bool_]) -> _Looks:
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    v, u = rows.mean() / height, columns.mean() / width
    return _Looks(
        middle_v=float(v),
        bottom_v=float(rows.max() / height),
        share=float(mask.mean()),
        width=float(np.ptp(columns) / width),
        height=float(np.ptp(rows) / height),
        off_centre=float(np.hypot(u - 0.5, v - 0.5)),
    )


def _choice(shot: Shot, margins: Margins, rng: np.random.Generator) -> list[Draft]:
    drafts = []
    for near, far in _depth_pairs(shot, margins):
        letter = "AB"[int(rng.integers(2))]
        pair = (near, far) if letter == "A" else (far, near)
        names = [shot.names[index] for index in pair]
        text = wording.choice_question(*names)
        drafts.append(Draft(text=text, target=letter, facts={"choices": ["A", "B"]}))
    return drafts


def _yesno(shot: Shot, margins: Margins, rng: np.random.Generator) -> list[Draft]:
    middles = shot.middles_u()
    drafts = []
    for first, second in combinations(rng.permutation(len(middles)).tolist(), 2):
        if abs(middles[first] - middles[second]) < UV_MARGIN:
            continue
        direction = wording.DIRECTIONS[int(rng.integers(2))]
        is_left = middles[first] < middles[second]
        text = wording.yesno_question(shot.names[first], direction, shot.names[second])
        drafts.append(Draft(text=text, target="Yes" if is_left == (direction == "left") else "No"))
    return drafts


def _number(shot: Shot, margins: Margins, rng: np.random.Generator) -> list[Draft]:
    return [
        Draft(text=wording.number_question(name), target=f"{depth:.4f}", facts={"object": name})
        for name, depth in zip(shot.names, shot.depths_m(), strict=True)
    ]


def _point_object(shot: Shot, margins: Margins, rng: np.random.Generator) -> list[Draft]:
    return [
        Draft(
            text=wording.point_object_question(name),
            target=_mask(shot, index),
            facts={"object": name},
        )
        for index, name in enumerate(shot.names)
    ]


def _point_free(shot: Shot, margins: Margins, rng: np.random.Generator) -> list[Draft]:
    drafts = []
    for index, name in enumerate(shot.names):
        for direction in wording.DIRECTIONS:
            region = free_region(shot, index, direction)
            if region is not None:
                text = wording.point_free_question(name, direction)
                target = encode_mask(region)
                drafts.append(Draft(text=text, target=target, facts={"object": name}))
    return drafts


def free_region(
    shot: Shot, index: int, direction: wording.Direction
) -> npt.NDArray[np.bool_] | None:
    """Rectangle beside the object's mask, at its height; None unless it shows only the table."""
    ids = shot.rendering.ids
    height, width = ids.shape
    rows, columns = np.nonzero(ids == index)
    gap, reach = round(FREE_GAP * width), round(FREE_WIDTH * width)
    if direction == "left":
        left, right = int(columns.min()) - gap - reach, int(columns.min()) - gap
    else:
        left, right = int(columns.max()) + gap + 1, int(columns.max()) + gap + 1 + reach
    if left < 0 or right > width:
        return None
    region = np.zeros((height, width), dtype=bool)
    region[rows.min() : rows.max() + 1, left:right] = True
    on_table = (ids[region] == -1) & (shot.rendering.depth_m[region] > 0)
    return region if bool(on_table.all()) else None


def _pose(shot: Shot, margins: Margins, rng: np.random.Generator) -> list[Draft]:
    drafts = []
    for index, name in enumerate(shot.names):
        corners = shot.scene.corners_uv(index)
        if corners.min() >= 0 and corners.max() <= 1:
            target = "[" + ", ".join(f"({u:.3f}, {v:.3f})" for u, v in corners) + "]"
            text = wording.pose_question(name)
            drafts.append(Draft(text=text, target=target, facts={"object": name}))
    return drafts


def _grasp(shot: Shot, margins: Margins, rng: np.random.Generator) -> list[Draft]:
    camera = shot.scene.camera
    drafts = []
    for index, item in enumerate(shot.scene.objects):
        if item.shape not in ONE_GRASP_SHAPES:
            continue
        points = key_points_uv(
            oracle_grasp(shot.scene, index), camera.focal_length_px, camera.width, camera.height
        )
        if points.min() >= 0 and points.max() <= 1:
            target = wording.grasp_text([(f"{u:.3f}", f"{v:.3f}") for u, v in points])
            text = wording.grasp_question(item.name)
            drafts.append(Draft(text=text, target=target, facts={"object": item.name}))
    return drafts


def _pick(shot: Shot, margins: Margins, rng: np.random.Generator) -> list[Draft]:
    return [
        Draft(text=wording.pick_question(name), target=name, facts={"object": name})
        for name in shot.names
    ]


def _place(shot: Shot, margins: Margins, rng: np.random.Generator) -> list[Draft]:
    drafts = []
    for name in shot.names:
        goal = _free_goal(shot.scene, rng)
        if goal is not None:
            u, v = goal
            x, y = table_point(shot.scene, u, v)
            target = json.dumps({"object": name, "x": round(x, 4), "y": round(y, 4)})
            text = wording.place_question(name, u, v)
            drafts.append(Draft(text=text, target=target, facts={"object": name}))
    return drafts


def _free_goal(scene: Scene, rng: np.random.Generator) -> npt.NDArray[np.float64] | None:
    """A picture point, three decimals, of a free table point within the arm's reach."""
    (x_low, x_high), (y_low, y_high) = REACH_M
    others = np.array([item.pose[:2, 3] for item in scene.objects])
    for _ in range(50):
        point = np.array([rng.uniform(x_low, x_high), rng.uniform(y_low, y_high), 0.0])
        uv = np.round(scene.camera.project(point), 3)
        clear = np.linalg.norm(others - point[:2], axis=1).min() >= PLACE_CLEARANCE_M
        if clear and uv.min() >= 0.05 and uv.max() <= 0.95:
            return np.asarray(uv, dtype=np.float64)
    return None


def table_point(scene: Scene, u: float, v: float) -> npt.NDArray[np.float64]:
    """World (x, y) of the table under a picture point."""
    camera = scene.camera
    offset = (np.array([u, v]) - 0.5) * [camera.width, camera.height] / camera.focal_length_px
    ray = camera.rotation @ np.array([offset[0], offset[1], 1.0])
    point = camera.position_m - ray * camera.position_m[2] / ray[2]
    return np.asarray(point[:2], dtype=np.float64)


def _mask(shot: Shot, index: int) -> str:
    return encode_mask(shot.rendering.mask(index))


def _depth_pairs(shot: Shot, margins: Margins) -> list[tuple[int, int]]:
    """Pairs (near, far) whose depths differ clearly."""
    depths = shot.depths_m()
    return [
        (a, b) if depths[a] < depths[b] else (b, a)
        for a, b in combinations(range(len(depths)), 2)
        if abs(depths[a] - depths[b]) >= margins.nearer_m
    ]


_POINT = ("roborefer.detect_one",)
_DEPTH = (*_POINT, "depth_estimator.estimate_depth", "vision_ops.index_at")
_SEGMENT = (*_POINT, "sam2.segment_from_point")
_CLOUD = (*_SEGMENT, "depth_estimator.estimate_depth_with_pointcloud")
_BOX = (*_CLOUD, "bounding_box.compute_bbox")
_GRASP = "grasp_generator.compute_grasp"
_LIFT = (
    *("robot.capture_image", *_SEGMENT, "robot.get_depth_with_pointcloud", _GRASP),
    "robot.execute_grasp",
)

TASK_KINDS: dict[str, TaskKind] = {
    "point": TaskKind(make=_point, style=DEMO, tools=_POINT, instruction=wording.DEMO_INSTRUCTION),
    "depth": TaskKind(make=_depth, style=DEMO, tools=_DEPTH, instruction=wording.DEMO_INSTRUCTION),
    "leftmost": TaskKind(
        make=_leftmost, style=DEMO, tools=_DEPTH, instruction=wording.DEMO_INSTRUCTION
    ),
    "nearer": TaskKind(
        make=_nearer, style=NEARER, tools=_DEPTH, instruction=wording.DEMO_INSTRUCTION
    ),
    "choice": TaskKind(make=_choice, style=MANIPULATION, tools=_DEPTH),
    "yesno": TaskKind(make=_yesno, style=MANIPULATION, tools=_POINT),
    "number": TaskKind(make=_number, style=MANIPULATION, tools=_DEPTH),
    "point_object": TaskKind(make=_point_object, style=MANIPULATION, tools=_POINT),
    "point_free": TaskKind(make=_point_free, style=MANIPULATION, tools=_BOX),
    "pose": TaskKind(make=_pose, style=MANIPULATION, tools=_BOX),
    "grasp": TaskKind(make=_grasp, style=MANIPULATION, tools=(*_CLOUD, _GRASP)),
    "pick": TaskKind(make=_pick, style=MANIPULATION, tools=_LIFT, with_picture=False),
    "place": TaskKind(
        make=_place,
        style=MANIPULATION,
        tools=(*_LIFT, "robot.place_object_at_2d_location"),
        with_picture=False,
    ),
}
"""Kinds of ``python -m rl.tabletop --kinds``; the demo's four first."""
