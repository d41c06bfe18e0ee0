"""Everything that an RL run depends on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from rl.algorithms.algorithm import Algorithm
from rl.algorithms.table import Overrides, algorithm_named
from rl.policy.sglang.config import EngineConfig
from rl.rewards import RewardRule
from rl.scheduling.selection import SelectionConfig
from sft.config import (
    DTYPES,
    LearnerConfig,
    ShowConfig,
    ToolsConfig,
    check_choice,
    check_not_negative,
    check_positive,
    check_trained_dtype,
)
from toolshed.errors import ConfigError

PROGRESS = ("auto", "dashboard", "bar", "none")

TRUNCATE = 2.0
"""Cap of importance weights where ``max_staleness`` is above 0 and no other was given."""


@dataclass
class QuestionsConfig:
    """One part of the prompts."""

    path: str = ""
    """Parquet in the released layout, a folder with ``data/train.parquet``, or
    ``hub:OWNER/NAME[@REVISION][/FILE.parquet]``."""
    rows: int = 0
    """How many it must have; 0 for any, and not asked where ``limit`` takes a part."""
    weight: float = 1.0
    """Share of the prompts drawn from it."""
    limit: int = 0
    """Use only its first rows; 0 for all."""

    def __post_init__(self) -> None:
        check_positive(self, "weight")
        check_not_negative(self, "limit", "rows")


@dataclass
class ValidationConfig:
    """Questions that are asked greedily and not trained."""

    data: str = ""
    """As ``data[].path``; empty for none."""
    every: int = 0
    """Steps between two askings; 0 for none."""
    limit: int = 128
    """The first of them; 0 for all."""

    def __post_init__(self) -> None:
        check_not_negative(self, "every", "limit")
        if self.every and not self.data:
            raise ConfigError(f"every={self.every} needs val.data=, a parquet file")


@dataclass
class RolloutConfig:
    """How trajectories are played, and their limits."""

    width: int = 64
    """Trajectories in flight."""
    kv_tokens: int = 0
    """Places that all trajectories in flight may take in the policy's cache, those that wait for
    tools included; 0 for what sglang engines say that they hold, and for no limit besides
    ``width`` in this process."""
    retries: int = 1
    """How often a trajectory that our machinery broke is played again."""
    max_failure_share: float = 0.2
    """Of a step's trajectories; above it the run stops."""
    temperature: float = 1.0
    max_turns: int = 8
    max_calls: int = 8
    """Calls of one turn that are run."""
    max_reply_chars: int = 0
    """A longer reply of a tool loses its middle; 0 cuts none."""
    max_pixels: int = 0
    """Pixels of a picture as the policy sees it, where the checkpoint allows more; 0 leaves it to
    the checkpoint. Tools see the whole picture, and points are shares of it."""
    max_tokens: int = 4096
    """Sampled and reply tokens of one trajectory."""
    max_turn_tokens: int = 1024
    """Sampled tokens of one turn."""
    max_length: int = 8192
    """Places of the policy's cache for one trajectory, prompt and pictures included."""

    def __post_init__(self) -> None:
        check_positive(self, "width", "temperature", "max_turns", "max_calls")
        check_positive(self, "max_tokens", "max_turn_tokens", "max_length")
        check_not_negative(self, "kv_tokens", "retries", "max_failure_share")
        check_not_negative(self, "max_reply_chars", "max_pixels")


@dataclass
class PolicyLearnerConfig(LearnerConfig):
    """The learner of ``sft.train``, and what only groups of rollouts have."""

    micro_tokens: int = 8192
    shared_prefix: bool = False
    """Compute the prompt of a group once, not once per rollout; same loss and gradient."""


@dataclass
class SaveConfig:
    """What a run leaves besides its figures."""

    every: int = 20
    """Steps between checkpoints."""
    hf: bool = True
    """Keep each checkpoint as a Hugging Face folder, too, and that also when its state has gone."""
    keep_hf: int = 0
    """How many of these folders are kept, the last ones; 0 for all."""
    dump_every: int = 1
    """Steps between dumps of all trajectories; 0 for none."""

    def __post_init__(self) -> None:
        check_positive(self, "every")
        check_not_negative(self, "keep_hf", "dump_every")


@dataclass
class ProgressConfig(ShowConfig):
    """Where the figures of a long run are shown."""

    progress: str = "auto"
    """What a terminal shows: ``dashboard``, ``bar``, ``none``; ``auto`` is the dashboard on a
    terminal, else the bar."""

    def __post_init__(self) -> None:
        check_choice(self, progress=PROGRESS)


@dataclass
class RLConfig:
    """One run."""

    model: str = ""
    """Checkpoint to start from."""
    out: str = ""
    """Folder of the run."""
    data: list[QuestionsConfig] = field(default_factory=list)
    val: ValidationConfig = field(default_factory=ValidationConfig)
    cache: str = ""
    """Folder for pictures that come inside data files; empty for ``$XDG_CACHE_HOME/spacetools`` or
    ``~/.cache/spacetools``."""
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    reward: RewardRule = field(default_factory=RewardRule)
    steps: int = 100
    num_prompts: int = 8
    """Questions of one step."""
    group_size: int = 8
    """Rollouts of one question."""
    max_staleness: int = 0
    """Steps that the learner may be ahead of the oldest token it trains: 0 rolls out and trains in
    turns, 1 rolls out the next step meanwhile, more lets slow questions take longer than a step."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    algorithm: str = "dapo_static"
    """A row of docs/TRAINING.md."""
    overrides: Overrides = field(default_factory=Overrides)
    """What of that row is to be another value."""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    shuffle_rewards: bool = False
    """The control: permute rewards within each group."""
    learner: PolicyLearnerConfig = field(default_factory=PolicyLearnerConfig)
    seed: int = 1
    save: SaveConfig = field(default_factory=SaveConfig)
    policy: str = "transformers"
    """What samples: ``transformers`` in this process, or ``sglang``, servers of their own."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How sglang servers are started."""
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    """CPU threads; on small models a second one costs more than it brings."""
    show: ProgressConfig = field(default_factory=ProgressConfig)

    def __post_init__(self) -> None:
        check_choice(self, dtype=DTYPES, policy=("transformers", "sglang"))
        check_trained_dtype(self.dtype)
        check_positive(self, "steps", "num_prompts", "threads")
        check_not_negative(self, "max_staleness", "seed")
        if self.group_size < 2:
            raise ConfigError(
                f"group_size={self.group_size} must be 2 or more: an advantage is the difference "
                "from other answers to the same question"
            )
        if self.learner.shard.zero == 3 and self.policy == "transformers":
            raise ConfigError(
                "policy=transformers samples with the learner's own weights, which "
                "learner.shard.zero=3 cuts over ranks; set policy=sglang, or learner.shard.zero=2"
            )
        if self.engine.colocated and self.max_staleness:
            raise ConfigError(
                f"engine.colocated=true lets engine and learner work in turns, and max_staleness="
                f"{self.max_staleness} at once; give max_staleness=0, or leave engine.colocated out"
            )
        algorithm = self.chosen_algorithm
        if self.shuffle_rewards and algorithm.query_credit:
            raise ConfigError(
                "shuffle_rewards=true is the control without information in the rewards, which "
                "query_credit would give back; set overrides.query_credit=0"
            )

    @property
    def chosen_algorithm(self) -> Algorithm:
        """The algorithm's row with the overrides; ConfigError where they contradict each other.

        Ahead of the rollouts' weights every row is corrected: by truncated importance sampling
        unless its own weight is a truncated one.
        """
        chosen = algorithm_named(self.algorithm, self.overrides)
        if not self.max_staleness or chosen.truncate or chosen.clip == "weight":
            return chosen
        if self.overrides.truncate is not None:
            raise ConfigError(
                f"max_staleness={self.max_staleness} trains tokens of older weights, corrected by "
                "truncated importance sampling, which overrides.truncate=0 turns off; leave "
                "truncate out, or set max_staleness=0"
            )
        return replace(chosen, truncate=TRUNCATE)
