"""Evaluation from questions to rows, and the command around it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from eval.benchmarks import BENCHMARKS, benchmark_named, data_file, load_benchmark, origin_of
from eval.config import FREE_KEYS, EvalConfig, check_same_settings
from eval.evaluate import Asked, Asking, evaluate, player_of, task_of
from eval.identity import question_identity
from eval.rows import EvalRow, read_rows
from eval.run import main
from rl.data import write_questions
from rl.policy.base import Prompt
from rl.policy.scripted import ScriptedPolicy
from rl.rewards import DEMO_RULE, KINDS
from rl.rollout import Player
from rl.tabletop import Order, make_questions
from rl.teacher import teach
from rl.types import Question
from sft.config import load_config, to_yaml
from toolshed.errors import ConfigError, ToolFailure
from toolshed.hosting import Answer, Request
from toolshed.images import load_image
from toolshed.shed import Toolshed


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    folder = tmp_path_factory.mktemp("questions")
    return make_questions(Order(kinds=("point", "leftmost"), num=4, seed=900), folder, name="q")


def player_with(script: Callable[[Prompt], str], shed: Toolshed | None = None) -> Player:
    return Player(policy=ScriptedPolicy(script), renderer=None, shed=shed)


def play(
    questions: list[Question], out: Path, player: Player, *, draws: int = 0, policy: str = "script"
) -> list[EvalRow]:
    asking = Asking(temperature=1.0 if draws else 0.0, draws=draws or 1, rule=DEMO_RULE, width=4)
    return asyncio.run(evaluate(questions, player, Asked(out=out, policy=policy), asking))


def silent(prompt: Prompt) -> str:
    return "<answer>nothing</answer>"


def test_the_teacher_is_right_and_its_rows_tell_all(
    questions: list[Question], tmp_path: Path
) -> None:
    with Toolshed.open("demo", host="local") as shed:
        rows = play(questions, tmp_path / "rows" / "teacher.jsonl", player_with(teach, shed))
    assert len(rows) == 8
    assert {row.task for row in rows} == {"point", "leftmost"}
    assert sum(row.score or 0 for row in rows) >= 7
    assert all(row.schema_hash == shed.schema_hash and row.draw == "greedy" for row in rows)
    row = next(row for row in rows if row.task == "leftmost")
    assert [call.status for turn in row.episode.turns for call in turn.calls] == ["ok"] * 3
    assert [
        call.drawing.shape for turn in row.episode.turns for call in turn.calls if call.drawing
    ] == [
        "points",
        "depth",
        "value",
    ]
    assert row.reward == pytest.approx(0.9 * (row.score or 0) + 0.1)
    assert read_rows(tmp_path / "rows" / "teacher.jsonl") == rows


def test_resume_asks_only_what_is_missing(questions: list[Question], tmp_path: Path) -> None:
    asked: list[str] = []

    def script(prompt: Prompt) -> str:
        asked.append(prompt.question.id)
        return "<answer>x</answer>"

    out = tmp_path / "rows.jsonl"
    play(questions[:3], out, player_with(script))
    assert len(asked) == 3
    content = out.read_bytes()
    out.write_bytes(content[:-40])
    rows = play(questions, out, player_with(script))
    assert sorted(asked[3:]) == sorted(
        {q.id for q in questions} - {row.question_id for row in rows[:2]}
    )
    assert len(rows) == len({row.key for row in rows}) == 8
    play(questions, out, player_with(script))
    assert len(asked) == 3 + 6


def test_draws_have_their_own_seeds(questions: list[Question], tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    play(questions[:2], out, player_with(silent))
    rows = play(questions[:2], out, player_with(silent), draws=3)
    assert sorted(str(row.draw) for row in rows) == ["0", "0", "1", "1", "2", "2"]
    assert len({row.seed for row in read_rows(out)}) == 8


def test_another_policy_is_refused(questions: list[Question], tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    play(questions[:1], out, player_with(silent))
    with pytest.raises(ConfigError, match="holds the answers of script"):
        play(questions[:1], out, player_with(silent), policy="other")


def test_other_tools_are_refused(questions: list[Question], tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    play(questions[:1], out, player_with(silent))
    with (
        Toolshed.open("demo", host="local") as shed,
        pytest.raises(ConfigError, match="tool schema"),
    ):
        play(questions[:1], out, player_with(silent, shed))


def test_another_question_of_the_same_id_is_refused(
    questions: list[Question], tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    (row,) = play(questions[:1], out, player_with(silent))
    assert row.question_hash == question_identity(questions[0])
    kept = out.read_bytes()
    first, second = questions[0], questions[1]
    for other in (
        replace(first, target="another mask"),
        replace(first, messages=second.messages[:1] + first.messages[1:] + second.messages[1:]),
        replace(first, images=next(q.images for q in questions if q.images != first.images)),
    ):
        with pytest.raises(ConfigError, match=f"answers another question {first.id}"):
            play([other], out, player_with(silent))
    assert out.read_bytes() == kept


class _BrokenHost:
    """A host whose machinery breaks on every call."""

    async def call(self, request: Request) -> Answer:
        from toolshed.errors import ToolFailure

        raise ToolFailure("timeout", "no reply in 30 s")

    async def aclose(self) -> None: ...

    def close(self) -> None: ...


def test_broken_tools_are_recorded_not_scored_and_asked_again(
    questions: list[Question], tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    with Toolshed.open("demo", host="local") as shed:
        broken = Toolshed(shed.config, shed.tools, _BrokenHost())
        with pytest.raises(ToolFailure, match=r"4 of 4 episodes broke.*no reply in 30 s"):
            play(questions[:4], out, player_with(teach, broken))
        rows = read_rows(out)
        assert [row.score for row in rows] == [None] * 4
        assert {row.stop_reason for row in rows} == {"tool_failure"}
        assert "timeout" in rows[0].failure
        again = play(questions[:4], out, player_with(teach, shed))
    assert [row.failed for row in again] == [False] * 4
    assert len(out.read_text().splitlines()) == 8


def test_a_few_failures_in_a_small_evaluation_pass(
    questions: list[Question], tmp_path: Path
) -> None:
    """One question of eight calls a tool that breaks; an eighth is less than a fifth."""

    def script(prompt: Prompt) -> str:
        return teach(prompt) if prompt.question.id == questions[0].id else silent(prompt)

    with Toolshed.open("demo", host="local") as shed:
        broken = Toolshed(shed.config, shed.tools, _BrokenHost())
        rows = play(questions, tmp_path / "rows.jsonl", player_with(script, broken))
    assert sum(row.failed for row in rows) == 1


def test_too_many_failures_stop_the_run(questions: list[Question], tmp_path: Path) -> None:
    many = [replace(questions[0], id=f"many/{number}") for number in range(40)]
    with Toolshed.open("demo", host="local") as shed:
        broken = Toolshed(shed.config, shed.tools, _BrokenHost())
        with pytest.raises(ToolFailure, match="20 of 20 episodes broke"):
            play(many, tmp_path / "rows.jsonl", player_with(teach, broken))
    assert len(read_rows(tmp_path / "rows.jsonl")) == 20


def test_the_swapped_picture_reaches_the_policy_and_not_the_tools(
    questions: list[Question], tmp_path: Path
) -> None:
    seen: list[str] = []

    def script(prompt: Prompt) -> str:
        seen.append(prompt.images[0].sha256)
        return teach(prompt)

    pictures = {q.id: load_image(questions[i - 1].images[0]) for i, q in enumerate(questions)}
    asked = Asked(out=tmp_path / "rows" / "s.jsonl", policy="p", prompt_pictures=pictures)
    point = [q for q in questions if q.source == "tabletop-point"]
    with Toolshed.open("demo", host="local") as shed:
        rows = asyncio.run(
            evaluate(point, player_with(script, shed), asked, Asking(rule=DEMO_RULE))
        )
    assert set(seen) == {pictures[q.id].sha256 for q in point}
    assert sum(row.score or 0 for row in rows) >= 3
    episode = rows[0].episode
    assert episode.prompt_picture is not None
    assert episode.prompt_picture.sha256 == pictures[rows[0].question_id].sha256
    assert episode.pictures[0].sha256 != episode.prompt_picture.sha256
    assert list((tmp_path / "pictures").iterdir())


# ---- benchmarks -------------------------------------------------------------------------------


def test_the_nine_published_sets_are_there() -> None:
    published = {key: entry.size for key, entry in BENCHMARKS.items() if entry.repository}
    assert sum(published.values()) == 2121
    assert len(published) == 9
    assert all(set(entry.kinds) <= KINDS.keys() for entry in BENCHMARKS.values())


def test_unknown_benchmark_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean robospatial"):
        benchmark_named("robospatal")


def test_a_published_set_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"spacetools-eval-benchmarks.*data=FOLDER"):
        data_file("blinkdepth", None)
    with pytest.raises(ConfigError, match=r"holds no blinkdepth\.parquet"):
        data_file("blinkdepth", tmp_path)


def test_a_local_parquet_is_evaluated(questions: list[Question], tmp_path: Path) -> None:
    point = [replace(q, source="refspatial") for q in questions if q.source == "tabletop-point"]
    write_questions(tmp_path / "data" / "reflocation.parquet", point)
    loaded = load_benchmark("reflocation", tmp_path, tmp_path / "made")
    assert len(loaded) == 4
    rows = asyncio.run(
        evaluate(
            loaded,
            player_with(silent),
            Asked(out=tmp_path / "r.jsonl", policy="p", benchmark="reflocation"),
            Asking(),
        )
    )
    assert {(row.benchmark, row.task, row.score) for row in rows} == {
        ("reflocation", "reflocation", 0.0)
    }
    with pytest.raises(ConfigError, match="another benchmark's file"):
        write_questions(tmp_path / "bopgrasp.parquet", point)
        load_benchmark("bopgrasp", tmp_path, tmp_path / "made")


def test_a_limit_is_a_random_part_and_stays(questions: list[Question], tmp_path: Path) -> None:
    point = [q for q in questions if q.source == "tabletop-point"] * 5
    write_questions(tmp_path / "tabletop-point.parquet", point)
    parts = [
        [q.id for q in load_benchmark("tabletop-point", tmp_path, tmp_path, limit=6, seed=seed)]
        for seed in (0, 0, 1)
    ]
    assert parts[0] == parts[1] != parts[2]
    assert len(set(parts[0])) == 6


def test_robospatial_is_told_in_two_parts(questions: list[Question]) -> None:
    yesno = replace(questions[0], source="robospatial", kind="yesno")
    assert task_of(yesno, "robospatial") == "robospatial-vqa"
    assert task_of(replace(yesno, kind="point_free"), "robospatial") == "robospatial-vacant"


def test_the_plan_says_that_a_folder_lacks_a_tabletop_set(
    questions: list[Question], tmp_path: Path
) -> None:
    assert origin_of("tabletop-point", None) == "the tabletop, made on demand"
    told = origin_of("tabletop-point", tmp_path)
    assert told == f"the tabletop, made on demand ({tmp_path} holds no tabletop-point.parquet)"
    write_questions(tmp_path / "tabletop-point.parquet", questions)
    assert origin_of("tabletop-point", tmp_path) == str(tmp_path / "tabletop-point.parquet")


# ---- settings of a folder ---------------------------------------------------------------------

OTHER = {
    "tools.config": "light",
    "tools.show": "[roborefer.detect_one]",
    "temperature": "0.5",
    "seed": "3",
    "reward": "demo",
    "max_turns": "3",
    "max_calls": "2",
    "max_tokens": "100",
    "max_turn_tokens": "30",
    "max_length": "300",
    "device": "cuda",
    "dtype": "bfloat16",
}
FREE = {
    "schema": "any",
    "data": "somewhere",
    "out": "elsewhere",
    "limit": "3",
    "greedy": "false",
    "draws": "4",
    "width": "2",
    "threads": "2",
    "max_failures": "0.5",
    "keep_pictures": "0",
}


def config_of(key: str, value: str) -> EvalConfig:
    """The defaults and one word."""
    blank = Path(__file__).parents[2] / "configs" / "rl" / "collect.yaml"
    return load_config(EvalConfig, "eval", str(blank), [f"{key}={value}"])


@pytest.fixture
def asked_before(tmp_path: Path) -> Path:
    """A folder with a row that was asked with the defaults."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "tabletop-point.jsonl").write_text("a row\n")
    (tmp_path / "config.yaml").write_text(to_yaml(EvalConfig()))
    return tmp_path


def test_every_key_is_either_free_or_not() -> None:
    from dataclasses import fields

    assert set(FREE) == set(FREE_KEYS)
    keys = {key.partition(".")[0] for key in (*OTHER, *FREE)}
    assert keys == {field.name for field in fields(EvalConfig)}


@pytest.mark.parametrize("key", OTHER)
def test_a_folder_of_other_settings_is_refused(asked_before: Path, key: str) -> None:
    other = config_of(key, OTHER[key])
    with pytest.raises(ConfigError, match=rf"{key}=.* there, {key}=.* now.*another out="):
        check_same_settings(asked_before, other)


@pytest.mark.parametrize("key", FREE)
def test_settings_that_change_no_answer_may_differ(asked_before: Path, key: str) -> None:
    check_same_settings(asked_before, config_of(key, FREE[key]))


def test_a_folder_without_rows_binds_nobody(asked_before: Path) -> None:
    (asked_before / "rows" / "tabletop-point.jsonl").write_text("")
    check_same_settings(asked_before, config_of("seed", "3"))


def test_rows_of_unknown_settings_are_refused(asked_before: Path) -> None:
    (asked_before / "config.yaml").write_text("- no\n- mapping\n")
    with pytest.raises(ConfigError, match=r"no config of eval\.run"):
        check_same_settings(asked_before, EvalConfig())
    (asked_before / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"no config\.yaml"):
        check_same_settings(asked_before, EvalConfig())


def test_keys_newer_than_the_folder_count_as_their_defaults(asked_before: Path) -> None:
    text = to_yaml(EvalConfig())
    (asked_before / "config.yaml").write_text(text.replace("max_calls: 8\n", ""))
    check_same_settings(asked_before, EvalConfig())
    with pytest.raises(ConfigError, match="max_calls=8 there, max_calls=2 now"):
        check_same_settings(asked_before, config_of("max_calls", "2"))


# ---- command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from rl.tiny import make_random
    from toolshed.toolset import ToolSet

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    make_random(folder, [ToolSet.named("demo").specs], seed=1)
    return folder


def test_the_command_evaluates_a_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [
        str(checkpoint), "tabletop-point", "tabletop-depth", "--limit", "3", f"out={out}",
        "tools.config=none", "draws=1", "width=8",
    ]  # fmt: skip
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "point" in told
    assert (out / "report.html").is_file()
    assert (out / "config.yaml").is_file()
    lines = (out / "rows" / "tabletop-point.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert json.loads(lines[0])["policy"].startswith("tiny ")
    assert main(words) == 0
    assert (out / "rows" / "tabletop-point.jsonl").read_text().splitlines() == lines
    kept = (out / "config.yaml").read_text()
    assert main([*words, "temperature=0.5"]) == 2
    assert "temperature=1.0 there, temperature=0.5 now" in capsys.readouterr().err
    assert main([*words, "width=4", "--check"]) == 0
    assert (out / "config.yaml").read_text() == kept
    assert (out / "rows" / "tabletop-point.jsonl").read_text().splitlines() == lines


def test_another_data_folder_is_no_answer(
    questions: list[Question],
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    point = [q for q in questions if q.source == "tabletop-point"]
    write_questions(tmp_path / "a" / "tabletop-point.parquet", point[:2])
    write_questions(tmp_path / "b" / "tabletop-point.parquet", point[2:])
    words = [str(checkpoint), "tabletop-point", f"out={tmp_path / 'out'}", "tools.config=none"]
    assert main([*words, f"data={tmp_path / 'a'}"]) == 0
    rows = (tmp_path / "out" / "rows" / "tabletop-point.jsonl").read_bytes()
    assert main([*words, f"data={tmp_path / 'b'}"]) == 2
    assert "answers another question tabletop-point/0" in capsys.readouterr().err
    assert (tmp_path / "out" / "rows" / "tabletop-point.jsonl").read_bytes() == rows


def test_threads_are_set_where_the_model_is_loaded(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    player_of(EvalConfig(width=1, max_length=64, threads=3), checkpoint, None)
    assert asked == [3]
    with pytest.raises(ConfigError, match="threads=0 must be above 0"):
        EvalConfig(threads=0)


def test_depth_that_the_tools_do_not_show_is_not_asked_for(
    questions: list[Question], checkpoint: Path, tmp_path: Path
) -> None:
    point = [q for q in questions if q.source == "tabletop-point"][:1]
    flat = [replace(q, images=(replace(q.images[0], depth=None),)) for q in point]
    write_questions(tmp_path / "tabletop-point.parquet", flat)
    words = [str(checkpoint), "tabletop-point", f"data={tmp_path}", "schema=any", "max_length=600"]
    assert main([*words, f"out={tmp_path / 'all'}"]) == 2
    shown = [*words, f"out={tmp_path / 'one'}", "tools.show=[roborefer.detect_one]"]
    assert main([*shown, "tools.config=light"]) == 0


def test_check_loads_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(checkpoint), "tabletop-point", f"out={out}", "--check"]) == 0
    assert "256 questions x 1, 0 answers there" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tabletop-pint"], "did you mean tabletop-point"),
        (["tabletop-point", "witdh=3"], "did you mean width"),
        (["blinkdepth", "tools.config=none"], "data=FOLDER"),
        ([], "no benchmark given"),
        (["tabletop-point", "greedy=false"], "ask nothing"),
        (["tabletop-point", "reward=best"], "none of default, demo"),
        (["tabletop-point", "tools.config=dmeo"], "demo"),
    ],
)
def test_bad_words_stop_before_any_work(
    checkpoint: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), *words]) == 2
    assert told in capsys.readouterr().err


def test_a_missing_checkpoint_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), "tabletop-point"]) == 2
    assert "is no checkpoint" in capsys.readouterr().err
