"""docs/TOOLSHED.md is true: its commands run, its Python runs, its tables are the code's."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

import yaml

from tests.toolshed.printed_commands import ROOT, Reader, blocks_of
from toolshed.cli import COMMANDS
from toolshed.config import FamilyConfig, ToolshedConfig
from toolshed.integration.verl import ToolSettings
from toolshed.sandbox import levels

PAGE = (ROOT / "docs" / "TOOLSHED.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[str]:
    """Names in the first column of the table with this heading."""
    table = PAGE.partition(f"| {heading} |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_the_tables_name_every_key() -> None:
    settings = [
        name for name in ToolshedConfig.model_fields if name not in ("families", "published")
    ]
    assert rows("setting of the file") == settings
    assert rows("key of a family") == list(FamilyConfig.model_fields)
    assert set(rows("key of `config`")) == set(ToolSettings.model_fields)


def test_the_page_names_every_command() -> None:
    for name in COMMANDS:
        assert re.search(rf"`(toolshed )?{name}[` ]", PAGE), name


def test_its_commands_and_its_python_run(tmp_path: Path) -> None:
    reader = Reader.in_folder(tmp_path)
    for block in blocks_of("TOOLSHED.md"):
        reader.follow(block)
    made = {each.name for each in reader.folder.iterdir()}
    assert {"desk.png", "desk.roborefer.png", "desk.sam2.png", "desk.drawn.png"} <= made
    entries = yaml.safe_load((reader.folder / "verl_tools.yaml").read_text())["tools"]
    assert len(entries) == 17


# ---- reasons --------------------------------------------------------------------------------


def raised(error: str) -> set[str]:
    """Reasons that the library gives to an error of this name, where they are written out."""
    found = set()
    for path in (ROOT / "toolshed").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == error and node.args:
                reason = node.args[0]
                if isinstance(reason, ast.Constant):
                    found.add(str(reason.value))
    return found


def test_the_page_names_every_reason_and_no_other() -> None:
    failures = set(rows("reason of `failed`"))
    # Made of what Ray, a back-end or the control actor said.
    failures_told = {"hung", "start_timeout", "error"}
    assert failures == raised("ToolFailure") | failures_told
    text = PAGE.partition("Reasons of refusals made")[2].partition("\n## ")[0]
    limits = {f"limit_{each}" for each in get_args(levels.Ended)} - {"limit_ended", "limit_died"}
    refusals = set(re.findall(r"`([a-z_]+)`", text))
    assert refusals == raised("ToolRefusal") | limits | {"quota", "too_deep"}
