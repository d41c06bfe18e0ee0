"""What an SFT run learns from, as a config says it, and one conversation as a training sample.

``sft/formats`` reads the forms that conversations come in, ``sft/index.py`` finds a file's rows,
``sft/training_data.py`` says which of them a step trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sft.config import check_not_negative, check_positive
from sft.formats.table import AUTO, check_format
from sft.index import Recipe, read_all
from sft.render import Renderer
from sft.sample import TrainingSample
from sft.transcript import Reading, Transcript
from toolshed.byte_lru import ByteLRU
from toolshed.chat import system_prompt
from toolshed.errors import ConfigError
from toolshed.images import ImageSource, load_image
from toolshed.types import Message, ToolImage, ToolSpec

_PICTURE_BYTES = 256 << 20
"""Of decoded pictures that are kept for the next epoch."""
_TOOLS_SECTION = "\n\n# Tools\n"
_pictures: ByteLRU[ToolImage] = ByteLRU(_PICTURE_BYTES)


@dataclass
class SourceConfig:
    """One part of what is learned from."""

    path: str = ""
    """A JSON list, JSON lines, a parquet, a folder with one of them, or hub:OWNER/NAME[@REVISION]
    [/FILE]; with a * in a file's name, all that fit."""
    weight: float = 1.0
    """Share of the steps that draw from this source, where there is no mixture."""
    batch_size: int = 8
    """Transcripts of one step, where there is no mixture."""
    name: str = ""
    """Shown in metrics and used in mixtures; the file's stem if empty."""
    format: str = AUTO
    """One of sft/formats; ``auto`` tells by the first rows."""
    images: str = ""
    """Folder that relative pictures are named from; empty for the format's own rule."""
    depth: str = ""
    """Folder of depth pictures, shown beside their own, in the format llava; ``auto`` for that of a
    RefSpatial file; empty shows none."""
    system: str = ""
    """Instruction of conversations that bring none."""
    score_above: float | None = None
    """Rows with a ``score`` are taken if it is higher."""

    def __post_init__(self) -> None:
        check_positive(self, "weight", "batch_size")
        check_format(self.format)
        if self.depth and self.format not in (AUTO, "llava"):
            raise ConfigError(f"depth={self.depth!r} is for format=llava, not {self.format}")


@dataclass
class DataConfig:
    """How the sources are mixed, and what of them is held out or left out."""

    mixture: str = ""
    """Sources by name, ``a+b*3+c@0.2``: b three times an epoch, a fifth of c. Empty draws one
    source a step, by weight."""
    batch: int = 8
    """Conversations of a step of the mixture, over all ranks."""
    epochs: float = 0.0
    """Of the mixture, in place of ``steps``; 0 leaves it to ``steps``."""
    eval_share: float = 0.0
    """Share of all rows that is held out, for the held-out loss."""
    eval_rows: int = 0
    """The same as a number of rows; one of the two is 0."""
    eval_every: int = 100
    """Steps between held-out losses; 0 for none."""
    templates: int = 20
    """A question asked about more sets of pictures than this joins no rows when some are held out;
    0 for no such question."""
    leave_out: list[str] = field(default_factory=list)
    """Families of tools; conversations that mention one are left out: ``[robot]`` for v1."""
    max_pixels: int = 0
    """Largest picture; larger ones are made smaller. 0 leaves it to the checkpoint."""
    max_rejected: float = 0.01
    """Most of a source's rows, as a share, that may be wrong."""
    cache: str = ""
    """Folder of the indexes; empty for $XDG_CACHE_HOME/spacetools."""

    def __post_init__(self) -> None:
        check_positive(self, "batch")
        check_not_negative(
            self,
            "epochs",
            "eval_share",
            "eval_rows",
            "eval_every",
            "templates",
            "max_pixels",
            "max_rejected",
        )
        if self.eval_share and self.eval_rows:
            raise ConfigError(
                f"eval_share={self.eval_share} and eval_rows={self.eval_rows} both say how many "
                "rows are held out; give one"
            )
        for name in ("eval_share", "max_rejected"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"{name}={getattr(self, name)} is a share; below 1")
        if self.epochs and not self.mixture:
            raise ConfigError(f"epochs={self.epochs} are those of a mixture; give data.mixture too")


def load_transcripts(path: str | Path) -> list[Transcript]:
    """Read a whole transcript file in any format; raises ConfigError naming the first bad row and
    what is wrong with it."""
    return list(read_all(Recipe(reading=Reading(path=Path(path), images=Path()))))


def to_sample(
    transcript: Transcript, renderer: Renderer, specs: Sequence[ToolSpec]
) -> TrainingSample:
    """Render with the tools' schemas in the system turn, in place of those that it may have; only
    assistant tokens are trained."""
    system, *rest = transcript.messages
    text = system.text.partition(_TOOLS_SECTION)[0] if specs else system.text
    messages = [Message(role="system", text=system_prompt(text, specs)), *rest]
    rendering = renderer.render(messages)
    return TrainingSample(
        token_ids=tuple(rendering.token_ids),
        spans=tuple(rendering.spans),
        images=tuple(_picture(image) for image in transcript.images),
        source=transcript.source,
    )


def _picture(source: ImageSource) -> ToolImage:
    found = _pictures.get(source.image)
    if found is None:
        found = load_image(source)
        _pictures.put(source.image, found, found.pixels.nbytes + len(source.image))
    return found


def mixture_order(
    sizes: Sequence[int], weights: Sequence[float], batch_sizes: Sequence[int], seed: int
) -> Iterator[tuple[int, list[int]]]:
    """Endless (source, indices) of each step: each source in epochs of its own seeded order.

    The n-th item depends on the arguments alone, so a resume skips to its step.
    """
    rng = np.random.default_rng(seed)
    shares = np.asarray(weights, dtype=np.float64) / sum(weights)
    orders: list[list[int]] = [[] for _ in sizes]
    while True:
        source = int(rng.choice(len(sizes), p=shares))
        order = orders[source]
        while len(order) < batch_sizes[source]:
            order.extend(int(i) for i in rng.permutation(sizes[source]))
        yield source, order[: batch_sizes[source]]
        del order[: batch_sizes[source]]
