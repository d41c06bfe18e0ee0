"""The five shapes, each a few MuJoCo primitives around the centre of its bounding box.

The object frame is upright: z is up, x and y are the sides of the bounding box, so ``size_m`` are
the extents of the true oriented box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from toolshed.tabletop.camera import Floats

Shape = Literal["cube", "box", "ball", "cylinder", "cup"]
Primitive = Literal["box", "sphere", "cylinder"]

SHAPES: tuple[Shape, ...] = ("cube", "box", "ball", "cylinder", "cup")
MAX_PARTS = 5

HANDLE = 0.45
"""How far a cup's handle sticks out, in radii."""
INNER_TINT = 0.6
"""Brightness of a cup's inside: it is drawn as a darker disc, so depth has no hole there."""
CORNER_SIGNS = np.array(
    [
        [-1, -1, -1],
        [1, -1, -1],
        [-1, 1, -1],
        [-1, -1, 1],
        [1, 1, 1],
        [-1, 1, 1],
        [1, -1, 1],
        [1, 1, -1],
    ],
    dtype=np.float64,
)
"""Half-axis signs of box corners 0-7 in the order of Open3D's ``get_box_points``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One primitive, axis-parallel in the object frame."""

    primitive: Primitive
    half_m: tuple[float, float, float]
    """Half extents; for a cylinder (radius, radius, half height)."""
    centre_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tint: float = 1.0


def parts_of(shape: Shape, size_m: tuple[float, float, float]) -> tuple[Part, ...]:
    """Primitives of a shape with the given bounding box, at most MAX_PARTS."""
    half = (size_m[0] / 2, size_m[1] / 2, size_m[2] / 2)
    match shape:
        case "cube" | "box":
            return (Part(primitive="box", half_m=half),)
        case "ball":
            return (Part(primitive="sphere", half_m=half),)
        case "cylinder":
            return (Part(primitive="cylinder", half_m=half),)
        case "cup":
            return _cup(half)


def box_corners(pose: Floats, size_m: Floats) -> Floats:
    """Corners (8, 3) of the box with this pose (4, 4) and extents, in Open3D's order."""
    return np.asarray(CORNER_SIGNS * (size_m / 2) @ pose[:3, :3].T + pose[:3, 3], dtype=np.float64)


def _cup(half: tuple[float, float, float]) -> tuple[Part, ...]:
    radius, height = half[1], half[2]
    middle = -half[0] + radius
    reach = half[0] - (middle + radius)
    bar = 0.16 * radius
    arm_x = middle + radius + reach / 2 - 0.05 * radius
    arm_half = (reach / 2 + 0.05 * radius, bar, bar)
    lip = 0.0005
    return (
        Part(
            primitive="cylinder",
            half_m=(radius, radius, height - lip),
            centre_m=(middle, 0.0, -lip),
        ),
        Part(
            primitive="cylinder",
            half_m=(0.8 * radius, 0.8 * radius, lip),
            centre_m=(middle, 0.0, height - lip),
            tint=INNER_TINT,
        ),
        Part(primitive="box", half_m=arm_half, centre_m=(arm_x, 0.0, 0.5 * height)),
        Part(primitive="box", half_m=arm_half, centre_m=(arm_x, 0.0, -0.35 * height)),
        Part(
            primitive="box",
            half_m=(bar, bar, 0.425 * height + bar),
            centre_m=(half[0] - bar, 0.0, 0.075 * height),
        ),
    )
