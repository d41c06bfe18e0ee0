"""A run's page as one HTML text: figures, errors, times, and all episodes to be looked at.

Nothing is fetched: styles, scripts, episodes and thumbnails are inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from eval.gate import Finding
from eval.report import sections
from eval.report.payload import Payload
from eval.report.results import Results
from rl.show.gallery import document, gallery
from rl.show.thumbnails import Thumbnail

_PAGE = Path(__file__).resolve().parents[1] / "page"
_FILTERS = {
    "benchmark": "Benchmark",
    "type": "Type",
    "mode": "Asked",
    "outcome": "Outcome",
    "error": "Error",
    "chain": "Chain",
    "findings": "Gate",
}
_SORTS = {
    "run": "as asked",
    "worst": "lowest score",
    "best": "highest score",
    "slowest": "slowest",
    "calls": "most calls",
}
_BY_SCORE = ("worst", "best")


def page(
    results: Results,
    findings: Sequence[Finding],
    episodes: Payload,
    thumbnails: Mapping[str, Thumbnail],
) -> str:
    """The whole document; ``thumbnails`` in the order of their numbers in ``episodes``."""
    parts = [
        sections.scores(results),
        sections.types(results),
        sections.errors(results),
        sections.chains(results),
        sections.times(results),
        sections.gate(findings),
        _gallery(episodes, results),
    ]
    body = f"{_top(results)}<main>{''.join(parts)}</main>{_foot(results)}"
    return document(
        f"SpaceTools – evaluation of {results.subject}",
        body,
        episodes.episodes,
        thumbnails,
        style=(_PAGE / "run.css").read_text(encoding="utf-8"),
        script=(_PAGE / "run.js").read_text(encoding="utf-8"),
    )


def _top(results: Results) -> str:
    told = (
        ("episodes", f"{sum(one.num_rows for one in results.benchmarks):,}"),
        ("repeats", str(results.num_repeats) if results.num_repeats > 1 else ""),
        ("tool calls", f"{results.calls:,}"),
        ("broken", str(results.failed)),
        ("asked again", str(results.attempts) if results.attempts else ""),
        ("summed over episodes", _duration(results.seconds)),
    )
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in told if value)
    jumps = {
        "scores": "Scores",
        "errors": "What went wrong",
        "chains": "Tool chains",
        "times": "Times",
        "episodes": "Episodes",
    }
    if not results.shown:
        del jumps["errors"]
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name in jumps.items())
    return (
        '<header class="top"><p class="kicker">SpaceTools · Evaluation</p>'
        f"<h1>{escape(results.subject)}</h1>{sections.gate_notice(results)}"
        f'<dl class="facts">{cells}</dl>{_settings(results)}'
        f'<nav class="jump" aria-label="Sections">{links}</nav></header>'
    )


def _settings(results: Results) -> str:
    """Who was asked with which tools; the rest, data revisions among it, where it is opened."""
    asked = {"policy": results.policy, "tools": results.tools}
    asked |= {"tool schema": results.schema_hash[:12], "seed": results.settings.get("seed", "")}
    words = " · ".join(
        f"{escape(name)} <code>{escape(value)}</code>" for name, value in asked.items() if value
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td><code>{escape(value)}</code></td></tr>'
        for name, value in ({"tool schema": results.schema_hash} | results.settings).items()
        if value
    )
    return (
        f'<p class="settings">{words}</p><details class="more"><summary>All settings and data'
        f'</summary><table class="settings">{rows}</table></details>'
    )


def _duration(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _gallery(episodes: Payload, results: Results) -> str:
    sorts = {key: words for key, words in _SORTS.items() if results.shown or key not in _BY_SCORE}
    elsewhere = "the rows are in the folder <code>rows</code> beside this page"
    return gallery(episodes.num_episodes, _FILTERS, sorts, elsewhere)


def _foot(results: Results) -> str:
    return (
        "<footer><p>Made from the rows of this folder; <code>python -m eval.report FOLDER</code> "
        "makes it again. How scores, intervals and classes are defined: docs/EVALUATION.md. Tool "
        f"schema <code>{escape(results.schema_hash[:12])}</code>.</p></footer>"
    )
