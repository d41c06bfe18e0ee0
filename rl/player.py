"""A checkpoint made ready to play: its tools checked against it, its weights behind a Policy."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rl.policy.apart import Loading, PolicyApart
from rl.policy.replicas import Replicas
from rl.rollout import Limits, Player
from sft.checkpoint import check_schema, resolve_checkpoint
from sft.render import Renderer
from toolshed.errors import ConfigError
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
    devices: int = 1,
    dtype: str = "float32",
    threads: int = 1,
    max_pixels: int = 0,
) -> Player:
    """Weights and renderer of a checkpoint folder, ready for rollouts; None plays without tools.

    With several ``devices`` a copy of the weights is on each, and they share the ``width``.
    """
    if devices > 1:
        places = policy_devices(device, devices)
        replicas = _replicas(
            [
                Loading(
                    folder=folder,
                    device=each,
                    dtype=dtype,
                    threads=threads,
                    num_slots=math.ceil(width / len(places)),
                    max_length=max_length,
                    max_pixels=max_pixels,
                )
                for each in places
            ]
        )
        renderer = Renderer.load(folder, max_pixels=max_pixels)
        return Player(policy=replicas, renderer=renderer, shed=shed, limits=limits)
    import torch

    from rl.policy.transformers import TransformersPolicy
    from sft.model import load_model

    torch.set_num_threads(threads)
    renderer = Renderer.load(folder, max_pixels=max_pixels)
    model = load_model(folder, dtype=getattr(torch, dtype), device=device)
    policy = TransformersPolicy(model, renderer, num_slots=width, max_length=max_length)
    return Player(policy=policy, renderer=renderer, shed=shed, limits=limits)


def policy_devices(device: str, num: int) -> list[str]:
    """Where the copies of a policy go: ``cuda`` and 2 are ``cuda:0`` and ``cuda:1``.

    ConfigError where ``device`` is one GPU by its number and more are wanted.
    """
    if num == 1 or device == "cpu":
        return [device] * num
    if ":" in device:
        raise ConfigError(f"device={device} is one GPU, and devices={num}; give device=cuda")
    return [f"{device}:{number}" for number in range(num)]


def _replicas(every: Sequence[Loading]) -> Replicas:
    """One process per device, loading at the same time; all end where one cannot be had."""
    policies: list[PolicyApart] = []
    with contextlib.ExitStack() as opened:
        for loading in every:
            policies.append(PolicyApart(loading))
            opened.callback(policies[-1].close)
        for policy in policies:
            policy.wait()
        opened.pop_all()
    return Replicas(policies)
