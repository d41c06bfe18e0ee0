"""The trajectories of a run as one page: ``python -m rl.view RUN [--step N] [--out FILE]``.

Reads what the run kept (``trajectories.jsonl``, ``pictures``) and writes ``RUN/view.html`` alone.
Of a run with very many trajectories whole steps are left out, evenly, and the page says so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from rl.config import RLConfig
from rl.dump import FILE, episode_in
from rl.figures.tasks import task_name
from rl.questions.kept_pictures import FOLDER
from rl.replay import replay_config
from rl.show.board import duration
from rl.show.episode import Episode, Picture
from rl.show.episodes import judged, packed, played, shown_pictures
from rl.show.gallery import document, gallery, page_text
from rl.show.thumbnails import Thumbnails
from rl.show.trained_tokens import TrainedTokens
from rl.show.viewer import outcome
from sft.run_dir import write_atomic
from toolshed.command import run_command
from toolshed.errors import ConfigError
from toolshed.types import Json

MOST = 2_000
"""Trajectories of a page."""
_FILTERS = {
    "step": "Step",
    "task": "Task",
    "outcome": "Outcome",
    "reward": "Reward",
    "stop": "Ended by",
    "tools": "Tool",
    "trained": "Trained",
}
_SORTS = {
    "run": "as trained",
    "worst": "lowest reward",
    "best": "highest reward",
    "slowest": "slowest",
    "calls": "most calls",
    "gain": "largest advantage",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What of a run's file a page shows."""

    lines: list[dict[str, Any]]
    num: int
    """Trajectories in the file."""
    steps: list[int]
    """In the file."""


def view(run: Path, out: Path, *, step: int | None = None, most: int = MOST) -> str:
    """Write the page; returns what it holds, in words. ConfigError where there is nothing to
    show."""
    kept = read(run, step, most)
    config = replay_config(run, ())
    tokens = _tokens(kept.lines, TrainedTokens(run, config))
    kept = replace(kept, lines=kept.lines[:most])
    episodes = [_found(episode_in(line), line, run) for line in kept.lines]
    thumbnails = Thumbnails(None, (run,)).of(shown_pictures(episodes))
    numbers = {sha256: number for number, sha256 in enumerate(thumbnails)}
    told: list[Json] = [
        _told(line, episode, numbers) | each
        for line, episode, each in zip(kept.lines, episodes, tokens, strict=False)
    ]
    body = f"{_top(run, config, kept)}<main>{_list(len(told))}</main>{_foot()}"
    script = page_text("view.js")
    page = document(
        f"SpaceTools – {run.name}",
        body,
        packed(told),
        thumbnails,
        style=page_text("view.css"),
        script=script,
    )
    write_atomic(out, page)
    return f"{len(told)} of {kept.num} trajectories: {out}"


def _tokens(lines: Sequence[dict[str, Any]], told_of: TrainedTokens) -> list[dict[str, Json]]:
    """Of whole steps, for advantages are comparisons."""
    steps = itertools.groupby(lines, key=lambda line: int(line["step"]))
    return [each for _, siblings in steps for each in told_of.step(list(siblings))]


def read(run: Path, step: int | None, most: int) -> Kept:
    """The lines of one step, or of as many steps as hold at most ``most`` trajectories, evenly
    chosen, the first and the last among them; one step is always whole. ConfigError where there
    are none."""
    path = run / FILE
    if not path.is_file():
        raise ConfigError(f"{run} holds no {FILE}; give the folder of a run with save.dump_every=1")
    sizes = Counter(line["step"] for line in _lines(path))
    if not sizes:
        raise ConfigError(f"{path} is empty: the run has not kept a step yet; look again later")
    if step is not None and step not in sizes:
        raise ConfigError(
            f"--step {step} is none that {path} holds: it has {min(sizes)} to {max(sizes)}"
        )
    steps = sorted(sizes)
    wanted = {step} if step is not None else set(_chosen(steps, sizes, most))
    lines = [line for line in _lines(path) if line["step"] in wanted]
    return Kept(lines=lines, num=sizes.total(), steps=steps)


def _chosen(steps: Sequence[int], sizes: Mapping[int, int], most: int) -> list[int]:
    for num in range(len(steps), 1, -1):
        places = {round(i * (len(steps) - 1) / (num - 1)) for i in range(num)}
        chosen = [steps[place] for place in sorted(places)]
        if sum(sizes[each] for each in chosen) <= most:
            return chosen
    return [steps[-1]]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines, one at a time; the last may still be written."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def _found(episode: Episode, line: Mapping[str, Any], run: Path) -> Episode:
    """The episode, its pictures where they lie now."""
    pictures = [
        picture
        if picture.location and Path(picture.location).is_file()
        else Picture(sha256=picture.sha256, location=str(run / FOLDER / f"{pixels}.png"))
        for picture, pixels in zip(episode.pictures, line.get("pixels", ()), strict=False)
    ]
    return replace(episode, pictures=tuple(pictures))


def _told(line: Mapping[str, Any], episode: Episode, numbers: Mapping[str, int]) -> dict[str, Json]:
    tools: list[Json] = [*sorted({call.name for turn in episode.turns for call in turn.calls})]
    return {
        "step": str(line["step"]),
        "group": int(line["group"]),
        "sample": int(line["sample_index"]),
        "id": episode.question_id,
        "task": task_name(episode.source),
        "stop": episode.stop_reason,
        "tools": tools or ["none"],
        "seconds": round(episode.seconds, 3),
        "score": None if episode.reward is None else round(episode.reward, 4),
        "reward": _band(episode.reward),
        "outcome": outcome(episode),
        "failure": episode.failure,
        **played(episode, numbers),
        **judged(episode),
    }


def _band(reward: float | None) -> str:
    """A reward as a filter names it."""
    if reward is None:
        return "none"
    low = min(int(reward * 5), 4) / 5
    return f"{low:.1f} to {low + 0.2:.1f}"


# ---- words of the page --------------------------------------------------------------------------


def _top(run: Path, config: RLConfig, kept: Kept) -> str:
    scored = [line["reward"] for line in kept.lines if line["reward"] is not None]
    shown = sorted({line["step"] for line in kept.lines})
    told = {
        "trajectories": f"{len(kept.lines):,}",
        "steps": f"{shown[0]} to {shown[-1]}" if len(shown) > 1 else f"{shown[0]}",
        "mean reward": f"{sum(scored) / len(scored):.2f}" if scored else "none",
        "broken": str(len(kept.lines) - len(scored)),
        "played for": duration(sum(line["seconds"] for line in kept.lines)),
    }
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in told.items())
    settings = {
        "model": config.model,
        "tools": config.tools.config,
        "algorithm": config.algorithm,
        "group": str(config.group_size),
    }
    words = " · ".join(f"{name} <code>{escape(value)}</code>" for name, value in settings.items())
    return (
        '<header class="top"><p class="kicker">SpaceTools · Training</p>'
        f'<h1>{escape(run.name)}</h1>{_left_out(kept, shown)}<dl class="facts">{cells}</dl>'
        f'<p class="settings">{words}</p></header>'
    )


def _left_out(kept: Kept, shown: Sequence[int]) -> str:
    num = kept.num - len(kept.lines)
    if not num:
        return ""
    steps = f"{len(shown)} of the {len(kept.steps)} steps kept are here"
    return (
        f'<p class="note">{num:,} of {kept.num:,} trajectories are left out: {steps}. '
        "<code>--step N</code> shows one step, <code>--most N</code> more of them.</p>"
    )


def _list(num: int) -> str:
    elsewhere = f"they are in the file <code>{FILE}</code> of the run"
    return gallery(num, _FILTERS, _SORTS, elsewhere)


def _foot() -> str:
    return (
        "<footer><p>Made from the files of a run; <code>python -m rl.view RUN</code> makes it "
        "again. What a trajectory trains is computed as the run did: docs/TRAINING.md.</p></footer>"
    )


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rl.view",
        description="The trajectories of a run as one page.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="folder of a run of rl.train")
    parser.add_argument("--step", type=int, help="this step alone")
    parser.add_argument("--out", type=Path, help="the page's file (RUN/view.html)")
    parser.add_argument("--most", type=int, default=MOST, help=f"trajectories ({MOST})")
    args = parser.parse_args(words)

    def run() -> int:
        if args.most < 1:
            raise ConfigError(f"--most {args.most} must be above 0")
        print(view(args.run, args.out or args.run / "view.html", step=args.step, most=args.most))
        return 0

    return run_command(run, "toolshed", "sft", "rl")


if __name__ == "__main__":
    sys.exit(main())
