"""The state of the robot's world, as it travels between calls: plain numbers, no simulator."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from toolshed.tabletop.camera import Floats
from toolshed.tabletop.scene import MANIPULATION, Scene, make_scene, style_named


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class WorldState:
    """Everything that a robot call needs and changes; any replica can go on from it."""

    seed: int
    style: str
    physics: Floats = field(default_factory=lambda: np.zeros(0))
    """The simulator's integration state; empty before the first action."""
    positions_m: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """World position of each object's box middle."""
    held: str | None = None
    """Name of the object between the fingers."""
    grip_height_m: float = 0.0
    """How high over the table the gripper's base was when it closed on what it holds."""
    num_actions: int = 0

    def scene(self) -> Scene:
        """The scene as it was at the start."""
        return make_scene(self.seed, style_named(self.style))

    def position_m(self, name: str) -> tuple[float, float, float]:
        """World position of an object; KeyError when the scene has none of this name."""
        return self.positions_m[name]


def initial_state(seed: int, style: str = MANIPULATION.name) -> WorldState:
    """The untouched world of a seed."""
    scene = make_scene(seed, style_named(style))
    positions = {
        item.name: (float(item.pose[0, 3]), float(item.pose[1, 3]), float(item.pose[2, 3]))
        for item in scene.objects
    }
    return WorldState(seed=seed, style=style, positions_m=positions)
