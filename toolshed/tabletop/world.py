"""The robot's world: a scene with an arm in physics, rebuilt from a state and asked to act.

Nothing is kept between calls: ``World.from_state`` restores, an action runs the simulation, and
``state`` is what travels on. Whether a grasp succeeded is read off the physics: after lifting and
carrying, the object is still touched by both fingers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import mujoco
import numpy as np

from toolshed.tabletop.arm import HOME_RAD, NUM_JOINTS, grasp_pose, reach, reach_any
from toolshed.tabletop.camera import Floats
from toolshed.tabletop.gripper import FINGER_LENGTH_M, MAX_OPENING_M
from toolshed.tabletop.model import TIME_STEP_S, WorldModel, build, start
from toolshed.tabletop.render import BACKGROUND, Rendering, cast, shade
from toolshed.tabletop.scene import Scene
from toolshed.tabletop.state import WorldState, initial_state

__all__ = ["Outcome", "World", "WorldState", "initial_state"]

LIFT_M = 0.20
APPROACH_M = 0.12
LIFTED_M = 0.03
"""Objects whose middle rose by less were not picked up."""
RELEASE_GAP_M = 0.004
MIN_TIP_M = 0.004
"""Fingertips stay this far above the table."""
_SPEED_RAD_S = 1.4
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How an action went, and the world after it."""

    success: bool
    execution_time_s: float
    """Of the simulated arm."""
    state: WorldState


class World:
    def __init__(self, state: WorldState, scene: Scene, built: WorldModel) -> None:
        self.scene = scene
        self._before = state
        self._built = built
        self._model = built.model
        self._data = start(built.model)
        if state.physics.size:
            mujoco.mj_setState(self._model, self._data, state.physics, _STATE)
            mujoco.mj_forward(self._model, self._data)
        self._began_s = float(self._data.time)

    @classmethod
    def from_state(cls, state: WorldState) -> World:
        scene = state.scene()
        return cls(state, scene, _built(state.seed, state.style))

    def capture(self) -> Rendering:
        """What the camera sees now, arm included; noise differs after every action."""
        hits = cast(self._model, self._data, self.scene.camera)
        rng = np.random.default_rng([self._before.num_actions, self.scene.seed])
        return shade(
            hits,
            albedo_G3=self._built.albedo_G3,
            ids_G=self._built.ids_G,
            scene=self.scene,
            rng=rng,
        )

    def execute_grasp(self, pose_camera: Floats) -> Outcome:
        """Approach along the grasp's z, close, lift and carry home; drops what was held before."""
        pose = self.scene.camera.pose_to_world(np.asarray(pose_camera, dtype=np.float64))
        tip_m = float((pose @ [0.0, 0.0, FINGER_LENGTH_M, 1.0])[2])
        pose[2, 3] += max(0.0, MIN_TIP_M - tip_m)
        before_m = self._heights_m()
        joints = reach_any(pose) if _is_pose(pose) else None
        if joints is None:
            return self._unmoved()
        self._fingers(MAX_OPENING_M / 2)
        pose = grasp_pose(joints)
        above = pose.copy()
        above[:3, 3] -= APPROACH_M * pose[:3, 2]
        ready = reach(above, joints)
        if ready is None:
            return self._outcome(success=False, held=None)
        self._go([ready])
        self._go(_line(ready, above, pose))
        self._fingers(0.0)
        lifted = pose.copy()
        lifted[2, 3] += LIFT_M
        self._go(_line(joints, pose, lifted))
        self._go([HOME_RAD])
        self._wait(0.3)
        held = self._touched_by_both(before_m)
        if held is None:
            self._fingers(MAX_OPENING_M / 2)
        return self._outcome(success=held is not None, held=held, grip_height_m=float(pose[2, 3]))

    def place(self, point_camera_m: Floats) -> Outcome:
        """Put the held object's bottom on a camera-frame point; fails when nothing is held."""
        held = self._before.held
        if held is None:
            return self._outcome(success=False, held=None)
        goal_m = self.scene.camera.to_world(np.asarray(point_camera_m, dtype=np.float64))
        pose = grasp_pose(self._joints())
        pose[:3, 3] = goal_m
        pose[2, 3] = self._before.grip_height_m + max(0.0, float(goal_m[2])) + RELEASE_GAP_M
        joints = _reach_turned(pose)
        if joints is None:
            return self._unmoved()
        pose = grasp_pose(joints)
        above = pose.copy()
        above[2, 3] += APPROACH_M
        ready = reach(above, joints)
        ready = joints if ready is None else ready
        self._go([ready])
        self._go(_line(ready, above, pose))
        self._fingers(MAX_OPENING_M / 2)
        self._go(_line(joints, pose, above))
        self._go([HOME_RAD])
        self._wait(0.4)
        rest = self._data.body(f"object{self.scene.index_of(held)}").xpos
        distance = float(np.linalg.norm(rest[:2] - goal_m[:2]))
        return self._outcome(success=distance <= 0.03 and rest[2] > 0.0, held=None)

    def _unmoved(self) -> Outcome:
        before = self._before
        return self._outcome(success=False, held=before.held, grip_height_m=before.grip_height_m)

    def _outcome(self, *, success: bool, held: str | None, grip_height_m: float = 0.0) -> Outcome:
        physics = np.zeros(mujoco.mj_stateSize(self._model, _STATE))
        mujoco.mj_getState(self._model, self._data, physics, _STATE)
        positions = {}
        for index, item in enumerate(self.scene.objects):
            x, y, z = self._data.body(f"object{index}").xpos
            positions[item.name] = (float(x), float(y), float(z))
        state = WorldState(
            seed=self._before.seed,
            style=self._before.style,
            physics=physics,
            positions_m=positions,
            held=held,
            grip_height_m=grip_height_m if held is not None else 0.0,
            num_actions=self._before.num_actions + 1,
        )
        seconds = float(self._data.time) - self._began_s
        self._before = state
        self._began_s = float(self._data.time)
        return Outcome(success=success, execution_time_s=seconds, state=state)

    def _joints(self) -> Floats:
        return np.array(self._data.qpos[:NUM_JOINTS])

    def _heights_m(self) -> Floats:
        return np.array(
            [self._data.body(f"object{index}").xpos[2] for index in range(len(self.scene.objects))]
        )

    def _go(self, path_rad: Sequence[Floats]) -> None:
        """Follow joint waypoints with a smooth speed profile, then settle briefly."""
        points = [np.array(self._data.ctrl[:NUM_JOINTS]), *path_rad]
        steps = [float(np.abs(b - a).max()) for a, b in itertools.pairwise(points)]
        ends = np.concatenate([[0.0], np.cumsum(steps)])
        duration_s = max(0.25, 1.5 * float(ends[-1]) / _SPEED_RAD_S)
        num_steps = round(duration_s / TIME_STEP_S)
        track = np.stack(points)
        for step in range(1, num_steps + 1):
            share = step / num_steps
            along = ends[-1] * share**2 * (3 - 2 * share)
            for joint in range(NUM_JOINTS):
                self._data.ctrl[joint] = np.interp(along, ends, track[:, joint])
            mujoco.mj_step(self._model, self._data)
        self._wait(0.12)

    def _fingers(self, opening_m: float) -> None:
        self._data.ctrl[NUM_JOINTS:] = opening_m
        self._wait(0.5)

    def _wait(self, seconds: float) -> None:
        mujoco.mj_step(self._model, self._data, round(seconds / TIME_STEP_S))

    def _touched_by_both(self, before_m: Floats) -> str | None:
        """The raised object that both fingers touch."""
        touched: tuple[set[int], set[int]] = (set(), set())
        for pair in self._data.contact.geom:
            for side, fingers in enumerate(self._built.finger_geoms):
                for finger, other in ((pair[0], pair[1]), (pair[1], pair[0])):
                    if int(finger) in fingers and self._built.ids_G[other] >= 0:
                        touched[side].add(int(self._built.ids_G[other]))
        heights = self._heights_m()
        for index in sorted(touched[0] & touched[1]):
            if heights[index] > before_m[index] + LIFTED_M:
                return self.scene.objects[index].name
        return None


@lru_cache(maxsize=16)
def _built(seed: int, style: str) -> WorldModel:
    return build(WorldState(seed=seed, style=style).scene(), BACKGROUND)


def _line(start_rad: Floats, begin: Floats, end: Floats) -> list[Floats]:
    """Joint waypoints along the straight line between two poses of one orientation."""
    path = []
    joints = start_rad
    for share in np.linspace(0.0, 1.0, 7)[1:]:
        pose = begin.copy()
        pose[:3, 3] += share * (end[:3, 3] - begin[:3, 3])
        found = reach(pose, joints)
        if found is None:
            break
        joints = found
        path.append(joints)
    return path or [start_rad]


def _reach_turned(pose: Floats) -> Floats | None:
    """Reach a place from above with the turn about the vertical that comes easiest."""
    for turn in (0.0, 0.8, -0.8, 1.6):
        cosine, sine = np.cos(turn), np.sin(turn)
        turned = pose.copy()
        turned[:2, :3] = np.array([[cosine, -sine], [sine, cosine]]) @ pose[:2, :3]
        joints = reach_any(turned)
        if joints is not None:
            return joints
    return None


def _is_pose(pose: Floats) -> bool:
    """Whether the rotation part is one, within what a model's rounding allows."""
    turn = pose[:3, :3]
    return bool(
        np.isfinite(pose).all()
        and np.abs(turn @ turn.T - np.eye(3)).max() < 0.02
        and np.linalg.det(turn) > 0
    )
