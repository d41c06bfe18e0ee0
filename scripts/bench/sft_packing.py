"""Packed against unpacked, padding, and the load of ranks, by the real packer and divider.

``packed_max_diff``: a tiny model learns from conversations of mixed lengths with up to three
pictures, each alone in a micro-batch, and then all packed into rows of one; the largest absolute
difference of the loss or of the gradient over the largest absolute value of either.

``padding_waste_1``, ``padding_waste_8``: padding over all places that are computed, of 64
conversations a step on 1 and 8 ranks, lengths (pictures expanded) log-normal with median 4,250 and
sigma 0.35, cut at 8,192, micro-batches of 8,192 places; micro-batches of ranks that wait for others
count as padding. ``rank_imbalance``: tokens of the busiest rank over the mean, median of 50
steps on 8 ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

import sft.learner
import sft.model
from sft.batch import empty_batch, micro_batches
from sft.config import OptimConfig
from sft.learner import Learner
from sft.model import load_model
from sft.ranks import shares
from sft.render import Renderer, Rendering
from sft.sample import TrainingSample
from toolshed.images import make_image
from toolshed.types import ToolImage

BATCH, MEDIAN, SIGMA, LONGEST, RANKS = 64, 4250, 0.35, 8192, 8
STEPS = 50
_MARK = "<|vision_start|><|image_pad|><|vision_end|>"
_hidden_states = sft.model.hidden_states


def packed_max_diff(folder: Path, *, handicapped: bool = False) -> float:
    """Relative; ``handicapped``: packed sequences see those before them in their row."""
    renderer = Renderer.load(folder)
    rng = np.random.default_rng(0)
    samples = [
        _sample(renderer, rng, int(length), [_picture(rng, 112) for _ in range(index % 4)])
        for index, length in enumerate(rng.integers(90, 400, 12))
    ]
    alone = _learn(folder, renderer, samples, max_tokens=1)
    # The overhead counts as places, so a large one packs all samples into one micro-batch.
    with patch("sft.batch._OVERHEAD_PLACES", 10**9):
        (packed,) = micro_batches(samples, renderer, max_tokens=10**6)
        assert len(packed.token_ids_BT) < len(samples), "no row holds two samples"
        seeing = _seeing_all if handicapped else _hidden_states
        with patch.object(sft.learner, "hidden_states", seeing):
            together = _learn(folder, renderer, samples, max_tokens=10**6)
    pairs = zip(alone, together, strict=True)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def _learn(
    folder: Path, renderer: Renderer, samples: Sequence[TrainingSample], *, max_tokens: int
) -> tuple[Tensor, Tensor]:
    """(loss, gradient) of one step over everything that there is to train."""
    learner = Learner(
        load_model(folder),
        renderer,
        OptimConfig(),
        frozen="none",
        total_steps=1,
        max_tokens=max_tokens,
    )
    told = learner.forward_backward(samples)
    parts = [p.grad.flatten() for p in learner.model.parameters() if p.grad is not None]
    return torch.tensor(told["loss"]), torch.cat(parts)


def _seeing_all(model: Any, ids: Tensor, positions: Tensor, *rest: Any) -> Tensor:
    """The fault that the comparison must find: a row counts on as if it were one sequence."""
    positions = positions.clone()
    positions[0] = torch.arange(positions.shape[-1])
    return _hidden_states(model, ids, positions, *rest)


def padding(folder: Path, *, steps: int = STEPS, handicapped: bool = False) -> dict[str, float]:
    """The three figures; ``handicapped``: a step's samples are padded to its longest, and dealt to
    ranks in turn."""
    renderer = Renderer.load(folder)
    rng = np.random.default_rng(0)
    pictures = [_picture(rng, side) for side in (280, 420, 560)]
    places: dict[int, int] = {1: 0, RANKS: 0}
    tokens, imbalances = 0, []
    with _each_alone() if handicapped else _as_it_is():
        for _ in range(steps):
            lengths = rng.lognormal(np.log(MEDIAN), SIGMA, BATCH)
            samples = [
                _sample(renderer, rng, min(LONGEST, int(length)), [pictures[i % 3]] * (i % 3))
                for i, length in enumerate(lengths)
            ]
            loads = []
            for ranks in places:
                parts = _dealt(samples, ranks) if handicapped else _shares(samples, renderer, ranks)
                places[ranks] += _computed(parts, renderer)
                loads = [_num_tokens(part, renderer) for part in parts]
            tokens += sum(loads)
            imbalances.append(max(loads) * len(loads) / sum(loads))
    return {
        "padding_waste_1": 1 - tokens / places[1],
        "padding_waste_8": 1 - tokens / places[RANKS],
        "rank_imbalance": median(imbalances),
    }


def _shares(
    samples: Sequence[TrainingSample], renderer: Renderer, ranks: int
) -> list[list[TrainingSample]]:
    with patch("sft.ranks.num_ranks", lambda: ranks):
        return shares(samples, renderer)


def _dealt(samples: Sequence[TrainingSample], ranks: int) -> list[list[TrainingSample]]:
    return [list(samples[rank::ranks]) for rank in range(ranks)]


def _computed(parts: Sequence[Sequence[TrainingSample]], renderer: Renderer) -> int:
    """Places of all ranks' micro-batches, with those of ranks that wait for the busiest."""
    batches = [micro_batches(part, renderer, max_tokens=LONGEST) for part in parts]
    most = max(map(len, batches))
    waiting = sum(most - len(own) for own in batches) * empty_batch(renderer).token_ids_BT.numel()
    return waiting + sum(batch.token_ids_BT.numel() for own in batches for batch in own)


def _num_tokens(samples: Sequence[TrainingSample], renderer: Renderer) -> int:
    return sum(len(renderer.expand(s.token_ids, s.images).token_ids) for s in samples)


@contextmanager
def _each_alone() -> Iterator[None]:
    def padded(lengths: Sequence[int], max_tokens: int) -> list[list[list[int]]]:
        return [[[index] for index in range(len(lengths))]]

    with patch("sft.batch.fewest_places", padded):
        yield


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


def _picture(rng: np.random.Generator, side: int) -> ToolImage:
    return make_image(rng.integers(0, 255, (side, side, 3), dtype=np.uint8))


def _sample(
    renderer: Renderer, rng: np.random.Generator, length: int, pictures: Sequence[ToolImage]
) -> TrainingSample:
    """A conversation of ``length`` tokens, pictures expanded: the first picture belongs to the
    prompt, the others to a reply between two turns."""
    mark = list(renderer.encode(_MARK))
    sizes = [renderer.vision(picture).num_tokens + len(mark) - 1 for picture in pictures]
    rest = length - sum(sizes)
    said = max(2, round(0.15 * rest) // 2)

    def words(size: int) -> list[int]:
        return [int(token) for token in rng.integers(20, 200, size)]

    rendering = Rendering()
    rendering.append(mark * bool(pictures) + words(rest - 2 * said), "prompt")
    rendering.append(words(said), "sampled")
    if len(pictures) > 1:
        rendering.append(mark * (len(pictures) - 1), "reply")
    rendering.append(words(said), "sampled")
    return TrainingSample(
        token_ids=tuple(rendering.token_ids),
        spans=tuple(rendering.spans),
        images=tuple(pictures),
    )
