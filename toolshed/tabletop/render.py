"""Pictures of scenes by ray casting: colour, exact z-depth, object ids, the depth sensor image.

Light is white and shading scalar, so permuting a scene's colour channels permutes the picture's.
One compiled MuJoCo model with free slots serves every scene: moving its geoms costs microseconds.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import mujoco
import numpy as np
import numpy.typing as npt

from toolshed.images import make_image
from toolshed.tabletop.camera import Camera, Floats
from toolshed.tabletop.scene import COLOURS, Scene
from toolshed.tabletop.shapes import MAX_PARTS
from toolshed.types import Point, ToolImage

TABLE_ALBEDO = 0.45
PLINTH_ALBEDO = 0.36
BACKGROUND = 0.30
AMBIENT = 0.74
"""High, so that the dark side of a white object stays brighter than the table."""
PIXEL_NOISE = 2.0
"""Standard deviation of pixel noise, grey levels."""
DEPTH_NOISE_M = 0.003
DROPOUT = 0.02
EDGE_DROPOUT = 0.25
EDGE_STEP_M = 0.02
MAX_RANGE_M = 4.0
MAX_OBJECTS = 6


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Rendering:
    pixels: npt.NDArray[np.uint8]
    """RGB, (H, W, 3)."""
    depth_m: npt.NDArray[np.float32]
    """Exact z-depth, (H, W); 0 beyond the sensor's range."""
    depth_mm: npt.NDArray[np.uint16]
    """What a depth sensor reports, (H, W); 0 where it saw nothing."""
    ids: npt.NDArray[np.int16]
    """Index into the scene's objects, (H, W); -1 elsewhere."""
    focal_length_px: float

    def image(self) -> ToolImage:
        return make_image(self.pixels, self.depth_mm, self.focal_length_px)

    def mask(self, index: int) -> npt.NDArray[np.bool_]:
        return np.asarray(self.ids == index)

    def num_pixels(self, index: int) -> int:
        return int(np.count_nonzero(self.ids == index))

    def centroid(self, index: int) -> Point:
        """Mean of the visible mask, normalised; it may lie outside a bent mask."""
        rows, columns = np.nonzero(self.ids == index)
        height, width = self.ids.shape
        return Point(u=float(columns.mean() + 0.5) / width, v=float(rows.mean() + 0.5) / height)

    def target(self, index: int) -> Point:
        """Middle of the mask pixel nearest the mask's centroid."""
        row, column = self._target_pixel(index)
        height, width = self.ids.shape
        return Point(u=(column + 0.5) / width, v=(row + 0.5) / height)

    def target_depth_m(self, index: int) -> float:
        """Exact z-depth of the visible surface at ``target``."""
        row, column = self._target_pixel(index)
        return float(self.depth_m[row, column])

    def _target_pixel(self, index: int) -> npt.NDArray[np.int64]:
        pixels = np.argwhere(self.ids == index)
        distance = ((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1)
        return np.asarray(pixels[int(distance.argmin())])


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Hits:
    """First hit of every pixel's ray, row-major."""

    geom_P: npt.NDArray[np.int32]
    """-1 where nothing was hit."""
    depth_P: Floats
    """z-depth."""
    normal_P3: Floats


def render(scene: Scene, *, noise_seed: int = 0) -> Rendering:
    """The picture of a scene; ``noise_seed`` draws pixel and depth noise and nothing else."""
    stage = _stage()
    stage.set_up(scene)
    hits = cast(stage.model, stage.data, scene.camera)
    return shade(
        hits,
        albedo_G3=stage.albedo_G3,
        ids_G=stage.ids_G,
        scene=scene,
        rng=np.random.default_rng([noise_seed, scene.seed]),
    )


def cast(model: mujoco.MjModel, data: mujoco.MjData, camera: Camera) -> Hits:
    """Cast one ray per pixel; geom positions in ``data`` must be up to date."""
    rays = camera.rays()
    num = len(rays)
    geom = np.empty(num, dtype=np.int32)
    distance = np.empty(num)
    normal = np.empty((num, 3))
    length = np.linalg.norm(rays, axis=1)
    directions = rays / length[:, None]
    mujoco.mj_multiRay(
        model, data, camera.position_m, directions.ravel(), None, True, -1,
        geom, distance, normal.reshape(-1), num, MAX_RANGE_M,
    )  # fmt: skip
    depth = distance / length
    depth[geom < 0] = 0.0
    return Hits(geom_P=geom, depth_P=depth, normal_P3=normal)


def shade(
    hits: Hits,
    *,
    albedo_G3: npt.NDArray[np.float32],
    ids_G: npt.NDArray[np.int16],
    scene: Scene,
    rng: np.random.Generator,
) -> Rendering:
    """Colour the hits; row -1 of the tables stands for rays that hit nothing."""
    height, width = scene.camera.height, scene.camera.width
    lit = np.maximum(hits.normal_P3 @ scene.light, 0.0)
    level = np.where(hits.geom_P < 0, 1.0, AMBIENT + (1 - AMBIENT) * lit).astype(np.float32)
    grey = albedo_G3[hits.geom_P] * (255.0 * level)[:, None]
    grey += PIXEL_NOISE * rng.standard_normal(grey.shape, dtype=np.float32)
    np.clip(grey, 0, 255, out=grey)
    depth = hits.depth_P.reshape(height, width).astype(np.float32)
    return Rendering(
        pixels=grey.astype(np.uint8).reshape(height, width, 3),
        depth_m=depth,
        depth_mm=_sense(depth, rng),
        ids=ids_G[hits.geom_P].reshape(height, width),
        focal_length_px=scene.camera.focal_length_px,
    )


def _sense(depth_m: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    edge = np.zeros(depth_m.shape, dtype=bool)
    down = np.abs(np.diff(depth_m, axis=0)) > EDGE_STEP_M
    across = np.abs(np.diff(depth_m, axis=1)) > EDGE_STEP_M
    edge[:-1] |= down
    edge[1:] |= down
    edge[:, :-1] |= across
    edge[:, 1:] |= across
    noise = rng.standard_normal(depth_m.shape, dtype=np.float32)
    sensed = np.rint((depth_m + DEPTH_NOISE_M * noise) * 1000.0)
    lost = rng.random(depth_m.shape, dtype=np.float32) < np.where(edge, EDGE_DROPOUT, DROPOUT)
    sensed[lost | (depth_m <= 0)] = 0
    return np.clip(sensed, 0, 65535).astype(np.uint16)


class _Stage:
    """A model with one plane and free slots for parts and plinths, moved from scene to scene."""

    def __init__(self) -> None:
        num = MAX_OBJECTS * (MAX_PARTS + 1)
        slots = '<geom type="box" size="1 1 1" rgba="0 0 0 0"/>' * num
        self.model = mujoco.MjModel.from_xml_string(
            f'<mujoco><worldbody><geom type="plane" size="0 0 1"/>{slots}</worldbody></mujoco>'
        )
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        self.albedo_G3 = np.zeros((num + 2, 3), dtype=np.float32)
        self.ids_G = np.full(num + 2, -1, dtype=np.int16)
        self.albedo_G3[0] = TABLE_ALBEDO
        self.albedo_G3[-1] = BACKGROUND

    def set_up(self, scene: Scene) -> None:
        if len(scene.objects) > MAX_OBJECTS:
            raise ValueError(f"{len(scene.objects)} objects; at most {MAX_OBJECTS} can be drawn")
        slot = 1
        for index, item in enumerate(scene.objects):
            colour = np.array(COLOURS[item.colour])
            for part in item.parts:
                pose = item.pose.copy()
                pose[:3, 3] += item.pose[:3, :3] @ np.array(part.centre_m)
                self._fill(slot, part.primitive, part.half_m, pose)
                self.albedo_G3[slot] = colour * part.tint
                self.ids_G[slot] = index
                slot += 1
            if item.plinth_m > 1e-3:
                self._fill(slot, "box", item.plinth_half_m, item.plinth_pose)
                self.albedo_G3[slot] = PLINTH_ALBEDO
                self.ids_G[slot] = -1
                slot += 1
        self.model.geom_rgba[1:slot, 3] = 1.0
        self.model.geom_rgba[slot:, 3] = 0.0

    def _fill(
        self, slot: int, primitive: str, half_m: tuple[float, float, float], pose: Floats
    ) -> None:
        # MuJoCo keeps (radius, half height) for a cylinder and culls rays by aabb and rbound.
        size = (half_m[0], half_m[2], 0.0) if primitive == "cylinder" else half_m
        self.model.geom_type[slot] = _GEOM_TYPES[primitive]
        self.model.geom_size[slot] = size
        self.model.geom_aabb[slot] = (0.0, 0.0, 0.0, *half_m)
        self.model.geom_rbound[slot] = float(np.linalg.norm(half_m))
        self.data.geom_xpos[slot] = pose[:3, 3]
        self.data.geom_xmat[slot] = pose[:3, :3].reshape(-1)


_GEOM_TYPES: dict[str, int] = {
    "box": int(mujoco.mjtGeom.mjGEOM_BOX),
    "sphere": int(mujoco.mjtGeom.mjGEOM_SPHERE),
    "cylinder": int(mujoco.mjtGeom.mjGEOM_CYLINDER),
}
_stages = threading.local()


def _stage() -> _Stage:
    stages = _stages.__dict__
    if "stage" not in stages:
        stages["stage"] = _Stage()
    stage = stages["stage"]
    assert isinstance(stage, _Stage)
    return stage
