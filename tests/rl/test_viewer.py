"""Episodes as people see them: records, pictures, HTML, PNG, text; and rl.ask on a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from rl.ask import Asking, main, saved_config, scene_question, trained_tools
from rl.show.episode import Drawing, Episode, drawing_of, episode_of, value_of
from rl.show.viewer import (
    SHOWN_PX,
    Album,
    answer_words,
    drawn,
    episode_html,
    episode_png,
    episode_text,
    keep_picture,
    outcome,
    steps,
    thoughts,
)
from rl.types import Completion, Question, StopReason, Trajectory, Turn
from tests.eval.demo.fake_run import broken, fake_trajectory
from toolshed.images import make_image
from toolshed.types import (
    CallError,
    CapturedImage,
    DepthEstimate,
    Detections,
    GraspEstimate,
    IndexedValue,
    OrientedBox,
    Point,
    RobotAction,
    Segmentation,
    ToolImage,
    ToolValue,
)


def picture(width: int = 60, height: int = 40) -> ToolImage:
    return make_image(np.full((height, width, 3), 90, dtype=np.uint8))


def values() -> list[ToolValue]:
    mask = np.zeros((40, 60), dtype=np.bool_)
    mask[10:30, 20:40] = True
    depth = np.linspace(0.5, 1.5, 2400, dtype=np.float32).reshape(40, 60)
    depth[:5, :5] = 0
    uv = np.array([[0.2, 0.2], [0.3, 0.2], [0.4, 0.3], [0.3, 0.4], [0.5, 0.5]])
    corners = np.linspace(0.2, 0.8, 16).reshape(8, 2)
    return [
        Detections(obj_name="red cube", points=(Point(u=0.4, v=0.6),)),
        Segmentation(mask=mask, score=0.9, points=(Point(u=0.5, v=0.5),)),
        DepthEstimate(depth_m=depth, focal_length_px=70.0),
        IndexedValue(u=0.4, v=0.6, value=0.87, kind="depth_map"),
        OrientedBox(
            corners_m=np.zeros((8, 3)),
            corners_uv=corners,
            extent_m=np.ones(3),
            num_kept=9,
            num_total=10,
        ),
        GraspEstimate(
            pose=np.eye(4),
            confidence=0.7,
            keypoints_uv=uv,
            num_masked=1,
            num_total=1,
            num_generated=1,
            num_collision_free=1,
        ),
        RobotAction(action="grasp", success=True, execution_time_s=1.0, image=picture()),
        CapturedImage(image=picture()),
    ]


@pytest.mark.parametrize("value", values(), ids=lambda value: type(value).__name__)
def test_every_value_is_recorded_read_back_and_drawn(value: ToolValue) -> None:
    drawing = drawing_of(value)
    adapter = TypeAdapter(Drawing)
    again = adapter.validate_json(adapter.dump_json(drawing))
    assert again == drawing
    shown = drawn(picture(), again)
    assert max(shown.size) >= SHOWN_PX
    plain = np.asarray(drawn(picture(), None).convert("RGB"))
    differs = shown.size != plain.shape[1::-1] or bool(
        (np.asarray(shown.convert("RGB")) != plain).any()
    )
    assert differs == (not isinstance(value, RobotAction | CapturedImage))


def test_kept_masks_are_exact_and_kept_depths_close() -> None:
    _, mask, depth, *_ = values()
    assert isinstance(mask, Segmentation)
    assert isinstance(depth, DepthEstimate)
    same = value_of(drawing_of(mask), (40, 60))
    assert isinstance(same, Segmentation)
    assert (same.mask == mask.mask).all()
    close = value_of(drawing_of(depth), (40, 60))
    assert isinstance(close, DepthEstimate)
    known = depth.depth_m > 0
    assert ((close.depth_m > 0) == known).all()
    assert np.abs(close.depth_m - depth.depth_m)[known].max() < 0.03


def test_a_depth_map_without_any_depth_is_kept() -> None:
    nothing = DepthEstimate(depth_m=np.full((40, 60), np.nan, np.float32), focal_length_px=1.0)
    again = value_of(drawing_of(nothing), (40, 60))
    assert isinstance(again, DepthEstimate)
    assert not again.depth_m.any()


def test_an_episode_survives_json() -> None:
    episode = episode_of(fake_trajectory("leftmost", 2, right=True, tools=True))
    adapter = TypeAdapter(Episode)
    assert adapter.validate_json(adapter.dump_json(episode)) == episode


def test_steps_tell_the_look_each_call_and_the_answer() -> None:
    trajectory = fake_trajectory("leftmost", 2, right=True, tools=True)
    told = steps(episode_of(trajectory), Album(trajectory.images))
    assert [step.title for step in told] == ["Sees", "Calls", "Calls", "Calls", "Answer"]
    assert told[1].thought.startswith("The leftmost object is")
    assert told[1].code.startswith('roborefer.detect_one(obj_name="')
    assert [step.picture is not None for step in told] == [True] * 4 + [False]
    assert told[-1].status == "right"


def test_an_answered_point_is_drawn_over_its_region() -> None:
    trajectory = fake_trajectory("point", 2, right=True, tools=True)
    told = steps(episode_of(trajectory), Album(trajectory.images))
    assert told[-1].picture is not None
    assert told[-1].reply == "inside the marked region"


def test_miswritten_calls_and_failures_are_told() -> None:
    trajectory = fake_trajectory("depth", 1, right=False, tools=False)
    error = CallError(reason="malformed", text="not JSON", start=0, end=5)
    first = Turn(completion=Completion(text="<tool_call>{</tool_call>"), errors=(error,))
    episode = episode_of(replace(trajectory, turns=(first, *trajectory.turns)))
    assert [step.title for step in steps(episode, Album())][1] == "Miswrites a call"
    assert "not JSON" in episode_text(episode)
    assert outcome(episode) == "wrong"
    lost = episode_of(broken(trajectory))
    assert outcome(lost) == "failed"
    assert "failed    roborefer.detect_one" in episode_text(lost)


def test_html_holds_pictures_and_escapes_words() -> None:
    trajectory = fake_trajectory("depth", 1, right=True, tools=True)
    episode = replace(episode_of(trajectory), answer="<b>1</b>")
    fragment = episode_html(episode, Album(trajectory.images))
    assert fragment.count("data:image/jpeg;base64,") == 4
    assert f'width="{SHOWN_PX}"' in fragment
    assert "<b>1</b>" not in fragment


def test_the_sheet_shows_all_pictures() -> None:
    trajectory = fake_trajectory("depth", 1, right=True, tools=True)
    sheet = episode_png(episode_of(trajectory), Album(trajectory.images))
    assert sheet.width > 3 * SHOWN_PX
    assert sheet.height > 2 * SHOWN_PX


def test_an_unknown_picture_is_left_out(tmp_path: Path) -> None:
    episode = episode_of(fake_trajectory("depth", 1, right=True, tools=True))
    assert all(step.picture is None for step in steps(episode, Album(root=tmp_path)))
    assert "<img" not in episode_html(episode, Album())


def test_kept_pictures_are_found_again(tmp_path: Path) -> None:
    trajectory = fake_trajectory("depth", 1, right=True, tools=True)
    keep_picture(trajectory.images[0], tmp_path)
    found = Album(root=tmp_path).find(episode_of(trajectory).pictures[0])
    assert found is not None
    assert found.width == trajectory.images[0].width


def test_thoughts_leave_calls_and_answers_out() -> None:
    turn = replace(
        episode_of(fake_trajectory("point", 1, right=True, tools=False)).turns[0],
        text="<think>First this.</think>\n<tool_call>\n{}\n</tool_call> and <answer>x</answer>",
    )
    assert thoughts(turn) == "First this. and"


# ---- rl.ask -----------------------------------------------------------------------------------


def test_a_scene_question_knows_its_answer(tmp_path: Path) -> None:
    words = "How far from the camera is the leftmost object?"
    question = scene_question(words, 7, tmp_path)
    assert question.kind == "number"
    assert 0.2 < float(str(question.target)) < 3
    with Image.open(question.images[0].image) as picture:
        assert picture.size == (224, 224)
    free = scene_question("What is the meaning of this?", 7, tmp_path)
    assert (free.kind, free.target) == ("", None)


def test_the_tools_of_a_run_are_read_from_its_config(tmp_path: Path) -> None:
    assert trained_tools(saved_config(tmp_path)).config == "demo"
    (tmp_path / "config.yaml").write_text("tools: {config: demo, show: [vision_ops.index_at]}\n")
    found = trained_tools(saved_config(tmp_path / "final"))
    assert (found.config, found.show) == ("demo", ["vision_ops.index_at"])


def test_ask_prints_the_episode_and_writes_its_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rl.tiny import make_random
    from toolshed.toolset import ToolSet

    make_random(tmp_path / "tiny", [ToolSet.named("demo").specs], seed=1)
    (tmp_path / "config.yaml").write_text(json.dumps({"tools": {"config": "demo", "show": []}}))
    out = tmp_path / "sheet.png"
    words = [str(tmp_path / "tiny"), "--scene", "7", "Where is the leftmost thing?"]
    assert main([*words, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "question  Where is the leftmost thing?" in told
    assert str(out) in told
    with Image.open(out) as sheet:
        assert sheet.height > SHOWN_PX
    assert main([str(tmp_path / "none"), "Where?"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([""], "no question given"),
        (["Where?", "--scene", "-1"], "scene -1"),
        (["Where?", "--temperature", "-1"], "temperature -1"),
        (["Where?", "--seed", "-1"], "seed -1"),
        (["Where?", "--image", "none.png"], "image none.png does not exist"),
        (["Where?", "--out", "x.foo"], "--out x.foo must end in .png"),
        (["Where?", "--out", "/proc/none/x.png"], "cannot write in /proc/none"),
    ],
)
def test_a_wrong_word_is_said_before_anything_is_loaded(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nowhere"), *words]) == 2
    assert said in capsys.readouterr().err


def test_another_question_has_another_picture() -> None:
    first = Asking(checkpoint="runs/demo/full_rl", question="Where is the red cube?")
    assert first.sheet.name.startswith("demo_full_rl-scene-7-where-is-the-red-cube-")
    others = [
        replace(first, question="Where is the red cube"),
        replace(first, checkpoint="runs/demo-smoke/full_rl"),
        replace(first, temperature=1.0),
        replace(first, scene=8),
    ]
    assert len({first.sheet, *(each.sheet for each in others)}) == 5


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("answered", "(none: the last turn holds no <answer>)"),
        ("max_tokens", "(none: the limit of tokens was reached)"),
        ("", "(none)"),
    ],
)
def test_a_missing_answer_says_why(reason: str, told: str) -> None:
    episode = Episode(
        question_id="q", source="asked", kind="", question="?", pictures=(), stop_reason=reason
    )
    assert answer_words(episode) == told


def test_an_answer_that_nobody_judges_is_shown() -> None:
    turn = Turn(completion=Completion(text="<think>So.</think><answer>a cup</answer>"))
    trajectory = Trajectory(
        question=Question(id="q", source="asked", kind="", messages=(), images=(), target=None),
        sample_index=0,
        seed=0,
        turns=(turn,),
        messages=(),
        stop_reason=StopReason.ANSWERED,
    )
    assert answer_words(episode_of(trajectory)) == "a cup"
