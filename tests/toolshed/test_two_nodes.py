"""Tools on two nodes of a real Ray cluster: where they are placed, and what a lost node takes along
(slow)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What happened, in a process of its own: this one's cluster must not be touched."""
    out = tmp_path_factory.mktemp("two-nodes") / "told.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.toolshed.two_nodes", str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_replicas_are_placed_as_asked(told: dict[str, Any]) -> None:
    placement = told["placement"]
    assert (placement["none"], placement["strict"]) == (2, 1)
    assert placement["strict, grown"] == 1
    # Three replicas of one CPU need both nodes, however closely they are packed.
    assert placement["node"] == 2


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("strict, too many", r"pack: strict needs one node with 3 CPU .* nodes have 2 CPU"),
        ("strict, grown too far", r"pack: strict needs one node with 3 CPU .*replica 2 .*no place"),
        ("too large", r"no node has what one replica needs \(3 CPU and 0 GPU\)"),
        ("too many", r"need 5 CPU in all, the cluster has 4"),
        ("no gpu", r"no node has what one replica needs \(1 CPU and 1 GPU\)"),
    ],
)
def test_what_cannot_be_had_is_named_at_once(
    told: dict[str, Any], asked: str, sentence: str
) -> None:
    assert re.search(sentence, told["placement"][asked])


@pytest.mark.parametrize("case", ["no room", "room"])
def test_a_lost_node_takes_its_arrays_and_nothing_else(told: dict[str, Any], case: str) -> None:
    found = told[case]
    assert found["made there and here"] == [True, True]
    assert found["calls after"] == ["ok"] * 4
    for status, reason, text in found["in vain"]:
        assert (status, reason) in {("failed", "replica_died"), ("failed", "busy")}
        assert "Traceback" not in text
    status, reason, text = found["lost array"]
    assert (status, reason) == ("refused", "expired_variable")
    assert "$depth_map has expired" in text and "Traceback" not in text
    assert found["kept array"] == "ok"


def test_replicas_come_back_where_there_is_room(told: dict[str, Any]) -> None:
    assert told["room"]["came back"] and told["room"]["nodes at the end"] == 2


def test_without_room_the_state_says_so_until_there_is(told: dict[str, Any]) -> None:
    assert any("the cluster has no room" in each for each in told["no room"]["why not"])
    assert told["no room"]["came back"] and told["no room"]["nodes at the end"] == 2
