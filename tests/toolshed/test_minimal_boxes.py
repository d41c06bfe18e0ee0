"""The smallest box in any direction: exact for boxes, never larger than Open3D's, of any rank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from toolshed.backends.boxes import MinimalBoxes, minimal_box
from toolshed.backends.clouds import masked_cloud
from toolshed.backends.light_boxes import smallest_box
from toolshed.errors import ConfigError, ToolRefusal
from toolshed.tabletop.shapes import CORNER_SIGNS, box_corners

turns = st.integers(0, 10_000).map(lambda seed: Rotation.random(rng=np.random.default_rng(seed)))
sides = st.tuples(*[st.floats(0.01, 0.5)] * 3)


def filled(size: tuple[float, ...], turn: Rotation, count: int = 60) -> np.ndarray:
    """Corners and inner points of a turned box, (N, 3)."""
    inner = np.random.default_rng(0).uniform(-0.5, 0.5, (count, 3))
    points = np.concatenate([CORNER_SIGNS / 2, inner]) * np.array(size)
    return np.asarray(turn.apply(points) + np.array([0.1, -0.2, 1.5]))


@settings(deadline=None)
@given(sides, turns)
def test_a_turned_box_is_found_exactly(size: tuple[float, ...], turn: Rotation) -> None:
    points = filled(size, turn)
    pose, extent = minimal_box(points)
    assert np.allclose(sorted(extent), sorted(size), rtol=1e-6)
    assert np.isclose(np.linalg.det(pose[:3, :3]), 1) and np.allclose(pose[:3, 3], (0.1, -0.2, 1.5))
    own = (points - pose[:3, 3]) @ pose[:3, :3]
    assert (np.abs(own) <= extent / 2 + 1e-9).all()


def open3d_volume(points: np.ndarray) -> float:
    """The rule of Open3D: on every triangle of the hull, along its first edge."""
    volumes = []
    for corners in points[ConvexHull(points).simplices]:
        x, other = corners[1] - corners[0], corners[2] - corners[0]
        z = np.cross(x, other)
        frame = np.stack([x, np.cross(z, x), z])
        frame /= np.linalg.norm(frame, axis=1, keepdims=True)
        volumes.append(np.prod(np.ptp(points @ frame.T, axis=0)))
    return float(min(volumes))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_never_larger_than_open3d_s_and_not_far_from_the_smallest(seed: int) -> None:
    """The true minimum need not lie on a face, so a search by turning may end below."""
    points = np.random.default_rng(seed).normal(size=(40, 3)) * np.array([0.3, 0.2, 0.1])
    volume = np.prod(minimal_box(points)[1])
    assert volume <= open3d_volume(points) * (1 + 1e-9)
    assert volume <= np.prod(smallest_box(points)[1]) * 1.25


@settings(deadline=None)
@given(st.tuples(st.floats(0.05, 0.5), st.floats(0.05, 0.5)), turns)
def test_flat_points_get_a_flat_box(size: tuple[float, float], turn: Rotation) -> None:
    _, extent = minimal_box(filled((*size, 0.0), turn))
    assert np.allclose(sorted(extent), sorted((0.0, *size)), atol=1e-8)


@pytest.mark.parametrize("points", [[(1, 2, 3)], [(1, 2, 3), (1, 2, 4)], [(0, 0, 1)] * 5])
def test_lines_and_single_points_have_boxes_too(points: list[tuple[int, int, int]]) -> None:
    pose, extent = minimal_box(np.array(points, dtype=float))
    assert np.isclose(np.prod(extent), 0) and np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3))
    assert np.allclose(box_corners(pose, extent).mean(axis=0), np.mean(points, axis=0))


def test_d27_a_point_left_of_the_picture_is_not_in_its_first_column() -> None:
    """The release cut fractions off, so -0.5 became 0."""
    mask = np.ones((4, 4), dtype=bool)
    outside, inside = (-2.5, 0.0, 1.0), (-1.5, 0.0, 1.0)
    found = masked_cloud(np.array([outside, inside]), mask, 1.0)
    assert found.inside_m.tolist() == [list(inside)] and found.num_total == 2
    with pytest.raises(ToolRefusal, match="none of the 1 points"):
        masked_cloud(np.array([outside]), mask, 1.0)


def test_points_that_are_no_places_belong_to_nothing() -> None:
    mask = np.ones((4, 4), dtype=bool)
    strange = [(np.nan, 0, 1), (np.inf, 0, 1), (0, 0, -1), (0, 0, 0), (0, 0, 1e9), (0, 0, 2.0)]
    found = masked_cloud(np.array(strange), mask, 1.0)
    assert found.inside_m.tolist() == [[0, 0, 2]] and found.num_total == 6
    # Behind the camera and beside the picture is still where a gripper may run into it.
    assert [0, 0, -1] in found.outside_m.tolist()


def test_axes_are_those_of_opengl_turned_to_the_camera() -> None:
    """A right-handed box frame: corners 1, 2, 3 follow corner 0 along x, y and z."""
    points = filled((0.1, 0.2, 0.3), Rotation.identity()).astype(np.float32)
    found = MinimalBoxes().compute_bbox(points, np.ones((100, 100), dtype=bool), 60.0)
    x, y, z = found.corners_m[1:4] - found.corners_m[0]
    assert np.dot(np.cross(x, y), z) > 0
    assert np.allclose(sorted(found.extent_m), (0.1, 0.2, 0.3), atol=1e-6)


def test_solver_is_one_of_two_and_open3d_names_its_environment() -> None:
    with pytest.raises(ConfigError, match="write own or open3d"):
        MinimalBoxes(solver="qhull")
    try:
        import open3d  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="toolshed env create bbox"):
            MinimalBoxes(solver="open3d")
    else:
        points = filled((0.1, 0.2, 0.3), Rotation.random(rng=np.random.default_rng(1)))
        mask = np.ones((100, 100), dtype=bool)
        both = [
            MinimalBoxes(solver=each).compute_bbox(points, mask, 60.0) for each in ("own", "open3d")
        ]
        assert np.allclose(sorted(both[0].extent_m), sorted(both[1].extent_m))
