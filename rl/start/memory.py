"""How much memory a run takes of a GPU, estimated from a checkpoint's files before it is loaded.

What the learner takes in any run is estimated by ``sft.memory``; here is what rollouts add, in
``run_gb`` and ``engine_gb``; docs/TRAINING.md has the formulas in words. ``disk_gb`` says likewise
what a run's folder takes.
"""

from __future__ import annotations

import math

from rl.config import RLConfig
from sft.memory import (
    ACTIVATIONS,
    BYTES,
    GB,
    LOGITS,
    Shape,
    learner_gb,
    trained_numbers,
    training_disk_gb,
)

_TILE = 32
"""Rows of a decoder's cache come in so many (``rl.policy.decoder``)."""


def run_gb(shape: Shape, config: RLConfig, ranks: int) -> dict[str, float]:
    """Of one of the learner's ``ranks`` GPUs, in 1e9 bytes: what ``learner_gb`` says and, with b
    bytes a number, a reference b T where there is a KL term and no adapters; where this process
    plays, its decoder has the language model's weights and a cache of its own.
    """
    each = BYTES[config.dtype]
    found = learner_gb(shape, config.learner, config.dtype, ranks)
    if config.chosen_algorithm.kl and not config.learner.lora.rank:
        found["reference"] = each * trained_numbers(shape, config.learner) / GB
    if config.policy == "transformers":
        slots, places = -(-config.rollout.width // _TILE) * _TILE, config.rollout.max_length
        found["decoder's weights"] = each * shape.num_language / GB
        found["decoder's cache"] = _place_bytes(shape, config.dtype) * slots * places / GB
    return {name: size for name, size in found.items() if size}


def _place_bytes(shape: Shape, dtype: str) -> int:
    """Of a cache, for one place."""
    return BYTES[dtype] * shape.layers * shape.kv_width


def engine_gb(shape: Shape, config: RLConfig) -> dict[str, float]:
    """Of one GPU of an engine, in 1e9 bytes: weights b P, and the cache of the longest
    trajectories, ``width`` over all engines: b layers kv_width for each of ``max_length`` places.
    """
    engine = config.engine
    each = BYTES[engine.dtype]
    one = _place_bytes(shape, engine.dtype) * config.rollout.max_length
    num = math.ceil(config.rollout.width / engine.servers)
    return {
        "weights": each * shape.num_parameters / engine.tensor_parallel / GB,
        "one trajectory at its longest": one / engine.tensor_parallel / GB,
        f"{num} of them": num * one / engine.tensor_parallel / GB,
    }


def together_gb(shape: Shape, config: RLConfig, ranks: int) -> float:
    """Of a GPU that learner and engine share, while the engine works: its weights and one
    trajectory at its longest, beside what the learner holds between updates."""
    engine = engine_gb(shape, config)
    learner = run_gb(shape, config, ranks)
    held = sum(size for name, size in learner.items() if name not in (ACTIVATIONS, LOGITS))
    return held + engine["weights"] + engine["one trajectory at its longest"]


def disk_gb(shape: Shape, config: RLConfig) -> dict[str, float]:
    """Of a run's folder at its fullest, in 1e9 bytes: what ``training_disk_gb`` says, and every
    export that is kept.

    Without pictures, dumps of trajectories, logs and weights that pass to engines through a folder.
    """
    save, num = config.save, math.ceil(config.steps / config.save.every)
    exports = min(num, save.keep_hf + 1 if save.keep_hf else num) if save.hf else 0
    found = training_disk_gb(shape, config.learner, config.dtype, num)
    if exports:
        found[f"{exports} exports"] = exports * BYTES[config.dtype] * shape.num_parameters / GB
    return found
