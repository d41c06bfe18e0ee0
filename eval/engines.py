"""A checkpoint behind sglang servers of its own, for as long as it is examined."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.config import EvalConfig
from rl.policy.sglang.config import EngineConfig, with_limits
from rl.policy.sglang.preflight import check_lengths, missing
from toolshed.errors import ConfigError

if TYPE_CHECKING:
    from rl.rollout import Player
    from toolshed.shed import Toolshed

_TAKEN = {"device": "device", "dtype": "dtype", "servers": "devices"}
"""Keys of an engine -> those of an evaluation that decide them."""


def engine_config(config: EvalConfig) -> EngineConfig:
    """The engines of an evaluation, on its devices and under its limits; ConfigError where
    ``engine`` says otherwise."""
    own = EngineConfig()
    for theirs, ours in _TAKEN.items():
        if getattr(config.engine, theirs) != getattr(own, theirs):
            raise ConfigError(
                f"engine.{theirs}={getattr(config.engine, theirs)} is decided by {ours}= here; "
                f"give {ours}="
            )
    if config.device not in ("cpu", "cuda"):
        raise ConfigError(
            f"device={config.device} with policy=sglang: give device=cuda and engine.gpus"
        )
    engine = replace(
        config.engine,
        device=config.device,
        dtype=config.dtype,
        servers=config.devices,
        logs=config.engine.logs or str(Path(config.out) / "engine"),
    )
    return with_limits(engine, width=config.width, max_length=config.max_length)


def engine_words(config: EvalConfig) -> str:
    """What would be started, in a line."""
    engine = engine_config(config)
    changed = [
        f"{each.name}={getattr(config.engine, each.name)}"
        for each in fields(engine)
        if getattr(config.engine, each.name) != getattr(EngineConfig(), each.name)
    ]
    return ", ".join(
        [
            f"sglang of environment {engine.environment}",
            f"{engine.servers} servers on {engine.device}, {engine.dtype}",
            f"{engine.max_running} episodes of {config.max_length} places",
            f"logs in {engine.logs}",
            *changed,
        ]
    )


def missing_engines(config: EvalConfig) -> list[str]:
    """What this machine lacks for them, a sentence each."""
    return missing(engine_config(config))


def check_engines(config: EvalConfig, folder: Path) -> None:
    """ConfigError where episodes do not fit into engines of this checkpoint."""
    check_lengths(engine_config(config), folder, config.max_length)


async def engine_player(config: EvalConfig, folder: Path, shed: Toolshed | None) -> Player:
    """Engines that have started: minutes. Closing the player's policy ends them."""
    from eval.evaluate import limits_of
    from rl.policy.sglang.policy import SglangPolicy
    from rl.rollout import Player
    from sft.render import Renderer

    renderer = Renderer.load(folder)
    policy = SglangPolicy(engine_config(config), renderer, folder)
    await policy.start()
    return Player(policy=policy, renderer=renderer, shed=shed, limits=limits_of(config))
