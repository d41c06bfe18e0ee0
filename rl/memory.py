"""How much memory a run takes of a GPU, estimated from a checkpoint's files before it is loaded.

The formulas are those of ``learner_gb`` and ``engine_gb``; docs/TRAINING.md has them in words. They
count what is large and nothing else, so leave a tenth of the GPU free.
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
_CHUNK = 4096
"""Places whose logits are held at a time (``sft.model.token_logprobs``)."""


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


def learner_gb(shape: Shape, config: RLConfig, ranks: int) -> dict[str, float]:
    """Of one of ``ranks`` GPUs, in 1e9 bytes: P parameters of which T are trained, b bytes each.

    weights b P (ZeRO-3: T over ranks); gradients and Adam 16 T over ranks with ZeRO (fp32
    gradients, master and two moments), else 3 b T; reference b T where there is a KL term; a layer
    makes b (8 hidden + 3 feed_forward) for each place of a micro-batch, of which checkpointing
    keeps b hidden for all layers but one; logits 12 bytes for each word of a chunk.
    """
    each, zero = _BYTES[config.dtype], config.shard.zero
    trained = shape.num_language if config.frozen == "vision" else shape.num_parameters
    cut = ranks if zero == 3 else 1
    layer = each * (8 * shape.hidden + 3 * shape.feed_forward)
    kept = layer + each * shape.hidden * shape.layers
    place = kept if config.shard.checkpointing else layer * shape.layers
    found = {
        "weights": each * (shape.num_parameters - trained + trained / cut),
        "gradients and Adam": 16 * trained / ranks if zero else 3 * each * trained,
        "reference": each * trained if config.chosen_algorithm.kl else 0,
        "activations": place * config.micro_tokens,
        "logits": 12 * shape.vocabulary * min(config.micro_tokens, _CHUNK),
    }
    return {name: size / _GB for name, size in found.items() if size}


def engine_gb(shape: Shape, config: RLConfig) -> dict[str, float]:
    """Of one GPU of an engine, in 1e9 bytes: weights b P, and the cache of the longest
    trajectories, ``width`` over all engines: b layers kv_width for each of ``max_length`` places.
    """
    engine = config.engine
    each = _BYTES[engine.dtype]
    one = each * shape.layers * shape.kv_width * config.max_length
    num = math.ceil(config.width / engine.servers)
    return {
        "weights": each * shape.num_parameters / engine.tensor_parallel / _GB,
        "one trajectory at its longest": one / engine.tensor_parallel / _GB,
        f"{num} of them": num * one / engine.tensor_parallel / _GB,
    }


def checkpoint_gb(shape: Shape, config: RLConfig) -> float:
    """Of the two newest checkpoints, one that is being written and the final weights."""
    each = _BYTES[config.dtype]
    trained = shape.num_language if config.frozen == "vision" else shape.num_parameters
    state = 12 * trained if config.shard.zero else 2 * each * trained
    return (3 * (each * shape.num_parameters + state) + each * shape.num_parameters) / _GB
