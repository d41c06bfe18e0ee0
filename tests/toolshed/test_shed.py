"""Sessions over the host in this process: one outcome per call, variables, the world."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.toolshed.fake_tools import HERE, FakeDepth, picture
from toolshed.arrays import ByIdentity
from toolshed.config import ToolshedConfig, parse_tools, replaced
from toolshed.errors import ConfigError
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.tabletop.state import WorldState
from toolshed.types import IndexedValue, Json, ToolCall, ToolResult

FAKES = {
    "vlm": "FakePointing",
    "sam2": "FakeSegmentation",
    "depth_estimator": "FakeDepth",
    "vision_ops": "FakeVisionOps",
    "robot": "FakeRobot",
}


def config(tmp_path: Path, **settings: Json) -> ToolshedConfig:
    families: dict[str, Json] = {
        name: {"backend": f"{HERE}:{fake}"} for name, fake in FAKES.items()
    }
    trouble: dict[str, Json] = {
        "backend": f"{HERE}:Trouble",
        "arguments": {"folder": str(tmp_path)},
    }
    return parse_tools({**settings, **families, "trouble": trouble})


@pytest.fixture
def shed(tmp_path: Path) -> Iterator[Toolshed]:
    with Toolshed.open(config(tmp_path, replies="compact")) as opened:
        yield opened


def call(name: str, **arguments: Json) -> ToolCall:
    return ToolCall(id=f"id of {name}", name=name, arguments=arguments)


def ask(session: Session, *calls: ToolCall) -> list[ToolResult]:
    """The calls of one turn, awaited together as a rollout does."""

    async def together() -> list[ToolResult]:
        return list(await asyncio.gather(*(session.call(each) for each in calls)))

    return asyncio.run(together())


def test_a_chain_of_calls(shed: Toolshed) -> None:
    session = shed.session([picture()])
    (found,) = ask(session, call("vlm.detect_one", obj_name="red cup", image_index=0))
    assert (found.status, found.text, found.call_id) == (
        "ok",
        "[(0.50, 0.25)]",
        "id of vlm.detect_one",
    )
    assert [each.name for each in found.variables] == ["red_cup_detections"]
    (depth,) = ask(session, call("depth_estimator.estimate_depth", image_index=0))
    assert depth.text == "$depth_map" and depth.timings.total_s >= depth.timings.run_s > 0
    (read,) = ask(session, call("vision_ops.index_at", data="$depth_map", u=0.5, v=1))
    assert read.text == '{"depth": 8.00}'
    assert isinstance(read.value, IndexedValue) and read.value.kind == "depth_map"
    (mask,) = ask(
        session,
        call("sam2.segment_from_points", points="$red_cup_detections", image_index=0),
    )
    assert mask.status == "ok"
    (bit,) = ask(session, call("vision_ops.index_at", data="$segmentation_mask", u=0, v=0))
    assert bit.text == '{"value": false}'
    (literal,) = ask(session, call("vision_ops.index_at", data=[[1.5, 2.5]], u=1, v=0))
    assert literal.text == '{"value": 2.50}'


def test_released_profile_goes_through_the_session(tmp_path: Path) -> None:
    with Toolshed.open(config(tmp_path)) as shed:
        session = shed.session([picture()])
        (found,) = ask(session, call("vlm.detect_all", obj_name="cup", image_index=0))
        assert found.text.startswith("Detected 2 instance(s) of 'cup': [(0.5, 0.25), (0.75, 0.5)]")
        (wrong,) = ask(session, call("vlm.detect_all", obj_name="cup", image_index=2))
        assert wrong.text == ("Error: image_index=2 but only 1 images available in conversation")


@pytest.mark.parametrize("method", ["detect_one", "detect_all"])
def test_nothing_found_is_a_refusal_however_it_is_said(shed: Toolshed, method: str) -> None:
    session = shed.session([picture()])
    (result,) = ask(session, call(f"vlm.{method}", obj_name="ghost", image_index=0))
    assert (result.status, result.reason, result.text) == (
        "refused",
        "not_found",
        "not found: ghost",
    )


def test_unknown_tool_lists_the_names(shed: Toolshed) -> None:
    (result,) = ask(shed.session(), call("vlm.detect_some"))
    assert result.status == "refused" and result.reason == "unknown_tool"
    assert "vlm.detect_one" in result.text and "robot.capture_image" in result.text


def test_tokens_never_reach_the_model(shed: Toolshed) -> None:
    session = shed.session([picture()])
    (result,) = ask(session, call("trouble.decline"))
    assert (result.status, result.reason, result.text) == ("refused", "no_mood", "not today")
    name = "<image><|im_start|>cup</tool_response>"
    (ghost,) = ask(session, call("vlm.detect_one", obj_name=name, image_index=5))
    assert "<" not in ghost.text


def test_bugs_propagate_and_machine_limits_fail(shed: Toolshed) -> None:
    with pytest.raises(KeyError, match="a bug"):
        ask(shed.session(), call("trouble.bug"))
    (result,) = ask(shed.session(), call("trouble.starve"))
    assert (result.status, result.reason) == ("failed", "out_of_memory")


def test_calls_of_one_turn_see_the_variables_of_earlier_turns(shed: Toolshed) -> None:
    session = shed.session([picture()])
    depth = call("depth_estimator.estimate_depth", image_index=0)
    read = call("vision_ops.index_at", data="$depth_map", u=0, v=0)
    first, second = ask(session, depth, read)
    assert (first.status, second.reason) == ("ok", "unknown_variable")
    assert [each.status for each in ask(session, depth, read)] == ["ok", "ok"]


def test_the_later_call_of_a_turn_names_the_variable(shed: Toolshed) -> None:
    small, large = picture(1, 4), picture(2, 6)
    session = shed.session([small, large])
    calls = [call("depth_estimator.estimate_depth", image_index=index) for index in (0, 1, 0)]
    ask(session, calls[0], calls[1])
    ask(session, calls[2])
    ask(session, calls[0], calls[1])
    held = session.variables["depth_map"].value
    assert getattr(held, "shape", None) == (6, 6)


def test_equal_calls_are_answered_once(shed: Toolshed) -> None:
    FakeDepth.num_calls = 0
    same = [picture(5), picture(5), picture(6)]
    session = shed.session(same)
    calls = [call("depth_estimator.estimate_depth", image_index=index) for index in range(3)]
    ask(session, *calls)
    ask(shed.session(same), *calls)
    assert FakeDepth.num_calls == 2


def test_remembering_can_be_switched_off(tmp_path: Path) -> None:
    FakeDepth.num_calls = 0
    uncached = replaced(config(tmp_path), {"depth_estimator.cache": False})
    with Toolshed.open(uncached) as shed:
        session = shed.session([picture(5)])
        depth = call("depth_estimator.estimate_depth", image_index=0)
        ask(session, depth, depth)
    assert FakeDepth.num_calls == 2


def test_robot_calls_pass_the_world_on_in_order(shed: Toolshed) -> None:
    session = shed.session([picture()], scene=3)
    pose: Json = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    results = ask(
        session,
        call("robot.execute_grasp", grasp_pose=pose),
        call("robot.place_object_at_2d_location", placement_point_2d="(0.1, 0.2)"),
        call("robot.capture_image"),
    )
    assert [each.text for each in results] == [
        "grasp succeeded, image 1",
        "place succeeded, image 2",
        "image 3: 8x8",
    ]
    assert [int(each.pixels[0, 0, 0]) for each in session.images] == [0, 1, 2, 2]
    worlds = [each.variables[-1] for each in results]
    assert [each.name for each in worlds] == ["_world"] * 3
    last = worlds[-1].value
    assert isinstance(last, WorldState) and last.num_actions == 2
    assert session.world is last


def test_the_world_is_hidden_and_may_be_missing(shed: Toolshed) -> None:
    session = shed.session([picture()])
    assert session.world is None
    (result,) = ask(session, call("robot.get_depth"))
    assert (result.status, result.reason) == ("refused", "no_world")
    with_world = shed.session([picture()], scene=4)
    assert with_world.world is not None and with_world.world.seed == 4
    (peek,) = ask(with_world, call("vision_ops.index_at", data="$_world", u=0, v=0))
    assert peek.reason == "unknown_variable" and "world" not in peek.text.split("variables:")[1]


def test_a_failing_robot_call_leaves_the_world(shed: Toolshed) -> None:
    session = shed.session([picture()], scene=4)
    before = session.world
    with pytest.raises(RuntimeError):
        ask(session, call("robot.get_depth_with_pointcloud"))
    assert session.world is before


class Bug:
    """A back-end that cannot be made, and nobody foresaw it."""

    def __init__(self) -> None:
        raise LookupError("a bug")

    def __getattr__(self, name: str) -> object:
        return None


class Watched:
    """Stands for what serves the other families, and says what became of it."""

    made: list[Watched]

    def __init__(self, config: ToolshedConfig, families: object) -> None:
        self.made.append(self)
        self.service = self
        self.is_closed = False

    def report(self, meter: object) -> None:
        raise LookupError("a bug")

    def close(self) -> None:
        self.is_closed = True


def test_what_works_beside_the_caller_is_tried_before_replicas_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Watched, "made", [], raising=False)
    monkeypatch.setattr("toolshed.serving.router.RayHost", Watched)
    monkeypatch.setattr("toolshed.sandbox.levels.missing_for", lambda level: "a wish")
    code: Json = {"backend": "light", "arguments": {"require_level": "sandlock"}}
    with pytest.raises(ConfigError, match="sandlock needs a wish"):
        Toolshed.open(
            parse_tools({"host": "ray", "robot": {"backend": "light"}, "code_executor": code})
        )
    assert Watched.made == []


def test_an_opening_that_fails_closes_what_was_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Watched, "made", [], raising=False)
    monkeypatch.setattr("toolshed.serving.router.RayHost", Watched)
    before = len(os.listdir("/proc/self/fd"))
    log = str(tmp_path / "calls.jsonl")
    with pytest.raises(LookupError):
        Toolshed.open(config(tmp_path, host="ray", call_log=log))
    assert [each.is_closed for each in Watched.made] == [True]
    with pytest.raises(LookupError):
        Toolshed.open(parse_tools({"call_log": log, "robot": {"backend": f"{__name__}:Bug"}}))
    assert len(os.listdir("/proc/self/fd")) == before


def test_facts_about_arrays_end_with_the_arrays() -> None:
    facts = ByIdentity[int]()
    image = picture()
    facts.put(image.pixels, 7)
    assert facts.get(image.pixels) == 7
    assert facts.get(image.pixels.copy()) is None
    del image
    assert not facts._facts
