"""New tools: what is written works as it is, and docs/ADD_A_TOOL.md is true to the letter."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.toolshed.printed_commands import ROOT, Block, Reader, blocks_of
from toolshed.cli import main


@pytest.mark.parametrize("name", ["meter", "a1_b2_very_long_name_of_a_tool"])
def test_a_new_tool_passes_its_test_and_the_checks_of_the_house(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["new-tool", name, "--folder", str(tmp_path / "my tools")]) == 0
    shown = capsys.readouterr().out
    assert f"cd '{tmp_path / 'my tools'}'" in shown and f"python -m pytest {name}" in shown
    folder = tmp_path / "my tools"
    files = sorted(each.name for each in (folder / name).iterdir())
    assert files == ["__init__.py", "contract.py", "light.py", f"test_{name}.py", "tools.yaml"]
    tested = [sys.executable, "-m", "pytest", "-q", name]
    env = {"PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)}
    done = subprocess.run(tested, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout
    linted = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), name]
    done = subprocess.run(linted, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Meter", "is no name for tools"),
        ("1meter", "is no name for tools"),
        ("a__b", "is no name for tools"),
        ("a_", "is no name for tools"),
        ("../a", "is no name for tools"),
        ("a" * 33, "is no name for tools"),
        ("class", "is no name for tools"),
        ("sam2", "taken by Toolshed itself"),
        ("replies", "taken by Toolshed itself"),
        ("json", "installed already"),
        ("there", "exists already"),
    ],
)
def test_a_name_that_would_not_work_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    (tmp_path / "there").mkdir()
    assert main(["new-tool", name, "--folder", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["there"]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader.in_folder(tmp_path)
    yield made
    made.close()


def _serves(block: Block) -> bool:
    return block.kind == "bash" and block.text.startswith("toolshed serve")


def test_the_page_is_true_up_to_serving(reader: Reader) -> None:
    for block in itertools.takewhile(lambda each: not _serves(each), blocks_of("ADD_A_TOOL.md")):
        reader.follow(block)
    # The last commands print the schemas of both tools.
    assert "colour_meter__find_brightest" in reader.output
    assert "colour_meter__measure" in reader.output and "4 passed" in reader.output


@pytest.mark.slow
def test_the_page_is_true_to_its_end(reader: Reader) -> None:
    for block in blocks_of("ADD_A_TOOL.md"):
        reader.follow(block)
    assert re.match(r"red \d+, green \d+, blue \d+\n", reader.output), reader.output
    assert re.search(r"^colour_meter 1 +(starting|ready) ", reader.output, re.MULTILINE)
    assert reader.output.endswith("stopped\n")
    assert reader.serving is not None and reader.serving.wait(timeout=60) == 0
