"""Schemas for other programs: one list, in file order, from a command that starts nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from toolshed.cli import main
from toolshed.schemas import Form, dotted, mangled, schemas_of
from toolshed.toolset import ToolSet

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(each.stem for each in (ROOT / "configs" / "tools").glob("*.yaml"))
FORMS: tuple[Form, ...] = ("openai", "anthropic", "mcp", "verl")
# What the interfaces of OpenAI and Anthropic take as a function's name.
ACCEPTED = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def listed(word: str, form: Form, *, mangle: bool = False) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", schemas_of(word, form, mangle=mangle))


def name_of(entry: dict[str, Any]) -> str:
    found = entry.get("tool_schema", entry)
    return str(found.get("function", found)["name"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("word", CONFIGS)
def test_every_form_has_the_tools_in_the_order_of_the_file(word: str, form: Form) -> None:
    names = [name_of(each) for each in listed(word, form)]
    expected = [spec.name for spec in ToolSet.of(word).specs]
    assert list(map(dotted, names)) == expected
    assert ("." in names[0]) == (form in ("openai", "verl"))


@pytest.mark.parametrize("form", ["openai", "anthropic", "mcp"])
def test_mangled_names_are_accepted_everywhere(form: Form) -> None:
    for entry in listed("v2", form, mangle=True):
        assert ACCEPTED.fullmatch(name_of(entry)) and mangled(dotted(name_of(entry))) == name_of(
            entry
        )


def test_the_forms_hold_the_same_under_their_own_keys() -> None:
    for openai, anthropic, mcp, verl in zip(*(listed("v1", form) for form in FORMS), strict=True):
        function = openai["function"]
        assert set(openai) == {"type", "function"} and openai["type"] == "function"
        assert set(function) == {"name", "description", "parameters"}
        assert set(anthropic) == {"name", "description", "input_schema"}
        assert set(mcp) == {"name", "description", "inputSchema"}
        assert function["parameters"] == anthropic["input_schema"] == mcp["inputSchema"]
        assert function["description"] == anthropic["description"] == mcp["description"]
        assert verl["tool_schema"] == openai
        assert verl["config"] == {
            "type": "native",
            "router_name": "toolshed_router",
            "namespace": "toolshed",
            "function_name": function["name"],
            "timeout": 600,
            "tools": "v1",
        }


def test_what_one_reader_does_to_a_schema_no_other_sees() -> None:
    first = listed("v1", "openai")
    first[0]["function"]["parameters"]["properties"].clear()
    assert listed("v1", "openai")[0]["function"]["parameters"]["properties"]


@pytest.mark.parametrize("whole", [True, False])
def test_an_upstream_file_is_printed_as_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: bool
) -> None:
    schema = {
        "type": "function",
        "function": {
            "name": "sam2.segment_from_points",
            "description": "Odd   spacing\n\nand – signs.",
            "parameters": {
                "type": "object",
                "properties": {"points": {"type": "string", "description": "x"}},
                "required": ["points"],
            },
        },
    }
    entry: dict[str, object] = {"tool_schema": schema}
    if whole:
        entry = {"class_name": "a.B", "config": {"timeout": 30}, **entry}
    file = tmp_path / "upstream.yaml"
    file.write_text(yaml.safe_dump({"tools": [entry]}, sort_keys=False), encoding="utf-8")
    assert main(["schemas", str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == [schema]


def test_the_command_needs_neither_ray_nor_variables_nor_packages_of_tools() -> None:
    """The core's packages stand in a folder of their own; nothing else can be imported."""
    blocked = "ray", "scipy", "mujoco", "torch", "transformers", "mcp"
    script = (
        "import sys\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        "from toolshed.cli import main\n"
        "sys.exit(main(['schemas', 'v2', '--format', 'anthropic']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [each["name"] for each in json.loads(done.stdout)] == [
        mangled(spec.name) for spec in ToolSet.of("v2").specs
    ]
