"""What a terminal shows of a run while it trains: the dashboard, a bar, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from rl.figures.tools import tool_figures
from rl.scheduling.schedule import Schedule
from rl.show.board import Board, Figures, duration, number
from rl.show.episode import Episode, episode_of
from rl.show.flight import Flight
from rl.show.viewer import answer_words, call_words
from toolshed.types import Json

PER_S = 4
"""Pictures of the dashboard in a second."""


class Progress(Protocol):
    """Told by a run; never in its way."""

    def phase(self, name: str) -> None:
        """What the learner does from now on."""
        ...

    def step(self, figures: dict[str, Json]) -> None:
        """A step was taken and logged."""
        ...


class Bar:
    """A tqdm bar; ``hidden`` it shows nothing."""

    def __init__(self, title: str, first: int, steps: int, *, hidden: bool = False) -> None:
        from tqdm import tqdm

        self._bar = tqdm(initial=first, total=steps, desc=title, disable=hidden)

    def phase(self, name: str) -> None:
        pass

    def step(self, figures: dict[str, Json]) -> None:
        self._bar.set_postfix(reward=f"{figures['reward']:.2f}", refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


class Dashboard:
    """Makes a board whenever one is drawn, from what the run's own parts say of themselves."""

    def __init__(self, before: Board, flight: Flight, schedule: Schedule) -> None:
        """``before``: the run as it begins, or goes on."""
        self._before = before
        self._lines = list(before.lines)
        self._flight, self._schedule = flight, schedule
        self._started = self._since = time.monotonic()
        self._phase = "starting"

    def phase(self, name: str) -> None:
        self._phase, self._since = name, time.monotonic()

    def step(self, figures: dict[str, Json]) -> None:
        self._lines.append({"step": self._schedule.version, **figures})

    def board(self, height: int = 0) -> Board:
        """The run as of now, within so many rows."""
        now = time.monotonic()
        ended = self._flight.ended
        schedule = self._schedule
        return replace(
            self._before,
            lines=tuple(self._lines),
            phase=f"{self._phase}, {duration(now - self._since)}",
            elapsed_s=self._before.elapsed_s + now - self._started,
            states=self._flight.states,
            groups=(schedule.num_open, schedule.num_complete, schedule.batch),
            tools=tool_figures(ended),
            last=last_words(episode_of(ended[-1])) if ended else "",
            height=height,
        )


def last_words(episode: Episode) -> str:
    """A trajectory in one line: how it went, its calls, its answer."""
    calls = [call for turn in episode.turns for call in turn.calls]
    told = [f"{call_words(call)} → {call.status}" for call in calls]
    reward = "failed" if episode.reward is None else f"reward {episode.reward:.2f}"
    words = [f"{reward} · {episode.source} {episode.question_id}", *told, answer_words(episode)]
    return " · ".join(words)


@contextmanager
def shown(choice: str, dashboard: Dashboard) -> Iterator[Progress]:
    """Show a run while the block runs. ``choice`` is ``RLConfig.show.progress``."""
    if choice == "auto":
        choice = "dashboard" if sys.stdout.isatty() else "bar"
    if choice == "dashboard":
        with _live(dashboard):
            yield dashboard
        return
    before = dashboard.board()
    bar = Bar(before.title, before.step, before.steps, hidden=choice == "none")
    try:
        yield bar
    finally:
        bar.close()


@contextmanager
def _live(dashboard: Dashboard) -> Iterator[None]:
    """Redraw in a thread of its own, as the learner keeps the event loop busy; the last picture
    stays."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    live = Live(
        get_renderable=lambda: dashboard.board(console.size.height - 1),
        console=console,
        refresh_per_second=PER_S,
    )
    with live:
        yield


def board_before(run: Path, steps: int, lines: Sequence[Figures]) -> Board:
    """A run whose steps so far ``lines`` tell; its time is theirs."""
    elapsed_s = sum(number(line, "step_s") + number(line, "val_s") for line in lines)
    return Board(title=f"SpaceTools · {run}", steps=steps, lines=lines, elapsed_s=elapsed_s)
