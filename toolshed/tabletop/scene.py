"""Seeded scenes: coloured primitive objects on a grey table, and the camera that sees them.

World frame: metres, z up, the table is z = 0. A scene is a pure function of (seed, style). Objects
never cover each other in the picture and never touch its border, and each fills at least
``min_share`` of it, so every object has a whole, well-separated mask.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from toolshed.errors import ConfigError
from toolshed.tabletop.camera import Camera, Floats, look_at
from toolshed.tabletop.shapes import HANDLE, SHAPES, Part, Shape, box_corners, parts_of

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.12),
    "green": (0.12, 0.85, 0.12),
    "blue": (0.12, 0.12, 0.85),
    "yellow": (0.85, 0.85, 0.12),
    "cyan": (0.12, 0.85, 0.85),
    "purple": (0.85, 0.12, 0.85),
    "white": (0.95, 0.95, 0.95),
    "black": (0.10, 0.10, 0.10),
}
"""Closed under permutation of the channels, so a permuted picture is a scene with other names."""

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneStyle:
    """What scenes may look like; every range is drawn from uniformly."""

    name: str
    width: int = 224
    height: int = 224
    focal_length_px: float = 250.0
    num_objects: tuple[int, int] = (2, 4)
    distance_m: Range = (0.55, 0.85)
    """From the camera to the table point that it looks at."""
    tilt_deg: Range = (32.0, 58.0)
    """Below the horizon."""
    roll_deg: Range = (-4.0, 4.0)
    azimuth_deg: tuple[Range, ...] = ((0.0, 360.0),)
    plinth_m: Range = (0.0, 0.0)
    size_m: Range = (0.070, 0.105)
    """The typical side of an object; shapes stretch it."""
    size_px: Range | None = None
    """In place of ``size_m``: side in the picture, so that apparent size says nothing of depth."""
    depth_m: Range | None = None
    """Depth drawn apart from the place in the picture; the plinth takes up the difference."""
    grippable: bool = False
    """Objects are slim, stand within the arm's reach and leave room for the fingers."""
    min_share: float = 0.015
    """Of the picture, for each object's mask."""


DEMO = SceneStyle(name="demo")
NEARER = SceneStyle(
    name="nearer",
    num_objects=(2, 3),
    distance_m=(0.74, 0.86),
    tilt_deg=(48.0, 68.0),
    roll_deg=(-30.0, 30.0),
    plinth_m=(0.0, 0.25),
    size_px=(24.0, 42.0),
    depth_m=(0.54, 0.74),
    min_share=0.012,
)
MANIPULATION = SceneStyle(
    name="manipulation",
    width=448,
    height=336,
    focal_length_px=700.0,
    num_objects=(2, 4),
    distance_m=(0.66, 0.82),
    tilt_deg=(38.0, 56.0),
    roll_deg=(-4.0, 4.0),
    azimuth_deg=((60.0, 120.0), (240.0, 300.0)),
    size_m=(0.044, 0.062),
    grippable=True,
    min_share=0.012,
)
STYLES: dict[str, SceneStyle] = {style.name: style for style in (DEMO, NEARER, MANIPULATION)}


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class SceneObject:
    name: str
    """Colour and shape, for example ``red cube``."""
    colour: str
    shape: Shape
    pose: Floats
    """World from object, shape (4, 4); the origin is the middle of the bounding box, z is up."""
    size_m: tuple[float, float, float]
    """Extents of the bounding box in the object frame."""
    plinth_m: float
    """Height of the grey block that it stands on; 0 on the table."""

    @property
    def parts(self) -> tuple[Part, ...]:
        return parts_of(self.shape, self.size_m)

    @property
    def corners_m(self) -> Floats:
        """World corners (8, 3) of the true box, in Open3D's order."""
        return box_corners(self.pose, np.array(self.size_m))

    @property
    def plinth_half_m(self) -> tuple[float, float, float]:
        return (self.size_m[0] * 0.36, self.size_m[1] * 0.36, self.plinth_m / 2)

    @property
    def plinth_pose(self) -> Floats:
        """World from plinth, shape (4, 4), origin in its middle."""
        pose = self.pose.copy()
        pose[2, 3] = self.plinth_m / 2
        return pose


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Scene:
    seed: int
    style: SceneStyle
    objects: tuple[SceneObject, ...]
    camera: Camera
    light: Floats
    """Unit vector towards the light, world, shape (3,)."""

    def corners_camera_m(self, index: int) -> Floats:
        """True box of object ``index`` in the camera frame, (8, 3), Open3D's order."""
        return self.camera.to_camera(self.objects[index].corners_m)

    def corners_uv(self, index: int) -> Floats:
        """The same corners in the picture, (8, 2), normalised."""
        return self.camera.project(self.objects[index].corners_m)

    def index_of(self, name: str) -> int:
        """Index of the object with this exact name; ValueError when there is none."""
        return [item.name for item in self.objects].index(name)


def style_named(name: str) -> SceneStyle:
    if name not in STYLES:
        raise ConfigError(f"unknown scene style {name!r}; known: {', '.join(STYLES)}")
    return STYLES[name]


def make_scene(seed: int, style: SceneStyle = DEMO) -> Scene:
    """The scene of a seed: the same numbers on every machine."""
    rng = np.random.default_rng([seed, zlib.crc32(style.name.encode())])
    num_objects = int(rng.integers(style.num_objects[0], style.num_objects[1] + 1))
    for _ in range(1000):
        scene = _attempt(seed, style, num_objects, rng)
        if scene is not None:
            return scene
    raise ConfigError(f"style {style.name!r} leaves no room for its objects (seed {seed})")


def _attempt(
    seed: int, style: SceneStyle, num_objects: int, rng: np.random.Generator
) -> Scene | None:
    camera = _draw_camera(style, rng)
    placed: list[SceneObject] = []
    colours = rng.permutation(list(COLOURS))[:num_objects]
    shapes = rng.integers(len(SHAPES), size=num_objects)
    for colour, shape in zip(colours, shapes, strict=True):
        for _ in range(12):
            item = _draw_object(str(colour), SHAPES[int(shape)], style, camera, rng)
            if item is not None and _has_room(item, placed, style, camera):
                placed.append(item)
                break
        else:
            return None
    light = rng.normal(size=3) * np.array([0.5, 0.5, 0.0]) + np.array([0.0, 0.0, 1.2])
    return Scene(
        seed=seed,
        style=style,
        objects=tuple(placed),
        camera=camera,
        light=light / np.linalg.norm(light),
    )


WORKSPACE_M = (0.50, 0.0)
"""Table point that cameras look at; the arm's base stands at the origin."""
REACH_M = ((0.36, 0.64), (-0.24, 0.24))


def _draw_camera(style: SceneStyle, rng: np.random.Generator) -> Camera:
    azimuths = style.azimuth_deg[int(rng.integers(len(style.azimuth_deg)))]
    target = np.array([*WORKSPACE_M, 0.03 + 0.3 * sum(style.plinth_m) / 2])
    target[:2] += rng.uniform(-0.03, 0.03, size=2)
    pose = look_at(
        target,
        distance_m=rng.uniform(*style.distance_m),
        azimuth_rad=np.radians(rng.uniform(*azimuths)),
        tilt_rad=np.radians(rng.uniform(*style.tilt_deg)),
        roll_rad=np.radians(rng.uniform(*style.roll_deg)),
    )
    return Camera(
        position_m=pose[:3, 3],
        rotation=pose[:3, :3],
        focal_length_px=style.focal_length_px,
        width=style.width,
        height=style.height,
    )


def _draw_object(
    colour: str, shape: Shape, style: SceneStyle, camera: Camera, rng: np.random.Generator
) -> SceneObject | None:
    side = rng.uniform(*style.size_m)
    centre = _draw_place(side / 2, style, camera, rng)
    if centre is None:
        return None
    if style.size_px is not None:
        depth_m = float(camera.to_camera(centre)[2])
        side = rng.uniform(*style.size_px) * depth_m / camera.focal_length_px
    size = _draw_size(shape, side, rng)
    plinth = 0.0
    if style.depth_m is None:
        centre[2] = size[2] / 2
    else:
        plinth = float(centre[2]) - size[2] / 2
        if not style.plinth_m[0] <= plinth <= style.plinth_m[1]:
            return None
    yaw = rng.uniform(0.0, 2 * np.pi)
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:3, 3] = centre
    return SceneObject(
        name=f"{colour} {shape}",
        colour=colour,
        shape=shape,
        pose=pose,
        size_m=size,
        plinth_m=plinth,
    )


def _draw_size(shape: Shape, side: float, rng: np.random.Generator) -> tuple[float, float, float]:
    match shape:
        case "cube" | "ball":
            return (side, side, side)
        case "box":
            narrow = rng.uniform(0.75, 0.95) * side
            return (rng.uniform(1.6, 2.0) * narrow, narrow, rng.uniform(0.8, 1.2) * narrow)
        case "cylinder":
            return (0.85 * side, 0.85 * side, rng.uniform(1.15, 1.5) * side)
        case "cup":
            width = 0.95 * side
            return (width * (1 + HANDLE / 2), width, rng.uniform(0.95, 1.15) * side)


def _draw_place(
    height_m: float, style: SceneStyle, camera: Camera, rng: np.random.Generator
) -> Floats | None:
    """A centre within reach or anywhere in the picture, at this height or at a drawn depth."""
    if style.grippable:
        return np.array([rng.uniform(*REACH_M[0]), rng.uniform(*REACH_M[1]), height_m])
    uv = rng.uniform(0.1, 0.9, size=2)
    offset = (uv - 0.5) * np.array([camera.width, camera.height]) / camera.focal_length_px
    ray = camera.rotation @ np.array([offset[0], offset[1], 1.0])
    if ray[2] > -0.2:
        return None
    if style.depth_m is not None:
        return np.asarray(camera.position_m + ray * rng.uniform(*style.depth_m))
    return np.asarray(camera.position_m + ray * (height_m - camera.position_m[2]) / ray[2])


def _has_room(
    item: SceneObject, placed: list[SceneObject], style: SceneStyle, camera: Camera
) -> bool:
    box = _picture_box(item.corners_m, camera)
    if box[:2].min() < 0.015 or box[2:].max() > 0.985 or _share(item, camera) < style.min_share:
        return False
    for other in placed:
        if not _apart(box, _picture_box(other.corners_m, camera), 0.02):
            return False
        if style.grippable and np.linalg.norm(item.pose[:2, 3] - other.pose[:2, 3]) < 0.15:
            return False
        if _plinth_covers(item, other, camera) or _plinth_covers(other, item, camera):
            return False
    return True


def _picture_box(corners_m: Floats, camera: Camera) -> Floats:
    """Picture rectangle (u0, v0, u1, v1) around world points."""
    uv = camera.project(corners_m)
    return np.concatenate([uv.min(axis=0), uv.max(axis=0)])


def _apart(first: Floats, second: Floats, gap: float) -> bool:
    return bool(np.any(first[:2] > second[2:] + gap) or np.any(second[:2] > first[2:] + gap))


def _plinth_covers(carrier: SceneObject, other: SceneObject, camera: Camera) -> bool:
    """Whether the plinth under ``carrier`` may hide part of ``other``."""
    if carrier.plinth_m < 1e-3:
        return False
    plinth = box_corners(carrier.plinth_pose, 2 * np.array(carrier.plinth_half_m))
    if camera.to_camera(plinth)[:, 2].min() > camera.to_camera(other.corners_m)[:, 2].max():
        return False
    return not _apart(_picture_box(plinth, camera), _picture_box(other.corners_m, camera), 0.01)


def _share(item: SceneObject, camera: Camera) -> float:
    """About the share of the picture that the object fills, from its size and distance."""
    a, b, c = item.size_m
    view = camera.to_camera(item.pose[:3, 3])
    up = abs(float(camera.rotation[2] @ view)) / float(np.linalg.norm(view))
    level = float(np.sqrt(max(0.0, 1 - up**2)))
    match item.shape:
        case "ball":
            area = np.pi / 4 * a * a
        case "cylinder" | "cup":
            area = np.pi / 4 * b * b * up + b * c * level
        case _:
            side = item.pose[:3, :2].T @ (camera.rotation @ view) / float(np.linalg.norm(view))
            area = a * b * up + c * (b * abs(side[0]) + a * abs(side[1]))
    area_px = area * (camera.focal_length_px / view[2]) ** 2
    return float(area_px / (camera.width * camera.height))
