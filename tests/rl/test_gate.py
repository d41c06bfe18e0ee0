"""Gates before RL: each fails and barely passes on hand-made trajectories."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from rl.figures.intervals import independent, wilson
from rl.show.verdicts import WIDTH, table
from rl.start.gates import (
    BarsConfig,
    Seen,
    Verdict,
    chain_of,
    is_invalid,
    judge,
    seen_of,
    why_no_chain,
)
from rl.types import Completion, Question, Reward, StopReason, Trajectory, Turn
from toolshed.toolset import ToolSet
from toolshed.types import CallError, Detections, Json, Point, ToolCall, ToolResult, Variable

ROOT = Path(__file__).resolve().parents[2]
POINT, DEPTH, INDEX = (
    "roborefer.detect_one",
    "depth_estimator.estimate_depth",
    "vision_ops.index_at",
)
BARS = BarsConfig()
DEMO = ToolSet.named("demo")


def seen(question: int, sample: int, *, right: bool = True, **more: object) -> Seen:
    found = Seen(question=question, sample=sample, value=float(right), is_right=right, num_valid=2)
    return replace(found, **more)  # type: ignore[arg-type]


def groups(num: int = 10, size: int = 10) -> list[list[Seen]]:
    """In every second group one is wrong; one trajectory holds a chain."""
    made = [[seen(q, s, right=bool(s or q % 2)) for s in range(size)] for q in range(1, num + 1)]
    made[0][0] = replace(made[0][0], chain=f"{DEPTH} -> {INDEX}")
    return made


def named(name: str, played: list[list[Seen]], bars: BarsConfig = BARS) -> Verdict:
    return next(verdict for verdict in judge(played, bars, DEMO) if verdict.name == name)


def test_what_is_good_passes_every_gate() -> None:
    verdicts = judge(groups(), BARS, DEMO)
    assert all(verdict.passed and verdict.asked for verdict in verdicts)
    assert [verdict.n for verdict in verdicts] == [100, 200, 100, 10, 5]
    assert not any(verdict.examples for verdict in verdicts)


def test_format_passes_at_its_bar_and_fails_below() -> None:
    played = groups()
    played[3][2] = replace(played[3][2], fault="no answer")
    found = named("format", played)
    assert found.passed and found.figure == 0.99 and found.told == "the rest: 1 no answer"
    assert found.is_close
    played[5][7] = replace(played[5][7], fault="cut by max_tokens")
    found = named("format", played)
    assert not found.passed and found.figure == 0.98
    assert found.examples == ((4, 2), (6, 7))


def test_valid_calls_pass_at_their_bar_and_fail_below() -> None:
    played = groups()
    # Of 200 calls ten.
    played[0] = [replace(each, num_valid=1, invalid=("unknown_tool",)) for each in played[0]]
    found = named("valid calls", played)
    assert found.passed and found.figure == 0.95 and found.told == "the rest: 10 unknown_tool"
    played[1][0] = replace(played[1][0], num_valid=1, invalid=("malformed",))
    found = named("valid calls", played)
    assert not found.passed and (2, 0) in found.examples
    silent = [[replace(each, num_valid=0) for each in group] for group in groups()]
    found = named("valid calls", silent)
    assert not found.passed and found.told == "no trajectory holds a call" and found.examples


def test_a_chain_counts_only_where_the_answer_is_right() -> None:
    played = groups()
    assert named("tool chains", played).passed
    assert not named("tool chains", played, BarsConfig(chains=2)).passed
    played[0][0] = replace(played[0][0], is_right=False)
    found = named("tool chains", played)
    assert not found.passed and found.figure == 0 and found.examples == ((1, 0),)
    assert found.told == "1 hold a chain, 0 of them right"
    off = named("tool chains", played, BarsConfig(chains=0))
    assert off.passed and not off.asked and off.told == "bars.chains=0"


def test_chains_are_asked_where_tools_allow_them() -> None:
    assert why_no_chain(DEMO) == ""
    assert why_no_chain(ToolSet.named("demo", [POINT])) == "one tool alone is shown"
    told = why_no_chain(ToolSet.named("demo", [POINT, DEPTH]))
    assert told == "no tool shown takes a variable or a point"
    assert "none announces no tools" in why_no_chain(ToolSet.named("none"))
    assert (
        why_no_chain(ToolSet.named("light", ["roborefer.detect_one", "sam2.segment_from_point"]))
        == ""
    )
    without = judge(groups(), BARS, ToolSet.named("none"))
    assert [verdict.asked for verdict in without] == [True, False, False, True, True]


def test_spread_passes_at_its_bar_and_tells_both_kinds_of_dead_groups() -> None:
    played = [[seen(q, s, right=q > 6) for s in range(4)] for q in range(1, 11)]
    for question in (0, 9):
        played[question][0] = replace(played[question][0], value=0.5)
    found = named("spread", played)
    assert found.passed and found.figure == 0.2
    assert found.told == "without: 3 all right, 5 all wrong"
    played[0][0] = replace(played[0][0], value=0.0)
    found = named("spread", played)
    assert not found.passed and found.told == "without: 3 all right, 6 all wrong"
    assert found.examples == ((1, 0), (2, 0), (3, 0))
    played[4] = played[4][:1]
    assert "1 with fewer than two scored samples left out" in named("spread", played).told


def test_errors_of_decision_pass_at_their_bar_and_fail_below() -> None:
    played = groups()
    wrong = [each for group in played for each in group if not each.is_right]
    assert len(wrong) == 5
    for group in (played[1], played[3]):
        group[0] = replace(group[0], fault="no answer")
    assert named("decision errors", played).figure == 0.6
    played[5][0] = replace(played[5][0], invalid=("bad_argument",))
    found = named("decision errors", played)
    assert not found.passed and found.told == "the rest: 2 bad form, 1 invalid call"
    right = [[replace(each, is_right=True) for each in group] for group in played]
    found = named("decision errors", right)
    assert found.passed and not found.asked and found.told == "no answer is wrong"


def test_where_nothing_was_scored_nothing_passes_by_it() -> None:
    verdicts = {verdict.name: verdict for verdict in judge([[], []], BARS, DEMO)}
    for name in ("format", "valid calls", "tool chains", "spread"):
        assert not verdicts[name].passed
    assert verdicts["format"].told == "nothing was scored"


# ---- one trajectory -----------------------------------------------------------------------------


def asked(name: str, **arguments: Json) -> ToolCall:
    return ToolCall(id="1", name=name, arguments=arguments)


def answered(call: ToolCall, held: Detections | None = None, *variables: str) -> ToolResult:
    kept = tuple(Variable(name=each, kind="depth_map", value=0) for each in variables)
    return ToolResult(call_id="1", name=call.name, status="ok", held=held, variables=kept)


def turn(call: ToolCall, result: ToolResult) -> Turn:
    return Turn(completion=Completion(text=""), calls=(call,), results=(result,))


def trajectory(*turns: Turn, accuracy: float = 1.0, well_formed: bool = True) -> Trajectory:
    question = Question(id="q", source="s", kind="number", messages=(), images=(), target=1.0)
    reward = Reward(value=accuracy, accuracy=accuracy, well_formed=well_formed, answer="1")
    return Trajectory(
        question=question,
        sample_index=3,
        seed=0,
        turns=turns,
        messages=(),
        stop_reason=StopReason.ANSWERED,
        reward=reward,
    )


FOUND = Detections(obj_name="cup", points=(Point(u=0.4, v=0.61),))
LOOK = turn(asked(DEPTH, image_index=0), answered(asked(DEPTH), None, "depth_map"))
AIM = turn(asked(POINT, obj_name="cup"), answered(asked(POINT), FOUND))


def test_a_chain_is_a_variable_or_a_point_of_another_tool() -> None:
    def read(**arguments: Json) -> Turn:
        return turn(asked(INDEX, **arguments), answered(asked(INDEX)))

    by_variable = read(data="$depth_map", u=0.1, v=0.1)
    by_point = read(data="$other", u=0.4, v=0.6)
    in_list = read(data="x", points=[[0.4, 0.6]])
    assert chain_of(trajectory(LOOK, by_variable)) == f"{DEPTH} -> {INDEX}"
    assert chain_of(trajectory(AIM, by_point)) == f"{POINT} -> {INDEX}"
    assert chain_of(trajectory(AIM, in_list)) == f"{POINT} -> {INDEX}"
    assert chain_of(trajectory(LOOK, AIM)) == ""
    assert chain_of(trajectory(AIM, read(data="$other", u=0.9, v=0.6))) == ""
    assert chain_of(trajectory(by_variable, LOOK)) == ""
    refused = replace(by_variable.results[0], status="refused", reason="no_value")
    assert chain_of(trajectory(LOOK, replace(by_variable, results=(refused,)))) == ""
    # Numbers that are no coordinates of a place.
    add = turn(asked("calculator.add", a=0.4, b=0.6), answered(asked("calculator.add")))
    assert chain_of(trajectory(AIM, add)) == ""
    again = turn(AIM.calls[0], answered(asked(POINT), FOUND))
    assert chain_of(trajectory(AIM, again)) == ""


def test_what_is_seen_of_a_trajectory() -> None:
    bad = ToolResult(call_id="1", name=POINT, status="refused", reason="missing_argument")
    empty = replace(bad, reason="not_found")
    error = CallError(reason="malformed", text="", start=0, end=1)
    turns = (
        replace(turn(asked(POINT), bad), errors=(error,)),
        turn(asked(POINT), empty),
        LOOK,
    )
    found = seen_of(trajectory(*turns, accuracy=0.4, well_formed=False), 7, 0.5)
    assert found is not None and (found.question, found.sample, found.is_right) == (7, 3, False)
    assert found.num_valid == 2 and found.invalid == ("malformed", "missing_argument")
    assert found.fault == "unreadable call"
    cut = replace(trajectory(well_formed=False), stop_reason=StopReason.MAX_TURNS)
    assert (told := seen_of(cut, 1, 0.5)) and told.fault == "cut by max_turns"
    assert seen_of(replace(cut, reward=None), 1, 0.5) is None


@pytest.mark.parametrize(
    ("kind", "accuracy", "right", "is_right"),
    [
        ("pose", 0.31, 0.0, True),
        ("pose", 0.3, 0.0, False),
        ("pose", 0.31, 0.5, False),
        ("number", 0.5, 0.0, False),
        ("number", 1.0, 1.0, True),
    ],
)
def test_right_is_above_the_threshold_of_its_kind(
    kind: str, accuracy: float, right: float, is_right: bool
) -> None:
    made = trajectory(accuracy=accuracy)
    made = replace(made, question=replace(made.question, kind=kind))
    assert (found := seen_of(made, 1, right)) and found.is_right == is_right


@pytest.mark.parametrize("file", ["arguments.py", "references.py", "limits.py"])
def test_every_refusal_of_what_was_written_is_an_invalid_call(file: str) -> None:
    text = (ROOT / "toolshed" / file).read_text()
    reasons = set(re.findall(r'ToolRefusal\(\s*"([a-z_]+)"', text))
    assert reasons
    for reason in reasons:
        result = ToolResult(call_id="1", name=POINT, status="refused", reason=reason)
        assert is_invalid(result), reason


# ---- intervals ----------------------------------------------------------------------------------


def test_siblings_count_as_one_where_they_agree() -> None:
    assert independent([[True] * 4, [False] * 4]) == pytest.approx(2)
    assert independent([[True], [False], [True]]) == 3
    assert independent([[True, False]] * 5) == 10
    assert independent([[True] * 8] * 6) == 6
    assert independent([[], []]) == 0 and wilson(0.5, 0) == (0.0, 1.0)


def test_the_table_fits_80_columns_and_says_what_is_missing() -> None:
    played = groups(64, 8)
    played[0] = [replace(each, fault="answer in another form") for each in played[0]]
    lines = table(judge(played, BARS, DEMO))
    assert max(map(len, lines)) <= WIDTH
    assert any(line.startswith("format") and line.endswith("FAIL") for line in lines)
    assert any("step 1 sample 0" in line for line in lines)
