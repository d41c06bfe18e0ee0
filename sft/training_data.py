"""Which conversations each step of an SFT run trains, and which are held out of all of them."""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sft.data import DataConfig, SourceConfig, mixture_order
from sft.mixture import MixtureOrder, Part, parse_mixture
from sft.sources import Source, commits_of, name_of, open_source
from sft.split import Split, split
from sft.transcript import Transcript
from toolshed.errors import ConfigError
from toolshed.types import Json

DATA_FILE = "data.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """The rows of a run; every rank has the same."""

    config: DataConfig
    seed: int
    sources: tuple[Source, ...]
    shares: tuple[SourceConfig, ...]
    """How each source is drawn where there is no mixture."""
    parts: tuple[Part, ...]
    """Of the mixture, one for each source; none without."""
    rows: tuple[npt.NDArray[np.int64], ...]
    """Of each source, those that may be trained."""
    held_out: tuple[tuple[int, int], ...]
    """(source, row)."""
    divided: Split
    commits: dict[str, str]
    """Of words of the hub."""

    def steps(self, otherwise: int) -> int:
        """Steps of the config's epochs, or else ``otherwise``."""
        if not self.config.epochs:
            return otherwise
        return math.ceil(self.config.epochs * len(self._order()) / self.config.batch)

    def batches(self, first: int) -> Iterator[tuple[str, list[Transcript]]]:
        """(what the metrics call it, conversations) of each step from ``first`` on, endless."""
        if self.parts:
            order = self._order()
            for step in itertools.count(first):
                yield self.config.mixture, self._read(order.batch_at(step))
        drawn = mixture_order(
            [len(rows) for rows in self.rows],
            [share.weight for share in self.shares],
            [share.batch_size for share in self.shares],
            self.seed,
        )
        for source, indices in itertools.islice(drawn, first, None):
            rows = [(source, int(self.rows[source][i])) for i in indices]
            yield self.sources[source].name, self._read(rows)

    def held_out_transcripts(self) -> Iterator[Transcript]:
        return (self.sources[source].transcript(row) for source, row in self.held_out)

    def epoch_rows(self) -> int:
        """Rows of an epoch of the mixture; without one, all rows that may be trained."""
        return len(self._order()) if self.parts else sum(map(len, self.rows))

    def record(self) -> dict[str, Json]:
        """What a run keeps of its data, to know it again."""
        sources: dict[str, Json] = {
            source.name: [index.digest for index in source.indexes] for source in self.sources
        }
        return {"commits": dict(self.commits), "sources": sources}

    def _order(self) -> MixtureOrder:
        return MixtureOrder(self.parts, self.rows, self.config.batch, self.seed)

    def _read(self, rows: Sequence[tuple[int, int]]) -> list[Transcript]:
        return [self.sources[source].transcript(row) for source, row in rows]


def load_training_data(
    sources: Sequence[SourceConfig], data: DataConfig, seed: int, out: str
) -> TrainingData:
    """Open what a config names, and divide it; a run in ``out`` goes on with the data that it began
    with. ConfigError says whatever is wrong with words or data."""
    if not sources and not data.mixture:
        raise ConfigError("no data: give sources, for example sources=[{path: traces.json}]")
    chosen, parts = _chosen(sources, data.mixture)
    before = _record_in(out)
    known = before.get("commits", {})
    commits = commits_of(chosen, known if isinstance(known, dict) else {})  # type: ignore[arg-type]
    opened = [open_source(each, data, commits.get(each.path, "")) for each in chosen]
    divided = _divided(opened, data, seed)
    held_out, rows = _apart(opened, divided)
    for source, own in zip(opened, rows, strict=True):
        if not len(own):
            raise ConfigError(
                f"all {len(source)} rows of {source.name} are held out; lower data.eval_share or "
                "data.eval_rows"
            )
    found = TrainingData(
        config=data,
        seed=seed,
        sources=tuple(opened),
        shares=tuple(chosen),
        parts=parts,
        rows=rows,
        held_out=held_out,
        divided=divided,
        commits=commits,
    )
    _check_same(before, found.record(), out)
    return found


def _chosen(
    sources: Sequence[SourceConfig], mixture: str
) -> tuple[list[SourceConfig], tuple[Part, ...]]:
    """The sources that are used, and the parts of the mixture in the same order."""
    if not mixture:
        return list(sources), ()
    known = {name_of(source): source for source in sources}
    if len(known) < len(sources):
        raise ConfigError("two sources of the mixture have one name; give each a name of its own")
    parts = parse_mixture(mixture)
    return [_named(part.name, known) for part in parts], parts


def _named(name: str, known: Mapping[str, SourceConfig]) -> SourceConfig:
    if name in known:
        return known[name]
    if name.startswith("hub:") or Path(name).exists():
        return SourceConfig(path=name)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(
        f"{name!r} in data.mixture is none of the sources ({', '.join(known) or 'there is none'}) "
        f"and no file{hint}"
    )


def _divided(sources: Sequence[Source], data: DataConfig, seed: int) -> Split:
    num_rows = sum(map(len, sources))
    wanted = data.eval_rows or int(data.eval_share * num_rows)
    if not wanted:
        return Split(held_out=())
    links = [source.links(row) for source in sources for row in range(len(source))]
    divided = split(links, wanted, templates=data.templates, seed=seed)
    if not divided.held_out:
        raise ConfigError(
            f"of {num_rows} rows no {wanted} can be held out, because more of them share pictures "
            "or questions; raise data.eval_rows, or lower data.templates"
        )
    return divided


def _apart(
    sources: Sequence[Source], divided: Split
) -> tuple[tuple[tuple[int, int], ...], tuple[npt.NDArray[np.int64], ...]]:
    held_out: list[tuple[int, int]] = []
    rows: list[npt.NDArray[np.int64]] = []
    begin, chosen = 0, np.array(divided.held_out, dtype=np.int64)
    for number, source in enumerate(sources):
        inside = chosen[(chosen >= begin) & (chosen < begin + len(source))] - begin
        held_out += [(number, int(row)) for row in inside]
        rows.append(np.setdiff1d(np.arange(len(source)), inside))
        begin += len(source)
    return tuple(held_out), tuple(rows)


def _record_in(out: str) -> dict[str, Json]:
    held = Path(out) / DATA_FILE
    if not out or not held.is_file():
        return {}
    try:
        return dict(json.loads(held.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{held} cannot be read ({error}); it is what a run keeps of its data: delete it if "
            "the data is what it was"
        ) from error


def _check_same(before: dict[str, Json], now: dict[str, Json], out: str) -> None:
    """ConfigError where a run would go on with other rows than it began with."""
    old, new = before.get("sources"), now["sources"]
    if not isinstance(old, dict) or not isinstance(new, dict):
        return
    changed = [name for name in new if name in old and old[name] != new[name]]
    if changed:
        raise ConfigError(
            f"the rows of {', '.join(changed)} are not those that the run in {out} began with; put "
            "the files back, or choose another out="
        )
