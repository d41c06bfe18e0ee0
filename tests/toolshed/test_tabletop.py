"""Scenes, pictures, the arm and the world's physics."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolshed.errors import ConfigError
from toolshed.tabletop.arm import HIGH_RAD, LOW_RAD, READY_RAD, grasp_pose, reach
from toolshed.tabletop.camera import Camera, look_at, pixel_rays
from toolshed.tabletop.gripper import FINGER_LENGTH_M, key_points_m, oracle_grasp
from toolshed.tabletop.model import build, start
from toolshed.tabletop.render import BACKGROUND, render
from toolshed.tabletop.scene import (
    COLOURS,
    DEMO,
    MANIPULATION,
    NEARER,
    STYLES,
    SceneStyle,
    make_scene,
    style_named,
)
from toolshed.tabletop.shapes import SHAPES, box_corners, parts_of
from toolshed.tabletop.world import World, initial_state

turns = st.floats(-3.1, 3.1)


def _camera(azimuth: float, tilt: float, roll: float) -> Camera:
    pose = look_at(
        np.array([0.5, 0.0, 0.0]),
        distance_m=0.8,
        azimuth_rad=azimuth,
        tilt_rad=tilt,
        roll_rad=roll,
    )
    return Camera(
        position_m=pose[:3, 3], rotation=pose[:3, :3], focal_length_px=250.0, width=224, height=160
    )


@settings(deadline=None)
@given(azimuth=turns, tilt=st.floats(0.2, 1.4), roll=turns, place=st.tuples(*[turns] * 3))
def test_projection_and_pixel_rays_agree(
    azimuth: float, tilt: float, roll: float, place: tuple[float, float, float]
) -> None:
    camera = _camera(azimuth, tilt, roll)
    assert np.allclose(camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(camera.rotation) == pytest.approx(1.0)
    assert np.allclose(camera.to_world(camera.to_camera(np.array(place))), place)
    rays = camera.rays()
    points = camera.position_m + rays * 0.7
    uv = camera.project(points).reshape(160, 224, 2)
    assert np.allclose(uv[..., 0], (np.arange(224) + 0.5) / 224)
    assert np.allclose(uv[..., 1], ((np.arange(160) + 0.5) / 160)[:, None])
    assert np.allclose(camera.to_camera(points)[:, 2], 0.7)


def test_a_camera_looks_at_its_target_with_the_world_upright() -> None:
    camera = _camera(0.3, 0.8, 0.0)
    assert np.allclose(camera.project(np.array([0.5, 0.0, 0.0])), 0.5)
    above = camera.project(np.array([0.5, 0.0, 0.1]))
    assert above[1] < 0.5 and above[0] == pytest.approx(0.5)
    assert np.allclose(pixel_rays(4, 2, 2.0)[:, 2], 1.0)


@settings(deadline=None)
@given(yaw=turns, size=st.tuples(*[st.floats(0.01, 0.3)] * 3))
def test_box_corners_come_in_the_order_of_open3d(
    yaw: float, size: tuple[float, float, float]
) -> None:
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:3, 3] = [0.1, -0.2, 0.3]
    corners = box_corners(pose, np.array(size))
    # Corner 0 has three neighbours 1, 2, 3 along the axes; corner 4 lies opposite, 5, 6, 7 beside.
    for axis, near in enumerate((1, 2, 3)):
        assert np.allclose(corners[near] - corners[0], size[axis] * pose[:3, axis])
    for axis, far in enumerate((5, 6, 7)):
        assert np.allclose(corners[4] - corners[far], size[axis] * pose[:3, axis])
    assert np.allclose(corners.mean(axis=0), pose[:3, 3])


@settings(deadline=None)
@given(shape=st.sampled_from(SHAPES), size=st.floats(0.04, 0.12))
def test_parts_fill_their_bounding_box_and_stay_inside(shape: str, size: float) -> None:
    extent = (1.225 * size, size, size) if shape == "cup" else (size, size, size)
    parts = parts_of(next(each for each in SHAPES if each == shape), extent)
    high = np.max([np.array(part.centre_m) + part.half_m for part in parts], axis=0)
    low = np.min([np.array(part.centre_m) - part.half_m for part in parts], axis=0)
    assert np.allclose(high, np.array(extent) / 2) and np.allclose(low, -np.array(extent) / 2)


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_scenes_keep_what_their_style_promises(style: SceneStyle) -> None:
    for seed in range(12):
        scene = make_scene(seed, style)
        picture = render(scene)
        colours = [item.colour for item in scene.objects]
        assert style.num_objects[0] <= len(colours) <= style.num_objects[1]
        assert len(set(colours)) == len(colours)
        for index, item in enumerate(scene.objects):
            assert picture.num_pixels(index) >= 0.75 * style.min_share * picture.ids.size
            assert item.pose[2, 3] == pytest.approx(item.plinth_m + item.size_m[2] / 2)
            rows, columns = np.nonzero(picture.mask(index))
            assert rows.min() > 0 and rows.max() < style.height - 1
            assert columns.min() > 0 and columns.max() < style.width - 1
            uv = scene.corners_uv(index)
            assert columns.min() + 1 >= uv[:, 0].min() * style.width - 1
            assert columns.max() <= uv[:, 0].max() * style.width + 1


def test_the_same_seed_gives_the_same_picture_and_another_noise_only_another_noise() -> None:
    first, again, noisier = (render(make_scene(5, DEMO), noise_seed=noise) for noise in (0, 0, 1))
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.depth_mm, again.depth_mm)
    assert np.array_equal(first.ids, noisier.ids) and np.array_equal(first.depth_m, noisier.depth_m)
    assert not np.array_equal(first.pixels, noisier.pixels)
    assert not np.array_equal(render(make_scene(6, DEMO)).ids, first.ids)


def test_depth_is_exact_on_the_table_and_noisy_as_stated() -> None:
    scene = make_scene(1, DEMO)
    picture = render(scene)
    table = (picture.ids < 0) & (picture.depth_m > 0)
    rays = scene.camera.rays().reshape(*picture.ids.shape, 3)
    height = scene.camera.position_m[2] + (rays * picture.depth_m[..., None])[..., 2]
    assert np.abs(height[table]).max() < 1e-6
    known = picture.depth_mm > 0
    error = picture.depth_mm[known] / 1000.0 - picture.depth_m[known]
    assert error.std() == pytest.approx(0.003, rel=0.1)
    assert 0.015 < 1 - known.mean() < 0.06


def test_objects_hide_nothing_and_the_target_lies_on_the_visible_surface() -> None:
    for style in (DEMO, NEARER):
        scene = make_scene(11, style)
        picture = render(scene)
        for index, item in enumerate(scene.objects):
            target = picture.target(index)
            row, column = int(target.v * style.height), int(target.u * style.width)
            assert picture.ids[row, column] == index
            assert picture.target_depth_m(index) == picture.depth_m[row, column]
            middle = float(scene.camera.to_camera(item.pose[:3, 3])[2])
            assert picture.target_depth_m(index) < middle


def test_permuting_channels_of_a_picture_permutes_the_names_of_colours() -> None:
    values = {tuple(value) for value in COLOURS.values()}
    for order in itertools.permutations(range(3)):
        assert {tuple(value[channel] for channel in order) for value in values} == values


def test_an_unknown_style_is_named() -> None:
    with pytest.raises(ConfigError, match="kitchen"):
        style_named("kitchen")


def test_the_bodies_of_the_model_follow_the_published_kinematics() -> None:
    built = build(make_scene(0, MANIPULATION), BACKGROUND)
    data = start(built.model)
    hand = data.body("hand")
    expected = grasp_pose(np.array(data.qpos[:7]))
    assert np.allclose(hand.xpos, expected[:3, 3], atol=1e-9)
    assert np.allclose(hand.xmat.reshape(3, 3), expected[:3, :3], atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(share=st.tuples(*[st.floats(0.3, 0.7)] * 7))
def test_reach_finds_joints_for_poses_that_the_arm_can_take(share: tuple[float, ...]) -> None:
    joints = LOW_RAD + np.array(share) * (HIGH_RAD - LOW_RAD)
    pose = grasp_pose(joints)
    found = reach(pose, joints + 0.1)
    assert found is not None
    assert np.all(found >= LOW_RAD) and np.all(found <= HIGH_RAD)
    assert np.allclose(grasp_pose(found)[:3, 3], pose[:3, 3], atol=2e-3)


def test_out_of_reach_is_said_and_nothing_moves() -> None:
    state = initial_state(3)
    far = np.eye(4)
    far[:3, 3] = [0.0, 0.0, 5.0]
    assert reach(far, READY_RAD) is None
    outcome = World.from_state(state).execute_grasp(far)
    assert not outcome.success and outcome.execution_time_s == 0.0
    for name, place in state.positions_m.items():
        assert outcome.state.position_m(name) == pytest.approx(place, abs=1e-9)


def test_a_good_grasp_lifts_a_bad_one_does_not_and_states_can_be_resumed() -> None:
    state = initial_state(4)
    scene = state.scene()
    pose = oracle_grasp(scene, 0)
    points = key_points_m(scene.camera.pose_to_world(pose))
    assert points[3, 2] == pytest.approx(points[0, 2] - FINGER_LENGTH_M)
    aside = pose.copy()
    aside[:3, 3] += 0.05 * pose[:3, 0]
    missed = World.from_state(state).execute_grasp(aside)
    assert not missed.success and missed.state.held is None
    lifted = World.from_state(state).execute_grasp(pose)
    name = scene.objects[0].name
    assert lifted.success and lifted.state.held == name
    assert lifted.state.position_m(name)[2] > state.position_m(name)[2] + 0.1
    goal = np.array(state.position_m(name)) * [1.0, 1.0, 0.0]
    twice = [World.from_state(lifted.state).place(scene.camera.to_camera(goal)) for _ in range(2)]
    assert twice[0].success and twice[0].state.held is None
    assert np.array_equal(twice[0].state.physics, twice[1].state.physics)
    assert np.allclose(twice[0].state.position_m(name)[:2], goal[:2], atol=0.03)
    # The table is empty where the object was, and full again once it has been put back.
    index = scene.index_of(name)
    assert World.from_state(lifted.state).capture().num_pixels(index) == 0
    assert World.from_state(twice[0].state).capture().num_pixels(index) > 0


def test_the_robot_sees_the_question_s_picture_while_the_arm_is_at_home() -> None:
    for seed in range(6):
        state = initial_state(seed)
        captured, asked = World.from_state(state).capture(), render(state.scene())
        assert np.array_equal(captured.ids, asked.ids)
        assert np.array_equal(captured.pixels, asked.pixels)


def test_placing_with_an_empty_hand_fails_and_a_skewed_pose_is_no_grasp() -> None:
    state = initial_state(2)
    world = World.from_state(state)
    assert not world.place(np.array([0.0, 0.0, 0.7])).success
    skewed = oracle_grasp(state.scene(), 0)
    skewed[:3, 0] *= 1.5
    assert not world.execute_grasp(skewed).success
