"""Floating-point operations of an update of Qwen2.5-VL, and what devices can do in a second.

The formula is the one in ``learner_gpu.py``; configs are those of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from toolshed.errors import ConfigError

PEAKS = {
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "A100": 311.8,
    "L40S": 362.1,
    "RTX A6000": 154.8,
    "A40": 149.7,
    "RTX 4090": 165.2,
}
"""Dense bfloat16 peak in 1e12 operations a second, by a part of the device's name, the longer first
where one is part of another; from the vendor's data sheets."""


def layer_numbers(text: Any) -> int:
    """Numbers of the matrices of all language layers, which every token is multiplied with."""
    head = text.hidden_size // text.num_attention_heads
    queries = text.hidden_size * text.num_attention_heads * head
    keys = text.hidden_size * text.num_key_value_heads * head
    feed_forward = 3 * text.hidden_size * text.intermediate_size
    return int(text.num_hidden_layers * (2 * queries + 2 * keys + feed_forward))


def tower_numbers(vision: Any) -> float:
    """Numbers of the matrices that every patch is multiplied with; those of the merger, which sees
    several patches as one, count by that many."""
    wide = vision.hidden_size
    merged = vision.spatial_merge_size**2
    opening = wide * vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    block = 4 * wide * wide + 3 * wide * vision.intermediate_size
    merger = (wide * merged) ** 2 + wide * merged * vision.out_hidden_size
    return float(opening + vision.depth * block + merger / merged)


def tower_pairs(vision: Any, grid: tuple[int, int, int]) -> int:
    """Pairs of patches of a picture that see each other, over all layers: all in some of them, in
    the others those of one window. ``grid``: (1, rows, columns) of patches."""
    _, rows, columns = grid
    side = int(vision.window_size // vision.patch_size)

    def squares(size: int) -> int:
        return (size // side) * side**2 + (size % side) ** 2

    full = len(vision.fullatt_block_indexes)
    windowed = squares(rows) * squares(columns)
    return full * (rows * columns) ** 2 + (int(vision.depth) - full) * windowed


def update_flops(
    config: Any,
    lengths: Sequence[int],
    num_trained: int,
    grids: Sequence[tuple[int, int, int]],
    *,
    backward: bool = True,
) -> float:
    """Operations of forward, and ``backward``, over samples of these lengths (pictures expanded)
    with ``num_trained`` trained tokens in all; of the tower over pictures of these ``grids``."""
    text, vision = config.text_config, config.vision_config
    passes = 3 if backward else 1
    head = int(text.hidden_size * text.vocab_size)
    dense = 2.0 * (layer_numbers(text) * sum(lengths) + head * num_trained)
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    attention = 4.0 * text.hidden_size * text.num_hidden_layers * pairs
    patches = sum(rows * columns for _, rows, columns in grids)
    seen = sum(tower_pairs(vision, grid) for grid in grids)
    tower = 2.0 * tower_numbers(vision) * patches + 4.0 * vision.hidden_size * seen
    return float(passes * (dense + attention) + tower)


def peak_of(device: str, told: float) -> float:
    """Dense bfloat16 peak in operations a second: ``told`` in 1e12, or that of a known device."""
    if told:
        return told * 1e12
    name = torch.cuda.get_device_name(device)
    for part, tflops in PEAKS.items():
        if part in name:
            return tflops * 1e12
    raise ConfigError(
        f"the peak of {name} is not in PEAKS; give its dense bfloat16 one as --peak-tflops"
    )
