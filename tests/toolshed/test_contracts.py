"""One contract per family, kept by every back-end that can answer here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.toolshed.contracts import (
    CHECKS,
    METHODS,
    Asked,
    check_absent,
    check_pointing,
    check_robot,
    table_picture,
)
from tests.toolshed.services import RobotService, grasp_server, pointing_routes, serving
from tests.toolshed.stub_stacks import write_grasp_gen, write_llava
from toolshed.registry import FAMILIES, backend_of
from toolshed.tabletop.state import initial_state

IN_ENVIRONMENTS = {("vlm", "real"), ("vlm", "molmo2"), ("depth_estimator", "real")} | {
    ("sam2", "real"),
    ("sam2", "sam3"),
}
"""Those that test_tiny_checkpoints.py and test_molmo_remote_code.py ask."""
HERE = [
    (family, word)
    for family, entry in FAMILIES.items()
    for word in entry.back_ends
    if family in METHODS and (family, word) not in IN_ENVIRONMENTS
]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    """Servers that live as long as a test, and a path for stand-ins."""
    monkeypatch.syspath_prepend(tmp_path)
    with ExitStack() as stack:
        yield stack


def arguments_of(family: str, word: str, stack: ExitStack, folder: Path) -> dict[str, object]:
    if (family, word) == ("roborefer", "http"):
        return {"url": stack.enter_context(serving(pointing_routes([])))}
    if (family, word) == ("roborefer", "real"):
        write_llava(folder)
        return {"model_path": str(folder)}
    if (family, word) == ("grasp_generator", "server"):
        pytest.importorskip("zmq", reason="GraspGen's socket needs pyzmq")
        return {"address": stack.enter_context(grasp_server([]))}
    if (family, word) == ("grasp_generator", "real"):
        write_grasp_gen(folder)
        (folder / "gripper.yml").write_text("gripper: franka\n")
        return {"gripper_config": str(folder / "gripper.yml")}
    if (family, word) == ("robot", "real"):
        return {"robot_api_url": stack.enter_context(serving(RobotService(3).routes()))}
    return {}


@pytest.mark.parametrize(("family", "word"), HERE)
def test_contract(family: str, word: str, opened: ExitStack, tmp_path: Path) -> None:
    entry = backend_of(family, word)
    given = arguments_of(family, word, opened, tmp_path)
    asked = Asked(family, entry.location, {**entry.arguments, **given})
    if family == "robot":
        scene = initial_state(3) if entry.acts_in == "scene" else None
        check_robot(asked, table_picture() if entry.acts_in == "picture" else scene)
        return
    CHECKS[family](asked)
    if CHECKS[family] is check_pointing:
        check_absent(asked)


def test_every_other_back_end_has_its_test() -> None:
    """What is not asked here is asked with a checkpoint of its own."""
    texts = [
        Path(__file__).with_name(name).read_text()
        for name in ("test_tiny_checkpoints.py", "test_molmo_remote_code.py")
    ]
    for family, word in IN_ENVIRONMENTS:
        name = backend_of(family, word).location.rpartition(":")[2]
        assert any(f":{name}" in text for text in texts), name
