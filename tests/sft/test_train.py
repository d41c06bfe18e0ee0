"""SFT runs: what they leave behind, the gate, another schema, going on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sft.checkpoint import SCHEMA_FILE, check_schema, resolve_checkpoint
from sft.config import LearnerConfig, OptimConfig, ShowConfig, ToolsConfig
from sft.data import DataConfig, SourceConfig
from sft.run_dir import RunDir
from sft.train import GateConfig, SFTConfig, main, train
from tests.sft.limits import largest_file
from toolshed.errors import ConfigError
from toolshed.toolset import ToolSet

HASHES = [ToolSet.named("demo").schema_hash, ToolSet.named("point").schema_hash]


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> SFTConfig:
    rows = [
        {
            "conversations": [
                {"from": "human", "value": f"Say {i}."},
                {"from": "gpt", "value": f"<answer>{i}</answer>"},
            ],
            "system": "Answer the question.",
        }
        for i in range(6)
    ]
    (tmp_path / "drills.json").write_text(json.dumps(rows))
    return SFTConfig(
        model=str(tiny),
        out=str(tmp_path / "run"),
        sources=[SourceConfig(path=str(tmp_path / "drills.json"), batch_size=2)],
        data=DataConfig(cache=str(tmp_path / "cache")),
        tools=ToolsConfig(config="demo"),
        steps=4,
        save_every=2,
        learner=LearnerConfig(optim=OptimConfig(lr=1e-3)),
        show=ShowConfig(tensorboard=False),
    )


def lines(config: SFTConfig) -> list[dict[str, float]]:
    text = (Path(config.out) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_run_leaves_metrics_config_and_a_checkpoint_that_knows_its_tools(
    config: SFTConfig,
) -> None:
    final = train(config)
    assert [line["step"] for line in lines(config)] == [1, 2, 3, 4]
    assert lines(config)[3]["loss"] < lines(config)[0]["loss"]
    assert {"source", "loss", "tokens", "grad_norm", "lr", "step_s"} <= set(lines(config)[0])
    assert json.loads((final / SCHEMA_FILE).read_text())["hash"] == HASHES[0]
    assert resolve_checkpoint(config.out) == final
    assert "steps: 4" in (Path(config.out) / "config.yaml").read_text()


def test_starting_a_finished_run_again_changes_nothing(config: SFTConfig) -> None:
    train(config)
    before = lines(config)
    train(config)
    assert lines(config) == before


def test_another_config_in_the_same_folder_is_refused(config: SFTConfig) -> None:
    train(config)
    with pytest.raises(ConfigError, match="another out="):
        train(replace(config, seed=2))


def test_a_missed_gate_extends_the_run_once_and_says_so(config: SFTConfig) -> None:
    gated = replace(config, gate=GateConfig(source="drills", last=2, loss=1e-6, extra_steps=3))
    train(gated)
    assert [line["step"] for line in lines(gated)] == [1, 2, 3, 4, 5, 6, 7]
    told = json.loads((Path(gated.out) / "gate.json").read_text())
    assert told["reached_first"] is False and told["reached"] is False and told["bar"] == 1e-6
    mean = (lines(gated)[-1]["loss"] + lines(gated)[-2]["loss"]) / 2
    assert told["loss"] == pytest.approx(mean)
    before = lines(gated)
    train(gated)
    assert lines(gated) == before


def test_a_reached_gate_ends_the_run(config: SFTConfig) -> None:
    gated = replace(config, gate=GateConfig(source="drills", last=2, loss=100.0))
    train(gated)
    assert len(lines(gated)) == 4
    assert json.loads((Path(gated.out) / "gate.json").read_text())["reached_first"] is True


def test_a_checkpoint_of_other_tools_is_refused_with_both_hashes(
    config: SFTConfig, tmp_path: Path
) -> None:
    train(config)
    second = replace(
        config, model=config.out, out=str(tmp_path / "second"), tools=ToolsConfig(config="point")
    )
    with pytest.raises(
        ConfigError, match=f"{HASHES[0][:12]}, .* {HASHES[1][:12]}; .* tools.schema="
    ):
        train(second)
    final = train(replace(second, tools=replace(second.tools, schema="any")))
    assert json.loads((final / SCHEMA_FILE).read_text())["hash"] == HASHES[1]


def test_a_checkpoint_of_unknown_tools_is_taken_with_one_warning(
    config: SFTConfig, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config)
    assert capsys.readouterr().err.count("does not say which tool schema") == 1
    assert check_schema(tiny, HASHES[0], "same")
    with pytest.raises(ConfigError, match="neither same nor any"):
        check_schema(tiny, HASHES[0], "maybe")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sources": []}, "no data: give sources"),
        ({"model": "nowhere"}, "nowhere is no checkpoint"),
        ({"tools": ToolsConfig(config="dem")}, "demo"),
        ({"tools": ToolsConfig(config="demo", show=["roborefer.detect"])}, "detect_one"),
        ({"sources": [SourceConfig(path="none.json")]}, "none.json do not exist"),
        ({"gate": GateConfig(source="copies")}, "gate.source='copies' .* drills"),
        ({"steps": 0}, "steps=0"),
        ({"save_every": 0}, "save_every=0"),
        ({"out": ""}, "out="),
        ({"model": ""}, "no checkpoint given"),
        ({"device": "gpu"}, "device='gpu' is none of cpu, cuda"),
        ({"device": "cuda:99"}, "torch finds . CUDA devices; give device=cpu"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_input_stops_before_any_work(
    config: SFTConfig, change: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        train(replace(config, **change))  # type: ignore[arg-type]
    assert not Path(config.out).exists()


def test_another_folder_is_not_filled(config: SFTConfig, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="holds other files and no run"):
        train(replace(config, out=str(tmp_path)))
    assert sorted(tmp_path.iterdir()) == before


def test_an_interrupted_run_says_where_it_goes_on(
    config: SFTConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = RunDir.save_checkpoint

    def interrupted(self: RunDir, step: int, write: Callable[[Path], None]) -> Path:
        done(self, step, write)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDir, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt, match="goes on from step 2, the last checkpoint"):
        train(config)
    monkeypatch.undo()
    assert train(config).exists()


def test_a_full_disk_leaves_no_half_checkpoint(config: SFTConfig) -> None:
    with largest_file(100_000), pytest.raises(OSError, match="too large") as told:
        train(config)
    run = Path(config.out)
    assert told.value.filename == str(run / "global_step_2") and not list(run.glob("*global*"))
    assert train(config).exists()


def test_a_sample_beyond_the_micro_batch_is_told_once(
    config: SFTConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train(replace(config, learner=replace(config.learner, micro_tokens=10)))
    assert capsys.readouterr().err.count("more than the 10 of a micro-batch") == 1


def test_an_unknown_schedule_or_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="none of constant, cosine, linear"):
        OptimConfig(schedule="steps")
    with pytest.raises(ConfigError, match="lr=0"):
        OptimConfig(lr=0)


def test_the_command_line_says_what_is_wrong_and_ends_with_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["demo", "step=3"]) == 2
    assert "did you mean steps?" in capsys.readouterr().err
    assert main(["dem"]) == 2
    assert "did you mean demo?" in capsys.readouterr().err
    assert main(["demo", "sources=[{path: none.json}]", "model=nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
