"""From the words of a config to rows: the files of a source, and their rows as one sequence."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sft import hub
from sft.cache import cache_folder
from sft.data import DataConfig, SourceConfig
from sft.formats.llava import AUTO_DEPTH
from sft.index import REJECTED, Index, Recipe, open_index
from sft.split import Links
from sft.transcript import Reading, Transcript
from toolshed.errors import ConfigError

_ENDINGS = (".json", ".jsonl", ".parquet")
_PICTURES = "images/*"
_PIECE = re.compile(r"-(\d+)-of-(\d+)$")


def name_of(source: SourceConfig) -> str:
    """What a source is called in metrics and mixtures."""
    wanted = hub.on_the_hub(source.path, *_ENDINGS)
    if source.name or wanted is None:
        return source.name or Path(source.path).stem
    return Path(wanted.file).stem or wanted.repository.partition("/")[2]


def commits_of(sources: Sequence[SourceConfig], known: Mapping[str, str]) -> dict[str, str]:
    """The commit of each word of the hub: the ``known`` one, or that of today."""
    found = {source.path: hub.on_the_hub(source.path, *_ENDINGS) for source in sources}
    return {
        word: known.get(word) or hub.full_commit(each.repository, each.revision)
        for word, each in found.items()
        if each is not None
    }


def files_of(word: str, commit: str = "") -> list[Path]:
    """The data files that a word means, in order; what is on the hub is fetched at ``commit``."""
    wanted = hub.on_the_hub(word, *_ENDINGS)
    if wanted is None:
        path = Path(word)
        if path.is_dir():
            return _data_files(path, word)
        return _fitting(path.parent, path.name, word) if "*" in path.name else [path]
    patterns = [wanted.file] if wanted.file else [f"*{ending}" for ending in _ENDINGS]
    found = hub.fetch_set(wanted.repository, commit or wanted.revision, [*patterns, _PICTURES])
    if not wanted.file:
        return _data_files(found.path, word)
    return _fitting(found.path, wanted.file, word)


def _fitting(folder: Path, pattern: str, word: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if not found:
        raise ConfigError(f"source {word!r} means no file; name one that is there")
    return found


def _data_files(folder: Path, word: str) -> list[Path]:
    """The one data file of a folder, in it or in its ``data``, or the pieces of one parquet."""
    every = [each for part in (folder, folder / "data") if part.is_dir() for each in part.iterdir()]
    found = sorted(path for path in every if path.suffix in _ENDINGS and path.is_file())
    pieces = {_PIECE.sub("", path.stem) for path in found}
    if not found or (len(found) > 1 and (len(pieces) > 1 or found[0].suffix != ".parquet")):
        names = ", ".join(str(path.relative_to(folder)) for path in found[:5]) or "no data file"
        raise ConfigError(f"source {word!r} holds {names}; name the one that is meant")
    if len(found) > 1:
        _check_pieces(found, word)
    return found


def _check_pieces(found: Sequence[Path], word: str) -> None:
    """ConfigError unless the pieces of a parquet are all there, once each."""
    numbered = [_PIECE.search(path.stem) for path in found]
    numbers = sorted(int(each[1]) for each in numbered if each)
    whole = {int(each[2]) for each in numbered if each}
    if len(whole) != 1 or numbers != list(range(*whole)):
        told = f"{len(found)} pieces of {', '.join(map(str, sorted(whole))) or 'unknown'}"
        raise ConfigError(
            f"source {word!r} holds {told}, not each of them once; fetch it again, or name one file"
        )


class Source:
    """The accepted rows of a source's files, numbered from 0 over all of them."""

    def __init__(self, name: str, word: str, indexes: Sequence[Index]) -> None:
        self.name, self.word, self.indexes = name, word, tuple(indexes)
        self._ends = list(itertools.accumulate(len(index) for index in indexes))

    def __len__(self) -> int:
        return self._ends[-1]

    def transcript(self, row: int) -> Transcript:
        index, inner = self._place(row)
        return index.transcript(inner)

    def links(self, row: int) -> Links:
        """What the row shares with others."""
        index, inner = self._place(row)
        return Links(
            texts=tuple(map(int, index.texts[inner])),
            pictures=tuple(map(int, index.pictures[inner])),
        )

    def _place(self, row: int) -> tuple[Index, int]:
        file = bisect.bisect_right(self._ends, row)
        return self.indexes[file], row - (self._ends[file - 1] if file else 0)

    def check(self, max_rejected: float) -> None:
        """ConfigError where no row is left, or too many are wrong."""
        rows = sum(index.summary.rows for index in self.indexes)
        wrong = [index for index in self.indexes if index.summary.rejected]
        num_wrong = sum(sum(index.summary.rejected.values()) for index in wrong)
        if wrong and num_wrong > max_rejected * rows:
            reasons = "; ".join(
                f"{reason}: {num}" for index in wrong for reason, num in
                index.summary.rejected.items()
            )  # fmt: skip
            raise ConfigError(
                f"{num_wrong} of the {rows} rows of {self.name} are rejected ({reasons}), first "
                f"{wrong[0].summary.first}; {wrong[0].folder / REJECTED} has them all: mend them, "
                f"or raise data.max_rejected={max_rejected:g}"
            )
        if not len(self):
            raise ConfigError(
                f"none of the {rows} rows of {self.name} is left to learn from; "
                f"{self.indexes[0].folder / REJECTED} says why"
            )


def _depth(word: str) -> Path | None:
    return AUTO_DEPTH if word == str(AUTO_DEPTH) else Path(word).absolute() if word else None


def open_source(source: SourceConfig, data: DataConfig, commit: str = "") -> Source:
    """Find, read and check a source; ConfigError names what is wrong."""
    cache = cache_folder(data.cache, "data.cache")
    indexes = []
    for path in files_of(source.path, commit):
        reading = Reading(
            path=path,
            images=Path(source.images).absolute() if source.images else Path(),
            depth=_depth(source.depth),
            system=source.system,
        )
        recipe = Recipe(
            reading=reading,
            format=source.format,
            leave_out=tuple(data.leave_out),
            score_above=source.score_above,
        )
        indexes.append(open_index(recipe, cache))
    found = Source(name_of(source), source.path, indexes)
    found.check(data.max_rejected)
    return found
