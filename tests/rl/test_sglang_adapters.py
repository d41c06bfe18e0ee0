"""Adapters alone: the folder that PEFT reads, and engines that sample with them.

The engine's code for adapters wants memory pinned for a GPU. Here that wish is ignored in the
engine's process and nothing else is changed: its own loader and its matrix products in torch run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rl.policy.sglang import server
from rl.policy.sglang.adapters import AdapterSync, write_adapters
from rl.policy.sglang.config import EngineConfig
from rl.policy.sglang.policy import SglangPolicy
from rl.rollout import Job, Player, run_episode
from rl.types import SamplingParams
from sft.batch import micro_batches
from sft.config import LoraConfig, OptimConfig
from sft.learner import Learner
from sft.model import load_model
from sft.render import Renderer
from tests.rl.engines import CONFIG, odd_question, prompt_for, skip_without_engine
from toolshed.errors import ConfigError

pytestmark = pytest.mark.filterwarnings(
    # PEFT asks the model for an attribute that transformers renamed.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
LORA = LoraConfig(rank=4, alpha=8.0)
_UNPINNED = """
import sys

class Unpinned:
    def find_spec(self, name, path=None, target=None):
        if name != "sglang.srt.lora.layers":
            return None
        sys.meta_path.remove(self)
        import torch
        def without(make):
            return lambda *given, pin_memory=False, **named: make(*given, **named)
        for name in ("tensor", "zeros", "empty", "arange"):
            setattr(torch, name, without(getattr(torch, name)))
        torch.Tensor.pin_memory = lambda self, *given: self
        return None

sys.meta_path.insert(0, Unpinned())
"""


class Adapted:
    """A learner whose adapters have values."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.learner = Learner(
            load_model(source), Renderer.load(source), OptimConfig(), total_steps=1, lora=LORA
        )
        self.change(0)

    @property
    def model(self) -> Any:
        return self.learner.model

    def change(self, seed: int) -> None:
        torch.manual_seed(seed)
        for name, tensor in self.trained().items():
            if "lora_B" in name:
                tensor.normal_(0, 0.05)

    def trained(self) -> dict[str, Tensor]:
        named = self.model.named_parameters()
        return {name: each.detach() for name, each in named if each.requires_grad}

    def export(self, folder: Path) -> None:
        self.learner.export(self.source, folder)


def test_the_folder_is_one_that_peft_reads(tiny: Path, tmp_path: Path) -> None:
    import peft

    adapted = Adapted(tiny)
    write_adapters(adapted.trained(), LORA, tmp_path / "adapters")
    read = peft.PeftModel.from_pretrained(load_model(tiny), tmp_path / "adapters")
    found = {name.removeprefix("base_model.model."): each for name, each in read.named_parameters()}
    for name, tensor in adapted.trained().items():
        assert torch.equal(found[name], tensor)


def test_what_is_trained_besides_adapters_is_named(tiny: Path, tmp_path: Path) -> None:
    other = {"model.language_model.norm.weight": torch.zeros(2)}
    with pytest.raises(ConfigError, match=r"norm\.weight is trained and no adapter"):
        write_adapters(other, LORA, tmp_path / "adapters")


def test_engines_on_a_cpu_get_adapters_merged() -> None:
    assert EngineConfig(lora=LORA).way == "folder"
    assert EngineConfig(lora=LORA, device="cuda").way == "adapters"
    with pytest.raises(ConfigError, match=r"give engine\.sync=folder"):
        EngineConfig(sync="adapters")


@pytest.fixture(scope="module")
def adapting(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[SglangPolicy, asyncio.Runner]]:
    skip_without_engine()
    folder = tmp_path_factory.mktemp("adapting")
    (folder / "sitecustomize.py").write_text(_UNPINNED)
    config = replace(CONFIG, logs=str(folder / "logs"), lora=LORA)
    config.sync = "adapters"
    known = server._engine_variables
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setattr(
            server,
            "_engine_variables",
            lambda *given: {**known(*given), "PYTHONPATH": str(folder)},
        )
        policy = SglangPolicy(config, Renderer.load(tiny), tiny)
        runner.run(policy.start())
        try:
            yield policy, runner
        finally:
            runner.run(policy.aclose())


@pytest.mark.slow
def test_an_engine_samples_with_the_adapters_of_the_learner(
    adapting: tuple[SglangPolicy, asyncio.Runner], tiny: Path
) -> None:
    policy, runner = adapting
    assert isinstance(policy.sync, AdapterSync)
    adapted = Adapted(tiny)
    runner.run(policy.update_weights(adapted, 3))
    assert policy.sync.num_bytes == sum(each.nbytes for each in adapted.trained().values())
    player = Player(policy=policy, renderer=policy.renderer, shed=None)
    job = Job(question=odd_question(3), sampling=SamplingParams(max_tokens=40))
    said = runner.run(run_episode(job, player))
    assert not said.failure and set(said.turns[0].completion.versions) == {3}
    assert _difference(adapted.learner, said) <= 1e-4
    base = Learner(load_model(tiny), policy.renderer, OptimConfig(), total_steps=1)
    assert _difference(base, said) > 1e-2, "the adapters do something"


def _difference(learner: Learner, said: Any) -> float:
    from rl.algorithms.samples import to_sample

    (batch,) = micro_batches([to_sample(said, 1.0)], learner.renderer, max_tokens=4096)
    with torch.no_grad():
        return float((learner.logprobs(batch) - batch.logprobs_N).abs().max())


@pytest.mark.slow
def test_adapters_change_while_requests_run(
    adapting: tuple[SglangPolicy, asyncio.Runner], tiny: Path
) -> None:
    policy, runner = adapting
    adapted = Adapted(tiny)
    runner.run(policy.update_weights(adapted, 10))
    same = prompt_for(policy.renderer, "same")
    calm = SamplingParams(temperature=0.0, max_tokens=3)
    hot = SamplingParams(temperature=8.0, max_tokens=300)

    async def play() -> list[Any]:
        prompts = [prompt_for(policy.renderer, f"hot{i}") for i in range(6)]
        turns = [asyncio.ensure_future(policy.generate(each, hot)) for each in prompts]
        await asyncio.sleep(0.6)
        adapted.change(1)
        await policy.update_weights(adapted, 11)
        return await asyncio.gather(*turns)

    runner.run(policy.generate(same, calm))
    said = runner.run(play())
    assert sum(set(each.versions) == {10, 11} for each in said) >= 3
    assert all(list(each.versions) == sorted(each.versions) for each in said)
    # What another adapter computed is not found again, what this one did is.
    policy.counts.clear()
    runner.run(policy.update_weights(adapted, 12))
    runner.run(policy.generate(same, calm))
    assert policy.counts["cached_tokens"] == 0
    runner.run(policy.generate(same, calm))
    assert policy.counts["cached_tokens"] > 10
