"""Keys of ``rl.collect``, and which of them may change while a collection goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rl.policy.api_config import ApiConfig
from rl.policy.sglang.config import EngineConfig
from rl.rewards import KINDS, RewardRule
from sft.config import (
    DTYPES,
    ToolsConfig,
    check_choice,
    check_not_negative,
    check_positive,
)
from toolshed.errors import ConfigError

POLICIES = ("transformers", "sglang")
MIN_SCORES: dict[str, float] = dict.fromkeys(KINDS, 0.5) | {"pose": 0.3, "grasp": 0.8}
"""Thresholds of the published recipe. Of ``grasp`` the score is 1 - NCE / 10, so that 0.8 is its
NCE below 2."""
FREE_KEYS = (
    *("min_score", "need_call", "need_form", "samples", "keep", "limit", "source"),
    *("width", "max_failure_share", "budget", "device", "threads", "engine"),
    *("api.timeout_s", "api.connect_timeout_s", "api.retries", "api.backoff_s"),
    *("api.longest_wait_s", "api.requests_per_minute", "api.concurrent", "api.key_variable"),
    *("api.cost_limit_usd", "api.prices", "api.raw_dir"),
)
"""Keys, or mappings of them, that do not change what a trajectory is: they say how many are played,
where and how fast, and which are kept."""


@dataclass
class BudgetConfig:
    """What one question may use. Looked at between its samples, of which the last may exceed it."""

    tries: int = 2
    """Of one sample that machinery breaks; then it has failed."""
    tokens: int = 0
    """Of all its samples, read and written ones; 0 sets no limit."""
    usd: float = 0.0
    """The same in USD, for models behind an API with known prices; 0 sets no limit."""
    stop_early: bool = False
    """No further sample once ``keep`` good ones are there."""

    def __post_init__(self) -> None:
        check_positive(self, "tries")
        check_not_negative(self, "tokens", "usd")

    @property
    def in_turns(self) -> bool:
        """Whether a question's samples wait for each other."""
        return bool(self.tokens or self.usd or self.stop_early)


@dataclass
class CollectConfig:
    """How questions are played and which trajectories are kept."""

    tools: ToolsConfig = field(default_factory=lambda: ToolsConfig(config="demo"))
    reward: RewardRule = field(default_factory=RewardRule)
    min_score: Any = field(default_factory=MIN_SCORES.copy)
    """Above it a trajectory is kept: of each answer kind, or one number for all of them. A whole
    score is always enough, and 0 keeps any."""
    need_call: bool = True
    """Keep only trajectories with at least one answered tool call."""
    need_form: bool = True
    """Keep only well-formed trajectories."""
    samples: int = 1
    """Rollouts of one question."""
    keep: int = 0
    """Most kept rollouts of one question, the best; 0 for all."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    limit: int = 0
    """Play only the first questions; 0 for all."""
    source: str = ""
    """Mark of the transcripts; ``teacher`` or ``distilled`` if empty."""
    temperature: float = 1.0
    """0 is greedy."""
    max_turns: int = 8
    max_tokens: int = 4096
    """Sampled and reply tokens of one trajectory; of an API's model, of each turn alone."""
    max_turn_tokens: int = 1024
    max_length: int = 8192
    """Places of the policy's cache for one trajectory, prompt and pictures included."""
    width: int = 16
    """Trajectories in flight."""
    max_failure_share: float = 0.2
    """Of all trajectories; above it nothing is written."""
    seed: int = 1
    policy: str = "transformers"
    """Who plays a checkpoint: ``transformers`` in this process, or ``sglang``."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Of ``policy=sglang``; its device, dtype and width are the keys of this level."""
    api: ApiConfig = field(default_factory=ApiConfig)
    """Of ``api:MODEL``."""
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    """CPU threads; on small models a second one costs more than it brings."""

    def __post_init__(self) -> None:
        self.min_score = _thresholds(self.min_score)
        check_choice(self, dtype=DTYPES, policy=POLICIES)
        check_not_negative(self, "keep", "limit", "seed", "max_failure_share", "temperature")
        check_positive(self, "samples", "width", "max_turns", "threads")
        check_positive(self, "max_tokens", "max_turn_tokens", "max_length")
        if self.budget.stop_early and not self.keep:
            raise ConfigError(
                "budget.stop_early=true needs to know how many are enough; give keep=1, for example"
            )

    def min_score_of(self, kind: str) -> float:
        """Threshold of an answer kind."""
        least = self.min_score
        return float(least[kind] if isinstance(least, dict) else least)


def _thresholds(given: object) -> float | dict[str, float]:
    """One number, or one of every answer kind; ConfigError where it is neither."""
    if not isinstance(given, Mapping):
        return _threshold("min_score", given)
    unknown = [name for name in given if name not in KINDS]
    if unknown:
        raise ConfigError(
            f"min_score names {unknown[0]!r}, which is no answer kind; there are {', '.join(KINDS)}"
        )
    return MIN_SCORES | {
        name: _threshold(f"min_score.{name}", each) for name, each in given.items()
    }


def _threshold(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(f"{key}={value} must lie in [0, 1], as scores do")
    return float(value)
