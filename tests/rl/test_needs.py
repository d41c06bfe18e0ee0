"""Tools that are missing and prompts that are too long are said before any work."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest

from rl.rollout import opening
from rl.start.needs import check_answerable, check_room, missing_tools
from rl.tabletop.dataset import Order, make_questions
from rl.tabletop.kinds import TASK_KINDS
from rl.tabletop.wording import DEMO_KINDS
from rl.types import Question
from sft.render import Renderer
from toolshed.errors import ConfigError
from toolshed.images import ImageSource, load_image
from toolshed.toolset import ToolSet


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    folder = tmp_path_factory.mktemp("needs")
    return make_questions(Order(kinds=("point", "pose"), num=2, seed=77), folder)


def test_the_demos_tools_answer_the_demos_kinds_and_the_light_ones_all() -> None:
    demo, light = ToolSet.named("demo"), ToolSet.named("light")
    for kind in TASK_KINDS:
        assert not missing_tools(f"tabletop-{kind}", light)
        assert kind not in DEMO_KINDS or not missing_tools(f"tabletop-{kind}", demo)
    assert missing_tools("tabletop-pose", demo)[-1] == "bounding_box.compute_bbox"
    assert not missing_tools("blinkdepth", demo)


def test_the_teacher_needs_its_tools_and_other_policies_are_warned(
    capsys: pytest.CaptureFixture[str],
) -> None:
    demo, sources = ToolSet.named("demo"), ["tabletop-point", "tabletop-grasp"]
    with pytest.raises(ConfigError, match=r"tabletop-grasp .*compute_grasp.*tools\.config=demo"):
        check_answerable(sources, demo, "demo", taught=True)
    check_answerable(sources, demo, "demo")
    told = capsys.readouterr().err
    assert told.startswith("warning: tabletop-grasp questions need sam2.segment_from_point")
    check_answerable(sources, ToolSet.named("none"), "none")
    assert not capsys.readouterr().err


@pytest.mark.parametrize("word", ["demo", "none"])
def test_nobody_plays_the_robots_world_without_the_robot(word: str) -> None:
    with pytest.raises(ConfigError, match=r"tabletop-pick .*robot\.execute_grasp"):
        check_answerable(["tabletop-pick"], ToolSet.named(word), word)


@pytest.mark.parametrize("inside", [False, True])
def test_room_is_what_the_model_reads_and_may_write(
    questions: list[Question], tiny: Path, inside: bool
) -> None:
    renderer, specs = Renderer.load(tiny), ToolSet.named("demo").specs
    if inside:
        questions = [replace(q, images=(_data_uri(q.images[0]),)) for q in questions]
    longest = max(_places(question, renderer) for question in questions)
    check_room(questions, specs, renderer, max_tokens=50, max_length=longest + 50)
    with pytest.raises(ConfigError, match=rf"tabletop-pose\) needs {longest + 50} places, max_to"):
        check_room(questions, specs, renderer, max_tokens=50, max_length=longest + 49)


def _places(question: Question, renderer: Renderer) -> int:
    """Of the prompt, as the policy counts them."""
    ids = renderer.prompt(opening(question, ToolSet.named("demo").specs))
    return len(renderer.expand(ids, [load_image(each) for each in question.images]).token_ids)


def _data_uri(source: ImageSource) -> ImageSource:
    payload = base64.b64encode(Path(source.image).read_bytes()).decode()
    return ImageSource(image=f"data:image/png;base64,{payload}")
