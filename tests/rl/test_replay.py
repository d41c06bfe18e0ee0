"""Batches that a run kept are trained on again: the same figures, or those of other algorithms."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rl.algorithms.table import Overrides
from rl.config import (
    PolicyLearnerConfig,
    ProgressConfig,
    QuestionsConfig,
    RLConfig,
    RolloutConfig,
    SaveConfig,
)
from rl.policy.base import LearningPolicy, Prompt, Weights
from rl.questions.data import write_questions
from rl.questions.kept_pictures import KeptPictures, keep, pixel_hash
from rl.replay import main, replay, replay_config
from rl.tabletop.dataset import Order, write_dataset
from rl.train import train
from scripts.bench.puppet import Puppet
from sft.config import OptimConfig, ToolsConfig
from sft.learner import CACHE_FIGURES
from sft.render import Renderer
from tests.rl.reader import question
from tests.rl.rewarding import reward_of_tokens
from toolshed.chat import write_call
from toolshed.images import ImageSource, load_image

LIGHT = "{replies: compact, roborefer: {backend: light, show: [detect_one]}}"
POINT = write_call("roborefer.detect_one", {"image_index": 0, "obj_name": "red object"})


def puppet(config: RLConfig, weights: Weights, renderer: Renderer) -> LearningPolicy:
    """Points or does not, by chance, and answers in words that differ."""

    def script(prompt: Prompt) -> str:
        if prompt.turn == 0 and prompt.seed % 2:
            return POINT
        return f"<answer>{'red' if prompt.seed % 3 else 'green'} cube</answer>"

    limits = config.rollout
    return Puppet(
        weights.model, renderer, script, num_slots=limits.width, max_length=limits.max_length
    )


@pytest.fixture(scope="module", autouse=True)
def rewarded() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rl.train.score", reward_of_tokens)
        yield


@pytest.fixture(scope="module")
def config(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> RLConfig:
    tmp_path = tmp_path_factory.mktemp("data")
    (tmp_path / "tools.yaml").write_text(LIGHT)
    write_dataset(tmp_path / "point.parquet", Order(kinds=("point",), num=6, size=112))
    # Its pictures are data URIs.
    write_questions(tmp_path / "choice.parquet", [question(seed) for seed in range(3)])
    return RLConfig(
        model=str(tiny),
        out=str(tmp_path / "run"),
        cache=str(tmp_path / "cache"),
        data=[
            QuestionsConfig(path=str(tmp_path / f"{name}.parquet")) for name in ("point", "choice")
        ],
        tools=ToolsConfig(config=str(tmp_path / "tools.yaml")),
        steps=5,
        num_prompts=3,
        group_size=4,
        rollout=RolloutConfig(
            width=6, max_turns=2, max_tokens=200, max_turn_tokens=64, max_length=512
        ),
        save=SaveConfig(every=2),
        learner=PolicyLearnerConfig(optim=OptimConfig(lr=1e-3, warmup_steps=2, schedule="linear")),
        show=ProgressConfig(tensorboard=False),
    )


@pytest.fixture(scope="module")
def trained(config: RLConfig) -> Path:
    """A run of 5 steps, to be looked at."""
    train(config, engine=puppet)
    return Path(config.out)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def metrics(folder: str | Path) -> list[dict[str, Any]]:
    text = (Path(folder) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def assert_same(again: list[dict[str, Any]], first: list[dict[str, Any]]) -> None:
    """Every figure told again is what it was."""
    for figures, before in zip(again, first, strict=True):
        for name, value in figures.items():
            assert name.endswith("_s") or name in CACHE_FIGURES or value == before[name], name


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_run_replayed_takes_its_own_steps_again(
    config: RLConfig, staleness: int, tmp_path: Path
) -> None:
    overrides = Overrides(kl=0.05, query_credit=0.4, overlong=0.3)
    config = replace(config, algorithm="grpo", overrides=overrides, max_staleness=staleness)
    run = tmp_path / "run"
    final = train(replace(config, out=str(run)), engine=puppet)
    again = replay(run, replay_config(run, []))
    told = metrics(run / "replay")
    assert_same(told, metrics(run))
    assert sum(line.get("grad_norm", 0) > 0 for line in told) >= 3
    weights = [load_file(each / "model.safetensors") for each in (final, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_last_steps_are_replayed_from_the_checkpoint_before_them(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), "5"]) == 0
    told = metrics(run / "replay")
    assert [line["step"] for line in told] == [5], "there is a checkpoint of step 4"
    assert_same(told, metrics(run)[4:])
    assert "step 5: loss" in capsys.readouterr().out


def test_another_algorithm_learns_something_else_from_the_same_batch(
    run: Path, tmp_path: Path
) -> None:
    words = ["algorithm=dr_grpo", "overrides.kl=0.1", f"out={tmp_path / 'other'}"]
    assert main([str(run), "1", *words]) == 0
    (told,), (first, *_) = metrics(tmp_path / "other"), metrics(run)
    assert told["reward"] == first["reward"] and told["loss"] != first["loss"] and "kl" in told


def test_a_dump_holds_what_trains_and_pictures_without_a_file(run: Path) -> None:
    lines = [json.loads(each) for each in (run / "trajectories.jsonl").read_text().splitlines()]
    kept = {path.stem for path in (run / "pictures").iterdir()}
    for line in lines:
        num_sampled = sum(end - start for start, end, kind in line["spans"] if kind == "sampled")
        assert num_sampled == len(line["logprobs"]) == sum(num for num, _ in line["versions"])
        assert {version for _, version in line["versions"]} == {line["step"] - 1}
        assert len(line["query_rewards"]) == len(line["turns"])
        is_unpacked = "/cache/" in line["pictures"][0]["location"]
        assert is_unpacked == (line["source"] == "tabletop-choice")
        assert (line["pixels"][0] in kept) == is_unpacked
    assert any(value is not None for line in lines for value in line["query_rewards"])
    assert Counter(line["group"] for line in lines) == dict.fromkeys(range(3), 5 * 4)


def forget_a_step(run: Path) -> None:
    path = run / "trajectories.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if json.loads(line)["step"] != 2))


def tear(run: Path) -> None:
    path = run / "trajectories.jsonl"
    path.write_text(path.read_text()[:-100])


def forget_pictures(run: Path) -> None:
    for path in (run / "pictures").iterdir():
        path.unlink()
    path = run / "trajectories.jsonl"
    path.write_text(re.sub('"location": "[^"]*/cache/', '"location": "/gone/', path.read_text()))


def forget_fields(run: Path) -> None:
    path = run / "trajectories.jsonl"
    path.write_text(path.read_text().replace('"pixels"', '"unknown"'))


@pytest.mark.parametrize(
    ("damage", "words", "message"),
    [
        (forget_a_step, [], r"no trajectories of step 2; .* save\.dump_every=1"),
        (tear, [], r"11 of 12 trajectories of step 5, .* killed; .* replay to step 4"),
        (forget_pictures, [], r"picture .*\.png of question .* put it back"),
        (forget_fields, [], "line 1, was written before replay"),
        (lambda run: (run / "trajectories.jsonl").unlink(), [], "holds no trajectories.jsonl"),
        (lambda run: (run / "config.yaml").unlink(), [], "is no run"),
        (lambda run: None, ["9"], "step 9 is none of 1 to 5"),
        (lambda run: None, ["group_size=2"], "group_size=2 was 4 .* changes nothing"),
        (lambda run: None, ["rollout.temperature=0.5"], r"rollout\.temperature=0.5 was 1.0"),
        (lambda run: None, ["learner.lora.rank=4"], r"lora\.rank=4 was 0 .* learner\.optim, "),
    ],
)
def test_what_cannot_be_replayed_is_said(
    run: Path,
    damage: Callable[[Path], None],
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(run)
    assert main([str(run), *words]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_a_picture_is_found_by_its_pixels_alone(trained: Path, tmp_path: Path) -> None:
    source = next((trained / "pictures").iterdir())
    image = load_image(ImageSource(image=str(source), focal_length_px=50.0))
    assert pixel_hash(image) != image.sha256
    keep(image, tmp_path / "kept")
    found = KeptPictures(tmp_path / "kept").find(pixel_hash(image), "")
    assert found is not None and (found.pixels == image.pixels).all()
    assert KeptPictures(tmp_path / "kept").find("0" * 64, str(source)) is None
