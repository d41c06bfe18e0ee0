"""How much memory a run takes of a GPU, estimated from a checkpoint's files before it is loaded.

The formulas are those of ``learner_gb`` and ``engine_gb``; docs/TRAINING.md has them in words. They
count what is large and nothing else, so leave a tenth of the GPU free. ``disk_gb`` says likewise
what a run's folder takes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.config import RLConfig
from toolshed.errors import ConfigError

_GB = 1e9
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_VISION = "visual."
ACTIVATIONS, LOGITS = "activations", "logits"
"""Parts that are there during an update alone."""
_TILE = 32
"""Rows of a decoder's cache come in so many (``rl.policy.decoder``)."""
_CHUNK = 2**27
"""Logits that are held at a time (``sft.logprobs.CHUNK``, which loads torch)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What of a checkpoint decides how much memory it takes."""

    num_parameters: int
    num_vision: int
    """Of these, the vision tower's."""
    layers: int
    hidden: int
    feed_forward: int
    vocabulary: int
    kv_width: int
    """Numbers that a layer keeps of one token: keys and values of all their heads."""
    query_width: int
    """Numbers of one token's queries, of all heads."""

    @property
    def num_language(self) -> int:
        return self.num_parameters - self.num_vision


def shape_of(folder: Path) -> Shape:
    """Read ``config.json`` and the headers of the weights; ConfigError where that fails."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text = config | config.get("text_config", {})
        sizes = _sizes(folder)
        heads = int(text["num_attention_heads"])
        width = int(text.get("head_dim") or text["hidden_size"] // heads)
        return Shape(
            num_parameters=sum(sizes.values()),
            num_vision=sum(size for name, size in sizes.items() if _VISION in name),
            layers=int(text["num_hidden_layers"]),
            hidden=int(text["hidden_size"]),
            feed_forward=int(text["intermediate_size"]),
            vocabulary=int(text["vocab_size"]),
            kv_width=2 * int(text["num_key_value_heads"]) * width,
            query_width=heads * width,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder} is no Hugging Face checkpoint that can be read ({error!r}); get it again"
        ) from error


def _sizes(folder: Path) -> dict[str, int]:
    """Numbers of each tensor: a safetensors file begins with the length of its header."""
    found: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        found |= {name: math.prod(each["shape"]) for name, each in header.items()}
    return found


def trained_numbers(shape: Shape, config: RLConfig) -> int:
    """Numbers that move: of adapters ``rank`` x (in + out) of each matrix of the language layers;
    else the language model's, with the tower's where that is not frozen."""
    if not config.learner.lora.rank:
        return shape.num_parameters if config.learner.frozen == "none" else shape.num_language
    attention = 2 * (shape.hidden + shape.query_width) + 2 * shape.hidden + shape.kv_width
    feed_forward = 3 * (shape.hidden + shape.feed_forward)
    return config.learner.lora.rank * shape.layers * (attention + feed_forward)


def learner_gb(shape: Shape, config: RLConfig, ranks: int) -> dict[str, float]:
    """Of one of ``ranks`` GPUs, in 1e9 bytes: P parameters of which T are trained, b bytes each.

    weights b P, with adapters b (P + T) (ZeRO-3: what is no frozen tower over ranks); gradients and
    Adam 16 T over ranks with ZeRO (fp32 gradients, master and two moments), else 3 b T; reference b
    T where there is a KL term and no adapters; a layer makes b (8 hidden + 3 feed_forward) for each
    place of a micro-batch, of which checkpointing keeps b hidden for all layers but one; logits 4
    + b bytes each, a chunk of them; features of a frozen tower at most
    ``learner.shard.features_mb``. Where this process plays, its decoder has the language model's
    weights and a cache of its own.
    """
    each, zero = _BYTES[config.dtype], config.learner.shard.zero
    trained, adapters = trained_numbers(shape, config), config.learner.lora.rank > 0
    held = shape.num_parameters + trained * adapters
    still = shape.num_vision if config.learner.frozen == "vision" else 0
    layer = each * (8 * shape.hidden + 3 * shape.feed_forward)
    kept = layer + each * shape.hidden * shape.layers
    place = kept if config.learner.shard.checkpointing else layer * shape.layers
    found = {
        "weights": each * (still + (held - still) / (ranks if zero == 3 else 1)),
        "gradients and Adam": 16 * trained / ranks if zero else 3 * each * trained,
        "reference": each * trained if config.chosen_algorithm.kl and not adapters else 0,
        "features": (config.learner.shard.features_mb << 20) if still else 0,
        ACTIVATIONS: place * config.learner.micro_tokens,
        LOGITS: (4 + each) * min(config.learner.micro_tokens * shape.vocabulary, _CHUNK),
    }
    if config.policy == "transformers":
        slots, places = -(-config.rollout.width // _TILE) * _TILE, config.rollout.max_length
        found["decoder's weights"] = each * shape.num_language
        found["decoder's cache"] = _place_bytes(shape, config.dtype) * slots * places
    return {name: size / _GB for name, size in found.items() if size}


def _place_bytes(shape: Shape, dtype: str) -> int:
    """Of a cache, for one place."""
    return _BYTES[dtype] * shape.layers * shape.kv_width


def engine_gb(shape: Shape, config: RLConfig) -> dict[str, float]:
    """Of one GPU of an engine, in 1e9 bytes: weights b P, and the cache of the longest
    trajectories, ``width`` over all engines: b layers kv_width for each of ``max_length`` places.
    """
    engine = config.engine
    each = _BYTES[engine.dtype]
    one = _place_bytes(shape, engine.dtype) * config.rollout.max_length
    num = math.ceil(config.rollout.width / engine.servers)
    return {
        "weights": each * shape.num_parameters / engine.tensor_parallel / _GB,
        "one trajectory at its longest": one / engine.tensor_parallel / _GB,
        f"{num} of them": num * one / engine.tensor_parallel / _GB,
    }


def together_gb(shape: Shape, config: RLConfig, ranks: int) -> float:
    """Of a GPU that learner and engine share, while the engine works: its weights and one
    trajectory at its longest, beside what the learner holds between updates."""
    engine = engine_gb(shape, config)
    learner = learner_gb(shape, config, ranks)
    held = sum(size for name, size in learner.items() if name not in (ACTIVATIONS, LOGITS))
    return held + engine["weights"] + engine["one trajectory at its longest"]


def disk_gb(shape: Shape, config: RLConfig) -> dict[str, float]:
    """Of a run's folder at its fullest, in 1e9 bytes: the states of the two newest checkpoints and
    of one that is being written, every export that is kept, and the final weights.

    Without pictures, dumps of trajectories, logs and weights that pass to engines through a folder.
    """
    each, trained = _BYTES[config.dtype], trained_numbers(shape, config)
    held = shape.num_parameters + trained * (config.learner.lora.rank > 0)
    save, num = config.save, math.ceil(config.steps / config.save.every)
    exports = min(num, save.keep_hf + 1 if save.keep_hf else num) if save.hf else 0
    moments = 12 if config.learner.shard.zero else 2 * each
    found = {
        "states": min(num, 3) * (each * held + moments * trained),
        f"{exports} exports": exports * each * shape.num_parameters,
        "final": each * shape.num_parameters,
    }
    return {name: size / _GB for name, size in found.items() if size}
