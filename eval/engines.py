"""A checkpoint behind sglang servers of its own, for as long as it is examined."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from eval.config import EvalConfig
from rl.policy.sglang.alone import engine_alone, start_alone
from rl.policy.sglang.config import EngineConfig
from rl.policy.sglang.preflight import check_lengths, missing

if TYPE_CHECKING:
    from rl.rollout import Player
    from toolshed.shed import Toolshed


def engine_config(config: EvalConfig) -> EngineConfig:
    """The engines of an evaluation, on its devices and under its limits; ConfigError where
    ``engine`` says otherwise."""
    return engine_alone(
        config.engine,
        device=config.device,
        dtype=config.dtype,
        servers=config.devices,
        width=config.width,
        max_length=config.max_length,
        logs=Path(config.out) / "engine",
    )


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

    return await start_alone(engine_config(config), folder, shed, limits_of(config))
