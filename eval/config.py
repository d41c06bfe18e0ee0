"""Everything that an evaluation depends on besides checkpoint and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rl.policy.api_config import ApiConfig
from rl.policy.sglang.config import EngineConfig
from sft.config import (
    DTYPES,
    ToolsConfig,
    check_choice,
    check_not_negative,
    check_positive,
    to_yaml,
)
from sft.run_dir import changed_keys, leaves
from toolshed.errors import ConfigError
from toolshed.types import Json

CONFIG_FILE = "config.yaml"
REWARDS = ("default", "demo")
POLICIES = ("transformers", "sglang")
FREE_KEYS = (
    *("data", "cache", "out", "tools.schema", "limit", "greedy", "draws"),
    *("repeats", "width", "threads", "devices", "retries", "max_failures", "keep_pictures"),
    *("max_infrastructure", "max_phantom", "max_empty", "show_poisoned", "ray_address"),
    *("api.key_variable", "api.timeout_s", "api.connect_timeout_s", "api.retries"),
    *("api.backoff_s", "api.longest_wait_s", "api.requests_per_minute", "api.concurrent"),
    *("api.cost_limit_usd", "api.prices", "api.raw_dir"),
    *("engine.gpus", "engine.memory_share", "engine.max_total_tokens", "engine.max_running"),
    *("engine.pictures", "engine.checked_prompts", "engine.logs", "engine.start_timeout_s"),
    *("engine.health_every_s", "engine.patience_s", "engine.restarts", "engine.retries"),
)
"""Keys that decide what is asked, how fast and what is shown, never what the answer to a question
is. Rows know their question themselves."""


@dataclass
class EvalConfig:
    """Keys of ``configs/eval/*.yaml`` and of ``key=value`` words."""

    tools: ToolsConfig = field(default_factory=ToolsConfig)
    ray_address: str = ""
    """Running tools: an address, or the file that ``toolshed serve --address-file`` wrote; empty
    for those of this user's ``toolshed serve`` of the same config, else own ones."""
    policy: str = "transformers"
    """What plays a checkpoint: ``transformers`` in this process, or ``sglang``, servers of their
    own on ``device``, ``devices`` of them."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How sglang servers are started."""
    api: ApiConfig = field(default_factory=ApiConfig)
    """How the model of ``api:MODEL`` is reached; a checkpoint needs none of it."""
    data: str = ""
    """Folder with ``KEY.parquet`` of each benchmark; without, published sets are fetched from the
    hub, and the tabletop makes its own."""
    cache: str = ""
    """Folder for pictures that come inside data files; empty for ``$XDG_CACHE_HOME/spacetools`` or
    ``~/.cache/spacetools``."""
    out: str = ""
    """Folder of rows, table and report; empty for ``runs/eval/RUN``, after the checkpoint."""
    limit: int = 0
    """Questions per benchmark, a random part; 0 for all."""
    greedy: bool = True
    """Ask each question once at temperature 0."""
    draws: int = 0
    """Sampled answers per question besides."""
    repeats: int = 1
    """Whole runs of the same asking, one after the other, told apart in rows and report."""
    temperature: float = 1.0
    """Of the sampled answers."""
    seed: int = 0
    reward: str = "default"
    """``default`` or ``demo``: how rewards are mixed; accuracy does not depend on it."""
    width: int = 16
    """Episodes under way at once."""
    max_turns: int = 8
    max_calls: int = 8
    """Calls of one turn that are run."""
    max_reply_chars: int = 0
    """A longer reply of a tool loses its middle; 0 cuts none."""
    max_pixels: int = 0
    """Pixels of a picture as a checkpoint sees it, where it allows more; 0 leaves it to the
    checkpoint. Tools see the whole picture."""
    max_tokens: int = 4096
    """Sampled and reply tokens of one episode."""
    max_turn_tokens: int = 1024
    """Sampled tokens of one turn."""
    max_length: int = 8192
    """Places of the policy's cache for one episode, prompt and pictures included."""
    retries: int = 2
    """How often a question is asked again after our machinery broke it; never for its score."""
    max_failures: float = 0.2
    """Share of questions that our machinery may break before the run stops."""
    max_infrastructure: float = 0.0
    """Share of a benchmark's rows that machinery may have broken in the end; beyond it the run is
    poisoned and shows no scores. None: the same command asks such rows again."""
    max_phantom: float = 0.05
    """The same for rows whose calls used a variable that no tool had published: the released
    checkpoint does so in 2 of 124 (1.6 %), in every run."""
    max_empty: float = 0.05
    """The same for rows in which the model or a tool said nothing."""
    show_poisoned: bool = False
    """Show the scores of a poisoned run; its title says so."""
    keep_pictures: int = 24
    """Questions per benchmark for which pictures that tools made are kept for the report."""
    threads: int = 1
    """CPU threads; on small models a second one costs more than it brings."""
    device: str = "cpu"
    devices: int = 1
    """Copies of the policy, which share the episodes: ``device=cuda devices=2`` are the first two
    GPUs, ``device=cpu devices=2`` two processes."""
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_choice(self, dtype=DTYPES, reward=REWARDS)
        check_choice(self, policy=POLICIES)
        check_positive(self, "repeats", "devices")
        check_positive(self, "temperature", "width", "threads", "max_turns", "max_calls")
        check_positive(self, "max_tokens", "max_turn_tokens", "max_length")
        check_not_negative(self, "limit", "draws", "seed", "keep_pictures", "max_failures")
        check_not_negative(
            self,
            "max_reply_chars",
            "max_pixels",
            "retries",
            "max_infrastructure",
            "max_phantom",
            "max_empty",
        )


def check_same_settings(out: Path, config: EvalConfig) -> None:
    """ConfigError where the rows of a folder were answered under other settings."""
    if not any(path.stat().st_size for path in (out / "rows").glob("*.jsonl")):
        return
    path = out / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(
            f"{out} holds rows, but no {CONFIG_FILE} that says how they were asked; "
            "give another out=, or delete the folder to start again"
        )
    now = {key: value for key, value in _flat(config).items() if key not in FREE_KEYS}
    before = _flat(EvalConfig()) | _read(path)
    changed = changed_keys({key: before[key] for key in now}, now)
    if changed:
        raise ConfigError(
            f"{out} holds answers to other settings ({changed}); "
            "give another out=, or delete the folder to start again"
        )


def _read(path: Path) -> dict[str, Json]:
    import yaml

    try:
        return leaves(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no config of eval.run; give another out=, or delete the folder"
        ) from error


def _flat(config: EvalConfig) -> dict[str, Json]:
    import yaml

    return leaves(yaml.safe_load(to_yaml(config)))
