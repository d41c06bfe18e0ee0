"""The teacher says exactly the turns of the plan, and ends whatever the tools reply."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.policy.base import Prompt
from rl.tabletop import wording
from rl.tabletop.teacher import SCRIPTS, teach
from rl.tabletop.tool_talk import read_depth, read_places
from rl.types import Question
from tests.rl.saboteur import saboteur
from toolshed.chat import answer_of, parse_calls, write_replies
from toolshed.errors import ConfigError
from toolshed.types import Message

POINT = "[(0.43, 0.57)]"


def prompt(text: str, *exchanged: tuple[str, list[str]], leftmost: str = "") -> Prompt:
    """A conversation after the given (turn, replies) pairs."""
    messages = [
        Message(role="system", text=""),
        Message(role="user", text=f"<image>{text}", num_images=1),
    ]
    for turn, replies in exchanged:
        messages.append(Message(role="assistant", text=turn))
        messages.append(Message(role="user", text=write_replies(replies)))
    question = Question(
        id="q",
        source="tabletop",
        kind="",
        messages=tuple(messages[:2]),
        images=(),
        target=None,
        extra={"leftmost": leftmost} if leftmost else {},
    )
    return Prompt(question=question, messages=tuple(messages), images=(), turn=len(exchanged))


def play(text: str, replies: list[list[str]], leftmost: str = "") -> list[str]:
    """All turns of the teacher when the tools reply so."""
    turns: list[str] = []
    for _ in range(len(replies) + 1):
        turns.append(teach(prompt(text, *zip(turns, replies, strict=False), leftmost=leftmost)))
    return turns


def detect(name: str) -> str:
    arguments = f'{{"obj_name": "{name}", "image_index": 0}}'
    return (
        f'<tool_call>\n{{"name": "roborefer.detect_one", "arguments": {arguments}}}\n</tool_call>'
    )


DEPTH_MAP = (
    '<tool_call>\n{"name": "depth_estimator.estimate_depth", '
    '"arguments": {"image_index": 0}}\n</tool_call>'
)
INDEX = (
    '<tool_call>\n{"name": "vision_ops.index_at", '
    '"arguments": {"data": "$depth_map", "u": 0.43, "v": 0.57}}\n</tool_call>'
)


def test_point() -> None:
    assert play("Where is the red cube?", [[POINT]]) == [
        detect("red cube"),
        "<answer>[(0.43, 0.57)]</answer>",
    ]


def test_depth() -> None:
    replies = [[POINT], ["$depth_map"], ['{"depth": 0.87}']]
    assert play("How far from the camera is the red cube?", replies) == [
        detect("red cube"),
        "<think>The point is known; now the depth map.</think>" + DEPTH_MAP,
        "<think>Read the map at the point.</think>" + INDEX,
        '<answer>{"depth": 0.87}</answer>',
    ]


def test_leftmost_names_the_colour_that_it_was_told() -> None:
    replies = [[POINT], ["$depth_map"], ['{"depth": 0.87}']]
    turns = play("How far from the camera is the leftmost object?", replies, leftmost="red")
    assert turns[0] == "<think>The leftmost object is the red object.</think>" + detect(
        "red object"
    )
    assert turns[1:] == play("How far from the camera is the red cube?", replies)[1:]


@pytest.mark.parametrize(("other", "word", "name"), [("0.91", "first", "red cube"),
                                                     ("0.80", "second", "blue ball")])  # fmt: skip
def test_nearer(other: str, word: str, name: str) -> None:
    replies = [["$depth_map"], [POINT], ['{"depth": 0.87}'], [POINT], [f'{{"depth": {other}}}']]
    assert play("Which is nearer, the red cube or the blue ball?", replies) == [
        DEPTH_MAP,
        detect("red cube"),
        INDEX,
        "<think>red cube: 0.87; find the blue ball.</think>" + detect("blue ball"),
        INDEX,
        f"<think>blue ball: {other}; {word} is nearer.</think><answer>{name}</answer>",
    ]


def test_a_miss_is_looked_for_again_by_colour() -> None:
    turns = play("Where is the red cube?", [["not found: red cube"], [POINT]])
    assert turns[1] == "<think>I will look again.</think>" + detect("red object")
    assert turns[2] == "<answer>[(0.43, 0.57)]</answer>"
    hopeless = play("Where is the red cube?", [["not found: red cube"], ["not found: red object"]])
    assert hopeless[2] == wording.UNKNOWN_ANSWER


@pytest.mark.parametrize("reply", ["Error: no depth", '{"depth": 0.00}', "nonsense"])
def test_an_unreadable_depth_is_read_once_more(reply: str) -> None:
    replies = [[POINT], ["$depth_map"], [reply], ['{"depth": 0.87}']]
    turns = play("How far from the camera is the red cube?", replies)
    assert turns[3] == "<think>I will look again.</think>" + INDEX
    assert answer_of(turns[4]) == '{"depth": 0.87}'


def test_both_profiles_are_read() -> None:
    released = "Detected 1 instance(s) of 'red cube': [(0.43303571428571426, 0.5691964285714286)]"
    assert [(place.u, place.v) for place in read_places(released)] == [("0.433", "0.569")]
    assert [(place.u, place.v) for place in read_places(POINT)] == [("0.43", "0.57")]
    assert read_places("Detected 0 instance(s) of 'red cube': []") == []
    assert read_places("Error: u is (0.1, 0.2)") == []
    assert read_depth("Pixel value at (0.430, 0.570) is 0.8716") == "0.872"
    assert read_depth('{"depth": 0.87}') == "0.87"
    assert read_depth("Pixel value at (0.430, 0.570) is nan") is None


@settings(max_examples=60)
@given(st.data())
def test_teacher_ends_whatever_it_is_told(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(SCRIPTS)))
    text = wording.TEMPLATES[kind].format(
        a="red cube", b="blue ball", direction="left", u="0.500", v="0.250"
    )
    odd = st.sampled_from(["", "Error: no", "not found: x", "$x", POINT, '{"depth": 0.87}']) | (
        st.text(alphabet=st.characters(exclude_characters="<>"))
    )
    turns: list[str] = []
    replies: list[list[str]] = []
    for _ in range(10):
        told = zip(turns, replies, strict=True)
        turns.append(teach(prompt(text, *told, leftmost="red")))
        num_calls = len(parse_calls(turns[-1]).calls)
        if not num_calls:
            break
        replies.append([data.draw(odd) for _ in range(num_calls)])
    assert not parse_calls(turns[-1]).calls and answer_of(turns[-1]) is not None
    assert not any(parse_calls(turn).errors for turn in turns)


def test_other_questions_are_refused() -> None:
    with pytest.raises(ConfigError, match="tabletop questions only"):
        teach(prompt("What is on the table?"))


@given(st.integers(0, 9), st.integers(0, 10_000))
def test_saboteur_is_seeded_and_never_answers(turn: int, seed: int) -> None:
    asked = prompt("Where is the red cube?")
    made = Prompt(question=asked.question, messages=asked.messages, images=(), turn=turn, seed=seed)
    assert saboteur(made) == saboteur(made)
    parse_calls(saboteur(made))
    assert (answer_of(saboteur(made)) or "") in (
        "", "or not", "<image><|image_pad|>", "[(-0.5, 1e-3)]", "NaN",
    )  # fmt: skip


def test_saboteur_tries_many_things() -> None:
    asked = prompt("Where is the red cube?")
    said = {
        saboteur(Prompt(question=asked.question, messages=asked.messages, images=(), seed=seed))
        for seed in range(50)
    }
    assert len(said) > 30
