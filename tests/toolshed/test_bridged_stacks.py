"""RoboRefer and GraspGen keep their contracts from behind the bridge, in a process of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.toolshed.contracts import CHECKS, METHODS, Asked, check_absent
from tests.toolshed.stub_stacks import write_grasp_gen, write_llava
from toolshed.errors import ConfigError
from toolshed.registry import backend_of


def bridged(family: str, arguments: dict[str, object], folder: Path) -> Asked:
    """The back-end of the table, in a child that finds our stand-ins."""
    bridge: dict[str, object] = {
        "interpreter": sys.executable,
        "location": backend_of(family, "real").location,
        "arguments": arguments,
        "methods": list(METHODS[family]),
        "variables": {"PYTHONPATH": str(folder)},
    }
    return Asked(family, "toolshed.environments.bridge:Bridged", bridge)


def test_roborefer_behind_the_bridge(tmp_path: Path) -> None:
    write_llava(tmp_path)
    asked = bridged("roborefer", {"model_path": str(tmp_path)}, tmp_path)
    CHECKS["roborefer"](asked)
    check_absent(asked)


def test_graspgen_behind_the_bridge(tmp_path: Path) -> None:
    write_grasp_gen(tmp_path)
    (tmp_path / "gripper.yml").write_text("gripper: franka")
    arguments: dict[str, object] = {"gripper_config": str(tmp_path / "gripper.yml")}
    CHECKS["grasp_generator"](bridged("grasp_generator", arguments, tmp_path))


def test_a_child_without_the_stack_says_which_environment_has_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="toolshed env create roborefer"):
        bridged("roborefer", {"model_path": str(tmp_path)}, tmp_path)
