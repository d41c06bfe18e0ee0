"""The config of the gates before RL, and how a run's config becomes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from rl.config import QuestionsConfig, RLConfig
from rl.rewards import RewardRule
from rl.start.gates import BarsConfig
from sft.config import (
    CONFIGS,
    DTYPES,
    ToolsConfig,
    check_choice,
    check_not_negative,
    check_positive,
    load_config,
    to_yaml,
)
from toolshed.errors import ConfigError

_FROM_RUN = (
    *("data", "cache", "tools", "reward", "device", "dtype", "threads", "width"),
    *("temperature", "max_turns", "max_calls", "max_reply_chars", "max_pixels", "max_tokens"),
    *("max_turn_tokens", "max_length", "max_failure_share"),
)
"""What a gate has in common with a run, there itself or in ``rollout``."""


@dataclass
class GateConfig:
    """How a checkpoint is played and what is asked of it."""

    data: list[QuestionsConfig] = field(default_factory=list)
    """The RL prompts, as of a run; QUESTIONS is short for one part."""
    cache: str = ""
    """As of a run: folder for pictures that come inside data files."""
    tools: ToolsConfig = field(default_factory=lambda: ToolsConfig(config="demo"))
    reward: RewardRule = field(default_factory=RewardRule)
    bars: BarsConfig = field(default_factory=BarsConfig)
    right: float = 0.0
    """A right answer scores more, or whole; 0 for the threshold of its kind in ``rl.collect``."""
    questions: int = 64
    """How many are drawn, from each part of ``data`` by its weight; 0 for all."""
    samples: int = 8
    """Rollouts of one question; with a run's config its ``group_size``."""
    out: str = ""
    """Folder for the trajectories; empty for one in ``runs/gate`` named after the checkpoint."""
    temperature: float = 1.0
    max_turns: int = 8
    max_calls: int = 8
    """Calls of one turn that are run."""
    max_reply_chars: int = 0
    """A longer reply of a tool loses its middle; 0 cuts none."""
    max_pixels: int = 0
    """Pixels of a picture as the policy sees it; 0 leaves it to the checkpoint."""
    max_tokens: int = 4096
    """Sampled and reply tokens of one trajectory."""
    max_turn_tokens: int = 1024
    max_length: int = 8192
    """Places of the policy's cache for one trajectory, prompt and pictures included."""
    width: int = 16
    """Trajectories in flight."""
    max_failure_share: float = 0.2
    """Of all trajectories; where our machinery breaks more, nothing is judged."""
    seed: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    """CPU threads; on small models a second one costs more than it brings."""

    def __post_init__(self) -> None:
        check_choice(self, dtype=DTYPES)
        check_not_negative(self, "questions", "seed", "max_failure_share")
        check_not_negative(self, "max_reply_chars", "max_pixels")
        check_positive(self, "width", "temperature", "max_turns", "max_calls", "threads")
        check_positive(self, "max_tokens", "max_turn_tokens", "max_length")
        if self.samples < 2:
            raise ConfigError(
                f"samples={self.samples} must be 2 or more: whether siblings fare alike is a gate"
            )
        if not 0.0 <= self.right <= 1.0:
            raise ConfigError(f"right={self.right} must lie in [0, 1], as scores do")


def config_of(words: Sequence[str], base: str) -> GateConfig:
    """The config that the words of a command line mean; ``base`` is the gate's own YAML."""
    rest = list(words)
    named = rest.pop(0) if rest and ("=" not in rest[0] or Path(rest[0]).exists()) else ""
    if not named:
        return load_config(GateConfig, "rl", base, rest)
    if not _is_config(named):
        config = load_config(GateConfig, "rl", base, rest)
        if config.data:
            raise ConfigError(f"{named} and data= both name questions; leave one of them out")
        return replace(config, data=[QuestionsConfig(path=named)])
    run = yaml.safe_load(to_yaml(_run_config(named)))
    kept = yaml.safe_load(to_yaml(load_config(GateConfig, "rl", base, ())))
    kept |= {key: value for key, value in (run["rollout"] | run).items() if key in _FROM_RUN}
    kept["samples"] = run["group_size"]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "gate.yaml"
        path.write_text(f"defaults: [schema, _self_]\n{yaml.safe_dump(kept)}", encoding="utf-8")
        return load_config(GateConfig, "rl", str(path), rest)


def _is_config(word: str) -> bool:
    if Path(word).suffix in (".yaml", ".yml"):
        return True
    return not Path(word).exists() and (CONFIGS / "rl" / f"{word}.yaml").is_file()


def _run_config(name: str) -> RLConfig:
    config = load_config(RLConfig, "rl", name, ())
    if not isinstance(config, RLConfig):
        raise ConfigError(
            f"config {name} does not begin with 'defaults: [schema, _self_]', as one of rl.train "
            "does"
        )
    return config
