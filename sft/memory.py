"""How much memory training takes of a GPU, estimated from a checkpoint's files before it is loaded.

The formulas are those of ``learner_gb``; docs/TRAINING.md has them in words. They count what is
large and nothing else, so leave a tenth of the GPU free. ``training_disk_gb`` says likewise what a
run's folder takes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.config import LearnerConfig
from toolshed.errors import ConfigError

GB = 1e9
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_VISION = "visual."
ACTIVATIONS, LOGITS = "activations", "logits"
"""Parts that are there during an update alone."""
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


def trained_numbers(shape: Shape, learner: LearnerConfig) -> int:
    """Numbers that move: of adapters ``rank`` x (in + out) of each matrix of the language layers;
    else the language model's, with the tower's where that is not frozen."""
    if not learner.lora.rank:
        return shape.num_parameters if learner.frozen == "none" else shape.num_language
    attention = 2 * (shape.hidden + shape.query_width) + 2 * shape.hidden + shape.kv_width
    feed_forward = 3 * (shape.hidden + shape.feed_forward)
    return learner.lora.rank * shape.layers * (attention + feed_forward)


def learner_gb(shape: Shape, learner: LearnerConfig, dtype: str, ranks: int) -> dict[str, float]:
    """Of one of ``ranks`` GPUs, in 1e9 bytes: P parameters of which T are trained, b bytes each.

    weights b P, with adapters b (P + T) (ZeRO-3: what is no frozen tower over ranks); gradients and
    Adam 16 T over ranks with ZeRO (fp32 gradients, master and two moments), else 3 b T; a layer
    makes b (8 hidden + 3 feed_forward) for each place of a micro-batch, of which checkpointing
    keeps b hidden for all layers but one; logits 4 + b bytes each, a chunk of them; features of
    a frozen tower at most ``learner.shard.features_mb``.
    """
    each, zero = BYTES[dtype], learner.shard.zero
    trained = trained_numbers(shape, learner)
    held = shape.num_parameters + trained * (learner.lora.rank > 0)
    still = shape.num_vision if learner.frozen == "vision" else 0
    layer = each * (8 * shape.hidden + 3 * shape.feed_forward)
    kept = layer + each * shape.hidden * shape.layers
    place = kept if learner.shard.checkpointing else layer * shape.layers
    found = {
        "weights": each * (still + (held - still) / (ranks if zero == 3 else 1)),
        "gradients and Adam": 16 * trained / ranks if zero else 3 * each * trained,
        "features": (learner.shard.features_mb << 20) if still else 0,
        ACTIVATIONS: place * learner.micro_tokens,
        LOGITS: (4 + each) * min(learner.micro_tokens * shape.vocabulary, _CHUNK),
    }
    return {name: size / GB for name, size in found.items() if size}


def training_disk_gb(
    shape: Shape, learner: LearnerConfig, dtype: str, num_saves: int
) -> dict[str, float]:
    """Of a run's folder at its fullest, in 1e9 bytes: the states of the two newest checkpoints and
    of one that is being written, of ``num_saves`` in all, and the final weights."""
    each, trained = BYTES[dtype], trained_numbers(shape, learner)
    held = shape.num_parameters + trained * (learner.lora.rank > 0)
    moments = 12 if learner.shard.zero else 2 * each
    states = min(num_saves, 3) * (each * held + moments * trained)
    return {"states": states / GB, "final": each * shape.num_parameters / GB}
