"""Samples -> tensors: expansion, packing into rows, and the positions that carry loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sft.render import Expanded, Renderer
from sft.sample import TrainingSample
from toolshed.types import ToolImage

_OVERHEAD_PLACES = 64
"""What one more micro-batch costs beside its places (measured on one core, tiny model)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One micro-batch. N is the number of trained tokens, ordered by sample, then position."""

    token_ids_BT: Tensor
    positions_4BT: Tensor
    """Text position within the packed sequence, then temporal, height and width."""
    images: tuple[ToolImage, ...]
    """In the order of their placeholders over rows."""
    predict_N: Tensor
    """Flat index (row * T + column) of the state that predicts each trained token."""
    targets_N: Tensor
    advantages_N: Tensor
    logprobs_N: Tensor
    """Of the policy that sampled them; zeros in SFT."""
    sample_N: Tensor
    """Index of the sample within the micro-batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Placed:
    sample: TrainingSample
    expanded: Expanded


def micro_batches(
    samples: Sequence[TrainingSample], renderer: Renderer, *, max_tokens: int, pack: bool = True
) -> list[Batch]:
    """Cut samples into micro-batches of at most ``max_tokens`` places (rows times row length).

    Samples of like length go together, so that little is padded; a longer sample than
    ``max_tokens`` gets a row alone. ``pack`` lets short samples share a row.
    """
    placed = [_Placed(sample=s, expanded=renderer.expand(s.token_ids, s.images)) for s in samples]
    placed.sort(key=lambda item: -len(item.expanded.token_ids))
    lengths = [len(item.expanded.token_ids) for item in placed]
    return [
        _collate(_fill_rows(placed[start:end], lengths[start], pack), lengths[start])
        for start, end in cut_by_length(lengths, max_tokens)
    ]


def cut_by_length(lengths: Sequence[int], max_tokens: int) -> list[tuple[int, int]]:
    """Slices of descending lengths with the fewest places in all, a batch's overhead included."""
    costs, begins = [0], [0]
    for end in range(1, len(lengths) + 1):
        options = [
            (costs[start] + (end - start) * lengths[start] + _OVERHEAD_PLACES, start)
            for start in range(end)
            if end - start == 1 or (end - start) * lengths[start] <= max_tokens
        ]
        cost, start = min(options)
        costs.append(cost)
        begins.append(start)
    slices, end = [], len(lengths)
    while end:
        slices.append((begins[end], end))
        end = begins[end]
    return slices[::-1]


def _fill_rows(placed: Sequence[_Placed], length: int, pack: bool) -> list[list[_Placed]]:
    """First-fit decreasing into rows of ``length``, or a row for each."""
    rows: list[list[_Placed]] = []
    room: list[int] = []
    for item in placed:
        size = len(item.expanded.token_ids)
        row = next((i for i, free in enumerate(room) if free >= size), None) if pack else None
        if row is None:
            rows.append([item])
            room.append(length - size)
        else:
            rows[row].append(item)
            room[row] -= size
    return rows


def _collate(rows: list[list[_Placed]], length: int) -> Batch:
    token_ids = np.zeros((len(rows), length), dtype=np.int64)
    positions = np.zeros((4, len(rows), length), dtype=np.int64)
    predict, targets, advantages, logprobs, owner = [], [], [], [], []
    images: list[ToolImage] = []
    num_samples = 0
    for r, row in enumerate(rows):
        column = 0
        for item in row:
            size = len(item.expanded.token_ids)
            place = slice(column, column + size)
            token_ids[r, place] = item.expanded.token_ids
            positions[0, r, place] = np.arange(size)
            positions[1:, r, place] = item.expanded.positions
            trained = trained_positions(item.sample, item.expanded)
            predict.append(r * length + column + trained - 1)
            targets.append(item.expanded.token_ids[trained])
            advantages.append(np.full(len(trained), item.sample.advantage, dtype=np.float32))
            logprobs.append(_old_logprobs(item.sample, len(trained)))
            owner.append(np.full(len(trained), num_samples))
            images.extend(item.sample.images)
            num_samples += 1
            column += size
        # Padding goes on counting, so it belongs to the last sequence and opens no new one.
        tail = np.arange(length - column)
        positions[:, r, column:] = positions[:, r, column - 1][:, None] + 1 + tail
    return Batch(
        token_ids_BT=torch.from_numpy(token_ids),
        positions_4BT=torch.from_numpy(positions),
        images=tuple(images),
        predict_N=torch.from_numpy(np.concatenate(predict)),
        targets_N=torch.from_numpy(np.concatenate(targets)),
        advantages_N=torch.from_numpy(np.concatenate(advantages)),
        logprobs_N=torch.from_numpy(np.concatenate(logprobs)),
        sample_N=torch.from_numpy(np.concatenate(owner)),
    )


def trained_positions(sample: TrainingSample, expanded: Expanded) -> npt.NDArray[np.int64]:
    """Expanded positions of the sampled tokens, ascending."""
    sampled = np.zeros(len(sample.token_ids), dtype=bool)
    for span in sample.spans:
        if span.kind == "sampled":
            sampled[span.start : span.end] = True
    return np.flatnonzero(sampled[expanded.origin])


def _old_logprobs(sample: TrainingSample, num_trained: int) -> npt.NDArray[np.float32]:
    if not sample.logprobs:
        return np.zeros(num_trained, dtype=np.float32)
    assert len(sample.logprobs) == num_trained, (len(sample.logprobs), num_trained)
    return np.asarray(sample.logprobs, dtype=np.float32)
