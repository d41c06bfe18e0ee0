"""rl.gate as a command: a random checkpoint fails honestly, broken machinery is nobody's mistake, a
run's config says how to play, and bad input is one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rl.config import QuestionsConfig
from rl.gate import drawn, gate, main, prepare
from rl.questions.data import load_questions
from rl.start.gate_config import GateConfig, config_of
from rl.start.gates import (
    BarsConfig,
)
from rl.tabletop.dataset import Order, write_dataset
from rl.types import Question, Reward, Trajectory
from rl.view import main as view
from sft.config import ToolsConfig
from toolshed.errors import ConfigError, ToolFailure
from toolshed.shed import Toolshed

ROOT = Path(__file__).resolve().parents[2]


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
