"""A run's dashboard from its folder: ``python -m rl.watch RUN``, beside the run or after it.

Reads ``metrics.jsonl`` and the end of ``trajectories.jsonl`` and writes nothing. What each
trajectory does at the moment only the run's own dashboard knows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from rl.dump import FILE, episode_in
from rl.show.board import Board, Figures, duration
from rl.show.progress import board_before, last_words
from toolshed.command import run_command
from toolshed.errors import ConfigError

_TAIL_BYTES = 1 << 20
"""Of the trajectories' file, in which its last line is looked for."""


def read_board(run: Path) -> Board:
    """The run as its folder tells it; ConfigError where that holds no run."""
    config = _config(run)
    lines = _lines(run / "metrics.jsonl")
    now = lines[-1] if lines else {}
    return replace(
        board_before(run, int(config.get("steps", 0)), lines),
        phase=_age(run / "metrics.jsonl") if lines else "no step yet",
        tools={name: value for name, value in now.items() if name.startswith("tool/")},
        last=_last(run / FILE),
    )


def _config(run: Path) -> dict[str, Any]:
    path = run / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{run} is no run: it holds no config.yaml; give a run's folder")
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def _lines(path: Path) -> list[Figures]:
    """Whole lines alone: the last may still be written."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def _age(path: Path) -> str:
    return f"last step {duration(max(0.0, time.time() - path.stat().st_mtime))} ago"


def _last(path: Path) -> str:
    """The last whole line in words; empty where there is none, or none as short as _TAIL_BYTES."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        parts = file.read().split(b"\n")[:-1]
    if not parts:
        return ""
    try:
        told = json.loads(parts[-1])
    except ValueError:
        return ""
    return last_words(episode_in(told))


def watch(run: Path, every_s: float) -> None:
    """Show the run until the last step, or an interrupt."""
    from rich.live import Live

    board = read_board(run)
    with Live(board, auto_refresh=False) as live:
        while True:
            live.update(replace(board, height=live.console.size.height - 1), refresh=True)
            if board.steps and board.step >= board.steps:
                return
            time.sleep(every_s)
            board = read_board(run)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rl.watch",
        description="The dashboard of a run, read from its folder; changes nothing there.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="folder of a run of rl.train")
    parser.add_argument("--every", type=float, default=1.0, metavar="S", help="seconds (1)")
    parser.add_argument("--once", action="store_true", help="print it once")
    args = parser.parse_args(words)

    def run() -> int:
        if args.once:
            from rich import print as show

            show(read_board(args.run))
        else:
            watch(args.run, args.every)
        return 0

    return run_command(run, "toolshed", "sft", "rl")


if __name__ == "__main__":
    sys.exit(main())
