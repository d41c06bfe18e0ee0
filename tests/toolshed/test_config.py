"""The tool YAML: shipped configs, both formats, and every way to get it wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from toolshed.config import check_home, load_tools, parse_tools, replaced
from toolshed.errors import ConfigError
from toolshed.shed import Toolshed
from toolshed.toolset import ToolSet
from toolshed.types import Json

V1 = [
    "vision_ops.index_at",
    "bounding_box.compute_bbox",
    "sam2.segment_from_point",
    "sam2.segment_from_points",
    "grasp_generator.compute_grasp",
    "vlm.detect_all",
    "vlm.detect_one",
    "depth_estimator.estimate_depth",
    "depth_estimator.estimate_depth_with_pointcloud",
    "roborefer.detect_all",
    "roborefer.detect_one",
]
ROBOT = [
    "robot.capture_image",
    "robot.get_depth",
    "robot.get_depth_with_pointcloud",
    "robot.execute_grasp",
    "robot.place_object_at_2d_location",
    "robot.place_object_at_3d_location",
]
DEMO = ["roborefer.detect_one", "depth_estimator.estimate_depth", "vision_ops.index_at"]


def names(word: str) -> list[str]:
    return [spec.name for spec in ToolSet.of(word).specs]


def test_shipped_configs_show_the_published_tools_in_order() -> None:
    assert names("v1") == V1
    assert names("v2") == V1 + ROBOT
    assert names("light") == V1 + ROBOT
    assert names("point") == ["roborefer.detect_one"]
    assert names("demo") == DEMO
    assert ToolSet.of("light").schema_hash == ToolSet.of("v2").schema_hash


def test_hash_covers_order_texts_replies_and_defects() -> None:
    config = load_tools("demo")
    base = ToolSet.of(config).schema_hash
    turned = config.model_copy(update={"families": dict(reversed(config.families.items()))})
    others = [
        ToolSet.of(turned),
        ToolSet.of(replaced(config, {"replies": "released"})),
        ToolSet.of(replaced(config, {"defects": "released"})),
        ToolSet.of(config, ["roborefer.detect_one"]),
    ]
    assert len({base, *(each.schema_hash for each in others)}) == 5
    unchanged = replaced(config, {"roborefer.replicas": 3, "host": "local"})
    assert ToolSet.of(unchanged).schema_hash == base


def test_show_selects_in_the_order_of_the_file() -> None:
    chosen = ToolSet.of("demo", show=["vision_ops.index_at", "roborefer.detect_one"])
    assert [spec.name for spec in chosen.specs] == [DEMO[0], DEMO[2]]
    with pytest.raises(ConfigError, match=r"did you mean 'roborefer\.detect_one'"):
        ToolSet.of("demo", show=["roborefer.detect_on"])
    in_file = parse_tools({"show": [DEMO[0]], "roborefer": {"backend": "light"}})
    assert [spec.name for spec in ToolSet.of(in_file).specs] == [DEMO[0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"roborefr": {"backend": "light"}}, "'roborefr'; did you mean 'roborefer'"),
        ({"repleis": "compact"}, "'repleis'; did you mean 'replies'"),
        ({"roborefer": {"backed": "light"}}, "'roborefer.backed'; did you mean 'backend'"),
        ({"roborefer": {}}, "'roborefer.backend' is missing"),
        ({"roborefer": {"backend": "light", "replicas": "2"}}, "roborefer.replicas = '2'"),
        ({"roborefer": {"backend": "light", "replicas": 0}}, "roborefer.replicas = 0"),
        ({"replies": "short", "sam2": {"backend": "light"}}, "replies = 'short'"),
        ({"replies": "compact"}, "names no tool family"),
        ({}, "names no tool family"),
    ],
)
def test_bad_configs_name_the_nearest_known(content: dict[str, Json], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_tools(content)
    assert message in str(caught.value)


def test_families_of_one_process_agree_in_slots() -> None:
    one: Json = {"backend": "light", "process": "one"}
    other: Json = {"backend": "light", "process": "one", "slots": 8}
    message = r"vision_ops\.slots = 1 and sam2\.slots = 8.*'one'; write the same slots"
    with pytest.raises(ConfigError, match=message):
        parse_tools({"vision_ops": one, "sam2": other})
    agreed = parse_tools({"vision_ops": other, "sam2": other})
    with pytest.raises(ConfigError, match="write the same slots"):
        replaced(agreed, {"sam2.slots": 2})
    assert replaced(agreed, {"sam2.slots": 2, "sam2.process": None}).families["sam2"].slots == 2


def test_unknown_backend_method_class_and_argument() -> None:
    cases: list[tuple[dict[str, Json], str]] = [
        ({"backend": "heavy"}, "light, real"),
        ({"backend": "light", "show": ["detect_two"]}, "no method 'detect_two'"),
        ({"backend": "no.such:Thing"}, "no module 'no'"),
        ({"backend": "toolshed.types:Thing"}, "no class 'Thing'"),
        ({"backend": "light", "arguments": {"speed": 3}}, "cannot be made"),
    ]
    for family, message in cases:
        with pytest.raises(ConfigError) as caught:
            Toolshed.open(parse_tools({"roborefer": family}))
        assert message in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    bad = {
        "list.yaml": "- 1\n- 2\n",
        "broken.yaml": "roborefer: {",
        "twice.yaml": "roborefer: {backend: light}\nroborefer: {backend: light}\n",
    }
    for name, text in bad.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=name):
            load_tools(tmp_path / name)
    with pytest.raises(ConfigError, match="does not exist"):
        load_tools(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="did you mean 'light'"):
        load_tools("ligth")


def entry(name: str, description: str) -> dict[str, Json]:
    parameters: dict[str, Json] = {
        "type": "object",
        "properties": {"obj_name": {"type": "string", "description": "Ünicode – kept."}},
        "required": ["obj_name"],
    }
    function: dict[str, Json] = {
        "name": name,
        "description": description,
        "parameters": parameters,
    }
    return {
        "class_name": "toolshed.integration.verl.ToolshedMethodTool",
        "config": {"type": "native", "function_name": name, "timeout": 30},
        "tool_schema": {"type": "function", "function": function},
    }


def test_list_format_is_kept_byte_for_byte(tmp_path: Path) -> None:
    description = "Two  blanks,\n a line\tand a tab. "
    entries: list[Json] = [entry("vlm.detect_one", description), entry("roborefer.detect_all", "")]
    path = tmp_path / "upstream.yaml"
    path.write_text(yaml.safe_dump({"tools": entries}, sort_keys=False, allow_unicode=True))
    tools = ToolSet.of(path)
    assert [spec.name for spec in tools.specs] == ["vlm.detect_one", "roborefer.detect_all"]
    assert tools.specs[0].description == description
    first = entries[0]
    assert isinstance(first, dict) and isinstance(first["tool_schema"], dict)
    function = first["tool_schema"]["function"]
    assert isinstance(function, dict)
    assert tools.specs[0].parameters == function["parameters"]
    assert "Ünicode – kept." in tools.schema_text
    assert [each.environment for each in load_tools(path).families.values()] == [
        "vlm",
        "roborefer",
    ]
    here = replaced(load_tools(path), {"vlm.environment": None, "roborefer.environment": None})
    with pytest.raises(ConfigError, match="trust_remote_code: true"):
        Toolshed.open(here)
    light = replaced(load_tools(path), {"vlm.backend": "light", "roborefer.backend": "light"})
    assert ToolSet.of(light).schema_hash == tools.schema_hash


def test_entries_that_hold_only_a_schema_load_alike() -> None:
    whole = entry("sam2.segment_from_points", "Cut out.")
    bare: dict[str, Json] = {"tool_schema": whole["tool_schema"]}
    assert (
        ToolSet.of(parse_tools({"tools": [bare]})).schema_hash
        == ToolSet.of(parse_tools({"tools": [whole]})).schema_hash
    )


def test_the_code_tool_of_the_list_format_is_called_by_its_family() -> None:
    listed = entry("execute_python", "Run it.")
    tools = ToolSet.of(parse_tools({"tools": [listed]}))
    assert [(spec.name, spec.description) for spec in tools.specs] == [
        ("code_executor.exec", "Run it.")
    ]


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([{"class_name": "x"}], "no tool_schema.function"),
        ([entry("robot.dance", "x")], "unknown robot method 'dance'"),
        ([entry("robt.get_depth", "x")], "did you mean 'robot'"),
    ],
)
def test_bad_list_format(tools: list[Json], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ToolSet.of(parse_tools({"tools": tools}))
    assert message in str(caught.value)


def test_replaced_is_checked() -> None:
    config = load_tools("demo")
    for changes in ({"roborefer.replica": 2}, {"sam.replicas": 2}, {"hots": "ray"}):
        with pytest.raises(ConfigError):
            replaced(config, changes)
    assert replaced(config, {"roborefer.replicas": 2}).families["roborefer"].replicas == 2


def test_check_home() -> None:
    check_home("toolshed")
    with pytest.raises(ConfigError, match="'json' was found in"):
        check_home("json")
    with pytest.raises(ConfigError, match="'no_such_room' was not found"):
        check_home("no_such_room")


def test_import_loads_nothing_heavy() -> None:
    program = (
        "import sys, toolshed; from toolshed import Toolshed, ToolSet, load_tools;"
        "ToolSet.of('light');"
        "print([m for m in ('torch','transformers','ray','mujoco','scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
