"""docs/TOOLSHED.md is true: its commands run, its Python runs, its tables are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.toolshed.printed_commands import ROOT, Reader, blocks_of
from toolshed.cli import COMMANDS
from toolshed.config import FamilyConfig, ToolshedConfig
from toolshed.integration.verl import ToolSettings

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
