"""A checkpoint behind sglang servers of its own, where nobody trains: how they are set and
started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rl.policy.sglang.config import EngineConfig, with_limits
from toolshed.errors import ConfigError

if TYPE_CHECKING:
    from rl.rollout import Limits, Player
    from toolshed.shed import Toolshed

_DECIDED = {"device": "device", "dtype": "dtype", "servers": "devices"}
"""Keys of an engine -> those of a command that decide them."""


def engine_alone(
    engine: EngineConfig,
    *,
    device: str,
    dtype: str,
    servers: int,
    width: int,
    max_length: int,
    logs: Path,
) -> EngineConfig:
    """The engines of a command, on its devices and under its limits; ConfigError where ``engine``
    says otherwise."""
    own = EngineConfig()
    for theirs, ours in _DECIDED.items():
        if getattr(engine, theirs) != getattr(own, theirs):
            raise ConfigError(
                f"engine.{theirs}={getattr(engine, theirs)} is decided by {ours}= here; "
                f"give {ours}="
            )
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"device={device} with policy=sglang: give device=cuda and engine.gpus")
    set_up = replace(
        engine, device=device, dtype=dtype, servers=servers, logs=engine.logs or str(logs)
    )
    return with_limits(set_up, width=width, max_length=max_length)


async def start_alone(
    engine: EngineConfig, folder: Path, shed: Toolshed | None, limits: Limits
) -> Player:
    """Engines that have started: minutes. Closing the player's policy ends them."""
    from rl.policy.sglang.policy import SglangPolicy
    from rl.rollout import Player
    from sft.render import Renderer

    renderer = Renderer.load(folder)
    policy = SglangPolicy(engine, renderer, folder)
    await policy.start()
    return Player(policy=policy, renderer=renderer, shed=shed, limits=limits)
