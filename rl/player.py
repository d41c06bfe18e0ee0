"""A checkpoint made ready to play: its tools checked against it, its weights behind a Policy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from rl.rollout import Limits, Player
from sft.checkpoint import check_schema, resolve_checkpoint
from sft.render import Renderer
from toolshed.shed import Toolshed
from toolshed.toolset import ToolSet


def check_tools(checkpoint: str | Path, tools: ToolSet, schema: Literal["same", "any"]) -> Path:
    """The checkpoint's folder; ConfigError if it was made with other tools. Loads no weights."""
    folder = resolve_checkpoint(checkpoint)
    warning = check_schema(folder, tools.schema_hash, schema)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    return folder


def load_player(
    folder: Path,
    shed: Toolshed | None,
    *,
    limits: Limits,
    width: int,
    max_length: int,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int = 1,
) -> Player:
    """Weights and renderer of a checkpoint folder, ready for rollouts; None plays without tools."""
    import torch

    from rl.policy.transformers import TransformersPolicy
    from sft.model import load_model

    torch.set_num_threads(threads)
    renderer = Renderer.load(folder)
    model = load_model(folder, dtype=getattr(torch, dtype), device=device)
    policy = TransformersPolicy(model, renderer, num_slots=width, max_length=max_length)
    return Player(policy=policy, renderer=renderer, shed=shed, limits=limits)
