"""Gates as a table of at most 80 columns, and as plain data."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rl.start.gates import Verdict
from toolshed.types import Json

WIDTH = 80
_INDENT = " " * 4
_REMEDIES = {
    "format": "more SFT; if cut by max_tokens, raise it",
    "valid calls": "more SFT with this tool schema",
    "tool chains": "SFT on traces with chains; or leave such tools out (tools.show)",
    "spread": "all right: harder questions; all wrong: easier ones, or more SFT",
    "decision errors": "more SFT before RL; the reward would teach form alone",
}


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """One line per gate, below it what was seen, of a failed one the remedy and examples."""
    lines = [f"{'gate':<17}{'figure':>8}  {'95 %':<15}{'bar':>8}  {'of':<21}result".rstrip()]
    for verdict in verdicts:
        lines.append(_line(verdict).rstrip())
        lines += _wrapped(_notes(verdict))
    return lines


def verdict_json(verdict: Verdict) -> dict[str, Json]:
    examples: list[Json] = [{"step": step, "sample": sample} for step, sample in verdict.examples]
    return {
        "gate": verdict.name,
        "result": result_word(verdict),
        "figure": verdict.figure,
        "low": verdict.low,
        "high": verdict.high,
        "bar": verdict.bar,
        "n": verdict.n,
        "of": verdict.of,
        "told": verdict.told,
        "examples": examples,
    }


def result_word(verdict: Verdict) -> str:
    if not verdict.asked:
        return "not asked"
    return "pass" if verdict.passed else "FAIL"


def _line(verdict: Verdict) -> str:
    figure, span = "-", ""
    if verdict.figure is not None:
        figure = f"{verdict.figure:.0f}" if verdict.is_count else f"{100 * verdict.figure:.1f} %"
    if verdict.low is not None and verdict.high is not None:
        span = f"{100 * verdict.low:.1f} to {100 * verdict.high:.1f}"
    bar = f"{verdict.bar:.0f}" if verdict.is_count else f"{100 * verdict.bar:.1f} %"
    of = f"{verdict.n} {verdict.of}"
    return f"{verdict.name:<17}{figure:>8}  {span:<15}{bar:>8}  {of:<21}{result_word(verdict)}"


def _notes(verdict: Verdict) -> Iterator[str]:
    if verdict.told:
        yield verdict.told
    if verdict.is_close:
        yield "the bar lies inside the interval: more questions might say otherwise"
    if not verdict.passed:
        yield f"remedy: {_REMEDIES[verdict.name]}"
    if verdict.examples:
        yield "look at " + ", ".join(f"step {s} sample {n}" for s, n in verdict.examples)


def _wrapped(notes: Iterator[str]) -> list[str]:
    return [
        line
        for note in notes
        for line in textwrap.wrap(
            note, WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT + "  "
        )
    ]
