"""What engines need, said before any of them is started."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rl.policy.sglang.config import MARGIN, EngineConfig
from sft.config import LoraConfig
from toolshed.errors import ConfigError
from toolshed.resources import visible_gpus


def missing(engine: EngineConfig) -> list[str]:
    """What this machine lacks, a sentence each: the environment, devices."""
    from rl.policy.sglang.server import interpreter

    found = []
    try:
        interpreter(engine)
    except ConfigError as error:
        found.append(str(error))
    if engine.device == "cuda":
        wanted = engine.gpus or range(engine.servers * engine.tensor_parallel)
        if max(wanted) >= visible_gpus():
            found.append(
                f"engines need GPU {max(wanted)}, and {visible_gpus()} GPUs are seen here; change "
                "engine.gpus, engine.servers, engine.tensor_parallel, or give engine.device=cpu"
            )
    return found


def check_lengths(engine: EngineConfig, folder: Path, max_length: int) -> None:
    """ConfigError where a sequence of ``max_length`` does not fit into engines of a checkpoint."""
    needed = max_length + MARGIN
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    rooms = {
        "the positions of the checkpoint": int(text.get("max_position_embeddings", needed)),
        "engine.context_length": engine.context_length or needed,
        "engine.max_total_tokens": engine.max_total_tokens or needed,
    }
    name = min(rooms, key=lambda each: rooms[each])
    if rooms[name] < needed:
        raise ConfigError(
            f"max_length={max_length} needs {needed} places of an engine, which keeps {MARGIN} for "
            f"itself, and {name} are {rooms[name]}; give max_length={rooms[name] - MARGIN} or less"
        )


def check_training(
    engine: EngineConfig,
    *,
    device: str,
    frozen: str,
    lora: LoraConfig | None = None,
    ranks: int = 1,
) -> None:
    """ConfigError where a learner on ``device``, or on the first ``ranks`` GPUs, cannot hand its
    weights to these engines.

    lora: of the learner; ``engine.lora`` if None.
    """
    engine = replace(engine, lora=lora or engine.lora)
    if engine.lora.rank and engine.way in ("broadcast", "ipc"):
        raise ConfigError(
            f"engine.sync={engine.way} sends whole matrices, and learner.lora.rank="
            f"{engine.lora.rank} trains adapters alone; give engine.sync=folder, or leave "
            "engine.sync out"
        )
    if frozen != "vision" and not engine.trains_vision:
        raise ConfigError(
            f"learner.frozen={frozen} trains vision, and engines keep the features of pictures "
            "between requests; give engine.trains_vision=true"
        )
    kind, _, number = device.partition(":")
    engine_gpus = engine.gpus or [0]
    if engine.colocated and (kind == "cpu" or int(number or 0) not in engine_gpus):
        raise ConfigError(
            f"engine.colocated=true shares the learner's GPU, and device={device} with engines on "
            f"GPU {engine_gpus[0]}; give both the same, device=cuda:{engine_gpus[0]} for example"
        )
    if engine.way != "broadcast" or engine.device == "cpu":
        return
    if kind == "cpu":
        raise ConfigError(
            "engine.sync=broadcast goes from GPU to GPU, and device=cpu; give engine.sync=folder"
        )
    own = {int(number)} if number else set(range(ranks))
    if not engine.gpus or own & set(engine.gpus):
        where = f"{device} with {ranks} ranks" if ranks > 1 else device
        raise ConfigError(
            f"the learner is on {where}, and engine.gpus={engine.gpus} gives engines the same "
            "GPU, where NCCL cannot send; name others in engine.gpus, or give engine.colocated=true"
        )
