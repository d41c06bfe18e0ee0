"""Runs that sample with real engines: figures, going on after a kill, engines killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rl.config import (
    PolicyLearnerConfig,
    ProgressConfig,
    QuestionsConfig,
    RLConfig,
    RolloutConfig,
    SaveConfig,
)
from rl.engine import engine_of
from rl.policy.base import LearningPolicy, Prompt, Weights
from rl.policy.sglang.config import EngineConfig
from rl.policy.sglang.names import for_loader
from rl.policy.sglang.policy import SglangPolicy
from rl.policy.sglang.server import Server
from rl.policy.sglang.weights import held_tensors
from rl.questions.data import write_questions
from rl.rewards import RewardRule
from rl.train import train
from rl.types import Completion, SamplingParams
from sft.config import OptimConfig, ToolsConfig, to_yaml
from sft.render import Renderer
from tests.rl.camera_tools import CAMERA
from tests.rl.engine_checks import checksums
from tests.rl.engines import TURNS, odd_question, skip_without_engine, taught
from tests.rl.rewarding import reward_of_tokens
from toolshed.types import Json

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def start(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that calls tools which return pictures."""
    skip_without_engine()
    return taught(tiny, tmp_path_factory.mktemp("start") / "taught", TURNS)


@pytest.fixture
def config(start: Path, tmp_path: Path) -> RLConfig:
    (tmp_path / "tools.yaml").write_text(yaml.safe_dump(CAMERA))
    questions = tmp_path / "choice.parquet"
    write_questions(questions, [odd_question(seed) for seed in range(12)])
    return RLConfig(
        model=str(start),
        out=str(tmp_path / "run"),
        data=[QuestionsConfig(path=str(questions))],
        tools=ToolsConfig(config=str(tmp_path / "tools.yaml"), schema="any"),
        reward=RewardRule(correct=0.5, format=0.5),
        algorithm="reinforce_pp",
        steps=3,
        num_prompts=2,
        group_size=3,
        rollout=RolloutConfig(max_turns=4, max_tokens=400, max_turn_tokens=100, max_length=1500),
        save=SaveConfig(every=1),
        learner=PolicyLearnerConfig(optim=OptimConfig(lr=1e-4)),
        policy="sglang",
        engine=EngineConfig(max_total_tokens=8192, checked_prompts=1.0, patience_s=150.0),
        show=ProgressConfig(tensorboard=False),
    )


def lines(config: RLConfig, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    path = Path(config.out) / name
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def pictures_of(line: dict[str, Json]) -> int:
    found = line["pictures"]
    assert isinstance(found, list)
    return len(found)


def check_figures(told: list[dict[str, Any]]) -> None:
    for line in told:
        assert line["engine_checked_prompts"] == line["engine_requests"]
        assert line["engine_sync_bytes"] > 1e6 and line["engine_sync_s"] > 0
    # Ahead of the learner all groups of a step may have been there before it.
    asked = [line for line in told if line["engine_requests"]]
    assert asked
    for line in asked:
        assert line["engine_sampled_tokens"] > 0
        assert 0 < line["engine_cached_share"] < 1
    trained = [line for line in told if "mismatch" in line]
    assert trained
    for line in trained:
        assert line["failures"] == 0


def test_a_killed_run_goes_on_and_every_prompt_was_the_learners(
    config: RLConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(config.out).parent / "config.yaml"
    path.write_text("defaults: [schema, _self_]\n" + to_yaml(config))
    command = [sys.executable, "-m", "rl.train", str(path)]
    log = Path(config.out).parent / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 600
        while not list(Path(config.out).glob("global_step_*")):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    monkeypatch.setattr("rl.train.score", reward_of_tokens)
    final = train(config)
    told = lines(config)
    assert [line["step"] for line in told] == [1, 2, 3]
    check_figures(told)
    assert max(line["mismatch"] for line in told if "mismatch" in line) <= 1e-4
    assert max(pictures_of(line) for line in lines(config, "trajectories.jsonl")) > 1
    assert (final / "model.safetensors").exists()
    assert not list(Path(config.out).glob("engine/weights/*")), "they were on their way"
    assert list(Path(config.out).glob("engine/*.log"))


def test_an_engine_killed_in_the_middle_gets_the_newest_weights(
    config: RLConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl.train.score", reward_of_tokens)
    engine = replace(config.engine, sync="broadcast", health_every_s=1.0)
    config = replace(config, engine=engine, max_staleness=1, steps=5)
    caught_up: list[tuple[int, bool]] = []

    def killed(config: RLConfig, weights: Weights, renderer: Renderer) -> LearningPolicy:
        policy = engine_of(config, weights, renderer)
        assert isinstance(policy, SglangPolicy)
        sent: list[dict[str, str]] = []
        update, generate = policy.sync.update, policy.generate
        catch_up = policy.fleet.catch_up

        async def tell(weights: Weights, version: int) -> None:
            sent.append(checksums(for_loader(weights.trained()), torch.float32))
            await update(weights, version)

        async def kill(prompt: Prompt, sampling: SamplingParams) -> Completion:
            if policy.version == 2 and policy.fleet.servers[0].num_starts == 1:
                asyncio.get_running_loop().call_later(0.05, policy.fleet.servers[0].kill)
            return await generate(prompt, sampling)

        async def look(server: Server) -> None:
            await catch_up(server)
            held = await held_tensors(server)
            caught_up.append((server.version, sent[-1].items() <= held.items()))

        monkeypatch.setattr(policy.sync, "update", tell)
        monkeypatch.setattr(policy, "generate", kill)
        monkeypatch.setattr(policy.fleet, "catch_up", look)
        return policy

    train(config, engine=killed)
    told = lines(config)
    assert [line["step"] for line in told] == [1, 2, 3, 4, 5]
    check_figures(told)
    # It began with the run's first checkpoint, and was given what was sent last before its use.
    assert caught_up in ([(2, True)], [(3, True)])
    assert told[-1]["engine_restarts"] == 1
    assert sum(line.get("engine_resubmitted", 0) for line in told) >= 1
    assert sum(line["dropped"] + line["failures"] for line in told) == 0
    assert told[-1]["staleness_max"] <= 1
