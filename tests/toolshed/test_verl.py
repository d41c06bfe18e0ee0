"""The tools for verl's agent loops, driven as such a loop drives them."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.toolshed.agent_loop import AgentData, method_tool, turn
from tests.toolshed.fake_tools import HERE
from toolshed.config import parse_tools
from toolshed.errors import ConfigError
from toolshed.integration import opened, verl
from toolshed.integration.verl import ToolshedCodeTool, ToolshedMethodTool
from toolshed.schemas import schemas_of
from toolshed.shed import Toolshed
from toolshed.tabletop.state import initial_state
from toolshed.tabletop.world import World


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    opened.provide(None)
    opened.close_all()


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return Image.fromarray(World.from_state(initial_state(7)).capture().image().pixels)


@pytest.mark.parametrize("resolve", [False, True])
def test_variables_outlive_the_instance_of_a_call(scene: Image.Image, resolve: bool) -> None:
    data = AgentData(scene)
    depth, index = method_tool("robot.get_depth"), method_tool("vision_ops.index_at")

    async def loop() -> list[tuple[str, float]]:
        first = await turn(data, (depth, {}))
        asked: dict[str, object] = {"data": "$depth_map", "u": 0.5, "v": 0.5}
        return first + await turn(data, (index, asked), resolve=resolve)

    (_, reward), (text, second) = asyncio.run(loop())
    assert (reward, second) == (0.1, 0.1) and text.startswith("Pixel value at (0.500, 0.500) is 0.")
    names = [each["name"] for each in data.metrics[0]["variables"]]  # type: ignore[attr-defined]
    assert names == ["depth_map", "focal_length_px"]
    assert isinstance(data.context_vars["depth_map"], np.ndarray)
    assert [each["toolshed_calls"] for each in data.metrics] == [1, 2]


def test_trajectories_do_not_see_each_other(scene: Image.Image) -> None:
    first, second = AgentData(scene), AgentData(scene)
    depth, index = method_tool("robot.get_depth"), method_tool("vision_ops.index_at")

    async def loop() -> list[tuple[str, float]]:
        await turn(first, (depth, {}))
        return await turn(second, (index, {"data": "$depth_map", "u": 0.5, "v": 0.5}))

    ((text, reward),) = asyncio.run(loop())
    assert text.startswith("Error: data: no variable") and reward == 0.0
    assert str(second.metrics[0]["error"]).startswith("data: no variable")


@pytest.mark.parametrize("copies", [False, True])
def test_pictures_that_tools_bring_keep_their_depth(scene: Image.Image, copies: bool) -> None:
    data = AgentData(scene)
    capture, depth = (
        method_tool("robot.capture_image"),
        method_tool("depth_estimator.estimate_depth"),
    )

    async def loop() -> list[tuple[str, float]]:
        first = await turn(data, (capture, {}), (capture, {}))
        assert all(isinstance(each, Image.Image) for each in data.image_data)
        if copies:
            data.image_data[:] = [each.copy() for each in data.image_data]  # type: ignore[attr-defined]
        prompt = await turn(data, (depth, {"image_index": 0}))
        return first + prompt + await turn(data, (depth, {"image_index": 2}))

    *_, (refused, _), (text, _) = asyncio.run(loop())
    assert len(data.image_data) == 3
    # The prompt's picture came without depth, those of the robot's camera have it.
    assert refused.startswith("Error: This picture has no depth")
    assert text.startswith("Estimated depth map for 448x336 image.")


def test_siblings_of_a_turn_count_their_pictures_in_order(scene: Image.Image) -> None:
    config = parse_tools({"replies": "compact", "robot": {"backend": "light"}})
    with Toolshed.open(config) as shed:
        opened.provide(shed)
        data = AgentData(scene)
        capture = ToolshedMethodTool({}, {"function": {"name": "robot.capture_image"}})
        done = asyncio.run(turn(data, (capture, {}), (capture, {})))
        again = asyncio.run(turn(data, (capture, {})))
    assert [text for text, _ in done + again] == [f"image {n}: 448x336" for n in (1, 2, 3)]


def test_the_prompts_pictures_may_come_with_depth(scene: Image.Image, tmp_path: Path) -> None:
    full = World.from_state(initial_state(7)).capture().image()
    assert full.depth_mm is not None
    Image.fromarray(full.pixels).save(tmp_path / "a.png")
    Image.fromarray(full.depth_mm).save(tmp_path / "a.depth.png")
    given = {
        "image": str(tmp_path / "a.png"),
        "depth": str(tmp_path / "a.depth.png"),
        "focal_length_px": 700.0,
    }
    small = AgentData(scene.resize((112, 84)))
    depth = method_tool("depth_estimator.estimate_depth")

    async def loop() -> str | None:
        instance, _ = await depth.create(create_kwargs={"images": [given]})
        response, _, _ = await depth.execute(instance, {"image_index": 0}, agent_data=small)
        return response.text

    assert str(asyncio.run(loop())).startswith("Estimated depth map for 448x336 image.")


def test_what_one_tool_is_given_the_others_of_the_trajectory_know(scene: Image.Image) -> None:
    data = AgentData(scene)
    data.tools_kwargs = {
        "robot.get_depth": {"create_kwargs": {"scene": 7}},
        "somebody.elses": {"create_kwargs": {"token": "x"}},
    }
    detect, depth = method_tool("roborefer.detect_one"), method_tool("robot.get_depth")

    async def loop() -> list[tuple[str, float]]:
        asked: dict[str, object] = {"obj_name": "blue object", "image_index": 0}
        first = await turn(data, (detect, asked), scene=None)
        return first + await turn(data, (depth, {}), scene=None)

    assert [reward for _, reward in asyncio.run(loop())] == [0.1, 0.1]


@pytest.mark.parametrize("index", [1, -1, "0", 0.0, True, None])
def test_a_wrong_image_index_is_told_in_the_published_words(
    scene: Image.Image, index: object
) -> None:
    detect = method_tool("roborefer.detect_one")
    asked = {"obj_name": "red object", "image_index": index}
    ((text, reward),) = asyncio.run(turn(AgentData(scene), (detect, asked)))
    told = f"image_index={json.dumps(index)} but only 1 images available in conversation"
    assert (text, reward) == (f"Error: {told}", 0.0)


def test_a_picture_given_directly_is_not_repaired(scene: Image.Image) -> None:
    detect = method_tool("roborefer.detect_one")
    asked: dict[str, object] = {"obj_name": "red object", "image": scene}
    ((text, _),) = asyncio.run(turn(AgentData(scene), (detect, asked)))
    assert text.startswith("Error: roborefer.detect_one has no argument")


def test_to_find_nothing_is_an_answer(scene: Image.Image) -> None:
    detect = method_tool("roborefer.detect_one")
    asked: dict[str, object] = {"obj_name": "unicorn", "image_index": 0}
    done = asyncio.run(turn(AgentData(scene), (detect, asked)))
    assert done == [("Detected 0 instance(s) of 'unicorn': []", 0.1)]


def test_rewards_add_up_over_the_trajectory_and_are_capped(scene: Image.Image) -> None:
    depth, data = method_tool("robot.get_depth", reward_cap=0.25), AgentData(scene)

    async def loop() -> list[float]:
        rewards = []
        for _ in range(3):
            instance, response = await depth.create(instance_id=None)
            assert response == verl.ToolResponse()
            assert await depth.calc_reward(instance) == 0.0
            await depth.execute(instance, {}, agent_data=data)
            rewards.append(await depth.calc_reward(instance))
            await depth.release(instance)
        return rewards

    # A question without a world: every call is refused, and earns what is configured.
    assert asyncio.run(loop()) == [0.0, 0.0, 0.0]
    depth = method_tool("roborefer.detect_one", reward_cap=0.25)

    async def rewarded() -> list[float]:
        rewards, asked = [], {"obj_name": "red object", "image_index": 0}
        for _ in range(3):
            instance, _ = await depth.create()
            await depth.execute(instance, asked, agent_data=data)
            rewards.append(await depth.calc_reward(instance))
        return rewards

    assert asyncio.run(rewarded()) == pytest.approx([0.1, 0.2, 0.25])


def test_an_unknown_instance_is_a_value_error() -> None:
    depth = method_tool("robot.get_depth")
    for wrong in (depth.execute("x", {}), depth.calc_reward("x"), depth.release("x")):
        with pytest.raises(ValueError, match="no instance 'x'"):
            asyncio.run(wrong)


def test_a_trajectory_ends_with_the_loops_record_of_it(scene: Image.Image) -> None:
    data, depth = AgentData(scene), method_tool("robot.get_depth")
    asyncio.run(turn(data, (depth, {})))
    (kept,) = verl._trajectories.values()
    assert len(kept) == 1
    del data
    gc.collect()
    assert len(kept) == 0


def test_create_kwargs_that_are_none_are_named() -> None:
    depth = method_tool("robot.get_depth")
    wrong: list[tuple[object, str]] = [
        ({"scen": 7}, "has 'scen'; known: scene, images"),
        ({"scene": "7"}, "no whole number"),
        ({"images": "a.png"}, "no list"),
        ("x", "no mapping"),
    ]
    for given, told in wrong:
        with pytest.raises(ConfigError, match=told):
            asyncio.run(depth.create(create_kwargs=given))


@pytest.fixture
def trouble(tmp_path: Path) -> Iterator[None]:
    config = parse_tools(
        {"trouble": {"backend": f"{HERE}:Trouble", "arguments": {"folder": str(tmp_path)}}}
    )
    with Toolshed.open(config) as shed:
        opened.provide(shed)
        yield


@pytest.mark.usefixtures("trouble")
def test_the_timeout_of_the_tool_file_counts() -> None:
    nap = ToolshedMethodTool(
        {"function_name": "trouble.nap", "timeout": 0.05}, {"function": {"name": "trouble.nap"}}
    )
    data = AgentData()
    started_s = time.perf_counter()
    slow = asyncio.run(turn(data, (nap, {"seconds": 0.2})))
    assert time.perf_counter() - started_s < 5
    quick = asyncio.run(turn(data, (nap, {"seconds": 0.0})))
    assert slow == [("Error: the tool is not available", 0.0)]
    assert (data.metrics[0]["status"], data.metrics[0]["reason"]) == ("failed", "timeout")
    assert data.metrics[0]["error"] == "trouble.nap took longer than 0.05 s"
    assert quick[0][1] == 0.1


@pytest.mark.usefixtures("trouble")
def test_broken_machinery_never_reaches_the_model() -> None:
    starve = ToolshedMethodTool({}, {"function": {"name": "trouble.starve"}})
    data = AgentData()
    assert asyncio.run(turn(data, (starve, {}))) == [("Error: the tool is not available", 0.0)]
    assert (data.metrics[0]["status"], data.metrics[0]["reason"]) == ("failed", "out_of_memory")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tools": "ligth"}, "did you mean 'light'"),
        ({"tools": "light", "function_name": "robot.get_dept"}, "did you mean 'robot.get_depth'"),
        ({"timeouts": 3}, "config.timeouts"),
        ({"timeout": 0}, "config.timeout"),
        ({"reward": "much"}, "config.reward"),
        ({}, "names no tools"),
    ],
)
def test_a_wrong_entry_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], told: str
) -> None:
    # Another test may have started a cluster, which an entry without tools would use.
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with pytest.raises(ConfigError, match=re.escape(told)):
        made = ToolshedMethodTool(settings, {"function": {"name": "robot.get_depth"}})
        asyncio.run(made.create())


def test_exported_entries_are_read_again_and_nothing_is_edited_in_place() -> None:
    first, second = schemas_of("light", "verl"), schemas_of("light", "verl")
    assert first == second
    read = yaml.safe_load("tools: " + json.dumps(first, indent=2))["tools"]
    assert read == first
    for entry in read:
        assert set(entry) == {"class_name", "config", "tool_schema"}
        module, _, name = entry["class_name"].rpartition(".")
        assert (module, name) == ("toolshed.integration.verl", "ToolshedMethodTool")
        made = ToolshedMethodTool(entry["config"], entry["tool_schema"])
        assert made.name == entry["config"]["function_name"]
    read[0]["tool_schema"]["function"]["parameters"].clear()
    assert schemas_of("light", "verl") == second


# ---- code -----------------------------------------------------------------------------------


def test_code_is_told_in_sections_and_earns_by_its_success() -> None:
    with Toolshed.open(parse_tools({"code_executor": {"backend": "light"}})) as shed:
        opened.provide(shed)
        code = ToolshedCodeTool({"timeout": 60}, {"function": {"name": "execute_python"}})
        data = AgentData()

        async def loop() -> list[tuple[str, float, float]]:
            told = []
            for program in ("print('two')\nprint('lines')\n1 + 1", "print('a')\n1 / 0"):
                instance, _ = await code.create()
                response, reward, metrics = await code.execute(
                    instance, {"code": program}, agent_data=data
                )
                assert metrics["function_name"] == "code_executor.exec"
                told.append((str(response.text), reward, await code.calc_reward(instance)))
            return told

        first, second = asyncio.run(loop())
    assert first == (
        "Execution result: 2\nOutput: two\nlines\nKept for later calls: $result (number).",
        0.2,
        0.2,
    )
    text, reward, earned = second
    assert text.startswith("Output: a\nError: ") and "ZeroDivisionError" in text
    # One of two programs ended well: half of what two would have earned.
    assert reward == 0.0 and earned == pytest.approx(0.5 * 0.4)


# ---- functions ------------------------------------------------------------------------------


def test_wrappers_share_one_session() -> None:
    with Toolshed.open("light") as shed:
        opened.provide(shed)
        functions = verl.get_toolshed_tool_wrappers()
        assert list(functions) == list(shed.tools.methods)
        refused = functions["vision_ops.index_at"](data="$depth_map", u=0.5, v=0.5)
    assert (refused.status, refused.reason) == ("refused", "unknown_variable")


@pytest.mark.parametrize(
    "name",
    ["get_toolshed_tool_schemas", "create_verl_tool_configs", "get_verl_tool_schemas"],
)
def test_names_that_are_gone_say_what_to_do(name: str) -> None:
    with pytest.raises(RuntimeError, match="toolshed schemas CONFIG --format verl"):
        vars(verl)[name]("toolshed_router")


def test_a_picture_that_is_none_is_refused_by_name() -> None:
    data = AgentData()
    data.image_data.append(3)
    detect = method_tool("roborefer.detect_one")
    with pytest.raises(ConfigError, match="a int is no picture"):
        asyncio.run(turn(data, (detect, {"obj_name": "cup", "image_index": 0})))
