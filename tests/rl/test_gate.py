"""Gates before RL: each fails and barely passes on hand-made trajectories, and a random checkpoint
fails honestly; broken machinery is nobody's mistake; bad input is one sentence."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rl.config import QuestionsConfig
from rl.figures.intervals import independent, wilson
from rl.gate import drawn, gate, main, prepare
from rl.questions.data import load_questions
from rl.show.verdicts import WIDTH, table
from rl.start.gate_config import GateConfig, config_of
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
from rl.tabletop.dataset import Order, write_dataset
from rl.types import Completion, Question, Reward, StopReason, Trajectory, Turn
from rl.view import main as view
from sft.config import ToolsConfig
from toolshed.errors import ConfigError, ToolFailure
from toolshed.shed import Toolshed
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


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gate") / "questions.parquet"
    write_dataset(out, Order(kinds=("point", "depth"), num=4, seed=31))
    return out


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gate_tools") / "tools.yaml"
    kept = yaml.safe_load((ROOT / "configs" / "tools" / "demo.yaml").read_text())
    path.write_text(yaml.safe_dump(kept | {"host": "local"}))
    return path


SMALL = ["questions=3", "samples=2", "max_turns=2", "max_tokens=40", "max_turn_tokens=16"]


def test_a_random_checkpoint_fails_honestly_and_is_kept_as_a_run(
    tiny: Path,
    data: Path,
    tools: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = []
    for name in ("first", "second"):
        words = [str(tiny), str(data), *SMALL, f"tools.config={tools}", f"out={tmp_path / name}"]
        assert main([*words, "--json"]) == 1
        told = json.loads(capsys.readouterr().out)
        assert told["trajectories"] == 6 and told["of_questions"] == 8 and not told["passed"]
        by_name = {each["gate"]: each for each in told["gates"]}
        assert by_name["format"]["result"] == "FAIL" and by_name["format"]["figure"] == 0
        assert by_name["format"]["examples"][0] == {"step": 1, "sample": 0}
        lines = (tmp_path / name / "trajectories.jsonl").read_text().split("\n")[:-1]
        kept.append([json.loads(line)["token_ids"] for line in lines])
    assert kept[0] == kept[1] and len(kept[0]) == 6
    assert view([str(tmp_path / "first"), "--step", "2"]) == 0
    assert "2 of 6 trajectories" in capsys.readouterr().out
    assert main(words) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*words, "--force", "--dry-run"]) == 0
    assert "would play 6 trajectories" in capsys.readouterr().out
    assert main([*words, "--force"]) == 1
    out = capsys.readouterr().out
    assert "gates failed" in out and f"rl.view {tmp_path / 'second'} --step 1" in out


def test_broken_tools_are_an_error_and_nobodys_mistake(
    tiny: Path, data: Path, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rl import gate as module

    def broken(made: Trajectory) -> bool:
        return made.sample_index == 1

    def scored(question: Question, made: Trajectory, rule: object) -> Reward | None:
        return None if broken(made) else Reward(value=1, accuracy=1, well_formed=True, answer="")

    monkeypatch.setattr(module, "score", scored)
    for share, works in ((0.5, True), (0.4, False)):
        config = config_of(
            [str(data), *SMALL, f"tools.config={tools}", f"max_failure_share={share}"], "gate"
        )
        out = tmp_path / str(share)
        ready = prepare(str(tiny), replace(config, out=str(out)))
        with Toolshed.open(tools) as shed:
            if works:
                gated = gate(ready, shed)
                assert (gated.num_broken, gated.num_scored, gated.accuracy) == (3, 3, 1.0)
                assert gated.verdicts[0].figure == 1.0
            else:
                with pytest.raises(ToolFailure, match="of 6 trajectories failed"):
                    gate(ready, shed)
                assert not out.exists() and not list(tmp_path.glob(".*"))


def test_a_runs_config_says_how_to_play(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "defaults: [schema, _self_]\n"
        f"data: [{{path: {data}, weight: 2.0}}]\n"
        "tools: {config: demo}\nreward: {correct: 0.9, format: 0.1}\ngroup_size: 5\nseed: 9\n"
    )
    config = config_of([str(path), "questions=7", "reward.point=binary"], "gate")
    assert config.data == [QuestionsConfig(path=str(data), weight=2.0)]
    assert (config.samples, config.questions, config.seed) == (5, 7, 1)
    assert (config.reward.format, config.reward.point) == (0.1, "binary")
    published = config_of(["v1"], "gate")
    assert published.samples == 5 and published.max_tokens == 8192 and published.max_turns == 8
    assert published.tools.config == "v1" and published.max_reply_chars == 2048
    assert config_of([str(data)], "gate").data == [QuestionsConfig(path=str(data))]


def test_questions_are_drawn_by_weight(data: Path) -> None:
    every = load_questions(data)
    first = drawn([every[:4], every[4:]], [1.0, 3.0], 4, 1)
    assert [each in every[4:] for each in first] == [False, True, True, True]
    assert first == drawn([every[:4], every[4:]], [1.0, 3.0], 4, 1)
    assert drawn([every], [1.0], 0, 1) == every
    assert len(drawn([every], [1.0], 100, 1)) == 8


def test_impossible_wishes_are_one_sentence(tiny: Path, data: Path, tmp_path: Path) -> None:
    for wrong, words in (
        ({"samples": 1}, "samples=1 must be 2 or more"),
        ({"right": 1.5}, r"right=1\.5 must lie in \[0, 1\]"),
        ({"questions": -1}, "questions=-1"),
    ):
        with pytest.raises(ConfigError, match=words):
            GateConfig(**wrong)
    with pytest.raises(ConfigError, match=r"bars\.spread=1\.5 is a share"):
        BarsConfig(spread=1.5)
    with pytest.raises(ConfigError, match="no questions"):
        prepare(str(tiny), GateConfig())
    with pytest.raises(ConfigError, match="both name questions"):
        config_of([str(data), f"data=[{{path: {data}}}]"], "gate")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    config = GateConfig(
        data=[QuestionsConfig(path=str(data))],
        tools=ToolsConfig(config="demo"),
        out=str(tmp_path / "run"),
    )
    with pytest.raises(ConfigError, match="is a run, not a gating"):
        prepare(str(tiny), config, force=True)
    kept = tmp_path / "kept.yaml"
    kept.write_text("steps: 3\n")
    with pytest.raises(ConfigError, match="defaults"):
        config_of([str(kept)], "gate")
