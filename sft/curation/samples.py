"""Rows of a set as cards with their picture: points of tools, places of the answer."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image, ImageDraw

from sft.curation.traces import Place, Trace, pairs
from sft.render import IMAGE_MARK
from toolshed.draw import draw
from toolshed.images import ImageSource, load_image, make_image
from toolshed.types import Detections, Point

_SIDE = 384
"""Pixels of a picture's longer side."""
_TEAL, _WHITE = (0, 166, 184), (255, 255, 255)


def samples(rows: Sequence[Trace], number: int, seed: int) -> list[str]:
    """Cards of different rows, one of each task in turn."""
    by_task: dict[str, list[Trace]] = defaultdict(list)
    distinct = list({id(trace): trace for trace in rows}.values())
    for place in np.random.default_rng([seed, 3]).permutation(len(distinct)).tolist():
        by_task[distinct[place].task].append(distinct[place])
    chosen: list[Trace] = []
    tasks = [by_task[task] for task in sorted(by_task)]
    while len(chosen) < number and any(tasks):
        chosen += [task.pop() for task in tasks if task]
    return [_card(trace) for trace in chosen[:number]]


def _card(trace: Trace) -> str:
    question = trace.question.replace(IMAGE_MARK, "").strip()
    answer = "no answer" if trace.answer is None else trace.answer
    query = trace.row.get("rewritten")
    marked = " · query rewritten" if query else ""
    return (
        f'<article class="sample">{_picture(trace)}<q>{escape(question)}</q>'
        f'<p class="said">{escape(answer)}</p><p>{breakable(trace.chain)}</p>'
        f"<p>{escape(trace.task)} · {escape(trace.source)} · {escape(trace.task_id)}{marked}</p>"
        f"<details><summary>Conversation</summary><pre>{escape(_spoken(trace))}</pre></details>"
        "</article>"
    )


def breakable(chain: str) -> str:
    """Escaped, with breaks after dots and underscores, so that narrow screens cut no word."""
    return escape(chain).replace(".", ".<wbr>").replace("_", "_<wbr>")


def _spoken(trace: Trace) -> str:
    parts = [trace.question.strip()]
    for turn, text in enumerate(trace.turns):
        parts.append(text.strip())
        parts += [f"→ {reply.strip()}" for reply in trace.replies[turn]]
    return "\n\n".join(parts)


def _picture(trace: Trace) -> str:
    """The first picture with what was pointed at in it."""
    if not trace.pictures:
        return '<div class="blank">no picture</div>'
    loaded = Image.fromarray(load_image(ImageSource(image=trace.pictures[0])).pixels)
    loaded.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    points = [
        Point(u=u, v=v)
        for call in trace.calls
        if call.arguments.get("image_index", 0) in (0, "0")
        for u, v in call.points
    ]
    shown = Detections(obj_name="", points=tuple(points))
    drawn = draw(make_image(np.asarray(loaded)), shown if points else None)
    if len(trace.pictures) == 1:
        answered = pairs(trace.answer or "")
        for place in answered:
            _ring(drawn, place, 6.0 if len(answered) == 1 else 3.4)
    drawn.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    kept = io.BytesIO()
    drawn.save(kept, "JPEG", quality=80)
    uri = base64.b64encode(kept.getvalue()).decode()
    size = f'width="{drawn.width}" height="{drawn.height}"'
    return f'<img alt="" {size} src="data:image/jpeg;base64,{uri}">'


def _ring(picture: Image.Image, place: Place, radius: float) -> None:
    x, y = place[0] * picture.width, place[1] * picture.height
    unit = max(2.0, 0.005 * picture.width)
    pen = ImageDraw.Draw(picture)
    for more, width, ink in ((0.4, 2.4, _WHITE), (0.0, 1.6, _TEAL)):
        reach = (radius + more) * unit
        box = (x - reach, y - reach, x + reach, y + reach)
        pen.ellipse(box, outline=ink, width=round(width * unit))
