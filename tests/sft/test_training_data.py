"""What a run learns from: mixtures of files, rows held out, the hub, and a resume."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.config import LearnerConfig, OptimConfig, ShowConfig, ToolsConfig
from sft.data import DataConfig, SourceConfig, to_sample
from sft.render import Renderer
from sft.run_dir import RunDir
from sft.sources import files_of
from sft.train import GateConfig, SFTConfig, main, train
from sft.training_data import DATA_FILE, load_training_data
from sft.transcript import Transcript
from tests.hub_server import Hub, serving
from tests.sft.test_index import picture, row
from toolshed.chat import system_prompt
from toolshed.errors import ConfigError
from toolshed.toolset import ToolSet


def sayings(name: str, num: int) -> list[dict[str, Any]]:
    return [
        {
            "conversations": [
                {"from": "human", "value": f"Say {name} {i}."},
                {"from": "gpt", "value": f"<answer>{name} {i}</answer>"},
            ],
            "task_id": f"{name}{i}",
        }
        for i in range(num)
    ]


@pytest.fixture
def sources(tmp_path: Path) -> list[SourceConfig]:
    for name, num in (("a", 10), ("b", 5), ("c", 20)):
        (tmp_path / f"{name}.json").write_text(json.dumps(sayings(name, num)))
    return [SourceConfig(path=str(tmp_path / f"{name}.json")) for name in "abc"]


def data(tmp_path: Path, **more: Any) -> DataConfig:
    return DataConfig(cache=str(tmp_path / "cache"), **more)


def ids(batch: list[Transcript]) -> list[str]:
    return [transcript.id for transcript in batch]


def test_a_mixture_names_sources_and_files(sources: list[SourceConfig], tmp_path: Path) -> None:
    config = data(tmp_path, mixture=f"b*3+{tmp_path}/c.json@0.2+a", batch=4, epochs=2)
    found = load_training_data(sources[:2], config, 1, "")
    assert found.epoch_rows() == 15 + 4 + 10 and found.steps(7) == 15
    batches = found.batches(0)
    first = [ids(next(batches)[1]) for _ in range(15)]
    assert first[9:] == [ids(batch) for _, batch in itertools.islice(found.batches(9), 6)]
    drawn = [each for batch in first for each in batch][:29]
    assert drawn.count("b0") == 3 and drawn.count("a0") == 1
    assert sum(each.startswith("c") for each in drawn) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mixture": "a+d"}, "'d' in data.mixture is none of the sources .* and no file"),
        ({"mixture": "a+a*2"}, "'a' twice"),
        ({"eval_rows": 100}, "all 10 rows of a are held out"),
        ({"eval_rows": 3, "eval_share": 0.1}, "give one"),
        ({"eval_share": 1.5}, "is a share; below 1"),
        ({"epochs": 2.0}, "give data.mixture too"),
        ({"batch": 0}, "batch=0"),
    ],
)
def test_wrong_words_are_told(
    sources: list[SourceConfig], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load_training_data(sources, data(tmp_path, **change), 1, "")


def test_two_sources_of_one_name_cannot_be_told_apart(
    sources: list[SourceConfig], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="two sources of the mixture have one name"):
        load_training_data([*sources, sources[0]], data(tmp_path, mixture="a"), 1, "")


def test_a_few_wrong_rows_are_told_and_many_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "a.png")
    rows = [row(f"{i}?") for i in range(97)] + [row(images=[])] * 3
    (tmp_path / "set.json").write_text(json.dumps(rows))
    source = SourceConfig(path=str(tmp_path / "set.json"))
    with pytest.raises(ConfigError, match=r"3 of the 100 rows of set .*row 97: 1 <image> marks"):
        load_training_data([source], data(tmp_path), 1, "")
    assert len(load_training_data([source], data(tmp_path, max_rejected=0.03), 1, "").rows[0]) == 97
    (tmp_path / "set.json").write_text(json.dumps([row(score=0.1)]))
    with pytest.raises(ConfigError, match="none of the 1 rows of set is left"):
        load_training_data([replace(source, score_above=0.5)], data(tmp_path), 1, "")


def test_held_out_rows_are_in_no_batch(sources: list[SourceConfig], tmp_path: Path) -> None:
    for mixture in ("", "a+b+c*2"):
        config = data(tmp_path, mixture=mixture, eval_share=0.2, batch=5)
        found = load_training_data(sources, config, 1, "")
        out = {transcript.id for transcript in found.held_out_transcripts()}
        assert len(out) == 7
        batches = found.batches(0)
        drawn = {each for _ in range(80) for each in ids(next(batches)[1])}
        assert not drawn & out and len(drawn | out) == 35


def test_a_set_of_the_hub_is_fetched_with_its_pictures_and_its_commit_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = picture(tmp_path / "a.png").read_bytes()
    files = {
        "train.json": json.dumps([row(images=["images/a/1.png"])]).encode(),
        "images/a/1.png": shown,
        "README.md": b"",
    }
    commit = "ab" * 20
    out = tmp_path / "run"
    with serving(Hub(commits=[commit], files=files)) as hub:
        _use(hub, tmp_path, monkeypatch)
        source = SourceConfig(path="hub:siyich/spacetools-sft")
        found = load_training_data([source], data(tmp_path), 1, "")
        assert found.sources[0].name == "spacetools-sft" and len(found.rows[0]) == 1
        assert found.commits == {source.path: commit}
        (image,) = next(found.batches(0))[1][0].images
        assert Path(image.image).read_bytes() == shown
        out.mkdir()
        (out / DATA_FILE).write_text(json.dumps(found.record()))
        hub.commits.insert(0, "cd" * 20)
        again = load_training_data([source], data(tmp_path), 1, str(out))
        assert again.commits == found.commits


def _use(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))


def test_schemas_of_a_row_are_those_of_the_run(tiny: Path, tmp_path: Path) -> None:
    tools = ToolSet.named("demo")
    old = system_prompt("Look.", ToolSet.named("point").specs)
    (tmp_path / "set.json").write_text(json.dumps([sayings("a", 1)[0] | {"system": old}]))
    found = load_training_data(
        [SourceConfig(path=str(tmp_path / "set.json"))], data(tmp_path), 1, ""
    )
    (transcript,) = next(found.batches(0))[1][:1]
    renderer = Renderer.load(tiny)
    for specs, system in ((tools.specs, system_prompt("Look.", tools.specs)), ((), old)):
        sample = to_sample(transcript, renderer, specs)
        text = renderer.tokenizer.decode(sample.token_ids)
        assert text.startswith(f"<|im_start|>system\n{system}<|im_end|>")


# ---- runs ---------------------------------------------------------------------------------------


@pytest.fixture
def config(tiny: Path, tmp_path: Path, sources: list[SourceConfig]) -> SFTConfig:
    return SFTConfig(
        model=str(tiny),
        out=str(tmp_path / "run"),
        sources=sources,
        data=data(tmp_path, mixture="a+b*2", batch=3, epochs=0.75, eval_rows=3, eval_every=2),
        tools=ToolsConfig(config="demo"),
        save_every=2,
        learner=LearnerConfig(optim=OptimConfig(lr=1e-3)),
        show=ShowConfig(tensorboard=False),
    )


def lines(config: SFTConfig) -> list[dict[str, Any]]:
    text = (Path(config.out) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def figures(config: SFTConfig) -> list[tuple[Any, ...]]:
    return [(line["step"], line["loss"], line.get("held_out_loss")) for line in lines(config)]


def test_a_mixture_is_trained_for_its_epochs_and_goes_on_inside_of_one(
    config: SFTConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config)
    whole = figures(config)
    assert len(whole) == load_training_data(config.sources, config.data, 1, "").steps(0) > 3
    assert [step for step, _, loss in whole if loss is not None] == [2, 4]
    cut = replace(config, out=str(tmp_path / "cut"))
    done = RunDir.save_checkpoint

    def interrupted(self: RunDir, *words: Any) -> Path:
        done(self, *words)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDir, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(cut)
    monkeypatch.undo()
    train(cut)
    assert figures(cut) == whole


def test_asking_for_the_held_out_loss_changes_nothing_else(
    config: SFTConfig, tmp_path: Path
) -> None:
    train(config)
    silent = replace(config, out=str(tmp_path / "silent"), data=replace(config.data, eval_every=0))
    train(silent)
    assert [line["loss"] for line in lines(silent)] == [line["loss"] for line in lines(config)]
    assert not any("held_out_loss" in line for line in lines(silent))


def test_a_run_does_not_go_on_with_other_rows(config: SFTConfig) -> None:
    train(config)
    path = Path(config.sources[0].path)
    path.write_text(path.read_text().replace("<answer>a 0<", "<answer>other<"))
    with pytest.raises(ConfigError, match="rows of a are not those that the run in"):
        train(config)


def test_a_gate_waits_for_one_source_alone(config: SFTConfig) -> None:
    with pytest.raises(ConfigError, match=r"a step of data\.mixture has several"):
        train(replace(config, gate=GateConfig(source="a")))


def test_the_check_prints_a_table_and_trains_nothing(
    config: SFTConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = '<tool_call>\n{"name": "robot.pick", "arguments": {}}\n</tool_call>'
    rows = sayings("d", 150)
    rows[3]["conversations"][1]["value"] = call
    rows[5]["images"] = ["gone.png"]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    words = [
        "demo", "--check", f"model={config.model}", f"out={config.out}", "steps=9",
        f"sources=[{{path: {tmp_path}/d.json}}]", f"data.cache={tmp_path}/cache",
    ]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr()
    assert "d: sharegpt by its content, 149 of 150 rows; 1 rejected: image marks" in said.err
    assert "warning: d calls robot.pick (1 rows), which the tools of this run" in said.err
    plan, _, table = said.out.partition("\nsource")
    assert "9 of 8 conversations, about 8 on each of 1 process(es)" in plan
    assert "a checkpoint every 50 steps" in plan
    head, numbers, reason, *rest = f"source{table}".splitlines()
    assert head.split() == [
        "source", "format", "rows", "accepted", "rejected", "filtered", "images", "tokens"
    ]  # fmt: skip
    assert numbers.split()[:7] == ["d", "sharegpt", "150", "149", "1", "0", "0"]
    assert reason == "d: 1 rejected: image marks and images differ in number"
    assert any(line.startswith("9 steps, sources drawn by weight") for line in rest)
    assert not Path(config.out).exists()


@pytest.mark.parametrize("pieces", [("00000-of-00003", "00002-of-00003"), ("00001-of-00002", "x")])
def test_pieces_of_a_parquet_must_all_be_there(tmp_path: Path, pieces: tuple[str, ...]) -> None:
    for piece in pieces:
        (tmp_path / f"train-{piece}.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"holds (2 pieces of 3, not each|train-)"):
        files_of(str(tmp_path))
