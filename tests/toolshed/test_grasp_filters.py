"""From sampled grasps to one: every filter, in the camera's frame, the same each time."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.toolshed.contracts import FOCAL_PX, block_cloud, table_picture
from tests.toolshed.services import TOP_DOWN, grasp_server, sampled_grasps
from tests.toolshed.stub_stacks import write_grasp_gen
from toolshed.backends.grasp_filters import FilteredGrasping, Sampled
from toolshed.backends.graspgen import DOWN, GraspGen
from toolshed.errors import ConfigError, ToolFailure, ToolRefusal
from toolshed.types import GraspEstimate

SETTINGS = {
    "num_grasps": 200,
    "top_grasps": 100,
    "approach_direction": list(DOWN),
    "min_approach_cosine": 0.5,
    "clearance_m": 0.01,
    "num_scene_points": 8192,
    "seed": 0,
}


class Given(FilteredGrasping):
    """Samples what it is told to, around the points' middle."""

    def __init__(self, poses: npt.ArrayLike, scores: npt.ArrayLike, **changed: object) -> None:
        super().__init__(**{**SETTINGS, **changed})  # type: ignore[arg-type]
        self._given = np.asarray(poses, dtype=float), np.asarray(scores, dtype=float)
        self.seen = np.zeros((0, 3), dtype=np.float32)

    def sampled(self, points_m: npt.NDArray[np.float32]) -> Sampled:
        self.seen = points_m
        return self._given


def pose(away_m: float = 0.13, turn: npt.ArrayLike = TOP_DOWN) -> npt.NDArray[np.float64]:
    found = np.eye(4)
    found[:3, :3] = turn
    found[:3, 3] = -found[:3, 2] * away_m
    return found


def grasp(tool: FilteredGrasping, clutter: npt.ArrayLike = ()) -> GraspEstimate:
    cloud, mask = block_cloud()
    # The table itself is in the way of a gripper that comes from above it.
    cloud = cloud[mask.ravel()]
    extra = np.asarray(clutter, dtype=np.float32).reshape(-1, 3)
    return tool.compute_grasp(np.concatenate([cloud, extra]), mask, FOCAL_PX, table_picture())


MIDDLE = block_cloud()[0][block_cloud()[1].ravel()].mean(axis=0)


def test_the_most_confident_of_the_free_ones_is_returned_in_the_camera_frame() -> None:
    tool = Given([pose(), pose(0.14), pose(0.15)], [0.2, 0.9, 0.5])
    found = grasp(tool)
    assert found.confidence == 0.9 and found.num_generated == found.num_collision_free == 3
    assert np.allclose(found.pose[:3, 3], MIDDLE + pose(0.14)[:3, 3], atol=1e-6)
    assert np.allclose(tool.seen.mean(axis=0), 0, atol=1e-6) and tool.seen.dtype == np.float32


def test_grasps_from_below_are_dropped_and_where_none_is_left_the_call_is_refused() -> None:
    upward = TOP_DOWN @ np.diag([1, -1, -1])
    found = grasp(Given([pose(turn=upward), pose()], [0.9, 0.1]))
    assert found.confidence == 0.1 and found.num_generated == 2
    with pytest.raises(ToolRefusal, match="Top-down filtering removed all 1 grasps") as caught:
        grasp(Given([pose(turn=upward)], [0.9]))
    assert caught.value.reason == "too_steep"


def test_a_grasp_that_meets_the_scene_is_dropped() -> None:
    """A point one centimetre beside the open finger is in the way, one at two is not."""
    hand = pose()
    for beside_m, free in ((0.005, False), (0.02, True)):
        obstacle = MIDDLE + hand[:3, 3] + hand[:3, :3] @ (0.062 + beside_m, 0.0, 0.08)
        if free:
            assert grasp(Given([hand], [0.9]), [obstacle]).num_collision_free == 1
            continue
        with pytest.raises(ToolRefusal, match="All 1 top-down grasps collide") as caught:
            grasp(Given([hand], [0.9]), [obstacle])
        assert caught.value.reason == "collision"


def test_nothing_sampled_is_refused() -> None:
    with pytest.raises(ToolRefusal, match="No grasps were found"):
        grasp(Given(np.zeros((0, 4, 4)), []))


def test_d28_gravity_is_an_argument_and_the_scene_is_thinned_alike_each_time() -> None:
    """The release drew at random without a seed, and knew one direction of gravity."""
    sideways = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    with pytest.raises(ToolRefusal):
        grasp(Given([pose(turn=sideways)], [0.9]))
    assert grasp(Given([pose(turn=sideways)], [0.9], approach_direction=[2.0, 0.0, 0.0]))
    with pytest.raises(ConfigError, match="direction of gravity"):
        Given([], [], approach_direction=[0.0, 0.0, 0.0])
    clutter = np.random.default_rng(1).uniform(-1, 1, (500, 3)) + np.array([0, 0, 3])
    cloud, mask = block_cloud()
    tool = Given([pose()], [0.9], num_scene_points=100)
    from toolshed.backends.clouds import masked_cloud

    split = masked_cloud(np.concatenate([cloud, clutter.astype(np.float32)]), mask, FOCAL_PX)
    assert len(tool._scene(split)) == 100
    assert np.array_equal(tool._scene(split), tool._scene(split))


def test_d28_the_sampler_itself_is_seeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    write_grasp_gen(tmp_path)
    config = tmp_path / "gripper.yml"
    config.write_text("gripper: franka")
    points = np.zeros((5, 3), dtype=np.float32)
    first = GraspGen(gripper_config=str(config))
    assert np.array_equal(first.sampled(points)[0], first.sampled(points)[0])
    other = GraspGen(gripper_config=str(config), seed=1)
    assert not np.array_equal(first.sampled(points)[0], other.sampled(points)[0])


def test_graspgen_needs_its_gripper_and_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "grasp_gen", None)
    monkeypatch.setitem(sys.modules, "grasp_gen.grasp_server", None)
    with pytest.raises(ConfigError, match=r"graspgen_franka_panda\.yml"):
        GraspGen()
    (tmp_path / "gripper.yml").write_text("")
    with pytest.raises(ConfigError, match="toolshed env create graspgen"):
        GraspGen(gripper_config=str(tmp_path / "gripper.yml"))


def test_graspgen_s_socket_says_what_it_is_asked_and_fails_in_words() -> None:
    pytest.importorskip("zmq", reason="GraspGen's socket needs pyzmq")
    from toolshed.backends.graspgen_server import GraspGenServer

    asked: list[dict[str, object]] = []
    with grasp_server(asked) as address:
        server = GraspGenServer(address=address)
        points = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
        poses, scores = server.sampled(points)
    assert [each["action"] for each in asked] == ["health", "infer"]
    sent = asked[1]
    assert np.array_equal(sent["point_cloud"], points)  # type: ignore[arg-type]
    assert (sent["num_grasps"], sent["topk_num_grasps"], sent["grasp_threshold"]) == (200, 100, -1)
    wanted = sampled_grasps(points, 12)
    assert np.allclose(poses, wanted[0]) and np.allclose(scores, wanted[1])
    with grasp_server([], error="out of luck") as address:
        server = GraspGenServer(address=address)
        with pytest.raises(ToolFailure, match="out of luck"):
            server.sampled(points)
    with pytest.raises(ConfigError, match="no GraspGen server answers there"):
        GraspGenServer(address=address, start_timeout_s=0.2)
    with pytest.raises(ConfigError, match="tcp://HOST:PORT"):
        GraspGenServer(address="5556")


def test_arrays_of_objects_are_never_read() -> None:
    from toolshed.backends.graspgen_server import packed_array, unpacked_array

    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(unpacked_array(dict(packed_array(array))), array)  # type: ignore[arg-type]
    pickled = {b"nd": True, b"type": "|O", b"shape": [1], b"data": b"cos\nsystem\n."}
    with pytest.raises(ValueError, match="is not read"):
        unpacked_array(pickled)
    assert unpacked_array({"status": "ok"}) == {"status": "ok"}
