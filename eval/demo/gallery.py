"""Which episodes the page shows, and their HTML, kept so that a rewrite draws only new ones.

The same questions are preferred in every stage, so that stages can be compared on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import ImageOps

from eval.demo.stages import BY_NAME, CEILING
from eval.demo.summary import tasks_of
from eval.rows import EvalRow
from rl.show.viewer import Album, answer_words, data_uri, drawn, episode_html, outcome
from sft.run_dir import write_atomic

MAX_BYTES = 4_500_000
"""Of all episodes together; the page stays below 6 MB."""
LAYOUT = 3
"""Part of the key of kept fragments: raise it when the fragment's HTML changes."""
_THUMB_QUALITY = 62


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """One episode of the page."""

    stage: str
    row: EvalRow

    @property
    def outcome(self) -> str:
        return outcome(self.row.episode)


def choose(rows_by_stage: Mapping[str, Sequence[EvalRow]]) -> list[Chosen]:
    """Right and wrong episodes of every stage and task, the most telling first."""
    ranked: list[tuple[int, int, int, Chosen]] = []
    order = list(reversed(list(BY_NAME)))
    order.insert(0, order.pop(order.index("full_rl")))
    for stage, rows in rows_by_stage.items():
        if stage == CEILING:
            continue
        place = order.index(stage) if stage in order else len(order)
        for number, task in enumerate(tasks_of(rows)):
            of_task = [row for row in rows if row.task == task and not row.failed]
            for right in (True, False):
                picks = _picks(of_task, right=right, stage=stage)
                for rank, row in enumerate(picks):
                    ranked.append((rank, place, number, Chosen(stage=stage, row=row)))
    return [item[-1] for item in sorted(ranked, key=lambda item: item[:3])]


def _picks(rows: Sequence[EvalRow], *, right: bool, stage: str) -> list[EvalRow]:
    """A few episodes of one outcome, greedy ones first, in the order of the questions."""
    most = 2 if stage == "full_rl" else 1
    fitting = [row for row in rows if (row.episode.accuracy == 1.0) == right]
    fitting.sort(key=lambda row: (row.draw != "greedy", row.question_id, str(row.draw)))
    seen: dict[str, EvalRow] = {}
    for row in fitting:
        seen.setdefault(row.question_id, row)
    return list(seen.values())[:most]


def gallery_html(chosen: Sequence[Chosen], album: Album, kept: Path) -> list[str]:
    """One HTML element per episode, in the order of the table, within MAX_BYTES."""
    fragments: list[tuple[int, str]] = []
    room = MAX_BYTES
    order = list(BY_NAME)
    for number, one in enumerate(chosen):
        fragment = _kept_fragment(one, album, kept)
        if len(fragment) > room:
            break
        room -= len(fragment)
        place = order.index(one.stage) if one.stage in order else len(order)
        fragments.append((place * 1000 + number, fragment))
    return [fragment for _, fragment in sorted(fragments)]


def _kept_fragment(one: Chosen, album: Album, kept: Path) -> str:
    """The episode's HTML, drawn once for each row."""
    key = hashlib.sha256(f"{LAYOUT} {one.stage} {one.row!r}".encode()).hexdigest()[:24]
    path = kept / f"{key}.html"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    fragment = _fragment(one, album)
    write_atomic(path, fragment)
    return fragment


def _fragment(one: Chosen, album: Album) -> str:
    episode = one.row.episode
    stage = BY_NAME[one.stage].label if one.stage in BY_NAME else one.stage
    verdict = one.outcome
    draw = "greedy" if one.row.draw == "greedy" else f"draw {one.row.draw}"
    calls = f"{episode.num_calls} call{'' if episode.num_calls == 1 else 's'}"
    reward = "–" if episode.reward is None else f"{episode.reward:.2f}"
    return (
        f'<details class="episode" data-stage="{escape(one.stage)}" '
        f'data-task="{escape(one.row.task)}" data-outcome="{verdict}">'
        f"<summary>{_thumb(one, album)}<span><span class='asked'>{escape(episode.question)}</span>"
        f'<span class="short">{escape(answer_words(episode))} · {calls}</span></span>'
        f'<span class="badge"><span class="verdict {verdict}">{verdict}</span>'
        f"<small>{escape(stage)}, {draw}</small><small>reward {reward}</small></span></summary>"
        f"{episode_html(episode, album)}</details>"
    )


def _thumb(one: Chosen, album: Album) -> str:
    episode = one.row.episode
    picture = episode.prompt_picture or (episode.pictures[0] if episode.pictures else None)
    image = album.find(picture) if picture else None
    if image is None:
        return "<span></span>"
    small = ImageOps.fit(drawn(image, None), (224, 224))
    return f'<img src="{data_uri(small, quality=_THUMB_QUALITY)}" width="224" height="224" alt="">'
