"""A seven-joint arm with the published kinematics of the Panda, drawn with capsules.

Forward kinematics and damped-least-squares inverse kinematics are plain numpy; the same numbers
make the MuJoCo bodies. The base stands at the world's origin; poses are those of the grasp frame
(see ``gripper``).
"""

from __future__ import annotations

import numpy as np

from toolshed.tabletop.camera import Floats
from toolshed.tabletop.gripper import (
    FINGER_HALF_M,
    FINGER_LENGTH_M,
    MAX_OPENING_M,
    PALM_HALF_M,
)

NUM_JOINTS = 7
OFFSETS_M = np.array(
    [
        [0.0, 0.0, 0.333],
        [0.0, 0.0, 0.0],
        [0.0, -0.316, 0.0],
        [0.0825, 0.0, 0.0],
        [-0.0825, 0.384, 0.0],
        [0.0, 0.0, 0.0],
        [0.088, 0.0, 0.0],
    ]
)
"""Origin of each link in the one before."""
TWISTS = (0, -1, 1, 1, -1, 1, 1)
"""Quarter turns about x of each link against the one before."""
FLANGE_M = 0.107
TOOL_M = FLANGE_M + 2 * PALM_HALF_M[2]
"""From the last link's origin to the gripper's base, along its z."""
TOOL_TURN_RAD = -np.pi / 4
LOW_RAD = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
HIGH_RAD = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
READY_RAD = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785])
"""The published ready pose: where inverse kinematics begins."""
HOME_RAD = np.array([0.0, -1.45, 0.0, -2.75, 0.0, 1.30, 0.785])
"""Folded back, out of the camera's view."""

POSITION_TOLERANCE_M = 0.001
TURN_TOLERANCE_RAD = 0.01
_SPEED_LIMIT_RAD = 0.3


def link_poses(joints_rad: Floats) -> Floats:
    """World poses of the seven links and the grasp frame, (8, 4, 4)."""
    poses = np.empty((NUM_JOINTS + 1, 4, 4))
    pose = np.eye(4)
    for index in range(NUM_JOINTS):
        pose = pose @ _FIXED[index] @ _turn_z(joints_rad[index])
        poses[index] = pose
    poses[NUM_JOINTS] = pose @ _TOOL
    return poses


def grasp_pose(joints_rad: Floats) -> Floats:
    """World pose (4, 4) of the grasp frame."""
    return np.asarray(link_poses(joints_rad)[NUM_JOINTS])


def reach(pose: Floats, start_rad: Floats, *, num_steps: int = 120) -> Floats | None:
    """Joint angles that bring the grasp frame to a world pose, or None when it is out of reach.

    Damped least squares from ``start_rad``, with a slight pull towards the ready pose.
    """
    joints = np.clip(start_rad, LOW_RAD + 0.01, HIGH_RAD - 0.01)
    for _ in range(num_steps):
        poses = link_poses(joints)
        error = _error(pose, poses[NUM_JOINTS])
        arrived = np.linalg.norm(error[:3]) < POSITION_TOLERANCE_M
        if arrived and np.linalg.norm(error[3:]) < TURN_TOLERANCE_RAD:
            return joints
        jacobian = _jacobian(poses)
        damped = jacobian @ jacobian.T + 1e-4 * np.eye(6)
        inverse = jacobian.T @ np.linalg.inv(damped)
        free = np.eye(NUM_JOINTS) - inverse @ jacobian
        # The pull fades near the goal: damping lets a little of it leak into the hand.
        pull = 0.05 * min(1.0, float(np.linalg.norm(error)) / 0.05)
        step = inverse @ error + free @ (pull * (READY_RAD - joints))
        step *= min(1.0, _SPEED_LIMIT_RAD / (float(np.abs(step).max()) + 1e-9))
        joints = np.clip(joints + step, LOW_RAD + 0.005, HIGH_RAD - 0.005)
    return None


def reach_any(pose: Floats) -> Floats | None:
    """Like ``reach``, from several starts, for the pose or the same grasp turned by half a turn."""
    found = []
    for turned in (pose, pose @ np.diag([-1.0, -1.0, 1.0, 1.0])):
        for elbow in (0.0, 0.6, -0.6):
            start = READY_RAD.copy()
            start[0] = np.arctan2(pose[1, 3], pose[0, 3]) + elbow
            start[2] = -elbow
            joints = reach(turned, start)
            if joints is not None:
                found.append(joints)
                break
    return min(found, key=_strain) if found else None


def arm_mjcf() -> str:
    """The arm's bodies with joints ``joint1`` to ``joint7`` and the gripper's two slides."""
    opened = MAX_OPENING_M / 2
    x, y, z = PALM_HALF_M
    half_x, half_y = FINGER_HALF_M
    finger = (
        f'<geom class="finger" type="box" size="{half_x} {half_y} {FINGER_LENGTH_M / 2}" '
        'pos="{shift} 0 ' + f'{FINGER_LENGTH_M / 2}"/>'
    )
    text = (
        f'<body name="hand" pos="0 0 {TOOL_M}" euler="0 0 {TOOL_TURN_RAD}" gravcomp="1">'
        f'<geom name="palm" class="finger" type="box" size="{x} {y} {z}" pos="0 0 {-z}"/>'
        '<body name="left" gravcomp="1">'
        f'<joint name="left" type="slide" axis="-1 0 0" range="0 {opened}" damping="20"/>'
        + finger.format(shift=-half_x)
        + '</body><body name="right" gravcomp="1">'
        f'<joint name="right" type="slide" axis="1 0 0" range="0 {opened}" damping="20"/>'
        + finger.format(shift=half_x)
        + "</body></body>"
    )
    for index in reversed(range(NUM_JOINTS)):
        text = _link_mjcf(index, text)
    return text


def _link_mjcf(index: int, inside: str) -> str:
    x, y, z = OFFSETS_M[index]
    return (
        f'<body name="link{index + 1}" pos="{x} {y} {z}" '
        f'euler="{TWISTS[index] * np.pi / 2} 0 0" gravcomp="1">'
        f'<joint name="joint{index + 1}" axis="0 0 1" damping="20" armature="0.1" '
        f'range="{LOW_RAD[index]} {HIGH_RAD[index]}"/>'
        f'<geom class="arm" fromto="{_CAPSULES[index]}" size="{_RADII_M[index]}"/>{inside}</body>'
    )


_CAPSULES = (
    "0 0 -0.20 0 0 0",
    "0 0 0 0 -0.20 0",
    "0 0 -0.10 0 0 0",
    "0 0 0 -0.0825 0.08 0",
    "0 0 -0.26 0 0 -0.05",
    "0 0 0 0.088 0 0",
    "0 0 0 0 0 0.10",
)
_RADII_M = (0.06, 0.06, 0.055, 0.055, 0.05, 0.05, 0.045)


def _turn_z(angle_rad: float) -> Floats:
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    pose = np.eye(4)
    pose[:2, :2] = [[cosine, -sine], [sine, cosine]]
    return pose


def _fixed(index: int) -> Floats:
    pose = np.eye(4)
    turn = TWISTS[index]
    if turn:
        pose[1:3, 1:3] = [[0.0, -turn], [turn, 0.0]]
    pose[:3, 3] = OFFSETS_M[index]
    return pose


def _tool() -> Floats:
    pose = _turn_z(TOOL_TURN_RAD)
    pose[2, 3] = TOOL_M
    return pose


_FIXED = [_fixed(index) for index in range(NUM_JOINTS)]
_TOOL = _tool()


def _error(goal: Floats, pose: Floats) -> Floats:
    """Translation and rotation vector (6,) from a pose to its goal, world axes."""
    turn = goal[:3, :3] @ pose[:3, :3].T
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    sine = float(np.linalg.norm(axis)) / 2
    angle = float(np.arctan2(sine, (np.trace(turn) - 1) / 2))
    if sine < 1e-9:
        # Half a turn has no axis here; any will leave the dead spot.
        axis, sine = pose[:3, 0] * 2, 1.0
    return np.concatenate([goal[:3, 3] - pose[:3, 3], axis / (2 * sine) * angle])


def _jacobian(poses: Floats) -> Floats:
    axes = poses[:NUM_JOINTS, :3, 2]
    arms = poses[NUM_JOINTS, :3, 3] - poses[:NUM_JOINTS, :3, 3]
    return np.concatenate([np.cross(axes, arms).T, axes.T])


def _strain(joints_rad: Floats) -> float:
    """Closeness to a joint limit or distance from the ready pose, whichever is worse."""
    middle, half = (LOW_RAD + HIGH_RAD) / 2, (HIGH_RAD - LOW_RAD) / 2
    return float((np.abs(joints_rad - middle) / half).max())
