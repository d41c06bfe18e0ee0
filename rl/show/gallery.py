"""Pages with a gallery of episodes: one HTML text, nothing fetched, opened from a disk.

The evaluation's page and that of a training run are made with these parts and share the styles and
scripts in ``rl/page``.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from rl.show.episode import DEPTH_LEVELS
from rl.show.thumbnails import Thumbnail
from toolshed.draw import RAMP, UNKNOWN

_PAGE = Path(__file__).parent / "page"


def page_text(name: str) -> str:
    """A style or script that pages share."""
    return (_PAGE / name).read_text(encoding="utf-8")


def document(
    title: str,
    body: str,
    episodes: str,
    thumbnails: Mapping[str, Thumbnail],
    *,
    style: str = "",
    script: str,
) -> str:
    """The whole page. ``episodes``: as ``gallery_episodes.packed`` makes them; ``thumbnails`` in
    the order of their numbers there; ``style`` and ``script`` are the page's own, the latter calls
    ``gallery``."""
    css = page_text("base.css") + page_text("gallery.css") + style
    scripts = page_text("drawing.js") + page_text("gallery.js") + script
    shots = "\n".join(f"{one.width} {one.height} {one.data}" for one in thumbnails.values())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{css}</style>"
        '</head><body class="no-script"><a class="skip" href="#episodes">Skip to the episodes</a>'
        f"{body}{_ramp()}"
        f'<script type="text/plain" id="episodes-data">{episodes}</script>'
        f'<script type="text/plain" id="thumbnails">{shots}</script>'
        f"<script>{scripts}</script></body></html>\n"
    )


def gallery(num: int, filters: Mapping[str, str], sorts: Mapping[str, str], elsewhere: str) -> str:
    """The section with the list; ``filters`` and ``sorts`` are keys of the page's script with their
    words, ``elsewhere`` is HTML that says where the episodes are without a script."""
    selects = "".join(
        f'<label>{words}<select name="{name}"><option value="">all</option></select></label>'
        for name, words in filters.items()
    )
    orders = "".join(f'<option value="{key}">{words}</option>' for key, words in sorts.items())
    return (
        '<section id="episodes"><h2>Episodes</h2>'
        '<noscript><p class="note">The episodes are unpacked by a script, which this browser does '
        f"not run; {elsewhere}.</p></noscript>"
        f'<form class="filters" aria-label="Filter the episodes">{selects}'
        f'<label>Sort<select name="sort">{orders}</select></label>'
        '<label>Search<input type="search" name="text" placeholder="words in any text" '
        'autocomplete="off"></label></form>'
        f'<p class="hint"><span id="count" role="status" aria-live="polite">'
        f"{num} episodes</span></p>"
        '<p class="hint keys"><kbd>j</kbd> <kbd>k</kbd> next and previous · <kbd>/</kbd> search · '
        "<kbd>Enter</kbd> open · <kbd>Esc</kbd> close</p>"
        '<div id="list"></div><div class="pages" hidden><button name="previous" type="button">'
        'Previous</button><button name="next" type="button">Next</button></div></section>'
    )


def _ramp() -> str:
    """A filter that colours depth maps: one entry for each grey level, level 0 unknown."""
    tables = "".join(
        f'<feFunc{name} type="table" tableValues="'
        + " ".join(f"{_depth_colour(level)[channel] / 255:.2f}" for level in range(256))
        + '"/>'
        for channel, name in enumerate("RGB")
    )
    return (
        '<svg width="0" height="0" style="position:absolute" aria-hidden="true">'
        '<filter id="ramp" color-interpolation-filters="sRGB"><feComponentTransfer>'
        f"{tables}</feComponentTransfer></filter></svg>"
    )


def _depth_colour(level: int) -> tuple[float, ...]:
    if level == 0:
        return UNKNOWN
    place = min(level / DEPTH_LEVELS, 1.0) * (len(RAMP) - 1)
    near = min(int(place), len(RAMP) - 2)
    share = place - near
    return tuple(float(c) for c in (1 - share) * RAMP[near] + share * RAMP[near + 1])
