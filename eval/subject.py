"""Who is examined: a checkpoint, a model behind an API, or a baseline that needs no model.

Each knows its names, what the plan says of it, what it lacks, and how it becomes a Player.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from eval import api_model
from eval.config import EvalConfig
from eval.engines import check_engines, engine_player, engine_words, missing_engines
from rl.policy.api_config import NO_KEY, PREFIX, ApiConfig, key_present
from sft.checkpoint import run_name, short_name
from toolshed.errors import ConfigError

if TYPE_CHECKING:
    from rl.rollout import Player
    from rl.types import Question
    from toolshed.shed import Toolshed
    from toolshed.toolset import ToolSet

BASELINE = "baseline:"


class Subject(Protocol):
    """What is examined. Nothing is loaded or sent before ``player``, but for ``policy``."""

    @property
    def name(self) -> str:
        """In tables and titles."""
        ...

    @property
    def run(self) -> str:
        """Word for the folder of its run."""
        ...

    def policy(self) -> str:
        """What rows call it; may read a checkpoint's weights."""
        ...

    def plan_lines(self, config: EvalConfig, tools: ToolSet, num_episodes: int) -> list[str]:
        """What ``--check`` says of it, one line each."""
        ...

    def missing(self, config: EvalConfig) -> list[str]:
        """What keeps it from being asked here, a sentence each."""
        ...

    def check(self, questions: Sequence[Question], config: EvalConfig, tools: ToolSet) -> None:
        """ConfigError where these questions cannot be asked; before tools start."""
        ...

    async def player(self, config: EvalConfig, tools: ToolSet, shed: Toolshed | None) -> Player:
        """Ready for rollouts under the config's limits; what it needs has started."""
        ...

    def close(self, player: Player, out: Path) -> None:
        """Say what it used, where that is known."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Weights in a folder."""

    folder: Path

    @property
    def name(self) -> str:
        return short_name(self.folder)

    @property
    def run(self) -> str:
        return run_name(self.folder)

    def policy(self) -> str:
        from rl.identity import policy_identity

        return f"{self.name} {policy_identity(self.folder)}"

    def plan_lines(self, config: EvalConfig, tools: ToolSet, num_episodes: int) -> list[str]:
        words = f"{config.policy}, {config.device}, {config.dtype}, width {config.width}"
        if config.policy == "sglang":
            words = engine_words(config)
        return [f"checkpoint  {self.folder}", f"policy      {words}"]

    def missing(self, config: EvalConfig) -> list[str]:
        from toolshed.resources import visible_gpus

        if config.policy == "sglang":
            return missing_engines(config)
        if config.device.startswith("cuda") and not visible_gpus():
            return [f"device={config.device}, but no GPU is seen here; give device=cpu"]
        return []

    def check(self, questions: Sequence[Question], config: EvalConfig, tools: ToolSet) -> None:
        from rl.player import policy_devices
        from rl.start.needs import check_room
        from sft.config import check_device
        from sft.render import Renderer

        if config.policy == "sglang":
            check_engines(config, self.folder)
        else:
            for device in policy_devices(config.device, config.devices):
                check_device(device)
        limits = {"max_tokens": config.max_tokens, "max_length": config.max_length}
        renderer = Renderer.load(self.folder, max_pixels=config.max_pixels)
        check_room(questions, tools.specs, renderer, **limits)

    async def player(self, config: EvalConfig, tools: ToolSet, shed: Toolshed | None) -> Player:
        from eval.evaluate import player_of

        if config.policy == "sglang":
            return await engine_player(config, self.folder, shed)
        return player_of(config, self.folder, shed)

    def close(self, player: Player, out: Path) -> None:
        """Nothing was used but time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiModel:
    """A model behind somebody's API."""

    api: ApiConfig

    @property
    def name(self) -> str:
        return api_model.file_name(self.api)

    @property
    def run(self) -> str:
        return f"api_{self.name}"

    def policy(self) -> str:
        return self.api.identity

    def plan_lines(self, config: EvalConfig, tools: ToolSet, num_episodes: int) -> list[str]:
        return api_model.plan_lines(config, tools, num_episodes)

    def missing(self, config: EvalConfig) -> list[str]:
        from rl.policy.prices import prices_of

        found = []
        if self.api.cost_limit_usd and prices_of(self.api.model, self.api.prices) is None:
            found.append(
                f"api.cost_limit_usd={self.api.cost_limit_usd:g}, but the prices of "
                f"{self.api.model} are unknown; give them, for example 'api.prices=[2.5,1.25,10]'"
            )
        if key_present(self.api):
            return found
        return [
            *found,
            f"environment variable {self.api.variable} is not set; export the key in it, or give "
            f"api.key_variable={NO_KEY} for a server that asks for none",
        ]

    def check(self, questions: Sequence[Question], config: EvalConfig, tools: ToolSet) -> None:
        api_model.check_ready(config, tools)

    async def player(self, config: EvalConfig, tools: ToolSet, shed: Toolshed | None) -> Player:
        return api_model.player_of_api(config, tools, shed)

    def close(self, player: Player, out: Path) -> None:
        api_model.tell_usage(player, out)


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """A policy of ``eval.baselines``, which shows what a score means; it calls no tools."""

    word: str
    seed: int

    @property
    def name(self) -> str:
        return f"baseline_{self.word}"

    @property
    def run(self) -> str:
        return self.name

    def policy(self) -> str:
        return f"{BASELINE}{self.word} seed={self.seed}"

    def plan_lines(self, config: EvalConfig, tools: ToolSet, num_episodes: int) -> list[str]:
        return [f"baseline    {self.word}"]

    def missing(self, config: EvalConfig) -> list[str]:
        return []

    def check(self, questions: Sequence[Question], config: EvalConfig, tools: ToolSet) -> None:
        """Any question can be asked."""

    async def player(self, config: EvalConfig, tools: ToolSet, shed: Toolshed | None) -> Player:
        from eval.baselines import baseline_policy
        from eval.evaluate import limits_of
        from rl.rollout import Player

        policy = baseline_policy(self.word, seed=self.seed)
        return Player(policy=policy, renderer=None, shed=shed, limits=limits_of(config))

    def close(self, player: Player, out: Path) -> None:
        """Nothing was used but time."""


def usual_words(subject: str) -> list[str]:
    """``key=value`` words that stand before the user's own for a kind of subject."""
    if not subject.startswith(BASELINE):
        return []
    # One baseline says nothing on purpose.
    return ["tools.config=none", "device=cpu", "max_empty=1"]


def usual_config(subject: str, *, published: bool) -> str:
    """The word of ``configs/eval`` where none is given."""
    if subject.startswith(PREFIX):
        return "api"
    return "paper" if published else "demo"


def subject_of(word: str, config: EvalConfig, tools: ToolSet) -> tuple[Subject, EvalConfig]:
    """Who ``CKPT``, ``api:MODEL`` or ``baseline:NAME`` is, and the config with its name in it.

    Raises ConfigError where there is no such checkpoint, model or baseline, and where a checkpoint
    was trained with other tools.
    """
    config = api_model.with_model(word, config)
    if config.api.model:
        api_model.warn_schema(config.api)
        return ApiModel(api=config.api), config
    if word.startswith(BASELINE):
        return _baseline(word.removeprefix(BASELINE), config), config
    from rl.player import check_tools

    policy: Literal["same", "any"] = "any" if config.tools.schema == "any" else "same"
    return Checkpoint(folder=check_tools(word, tools, policy)), config


def _baseline(name: str, config: EvalConfig) -> Baseline:
    from eval.baselines import BASELINES

    if name not in BASELINES:
        raise ConfigError(f"no baseline {name!r}; there are {', '.join(BASELINES)}")
    if config.tools.config != "none":
        raise ConfigError(
            f"{BASELINE}{name} calls no tools, so tools.config={config.tools.config} would start "
            "them for nothing; leave tools= out"
        )
    return Baseline(word=name, seed=config.seed)
