"""Everything that an evaluation depends on besides checkpoint and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field

from sft.config import DTYPES, SCHEMA_POLICIES, ToolsConfig, check_choice, check_positive


@dataclass
class EvalConfig:
    """Keys of ``configs/eval/*.yaml`` and of ``key=value`` words."""

    tools: ToolsConfig = field(default_factory=ToolsConfig)
    schema: str = "same"
    """``any`` accepts a checkpoint that was trained with another tool schema."""
    data: str = ""
    """Folder with ``KEY.parquet`` of each benchmark; the tabletop makes its own without."""
    out: str = ""
    """Folder of rows, table and report; empty for ``runs/eval/NAME`` of the checkpoint."""
    limit: int = 0
    """Questions per benchmark, a random part; 0 for all."""
    greedy: bool = True
    """Ask each question once at temperature 0."""
    draws: int = 0
    """Sampled answers per question besides."""
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
    max_tokens: int = 4096
    """Sampled and reply tokens of one episode."""
    max_turn_tokens: int = 1024
    """Sampled tokens of one turn."""
    max_length: int = 8192
    """Places of the policy's cache for one episode, prompt and pictures included."""
    max_failures: float = 0.2
    """Share of episodes that our machinery may break before the run stops."""
    keep_pictures: int = 24
    """Questions per benchmark whose pictures are kept for the report."""
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_choice(self, schema=SCHEMA_POLICIES, dtype=DTYPES)
        check_positive(self, "temperature", "width", "max_turns", "max_calls")
        check_positive(self, "max_tokens", "max_turn_tokens", "max_length")
