"""The MuJoCo model of a scene with the arm, compiled from the same parts that pictures show."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
import numpy.typing as npt

from toolshed.tabletop.arm import HOME_RAD, NUM_JOINTS, arm_mjcf
from toolshed.tabletop.gripper import MAX_OPENING_M
from toolshed.tabletop.render import PLINTH_ALBEDO, TABLE_ALBEDO
from toolshed.tabletop.scene import COLOURS, Scene, SceneObject
from toolshed.tabletop.shapes import Part

TIME_STEP_S = 0.002
DENSITY = 300.0
ARM_ALBEDO = 0.62
FINGER_ALBEDO = 0.25


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class WorldModel:
    model: mujoco.MjModel
    albedo_G3: npt.NDArray[np.float32]
    """By geom, with the background as the last row."""
    ids_G: npt.NDArray[np.int16]
    """Index of the object that a geom belongs to, -1 for none; same rows."""
    finger_geoms: tuple[frozenset[int], frozenset[int]]


def build(scene: Scene, background: float) -> WorldModel:
    """Compile a scene with the arm at home."""
    model = mujoco.MjModel.from_xml_string(_mjcf(scene))
    albedo = np.full((model.ngeom + 1, 3), ARM_ALBEDO, dtype=np.float32)
    ids = np.full(model.ngeom + 1, -1, dtype=np.int16)
    albedo[-1] = background
    albedo[model.geom("table").id] = TABLE_ALBEDO
    fingers: list[frozenset[int]] = []
    for side in ("left", "right"):
        body = model.body(side).id
        fingers.append(frozenset(np.flatnonzero(model.geom_bodyid == body).tolist()))
        albedo[list(fingers[-1])] = FINGER_ALBEDO
    for index, item in enumerate(scene.objects):
        for part_index, part in enumerate(item.parts):
            geom = model.geom(f"object{index}_{part_index}").id
            albedo[geom] = np.array(COLOURS[item.colour]) * part.tint
            ids[geom] = index
        if item.plinth_m > 1e-3:
            albedo[model.geom(f"plinth{index}").id] = PLINTH_ALBEDO
    return WorldModel(
        model=model, albedo_G3=albedo, ids_G=ids, finger_geoms=(fingers[0], fingers[1])
    )


def start(model: mujoco.MjModel) -> mujoco.MjData:
    """The world at rest: objects as in the scene, arm folded at home, fingers open."""
    data = mujoco.MjData(model)
    joints = np.array([*HOME_RAD, MAX_OPENING_M / 2, MAX_OPENING_M / 2])
    for index, name in enumerate(_JOINT_NAMES):
        data.qpos[model.joint(name).qposadr[0]] = joints[index]
    data.ctrl[:] = joints
    mujoco.mj_forward(model, data)
    return data


_JOINT_NAMES = [*(f"joint{index + 1}" for index in range(NUM_JOINTS)), "left", "right"]


def _mjcf(scene: Scene) -> str:
    objects = "".join(_object(index, item) for index, item in enumerate(scene.objects))
    motors = "".join(
        f'<position joint="joint{index + 1}" kp="{kp}" kv="{kp / 8}" forcerange="-{top} {top}"/>'
        for index, (kp, top) in enumerate(_GAINS)
    )
    slides = "".join(
        f'<position joint="{side}" kp="1500" kv="30" forcerange="-15 15"/>'
        for side in ("left", "right")
    )
    return f"""<mujoco>
<compiler angle="radian" autolimits="true"/>
<option timestep="{TIME_STEP_S}" integrator="implicitfast" cone="elliptic" impratio="10"/>
<default>
  <geom friction="1.0 0.01 0.001" condim="6" solref="0.006 1"/>
  <default class="arm"><geom type="capsule" contype="0" conaffinity="0"/></default>
  <default class="finger"><geom friction="1.6 0.03 0.003" contype="2" conaffinity="1"/></default>
</default>
<worldbody>
<geom name="table" type="plane" size="0 0 1" contype="1" conaffinity="3"/>
<geom class="arm" fromto="0 0 0 0 0 0.15" size="0.08"/>
{arm_mjcf()}{objects}</worldbody>
<equality><joint joint1="left" joint2="right" solref="0.004 1"/></equality>
<actuator>{motors}{slides}</actuator>
</mujoco>"""


_GAINS = ((4500, 87), (4500, 87), (3500, 87), (3500, 87), (2000, 40), (2000, 40), (2000, 40))


def _object(index: int, item: SceneObject) -> str:
    parts = "".join(
        _geom(f"object{index}_{part_index}", part) for part_index, part in enumerate(item.parts)
    )
    text = (
        f'<body name="object{index}" {_place(item.pose)}><freejoint name="free{index}"/>'
        f"{parts}</body>"
    )
    if item.plinth_m > 1e-3:
        half = _numbers(item.plinth_half_m)
        text += f'<geom name="plinth{index}" type="box" size="{half}" {_place(item.plinth_pose)}/>'
    return text


def _geom(name: str, part: Part) -> str:
    half = part.half_m
    size = (half[0], half[2]) if part.primitive == "cylinder" else half
    # The dark disc inside a cup is paint.
    solid = "" if part.tint == 1.0 else 'contype="0" conaffinity="0" mass="0"'
    return (
        f'<geom name="{name}" type="{part.primitive}" size="{_numbers(size)}" '
        f'pos="{_numbers(part.centre_m)}" density="{DENSITY}" {solid}/>'
    )


def _place(pose: npt.NDArray[np.float64]) -> str:
    yaw = float(np.arctan2(pose[1, 0], pose[0, 0]))
    return f'pos="{_numbers(tuple(pose[:3, 3]))}" euler="0 0 {yaw}"'


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(repr(float(value)) for value in values)
