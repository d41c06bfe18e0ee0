"""A run on a terminal, as of now: what a dashboard draws of it, whoever collected it.

Narrow terminals get one column, wide ones two; what does not fit the height is left out from the
bottom of the list of what matters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from rl.show.idle import idle_words
from toolshed.types import Json

Figures = Mapping[str, Json]

_WIDE = 100
"""Columns from which two panels stand side by side."""
_SPARKS = "▁▂▃▄▅▆▇█"
_TRENDS = ("reward", "accuracy", "val_accuracy", "call_rate", "dead_groups")
_LEARNER = (
    ("loss", "loss"),
    ("grad_norm", "gradient norm"),
    ("mismatch", "mismatch"),
    ("staleness", "staleness"),
    ("update_s", "update"),
    ("learner_wait_s", "waited"),
    ("step_s", "step"),
    ("sampled_per_s", "sampled tokens/s"),
    ("trained_per_s", "trained tokens/s"),
)
_ENGINE = "engine_"
_MOST_STATES = 6
_MOST_TOOLS = 12
_TOOL_COLUMNS = {"calls": 6, "ok": 5, "refused": 7, "failed": 6, "mean": 6, "p95": 6, "queue": 6}
"""With their widths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """A run at one moment; a rich renderable."""

    title: str
    steps: int
    lines: Sequence[Figures]
    """Of ``metrics.jsonl``, oldest first."""
    phase: str = ""
    """What the learner does, with how long."""
    elapsed_s: float = 0.0
    states: Mapping[str, int] | None = None
    """Trajectories by what they wait for; None where that is known to another process alone."""
    groups: tuple[int, int, int] | None = None
    """Open, complete, and those of one step."""
    tools: Figures = field(default_factory=dict)
    """``tool/NAME/...`` of the last trajectories."""
    last: str = ""
    """The last trajectory in words."""
    height: int = 0
    """Rows; 0 for no limit."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        draw = _wide if width >= _WIDE else _narrow
        parts = [(part, len(console.render_lines(part, options))) for part in draw(self, width)]
        room = self.height or sum(rows for _, rows in parts) + len(parts)
        is_spaced = sum(rows for _, rows in parts) + len(parts) - 1 <= room
        for place, (part, rows) in enumerate(parts):
            if rows > room:
                continue
            if place and is_spaced:
                yield Text("")
            yield part
            room -= rows

    @property
    def now(self) -> Figures:
        """The last step's figures."""
        return self.lines[-1] if self.lines else {}

    @property
    def engine(self) -> dict[str, Json]:
        """What the engine said of itself at that step."""
        return {name: value for name, value in self.now.items() if name.startswith(_ENGINE)}

    @property
    def step(self) -> int:
        return int(number(self.now, "step"))

    @property
    def left_s(self) -> float | None:
        """Seconds to go, were all steps as the last twenty; None before the first."""
        took = [number(line, "step_s") for line in self.lines[-20:]]
        return sum(took) / len(took) * max(0, self.steps - self.step) if any(took) else None


def number(figures: Figures, name: str) -> float:
    """0 where there is none."""
    value = figures.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


# ---- the whole ----------------------------------------------------------------------------------


def _narrow(board: Board, width: int) -> list[RenderableType]:
    parts = [_head(board, width), _idle(board), _trends(board, width), _rollouts(board, width)]
    parts += [_tools(board, width), _last(board, width), _learner(board, width)]
    return [part for part in [*parts, _engine(board, width)] if part is not None]


def _wide(board: Board, width: int) -> list[RenderableType]:
    half = (width - 4) // 2
    left = [_trends(board, half), _rollouts(board, half)]
    right = [_learner(board, half), _engine(board, half)]
    grid = Table.grid(padding=(0, 4, 0, 0), pad_edge=False, expand=False)
    grid.add_column(width=half)
    grid.add_column(width=half)
    grid.add_row(*(_stacked(parts) for parts in (left, right)))
    parts = [_head(board, width), _idle(board), grid, _tools(board, width), _last(board, width)]
    return [part for part in parts if part is not None]


def _stacked(parts: Sequence[RenderableType | None]) -> RenderableType:
    shown = [part for part in parts if part is not None]
    return Group(*[each for part in shown for each in (part, Text(""))][:-1])


def _section(title: str, width: int, *rows: RenderableType) -> RenderableType:
    heading = Text(f"{title} ", style="bold cyan")
    heading.append("─" * (width - len(title) - 1), style="bright_black")
    return Group(heading, *rows)


def _head(board: Board, width: int) -> RenderableType:
    share = min(1.0, board.step / board.steps) if board.steps else 0.0
    step = f"step {board.step:,} of {board.steps:,}"
    title = Text(_clean(board.title, width - len(step) - 3), style="bold")
    title.append(" " * max(1, width - title.cell_len - len(step)))
    title.append(step, style="bold cyan")
    left = board.left_s
    to_go = "" if left is None or share >= 1 else f", about {duration(left)} to go"
    times = f" {100 * share:3.0f} %  {duration(board.elapsed_s)}{to_go}"
    bar = _bar(share, max(8, width - len(times)), "cyan", "bright_black")
    bar.append(times)
    return Group(title, bar)


# ---- trends -------------------------------------------------------------------------------------


def _idle(board: Board) -> RenderableType | None:
    words = idle_words(board.lines)
    return Text(words, style="bold red") if words else None


def _trends(board: Board, width: int) -> RenderableType | None:
    names = [name for name in _TRENDS if any(name in line for line in board.lines)]
    if not names:
        names = ["loss"] if "loss" in board.now else []
    room = max(8, width - 14 - 16)
    rows = []
    for name in names:
        values = [number(line, name) for line in board.lines if name in line]
        row = Text(f"{name.replace('_', ' '):<14}")
        row.append(sparkline(values, room, top=None if name == "loss" else 1.0), style="cyan")
        row.append(f" {values[-1]:6.3f}", style="bold")
        row.append_text(_change(values, falls_well=name in ("dead_groups", "loss")))
        rows.append(row)
    return _section("Trend", width, *rows) if rows else None


def sparkline(values: Sequence[float], width: int, top: float | None = 1.0) -> str:
    """The values as bars from 0 to ``top``, or to the largest; more of them than fit are averaged.

    Always ``width`` wide.
    """
    if len(values) > width:
        edges = [round(i * len(values) / width) for i in range(width + 1)]
        means = [values[a:b] for a, b in itertools.pairwise(edges)]
        values = [sum(part) / len(part) for part in means]
    top = top or max([*values, 0.0]) or 1.0
    levels = [max(0.0, min(value / top, 1.0)) if value == value else 0.0 for value in values]
    return "".join(_SPARKS[round(x * (len(_SPARKS) - 1))] for x in levels).ljust(width)


def _change(values: Sequence[float], *, falls_well: bool) -> Text:
    """The last fifth beside the fifth before it."""
    size = max(1, len(values) // 5)
    if len(values) < 2 * size or len(values) < 2:
        return Text("")
    before, now = values[-2 * size : -size], values[-size:]
    change = sum(now) / size - sum(before) / size
    if abs(change) < 0.005:
        return Text("   steady", style="bright_black")
    arrow = "▲" if change > 0 else "▼"
    return Text(
        f" {arrow}{abs(change):6.3f}", style="green" if (change > 0) != falls_well else "red"
    )


# ---- rollouts and tools -------------------------------------------------------------------------


def _rollouts(board: Board, width: int) -> RenderableType | None:
    rows: list[RenderableType] = []
    if board.groups is not None:
        running, complete, of_step = board.groups
        rows.append(
            _pairs([("groups open", str(running)), ("complete", f"{complete} of {of_step}")])
        )
    if board.states is not None:
        total = sum(board.states.values())
        room = max(6, width - 32)
        for name, num in _few(board.states).items():
            row = Text(f"{_clean(_waits(name), 25):<26}")
            row.append_text(_bar(num / total if total else 0.0, room, "cyan"))
            row.append(f"{num:5}", style="bold" if num else "bright_black")
            rows.append(row)
    elif "in_flight" in board.now:
        told = [(name, f"{number(board.now, name):.0f}") for name in ("in_flight", "carried")]
        rows.append(_pairs([("groups in flight", told[0][1]), ("carried over", told[1][1])]))
    return _section("Rollouts", width, *rows) if rows else None


def _few(states: Mapping[str, int]) -> dict[str, int]:
    """The first of them; the others as one."""
    names = list(states)
    shown = {name: states[name] for name in names[:_MOST_STATES]}
    rest = sum(states[name] for name in names[_MOST_STATES:])
    return shown | ({"other tools": rest} if rest else {})


def _waits(state: str) -> str:
    return state if state == "sampling" else f"in {state}"


def _tools(board: Board, width: int) -> RenderableType | None:
    found: dict[str, dict[str, float]] = {}
    for name in board.tools:
        _, _, rest = name.partition("/")
        tool, _, key = rest.rpartition("/")
        found.setdefault(tool, {})[key] = number(board.tools, name)
    if not found:
        return None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bright_black")
    room = max(8, width - sum(size + 2 for size in _TOOL_COLUMNS.values()))
    table.add_column("tool", no_wrap=True, width=room)
    for heading, size in _TOOL_COLUMNS.items():
        table.add_column(heading, justify="right", no_wrap=True, width=size)
    order = sorted(found, key=lambda tool: -found[tool].get("calls", 0))
    for tool in order[:_MOST_TOOLS]:
        table.add_row(*_tool_cells(tool, found[tool], room))
    more = [Text(f"and {len(order) - _MOST_TOOLS} more", style="bright_black")]
    return _section("Tools", width, table, *(more if len(order) > _MOST_TOOLS else []))


def _tool_cells(tool: str, figures: Mapping[str, float], width: int) -> list[Text]:
    def share(name: str, bad: Callable[[float], bool], style: str) -> Text:
        value = figures.get(name, 0.0)
        return Text(f"{100 * value:.0f} %", style=style if bad(value) else "")

    return [
        Text(_clean(tool, width)),
        Text(f"{figures.get('calls', 0):,.0f}"),
        share("ok", lambda x: x >= 0.9, "green"),
        share("refused", lambda x: x > 0.2, "yellow"),
        share("failed", lambda x: x > 0, "bold red"),
        *(Text(short_s(figures.get(name, 0.0))) for name in ("total_s", "p95_s", "queue_s")),
    ]


def _last(board: Board, width: int) -> RenderableType | None:
    if not board.last:
        return None
    return _section("Last trajectory", width, Text(_clean(board.last, 2 * width)))


# ---- learner and engine -------------------------------------------------------------------------


def _learner(board: Board, width: int) -> RenderableType | None:
    told = [("now", board.phase)] if board.phase else []
    for name, words in _LEARNER:
        if name in board.now:
            value = number(board.now, name)
            is_time = name.endswith("_s") and "_per_" not in name
            told.append((words, short_s(value) if is_time else _short(value)))
    return _section("Learner", width, _columns(told, width)) if told else None


def _engine(board: Board, width: int) -> RenderableType | None:
    told = []
    for name in sorted(board.engine):
        value = number(board.engine, name)
        words = name.removeprefix(_ENGINE).replace("_", " ")
        told.append((words, f"{100 * value:.0f} %" if name.endswith("_share") else _short(value)))
    return _section("Engine", width, _columns(told, width)) if told else None


def _columns(told: Sequence[tuple[str, str]], width: int) -> RenderableType:
    """Names with their values, two pairs in a row, each cut to its half."""
    half = (width - 2) // 2
    rows = []
    for start in range(0, len(told), 2):
        row = Text()
        for name, value in told[start : start + 2]:
            label = _clean(name, max(4, half - len(value) - 1))
            room = max(1, half - len(label) - len(value))
            row.append(label, style="bright_black")
            row.append(" " * room)
            row.append(_clean(value, half), style="bold")
            row.append("  ")
        rows.append(row)
    return Group(*rows)


def _pairs(told: Sequence[tuple[str, str]]) -> Text:
    row = Text()
    for name, value in told:
        row.append(f"{name} ", style="bright_black")
        row.append(f"{value}   ", style="bold")
    return row


# ---- words --------------------------------------------------------------------------------------


def _bar(share: float, width: int, style: str, rest: str = "") -> Text:
    """A bar whose filled part is ``share`` of it, in halves of a column."""
    halves = round(2 * width * share)
    filled = "━" * (halves // 2) + ("╸" if halves % 2 else "")
    bar = Text(filled, style=style)
    bar.append(("━" if rest else " ") * (width - len(filled)), style=rest)
    return bar


def _clean(text: str, width: int) -> str:
    """One line of printable characters, cut: models write anything, terminals obey some of it."""
    words = "".join(letter if letter.isprintable() else " " for letter in text)
    shown = Text(" ".join(words.split()))
    shown.truncate(max(1, width), overflow="ellipsis")
    return shown.plain


def _short(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def short_s(seconds: float) -> str:
    """``8 ms``, ``1.4 s``, ``23 s``, ``5 min``."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return duration(seconds)


def duration(seconds: float) -> str:
    """``0:12``, ``12:40``, ``3:02:11``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
